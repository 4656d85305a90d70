//! The adapter against the real engine. Needs `/var/run/docker.sock` (or `BERTH_TEST_DOCKER`) and a static busybox
//! (Debian's `busybox-static`); without them the tests say so and pass. Everything made carries a box id of the
//! test's own and is removed again, also after a panic.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use berth::{
    catalog::{Egress, HealthContract, ImageRef, InstanceType, Mcp, Transport},
    cgroup::Cgroups,
    docker::{Docker, Engine, EngineError, probe},
    model::{BoxId, Desired, HealthKind, InstanceId, InstanceName, Processes, Size, TypeName, WorkspaceName},
    plan::{
        Run,
        spec::{BoxFacts, ContainerSpec, container_spec, owner_labels, resource_name},
    },
    record::InstanceRecord,
};
use futures_util::StreamExt;

fn socket() -> PathBuf {
    std::env::var_os("BERTH_TEST_DOCKER").map_or("/var/run/docker.sock".into(), PathBuf::from)
}

/// A box of the test's own, with an image of busybox; dropped, it leaves nothing behind.
struct Bench {
    engine: Docker,
    box_id: BoxId,
    image: String,
    dir: tempfile::TempDir,
    facts: BoxFacts,
}

fn docker(args: &[&str]) -> String {
    let out = Command::new("docker")
        .env("DOCKER_HOST", format!("unix://{}", socket().display()))
        .args(args)
        .stderr(Stdio::null())
        .output();
    out.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}

