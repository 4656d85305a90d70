//! The adapter against the real engine, and cgroups against the real kernel.

use crate::workbench;

use std::{path::Path, time::Duration};

use berth::{
    catalog::Egress,
    cgroup::{Cgroups, Slices},
    docker::{Assembly, Docker, Engine, EngineError, probe},
    model::{BoxId, Desired, InstanceId, InstanceName, Size, WorkspaceName},
    plan::{
        Run,
        quota::{WorkspaceLimits, WorkspaceQuota},
        spec::{BoxFacts, ContainerSpec, Traffic, bridge_name, container_spec, owner_labels, resource_name},
    },
    record::InstanceRecord,
};
use futures_util::StreamExt;
use workbench::{Workbench, docker, socket};

/// A box of the test's own, and the engine as the supervisor has it.
struct Bench {
    bench: Workbench,
    engine: Docker,
    facts: BoxFacts,
}

impl std::ops::Deref for Bench {
    type Target = Workbench;
    fn deref(&self) -> &Workbench {
        &self.bench
    }
}

impl Bench {
    async fn new() -> Bench {
        let bench = Workbench::new();
        let engine = Docker::new(&socket());
        let info = engine.info().await.unwrap();
        let facts = BoxFacts {
            box_id: bench.box_id.clone(),
            agent: "/bin/busybox".into(),
            systemd_cgroups: info.systemd_cgroups,
            cpus: info.cpus,
            memory: info.memory,
            volume_sizes: info.volume_sizes,
            layer_sizes: info.layer_sizes,
        };
        Bench { bench, engine, facts }
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
            marks: Default::default(),
            spec: std::sync::Arc::new(self.a_type("test", Size::Small, egress, volume)),
            failure: None,
            sourced: None,
            edited: None,
        };
        let quota = WorkspaceLimits::default().on(self.facts.cpus, self.facts.memory);
        let sockets = self.dir.path().join("run");
        std::fs::create_dir_all(&sockets).unwrap();
        let mut spec = container_spec(&record, &self.facts, &quota, sockets);
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

const SH: &str = "/bin/busybox";

#[tokio::test]
async fn the_sandbox_holds() {
    let bench = Bench::new().await;
    let script = r#"
set -u; b=/bin/busybox
echo "id $($b id -u):$($b id -g)"
echo "caps $($b grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status | $b awk '{print $2}' | $b sort -u)"
echo "nnp $($b awk '/NoNewPrivs/ {print $2}' /proc/self/status)"
echo "seccomp $($b awk '/^Seccomp:/ {print $2}' /proc/self/status)"
$b touch /x 2>/dev/null && echo "root is writable"
$b touch /berth/run/x 2>/dev/null && echo "socket folder is writable"
$b touch /berth/bin/berth 2>/dev/null && echo "agent is writable"
$b touch /data/x 2>/dev/null && echo "volume is writable"
$b touch /tmp/x 2>/dev/null && echo "tmp is writable"
$b cp /bin/busybox /tmp/b 2>/dev/null; /tmp/b true 2>/dev/null && echo "tmp is executable"
echo "links $($b ls /sys/class/net)"
$b test -S /var/run/docker.sock && echo "docker socket"
exit 7
"#;
    // As process 1 begins: root that cannot even write what is the server's.
    let mut spec = bench.spec('a', Egress::None, Some("/data"), &[SH, "sh", "-c", script]);
    let (code, said) = bench.script(spec.clone()).await;
    let rest = "nnp 1\nseccomp 2\n";
    assert_eq!(said, format!("id 0:0\ncaps 00000000000001e0\n{rest}links lo"));
    assert_eq!(code, 7);
    // As the server is (`hijack` looks at the real ones).
    (spec.user, spec.cap_add) = ("10001:10001".into(), Vec::new());
    let (code, said) = bench.script(spec).await;
    assert_eq!(
        said,
        format!("id 10001:10001\ncaps 0000000000000000\n{rest}volume is writable\ntmp is writable\nlinks lo")
    );
    assert_eq!(code, 7);
}

#[tokio::test]
async fn what_was_asked_for_is_what_the_engine_keeps() {
    let bench = Bench::new().await;
    let spec = bench.spec('a', Egress::None, Some("/data"), &[SH, "sleep", "100"]);
    let container = bench.engine.create(&spec).await.unwrap();
    let format = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}} {{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}} {{.HostConfig.SecurityOpt}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Privileged}} {{.HostConfig.NetworkMode}} {{.HostConfig.IpcMode}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.LogConfig.Type}} {{.HostConfig.CgroupParent}} {{.HostConfig.PortBindings}} {{.Config.Env}}";
    let kept = docker(&["inspect", "-f", format, &container]);
    let parent = &spec.cgroup_parent;
    assert!(
        kept.starts_with(&format!(
            "2147483648 2147483648 2048 [ALL] [SETUID SETGID KILL SETPCAP] [no-new-privileges] true false none private no json-file {parent} map[] [BERTH_AGENT_SOCKET=/berth/run/agent.sock"
        )),
        "{kept}"
    );
    // A second of the same name is a conflict, not a second container.
    let again = bench.engine.create(&spec).await;
    assert!(matches!(again, Err(EngineError::Conflict { .. })), "{again:?}");

    bench.engine.start(&container).await.unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
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
    let bench = Bench::new().await;
    let spec = bench.spec('a', Egress::Internet, None, &[SH, "ls", "/sys/class/net"]);
    let id = InstanceId::parse("aaaaaaaaaa").unwrap();
    let name = resource_name(&bench.box_id, &id);
    let labels = owner_labels(&bench.box_id, &id);
    let bridge = bridge_name(&bench.box_id, Traffic::Instance, &name);
    bench.engine.create_network(&name, &bridge, &labels).await.unwrap();
    assert!(
        std::path::Path::new("/sys/class/net").join(&bridge).exists(),
        "the bridge's name"
    );
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
    let bench = Bench::new().await;
    let mut events = bench.engine.events(&bench.box_id);
    let woken = tokio::spawn(async move { tokio::time::timeout(Duration::from_secs(60), events.next()).await });
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
    let bench = Bench::new().await;
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
    let found = probe(&socket(), Duration::from_secs(30)).await.unwrap();
    assert!(
        found.memory_limit && found.pids_limit && !found.root_dir.is_empty(),
        "{found:?}"
    );
}

