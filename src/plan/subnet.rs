//! Which subnet the network of an instance or an installation gets. The engine's default pools hold some thirty networks,
//! for everybody on the machine; Berth's come from a range of its own, each just large enough for a container and its
//! gateway, and lie apart from what the engine and the machine's routes have. Pure.

use std::net::Ipv4Addr;

use crate::config::{Cidr, MOST_RANGE_BITS};

/// The prefix of a subnet: eight addresses, of which network, broadcast and gateway take three.
pub const BITS: u8 = 29;
/// Shorter prefixes than this one lead to the rest of the world (a default route, or its halves): nothing lies in them.
pub const LEAST_BITS: u8 = 8;

/// Addresses of one subnet.
const SIZE: u64 = 1 << (32 - BITS);

// Any range that may be configured holds two subnets.
const _: () = assert!(MOST_RANGE_BITS < BITS);

/// The parts of `range` that are taken, in order; they may overlap.
fn spans(range: &Cidr, taken: &[Cidr]) -> Vec<(u64, u64)> {
    let Some((first, last)) = range.span() else {
        return Vec::new();
    };
    let narrow = taken.iter().filter(|n| n.bits >= LEAST_BITS);
    let mut spans: Vec<_> = narrow
        .filter_map(Cidr::span)
        .filter(|(from, to)| *from <= last && *to >= first)
        .collect();
    spans.sort_unstable();
    spans
}

/// Whether two IPv4 networks have an address in common.
pub fn overlap(a: &Cidr, b: &Cidr) -> bool {
    match (a.span(), b.span()) {
        (Some(a), Some(b)) => a.0 <= b.1 && b.0 <= a.1,
        _ => false,
    }
}

/// The lowest subnet of `range` that has no address in common with what is taken; none where there is none left.
pub fn choose(range: &Cidr, taken: &[Cidr]) -> Option<Cidr> {
    let (mut at, last) = range.span()?;
    for (from, to) in spans(range, taken) {
        if from > at + SIZE - 1 {
            break;
        }
        at = at.max((to + 1).div_ceil(SIZE) * SIZE);
    }
    let fits = at + SIZE - 1 <= last;
    let address = u32::try_from(at).ok().filter(|_| fits)?;
    Some(Cidr {
        address: Ipv4Addr::from(address).into(),
        bits: BITS,
    })
}

/// The machine's own address in a subnet: the first after the network's, as engines have it.
pub fn gateway(subnet: &Cidr) -> Option<Ipv4Addr> {
    u32::try_from(subnet.span()?.0 + 1).ok().map(Ipv4Addr::from)
}

/// How many subnets a range has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub all: u64,
    /// Of these, those that cannot be given: in use, or in the way of something else.
    pub taken: u64,
}

/// From so many hundredths on it is said that a range comes to its end.
const SAID: u64 = 80;

impl Count {
    /// Whether it is time to say that the range comes to its end.
    pub fn is_near_the_end(&self) -> bool {
        self.taken * 100 >= self.all * SAID
    }
}

/// Counts the subnets of `range`.
pub fn count(range: &Cidr, taken: &[Cidr]) -> Count {
    let Some((first, last)) = range.span() else {
        return Count { all: 0, taken: 0 };
    };
    let slot = |address: u64| (address.clamp(first, last) - first) / SIZE;
    let (mut next, mut sum) = (0, 0);
    for (from, to) in spans(range, taken) {
        let (from, to) = (slot(from).max(next), slot(to));
        if to >= from {
            sum += to - from + 1;
            next = to + 1;
        }
    }
    Count {
        all: (last - first + 1) / SIZE,
        taken: sum,
    }
}

