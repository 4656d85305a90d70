//! F1: the text of `instance-types/*.toml` -> the registry of types: type -> container spec -> route -> health
//! contract. Strict: an unknown key, a wrong unit or a missing image is a problem with file, line and advice.

mod check;
mod credential;
mod extras;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::model::{Credential, HealthKind, ImportRules, Processes, Ready, RemoteAuth, RestartPolicy, Size, TypeName};

pub use crate::model::Network as Egress;

pub use check::{EnvKeyError, VolumeError, check_env_key, check_volume, millis, parse};
pub use credential::fits;

/// How long a call may take that nothing else is said of.
pub const USUAL_CALL_TIMEOUT: Duration = Duration::from_secs(300);
/// What a call timeout may be.
pub const CALL_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// All known types, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    pub types: BTreeMap<TypeName, Arc<InstanceType>>,
}

/// One checked instance type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceType {
    pub name: TypeName,
    pub title: String,
    pub description: String,
    pub homepage: Option<String>,
    pub kind: Kind,
    /// Of kinds `image` and `remote` there is none until an instance names it.
    pub image: ImageRef,
    /// The image that packages are installed in, for kinds `npx` and `uvx`.
    pub builder: Option<String>,
    pub services: Vec<Service>,
    pub mcp: Mcp,
    pub health: HealthContract,
    /// The size that an instance gets unless it asks for another.
    pub size: Size,
    pub egress: Egress,
    /// Where the instance's own volume is mounted, if it has one.
    pub volume: Option<String>,
    /// What people may watch of it.
    pub screen: Option<Screen>,
    pub sandbox: Sandbox,
    /// Which packages of the registries it stands in for when they are brought over.
    pub import: ImportRules,
    /// What has to be given before it runs.
    pub credentials: Vec<Credential>,
}

impl InstanceType {
    /// A type of which its file says no more than it must.
    pub fn of(name: TypeName, image: ImageRef, mcp: Mcp) -> Self {
        Self {
            name,
            title: String::new(),
            description: String::new(),
            homepage: None,
            kind: Kind::Fixed,
            image,
            builder: None,
            services: Vec::new(),
            mcp,
            health: HealthContract::default(),
            size: Size::Medium,
            egress: Egress::None,
            volume: None,
            screen: None,
            sandbox: Sandbox::default(),
            import: ImportRules::default(),
            credentials: Vec::new(),
        }
    }
}

/// A screen: one of the services is a display that speaks RFB (RFC 6143) on loopback, without a password: nobody
/// reaches it but through the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    pub port: u16,
}

/// What differs from every other container's sandbox. Each value is of a closed set: a type cannot open one further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    pub seccomp: Seccomp,
    /// The size of `/tmp`, in MiB; within the memory limit.
    pub tmp_mib: u32,
    /// The size of `/dev/shm`, in MiB; within the memory limit.
    pub shm_mib: u32,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            seccomp: Seccomp::Default,
            tmp_mib: 64,
            shm_mib: 64,
        }
    }
}

/// Which system calls a container may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The engine's own profile.
    Default,
    /// The same, and what a browser's own sandbox is made of: user namespaces, and chroot within them.
    Browser,
}

/// An image by reference, and by digest where the type pins one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRef {
    /// As the engine knows it, with a tag: `berth/mcp-everything:2026.8.31`.
    pub reference: String,
    /// `sha256:…` of the manifest.
    pub digest: Option<String>,
}

/// A process that runs beside the MCP server, started before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub ready: Ready,
    pub restart: RestartPolicy,
}

/// How the MCP server is reached inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mcp {
    pub transport: Transport,
    pub max_sessions: u32,
    pub idle_timeout: Duration,
    /// Of one call, without progress.
    pub call_timeout: Duration,
}

impl Mcp {
    /// A server of which nothing is said but how it is reached.
    pub fn of(transport: Transport) -> Self {
        Self {
            transport,
            max_sessions: 64,
            idle_timeout: Duration::from_secs(1800),
            call_timeout: USUAL_CALL_TIMEOUT,
        }
    }
}

/// The server's transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    Stdio {
        command: Vec<String>,
        env: BTreeMap<String, String>,
        processes: Processes,
    },
    Http {
        port: u16,
        path: String,
    },
    /// Streamable HTTP somewhere else, reached by the supervisor itself.
    Remote {
        url: String,
        auth: RemoteAuth,
    },
}

/// How the supervisor tells that an instance works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthContract {
    pub kind: HealthKind,
    pub interval: Duration,
    pub timeout: Duration,
    /// So many unanswered probes in a row make it unhealthy, and it is restarted.
    pub failures: u32,
    /// From the container's start to the first healthy answer.
    pub start_timeout: Duration,
}

impl Default for HealthContract {
    fn default() -> Self {
        Self {
            kind: HealthKind::Mcp,
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(5),
            failures: 3,
            start_timeout: Duration::from_secs(60),
        }
    }
}

/// Where a type's server comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The type's own image.
    Fixed,
    /// A package of npm, installed at the first deploy into an image of its own.
    Npx,
    /// A package of PyPI, likewise.
    Uvx,
    /// An image that the request names.
    Image,
    /// A server elsewhere: there is no container.
    Remote,
}

impl Kind {
    /// The word in a type file.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Fixed => "fixed",
            Kind::Npx => "npx",
            Kind::Uvx => "uvx",
            Kind::Image => "image",
            Kind::Remote => "remote",
        }
    }
}
