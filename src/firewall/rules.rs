//! The rules for the bridges of one box, as nft reads them. Pure.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::config::Cidr;

/// What the host image's table closes too (`firewall.nft`): networks that are not public, IANA's special-purpose
/// registries for IPv4 and IPv6.
const CLOSED4: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, \
168.63.129.16, 192.0.0.0/24, 192.0.2.0/24, 192.88.99.0/24, 192.168.0.0/16, 198.18.0.0/15, \
198.51.100.0/24, 203.0.113.0/24, 224.0.0.0/3";
const CLOSED6: &str = "::/16, 64:ff9b::/96, 64:ff9b:1::/48, 100::/64, 2001::/23, 2001:db8::/32, 2002::/16, \
fc00::/6, fe80::/9, ff00::/8";

/// What the rules are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) table: String,
    /// How the names of this box's bridges begin, and of those among them that installations use.
    pub(super) bridges: String,
    pub(super) installing: String,
    /// Name servers of this machine.
    pub(super) names: BTreeSet<IpAddr>,
    /// Networks that this machine's own ports are in.
    pub(super) neighbours: BTreeSet<(IpAddr, u8)>,
    /// What every container may reach all the same.
    pub(super) open: Vec<Cidr>,
    /// Addresses and ports that installations may reach all the same.
    pub(super) sources: BTreeSet<(IpAddr, u16)>,
}

