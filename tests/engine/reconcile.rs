//! The reconciler against the real engine, with a shell script in the agent's place: what a person or a fault does to
//! containers ends in the desired state.

use crate::workbench;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use berth::{
    catalog::{Catalog, Egress},
    cgroup::Slices,
    docker::Docker,
    ledger::{self, NoRandom, Tokens},
    link::{LinkError, LinkEvent, LinkReport, Patience},
    model::{
        AGENT_PROTOCOL, Action, AgentState, AgentStatus, BoxId, Endpoint, Endpoints, InstanceId, InstanceView, Outcome,
        Principal, Refusal, Resolved, RunRequest, Secret, Size, StartOrder, State, Subject, TokenId, TypeName, User,
    },
    plan::{
        exchange::{Report, Shown},
        quota::{WorkspaceLimits, WorkspaceQuota},
    },
    reconcile::{self, Handle, Installer, Ledger, Links, Preparation, QuotaError, Quotas, Unprepared},
    record::TokenRecord,
    secret::BoxKey,
    store::Store,
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use tokio::sync::{mpsc, watch};
use workbench::{Workbench, docker, socket};

/// Says when it runs, in its socket folder's stead on stdout, and ends at SIGTERM.
const AGENT: &str =
    "#!/bin/busybox sh\ntrap 'exit 0' TERM\necho agent runs\nwhile :; do /bin/busybox sleep 1 & wait $!; done\n";

/// Links whose agents are always there, once their containers run.
struct Sockets {
    dir: PathBuf,
    say: mpsc::Sender<LinkReport>,
    generation: AtomicU64,
    agents: Mutex<BTreeMap<InstanceId, tokio::task::JoinHandle<()>>>,
    box_id: BoxId,
}

impl Links for Sockets {
    fn open<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<PathBuf, LinkError>> {
        let dir = self.dir.join(id.as_str());
        std::fs::create_dir_all(&dir).unwrap();
        // Plays the agent: dials in when a container of the instance runs, and is gone when it is.
        let (say, id, box_id) = (self.say.clone(), id.clone(), self.box_id.clone());
        let agent = tokio::spawn({
            let id = id.clone();
            async move {
                let mut last = String::new();
                loop {
                    let (instance, whose) = (
                        format!("label=berth.instance={id}"),
                        format!("label=berth.box={box_id}"),
                    );
                    let ask = move || docker(&["ps", "-q", "--filter", &instance, "--filter", &whose]);
                    let now = tokio::task::spawn_blocking(ask).await.unwrap();
                    if now != last {
                        let report = LinkReport {
                            id: id.clone(),
                            // As a real agent, it cannot be of an earlier container than the one that is seen.
                            generation: u64::MAX,
                            event: if now.is_empty() { LinkEvent::Down } else { LinkEvent::Up },
                        };
                        let _ = say.send(report).await;
                        last = now;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
        if let Some(old) = self.agents.lock().unwrap().insert(id, agent) {
            old.abort();
        }
        async move { Ok(dir) }.boxed()
    }
    fn close<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, ()> {
        let _ = std::fs::remove_dir_all(self.dir.join(id.as_str()));
        if let Some(agent) = self.agents.lock().unwrap().remove(id) {
            agent.abort();
        }
        async {}.boxed()
    }
    fn renew(&self, _: &InstanceId) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed)
    }
    fn set_agents(&self, _: User) -> Result<(), LinkError> {
        Ok(())
    }
    fn prove(&self, _: &InstanceId, _: u32) {}
    fn set_state(&self, _: &InstanceId, _: State, _: Option<u32>) {}
    fn set_patience(&self, _: &InstanceId, _: Patience) {}
    fn start<'a>(&'a self, id: &'a InstanceId, order: &'a StartOrder) -> BoxFuture<'a, Result<(), LinkError>> {
        let status = AgentStatus {
            protocol: AGENT_PROTOCOL,
            version: String::new(),
            state: AgentState::Ready,
            spec: Some(order.spec.clone()),
            revision: order.revision,
            reason: None,
            services: vec![],
            sessions: 0,
            processes: 0,
            oom_kills: 0,
        };
        async move {
            self.say
                .send(LinkReport {
                    id: id.clone(),
                    generation: u64::MAX,
                    event: LinkEvent::Status(status),
                })
                .await
                .map_err(|e| LinkError::Protocol {
                    what: "report a status",
                    why: e.to_string(),
                })
        }
        .boxed()
    }
    fn health<'a>(&'a self, _: &'a InstanceId, _: Duration) -> BoxFuture<'a, Result<(), LinkError>> {
        async { Ok(()) }.boxed()
    }
}

struct RealQuotas(Slices);

impl Quotas for RealQuotas {
    fn hold<'a>(
        &'a self,
        parent: &'a str,
        quota: WorkspaceQuota,
        systemd: bool,
    ) -> BoxFuture<'a, Result<(), QuotaError>> {
        async move { Ok(self.0.hold(parent, &quota, systemd)?) }.boxed()
    }
    fn may_set(&self) -> bool {
        true
    }
    fn release(&self, parent: &str, systemd: bool) {
        self.0.release(parent, systemd);
    }
}