impl Bench {
    async fn new(test: &str) -> Option<Bench> {
        let busybox = Path::new("/bin/busybox");
        if !socket().exists() || !busybox.exists() || docker(&["version", "-f", "{{.Server.Version}}"]).is_empty() {
            eprintln!("{test}: skipped, needs a Docker engine and busybox-static");
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
        std::os::unix::fs::chown(root.join("data"), Some(10001), Some(10001)).unwrap();
        let image = format!("berth/test-{box_id}:1");
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(&root)
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let done = Command::new("docker")
            .args(["import", "-", &image])
            .stdin(tar.stdout.take().unwrap())
            .stdout(Stdio::null())
            .status();
        assert!(done.unwrap().success() && tar.wait().unwrap().success());
        let engine = Docker::new(&socket());
        let info = engine.info().await.unwrap();
        let facts = BoxFacts {
            box_id: box_id.clone(),
            agent: "/bin/busybox".into(),
            systemd_cgroups: info.systemd_cgroups,
            cpus: info.cpus,
        };
        Some(Bench {
            engine,
            box_id,
            image,
            dir,
            facts,
        })
    }

    fn spec(&self, c: char, egress: Egress, volume: Option<&str>, command: &[&str]) -> ContainerSpec {
        let record = InstanceRecord {
            id: InstanceId::parse(&c.to_string().repeat(10)).unwrap(),
            name: InstanceName::parse("test").unwrap(),
            workspace: WorkspaceName::parse("berth-test").unwrap(),
            size: Size::Xlarge,
            desired: Desired::Running,
            generation: 1,
            spec_hash: "5f".into(),
            created_at: jiff::Timestamp::now(),
            env: [].into(),
            spec: std::sync::Arc::new(InstanceType {
                name: TypeName::parse("test").unwrap(),
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
                        command: vec![],
                        env: [].into(),
                        processes: Processes::Session,
                    },
                    max_sessions: 1,
                    idle_timeout: Duration::ZERO,
                    call_timeout: Duration::ZERO,
                },
                health: HealthContract {
                    kind: HealthKind::Mcp,
                    interval: Duration::ZERO,
                    timeout: Duration::ZERO,
                    failures: 1,
                    start_timeout: Duration::ZERO,
                },
                size: Size::Small,
                egress,
                volume: volume.map(str::to_owned),
            }),
            failure: None,
        };
        let sockets = self.dir.path().join("run");
        std::fs::create_dir_all(&sockets).unwrap();
        let mut spec = container_spec(&record, &self.facts, sockets);
        // The same sandbox, another program: the agent needs a supervisor.
        spec.entrypoint = command.iter().map(|s| (*s).to_owned()).collect();
        spec
    }

    /// Runs a shell script in a container as specified and gives its exit status and output.
    async fn script(&self, spec: ContainerSpec) -> (i64, String) {
        let container = self.engine.create(&spec).await.unwrap();
        self.engine.start(&container).await.unwrap();
        for _ in 0..200 {
            let seen = self.engine.list(&self.box_id).await.unwrap();
            if seen.containers[&container].run == Run::Exited {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let exit = self.engine.exit(&container).await.unwrap();
        let words = self.engine.last_words(&container, 100, 4096).await.unwrap();
        self.engine.remove(&container).await.unwrap();
        (exit.code, words)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let filter = format!("label=berth.box={}", self.box_id);
        for (list, remove) in [
            (vec!["ps", "-aq", "--filter", &filter], vec!["rm", "-f"]),
            (vec!["network", "ls", "-q", "--filter", &filter], vec!["network", "rm"]),
            (vec!["volume", "ls", "-q", "--filter", &filter], vec!["volume", "rm"]),
        ] {
            for one in docker(&list).lines() {
                let mut args = remove.clone();
                args.push(one);
                docker(&args);
            }
        }
        docker(&["rmi", "-f", &self.image]);
    }
}

const SH: &str = "/bin/busybox";

#[tokio::test]
async fn the_sandbox_holds() {
    let Some(bench) = Bench::new("the_sandbox_holds").await else {
        return;
    };
    let script = r#"
set -u; b=/bin/busybox
echo "id $($b id -u):$($b id -g)"
echo "caps $($b grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status | $b awk '{print $2}' | $b sort -u)"
echo "nnp $($b awk '/NoNewPrivs/ {print $2}' /proc/self/status)"
echo "seccomp $($b awk '/^Seccomp:/ {print $2}' /proc/self/status)"
$b touch /x 2>/dev/null && echo "root is writable"
$b touch /berth/run/x 2>/dev/null && echo "socket folder is writable"
$b touch /berth/bin/berth 2>/dev/null && echo "agent is writable"
$b touch /data/x && echo "volume is writable"
$b touch /tmp/x && echo "tmp is writable"
$b cp /bin/busybox /tmp/b; /tmp/b true 2>/dev/null && echo "tmp is executable"
echo "links $($b ls /sys/class/net)"
$b test -S /var/run/docker.sock && echo "docker socket"
exit 7
"#;
    let spec = bench.spec('a', Egress::None, Some("/data"), &[SH, "sh", "-c", script]);
    let (code, said) = bench.script(spec).await;
    assert_eq!(
        said,
        "id 10001:10001\ncaps 0000000000000000\nnnp 1\nseccomp 2\nvolume is writable\ntmp is writable\nlinks lo"
    );
    assert_eq!(code, 7);
}

#[tokio::test]
async fn what_was_asked_for_is_what_the_engine_keeps() {
    let Some(bench) = Bench::new("what_was_asked_for").await else {
        return;
    };
    let spec = bench.spec('a', Egress::None, Some("/data"), &[SH, "sleep", "100"]);
    let container = bench.engine.create(&spec).await.unwrap();
    let format = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Privileged}} {{.HostConfig.NetworkMode}} {{.HostConfig.IpcMode}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.CgroupParent}} {{.HostConfig.PortBindings}} {{.Config.Env}}";
    let kept = docker(&["inspect", "-f", format, &container]);
    let parent = &spec.cgroup_parent;
    assert!(
        kept.starts_with(&format!(
            "2147483648 2147483648 2048 [ALL] [no-new-privileges] true false none private no json-file {parent} map[] [BERTH_AGENT_SOCKET=/berth/run/agent.sock"
        )),
        "{kept}"
    );
    // A second of the same name is a conflict, not a second container.
    let again = bench.engine.create(&spec).await;
    assert!(matches!(again, Err(EngineError::Conflict { .. })), "{again:?}");

    bench.engine.start(&container).await.unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    let usage = || Cgroups::host(bench.facts.systemd_cgroups).usage(parent, &container);
    while !usage().is_some_and(|u| u.pids == 1 && u.memory_bytes > 0) {
        assert!(tokio::time::Instant::now() < end, "{:?}", usage());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seen = bench.engine.list(&bench.box_id).await.unwrap();
    assert_eq!(seen.containers[&container].run, Run::Running);
    assert_eq!(seen.volumes.len(), 1, "the volume is ours by its label: {seen:?}");
    assert_eq!(seen.volumes.values().next().unwrap().instance, "a".repeat(10));

    bench.engine.stop(&container, 1).await.unwrap();
    assert_eq!(bench.engine.exit(&container).await.unwrap().code, 137);
    bench.engine.remove(&container).await.unwrap();
    bench.engine.remove(&container).await.unwrap();
    for volume in seen.volumes.keys() {
        bench.engine.remove_volume(volume).await.unwrap();
        bench.engine.remove_volume(volume).await.unwrap();
    }
    let seen = bench.engine.list(&bench.box_id).await.unwrap();
    assert_eq!(seen, Default::default(), "nothing is left");
}

