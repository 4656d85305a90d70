//! F1: the text of `berth.toml` -> a checked [`Config`]. Reads no file (`load` does); never guesses.

mod audit;
mod check;
mod sources;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub(crate) use audit::receiver;
pub use audit::{Audit, Syslog};
pub(crate) use check::domain;
pub use check::{AmountError, Bytes, Cpus, parse};
pub use sources::MOST_RANGE_BITS;

use crate::{
    claim::PublicKey,
    model::{CallLimit, WorkspaceLimits},
};

/// The checked configuration of one supervisor. Every key has a default that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name below which every address stands, lower case, without a trailing dot. Without one, the box is known by
    /// its addresses.
    pub domain: Option<String>,
    /// Store, CA, keys and kept logs; root only.
    pub state_dir: PathBuf,
    /// Sockets: `admin.sock`, and for each instance `i/{id}/agent.sock`, beside it who its agent is.
    pub runtime_dir: PathBuf,
    /// One TOML file per instance type.
    pub types_dir: PathBuf,
    pub listen: Listen,
    pub docker: Docker,
    pub edge: Edge,
    pub tls: Tls,
    pub claim: Claim,
    pub limits: Limits,
    /// What all containers of one workspace may use together.
    pub workspace: WorkspaceLimits,
    pub allow: Allow,
    pub install: Install,
    pub remote: Remote,
    pub network: Network,
    pub audit: Audit,
}

/// What containers reach, on a machine whose firewall is not the host image's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The supervisor keeps containers from this machine and from networks that are not public, where it may.
    pub firewall: bool,
    /// What they may reach all the same, as `address/bits`; this machine's own addresses too.
    pub private_networks: Vec<Cidr>,
    /// Where their networks' subnets come from (`plan::subnet`), IPv4.
    pub subnets: Cidr,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            firewall: true,
            private_networks: Vec::new(),
            // RFC 2544: nobody's network, and no pool of the engine's; subnets for all instances that a box can have.
            subnets: Cidr {
                address: IpAddr::V4(Ipv4Addr::new(198, 18, 0, 0)),
                bits: 15,
            },
        }
    }
}

/// Which types may be run, and what generic types may run. Patterns are shell-style, with `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// Names of types; every type when `None`.
    pub types: Option<Vec<String>>,
    /// Packages, by name (`@scope/*`) or by kind and name (`npx:@scope/*`).
    pub packages: Vec<String>,
    /// Images that the type `image` may run.
    pub images: Vec<String>,
    /// Addresses that the type `remote` may reach.
    pub remotes: Vec<String>,
    /// Each generic type can be switched off.
    pub npx: bool,
    pub uvx: bool,
    pub image: bool,
    pub remote: bool,
}

impl Default for Allow {
    fn default() -> Self {
        let all = || vec!["*".to_owned()];
        Self {
            types: None,
            packages: all(),
            images: all(),
            remotes: all(),
            npx: true,
            uvx: true,
            image: true,
            remote: true,
        }
    }
}

/// Where packages come from, and the bounds of an installation. What is not set is as this machine's own npm and pip
/// have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    pub npm_registry: Option<String>,
    pub python_index: Option<String>,
    /// PEM: what installations trust. Default: the machine's own bundle. It never enters an image.
    pub ca_file: Option<PathBuf>,
    /// `http://host:port`, for http and https.
    pub proxy: Option<String>,
    /// Installations at once; more wait.
    pub at_once: usize,
    /// One installation takes no longer.
    pub timeout: Duration,
    /// Memory of an installation, in bytes, with what it writes. Never more than most of the box's.
    pub memory_bytes: usize,
    /// What an installation may write, in bytes. How many files follows from it.
    pub disk_bytes: usize,
}

impl Default for Install {
    fn default() -> Self {
        Self {
            npm_registry: None,
            python_index: None,
            ca_file: None,
            proxy: None,
            at_once: 2,
            timeout: Duration::from_secs(600),
            memory_bytes: 2 << 30,
            disk_bytes: 2 << 30,
        }
    }
}

/// How remote servers are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remote {
    /// Private, loopback and link-local networks that may be reached all the same, as `address/bits`.
    pub private_networks: Vec<Cidr>,
    /// PEM: trusted besides the machine's own bundle.
    pub ca_file: Option<PathBuf>,
}

/// A network: an address and how many leading bits of it count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub bits: u8,
}

impl Cidr {
    /// First and last address of an IPv4 network, in numbers that cannot overflow; none for IPv6.
    pub fn span(&self) -> Option<(u64, u64)> {
        let IpAddr::V4(address) = self.address else {
            return None;
        };
        let size = 1u64 << 32u8.saturating_sub(self.bits);
        let first = u64::from(u32::from(address)) / size * size;
        Some((first, first + size - 1))
    }

