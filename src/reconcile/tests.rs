//! Reconciler and ledger, put together as the assembly does it, against an engine and links that live in memory and a store
//! that is real: whole lives of instances, and faults.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Condvar, Mutex, atomic::AtomicU32},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::timeout;

use super::*;
use crate::{
    catalog::{HealthContract, ImageRef, InstanceType, Mcp, Transport},
    config::Allow,
    docker::{EngineInfo, Exit},
    ledger::{self, Cut, InstanceUse, LastUse, NoRandom, Storage, Tokens},
    link::{LinkError, LinkEvent, Patience},
    model::{
        AGENT_PROTOCOL, Action, AgentState, AgentStatus, Endpoint, Health, MemberName, Outcome, PackageSource,
        Principal, Processes, Resolved, RunRequest, Secret, Size, Source, StartOrder, State, Subject, TokenId,
        TypeName,
    },
    plan::{
        Observed, Owner, Run, SeenContainer,
        exchange::{Report, Shown},
        quota::WorkspaceQuota,
        spec::{ContainerSpec, LABEL_INSTANCE, LABEL_SPEC, resource_name},
    },
    policy::Access,
    record::TokenRecord,
    store::{Change, Store, StoreError},
};

type EngineFuture<'a, T> = BoxFuture<'a, Result<T, EngineError>>;

/// What the world does, and did.
#[derive(Default)]
struct World {
    seen: Mutex<Observed>,
    made: AtomicU32,
    away: std::sync::atomic::AtomicBool,
    image_missing: std::sync::atomic::AtomicBool,
    pull_hangs: std::sync::atomic::AtomicBool,
    /// Containers exit at once with this status.
    dies: std::sync::atomic::AtomicBool,
    healthy: std::sync::atomic::AtomicBool,
    orders: Mutex<Vec<StartOrder>>,
    /// Images that the installer was told to keep, and those that containers were made from.
    kept: Mutex<BTreeSet<String>>,
    images: Mutex<Vec<String>>,
    calls: Mutex<Vec<String>>,
    table: Mutex<BTreeMap<TokenId, InstanceId>>,
    links: Mutex<BTreeMap<InstanceId, bool>>,
    /// Agents take their start order and never get ready.
    mute: std::sync::atomic::AtomicBool,
    /// Looking at how a container ended panics, once.
    exit_panics: std::sync::atomic::AtomicBool,
    /// Stopping a container takes until this is false.
    stop_hangs: std::sync::atomic::AtomicBool,
    no_quota: std::sync::atomic::AtomicBool,
    /// By cgroup: what it was last held to.
    held: Mutex<BTreeMap<String, WorkspaceQuota>>,
    cpus: Mutex<BTreeMap<String, i64>>,
    generation: AtomicU64,
    /// Process 1 of the container that was started last; and who was said to be the agent.
    pid: AtomicU32,
    proved: Mutex<Vec<u32>>,
    agents: Mutex<Option<crate::model::User>>,
    events: tokio::sync::Notify,
    say: Mutex<Option<mpsc::Sender<LinkReport>>>,
    /// Commits are held up while it is true; and how many were begun.
    gate: Mutex<bool>,
    opened: Condvar,
    commits: AtomicU32,
}

impl World {
    fn check(&self, call: &str) -> Result<(), EngineError> {
        self.calls.lock().unwrap().push(call.to_owned());
        if self.away.load(Ordering::SeqCst) {
            return Err(EngineError::Unreachable {
                socket: "/x".into(),
                why: "refused".into(),
            });
        }
        Ok(())
    }

    fn say(&self, id: &InstanceId, event: LinkEvent) {
        self.say_of(self.generation.load(Ordering::SeqCst), id, event);
    }

    fn say_of(&self, generation: u64, id: &InstanceId, event: LinkEvent) {
        let say = self.say.lock().unwrap().clone().unwrap();
        let report = LinkReport {
            id: id.clone(),
            generation,
            event,
        };
        say.try_send(report).unwrap();
    }

    /// What was asked of the engine, but for looking.
    fn steps(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let acts = calls
            .iter()
            .filter(|c| !matches!(c.as_str(), "list" | "info") && !c.starts_with("pid"));
        acts.cloned().collect()
    }

    fn cpu(&self) -> i64 {
        *self.cpus.lock().unwrap().first_key_value().unwrap().1
    }

    fn status(state: AgentState, spec: Option<String>, reason: Option<&str>) -> LinkEvent {
        LinkEvent::Status(AgentStatus {
            protocol: AGENT_PROTOCOL,
            version: "0".into(),
            state,
            spec,
            revision: 0,
            reason: reason.map(str::to_owned),
            services: vec![],
            sessions: 0,
            processes: 0,
            oom_kills: 0,
        })
    }

