//! The box's network ports and their addresses, without those that belong to containers.

use std::{collections::BTreeSet, fs, net::IpAddr};

/// Ports of containers and of the box itself.
const INNER: [&str; 4] = ["lo", "br-", "docker", "veth"];

fn inner(name: &str) -> bool {
    INNER.iter().any(|p| name.starts_with(p))
}

/// `192.0.2.7/24 enp0s2` for each address that others can reach.
pub fn addresses() -> Vec<String> {
    let mut found = BTreeSet::new();
    for one in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let name = one.interface_name;
        if inner(&name) {
            continue;
        }
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(v) => u32::from(v).count_ones(),
            IpAddr::V6(v) => u128::from(v).count_ones(),
        };
        let ip = |s: nix::sys::socket::SockaddrStorage| {
            s.as_sockaddr_in()
                .map(|v| IpAddr::V4(v.ip()))
                .or_else(|| s.as_sockaddr_in6().map(|v| IpAddr::V6(v.ip())))
        };
        let (Some(address), Some(mask)) = (one.address.and_then(ip), one.netmask.and_then(ip)) else {
            continue;
        };
        let local = match address {
            IpAddr::V4(v) => v.is_link_local(),
            IpAddr::V6(v) => v.is_unicast_link_local(),
        };
        if !local {
            found.insert((address, format!("{address}/{} {name}", bits(mask))));
        }
    }
    found.into_iter().map(|(_, text)| text).collect()
}

/// The names of the wired ports.
pub fn wired() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|n| !inner(n) && !n.starts_with("vlan"))
        .collect();
    names.sort();
    names
}
