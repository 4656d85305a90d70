//! The box's own addresses, for whoever wants to reach it; not those that only containers see. Read from `/proc/net`: the
//! supervisor's sandbox has no netlink sockets.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use crate::door::Router;

/// Bridges and pairs that a container engine makes, and loopback.
const INNER: [&str; 5] = ["lo", "docker", "br-", "veth", "virbr"];

/// Addresses that others can reach, sorted.
pub(super) fn of_this_box() -> Vec<IpAddr> {
    let read = |name: &str| fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    let mut found: BTreeSet<IpAddr> = v6(&read("if_inet6")).map(IpAddr::from).collect();
    found.extend(v4(&read("fib_trie"), &read("route")).into_iter().map(IpAddr::from));
    found.into_iter().collect()
}

/// The `host[:port]` to give to somebody who has not come by one: the domain, else an address. A box that listens on one
/// address alone has that one.
pub(super) fn host(router: &Router) -> String {
    let host = match router.domain() {
        Some(domain) => domain.to_owned(),
        None => match router.only_address().or_else(best) {
            Some(IpAddr::V6(six)) => format!("[{six}]"),
            Some(four) => four.to_string(),
            // Nobody else can ask this box.
            None => Ipv4Addr::LOCALHOST.to_string(),
        },
    };
    format!("{host}{}", router.port_suffix())
}

/// The address that others most likely can use: of IPv4 before IPv6, the one by which this box goes out before another.
fn best() -> Option<IpAddr> {
    let all = of_this_box();
    // TEST-NET-1 and the IPv6 range for documentation (RFC 5737, RFC 3849).
    let four = outward("0.0.0.0:0", "192.0.2.1:9").or_else(|| all.iter().copied().find(IpAddr::is_ipv4));
    four.or_else(|| outward("[::]:0", "[2001:db8::1]:9"))
        .or_else(|| all.first().copied())
}

/// Where packets for there come from. Nothing is sent: the kernel chooses a route for a socket.
fn outward(from: &str, to: &str) -> Option<IpAddr> {
    let chosen = UdpSocket::bind(from).and_then(|s| s.connect(to).and_then(|()| s.local_addr()));
    let ip = chosen.ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

fn inner(name: &str) -> bool {
    INNER.iter().any(|i| name.starts_with(i))
}

/// `if_inet6`: address, index, prefix length, scope (00: global), flags, interface.
fn v6(text: &str) -> impl Iterator<Item = Ipv6Addr> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        let (scope, name) = (words.nth(2)?, words.nth(1)?);
        (scope == "00" && !inner(name)).then(|| Ipv6Addr::from(address))
    })
}

/// `fib_trie` names the box's own addresses (`/32 host LOCAL` below each), `route` the interface that each network is on.
fn v4(trie: &str, routes: &str) -> Vec<Ipv4Addr> {
    let networks: Vec<(u32, u32, &str)> = routes
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Written as the machine's own number of bytes in network order.
            let number = |w: &str| u32::from_str_radix(w, 16).ok().map(u32::from_be);
            Some((number(words.get(1)?)?, number(words.get(7)?)?, *words.first()?))
        })
        .collect();
    let is_inner = |address: Ipv4Addr| {
        let bits = u32::from(address);
        let on = networks.iter().filter(|(network, mask, _)| bits & mask == *network);
        on.max_by_key(|(_, mask, _)| mask.count_ones())
            .is_some_and(|(_, _, name)| inner(name))
    };
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in trie.lines() {
        if let Some(address) = line.trim().strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL") {
            found.extend(last.filter(|a| !a.is_loopback() && !a.is_link_local() && !is_inner(*a)));
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_bridges_are_left_out() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 4\n     |-- 127.0.0.1\n        /32 host LOCAL\n        |-- 172.17.0.1\n           /32 host LOCAL\n\
                    \x20       |-- 172.17.255.255\n           /32 link BROADCAST\n        |-- 192.0.2.2\n           /32 host LOCAL\n\
                    \x20       |-- 169.254.7.7\n           /32 host LOCAL\n";
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask\neth0 00000000 010200C0 0003 0 0 0 00000000\n\
                      docker0 000011AC 00000000 0001 0 0 0 0000FFFF\neth0 000200C0 00000000 0001 0 0 0 00FFFFFF\n";
        assert_eq!(v4(trie, routes), [Ipv4Addr::new(192, 0, 2, 2)]);
        let six = "fe8000000000000000fc00fffe000001 04 40 20 80 eth0\nfd000000000000000000000000000002 04 40 00 82 eth0\n\
                   fd000000000000000000000000000003 05 40 00 80 br-1\n00000000000000000000000000000001 01 80 10 80 lo\n";
        assert_eq!(v6(six).collect::<Vec<_>>(), ["fd00::2".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn this_machine_is_read_without_trouble() {
        assert!(of_this_box().iter().all(|a| !a.is_loopback()));
    }
}