    fn end(&self, container: &str) {
        let mut seen = self.seen.lock().unwrap();
        let c = seen.containers.get_mut(container).unwrap();
        c.run = Run::Exited;
        let id = InstanceId::parse(&c.owner.instance).unwrap();
        drop(seen);
        self.say(&id, LinkEvent::Down);
        self.events.notify_waiters();
    }

    fn container(&self) -> (String, Run) {
        let seen = self.seen.lock().unwrap();
        let (id, c) = seen.containers.first_key_value().unwrap();
        (id.clone(), c.run)
    }
}

struct Fake(Arc<World>);

impl Engine for Fake {
    fn info(&self) -> EngineFuture<'_, EngineInfo> {
        async {
            self.0.check("info").map(|()| EngineInfo {
                cpus: 2,
                users_from: crate::model::User {
                    uid: 100_000,
                    gid: 200_000,
                },
                ..EngineInfo::default()
            })
        }
        .boxed()
    }
    fn list<'a>(&'a self, _: &'a BoxId) -> EngineFuture<'a, Observed> {
        async { self.0.check("list").map(|()| self.0.seen.lock().unwrap().clone()) }.boxed()
    }
    fn create<'a>(&'a self, spec: &'a ContainerSpec) -> EngineFuture<'a, String> {
        async {
            self.0.check("create")?;
            if self.0.image_missing.load(Ordering::SeqCst) {
                let why = "No such image: x".to_owned();
                return Err(EngineError::NotFound { what: "create", why });
            }
            self.0.images.lock().unwrap().push(spec.image.clone());
            let n = self.0.made.fetch_add(1, Ordering::SeqCst);
            let c = SeenContainer {
                owner: Owner {
                    box_id: spec.labels["berth.box"].clone(),
                    instance: spec.labels[LABEL_INSTANCE].clone(),
                },
                spec: spec.labels[LABEL_SPEC].clone(),
                run: Run::Created,
            };
            let name = format!("c{n}");
            self.0.seen.lock().unwrap().containers.insert(name.clone(), c);
            self.0.cpus.lock().unwrap().insert(name.clone(), spec.nano_cpus);
            Ok(name)
        }
        .boxed()
    }
    fn start<'a>(&'a self, container: &'a str) -> EngineFuture<'a, ()> {
        async move {
            self.0.check("start")?;
            let mut seen = self.0.seen.lock().unwrap();
            let c = seen.containers.get_mut(container).unwrap();
            c.run = Run::Running;
            self.0.pid.fetch_add(1, Ordering::SeqCst);
            let id = InstanceId::parse(&c.owner.instance).unwrap();
            drop(seen);
            if self.0.dies.load(Ordering::SeqCst) {
                self.0.end(container);
            } else {
                self.0.say(&id, LinkEvent::Up);
            }
            Ok(())
        }
        .boxed()
    }
    fn stop<'a>(&'a self, container: &'a str, _: i32) -> EngineFuture<'a, ()> {
        async move {
            self.0.check("stop")?;
            while self.0.stop_hangs.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.0.end(container);
            Ok(())
        }
        .boxed()
    }
    fn pid<'a>(&'a self, container: &'a str) -> EngineFuture<'a, Option<u32>> {
        async move {
            self.0.check(&format!("pid of {container}"))?;
            Ok(Some(self.0.pid.load(Ordering::SeqCst)))
        }
        .boxed()
    }
    fn cpu<'a>(&'a self, container: &'a str) -> EngineFuture<'a, i64> {
        async move { Ok(self.0.cpus.lock().unwrap()[container]) }.boxed()
    }
    fn set_cpu<'a>(&'a self, container: &'a str, nano_cpus: i64) -> EngineFuture<'a, ()> {
        async move {
            self.0.check(&format!("cpu {}", nano_cpus / 1_000_000))?;
            self.0.cpus.lock().unwrap().insert(container.to_owned(), nano_cpus);
            Ok(())
        }
        .boxed()
    }
    fn remove<'a>(&'a self, container: &'a str) -> EngineFuture<'a, ()> {
        async move {
            self.0.check("remove")?;
            self.0.seen.lock().unwrap().containers.remove(container);
            self.0.cpus.lock().unwrap().remove(container);
            Ok(())
        }
        .boxed()
    }
    fn exit<'a>(&'a self, _: &'a str) -> EngineFuture<'a, Exit> {
        async {
            let panics = self.0.exit_panics.swap(false, Ordering::SeqCst);
            assert!(!panics, "the exit report panics");
            Ok(Exit {
                code: 3,
                ..Exit::default()
            })
        }
        .boxed()
    }
    fn create_network<'a>(&'a self, _: &'a str, _: &'a str, _: &'a BTreeMap<String, String>) -> EngineFuture<'a, ()> {
        async { self.0.check("create network") }.boxed()
    }
    fn remove_network<'a>(&'a self, _: &'a str) -> EngineFuture<'a, ()> {
        async { self.0.check("remove network") }.boxed()
    }
    fn remove_volume<'a>(&'a self, _: &'a str) -> EngineFuture<'a, ()> {
        async { self.0.check("remove volume") }.boxed()
    }
    fn pull<'a>(&'a self, _: &'a str) -> EngineFuture<'a, ()> {
        async {
            if self.0.pull_hangs.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let why = "no registry".to_owned();
            Err(EngineError::Refused { what: "pull", why })
        }
        .boxed()
    }
    fn last_words<'a>(&'a self, _: &'a str, _: u32, _: usize) -> EngineFuture<'a, String> {
        async { Ok("Error: no API key".to_owned()) }.boxed()
    }
    fn logs(&self, _: &str, _: bool, _: Option<u32>) -> BoxStream<'static, Result<Bytes, EngineError>> {
        stream::once(async { Ok(Bytes::from_static(b"line\n")) }).boxed()
    }
    fn events(&self, _: &BoxId) -> BoxStream<'static, Result<(), EngineError>> {
        let world = self.0.clone();
        if world.away.load(Ordering::SeqCst) {
            return stream::empty().boxed();
        }
        stream::unfold(world, |w| async move {
            w.events.notified().await;
            Some((Ok(()), w))
        })
        .boxed()
    }
}

