//! A NoCloud seed -> [`Site`]. Its `user-data` may be a site file; else `network-config` (version 1 or 2: ports and
//! VLANs, by DHCP or static) and the host name of `meta-data` count, and `user-data` for cloud-init is left alone.

use std::net::IpAddr;

use super::{
    Address, AddressError, Port, Site, Which, check,
    yaml::{self, Kind, Node},
};
use crate::strict_toml::{Problem, Problems};

/// The texts of a seed disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seed {
    pub user_data: Option<String>,
    pub meta_data: Option<String>,
    pub network_config: Option<String>,
}

/// What a seed says. A `user-data` of ours is the whole answer.
///
/// # Errors
/// All problems of the file that counts.
pub fn from_seed(seed: &Seed) -> Result<Site, Problems> {
    let ours = |t: &&String| !t.trim().is_empty() && !t.starts_with("#cloud-config") && !t.starts_with("#!");
    if let Some(text) = seed.user_data.as_ref().filter(ours) {
        return check::parse("user-data", text);
    }
    let mut site = Site::default();
    let mut problems = Vec::new();
    if let Some(text) = &seed.network_config {
        let mut reader = Reader {
            file: "network-config",
            problems: Vec::new(),
        };
        site.ports = reader.network(text);
        problems.append(&mut reader.problems);
    }
    if let Some(text) = &seed.meta_data {
        // meta-data is the cloud's own and full of other things: only a usable name is taken from it.
        let name = yaml::read(text)
            .ok()
            .flatten()
            .and_then(|n| scalar_of(&n, "local-hostname"));
        site.hostname = name
            .and_then(|n| n.split('.').next().map(str::to_ascii_lowercase))
            .filter(|n| check::label(n));
    }
    if problems.is_empty() {
        Ok(site)
    } else {
        problems.sort();
        Err(Problems(problems))
    }
}

fn entries(node: &Node) -> &[(String, usize, Node)] {
    match &node.kind {
        Kind::Map(items) => items,
        _ => &[],
    }
}

fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    entries(node).iter().find(|(k, ..)| k == key).map(|(.., v)| v)
}

fn scalar_of(node: &Node, key: &str) -> Option<String> {
    match get(node, key)?.kind {
        Kind::Scalar(ref s) if !s.is_empty() => Some(s.clone()),
        _ => None,
    }
}

struct Reader {
    file: &'static str,
    problems: Vec<Problem>,
}

