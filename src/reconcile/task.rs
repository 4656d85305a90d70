//! The task itself: what it holds, how it starts, and its loop. What a message means is in `adopt` (what shall be),
//! `observe` (Docker and agents) and `act` (steps); what is shown is in `publish`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{
    Deps, LinkReport, Snapshot,
    live::{Live, Order},
    ops::{Done, Told, Tools, Trouble},
    ports::{Installer, Ledger},
};
use crate::{
    catalog::Catalog,
    deploy_log::Deploys,
    docker::Engine,
    model::{BoxId, Desired, Endpoints, InstanceId, WorkspaceName},
    plan::{
        Millis, Observed, Orphan, Step,
        exchange::{DesiredState, Shown},
        life::Up,
        quota::{WorkspaceQuota, Workspaces},
        restart::engine_wait,
        spec::BoxFacts,
    },
    record::InstanceRecord,
    secret::BoxKey,
};

/// The loop turns at least this often, for the watchdog.
const TURN: Millis = 1_000;
/// Everything is listed again this often, whatever the events say.
const LIST_EVERY: Millis = 30_000;
/// Steps at the engine at once.
const STEPS_AT_ONCE: usize = 8;
/// Events that wait to be noticed; one is as good as many.
const WAKES: usize = 8;
/// After the event stream was asked for, it is there; what happened before is then found by a listing.
const EVENTS_SETTLE: Duration = Duration::from_millis(500);

/// Where the task's word goes.
pub(super) struct Outlets {
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) heartbeat: Arc<AtomicU64>,
}

pub(super) struct Limits {
    pub(super) max_message: usize,
    pub(super) install_bytes: u64,
}

/// An operation, for what it leaves should it panic.
#[derive(Debug)]
pub(super) enum Op {
    Step(Step),
    List,
    Hold(WorkspaceName, WorkspaceQuota),
    ExitReport(InstanceId),
    Probe(InstanceId),
    Order(InstanceId),
    Prove(InstanceId, u64),
    Report(Told, InstanceId),
}

/// What the events task says.
enum Wake {
    Changed,
    Lost,
}

pub(super) struct Task {
    pub(super) tools: Tools,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) key: Arc<BoxKey>,
    pub(super) catalog: Arc<ArcSwap<Catalog>>,
    pub(super) installer: Arc<dyn Installer>,
    pub(super) deploys: Deploys,
    pub(super) agent: PathBuf,
    pub(super) limits: Limits,
    pub(super) endpoints: Box<dyn Fn(&InstanceId) -> Endpoints + Send + Sync>,
    pub(super) outlets: Outlets,

    pub(super) desired: watch::Receiver<DesiredState>,
    /// What of it was taken over.
    pub(super) adopted: DesiredState,
    pub(super) shown: watch::Sender<Shown>,
    /// As adopted, but for what was given up and is not kept yet.
    pub(super) instances: BTreeMap<InstanceId, Arc<InstanceRecord>>,
    pub(super) workspaces: Workspaces,
    pub(super) lives: BTreeMap<InstanceId, Live>,

    /// None until the first listing: nothing is planned before.
    pub(super) observed: Option<Observed>,
    pub(super) facts: Option<BoxFacts>,
    /// Why the engine cannot be used, while it cannot.
    pub(super) away: Option<String>,
    pub(super) away_tries: u32,
    /// The engine was away: that containers ended meanwhile is not their fault.
    pub(super) after_loss: bool,
    pub(super) listing: bool,
    pub(super) list_at: Millis,
    pub(super) steps_done: u64,
    /// Their containers vanished: to be accounted for.
    pub(super) without_container: Vec<InstanceId>,
    /// By workspace: why it is not held to its quota.
    pub(super) quota_troubles: BTreeMap<WorkspaceName, String>,
    /// Being removed, or not removable until the next listing.
    pub(super) orphans: BTreeSet<Orphan>,

    pub(super) ops: JoinSet<Done>,
    /// What to answer for an operation that panicked.
    op_of: HashMap<tokio::task::Id, Op>,
    end: mpsc::Receiver<oneshot::Sender<()>>,
    link_events: mpsc::Receiver<LinkReport>,
    wakes: mpsc::Receiver<Wake>,
    _watcher: JoinSet<()>,
    born: Instant,
}