struct FakeLinks(Arc<World>);

impl Links for FakeLinks {
    fn open<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<PathBuf, LinkError>> {
        async move {
            self.0.links.lock().unwrap().insert(id.clone(), true);
            Ok(PathBuf::from("/run/x"))
        }
        .boxed()
    }
    fn close<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, ()> {
        async move { self.0.links.lock().unwrap().retain(|i, _| i != id) }.boxed()
    }
    fn renew(&self, _: &InstanceId) -> u64 {
        self.0.generation.fetch_add(1, Ordering::SeqCst) + 1
    }
    fn set_agents(&self, user: crate::model::User) -> Result<(), LinkError> {
        *self.0.agents.lock().unwrap() = Some(user);
        Ok(())
    }
    fn prove(&self, _: &InstanceId, pid: u32) {
        self.0.proved.lock().unwrap().push(pid);
    }
    fn set_state(&self, _: &InstanceId, _: State, _: Option<u32>) {}
    fn set_patience(&self, _: &InstanceId, _: Patience) {}
    fn start<'a>(&'a self, id: &'a InstanceId, order: &'a StartOrder) -> BoxFuture<'a, Result<(), LinkError>> {
        async move {
            self.0.orders.lock().unwrap().push(order.clone());
            if !self.0.mute.load(Ordering::SeqCst) {
                self.0
                    .say(id, World::status(AgentState::Ready, Some(order.spec.clone()), None));
            }
            Ok(())
        }
        .boxed()
    }
    fn health<'a>(&'a self, _: &'a InstanceId, _: Duration) -> BoxFuture<'a, Result<(), LinkError>> {
        let well = self.0.healthy.load(Ordering::SeqCst);
        let stuck = || LinkError::Refused {
            what: "ask for health",
            status: 503,
            reason: "stuck".to_owned(),
        };
        async move { if well { Ok(()) } else { Err(stuck()) } }.boxed()
    }
}

struct FakeQuotas(Arc<World>);

impl Quotas for FakeQuotas {
    fn hold<'a>(&'a self, parent: &'a str, quota: WorkspaceQuota, _: bool) -> BoxFuture<'a, Result<(), QuotaError>> {
        let refused = self.0.no_quota.load(Ordering::SeqCst);
        async move {
            if refused {
                let said = "read-only file system".to_owned();
                let slice = parent.to_owned();
                return Err(crate::cgroup::SliceError::Refused { slice, said }.into());
            }
            self.0.held.lock().unwrap().insert(parent.to_owned(), quota);
            Ok(())
        }
        .boxed()
    }
    fn may_set(&self) -> bool {
        true
    }
    fn release(&self, parent: &str, _: bool) {
        self.0.calls.lock().unwrap().push(format!("release {parent}"));
    }
}

struct FakeInstaller(Arc<World>);