#[tokio::test]
async fn networks_are_each_instances_own() {
    let Some(bench) = Bench::new("networks").await else {
        return;
    };
    let spec = bench.spec('a', Egress::Internet, None, &[SH, "ls", "/sys/class/net"]);
    let id = InstanceId::parse("aaaaaaaaaa").unwrap();
    let name = resource_name(&bench.box_id, &id);
    let labels = owner_labels(&bench.box_id, &id);
    bench.engine.create_network(&name, &labels).await.unwrap();
    let (code, said) = bench.script(spec).await;
    assert_eq!((code, said.as_str()), (0, "eth0\nlo"));
    let seen = bench.engine.list(&bench.box_id).await.unwrap();
    assert_eq!(seen.networks[&name].instance, id.as_str());
    bench.engine.remove_network(&name).await.unwrap();
    bench.engine.remove_network(&name).await.unwrap();
    assert!(bench.engine.list(&bench.box_id).await.unwrap().networks.is_empty());
}

#[tokio::test]
async fn events_wake_and_logs_flow() {
    let Some(bench) = Bench::new("events").await else {
        return;
    };
    let mut events = bench.engine.events(&bench.box_id);
    let woken = tokio::spawn(async move { tokio::time::timeout(Duration::from_secs(20), events.next()).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let script = "/bin/busybox echo one; /bin/busybox sleep 1; /bin/busybox echo two >&2; exit 0";
    let spec = bench.spec('b', Egress::None, None, &[SH, "sh", "-c", script]);
    let container = bench.engine.create(&spec).await.unwrap();
    bench.engine.start(&container).await.unwrap();
    let mut log = bench.engine.logs(&container, true, None);
    let mut text = String::new();
    while let Some(chunk) = log.next().await {
        text.push_str(&String::from_utf8_lossy(&chunk.unwrap()));
    }
    assert_eq!(text, "one\ntwo\n");
    assert!(matches!(woken.await.unwrap(), Ok(Some(Ok(())))));
    // Foreign to any other box, it does not show there.
    let other = BoxId::from_random([0xee; 8]);
    assert!(bench.engine.list(&other).await.unwrap().containers.is_empty());
}

#[tokio::test]
async fn what_fails_is_said() {
    let Some(bench) = Bench::new("what_fails").await else {
        return;
    };
    let mut spec = bench.spec('c', Egress::None, None, &["/no/such/program"]);
    let container = bench.engine.create(&spec).await.unwrap();
    let failed = bench.engine.start(&container).await.unwrap_err();
    assert!(
        matches!(&failed, EngineError::Refused { .. } | EngineError::NotFound { .. }),
        "{failed:?}"
    );
    assert!(failed.to_string().contains("no such file"), "{failed}");
    bench.engine.remove(&container).await.unwrap();
    spec.image = "berth/there-is-no-such:1".into();
    let missing = bench.engine.create(&spec).await.unwrap_err();
    assert!(
        matches!(&missing, EngineError::NotFound { why, .. } if why.to_lowercase().contains("no such image")),
        "{missing:?}"
    );
    let away = Docker::new(Path::new("/nonexistent/docker.sock"));
    let error = away.info().await.unwrap_err();
    assert!(error.is_away(), "{error:?}");
    let found = probe(&socket(), Duration::from_secs(5)).await.unwrap();
    assert!(
        found.memory_limit && found.pids_limit && !found.root_dir.is_empty(),
        "{found:?}"
    );
}