impl Task {
    pub(super) fn build(mut deps: Deps, end: mpsc::Receiver<oneshot::Sender<()>>, outlets: Outlets) -> Self {
        let adopted = deps.desired.borrow_and_update().clone();
        let (wake, wakes) = mpsc::channel(WAKES);
        let mut watcher = JoinSet::new();
        watcher.spawn(watch_events(deps.engine.clone(), deps.box_id.clone(), wake));
        let mut task = Self {
            tools: Tools {
                engine: deps.engine,
                links: deps.links,
                quotas: deps.quotas,
                box_id: deps.box_id,
                images: deps.images.into(),
                permits: Arc::new(Semaphore::new(STEPS_AT_ONCE)),
            },
            ledger: deps.ledger,
            key: deps.key,
            catalog: deps.catalog,
            installer: deps.installer,
            deploys: deps.deploys,
            agent: deps.agent,
            limits: Limits {
                max_message: deps.max_message,
                install_bytes: deps.install_bytes,
            },
            endpoints: deps.endpoints,
            outlets,
            lives: adopted
                .instances
                .keys()
                .map(|id| (id.clone(), Live::resumed()))
                .collect(),
            instances: (*adopted.instances).clone(),
            workspaces: Workspaces {
                records: (*adopted.workspaces).clone(),
                configured: deps.workspace,
            },
            desired: deps.desired,
            adopted,
            shown: deps.shown,
            observed: None,
            facts: None,
            away: None,
            away_tries: 0,
            after_loss: true,
            listing: false,
            list_at: 0,
            steps_done: 0,
            without_container: Vec::new(),
            quota_troubles: BTreeMap::new(),
            orphans: BTreeSet::new(),
            ops: JoinSet::new(),
            op_of: HashMap::new(),
            end,
            link_events: deps.link_events,
            wakes,
            _watcher: watcher,
            born: Instant::now(),
        };
        task.keep_images();
        task.publish();
        task
    }

