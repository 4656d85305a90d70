//! A checked [`Site`] -> the files that other programs read. Everything goes below `/run`: the root is read-only, and
//! each boot writes them again.

use super::{Port, Proxy, Site, Which};

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Absolute.
    pub path: String,
    pub text: String,
    /// Whether only root may read it: a proxy's URL may hold a password.
    pub private: bool,
}

/// Where a box's own files go.
const OWN: &str = "/run/berth-site";

/// What to write for `site`. `base` is the configuration that the image ships for the supervisor.
pub fn outputs(site: &Site, base: &str) -> Vec<Output> {
    let mut out = network(&site.ports);
    let mut add = |path: String, text: String, private| out.push(Output { path, text, private });
    if !site.time_servers.is_empty() {
        let text = format!("[Time]\nNTP={}\n", site.time_servers.join(" "));
        add("/run/systemd/timesyncd.conf.d/50-berth-site.conf".into(), text, false);
    }
    if let Some(ca) = &site.ca {
        add(format!("{OWN}/ca.pem"), ca.clone(), false);
    }
    add(format!("{OWN}/environment"), environment(site), true);
    add(format!("{OWN}/berth.toml"), supervisor(site, base), true);
    out
}

/// The name that the kernel gets.
pub fn host_name(site: &Site) -> &str {
    site.hostname.as_deref().unwrap_or("berth")
}

/// What Docker and the supervisor find in their environment.
fn environment(site: &Site) -> String {
    let mut text = String::new();
    let mut set = |name: &str, value: &str| text.push_str(&format!("{name}=\"{value}\"\n"));
    let Proxy { http, https, exclude } = &site.proxy;
    for (name, url) in [("HTTP_PROXY", http), ("HTTPS_PROXY", https)] {
        if let Some(url) = url {
            set(name, url);
            set(&name.to_ascii_lowercase(), url);
        }
    }
    if site.proxy.is_set() {
        let mut without = vec!["localhost", "127.0.0.0/8", "::1"];
        without.extend(exclude.iter().map(String::as_str));
        set("NO_PROXY", &without.join(","));
        set("no_proxy", &without.join(","));
    }
    if site.ca.is_some() {
        set("SSL_CERT_FILE", &format!("{OWN}/ca-bundle.pem"));
    }
    text
}

/// The supervisor's configuration: what the image ships, and what the site says. Top-level keys come first.
fn supervisor(site: &Site, base: &str) -> String {
    let mut text = String::from("# Written at each boot from the image's defaults and the site file.\n");
    if let Some(domain) = &site.domain {
        text.push_str(&format!("domain = \"{domain}\"\n"));
    }
    text.push_str(base);
    if let Some(key) = &site.claim_key {
        let line = format!("public_key = \"{key}\"\n");
        match text.find("[claim]\n") {
            Some(at) => text.insert_str(at + "[claim]\n".len(), &line),
            None => text.push_str(&format!("[claim]\n{line}")),
        }
    }
    if let Some(address) = &site.syslog {
        // Checked: it holds no quotation mark.
        text.push_str(&format!("[audit.syslog]\naddress = \"{address}\"\n"));
    }
    text
}

/// networkd's files. VLANs stand on a port, so the port's own file names those on it.
fn network(ports: &[Port]) -> Vec<Output> {
    let mut out = Vec::new();
    let mut add = |name: String, text: String| {
        let path = format!("/run/systemd/network/{name}");
        out.push(Output {
            path,
            text,
            private: false,
        });
    };
    let mut whiches: Vec<&Which> = Vec::new();
    for port in ports.iter().filter(|p| !whole(p)) {
        if !whiches.contains(&&port.which) {
            whiches.push(&port.which);
        }
    }
    // A file for "every port" comes last, so that those for one port win.
    whiches.sort_by_key(|w| matches!(w, Which::Any));
    for (n, which) in whiches.iter().enumerate() {
        let own = ports.iter().find(|p| p.which == **which && p.vlan.is_none());
        let vlans: Vec<u16> = ports
            .iter()
            .filter(|p| p.which == **which)
            .filter_map(|p| p.vlan)
            .collect();
        let mut text = format!("[Match]\n{}", matching(which));
        text.push_str(&settings(own, &vlans));
        add(format!("10-berth-{n}.network"), text);
    }
    for port in ports {
        let Some(id) = port.vlan else { continue };
        add(
            format!("10-berth-vlan{id}.netdev"),
            format!("[NetDev]\nName=vlan{id}\nKind=vlan\n\n[VLAN]\nId={id}\n"),
        );
        let text = format!("[Match]\nName=vlan{id}\n{}", settings(Some(port), &[]));
        add(format!("10-berth-vlan{id}.network"), text);
    }
    out
}

