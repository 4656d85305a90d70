//! The box's own addresses, for whoever wants to reach it. Leaves out what only containers see.

use std::{collections::BTreeSet, net::IpAddr};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

/// Bridges and pairs that a container engine makes.
const OF_CONTAINERS: [&str; 4] = ["docker", "br-", "veth", "virbr"];

/// Addresses of interfaces that are up, sorted; none of loopback, none of link-local scope.
pub(super) fn of_this_box() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let mut found = BTreeSet::new();
    for interface in interfaces {
        let up = interface.flags.contains(InterfaceFlags::IFF_UP);
        let name = &interface.interface_name;
        if !up
            || interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
            || OF_CONTAINERS.iter().any(|c| name.starts_with(c))
        {
            continue;
        }
        let Some(address) = interface.address else { continue };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::from(v4.ip()),
            (None, Some(v6)) => IpAddr::from(v6.ip()),
            (None, None) => continue,
        };
        let local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        if !local {
            found.insert(ip);
        }
    }
    found.into_iter().collect()
}