impl Installer for FakeInstaller {
    fn prepare<'a>(
        &'a self,
        what: Preparation,
        words: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> BoxFuture<'a, Result<Resolved, Unprepared>> {
        async move {
            self.0.calls.lock().unwrap().push("prepare".to_owned());
            words("npm: fetching");
            while self.0.pull_hangs.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let version = match what.source.package().and_then(|p| p.version.clone()) {
                Some(v) if v == "404" => return Err(Unprepared::Final("npm error 404".into())),
                Some(v) => v,
                None => "9.9.9".to_owned(),
            };
            Ok(Resolved {
                image: format!("berth/built:{version}"),
                image_id: format!("sha256:{version}"),
                lock: "l".into(),
                command: vec!["/opt/mcp/x".into()],
                tree: vec![format!("x@{version}")].into(),
                version,
            })
        }
        .boxed()
    }
    fn keep(&self, images: BTreeSet<String>) {
        *self.0.kept.lock().unwrap() = images;
    }
}

struct FakeTokens(Arc<World>);

struct Unheard;

impl ledger::Journal for Unheard {
    fn append(&self, _: &crate::model::AuditRow<'_>) {}
}

impl Tokens for FakeTokens {
    fn mint(&self, _: &Subject) -> Result<(Secret, [u8; 32]), NoRandom> {
        Ok((Secret::new("brt_i_x"), [7; 32]))
    }
    fn insert(&self, t: &TokenRecord, _: Principal) {
        if let Subject::Instance(id) = &t.subject {
            self.0.table.lock().unwrap().insert(t.id.clone(), id.clone());
        }
    }
    fn remove(&self, id: &TokenId) -> Cut {
        self.0.table.lock().unwrap().remove(id);
        Cut::default()
    }
    fn remove_instance(&self, id: &InstanceId) {
        self.0.table.lock().unwrap().retain(|_, i| i != id);
    }
    fn shorten(&self, _: &TokenId, _: jiff::Timestamp) {}
    fn end(&self, _: &TokenId) {}
    fn narrow(&self, _: &BTreeSet<MemberName>, _: &Access) -> Cut {
        Cut::default()
    }
    fn sign_out(&self, _: &MemberName) -> Cut {
        Cut::default()
    }
    fn last_use(&self, _: &TokenId) -> Option<LastUse> {
        Some(LastUse {
            at: 1_790_000_000,
            from: None,
        })
    }
    fn used(&self, _: &TokenId, _: &InstanceId) -> Option<i64> {
        None
    }
    fn uses(&self) -> Vec<InstanceUse> {
        Vec::new()
    }
}

fn a_type() -> InstanceType {
    let image = ImageRef {
        reference: "berth/echo:1".into(),
        digest: None,
    };
    let mcp = Mcp::of(Transport::Stdio {
        command: vec!["echo".into()],
        env: BTreeMap::new(),
        processes: Processes::Session,
    });
    InstanceType {
        health: HealthContract {
            interval: Duration::from_millis(40),
            timeout: Duration::from_millis(20),
            failures: 2,
            start_timeout: Duration::from_secs(30),
            ..HealthContract::default()
        },
        size: Size::Small,
        ..InstanceType::of(TypeName::parse("echo").unwrap(), image, mcp)
    }
}

/// The real store, whose commits can be held up.
struct Gated(Store, Arc<World>);

impl Storage for Gated {
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.1.commits.fetch_add(1, Ordering::SeqCst);
        let held = self.1.gate.lock().unwrap();
        drop(self.1.opened.wait_while(held, |held| *held).unwrap());
        self.0.commit(changes)
    }
}

struct ToLedger(ledger::Handle);

impl Ledger for ToLedger {
    fn report(&self, report: Report) -> BoxFuture<'_, Result<(), Refusal>> {
        self.0.report(report).boxed()
    }
}

struct Bench {
    world: Arc<World>,
    handle: Handle,
    ledger: ledger::Handle,
    catalog: Arc<ArcSwap<Catalog>>,
    tasks: [JoinHandle<()>; 2],
    dir: tempfile::TempDir,
}

fn start_on(world: Arc<World>, dir: tempfile::TempDir) -> Bench {
    start_with(world, dir, a_type())
}

