//! F3: the one task that makes what is into what shall be. It takes the desired state that the ledger publishes, agents'
//! words, Docker's events and time, plans, has the steps done, and publishes what came of it. It never waits: not for
//! Docker, not for an agent, and not for the store. What it finds out and wants kept it reports to the ledger.
//!
//! ```text
//! desired state -\                      /--> steps, listings, probes, orders, reports (one set of tasks, deadlines on all)
//! link events ---+--> Task: note, plan +
//! engine events -+       ^             \--> snapshot: views, for list, show, wait, metrics
//! time ---------/        +---- what came of them ----/
//! ```
//!
//! Tasks: `reconcile` (this), its operations, `events` (watches the engine). Channels: desired state and what is shown (the
//! newest value each), link events (the assembly's), wakes (8), the word to end (1).

mod act;
mod adopt;
mod live;
mod observe;
mod ops;
mod ports;
mod prepare;
mod publish;
mod task;

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

pub use ports::{Installer, Ledger, Links, Preparation, QuotaError, Quotas, Unprepared};

use crate::{
    catalog::Catalog,
    deploy_log::Deploys,
    docker::{Engine, EngineError},
    link::LinkReport,
    model::{BoxId, Endpoints, InstanceId, InstanceView, Refusal, RoomView},
    plan::{
        exchange::{DesiredState, Shown},
        quota::WorkspaceLimits,
    },
    secret::BoxKey,
};

/// What the reconciler is built from.
pub struct Deps {
    pub box_id: BoxId,
    pub key: Arc<BoxKey>,
    /// What shall be, as the ledger publishes it, and the ledger, for reports.
    pub desired: watch::Receiver<DesiredState>,
    pub ledger: Arc<dyn Ledger>,
    /// Where the ledger sees what came of it.
    pub shown: watch::Sender<Shown>,
    pub engine: Arc<dyn Engine>,
    pub links: Arc<dyn Links>,
    pub link_events: mpsc::Receiver<LinkReport>,
    pub quotas: Arc<dyn Quotas>,
    /// What a workspace may use whose record says nothing else.
    pub workspace: WorkspaceLimits,
    /// The types as they are now.
    pub catalog: Arc<ArcSwap<Catalog>>,
    /// The berth binary on the host, mounted into every container.
    pub agent: PathBuf,
    /// Patterns of images that may run here.
    pub images: Vec<String>,
    pub installer: Arc<dyn Installer>,
    pub deploys: Deploys,
    /// One JSON-RPC message at most, in bytes.
    pub max_message: usize,
    /// What the installation of a package may write, in bytes.
    pub install_bytes: u64,
    pub endpoints: Box<dyn Fn(&InstanceId) -> Endpoints + Send + Sync>,
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

/// The way to the reconciler, for everybody.
#[derive(Clone)]
pub struct Handle {
    end: mpsc::Sender<oneshot::Sender<()>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    changed: watch::Receiver<u64>,
    heartbeat: Arc<AtomicU64>,
    engine: Arc<dyn Engine>,
    box_id: BoxId,
}

/// Starts the task. It ends only after [`Handle::shutdown`]; that it ends otherwise is for the assembly to notice.
pub fn spawn(deps: Deps) -> (Handle, JoinHandle<()>) {
    let (end, told) = mpsc::channel(1);
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let (publish, changed) = watch::channel(0);
    let heartbeat = Arc::new(AtomicU64::new(0));
    let engine = deps.engine.clone();
    let box_id = deps.box_id.clone();
    let outlets = task::Outlets {
        snapshot: snapshot.clone(),
        changed: publish,
        heartbeat: heartbeat.clone(),
    };
    let task = task::Task::build(deps, told, outlets);
    let handle = Handle {
        end,
        snapshot,
        changed,
        heartbeat,
        engine,
        box_id,
    };
    (handle, tokio::spawn(task.run()))
}

impl Handle {
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

    /// Takes over what was committed by now and ends the task. Instances run on.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.end.send(reply).await.is_ok() {
            let _ = done.await;
        }
    }
}

#[cfg(test)]
mod tests;