/// Where the machine's routes lead (`/proc/net/route`, proc_net(5)), without those to the rest of the world.
pub fn routes(text: &str) -> Vec<Cidr> {
    // Written as the machine's own number of bytes in network order.
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok().map(u32::from_be);
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = Ipv4Addr::from(number(fields.get(1)?)?);
        let bits = number(fields.get(7)?)?.count_ones() as u8;
        (bits >= LEAST_BITS).then_some(Cidr {
            address: address.into(),
            bits,
        })
    };
    text.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Cidr {
        text.parse().expect("a network")
    }

    #[test]
    fn the_lowest_free_one_is_chosen() {
        let check = |range: &str, taken: &[&str], is: Option<&str>| {
            let taken: Vec<Cidr> = taken.iter().map(|t| net(t)).collect();
            assert_eq!(choose(&net(range), &taken), is.map(net), "{range} without {taken:?}");
        };
        check("198.18.0.0/15", &[], Some("198.18.0.0/29"));
        check(
            "198.18.0.0/15",
            &["198.18.0.0/29", "198.18.0.16/29"],
            Some("198.18.0.8/29"),
        );
        check(
            "198.18.0.0/15",
            &["198.18.0.8/29", "198.18.0.3/32"],
            Some("198.18.0.16/29"),
        );
        check(
            "198.18.0.0/15",
            &["198.18.5.9/16", "172.17.0.0/16"],
            Some("198.19.0.0/29"),
        );
        // A default route and its halves are no networks; a wide one is.
        check("198.18.0.0/15", &["0.0.0.0/0", "128.0.0.0/1"], Some("198.18.0.0/29"));
        check("198.18.0.0/15", &["198.0.0.0/8"], None);
        check("10.0.0.0/28", &["10.0.0.0/29"], Some("10.0.0.8/29"));
        check("10.0.0.0/28", &["10.0.0.0/29", "10.0.0.9/32"], None);
        check("255.255.255.0/24", &["255.255.255.0/25"], Some("255.255.255.128/29"));
        check("255.255.255.240/28", &["255.255.255.240/28"], None);
        check("fd00::/8", &[], None);
    }

    #[test]
    fn the_machine_has_the_first_address() {
        assert_eq!(gateway(&net("198.18.0.8/29")), Some(Ipv4Addr::new(198, 18, 0, 9)));
        assert_eq!(gateway(&net("fd00::/64")), None);
    }

    #[test]
    fn they_are_counted() {
        let check = |range: &str, taken: &[&str], is: (u64, u64)| {
            let taken: Vec<Cidr> = taken.iter().map(|t| net(t)).collect();
            let found = count(&net(range), &taken);
            assert_eq!((found.taken, found.all), is, "{range} without {taken:?}");
        };
        check("198.18.0.0/15", &[], (0, 16384));
        check(
            "198.18.0.0/24",
            &["198.18.0.0/29", "198.18.0.1/32", "198.18.0.128/25"],
            (17, 32),
        );
        check("198.18.0.0/24", &["198.16.0.0/13"], (32, 32));
        check("198.18.0.0/24", &["198.19.0.0/16", "0.0.0.0/0"], (0, 32));
        let near = |taken| Count { all: 10, taken }.is_near_the_end();
        assert!(near(8) && near(10) && !near(7));
    }

    #[test]
    fn routes_are_read_but_those_to_the_rest_of_the_world() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    tun0\t00000080\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
                    eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                    wg0\t0000000A\t010200C0\t0003\t0\t0\t0\t000000FF\t0\t0\t0\n\
                    x\ty\n";
        assert_eq!(routes(text), [net("192.0.2.0/24"), net("10.0.0.0/8")]);
        assert!(routes("").is_empty());
    }

    #[test]
    fn by_default_there_are_subnets_for_all_instances_apart_from_the_engines_pools() {
        let network = crate::config::Network::default();
        let count = count(&network.subnets, &[]);
        assert!(count.all >= 10_000, "so many may be configured");
        for pool in [
            "172.17.0.0/16",
            "172.18.0.0/15",
            "172.20.0.0/14",
            "172.24.0.0/13",
            "192.168.0.0/16",
        ] {
            assert!(!overlap(&network.subnets, &pool.parse().expect(pool)), "{pool}");
        }
    }

    prop_compose! {
        /// Networks in and around 10.0.0.0/22, with any address in them.
        fn any_network()(address in 0u32..0x1000, bits in 18u8..=32) -> Cidr {
            Cidr { address: Ipv4Addr::from(0x0a00_0000 - 0x400 + address).into(), bits }
        }
    }

    proptest! {
        #[test]
        fn no_two_overlap_until_none_is_left(taken in proptest::collection::vec(any_network(), 0..12)) {
            let range = net("10.0.0.0/22");
            let mut all = taken;
            let free = count(&range, &all);
            let mut given = 0;
            while let Some(subnet) = choose(&range, &all) {
                prop_assert_eq!(subnet.bits, BITS);
                prop_assert!(overlap(&subnet, &range) && range.holds(subnet.address));
                for other in &all {
                    prop_assert!(!overlap(&subnet, other), "{:?} and {:?}", subnet, other);
                }
                all.push(subnet);
                given += 1;
                prop_assert_eq!(count(&range, &all).taken, free.taken + given);
            }
            prop_assert_eq!(free.taken + given, free.all, "all that were free were given");
            prop_assert_eq!(free.all, 128);
        }

        #[test]
        fn no_text_of_routes_panics(text in ".{0,200}") {
            let _ = routes(&text);
        }
    }
}
