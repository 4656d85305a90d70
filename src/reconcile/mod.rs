//! F3: the one task that owns all mutable state of the box. It takes actions, agents' words, Docker's events and time,
//! plans, has the steps done, and publishes what came of it. It never waits for Docker or for an agent; it does wait
//! for the store, since an action is answered only when it is durable.
//!
//! ```text
//! actions ------\                      /--> steps, listings, probes, orders (one set of tasks, deadlines on all)
//! link events ---+--> Task: note, plan +--> store (its own thread)
//! engine events -+       ^             \--> snapshot: views, for list, show, wait, metrics
//! time ---------/        +---- what came of them ----/
//! ```
//!
//! Tasks: `reconcile` (this), its operations, `events` (watches the engine), thread `store`. Channels: requests (64),
//! link events (the assembly's), wakes (8), commits (1).

mod accept;
mod act;
mod credentials;
mod generic;
mod keeper;
mod live;
mod observe;
mod ops;
mod ports;
mod publish;
mod task;
mod tokens;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

pub use ports::{Installer, Links, NoRandom, Preparation, QuotaError, Quotas, Tokens, Unprepared};

use crate::{
    catalog::Catalog,
    config::Allow,
    deploy_log::Deploys,
    docker::{Engine, EngineError},
    link::LinkReport,
    model::{
        Action, BoxId, CredentialView, Endpoints, InstanceId, InstanceView, Outcome, Refusal, RoomView, TokenView,
    },
    plan::quota::WorkspaceLimits,
    policy::Signed,
    secret::BoxKey,
    store::{Store, StoreError},
};

/// Requests that wait; past it callers wait.
const REQUESTS: usize = 64;

/// What the reconciler is built from.
pub struct Deps {
    pub store: Store,
    pub key: BoxKey,
    pub engine: Arc<dyn Engine>,
    pub links: Arc<dyn Links>,
    pub tokens: Arc<dyn Tokens>,
    pub link_events: mpsc::Receiver<LinkReport>,
    pub quotas: Arc<dyn Quotas>,
    /// What a workspace may use whose record says nothing else.
    pub workspace: WorkspaceLimits,
    pub catalog: Arc<Catalog>,
    /// The berth binary on the host, mounted into every container.
    pub agent: PathBuf,
    /// Patterns of images that may run here.
    pub images: Vec<String>,
    pub allow: Allow,
    pub installer: Arc<dyn Installer>,
    pub deploys: Deploys,
    pub max_instances: usize,
    pub max_tokens_per_instance: usize,
    /// One JSON-RPC message at most, in bytes.
    pub max_message: usize,
    /// What the installation of a package may write, in bytes.
    pub install_bytes: u64,
    /// Where the volumes of removed instances are noted down, for whoever empties them without the engine.
    pub removed: PathBuf,
    pub endpoints: Box<dyn Fn(&InstanceId) -> Endpoints + Send + Sync>,
}

/// Why the reconciler does not start.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot start the store's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What is published after every change.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub views: Arc<BTreeMap<InstanceId, InstanceView>>,
    /// The container of each instance that has one.
    pub containers: BTreeMap<InstanceId, String>,
    /// Why the engine cannot be used, while it cannot.
    pub engine: Option<String>,
    /// What does not hold on this box although it should, in words for its owner.
    pub notes: Vec<String>,
    /// Whether the engine makes cgroups through systemd (known once it answered).
    pub systemd_cgroups: bool,
    /// Whether the box has an administrator.
    pub claimed: bool,
    /// What instances may write, where the disk holds them to it.
    pub room: Option<RoomView>,
}

enum Request {
    Submit(Box<Signed<Action>>, oneshot::Sender<Result<Outcome, Refusal>>),
    Tokens(oneshot::Sender<Vec<TokenView>>),
    Catalog(Arc<Catalog>),
    Credentials(InstanceId, oneshot::Sender<Result<Vec<CredentialView>, Refusal>>),
    Shutdown(oneshot::Sender<()>),
}