fn start_with(world: Arc<World>, dir: tempfile::TempDir, t: InstanceType) -> Bench {
    let (say, link_events) = mpsc::channel(64);
    *world.say.lock().unwrap() = Some(say);
    let npx = InstanceType {
        name: TypeName::parse("npx").unwrap(),
        kind: crate::catalog::Kind::Npx,
        builder: Some("berth/npm:11".into()),
        ..a_type()
    };
    let mut store = Store::open(dir.path(), &BoxId::from_random([1; 8])).unwrap();
    let box_id = store.box_id().clone();
    let key = Arc::new(BoxKey::load_or_create(&dir.path().join("keys")).unwrap());
    let types = [(t.name.clone(), Arc::new(t)), (npx.name.clone(), Arc::new(npx))].into();
    let catalog = Arc::new(ArcSwap::from_pointee(Catalog { types }));
    let images = vec!["berth/*".to_owned(), "registry.test/*".to_owned()];
    let (show, shown) = watch::channel(Shown::default());
    let (ledger, ledger_task) = ledger::spawn(ledger::Deps {
        loaded: store.load().unwrap(),
        storage: Box::new(Gated(store, world.clone())),
        box_id: box_id.clone(),
        key: key.clone(),
        tokens: Arc::new(FakeTokens(world.clone())),
        journal: Arc::new(Unheard),
        catalog: catalog.clone(),
        images: images.clone(),
        allow: Allow::default(),
        max_instances: 2,
        max_tokens_per_instance: 2,
        install_bytes: 2 << 30,
        workspace: WorkspaceLimits::default(),
        removed: dir.path().join("removed"),
        shown,
    })
    .unwrap();
    let (handle, task) = spawn(Deps {
        box_id,
        key,
        desired: ledger.desired(),
        ledger: Arc::new(ToLedger(ledger.clone())),
        shown: show,
        engine: Arc::new(Fake(world.clone())),
        links: Arc::new(FakeLinks(world.clone())),
        link_events,
        quotas: Arc::new(FakeQuotas(world.clone())),
        workspace: WorkspaceLimits::default(),
        catalog: catalog.clone(),
        agent: "/usr/bin/berth".into(),
        images,
        installer: Arc::new(FakeInstaller(world.clone())),
        deploys: Deploys::new(dir.path().join("deploys")),
        max_message: 1 << 20,
        install_bytes: 2 << 30,
        endpoints: Box::new(|id| Endpoints {
            mcp: Endpoint {
                url: format!("https://mcp-{id}.x/mcp"),
                path_url: format!("https://x/mcp/{id}"),
            },
            screen: None,
        }),
    });
    Bench {
        world,
        handle,
        ledger,
        catalog,
        tasks: [ledger_task, task],
        dir,
    }
}

fn start() -> Bench {
    let world = Arc::new(World::default());
    world.healthy.store(true, Ordering::SeqCst);
    start_on(world, tempfile::tempdir().unwrap())
}