    /// Milliseconds since the start.
    pub(super) fn now(&self) -> Millis {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    pub(super) async fn run(mut self) {
        self.open_links();
        loop {
            self.outlets.heartbeat.fetch_add(1, Ordering::Relaxed);
            self.on_time();
            self.advance();
            let wake_at = self.born + Duration::from_millis(self.next_wake());
            tokio::select! {
                told = self.end.recv() => {
                    // Who has an answer coming has it.
                    self.adopt();
                    if let Some(reply) = told {
                        let _ = reply.send(());
                    }
                    return;
                }
                Ok(()) = self.desired.changed() => self.adopt(),
                Some(report) = self.link_events.recv() => self.on_link(report),
                Some(wake) = self.wakes.recv() => self.on_wake(&wake),
                Some(done) = self.ops.join_next_with_id(), if !self.ops.is_empty() => self.on_joined(done),
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    fn on_wake(&mut self, wake: &Wake) {
        let soon = match wake {
            // Several events come at once.
            Wake::Changed => 20,
            Wake::Lost => {
                self.after_loss = true;
                engine_wait(1)
            }
        };
        self.list_at = self.list_at.min(self.now() + soon);
    }

    fn on_joined(&mut self, joined: Result<(tokio::task::Id, Done), tokio::task::JoinError>) {
        match joined {
            Ok((task, done)) => {
                self.op_of.remove(&task);
                self.on_done(done);
            }
            Err(e) if e.is_cancelled() => {
                if let Some(Op::Step(step)) = self.op_of.remove(&e.id()) {
                    self.on_broken_off(&step);
                }
            }
            Err(e) => {
                log::error!("an operation ended badly: {e}");
                if let Some(op) = self.op_of.remove(&e.id()) {
                    self.on_panicked(op, &format!("a fault of berth's own: {e}"));
                }
            }
        }
    }

    /// Whoever waits for a panicked operation gets an answer all the same.
    fn on_panicked(&mut self, op: Op, why: &str) {
        let why = why.to_owned();
        let done = match op {
            Op::List => {
                self.listing = false;
                self.list_at = self.now() + TURN;
                return;
            }
            Op::Step(step) => Done::Step(step, Err(Trouble::Other(why))),
            Op::Hold(workspace, quota) => Done::Held(workspace, quota, Err(why)),
            Op::ExitReport(id) => Done::ExitReport(id, format!("it ended; why could not be found out: {why}")),
            Op::Probe(id) => Done::Probed(id, Err(why)),
            Op::Order(id) => Done::Ordered(id, Err(why)),
            // Asked for again when it dials again.
            Op::Prove(id, generation) => Done::Proved(id, generation, Ok(None)),
            Op::Report(what, id) => Done::Reported(what, id, Err(why)),
        };
        self.on_done(done);
    }

    /// Agents that are there dial in at once, whether Docker answers yet or not.
    fn open_links(&mut self) {
        let running = |r: &InstanceRecord| r.desired == Desired::Running && r.failure.is_none();
        let all: Vec<_> = self
            .instances
            .values()
            .filter(|r| running(r))
            .map(|r| r.id.clone())
            .collect();
        for id in all {
            self.begin(Step::OpenLink { id });
        }
    }

    /// What is due by now.
    fn on_time(&mut self) {
        let now = self.now();
        if !self.listing && now >= self.list_at {
            self.listing = true;
            self.list_at = now + LIST_EVERY;
            let describe = self.facts.is_none() || self.after_loss;
            if !self.quota_troubles.is_empty() {
                // What could not be held may be by now.
                self.hold_workspaces();
            }
            let op = self.tools.clone().list(self.steps_done, describe);
            self.spawn(Op::List, op);
        }
        let mut probes = Vec::new();
        let (mut orders, mut unproven) = (Vec::new(), Vec::new());
        for (id, live) in &mut self.lives {
            let Some(record) = self.instances.get(id) else { continue };
            if record.desired != Desired::Running || record.failure.is_some() {
                continue;
            }
            let probe = live.life.up_mut().filter(|_| live.agent.is_up());
            if let Some(up) = probe
                && up.next_probe().is_some_and(|at| now >= at)
            {
                up.probing();
                probes.push((id.clone(), record.spec.health.timeout));
            }
            if live.agent.is_up() && live.order.due().is_some_and(|at| now >= at) {
                orders.push(id.clone());
            }
            if !live.work.starts() && live.proof.is_due(now) {
                unproven.push(id.clone());
            }
            if let Some((at, why)) = live.overdue(record)
                && now >= at
            {
                log::warn!(instance = id.as_str(); "to be restarted: {why}");
                live.life.kick(why);
            }
        }
        for (id, limit) in probes {
            let op = self.tools.clone().probe(id.clone(), limit);
            self.spawn(Op::Probe(id), op);
        }
        for id in unproven {
            self.begin_proof(&id);
        }
        for id in orders {
            if !self.may_order(&id) {
                continue;
            }
            if let Some(live) = self.lives.get_mut(&id) {
                live.order = Order::InFlight { again: None };
            }
            self.hand_over(id);
        }
    }

    /// When something is due next.
    fn next_wake(&self) -> Millis {
        let now = self.now();
        let mut next = now + TURN;
        if !self.listing {
            next = next.min(self.list_at);
        }
        for (id, live) in &self.lives {
            let Some(record) = self.instances.get(id) else { continue };
            if record.desired == Desired::Running && record.failure.is_none() {
                if live.agent.is_up() {
                    let probe = live.life.up().and_then(Up::next_probe);
                    // An order that must not be given yet waits for a step or a listing.
                    let order = live.order.due().filter(|_| self.may_order(id));
                    next = [probe, order].into_iter().flatten().fold(next, Millis::min);
                }
                next = next.min(live.overdue(record).map_or(Millis::MAX, |(at, _)| at));
                let cpu_until = live.start_cpu_until(record).filter(|at| *at > now);
                next = next.min(cpu_until.unwrap_or(Millis::MAX));
            }
            for at in [live.hold_until, live.retry.until] {
                if at > now {
                    next = next.min(at);
                }
            }
        }
        next
    }

    pub(super) fn spawn(&mut self, op: Op, work: impl Future<Output = Done> + Send + 'static) -> AbortHandle {
        let handle = self.ops.spawn(work);
        self.op_of.insert(handle.id(), op);
        handle
    }
}

/// Watches the engine's events and only wakes; a stream that is lost is sought again.
async fn watch_events(engine: Arc<dyn Engine>, box_id: BoxId, wake: mpsc::Sender<Wake>) {
    let mut tries = 0;
    loop {
        let mut events = engine.events(&box_id);
        let mut settled = std::pin::pin!(tokio::time::sleep(EVENTS_SETTLE));
        let mut had = false;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = &mut settled, if !had => Some(Ok(())),
            };
            let Some(Ok(())) = event else { break };
            had = true;
            // A full queue wakes as well as one more entry would.
            if let Err(mpsc::error::TrySendError::Closed(_)) = wake.try_send(Wake::Changed) {
                return;
            }
        }
        tries = if had { 1 } else { tries + 1 };
        if had && wake.send(Wake::Lost).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(engine_wait(tries))).await;
    }
}