impl Rules {
    /// One transaction that replaces the table, whether it is there or not.
    pub(super) fn text(&self) -> String {
        let table = &self.table;
        let mut text = format!("table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
        let networks = |v4: bool| {
            let all = self.neighbours.iter().filter(move |n| n.0.is_ipv4() == v4);
            all.map(|(a, bits)| format!("{a}/{bits}"))
        };
        let opened = |v4: bool| {
            let all = self.open.iter().filter(move |n| n.address.is_ipv4() == v4);
            all.map(|n| format!("{}/{}", first(*n), n.bits))
        };
        let servers = |v4: bool| {
            let all = self.names.iter().filter(move |n| n.is_ipv4() == v4);
            all.map(ToString::to_string)
        };
        let sources = |v4: bool| {
            let all = self.sources.iter().filter(move |n| n.0.is_ipv4() == v4);
            all.map(|(a, port)| format!("{a} . {port}"))
        };
        for (v4, version, closed) in [(true, "4", CLOSED4), (false, "6", CLOSED6)] {
            let mut set = |name: &str, kind: &str, flags: &str, elements: String| {
                let elements = match elements.as_str() {
                    "" => String::new(),
                    some => format!(" elements = {{ {some} }};"),
                };
                let _ = writeln!(
                    text,
                    "\tset {name}{version} {{ type ipv{version}_addr{kind};{flags}{elements} }}"
                );
            };
            let ranges = " flags interval; auto-merge;";
            set("closed", "", ranges, closed.to_owned());
            set("neighbours", "", ranges, joined(networks(v4)));
            set("open", "", ranges, joined(opened(v4)));
            set("names", "", "", joined(servers(v4)));
            set("sources", " . inet_service", "", joined(sources(v4)));
        }
        let (bridges, installing) = (&self.bridges, &self.installing);
        // Ahead of Docker's address translation (-100), so that nothing is sent on to a published port.
        let _ = write!(
            text,
            "\tchain prerouting {{\n\
             \t\ttype filter hook prerouting priority -110; policy accept;\n\
             \t\tiifname \"{bridges}*\" jump from_container\n\
             \t}}\n\
             \tchain from_container {{\n\
             \t\tct state established,related return\n\
             \t\tip daddr @names4 meta l4proto {{ tcp, udp }} th dport 53 return\n\
             \t\tip6 daddr @names6 meta l4proto {{ tcp, udp }} th dport 53 return\n\
             \t\tip daddr @open4 return\n\
             \t\tip6 daddr @open6 return\n\
             \t\tiifname \"{installing}*\" ip daddr . tcp dport @sources4 return\n\
             \t\tiifname \"{installing}*\" ip6 daddr . tcp dport @sources6 return\n\
             \t\tfib daddr type {{ local, broadcast, multicast, anycast }} reject with icmpx admin-prohibited\n\
             \t\tip daddr @closed4 reject with icmpx admin-prohibited\n\
             \t\tip daddr @neighbours4 reject with icmpx admin-prohibited\n\
             \t\tip6 daddr @closed6 reject with icmpx admin-prohibited\n\
             \t\tip6 daddr @neighbours6 reject with icmpx admin-prohibited\n\
             \t}}\n\
             }}\n"
        );
        text
    }
}

fn joined(elements: impl Iterator<Item = String>) -> String {
    elements.collect::<Vec<_>>().join(", ")
}

/// A network's first address.
fn first(network: Cidr) -> IpAddr {
    let masked = |address: u128, width: u32| {
        let host = width.saturating_sub(u32::from(network.bits));
        if host >= 128 { 0 } else { address >> host << host }
    };
    match network.address {
        IpAddr::V4(a) => {
            let kept = masked(u128::from(u32::from(a)), 32);
            Ipv4Addr::from(u32::try_from(kept).unwrap_or(0)).into()
        }
        IpAddr::V6(a) => Ipv6Addr::from(masked(u128::from(a), 128)).into(),
    }
}

/// Whether a table, as nft lists it, closes to what `iifname` names: packets for the machine itself, and for networks
/// that are not public, go no further.
pub(super) fn closes(table: &str, iifname: &str) -> bool {
    let chain = |name: &str| {
        let begun = table.split_once(&format!("chain {name} {{"))?.1;
        begun.split_once("\n\t}").map(|(chain, _)| chain)
    };
    let ends = |line: &str| line.ends_with(" drop") || line.contains(" reject");
    let stops = |text: &str, what: &str| text.lines().any(|l| l.contains(what) && ends(l.trim_end()));
    let jump = format!("iifname {iifname} jump from_container");
    let hooked = chain("prerouting").is_some_and(|c| c.contains("hook prerouting") && c.contains(&jump));
    hooked
        && chain("from_container")
            .is_some_and(|c| stops(c, "fib daddr type") && stops(c, "@closed4") && stops(c, "@closed6"))
}

/// The networks without a gateway in `/proc/net/route` and `/proc/net/ipv6_route`, but those of containers and of the
/// loopback (proc_net(5)).
pub(super) fn neighbours(route4: &str, route6: &str) -> BTreeSet<(IpAddr, u8)> {
    let containers = |port: &str| port == "lo" || ["br-", "docker", "veth"].iter().any(|p| port.starts_with(p));
    let v4 = route4.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [port, to, gateway, .., mask, _, _, _] = fields.as_slice() else {
            return None;
        };
        let number = |hex: &str| u32::from_str_radix(hex, 16).ok().map(u32::swap_bytes);
        let (to, bits) = (number(to)?, number(mask)?.count_ones());
        let near = number(gateway)? == 0 && bits > 0 && !containers(port);
        near.then(|| (Ipv4Addr::from(to).into(), bits as u8))
    });
    let v6 = route6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [to, bits, _, _, gateway, .., port] = fields.as_slice() else {
            return None;
        };
        let to = Ipv6Addr::from(u128::from_str_radix(to, 16).ok()?);
        let bits = u8::from_str_radix(bits, 16).ok()?;
        let near = gateway.bytes().all(|b| b == b'0') && bits > 0 && !to.is_multicast() && !containers(port);
        near.then_some((to.into(), bits))
    });
    v4.chain(v6).collect()
}