impl Reader {
    fn wrong(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.into(),
            line: line.max(1),
            text: text.into(),
        });
    }

    fn network(&mut self, text: &str) -> Vec<Port> {
        let root = match yaml::read(text) {
            Ok(Some(root)) => root,
            Ok(None) => return Vec::new(),
            Err((line, said)) => {
                self.wrong(line, said);
                return Vec::new();
            }
        };
        let root = get(&root, "network").unwrap_or(&root);
        match scalar_of(root, "version").as_deref() {
            Some("1") => self.version_1(root),
            Some("2") => self.version_2(root),
            _ => {
                self.wrong(root.line, "version: write 1 or 2");
                Vec::new()
            }
        }
    }

    fn version_1(&mut self, root: &Node) -> Vec<Port> {
        let Some(config) = get(root, "config") else {
            self.wrong(root.line, "config is missing: write the list of ports");
            return Vec::new();
        };
        let Kind::List(items) = &config.kind else {
            // `config: disabled` is how clouds say that there is nothing to do.
            return Vec::new();
        };
        let mut ports = Vec::new();
        let mut named: Vec<(String, Which)> = Vec::new();
        let (mut dns, mut search) = (Vec::new(), Vec::new());
        for item in items {
            match scalar_of(item, "type").as_deref() {
                Some("physical") => {
                    let which = self.which(item, "mac_address", scalar_of(item, "name"));
                    named.extend(scalar_of(item, "name").map(|n| (n, which.clone())));
                    ports.push(self.subnets(item, Port::dhcp(which)));
                }
                Some("vlan") => {
                    let link = scalar_of(item, "vlan_link").unwrap_or_default();
                    let which = named
                        .iter()
                        .find(|(n, _)| *n == link)
                        .map_or(Which::Name(link), |(_, w)| w.clone());
                    let vlan = self.vlan(item, "vlan_id");
                    ports.push(self.subnets(
                        item,
                        Port {
                            vlan,
                            ..Port::dhcp(which)
                        },
                    ));
                }
                Some("nameserver") => {
                    dns.extend(self.addresses(get(item, "address")));
                    search.extend(self.names(get(item, "search")));
                }
                other => self.wrong(
                    item.line,
                    format!(
                        "type {:?} is not known here: write physical, vlan or nameserver",
                        other.unwrap_or("")
                    ),
                ),
            }
        }
        for port in &mut ports {
            port.dns.extend(dns.iter().copied());
            port.search.extend(search.iter().cloned());
        }
        ports
    }

    /// Version 1 hangs the addresses below `subnets`.
    fn subnets(&mut self, item: &Node, mut port: Port) -> Port {
        port.dhcp = false;
        let Some(Node {
            kind: Kind::List(subnets),
            ..
        }) = get(item, "subnets")
        else {
            return port;
        };
        for subnet in subnets {
            match scalar_of(subnet, "type").as_deref() {
                Some("dhcp" | "dhcp4" | "dhcp6" | "ipv6_dhcpv6-stateful" | "ipv6_dhcpv6-stateless" | "ipv6_slaac") => {
                    port.dhcp = true;
                }
                Some("static" | "static6") => {
                    let mut text = scalar_of(subnet, "address").unwrap_or_default();
                    if let Some(mask) = scalar_of(subnet, "netmask").filter(|_| !text.contains('/')) {
                        text = format!("{text}/{}", prefix_of(&mask));
                    }
                    port.addresses.extend(self.address(subnet.line, &text));
                    if let Some(gateway) = get(subnet, "gateway") {
                        port.gateways.extend(self.addresses(Some(gateway)));
                    }
                }
                Some("manual") => {}
                other => self.wrong(
                    subnet.line,
                    format!(
                        "subnet type {:?} is not known here: write dhcp or static",
                        other.unwrap_or("")
                    ),
                ),
            }
            port.dns.extend(self.addresses(get(subnet, "dns_nameservers")));
            port.search.extend(self.names(get(subnet, "dns_search")));
        }
        self.settle(item.line, port)
    }

    fn version_2(&mut self, root: &Node) -> Vec<Port> {
        let mut ports = Vec::new();
        let mut named: Vec<(String, Which)> = Vec::new();
        for (key, line, _) in entries(root) {
            if !["version", "renderer", "ethernets", "vlans"].contains(&key.as_str()) {
                self.wrong(*line, format!("{key} is not known here: write ethernets or vlans"));
            }
        }
        for (name, _, item) in get(root, "ethernets").map(entries).unwrap_or_default() {
            let matched = get(item, "match");
            let fallback = matched.map_or_else(|| Some(name.clone()), |m| scalar_of(m, "name"));
            let which = self.which(matched.unwrap_or(item), "macaddress", fallback);
            named.push((name.clone(), which.clone()));
            ports.push(self.port(item, Port::dhcp(which)));
        }
        for (_, line, item) in get(root, "vlans").map(entries).unwrap_or_default() {
            let link = scalar_of(item, "link").unwrap_or_default();
            let Some((_, which)) = named.iter().find(|(n, _)| *n == link) else {
                self.wrong(
                    *line,
                    format!("link: write the name of one of the ethernets; {link:?} is none"),
                );
                continue;
            };
            let vlan = self.vlan(item, "id");
            let which = which.clone();
            ports.push(self.port(
                item,
                Port {
                    vlan,
                    ..Port::dhcp(which)
                },
            ));
        }
        ports
    }

    fn port(&mut self, item: &Node, mut port: Port) -> Port {
        let yes = |key| matches!(scalar_of(item, key).as_deref(), Some("true" | "yes" | "on"));
        port.dhcp = yes("dhcp4") || yes("dhcp6");
        for text in self.names(get(item, "addresses")) {
            let line = get(item, "addresses").map_or(item.line, |n| n.line);
            port.addresses.extend(self.address(line, &text));
        }
        for key in ["gateway4", "gateway6"] {
            port.gateways.extend(self.addresses(get(item, key)));
        }
        if let Some(Node {
            kind: Kind::List(routes),
            ..
        }) = get(item, "routes")
        {
            for route in routes {
                match scalar_of(route, "to").as_deref() {
                    Some("default" | "0.0.0.0/0" | "::/0") => port.gateways.extend(self.addresses(get(route, "via"))),
                    _ => self.wrong(route.line, "routes: only the default route (to: default) is known here"),
                }
            }
        }
        if let Some(servers) = get(item, "nameservers") {
            port.dns = self.addresses(get(servers, "addresses"));
            port.search = self.names(get(servers, "search"));
        }
        self.settle(item.line, port)
    }

    /// What both versions must end in.
    fn settle(&mut self, line: usize, mut port: Port) -> Port {
        if port.dhcp && !port.addresses.is_empty() {
            self.wrong(
                line,
                "a port is either by DHCP or static here: take the addresses or DHCP out",
            );
        }
        if port.dhcp {
            port.gateways.clear();
        }
        port
    }

    fn which(&mut self, node: &Node, mac_key: &str, name: Option<String>) -> Which {
        if let Some(mac) = scalar_of(node, mac_key) {
            return check::mac_address(&mac).map_or_else(
                || {
                    self.wrong(node.line, format!("{mac_key}: {mac:?} is not a hardware address"));
                    Which::Any
                },
                Which::Mac,
            );
        }
        match name {
            None => Which::Any,
            Some(name) => {
                if !check::port_name(&name) {
                    self.wrong(node.line, format!("name: {name:?} is not a port's name"));
                }
                Which::Name(name)
            }
        }
    }

    fn vlan(&mut self, item: &Node, key: &str) -> Option<u16> {
        let id = scalar_of(item, key)
            .and_then(|v| v.parse().ok())
            .filter(|v| (1..=4094).contains(v));
        if id.is_none() {
            self.wrong(item.line, format!("{key}: write a number from 1 to 4094"));
        }
        id
    }

    fn address(&mut self, line: usize, text: &str) -> Option<Address> {
        text.parse()
            .map_err(|e: AddressError| self.wrong(line, format!("address: {e}")))
            .ok()
    }

    /// One value, a list of them, or several in one text.
    fn names(&mut self, node: Option<&Node>) -> Vec<String> {
        let Some(node) = node else { return Vec::new() };
        match &node.kind {
            Kind::Scalar(s) => s
                .split([' ', ','])
                .filter(|w| !w.is_empty())
                .map(str::to_owned)
                .collect(),
            Kind::List(items) => items
                .iter()
                .filter_map(|i| match &i.kind {
                    Kind::Scalar(s) => Some(s.clone()),
                    _ => {
                        self.wrong(i.line, format!("write a single value here, not {}", i.what()));
                        None
                    }
                })
                .collect(),
            Kind::Map(_) => {
                self.wrong(node.line, "write a value or a list here, not a table");
                Vec::new()
            }
        }
    }

    fn addresses(&mut self, node: Option<&Node>) -> Vec<IpAddr> {
        let line = node.map_or(1, |n| n.line);
        let names = self.names(node);
        let mut out = Vec::new();
        for name in names {
            match check::ip(&name) {
                Ok(ip) => out.push(ip),
                Err(e) => self.wrong(line, e),
            }
        }
        out
    }
}

/// `255.255.255.0` as `24`; anything else as it stands, for the address to be refused with.
fn prefix_of(mask: &str) -> String {
    match mask.parse::<std::net::Ipv4Addr>() {
        Ok(m) if u32::from(m).leading_ones() + u32::from(m).trailing_zeros() >= 32 => {
            u32::from(m).leading_ones().to_string()
        }
        _ => mask.into(),
    }
}