impl Bench {
    async fn run(&self) -> InstanceView {
        let request = RunRequest {
            env: [("API_KEY".to_owned(), Secret::new("hunter2"))].into(),
            ..RunRequest::of(TypeName::parse("echo").unwrap())
        };
        match self.act(Action::Run(Box::new(request))).await.unwrap() {
            Outcome::Instance(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    async fn until(&self, what: &str, f: impl Fn(&BTreeMap<InstanceId, InstanceView>) -> bool) {
        let mut changed = self.handle.changed();
        let reached = async {
            while !f(&self.handle.views()) {
                let _ = timeout(Duration::from_millis(50), changed.changed()).await;
            }
        };
        if timeout(Duration::from_secs(10), reached).await.is_err() {
            panic!(
                "not {what}: {:#?}\n{:?}",
                self.handle.views(),
                self.world.calls.lock().unwrap()
            );
        }
    }

    async fn until_state(&self, id: &InstanceId, state: State) {
        self.until(&state.to_string(), |v| v.get(id).is_some_and(|v| v.state == state))
            .await;
    }

    /// Ends as the assembly does it.
    async fn end(self) -> (Arc<World>, tempfile::TempDir) {
        self.ledger.shutdown().await;
        self.handle.shutdown().await;
        for task in self.tasks {
            task.await.unwrap();
        }
        (self.world, self.dir)
    }

    /// The same box with a supervisor that was killed and started anew.
    async fn killed_and_started(self) -> Bench {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        drop((self.handle, self.ledger));
        // The store's thread ends after the task, and until then the store is in use.
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        while let Err(e) = Store::open(self.dir.path(), &BoxId::from_random([1; 8])) {
            assert!(tokio::time::Instant::now() < end, "{e}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.world.calls.lock().unwrap().clear();
        start_on(self.world, self.dir)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_from_run_to_removal() {
    let bench = start();
    let view = bench.run().await;
    let id = view.id.clone();
    assert_eq!(view.token.unwrap().expose(), "brt_i_x");
    assert_eq!(view.name.as_str(), "echo");
    bench.until_state(&id, State::Running).await;
    assert_eq!(bench.handle.views()[&id].health, Health::Healthy);
    let order = bench.world.orders.lock().unwrap()[0].clone();
    assert_eq!(order.env["API_KEY"].expose(), "hunter2");
    let made = ["create", "start", "cpu 250"];
    assert_eq!(bench.world.steps(), made, "no more calls than it takes");

    bench.act(Action::Stop { id: id.clone() }).await.unwrap();
    bench.until_state(&id, State::Stopped).await;
    assert_eq!(bench.world.container().1, Run::Exited);
    bench.act(Action::Start { id: id.clone() }).await.unwrap();
    bench.until_state(&id, State::Running).await;
    assert_eq!(bench.world.container().0, "c0", "start keeps the container");
    bench.act(Action::Recreate { id: id.clone() }).await.unwrap();
    bench
        .until("recreated", |v| {
            v[&id].state == State::Running && bench.world.container().0 == "c1"
        })
        .await;
    assert_eq!(
        bench.handle.views()[&id].restarts,
        0,
        "what was asked for is no restart"
    );
    assert_eq!(bench.ledger.tokens().len(), 1);

    assert_eq!(bench.act(Action::Remove { id: id.clone() }).await, Ok(Outcome::Done));
    assert!(
        bench.world.table.lock().unwrap().is_empty(),
        "tokens are refused at once"
    );
    bench.until("gone", BTreeMap::is_empty).await;
    assert!(bench.world.seen.lock().unwrap().containers.is_empty());
    assert!(bench.world.links.lock().unwrap().is_empty());
    assert!(bench.world.steps().iter().any(|s| s.starts_with("release /berth/")));
    assert!(bench.ledger.tokens().is_empty());
    assert_eq!(
        bench.act(Action::Stop { id: id.clone() }).await,
        Err(Refusal::no_instance(id))
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_adopted_and_not_touched() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    let bench = bench.killed_and_started().await;
    assert_eq!(bench.world.table.lock().unwrap().len(), 1, "tokens serve at once");
    bench
        .until("link open", |_| bench.world.links.lock().unwrap().contains_key(&id))
        .await;
    bench.world.say(&id, LinkEvent::Up);
    bench.until_state(&id, State::Running).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let calls = bench.world.calls.lock().unwrap().clone();
    let looks = |c: &String| c == "list" || c == "info" || c.starts_with("pid");
    assert!(calls.iter().all(looks), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_interrupted_goes_on() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    bench.world.away.store(true, Ordering::SeqCst);
    bench.act(Action::Remove { id: id.clone() }).await.unwrap();
    let bench = bench.killed_and_started().await;
    assert_eq!(bench.handle.views()[&id].state, State::Removing);
    assert!(bench.world.table.lock().unwrap().is_empty());
    bench.world.away.store(false, Ordering::SeqCst);
    bench.until("gone", BTreeMap::is_empty).await;
    assert!(bench.world.seen.lock().unwrap().containers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_dying_is_given_up_with_its_last_words() {
    tokio::time::timeout(Duration::from_secs(40), async {
        let bench = start();
        bench.world.dies.store(true, Ordering::SeqCst);
        let id = bench.run().await.id;
        bench.until("restarting", |v| v[&id].restarts >= 2).await;
        let reason = bench.handle.views()[&id].reason.clone().unwrap();
        assert!(reason.contains("exited with status 3: Error: no API key"), "{reason}");
        assert_eq!(bench.handle.views()[&id].state, State::Starting);
        bench.world.dies.store(false, Ordering::SeqCst);
        bench.until_state(&id, State::Running).await;
        assert_eq!(bench.handle.views()[&id].reason, None);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_gone_is_said_at_once_and_start_tries_again() {
    let bench = start();
    bench.world.image_missing.store(true, Ordering::SeqCst);
    let id = bench.run().await.id;
    bench.until_state(&id, State::Failed).await;
    let reason = bench.handle.views()[&id].reason.clone().unwrap();
    assert!(
        reason.contains("berth/echo:1") && reason.contains("make images"),
        "{reason}"
    );
    // It is shown at once, and kept within moments.
    let kept = |bench: &Bench| bench.ledger.desired().borrow().instances[&id].failure.clone();
    bench.until("kept", |_| kept(&bench).as_deref() == Some(&*reason)).await;
    let bench = bench.killed_and_started().await;
    assert_eq!(bench.handle.views()[&id].state, State::Failed, "and it is kept");
    bench.world.image_missing.store(false, Ordering::SeqCst);
    bench.act(Action::Start { id: id.clone() }).await.unwrap();
    bench.until_state(&id, State::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_removed_by_hand_is_made_again() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    bench.world.seen.lock().unwrap().containers.clear();
    bench.world.say(&id, LinkEvent::Down);
    bench.world.events.notify_waiters();
    bench
        .until("made again", |v| v[&id].restarts == 1 && v[&id].state == State::Running)
        .await;
    assert_eq!(bench.world.container(), ("c1".to_owned(), Run::Running));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unhealthy_are_restarted() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    bench.world.healthy.store(false, Ordering::SeqCst);
    bench.until("restarting", |v| v[&id].restarts == 1).await;
    bench.world.healthy.store(true, Ordering::SeqCst);
    bench.until_state(&id, State::Running).await;
    assert_eq!(bench.handle.views()[&id].health, Health::Healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_away_costs_nobody_a_death() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    bench.world.away.store(true, Ordering::SeqCst);
    let (container, _) = bench.world.container();
    bench.world.end(&container);
    bench
        .until("told", |v| {
            v[&id].reason.as_ref().is_some_and(|r| r.contains("does not answer"))
        })
        .await;
    bench.world.away.store(false, Ordering::SeqCst);
    bench.until_state(&id, State::Running).await;
    assert_eq!(bench.handle.views()[&id].restarts, 0);
}

/// A full disk keeps the engine from starting: whatever starts it finds which volumes it can empty, until they are gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_volume_of_a_removed_instance_can_be_emptied_without_the_engine() {
    let t = InstanceType {
        volume: Some("/data".into()),
        ..a_type()
    };
    let world = Arc::new(World::default());
    world.healthy.store(true, Ordering::SeqCst);
    let bench = start_with(world, tempfile::tempdir().unwrap(), t);
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    let note = bench
        .dir
        .path()
        .join("removed")
        .join(resource_name(&BoxId::from_random([1; 8]), &id));
    bench.world.away.store(true, Ordering::SeqCst);
    assert!(!note.exists());
    bench.act(Action::Remove { id: id.clone() }).await.unwrap();
    assert!(note.exists());
    // Another boot has another runtime folder.
    std::fs::remove_file(&note).unwrap();
    let bench = bench.killed_and_started().await;
    assert!(note.exists());
    bench.world.away.store(false, Ordering::SeqCst);
    bench.until("gone", |v| v.is_empty()).await;
    assert!(!note.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_are_refused_with_words_and_change_nothing() {
    let bench = start();
    bench.run().await;
    bench.run().await;
    let names: Vec<String> = bench.handle.views().values().map(|v| v.name.to_string()).collect();
    assert!(names.contains(&"echo-2".to_owned()), "{names:?}");
    let mut request = RunRequest::of(TypeName::parse("echo").unwrap());
    let refused = bench.act(Action::Run(Box::new(request.clone()))).await;
    assert!(matches!(refused, Err(Refusal::Full { limit: 2, .. })), "{refused:?}");
    request.type_name = TypeName::parse("nope").unwrap();
    let refused = bench.act(Action::Run(Box::new(request))).await;
    assert!(matches!(refused, Err(Refusal::NoType { .. })), "{refused:?}");
    assert_eq!(bench.handle.views().len(), 2);
    let before = bench.handle.heartbeat();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(bench.handle.heartbeat() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_does_not_wait_for_a_pull() {
    let bench = start();
    let mut t = a_type();
    t.image.reference = "registry.test/echo:1".into();
    t.image.digest = Some(format!("sha256:{:064}", 0));
    let types = [(t.name.clone(), Arc::new(t))].into();
    bench.catalog.store(Arc::new(Catalog { types }));
    bench.world.image_missing.store(true, Ordering::SeqCst);
    bench.world.pull_hangs.store(true, Ordering::SeqCst);
    let id = bench.run().await.id;
    let fetching = |r: &Option<String>| {
        r.as_ref()
            .is_some_and(|r| r.contains("fetching the image registry.test/echo:1"))
    };
    bench.until("fetching", |v| fetching(&v[&id].reason)).await;
    bench.act(Action::Remove { id }).await.unwrap();
    bench.until("gone", BTreeMap::is_empty).await;
}

#[path = "held_tests.rs"]
mod held;
#[path = "proof_tests.rs"]
mod proof;
#[path = "start_tests.rs"]
mod start;

fn npx(version: Option<&str>) -> Action {
    Action::Run(Box::new(RunRequest {
        source: Some(Source::Npx(PackageSource {
            package: "@s/x".into(),
            version: version.map(str::to_owned),
            bin: None,
            args: vec!["--flag".into()],
        })),
        env: [("API_KEY".to_owned(), Secret::new("hunter2"))].into(),
        ..RunRequest::of(TypeName::parse("npx").unwrap())
    }))
}

impl Bench {
    /// As root on the box asks.
    async fn act(&self, action: Action) -> Result<Outcome, Refusal> {
        let signed = crate::policy::signed_by_root(action);
        self.ledger.submit(signed).await
    }

    async fn submit(&self, action: Action) -> InstanceView {
        match self.act(action).await.unwrap() {
            Outcome::Instance(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    fn prepared(&self) -> usize {
        self.world
            .calls
            .lock()
            .unwrap()
            .iter()
            .filter(|c| *c == "prepare")
            .count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_installed_once_and_every_start_runs_the_same() {
    let bench = start();
    let id = bench.submit(npx(Some("1.0.0"))).await.id;
    bench.until_state(&id, State::Running).await;
    let order = bench.world.orders.lock().unwrap()[0].clone();
    let crate::model::McpTransport::Stdio { command, .. } = order.mcp.transport else {
        panic!("stdio");
    };
    assert_eq!(command, ["/opt/mcp/x", "--flag"]);
    assert_eq!(*bench.world.images.lock().unwrap(), ["sha256:1.0.0"], "by id");
    assert!(bench.world.kept.lock().unwrap().contains("berth/built:1.0.0"));
    bench.submit(Action::Recreate { id: id.clone() }).await;
    bench
        .until("recreated", |v| {
            v[&id].state == State::Running && bench.world.images.lock().unwrap().len() == 2
        })
        .await;
    let bench = bench.killed_and_started().await;
    bench.submit(Action::Recreate { id: id.clone() }).await;
    bench
        .until("again", |v| {
            v[&id].state == State::Running && bench.world.images.lock().unwrap().len() == 3
        })
        .await;
    assert_eq!(bench.prepared(), 0, "what was installed is not installed again");
    assert!(bench.world.images.lock().unwrap().iter().all(|i| i == "sha256:1.0.0"));
    // Its image is lost: it is made again, of what it was made of before.
    bench.world.image_missing.store(true, Ordering::SeqCst);
    bench.submit(Action::Recreate { id: id.clone() }).await;
    bench.until("prepared", |_| bench.prepared() > 0).await;
    bench.world.image_missing.store(false, Ordering::SeqCst);
    bench.until_state(&id, State::Running).await;
    bench.act(Action::Remove { id }).await.unwrap();
    bench.until("gone", BTreeMap::is_empty).await;
    assert!(bench.world.kept.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_fails_is_told_and_one_that_hangs_holds_nobody_up() {
    let bench = start();
    let id = bench.submit(npx(Some("404"))).await.id;
    bench.until_state(&id, State::Failed).await;
    assert_eq!(bench.handle.views()[&id].reason.as_deref(), Some("npm error 404"));
    bench.world.pull_hangs.store(true, Ordering::SeqCst);
    let hangs = bench.submit(npx(None)).await.id;
    let installing = |r: &Option<String>| r.as_ref().is_some_and(|r| r.contains("installing @s/x"));
    bench.until("installing", |v| installing(&v[&hangs].reason)).await;
    bench.act(Action::Remove { id: hangs.clone() }).await.unwrap();
    bench.until("gone", |v| !v.contains_key(&hangs)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_tried_pinned_and_taken_over() {
    let bench = start();
    let id = bench.submit(npx(Some("1.0.0"))).await.id;
    bench.until_state(&id, State::Running).await;
    let pin = |pinned| Action::Pin { id: id.clone(), pinned };
    let newer = Action::Try {
        id: id.clone(),
        version: None,
    };
    bench.submit(pin(true)).await;
    let refused = bench.act(newer.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("pinned to 1.0.0"), "{refused}");
    bench.submit(pin(false)).await;
    let trial = bench.submit(newer).await.id;
    bench.until_state(&trial, State::Running).await;
    let view = bench.handle.views()[&trial].clone();
    assert_eq!(view.package.as_ref().unwrap().version.as_deref(), Some("9.9.9"));
    assert_eq!(view.package.unwrap().trial_of, Some(id.clone()));
    let orders = bench.world.orders.lock().unwrap().clone();
    assert!(
        orders.iter().all(|o| o.env["API_KEY"].expose() == "hunter2"),
        "it has the same values"
    );
    bench
        .submit(Action::Upgrade {
            id: id.clone(),
            trial: trial.clone(),
        })
        .await;
    bench
        .until("upgraded", |v| {
            v[&id].state == State::Running && v[&id].package.as_ref().unwrap().version.as_deref() == Some("9.9.9")
        })
        .await;
    assert_eq!(bench.prepared(), 2, "what the trial was installed with is taken over");
    // A trial goes with its instance.
    bench.act(Action::Remove { id }).await.unwrap();
    bench.until("all gone", BTreeMap::is_empty).await;
}