/// Plain DHCP on every port is what the image's own file does.
fn whole(port: &Port) -> bool {
    *port == Port::dhcp(Which::Any)
}

fn matching(which: &Which) -> String {
    match which {
        Which::Any => "Name=en* eth*\n".into(),
        Which::Name(name) => format!("Name={name}\n"),
        // VLANs inherit the address of their port, but are of another type.
        Which::Mac(mac) => format!("MACAddress={mac}\nType=ether\n"),
    }
}

/// The sections after `[Match]`. A port that only carries VLANs has no address of its own.
fn settings(port: Option<&Port>, vlans: &[u16]) -> String {
    let mut text = String::from("\n[Network]\nLLMNR=no\nMulticastDNS=no\nLLDP=no\nEmitLLDP=no\n");
    let mut gateways = String::new();
    match port {
        None => text.push_str("LinkLocalAddressing=no\nIPv6AcceptRA=no\n"),
        Some(p) if p.dhcp => text.push_str("DHCP=yes\nIPv6AcceptRA=yes\n"),
        Some(p) => {
            text.push_str("IPv6AcceptRA=no\n");
            for address in &p.addresses {
                text.push_str(&format!("Address={address}\n"));
            }
            for gateway in &p.gateways {
                gateways.push_str(&format!("\n[Route]\nGateway={gateway}\n"));
                // Rented servers often have their gateway outside of their own network.
                if !p.addresses.iter().any(|a| a.covers(*gateway)) {
                    gateways.push_str("GatewayOnLink=yes\n");
                }
            }
        }
    }
    if let Some(p) = port {
        for server in &p.dns {
            text.push_str(&format!("DNS={server}\n"));
        }
        if !p.search.is_empty() {
            text.push_str(&format!("Domains={}\n", p.search.join(" ")));
        }
    }
    for id in vlans {
        text.push_str(&format!("VLAN=vlan{id}\n"));
    }
    text.push_str(&gateways);
    if port.is_some_and(|p| p.dhcp) {
        text.push_str("\n[DHCPv4]\nUseHostname=no\nSendHostname=no\n\n[DHCPv6]\nUseHostname=no\n");
    }
    text
}

/// Ports as the text of a site file, which [`super::network`] reads back.
pub fn network_text(ports: &[Port]) -> String {
    let list = |items: Vec<String>| {
        let quoted: Vec<String> = items.iter().map(|i| format!("\"{i}\"")).collect();
        format!("[{}]", quoted.join(", "))
    };
    let mut text = String::new();
    for p in ports {
        text.push_str("[[network]]\n");
        match &p.which {
            Which::Any => {}
            Which::Name(n) => text.push_str(&format!("name = \"{n}\"\n")),
            Which::Mac(m) => text.push_str(&format!("mac = \"{m}\"\n")),
        }
        if let Some(v) = p.vlan {
            text.push_str(&format!("vlan = {v}\n"));
        }
        text.push_str(if p.dhcp {
            "mode = \"dhcp\"\n"
        } else {
            "mode = \"static\"\n"
        });
        let show = |v: &[std::net::IpAddr]| v.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (key, items) in [
            ("addresses", p.addresses.iter().map(ToString::to_string).collect()),
            ("gateways", show(&p.gateways)),
            ("dns", show(&p.dns)),
            ("search", p.search.clone()),
        ] {
            if !items.is_empty() {
                text.push_str(&format!("{key} = {}\n", list(items)));
            }
        }
    }
    text
}
