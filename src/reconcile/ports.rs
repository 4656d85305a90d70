//! What the reconciler needs of the ledger, of the links and of cgroups, as traits: the assembly gives the real ones, tests
//! give theirs. No decision is made here.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::{
    cgroup::SliceError,
    docker::EngineError,
    link::{LinkError, Patience},
    model::{InstanceId, Refusal, Resolved, Source, StartOrder, State, User},
    plan::{exchange::Report, quota::WorkspaceQuota},
};

/// The sockets that agents dial.
pub trait Links: Send + Sync + 'static {
    /// Listens for the instance's agent and gives the folder of the socket. One that is open stays as it is; a folder
    /// of an earlier run is used again, never replaced: it is mounted in a container.
    fn open<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<PathBuf, LinkError>>;
    /// Stops listening and removes the folder, also one of an earlier run.
    fn close<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, ()>;
    /// No container of the instance runs, and one is about to start: what earlier agents report from now on carries
    /// a lower generation than the one given.
    fn renew(&self, id: &InstanceId) -> u64;
    /// Which user of this machine all agents are: the sockets open for nobody else.
    ///
    /// # Errors
    /// A socket could not be given to it.
    fn set_agents(&self, user: User) -> Result<(), LinkError>;
    /// This process, by the engine's word the first of the instance's container, is its agent. Until it is said, what
    /// dials the socket is not heard.
    fn prove(&self, id: &InstanceId, pid: u32);
    /// What the edge shall answer while there is no agent: the state, and seconds until it is worth asking again.
    fn set_state(&self, id: &InstanceId, state: State, retry_after: Option<u32>);
    /// How long the head of the answer to one call may take at the edge.
    fn set_patience(&self, id: &InstanceId, patience: Patience);
    /// Hands over the start order; the same one again is no error.
    fn start<'a>(&'a self, id: &'a InstanceId, order: &'a StartOrder) -> BoxFuture<'a, Result<(), LinkError>>;
    /// Asks the health contract now.
    fn health<'a>(&'a self, id: &'a InstanceId, limit: Duration) -> BoxFuture<'a, Result<(), LinkError>>;
}

/// A workspace is not held to its quota.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    #[error(transparent)]
    Slice(#[from] SliceError),
    /// The thread that was to do it ended.
    #[error(transparent)]
    Ended(#[from] tokio::task::JoinError),
}

/// The cgroups of workspaces.
pub trait Quotas: Send + Sync + 'static {
    /// Holds all containers below the cgroup `parent` together to the quota; again is no error.
    fn hold<'a>(
        &'a self,
        parent: &'a str,
        quota: WorkspaceQuota,
        systemd: bool,
    ) -> BoxFuture<'a, Result<(), QuotaError>>;
    /// Whether systemd lets this process set the limits of its slices, where it owns the cgroups.
    fn may_set(&self) -> bool;
    /// No instance is left in it.
    fn release(&self, parent: &str, systemd: bool);
}

/// Whoever keeps what was found out.
pub trait Ledger: Send + Sync + 'static {
    /// Durable, and part of the published desired state, when it returns Ok. What somebody's action has made pointless is
    /// dropped.
    ///
    /// # Errors
    /// [`Refusal::Store`] when it is not kept.
    fn report(&self, report: Report) -> BoxFuture<'_, Result<(), Refusal>>;
}

/// What is to be installed or fetched for an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preparation {
    pub source: Source,
    /// The image that a package runs on, and the one that it is installed in.
    pub runtime: String,
    pub builder: String,
    /// What it came to before, where that was lost.
    pub before: Option<Resolved>,
    /// Where no version is named, the registry says which is the newest now; else what it said a few minutes ago will do.
    pub newest: bool,
}

/// Why an instance could not be prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unprepared {
    /// Waiting cannot mend it.
    Final(String),
    Engine(EngineError),
}

/// Installs packages and fetches images.
pub trait Installer: Send + Sync + 'static {
    /// Dropping the future breaks it off. What is said on the way goes to `words`.
    fn prepare<'a>(
        &'a self,
        what: Preparation,
        words: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> BoxFuture<'a, Result<Resolved, Unprepared>>;
    /// The images that instances use, of those that were made for them.
    fn keep(&self, images: BTreeSet<String>);
}
