//! F2: the container engine. [`Engine`] says what the reconciler may ask of one, [`Docker`] is the real one over its
//! Unix socket. Every call has a deadline. Never decides anything, and names or touches nothing that it was not
//! given: whose a thing is, the plan has seen to.

mod adapter;
mod assemble;
mod inherit;
pub mod inspect;
mod layer;
mod subnets;
pub mod tar;
mod translate;
mod workshop;

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};

pub use adapter::{Docker, probe};
pub use assemble::Assembly;
pub use inherit::VolumesError;
pub use subnets::count as count_subnets;
pub use workshop::{InstallContainer, LABEL_BUILD, LABEL_BUILT, LABEL_BUILT_BOX, Said, SeenImage};

use crate::{
    config::Cidr,
    model::{BoxId, User},
    plan::{Observed, spec::ContainerSpec},
};

/// Why the engine did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("the engine does not answer at {socket}: {why}")]
    Unreachable { socket: PathBuf, why: String },
    #[error("the engine did not {what} within {seconds} s")]
    Slow { what: &'static str, seconds: u64 },
    #[error("cannot {what}: {why}")]
    NotFound { what: &'static str, why: String },
    #[error("cannot {what}: {why}")]
    Conflict { what: &'static str, why: String },
    #[error("cannot {what}: {why}")]
    Refused { what: &'static str, why: String },
    #[error(
        "no subnet is left for its network: all {all} of {range} are in use, or in the way of other networks and routes of this machine; stop or remove instances that have a network, or give [network] subnets in berth.toml a larger range and restart berth"
    )]
    NoSubnet { range: Cidr, all: u64 },
}

impl EngineError {
    /// Whether waiting for the engine may help: it is away or overloaded, and the request itself is not at fault.
    pub fn is_away(&self) -> bool {
        matches!(self, EngineError::Unreachable { .. } | EngineError::Slow { .. })
    }
}

type EngineFuture<'a, T> = BoxFuture<'a, Result<T, EngineError>>;

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineInfo {
    pub version: String,
    pub api_version: String,
    pub systemd_cgroups: bool,
    pub cgroup_version: u8,
    pub cpus: i64,
    /// Of the host, in bytes.
    pub memory: i64,
    pub memory_limit: bool,
    pub cpu_quota: bool,
    pub pids_limit: bool,
    /// `name=seccomp,profile=default` and its like.
    pub security: Vec<String>,
    /// Where the engine keeps images and containers.
    pub root_dir: String,
    /// Volumes there can have a size.
    pub volume_sizes: bool,
    /// Writable layers too.
    pub layer_sizes: bool,
    /// The host's user that containers' root is: their other users count on from it.
    pub users_from: User,
}

/// The status of what is no process.
pub const NO_PROCESS: i64 = -1;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    pub code: i64,
    pub out_of_memory: bool,
    /// The engine's own words, where it could not even start it.
    pub error: String,
}

/// What the reconciler may ask of an engine.
pub trait Engine: Send + Sync + 'static {
    fn info(&self) -> EngineFuture<'_, EngineInfo>;
    /// Everything that carries this box's label.
    fn list<'a>(&'a self, box_id: &'a BoxId) -> EngineFuture<'a, Observed>;
    /// Makes a container (and its volume, with labels) and gives its id. `NotFound`: the image is not here.
    fn create<'a>(&'a self, spec: &'a ContainerSpec) -> EngineFuture<'a, String>;
    fn start<'a>(&'a self, container: &'a str) -> EngineFuture<'a, ()>;
    /// Its process 1, by the number that it has on this machine; None while it does not run.
    fn pid<'a>(&'a self, container: &'a str) -> EngineFuture<'a, Option<u32>>;
    /// The CPU that it may use, in billionths of one.
    fn cpu<'a>(&'a self, container: &'a str) -> EngineFuture<'a, i64>;
    /// Sets that, whether it runs or not.
    fn set_cpu<'a>(&'a self, container: &'a str, nano_cpus: i64) -> EngineFuture<'a, ()>;
    /// SIGTERM, and SIGKILL after `grace` seconds. A container that is gone or stopped is no error.
    fn stop<'a>(&'a self, container: &'a str, grace: i32) -> EngineFuture<'a, ()>;
    /// Kills and removes it. One that is gone is no error.
    fn remove<'a>(&'a self, container: &'a str) -> EngineFuture<'a, ()>;
    fn exit<'a>(&'a self, container: &'a str) -> EngineFuture<'a, Exit>;
    /// A network of its own, without inter-container traffic, on a bridge of that name, with a small subnet. One that is
    /// there is no error. [`EngineError::NoSubnet`] where no subnet is left.
    fn create_network<'a>(
        &'a self,
        name: &'a str,
        bridge: &'a str,
        labels: &'a BTreeMap<String, String>,
    ) -> EngineFuture<'a, ()>;
    fn remove_network<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()>;
    fn remove_volume<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()>;
    /// Fetches an image. The caller has checked that it may be fetched.
    fn pull<'a>(&'a self, reference: &'a str) -> EngineFuture<'a, ()>;
    /// The last so many lines, at most `bytes` of them.
    fn last_words<'a>(&'a self, container: &'a str, lines: u32, bytes: usize) -> EngineFuture<'a, String>;
    /// The log, from the last `tail` lines on (all when `None`); it ends with the container.
    fn logs(&self, container: &str, follow: bool, tail: Option<u32>) -> BoxStream<'static, Result<Bytes, EngineError>>;
    /// An item whenever something of this box may have changed. It ends when the engine goes away.
    fn events(&self, box_id: &BoxId) -> BoxStream<'static, Result<(), EngineError>>;
}