    /// The network by its first address; none for IPv6.
    pub fn first(&self) -> Option<Cidr> {
        let address = u32::try_from(self.span()?.0).ok()?;
        Some(Cidr {
            address: Ipv4Addr::from(address).into(),
            bits: self.bits,
        })
    }

    /// Whether an address lies in it.
    pub fn holds(&self, ip: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| {
            let keep = u32::from(self.bits).min(width);
            keep == 0 || (a ^ b) >> (width - keep) == 0
        };
        match (self.address, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(u128::from(a), u128::from(b), 128),
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Why a text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("{0:?} is not a network")]
    Form(String),
    #[error("{given:?} has more than {most} bits")]
    Bits { given: String, most: u8 },
}

impl std::str::FromStr for Cidr {
    type Err = CidrError;
    fn from_str(s: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError::Form(s.to_owned());
        let (address, bits) = s.split_once('/').unwrap_or((s, ""));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = if bits.is_empty() {
            most
        } else {
            bits.parse().map_err(|_| wrong())?
        };
        if bits > most {
            let given = s.to_owned();
            return Err(CidrError::Bits { given, most });
        }
        Ok(Cidr { address, bits })
    }
}

/// Where the edge listens. Sockets passed by systemd (names `https`, `http`) take precedence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub https: SocketAddr,
    pub http: SocketAddr,
}

/// How to reach the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Docker {
    pub socket: PathBuf,
    /// Second line of defence for image references (the first: the type files name them): shell-style patterns with
    /// `*`; an image that no pattern matches is neither pulled nor run.
    pub images: Vec<String>,
}

/// Who may call from a browser.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    /// Origins whose pages may call MCP endpoints, as browsers send them; besides the box's own and those of the
    /// callers' own machines.
    pub allowed_origins: Vec<String>,
}

/// Where certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// A CA of our own, made on first start in `state_dir/tls`.
    LocalCa,
    /// PEM files, read again when they change.
    Files { cert: PathBuf, key: PathBuf },
}

/// Who becomes the administrator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Nothing is served over the network before the box is claimed, but what claiming takes. For appliances.
    pub required: bool,
    /// Whoever holds this key may claim the box without its code.
    pub public_key: Option<PublicKey>,
}

/// Bounds of the edge and the box. All have defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the edge, all together. Full tables turn nobody away: the longest idle of whoever has most gives way.
    pub connections: usize,
    /// Of these, those on which no right token has been shown yet.
    pub connections_without_token: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// A request's header section, in bytes.
    pub header_bytes: usize,
    /// A request's body, in bytes.
    pub body_bytes: usize,
    /// From accept to a complete request header, and the longest pause within a body.
    pub client_timeout: Duration,
    /// From a complete request to the first byte of its answer.
    pub first_byte_timeout: Duration,
    /// A kept-alive connection without a request.
    pub idle_timeout: Duration,
    /// A connection that was switched to another protocol (WebSocket), without a byte either way.
    pub upgraded_idle_timeout: Duration,
    /// How long SIGTERM waits for calls in flight.
    pub drain_timeout: Duration,
    /// Instances on this box.
    pub instances: usize,
    /// Tokens of one instance.
    pub tokens_per_instance: usize,
    /// Calls of one person, by all their tokens together; a token of an instance counts as a person.
    pub member_calls: CallLimit,
    /// Calls to one instance, whoever makes them.
    pub instance_calls: CallLimit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_without_token: 1024,
            connections_per_address: 1024,
            header_bytes: 32 * 1024,
            body_bytes: 8 * 1024 * 1024,
            client_timeout: Duration::from_secs(15),
            first_byte_timeout: Duration::from_secs(330),
            idle_timeout: Duration::from_secs(120),
            upgraded_idle_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(20),
            instances: 1000,
            tokens_per_instance: 64,
            member_calls: CallLimit::OF_A_MEMBER,
            instance_calls: CallLimit::OF_AN_INSTANCE,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain: None,
            state_dir: "/var/lib/berth".into(),
            runtime_dir: "/run/berth".into(),
            types_dir: "/usr/share/berth/instance-types".into(),
            listen: Listen {
                https: ([0, 0, 0, 0], 443).into(),
                http: ([0, 0, 0, 0], 80).into(),
            },
            docker: Docker {
                socket: "/run/docker.sock".into(),
                images: vec!["berth/*".into()],
            },
            edge: Edge::default(),
            tls: Tls::LocalCa,
            claim: Claim::default(),
            audit: Audit::default(),
            limits: Limits::default(),
            workspace: WorkspaceLimits::default(),
            allow: Allow::default(),
            install: Install::default(),
            remote: Remote::default(),
            network: Network::default(),
        }
    }
}

impl Config {
    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.runtime_dir.join("admin.sock")
    }
}