#[tokio::test]
async fn cpu_is_set_on_what_runs_and_on_what_rests() {
    let bench = Bench::new().await;
    let spec = bench.spec('d', Egress::None, None, &[SH, "sleep", "100"]);
    let container = bench.engine.create(&spec).await.unwrap();
    assert_eq!(bench.engine.cpu(&container).await.unwrap(), spec.nano_cpus);
    bench.engine.set_cpu(&container, 300_000_000).await.unwrap();
    bench.engine.start(&container).await.unwrap();
    assert_eq!(bench.engine.cpu(&container).await.unwrap(), 300_000_000);
    bench.engine.set_cpu(&container, 500_000_000).await.unwrap();
    assert_eq!(bench.engine.cpu(&container).await.unwrap(), 500_000_000);
    let missing = bench.engine.set_cpu("nothing-of-that-name", 500_000_000).await;
    assert!(matches!(missing, Err(EngineError::NotFound { .. })), "{missing:?}");
}

/// Two containers that each may have more are held to their workspace's quota together, and one of another workspace
/// is not.
#[tokio::test]
async fn the_kernel_holds_a_workspace_to_its_quota() {
    let bench = Bench::new().await;
    if bench.facts.systemd_cgroups {
        // There the quota is systemd's to set; qemu-tests looks at it.
        return;
    }
    let slices = Slices::default();
    let quota = WorkspaceQuota {
        nano_cpus: 2_000_000_000,
        memory: 64 << 20,
        pids: 12,
        by_default: false,
    };
    // Forks until it may not any more; the shell that was refused ends, and what it made stays.
    let bomb = "( /bin/busybox sleep 1; i=0; while [ $i -lt 40 ]; do /bin/busybox sleep 100 & i=$((i+1)); done ) 2>/dev/null & exec /bin/busybox sleep 100";
    let mut specs = [
        bench.spec('a', Egress::None, None, &[SH, "sh", "-c", bomb]),
        bench.spec('b', Egress::None, None, &[SH, "sh", "-c", bomb]),
    ];
    for spec in &mut specs {
        spec.nano_cpus = 500_000_000;
        slices.hold(&spec.cgroup_parent, &quota, false).unwrap();
        // Again is no error.
        slices.hold(&spec.cgroup_parent, &quota, false).unwrap();
    }
    let mut eater = bench.spec(
        'c',
        Egress::None,
        None,
        &[SH, "sh", "-c", "/bin/busybox tail -c 200m /dev/zero >/dev/null"],
    );
    eater.nano_cpus = 500_000_000;
    eater.cgroup_parent = format!("{}-2", eater.cgroup_parent);
    let parents = [specs[0].cgroup_parent.clone(), eater.cgroup_parent.clone()];
    slices.hold(&eater.cgroup_parent, &quota, false).unwrap();
    let mut running = Vec::new();
    for spec in &specs {
        let container = bench.engine.create(spec).await.unwrap();
        bench.engine.start(&container).await.unwrap();
        running.push(container);
    }
    let cgroups = Cgroups::host(false);
    let together = || -> u64 {
        let used = running.iter().filter_map(|c| cgroups.usage(&parents[0], c));
        used.map(|u| u.pids).sum()
    };
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while together() < 11 {
        assert!(tokio::time::Instant::now() < end, "{} processes", together());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..20 {
        let now = together();
        assert!((10..=12).contains(&now), "{now} processes; each alone may have 2048");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Its size allows 2 GiB, its workspace 64 MiB.
    let (code, said) = bench.script(eater).await;
    assert_eq!(code, 137, "{said}");
    for container in running {
        bench.engine.remove(&container).await.unwrap();
    }
    for parent in parents {
        slices.release(&parent, false);
        let at = Path::new("/sys/fs/cgroup/pids").join(parent.trim_start_matches('/'));
        assert!(!at.exists(), "{} is left", at.display());
    }
}

/// A package's files become an image by a layer that the engine loads, or, where it wants all layers, by a build. Both give
/// the same: every file root's and without special modes, and what the image below has.
#[tokio::test]
async fn an_image_of_a_folder_is_the_same_loaded_and_built() {
    let bench = Bench::new().await;
    let below = format!("{}-below", bench.image);
    let volume = format!("berth-test-{}", bench.box_id);
    let label = format!("berth.box={}", bench.box_id);
    let memory = ["type=tmpfs", "device=tmpfs", "o=uid=10001,gid=10001"].map(|o| ["--opt", o]);
    docker(
        &[
            &["volume", "create", "--label", &label],
            memory.as_flattened(),
            &[volume.as_str()],
        ]
        .concat(),
    );
    let imported = docker(&[
        "run",
        "--detach",
        "--label",
        &format!("berth.box={}", bench.box_id),
        "--user",
        "10001",
        "--volume",
        &format!("{volume}:/srv/layer/opt"),
        &bench.image,
        SH,
        "sleep",
        "300",
    ]);
    docker(&[
        "commit",
        "--change",
        "ENV BELOW=1 SAME=below",
        "--change",
        "LABEL below=1",
        &imported,
        &below,
    ]);
    let fill = "set -e; b=/bin/busybox; cd /srv/layer/opt; $b mkdir -p mcp/deep; echo one >mcp/a; $b ln mcp/a mcp/deep/b; $b ln -s ../a mcp/deep/c; $b chmod 6755 mcp/a; $b head -c 300000 /dev/zero >mcp/$($b printf 'n%.0s' $($b seq 120))";
    docker(&["exec", &imported, SH, "sh", "-c", fill]);
    let tags = ["load", "build"].map(|how| format!("{}-{how}", bench.image));
    for tag in &tags {
        let assembly = Assembly {
            container: &imported,
            folder: "/srv/layer/opt",
            limit: 1 << 20,
            from: &below,
            tag,
            labels: [("own".to_owned(), "x y".to_owned())].into(),
            env: vec![("OWN", "2"), ("SAME", "own")],
            scratch: bench.dir.path(),
        };
        let made = match tag.ends_with("load") {
            true => bench.engine.assemble(&assembly).await,
            false => bench.engine.assemble_by_build(&assembly).await,
        };
        made.unwrap();
        let small = Assembly {
            limit: 200_000,
            ..assembly
        };
        assert!(
            bench
                .engine
                .assemble(&small)
                .await
                .unwrap_err()
                .to_string()
                .contains("more than 200000 bytes")
        );
    }
    let seen = tags.clone().map(|tag| {
        let look = "cd /opt; for f in $(/bin/busybox find . | /bin/busybox sort); do /bin/busybox stat -c '%n %u:%g %a %s %h %F' $f; done; /bin/busybox cat mcp/deep/c; /bin/busybox env | /bin/busybox grep -E '^(BELOW|OWN|SAME)=' | /bin/busybox sort";
        docker(&["run", "--rm", "--label", &format!("berth.box={}", bench.box_id), "--network", "none", &tag, SH, "sh", "-c", look])
    });
    let folders = |text: &str| {
        text.lines()
            .filter(|l| !l.ends_with("directory"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(folders(&seen[0]), folders(&seen[1]));
    let words = &seen[0];
    assert!(
        words.contains("./mcp/a 0:0 755 4 2 regular file") && words.ends_with("one\nBELOW=1\nOWN=2\nSAME=own"),
        "{words}"
    );
    assert!(words.contains("./mcp 0:0 755"), "{words}");
    // What a build makes has the image below as its parent.
    let parents = tags
        .clone()
        .map(|tag| docker(&["image", "inspect", "--format", "{{.Parent}}", &tag]));
    assert!(parents[0].is_empty() && !parents[1].is_empty(), "{parents:?}");
    for tag in &tags {
        let labels = docker(&["image", "inspect", "--format", "{{json .Config.Labels}}", tag]);
        assert!(
            labels.contains(r#""below":"1""#) && labels.contains(r#""own":"x y""#),
            "{labels}"
        );
    }
    docker(&["rm", "--force", &imported]);
    for tag in tags.iter().chain([&below]) {
        docker(&["rmi", tag]);
    }
}
