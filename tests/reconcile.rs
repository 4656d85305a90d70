//! The reconciler against the real engine, with a shell script in the agent's place: what a person or a fault does to
//! containers ends in the desired state. Needs an engine and `busybox-static`, as `tests/docker.rs` does; removes all
//! that it made, also after a panic.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use berth::{
    catalog::{Catalog, Egress, HealthContract, ImageRef, InstanceType, Mcp, Transport},
    docker::Docker,
    link::LinkEvent,
    model::{
        AGENT_PROTOCOL, Action, AgentState, AgentStatus, BoxId, Endpoint, Endpoints, HealthKind, InstanceId,
        InstanceView, Outcome, Processes, RunRequest, Secret, Size, StartOrder, State, TokenId, TypeName,
    },
    reconcile::{self, Deps, Handle, Links, TokenEntry, Tokens},
    secret::BoxKey,
    store::Store,
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use tokio::sync::mpsc;

/// Says when it runs, in its socket folder's stead on stdout, and ends at SIGTERM.
const AGENT: &str =
    "#!/bin/busybox sh\ntrap 'exit 0' TERM\necho agent runs\nwhile :; do /bin/busybox sleep 1 & wait $!; done\n";

fn docker(args: &[&str]) -> String {
    let out = Command::new("docker").args(args).stderr(Stdio::null()).output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

/// Links whose agents are always there, once their containers run.
struct Sockets {
    dir: PathBuf,
    say: mpsc::Sender<(InstanceId, LinkEvent)>,
    agents: Mutex<BTreeMap<InstanceId, tokio::task::JoinHandle<()>>>,
    box_id: BoxId,
}

impl Links for Sockets {
    fn open<'a>(&'a self, id: &'a InstanceId) -> BoxFuture<'a, Result<PathBuf, String>> {
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
                        let event = if now.is_empty() { LinkEvent::Down } else { LinkEvent::Up };
                        let _ = say.send((id.clone(), event)).await;
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
    fn set_state(&self, _: &InstanceId, _: State, _: Option<u32>) {}
    fn start<'a>(&'a self, id: &'a InstanceId, order: &'a StartOrder) -> BoxFuture<'a, Result<(), String>> {
        let status = AgentStatus {
            protocol: AGENT_PROTOCOL,
            version: String::new(),
            state: AgentState::Ready,
            spec: Some(order.spec.clone()),
            reason: None,
            services: vec![],
            sessions: 0,
            processes: 0,
        };
        async move {
            self.say
                .send((id.clone(), LinkEvent::Status(status)))
                .await
                .map_err(|e| e.to_string())
        }
        .boxed()
    }
    fn health<'a>(&'a self, _: &'a InstanceId, _: Duration) -> BoxFuture<'a, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
}

struct NoTokens;

impl Tokens for NoTokens {
    fn mint(&self) -> Result<(Secret, [u8; 32]), String> {
        Ok((Secret::new("brt_i_x"), [0; 32]))
    }
    fn insert(&self, _: TokenEntry) {}
    fn remove(&self, _: &TokenId) {}
    fn remove_instance(&self, _: &InstanceId) {}
    fn last_used(&self, _: &TokenId) -> Option<i64> {
        None
    }
}

struct Bench {
    box_id: BoxId,
    image: String,
    dir: tempfile::TempDir,
}