/// An installer for instances that need none.
struct NoInstaller;

impl Installer for NoInstaller {
    fn prepare<'a>(
        &'a self,
        _: Preparation,
        _: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> BoxFuture<'a, Result<Resolved, Unprepared>> {
        Box::pin(async { Err(Unprepared::Final("nothing is installed here".into())) })
    }
    fn keep(&self, _: BTreeSet<String>) {}
}

struct ToLedger(ledger::Handle);

impl Ledger for ToLedger {
    fn report(&self, report: Report) -> BoxFuture<'_, Result<(), Refusal>> {
        self.0.report(report).boxed()
    }
}

struct Unheard;

impl ledger::Journal for Unheard {
    fn append(&self, _: &berth::model::AuditRow<'_>) {}
}

struct NoTokens;

impl Tokens for NoTokens {
    fn mint(&self, _: &Subject) -> Result<(Secret, [u8; 32]), NoRandom> {
        Ok((Secret::new("brt_i_x"), [0; 32]))
    }
    fn insert(&self, _: &TokenRecord, _: Principal) {}
    fn remove(&self, _: &TokenId) -> berth::ledger::Cut {
        berth::ledger::Cut::default()
    }
    fn remove_instance(&self, _: &InstanceId) {}
    fn shorten(&self, _: &TokenId, _: jiff::Timestamp) {}
    fn end(&self, _: &TokenId) {}
    fn narrow(&self, _: &BTreeSet<berth::model::MemberName>, _: &berth::policy::Access) -> berth::ledger::Cut {
        berth::ledger::Cut::default()
    }
    fn sign_out(&self, _: &berth::model::MemberName) -> berth::ledger::Cut {
        berth::ledger::Cut::default()
    }
    fn last_use(&self, _: &TokenId) -> Option<berth::ledger::LastUse> {
        None
    }
    fn used(&self, _: &TokenId, _: &InstanceId) -> Option<i64> {
        None
    }
    fn uses(&self) -> Vec<berth::ledger::InstanceUse> {
        Vec::new()
    }
}

struct Bench(Workbench);

impl std::ops::Deref for Bench {
    type Target = Workbench;
    fn deref(&self) -> &Workbench {
        &self.0
    }
}

struct Supervisor {
    ledger: ledger::Handle,
    handle: Handle,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Bench {
    fn new() -> Bench {
        let bench = Bench(Workbench::new());
        let agent = bench.dir.path().join("agent");
        std::fs::write(&agent, AGENT).unwrap();
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
        bench
    }

    fn supervisor(&self) -> Supervisor {
        let (say, link_events) = mpsc::channel(64);
        let state = self.dir.path().join("state");
        let mut store = Store::open(&state, &self.box_id).unwrap();
        let key = Arc::new(BoxKey::load_or_create(&state.join("keys")).unwrap());
        let t = self.a_type("script", Size::Small, Egress::Internet, Some("/data"));
        let types = [(t.name.clone(), Arc::new(t))].into();
        let catalog = Arc::new(ArcSwap::from_pointee(Catalog { types }));
        let (show, shown) = watch::channel(Shown::default());
        let (ledger, ledger_task) = ledger::spawn(ledger::Deps {
            loaded: store.load().unwrap(),
            storage: Box::new(store),
            box_id: self.box_id.clone(),
            key: key.clone(),
            tokens: Arc::new(NoTokens),
            journal: Arc::new(Unheard),
            catalog: catalog.clone(),
            images: vec!["berth/*".into()],
            allow: berth::config::Allow::default(),
            max_instances: 10,
            max_tokens_per_instance: 10,
            install_bytes: 2 << 30,
            workspace: WorkspaceLimits::default(),
            removed: self.dir.path().join("removed"),
            shown,
        })
        .unwrap();
        let (handle, task) = reconcile::spawn(reconcile::Deps {
            box_id: self.box_id.clone(),
            key,
            desired: ledger.desired(),
            ledger: Arc::new(ToLedger(ledger.clone())),
            shown: show,
            engine: Arc::new(Docker::new(&socket())),
            links: Arc::new(Sockets {
                dir: self.dir.path().join("i"),
                say,
                agents: Mutex::default(),
                generation: AtomicU64::new(0),
                box_id: self.box_id.clone(),
            }),
            link_events,
            quotas: Arc::new(RealQuotas(Slices::default())),
            workspace: WorkspaceLimits::default(),
            catalog,
            agent: self.dir.path().join("agent"),
            images: vec!["berth/*".into()],
            installer: Arc::new(NoInstaller),
            deploys: berth::deploy_log::Deploys::new(state.join("deploys")),
            max_message: 1 << 20,
            install_bytes: 2 << 30,
            endpoints: Box::new(|_| Endpoints {
                mcp: Endpoint {
                    url: String::new(),
                    path_url: String::new(),
                },
                screen: None,
            }),
        });
        Supervisor {
            ledger,
            handle,
            tasks: [ledger_task, task],
        }
    }
}

impl Supervisor {
    /// As root on the box asks.
    async fn act(&self, action: Action) -> Result<Outcome, Refusal> {
        let signed = self.ledger.sign(Principal::root(), action).unwrap();
        self.ledger.submit(signed).await
    }

