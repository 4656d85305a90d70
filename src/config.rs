//! F1: the text of `berth.toml` -> a checked [`Config`]. Reads no file but the one it is given; never guesses.

mod check;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub(crate) use check::domain;
pub use check::{load, parse};

use crate::{claim::PublicKey, plan::quota::WorkspaceLimits};

/// The checked configuration of one supervisor. Every key has a default that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name below which every address stands, lower case, without a trailing dot. Default `localhost`.
    pub domain: String,
    /// Store, CA, keys and kept logs; root only.
    pub state_dir: PathBuf,
    /// Sockets: `admin.sock`, and `i/{id}/agent.sock` for each instance.
    pub runtime_dir: PathBuf,
    /// One TOML file per instance type.
    pub types_dir: PathBuf,
    pub listen: Listen,
    pub docker: Docker,
    pub tls: Tls,
    pub claim: Claim,
    pub limits: Limits,
    /// What all containers of one workspace may use together.
    pub workspace: WorkspaceLimits,
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
    /// Connections at the edge, all together.
    pub connections: usize,
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
    /// How long SIGTERM waits for calls in flight.
    pub drain_timeout: Duration,
    /// Instances on this box.
    pub instances: usize,
    /// Tokens of one instance.
    pub tokens_per_instance: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 1024,
            header_bytes: 32 * 1024,
            body_bytes: 8 * 1024 * 1024,
            client_timeout: Duration::from_secs(15),
            first_byte_timeout: Duration::from_secs(330),
            idle_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(20),
            instances: 1000,
            tokens_per_instance: 64,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain: "localhost".into(),
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
            tls: Tls::LocalCa,
            claim: Claim::default(),
            limits: Limits::default(),
            workspace: WorkspaceLimits::default(),
        }
    }
}

impl Config {
    /// The admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.runtime_dir.join("admin.sock")
    }
}