/// The way to the reconciler, for everybody.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Receiver<u64>,
    heartbeat: Arc<AtomicU64>,
    engine: Arc<dyn Engine>,
    box_id: BoxId,
}

/// Loads the store and starts the task. The task ends only after [`Handle::shutdown`]; that it ends otherwise is for
/// the assembly to notice.
///
/// # Errors
/// [`ReconcileError`] when the store cannot be read.
pub fn spawn(deps: Deps) -> Result<(Handle, JoinHandle<()>), ReconcileError> {
    let (requests, asked) = mpsc::channel(REQUESTS);
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let (publish, changed) = watch::channel(0);
    let heartbeat = Arc::new(AtomicU64::new(0));
    let engine = deps.engine.clone();
    let box_id = deps.store.box_id().clone();
    let outlets = task::Outlets {
        snapshot: snapshot.clone(),
        changed: publish,
        heartbeat: heartbeat.clone(),
    };
    let task = task::Task::build(deps, asked, outlets)?;
    let handle = Handle {
        requests,
        snapshot,
        changed,
        heartbeat,
        engine,
        box_id,
    };
    Ok((handle, tokio::spawn(task.run())))
}

impl Handle {
    /// Admits an action. What it answers is durable.
    ///
    /// # Errors
    /// A typed [`Refusal`]; nothing has changed then.
    pub async fn submit(&self, action: Signed<Action>) -> Result<Outcome, Refusal> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Submit(Box::new(action), reply);
        self.requests.send(request).await.map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Stopping)?
    }

    /// All instances as they stand.
    pub fn views(&self) -> Arc<BTreeMap<InstanceId, InstanceView>> {
        self.snapshot.load().views.clone()
    }

    /// Views, containers and the engine's state together.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// A count that rises with every new snapshot.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// All tokens, with when they were last used.
    ///
    /// # Errors
    /// [`Refusal::Stopping`].
    pub async fn tokens(&self) -> Result<Vec<TokenView>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Tokens(reply);
        self.requests.send(request).await.map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Stopping)
    }

    /// The variables of an instance, without their values.
    ///
    /// # Errors
    /// [`Refusal::NoInstance`], [`Refusal::Stopping`].
    pub async fn credentials(&self, id: InstanceId) -> Result<Vec<CredentialView>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Credentials(id, reply);
        self.requests.send(request).await.map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Stopping)?
    }

    /// The log of the instance's container, as raw lines; empty while it has none.
    ///
    /// # Errors
    /// [`Refusal::NoInstance`].
    pub fn logs(
        &self,
        id: &InstanceId,
        follow: bool,
        tail: Option<u32>,
    ) -> Result<BoxStream<'static, Result<Bytes, EngineError>>, Refusal> {
        let snapshot = self.snapshot.load();
        if !snapshot.views.contains_key(id) {
            return Err(Refusal::no_instance(id));
        }
        Ok(match snapshot.containers.get(id) {
            Some(container) => self.engine.logs(container, follow, tail),
            None => stream::empty().boxed(),
        })
    }

    /// Rises at least once a second while the task makes progress: the watchdog is fed by it.
    pub fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
    }

    /// Which box this is.
    pub fn box_id(&self) -> &BoxId {
        &self.box_id
    }

    /// What is run or recreated from now on is of these types; what runs stays as it is.
    ///
    /// # Errors
    /// [`Refusal::Stopping`].
    pub async fn set_catalog(&self, catalog: Arc<Catalog>) -> Result<(), Refusal> {
        let request = Request::Catalog(catalog);
        self.requests.send(request).await.map_err(|_| Refusal::Stopping)
    }

    /// Keeps what is only in memory and ends the task. Instances run on.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.requests.send(Request::Shutdown(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}

#[cfg(test)]
mod tests;