    async fn run(&self) -> InstanceId {
        let request = RunRequest::of(TypeName::parse("script").unwrap());
        match self.act(Action::Run(Box::new(request))).await.unwrap() {
            Outcome::Instance(view) => view.id,
            other => panic!("{other:?}"),
        }
    }

    async fn until(&self, what: &str, f: impl Fn(&BTreeMap<InstanceId, InstanceView>) -> bool) {
        let from = Instant::now();
        while !f(&self.handle.views()) {
            assert!(
                from.elapsed() < Duration::from_secs(120),
                "not {what}: {:#?}",
                self.handle.views()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        eprintln!("{what}: {:?}", from.elapsed());
    }

    async fn until_state(&self, id: &InstanceId, state: State) {
        self.until(&state.to_string(), |v| v.get(id).is_some_and(|v| v.state == state))
            .await;
    }

    /// As `kill -9` does: nothing is said to anybody.
    async fn killed(self) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_on_the_real_engine() {
    let bench = Bench::new();
    let s = bench.supervisor();
    let id = s.run().await;
    s.until_state(&id, State::Running).await;
    let container = s.handle.snapshot().containers[&id].clone();
    let mut log = s.handle.logs(&id, false, Some(10)).unwrap();
    assert_eq!(log.next().await.unwrap().unwrap(), "agent runs\n");
    assert_eq!(bench.mine(&["network", "ls", "-q"]).len(), 1);
    assert_eq!(bench.mine(&["volume", "ls", "-q"]).len(), 1);

    // A supervisor that is killed and started anew adopts it, and its process stays.
    let pid = docker(&["inspect", "-f", "{{.State.Pid}}", &container]);
    s.killed().await;
    let s = bench.supervisor();
    s.until_state(&id, State::Running).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(docker(&["inspect", "-f", "{{.State.Pid}}", &container]), pid);

    // Killed: restarted. Removed: made again.
    docker(&["kill", &container]);
    s.until("restarted", |v| v[&id].restarts == 1 && v[&id].state == State::Running)
        .await;
    assert_eq!(s.handle.snapshot().containers[&id], container);
    docker(&["rm", "-f", &container]);
    s.until("made again", |v| v[&id].restarts == 2 && v[&id].state == State::Running)
        .await;
    assert_ne!(s.handle.snapshot().containers[&id], container);

    let cpu = || {
        docker(&[
            "inspect",
            "-f",
            "{{.HostConfig.NanoCpus}}",
            &s.handle.snapshot().containers[&id],
        ])
    };
    assert_eq!(cpu(), "250000000", "its size's, after every start");

    s.act(Action::Stop { id: id.clone() }).await.unwrap();
    s.until_state(&id, State::Stopped).await;
    assert!(bench.mine(&["ps", "-q"]).is_empty());
    s.act(Action::Start { id: id.clone() }).await.unwrap();
    s.until_state(&id, State::Running).await;
    let before = s.handle.snapshot().containers[&id].clone();
    s.act(Action::Recreate { id: id.clone() }).await.unwrap();
    let new = || s.handle.snapshot().containers.get(&id).is_some_and(|c| *c != before);
    s.until("recreated", |v| new() && v[&id].state == State::Running).await;

    // Removal that a kill interrupts is finished by the next supervisor; foreign things stay.
    let foreign = docker(&[
        "create",
        "--label",
        "berth.box=ffffffffffffffff",
        "--label",
        &format!("berth.instance={id}"),
        &bench.image,
        "/bin/busybox",
    ]);
    s.act(Action::Remove { id: id.clone() }).await.unwrap();
    s.killed().await;
    let s = bench.supervisor();
    s.until("gone", BTreeMap::is_empty).await;
    assert!(!docker(&["ps", "-aq", "--filter", &format!("id={foreign}")]).is_empty());
    docker(&["rm", "-f", &foreign]);
    for what in [
        ["ps", "-aq"].as_slice(),
        &["network", "ls", "-q"],
        &["volume", "ls", "-q"],
    ] {
        assert!(bench.mine(what).is_empty(), "{what:?} left");
    }
    s.ledger.shutdown().await;
    s.handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_and_a_lost_record_is_not_resurrected() {
    let bench = Bench::new();
    let label = format!("berth.box={}", bench.box_id);
    docker(&[
        "network",
        "create",
        "--label",
        &label,
        "--label",
        "berth.instance=zzzzzzzzzz",
        &format!("berth-test-{}", bench.box_id),
    ]);
    docker(&[
        "volume",
        "create",
        "--label",
        &label,
        "--label",
        "berth.instance=zzzzzzzzzz",
    ]);
    docker(&[
        "create",
        "--label",
        &label,
        "--label",
        "berth.instance=zzzzzzzzzz",
        &bench.image,
        "/bin/busybox",
    ]);
    assert_eq!(bench.mine(&["ps", "-aq"]).len(), 1);
    let s = bench.supervisor();
    let from = Instant::now();
    let left = || {
        [
            ["ps", "-aq"].as_slice(),
            &["network", "ls", "-q"],
            &["volume", "ls", "-q"],
        ]
        .iter()
        .any(|w| !bench.mine(w).is_empty())
    };
    while left() {
        assert!(from.elapsed() < Duration::from_secs(60), "orphans stay");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    s.ledger.shutdown().await;
    s.handle.shutdown().await;
}