struct Supervisor {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn new() -> Option<Bench> {
        let busybox = Path::new("/bin/busybox");
        if !busybox.exists() || docker(&["version", "-f", "{{.Server.Version}}"]).is_empty() {
            eprintln!("skipped: needs a Docker engine and busybox-static");
            return None;
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).unwrap();
        let box_id = BoxId::from_random(random);
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for sub in ["bin", "data", "tmp"] {
            std::fs::create_dir_all(root.join(sub)).unwrap();
        }
        std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
        let agent = dir.path().join("agent");
        std::fs::write(&agent, AGENT).unwrap();
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).unwrap();
        let image = format!("berth/test-{box_id}:1");
        let tar = Command::new("tar")
            .arg("-C")
            .arg(&root)
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .spawn();
        let mut tar = tar.unwrap();
        let done = Command::new("docker")
            .args(["import", "-", &image])
            .stdin(tar.stdout.take().unwrap())
            .stdout(Stdio::null())
            .status();
        assert!(done.unwrap().success() && tar.wait().unwrap().success());
        Some(Bench { box_id, image, dir })
    }

    fn a_type(&self) -> InstanceType {
        InstanceType {
            name: TypeName::parse("script").unwrap(),
            title: String::new(),
            description: String::new(),
            homepage: None,
            image: ImageRef {
                reference: self.image.clone(),
                digest: None,
            },
            services: vec![],
            mcp: Mcp {
                transport: Transport::Stdio {
                    command: vec!["x".into()],
                    env: BTreeMap::new(),
                    processes: Processes::Session,
                },
                max_sessions: 1,
                idle_timeout: Duration::from_secs(60),
                call_timeout: Duration::from_secs(60),
            },
            health: HealthContract {
                kind: HealthKind::Mcp,
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                failures: 2,
                start_timeout: Duration::from_secs(30),
            },
            size: Size::Small,
            egress: Egress::Internet,
            volume: Some("/data".into()),
        }
    }

    fn supervisor(&self) -> Supervisor {
        let (say, link_events) = mpsc::channel(64);
        let state = self.dir.path().join("state");
        let store = Store::open(&state, &self.box_id).unwrap();
        let t = self.a_type();
        let deps = Deps {
            store,
            key: BoxKey::load_or_create(&state.join("keys")).unwrap(),
            engine: Arc::new(Docker::new(Path::new("/var/run/docker.sock"))),
            links: Arc::new(Sockets {
                dir: self.dir.path().join("i"),
                say,
                agents: Mutex::default(),
                box_id: self.box_id.clone(),
            }),
            tokens: Arc::new(NoTokens),
            link_events,
            catalog: Arc::new(Catalog {
                types: [(t.name.clone(), Arc::new(t))].into(),
            }),
            agent: self.dir.path().join("agent"),
            images: vec!["berth/*".into()],
            max_instances: 10,
            max_tokens_per_instance: 10,
            max_message: 1 << 20,
            endpoints: Box::new(|_| Endpoints {
                mcp: Endpoint {
                    url: String::new(),
                    path_url: String::new(),
                },
            }),
        };
        let (handle, task) = reconcile::spawn(deps).unwrap();
        Supervisor { handle, task }
    }

    fn mine(&self, what: &[&str]) -> Vec<String> {
        let filter = format!("label=berth.box={}", self.box_id);
        let args: Vec<&str> = what.iter().copied().chain(["--filter", &filter]).collect();
        docker(&args).lines().map(str::to_owned).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for (list, remove) in [
            (["ps", "-aq"].as_slice(), ["rm", "-f"].as_slice()),
            (&["network", "ls", "-q"], &["network", "rm"]),
            (&["volume", "ls", "-q"], &["volume", "rm"]),
        ] {
            for one in self.mine(list) {
                let args: Vec<&str> = remove.iter().copied().chain([one.as_str()]).collect();
                docker(&args);
            }
        }
        docker(&["rmi", "-f", &self.image]);
    }
}

impl Supervisor {
    async fn run(&self) -> InstanceId {
        let request = RunRequest {
            type_name: TypeName::parse("script").unwrap(),
            name: None,
            workspace: None,
            size: None,
            env: BTreeMap::new(),
        };
        match self.handle.submit(Action::Run(request)).await.unwrap() {
            Outcome::Instance(view) => view.id,
            other => panic!("{other:?}"),
        }
    }

    async fn until(&self, what: &str, f: impl Fn(&BTreeMap<InstanceId, InstanceView>) -> bool) {
        let from = Instant::now();
        while !f(&self.handle.views()) {
            assert!(
                from.elapsed() < Duration::from_secs(40),
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
        self.task.abort();
        let _ = self.task.await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_on_the_real_engine() {
    let Some(bench) = Bench::new() else { return };
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

    s.handle.submit(Action::Stop { id: id.clone() }).await.unwrap();
    s.until_state(&id, State::Stopped).await;
    assert!(bench.mine(&["ps", "-q"]).is_empty());
    s.handle.submit(Action::Start { id: id.clone() }).await.unwrap();
    s.until_state(&id, State::Running).await;
    let before = s.handle.snapshot().containers[&id].clone();
    s.handle.submit(Action::Recreate { id: id.clone() }).await.unwrap();
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
    s.handle.submit(Action::Remove { id: id.clone() }).await.unwrap();
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
    s.handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_and_a_lost_record_is_not_resurrected() {
    let Some(bench) = Bench::new() else { return };
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
        assert!(from.elapsed() < Duration::from_secs(20), "orphans stay");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    s.handle.shutdown().await;
}