/// The name servers in the text of a resolv.conf(5) that containers can ask: the engine itself asks those on the
/// loopback for them.
pub(super) fn name_servers(text: &str) -> BTreeSet<IpAddr> {
    let lines = text.lines().filter_map(|l| l.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|l| l.trim().split('%').next()?.parse::<IpAddr>().ok());
    addresses.filter(|a| !a.is_loopback()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = include_str!("../../image-build/mkosi.extra/usr/lib/berth/firewall.nft");
    const IMAGES_BRIDGES: &str = super::super::IMAGES_BRIDGES;

    fn rules() -> Rules {
        Rules {
            table: "berth_0a1b2c3d".into(),
            bridges: "br-0a1b".into(),
            installing: "br-0a1bp".into(),
            names: [
                "10.9.9.9".parse().expect("address"),
                "2001:db8::53".parse().expect("address"),
            ]
            .into(),
            neighbours: [("198.51.100.0".parse().expect("address"), 24)].into(),
            open: vec![
                "10.1.2.3/16".parse().expect("network"),
                "fd00::1/8".parse().expect("network"),
            ],
            sources: [("10.2.0.4".parse().expect("address"), 8443)].into(),
        }
    }

    #[test]
    fn the_images_table_closes_and_a_part_of_it_does_not() {
        assert!(closes(IMAGE, IMAGES_BRIDGES));
        for part in [
            "jump from_container",
            "ip daddr @closed4 drop",
            "hook prerouting",
            "fib daddr type { local",
        ] {
            assert!(!closes(&IMAGE.replace(part, ""), IMAGES_BRIDGES), "without {part}");
        }
        assert!(!closes("", IMAGES_BRIDGES) && !closes("table inet berth {\n}\n", IMAGES_BRIDGES));
    }

    #[test]
    fn a_boxs_own_table_closes_for_its_bridges_alone() {
        let text = rules().text();
        assert!(closes(&text, "\"br-0a1b*\""), "{text}");
        assert!(!closes(&text, "\"br-ffff*\""));
    }

    #[test]
    fn it_closes_what_the_images_does() {
        let listed = |text: &str| -> BTreeSet<String> {
            let words = text.split([',', '{', '}', ' ', '\n', '\t']);
            words.filter(|w| w.contains(['.', ':'])).map(str::to_owned).collect()
        };
        for (name, closed) in [("set closed4", CLOSED4), ("set closed6", CLOSED6)] {
            let set = IMAGE.split_once(name).expect("a set").1;
            let elements = set.split_once("elements = {").expect("elements").1;
            let elements = elements.split_once('}').expect("their end").0;
            assert_eq!(listed(elements), listed(closed), "{name}");
        }
    }

    #[test]
    fn what_is_open_stands_before_what_is_closed() {
        let text = rules().text();
        for element in [
            "set open4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.1.0.0/16 }; }",
            "set open6 { type ipv6_addr; flags interval; auto-merge; elements = { fd00::/8 }; }",
            "set names6 { type ipv6_addr; elements = { 2001:db8::53 }; }",
            "set sources4 { type ipv4_addr . inet_service; elements = { 10.2.0.4 . 8443 }; }",
            "set sources6 { type ipv6_addr . inet_service; }",
        ] {
            assert!(text.contains(element), "{element} in\n{text}");
        }
        let at = |what: &str| text.find(what).expect(what);
        assert!(at("@open4 return") < at("fib daddr type"));
        assert!(at("@sources4 return") < at("@closed4 reject"));
    }

    #[test]
    fn networks_without_a_gateway_are_neighbours() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                  br-0a1bi12\t000012AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let v6 = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
                  00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
                  00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                  fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
                  ff000000000000000000000000000000 08 00000000000000000000000000000000 00 \
                  00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n";
        let found: Vec<String> = neighbours(v4, v6).iter().map(|(a, b)| format!("{a}/{b}")).collect();
        assert_eq!(found, ["192.0.2.0/24", "fd00::/64"]);
        assert!(neighbours("", "x y\n").is_empty());
    }

    #[test]
    fn name_servers_on_the_loopback_are_the_engines_to_ask() {
        let text = "# x\nnameserver 127.0.0.53\n nameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver nonsense\n";
        let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.2", "fe80::1"]);
    }
}
