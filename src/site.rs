//! F1: what the owner of a box tells it before it has an address: a site file's text -> a checked [`Site`], and a
//! [`Site`] -> the files that networkd, timesyncd, Docker and the supervisor read. Pure: `machine` finds the text and
//! writes the files. A file with a mistake is refused whole, with every mistake at once; nothing is guessed.

mod check;
mod render;
mod seed;
mod yaml;

use std::{fmt, net::IpAddr, str::FromStr};

pub use check::{network, parse};
pub use render::{Output, host_name, network_text, outputs};
pub use seed::{Seed, from_seed};

/// A site file may be this long, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;
/// Ports that one file may describe.
const MAX_PORTS: usize = 64;

/// Everything that a site file can say. Empty is a box by DHCP with Debian's authorities and no proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    pub hostname: Option<String>,
    pub domain: Option<String>,
    pub time_servers: Vec<String>,
    pub proxy: Proxy,
    /// Authorities that are trusted besides Debian's, as PEM.
    pub ca: Option<String>,
    /// The administrator's public key, as the supervisor's `[claim] public_key` takes it.
    pub claim_key: Option<String>,
    /// Where the supervisor sends the rows of its audit, as its `[audit.syslog] address` takes it.
    pub syslog: Option<String>,
    /// Ports that are not left to DHCP by default.
    pub ports: Vec<Port>,
}

/// The way out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    pub http: Option<String>,
    pub https: Option<String>,
    /// Hosts, domains and prefixes that are reached without it.
    pub exclude: Vec<String>,
}

/// One network port, or one VLAN on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub which: Which,
    pub vlan: Option<u16>,
    pub dhcp: bool,
    pub addresses: Vec<Address>,
    pub gateways: Vec<IpAddr>,
    pub dns: Vec<IpAddr>,
    pub search: Vec<String>,
}

impl Port {
    /// A port that takes what DHCP gives.
    fn dhcp(which: Which) -> Self {
        Self {
            which,
            vlan: None,
            dhcp: true,
            addresses: Vec::new(),
            gateways: Vec::new(),
            dns: Vec::new(),
            search: Vec::new(),
        }
    }
}

/// Which port is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// Every wired one.
    Any,
    /// The kernel's name for it; `*` and `?` as in a shell.
    Name(String),
    /// Its hardware address, lower case with colons.
    Mac(String),
}

/// An address with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub ip: IpAddr,
    pub prefix: u8,
}

impl Address {
    /// Whether `other` lies in the same network.
    pub fn covers(&self, other: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| {
            let host = width.saturating_sub(u32::from(self.prefix));
            // A shift by the whole width would overflow; a prefix of 0 covers everything.
            host >= width || a >> host == b >> host
        };
        match (self.ip, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.into(), b.into(), 128),
            _ => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// A text is not an address with its prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: write an address with its prefix, such as \"192.0.2.10/24\" or \"2001:db8::10/64\"")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        let told = || AddressError(s.to_owned());
        let (ip, prefix) = s.split_once('/').ok_or_else(told)?;
        let ip: IpAddr = ip.parse().map_err(|_| told())?;
        let prefix: u8 = prefix.parse().map_err(|_| told())?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > longest || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err(told());
        }
        Ok(Self { ip, prefix })
    }
}

#[cfg(test)]
mod tests;
