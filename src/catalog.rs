//! F1: the text of `instance-types/*.toml` -> the registry of types: type -> container spec -> route -> health
//! contract. Strict: an unknown key, a wrong unit or a missing image is a problem with file, line and advice.

mod check;
mod credential;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::model::{Credential, HealthKind, Processes, Ready, RestartPolicy, Size, TypeName};

pub use check::{check_env_key, load_dir, load_file, millis, parse};
pub use credential::fits;

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
    pub image: ImageRef,
    pub services: Vec<Service>,
    pub mcp: Mcp,
    pub health: HealthContract,
    /// The size that an instance gets unless it asks for another.
    pub size: Size,
    pub egress: Egress,
    /// Where the instance's own volume is mounted, if it has one.
    pub volume: Option<String>,
    /// What has to be given before it runs.
    pub credentials: Vec<Credential>,
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
    pub call_timeout: Duration,
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

/// What an instance may reach outside its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// Loopback only: the container has no network.
    None,
    /// A bridge network of its own, shared with nobody.
    Internet,
}
