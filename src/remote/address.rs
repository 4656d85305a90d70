//! Which addresses a remote server may have. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::Uri;

use crate::config::Cidr;

/// Whether the address is of the open internet: none of a host, a site, a link, a group or a test.
fn public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => public4(ip),
        IpAddr::V6(ip) => public6(ip),
    }
}

fn public4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || a >= 224
        // RFC 6598, 6890, 5737, 2544
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 198 && (b == 18 || b == 19 || (b == 51 && c == 100)))
        || (a == 203 && b == 0 && c == 113))
}

fn public6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let inner = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    if let Some(v4) = ip.to_ipv4_mapped() {
        return public4(v4);
    }
    match s {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056) lead to an IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => public4(inner(high, low)),
        // Only 2000::/3 is given out; of it, not the part for protocols and for examples.
        _ => s[0] & 0xe000 == 0x2000 && !(s[0] == 0x2001 && (s[1] < 0x0200 || s[1] == 0x0db8)) && s[0] != 0x3fff,
    }
}

/// What may be done with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// By https.
    Public,
    /// The configuration names its network: by http as well.
    Named,
    Refused,
}

pub(super) fn judge(ip: IpAddr, named: &[Cidr]) -> Verdict {
    let plain = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    if named.iter().any(|n| n.holds(plain)) {
        Verdict::Named
    } else if public(ip) {
        Verdict::Public
    } else {
        Verdict::Refused
    }
}

/// An address of the same server with another path.
pub(super) fn with_path(uri: &Uri, path: &str) -> Uri {
    let mut parts = uri.clone().into_parts();
    if let Ok(path) = path.parse() {
        parts.path_and_query = Some(path);
    }
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// The same address with a query beside its own.
pub(super) fn with_query(uri: &Uri, query: Option<&str>) -> Uri {
    let Some(query) = query else { return uri.clone() };
    let own = uri.path_and_query().map_or("/", |p| p.as_str());
    let joined = if own.contains('?') {
        format!("{own}&{query}")
    } else {
        format!("{own}?{query}")
    };
    let mut parts = uri.clone().into_parts();
    if let Ok(path) = joined.parse() {
        parts.path_and_query = Some(path);
    }
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_open_internet() {
        for good in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
        ] {
            assert_eq!(judge(good.parse().expect(good), &[]), Verdict::Public, "{good}");
        }
        for bad in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "fec0::1",
        ] {
            assert_eq!(judge(bad.parse().expect(bad), &[]), Verdict::Refused, "{bad}");
        }
        let named = ["10.1.0.0/16".parse().expect("network")];
        assert_eq!(judge("10.1.2.3".parse().expect("ip"), &named), Verdict::Named);
        assert_eq!(judge("::ffff:10.1.2.3".parse().expect("ip"), &named), Verdict::Named);
        assert_eq!(judge("10.2.2.3".parse().expect("ip"), &named), Verdict::Refused);
    }
}
