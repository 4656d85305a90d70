//! From a type to a running server and back to nothing, on the real engine.

use crate::support;

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use support::{Appliance, INITIALIZE, Options, root, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn every_type_runs_answers_and_leaves_nothing() {
    let a = Appliance::start();
    let types = a.json(&["types"]);
    let names: BTreeSet<&str> = types
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["name"].as_str().unwrap())
        .collect();
    let shipped = [
        "everything",
        "fetch",
        "filesystem",
        "linux-command-line",
        "memory",
        "playwright",
        "playwright-mobile",
        "sequential-thinking",
        "time",
    ];
    assert!(shipped.iter().all(|s| names.contains(s)), "{names:?}");
    for name in shipped {
        let i = a.run(name, &[]);
        let view = a.show(&i.id);
        assert_eq!(
            (&view["state"], &view["health"]),
            (&json!("running"), &json!("healthy")),
            "{view:#}"
        );
        assert!(view.get("token").is_none(), "a token is shown only once");
        assert_eq!(i.url, format!("https://mcp-{}.localhost:{}/mcp", i.id, a.https));
        assert_eq!(i.path_url, format!("https://localhost:{}/mcp/{}", a.https, i.id));
        for url in [&i.url, &i.path_url] {
            let answer = a.post(url, &i.token, INITIALIZE, &[]);
            assert_eq!(answer.status, 200, "{name}: {}", answer.body);
            assert!(answer.body.contains("serverInfo"), "{name}: {}", answer.body);
        }
        a.cli(&["rm", &i.id]);
        assert_eq!(a.leftovers(), Vec::<String>::new(), "after rm of {name}");
        assert_eq!(
            a.post(&i.url, &i.token, INITIALIZE, &[]).status,
            401,
            "its token is gone with it"
        );
    }
    assert_eq!(a.json(&["list"]), json!([]));
    assert_eq!(a.json(&["token", "list"]), json!([]));
    let sockets = a.dir().join("run/i");
    let left: Vec<_> = std::fs::read_dir(&sockets)
        .map(|d| d.flatten().map(|e| e.path()).collect())
        .unwrap_or_default();
    assert!(left.is_empty(), "sockets left: {left:?}");
}

#[test]
fn containers_are_hardened() {
    let a = Appliance::start();
    let i = a.run("memory", &["--size", "small"]);
    let c = a.inspect(&i.id);
    let host = &c["HostConfig"];
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    // Process 1's alone, which begins as root and is a user of its own at once (`hijack`).
    assert_eq!(host["CapAdd"], json!(["SETUID", "SETGID", "KILL", "SETPCAP"]));
    assert_eq!(host["Init"], json!(false));
    assert_eq!(host["Privileged"], json!(false));
    assert_eq!(host["ReadonlyRootfs"], json!(true));
    assert!(
        host["SecurityOpt"]
            .as_array()
            .unwrap()
            .iter()
            .any(|s| s.as_str().unwrap().starts_with("no-new-privileges"))
    );
    assert!(!host["SecurityOpt"].to_string().contains("unconfined"));
    assert_eq!(host["Memory"], json!(256 << 20));
    assert_eq!(host["MemorySwap"], json!(256 << 20));
    assert_eq!(host["NanoCpus"], json!(250_000_000));
    assert_eq!(host["PidsLimit"], json!(256));
    assert_eq!(host["NetworkMode"], json!("none"));
    assert!(
        host["PortBindings"].as_object().is_none_or(serde_json::Map::is_empty),
        "{host}"
    );
    let tmp = host["Tmpfs"]["/tmp"].as_str().unwrap();
    for flag in ["noexec", "nosuid", "nodev", "size="] {
        assert!(tmp.contains(flag), "{tmp}");
    }
    assert!(host["LogConfig"]["Config"]["max-size"].is_string(), "{host}");
    assert!(host["CgroupParent"].as_str().unwrap().contains("default"), "{host}");
    assert_eq!(c["Config"]["User"], json!("0:0"));
    assert_eq!(c["Config"]["Entrypoint"], json!(["/berth/bin/berth", "agent"]));
    let labels = &c["Config"]["Labels"];
    assert_eq!(labels["berth.box"], json!(a.box_id()));
    assert_eq!(labels["berth.instance"], json!(i.id));
    assert_eq!(labels["berth.type"], json!("memory"));
    assert!(labels["berth.spec"].as_str().unwrap().len() >= 32);
    for mount in c["Mounts"].as_array().unwrap() {
        let (kind, writable) = (mount["Type"].as_str().unwrap(), mount["RW"].as_bool().unwrap());
        assert!(kind == "volume" || !writable, "a host path is writable: {mount}");
        assert!(
            !mount["Source"].as_str().unwrap_or_default().contains("docker.sock"),
            "{mount}"
        );
    }
}

/// What the engine was told of CPU, and what the kernel holds.
fn nano_cpus(a: &Appliance, id: &str) -> i64 {
    a.inspect(id)["HostConfig"]["NanoCpus"].as_i64().unwrap()
}

#[test]
fn the_cpu_of_a_start_ends_with_the_start() {
    let dir = tempfile::tempdir().unwrap();
    // A server that is not ready for a while, or never.
    let text = std::fs::read_to_string(root().join("instance-types/time.toml")).unwrap();
    let command = text.lines().find(|l| l.starts_with("command")).unwrap();
    let slow = text
        .replacen("name = \"time\"", "name = \"slow\"", 1)
        .replace(command, "command = [\"sleep\", \"300\"]");
    std::fs::write(dir.path().join("slow.toml"), slow).unwrap();
    let mut options = Options::default();
    options.types.push(dir.path().into());
    let mut a = Appliance::with(options);
    let cpus = std::thread::available_parallelism().unwrap().get().min(2);
    let more = i64::try_from(cpus).unwrap() * 1_000_000_000;

    // Ready: the size's own.
    let i = a.run("time", &["--size", "small"]);
    assert_eq!(nano_cpus(&a, &i.id), 250_000_000);
    let container = a.container_of(&i.id);
    // Started again by policy: bound again when it runs again.
    assert!(a.docker(&["kill", &container]).status.success());
    wait_for("it is restarted", MINUTE, || {
        let view = a.show(&i.id);
        view["restarts"] == 1 && view["state"] == "running"
    });
    assert_eq!(nano_cpus(&a, &i.id), 250_000_000);
    a.cli(&["stop", &i.id]);
    a.cli(&["start", &i.id]);
    assert_eq!(nano_cpus(&a, &i.id), 250_000_000);
    assert_eq!(a.container_of(&i.id), container, "it is the same container all along");

    // Not ready: more, as much as the box has. A supervisor that is killed then leaves none of it behind.
    let slow = a.json(&["run", "slow", "--no-wait", "--size", "small"]);
    let slow = slow["id"].as_str().unwrap();
    a.wait_state(slow, "starting", MINUTE);
    assert_eq!(nano_cpus(&a, slow), more);
    let other = a.json(&["run", "time", "--no-wait", "--size", "small"]);
    let other = other["id"].as_str().unwrap();
    wait_for("its container is there", MINUTE, || {
        let filter = format!("label=berth.instance={other}");
        !a.docker_lines(&["ps", "-q", "--filter", &filter]).is_empty()
    });
    a.kill();
    a.launch();
    a.wait_state(other, "running", MINUTE);
    assert_eq!(nano_cpus(&a, other), 250_000_000);
    assert_eq!(nano_cpus(&a, &i.id), 250_000_000);
    // It never gets ready, and does not keep it.
    wait_for("the CPU of the start is taken back", 2 * MINUTE, || {
        nano_cpus(&a, slow) == 250_000_000
    });
}

/// What the kernel says of a workspace's cgroup, `parent`, by its file of either version of cgroups.
fn held(parent: &str, v1: &str, v2: &str) -> String {
    let at = parent.trim_start_matches('/');
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let path = if unified {
        format!("/sys/fs/cgroup/{at}/{v2}")
    } else {
        let controller = v1.split('.').next().unwrap();
        format!("/sys/fs/cgroup/{controller}/{at}/{v1}")
    };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn workspaces_are_made_changed_and_removed_and_what_runs_is_held_to_what_they_say() {
    let mut a = Appliance::with(Options {
        extra: "[workspace]\nmemory = \"300MiB\"\n".into(),
        ..Options::default()
    });
    a.cli(&["workspace", "add", "research", "--instances", "1", "--cpus", "0.75"]);
    let said = a.cli_fails(1, &["workspace", "add", "research"]);
    assert!(said.contains("already"), "{said}");
    let i = a.run("time", &["--workspace", "research", "--name", "clock"]);
    let parent = a.inspect(&i.id)["HostConfig"]["CgroupParent"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(held(&parent, "cpu.cfs_quota_us", "cpu.max"), "75000");
    // One runs, and no more may; elsewhere they may, also by the same name.
    let said = a.cli_fails(1, &["run", "time", "--workspace", "research"]);
    assert!(
        said.contains("1 instances of the workspace") && said.contains("berth workspace set"),
        "{said}"
    );
    let default = a.run("time", &["--name", "clock"]);
    for (asked, id) in [
        ("clock", &default.id),
        ("default/clock", &default.id),
        ("research/clock", &i.id),
    ] {
        assert_eq!(a.show(asked)["id"], id.as_str(), "{asked}");
    }
    // What is removed once is not removed elsewhere when it is asked for again.
    a.cli(&["rm", "clock"]);
    let said = a.cli_fails(1, &["rm", "clock"]);
    assert!(said.contains("elsewhere there is research/clock"), "{said}");
    // What runs is held to another quota at once, and keeps it when the supervisor is killed.
    a.cli(&[
        "workspace",
        "set",
        "research",
        "--instances",
        "2",
        "--cpus",
        "0.5",
        "--processes",
        "300",
    ]);
    let changed = || {
        (
            held(&parent, "cpu.cfs_quota_us", "cpu.max"),
            held(&parent, "pids.max", "pids.max"),
        )
    };
    let wanted = ("50000".to_owned(), "300".to_owned());
    wait_for("the new quota", MINUTE, || changed() == wanted);
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200, "it runs on");
    a.kill();
    a.launch();
    let shown = a.json(&["workspace", "show", "research"]);
    let quota = serde_json::json!({ "cpus": 0.5, "processes": 300, "instances": 2 });
    let limits = serde_json::json!({ "cpus": 0.5, "memory_bytes": 300 << 20, "processes": 300, "instances": 2 });
    assert_eq!((&shown["quota"], &shown["limits"]), (&quota, &limits), "{shown}");
    let read = |v1, v2| held(&parent, v1, v2);
    assert_eq!(
        read("memory.limit_in_bytes", "memory.max"),
        (300 << 20).to_string(),
        "the configuration's"
    );
    assert_eq!((&shown["instances"], &shown["running"]), (&1.into(), &1.into()));
    a.wait_state(&i.id, "running", MINUTE);
    assert_eq!(changed(), wanted);
    let second = a.run("time", &["--workspace", "research"]);
    let listed = a.json(&["workspace", "list"]);
    let names: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|w| w["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["default", "research"]);
    // Where the quota is lowered nothing is stopped, and what was stopped stays so.
    a.cli(&["workspace", "set", "research", "--instances", "1"]);
    a.cli(&["stop", &second.id]);
    assert!(a.cli_fails(1, &["start", &second.id]).contains("its quota is 1"));
    let said = a.cli_fails(1, &["workspace", "rm", "research"]);
    assert!(said.contains(&i.id) && said.contains("berth rm"), "{said}");
    assert!(a.cli_fails(1, &["workspace", "rm", "default"]).contains("stays"));
    assert!(
        a.cli_fails(1, &["workspace", "show", "sales"])
            .contains("this box has: default, research")
    );
    a.cli(&["rm", &i.id, &second.id]);
    a.cli(&["workspace", "rm", "research"]);
    let said = a.cli_fails(1, &["run", "time", "--workspace", "research"]);
    assert!(
        said.contains("no workspace") && said.contains("berth workspace add"),
        "{said}"
    );
    let left = std::path::Path::new("/sys/fs/cgroup/pids").join(parent.trim_start_matches('/'));
    wait_for("its cgroup is gone", MINUTE, || !left.exists());
}

#[test]
fn a_workspace_is_held_to_its_quota() {
    let a = Appliance::with(Options {
        extra: "[workspace]\ncpu = \"0.75\"\nmemory = \"300MiB\"\npids = 200\n".into(),
        ..Options::default()
    });
    let i = a.run("time", &["--size", "large"]);
    assert_eq!(nano_cpus(&a, &i.id), 750_000_000, "no more than its workspace has");
    let parent = a.inspect(&i.id)["HostConfig"]["CgroupParent"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        parent.contains(&a.box_id()[..8]) && parent.contains("default"),
        "{parent}"
    );
    let read = |v1: &str, v2: &str| held(&parent, v1, v2);
    assert_eq!(read("cpu.cfs_quota_us", "cpu.max"), "75000");
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), (300 << 20).to_string());
    assert_eq!(read("pids.max", "pids.max"), "200");
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200);
    a.cli(&["rm", &i.id]);
    let left = std::path::Path::new("/sys/fs/cgroup/pids").join(parent.trim_start_matches('/'));
    wait_for("its cgroup is gone", MINUTE, || !left.exists());
}

#[test]
fn stop_start_recreate_keep_address_token_and_data() {
    let a = Appliance::start();
    let i = a.run("memory", &["--name", "notes"]);
    let write = r#"{"name":"create_entities","arguments":{"entities":[{"name":"canary","entityType":"bird","observations":["sings"]}]}}"#;
    let session = open(&a, &i);
    assert!(call(&a, &i, &session, write).contains("canary"));
    let first = a.container_of(&i.id);

    a.cli(&["stop", "notes"]);
    assert_eq!(a.show(&i.id)["state"], "stopped");
    let refused = a.post(&i.url, &i.token, INITIALIZE, &[]);
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(
        refused.json()["error"]["message"].as_str().unwrap().contains("stopped"),
        "{}",
        refused.body
    );
    a.cli(&["start", "notes"]);
    assert_eq!(
        a.post(&i.url, &i.token, &read_graph(), &[]).status,
        400,
        "the old session's requests need a session"
    );
    a.cli(&["recreate", "notes"]);
    assert_ne!(a.container_of(&i.id), first, "recreate makes a new container");
    let session = open(&a, &i);
    let graph = call(&a, &i, &session, r#"{"name":"read_graph","arguments":{}}"#);
    assert!(graph.contains("canary"), "the volume stays: {graph}");
}

fn read_graph() -> String {
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read_graph","arguments":{}}}"#.into()
}

/// Opens a session; the header to send along.
fn open(a: &Appliance, i: &support::Instance) -> String {
    let answer = a.post(&i.url, &i.token, INITIALIZE, &[]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let header = format!(
        "Mcp-Session-Id: {}",
        answer.header("mcp-session-id").expect("a session id")
    );
    let done = a.post(
        &i.url,
        &i.token,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        &["-H", &header],
    );
    assert_eq!(done.status, 202, "{}", done.body);
    header
}

fn call(a: &Appliance, i: &support::Instance, session: &str, params: &str) -> String {
    let body = format!(r#"{{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{params}}}"#);
    let answer = a.post(&i.url, &i.token, &body, &["-H", session]);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

#[test]
fn a_server_that_cannot_start_fails_with_its_own_words() {
    let a = Appliance::start();
    let out = a.try_cli(&["run", "fixture-crash", "--json"]);
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    let view: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(view["state"], "failed");
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("frobnicator"), "the server's last words: {reason}");
    let id = view["id"].as_str().unwrap();
    let answer = a.post(
        view["endpoints"]["mcp"]["url"].as_str().unwrap(),
        view["token"].as_str().unwrap(),
        INITIALIZE,
        &[],
    );
    assert_eq!(answer.status, 503);
    assert!(
        answer.header("retry-after").is_none(),
        "waiting does not help a failed instance"
    );
    a.cli(&["rm", id]);
    assert_eq!(a.leftovers(), Vec::<String>::new());
}

#[test]
fn no_wait_returns_at_once_and_wrong_words_are_refused() {
    let a = Appliance::start();
    let made = a.json(&["run", "time", "--no-wait", "--name", "clock"]);
    assert!(
        ["pending", "preparing", "starting", "running"].contains(&made["state"].as_str().unwrap()),
        "{made:#}"
    );
    assert!(made["token"].as_str().unwrap().starts_with("brt_i_"));
    a.wait_state("clock", "running", MINUTE);
    assert!(a.cli_fails(1, &["run", "time", "--name", "clock"]).contains("taken"));
    assert!(a.cli_fails(1, &["run", "nonsense"]).contains("known types: "));
    assert!(a.cli_fails(1, &["show", "nonsense"]).contains("berth list"));
    assert!(
        a.cli_fails(2, &["run", "time", "--size", "huge"])
            .contains("small, medium, large or xlarge")
    );
    assert!(a.cli_fails(2, &["run", "time", "--name", "Not A Name"]).contains("a-z"));
    assert!(
        a.cli_fails(1, &["run", "time", "--env", "BERTH_X=1"])
            .contains("kept back")
    );
    a.cli_fails(2, &["frobnicate"]);
    let second = a.json(&["run", "time", "--no-wait"]);
    let third = a.json(&["run", "time", "--no-wait"]);
    assert_ne!(second["name"], third["name"], "default names do not collide");
}

#[test]
fn environment_reaches_the_server_and_nothing_else() {
    let a = Appliance::start();
    const CANARY: &str = "canary-5f1b2c7d9e";
    let i = a.run("everything", &["--env", &format!("SECRET_CANARY={CANARY}")]);
    let session = open(&a, &i);
    let env = call(&a, &i, &session, r#"{"name":"get-env","arguments":{}}"#);
    assert!(env.contains(CANARY), "{env}");
    assert!(!a.inspect(&i.id).to_string().contains(CANARY), "docker inspect");
    assert!(!a.cli(&["logs", &i.id]).contains(CANARY), "logs");
    assert!(!a.log().contains(CANARY), "the supervisor's log at level debug");
    assert!(!a.json(&["show", &i.id]).to_string().contains(CANARY), "show");
    let grep = std::process::Command::new("grep")
        .args(["-rl", CANARY])
        .arg(a.dir().join("state"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "at rest");
    // The same after the supervisor came back and made a new container of what it had stored.
    a.cli(&["recreate", &i.id]);
    let session = open(&a, &i);
    assert!(call(&a, &i, &session, r#"{"name":"get-env","arguments":{}}"#).contains(CANARY));
}

#[test]
fn logs_are_kept_and_followed() {
    let a = Appliance::start();
    let i = a.run("everything", &[]);
    let logs = a.cli(&["logs", &i.id]);
    assert!(!logs.trim().is_empty(), "the server's stderr is in the log");
    let last = a.cli(&["logs", &i.id, "--tail", "1"]);
    assert_eq!(last.lines().count(), 1, "{last}");
    let mut follow = a
        .command(&["logs", &i.id, "--follow"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    a.cli(&["stop", &i.id]);
    wait_for("the followed log ends with its container", MINUTE, || {
        follow.try_wait().unwrap().is_some()
    });
}

#[test]
fn images_must_be_there_or_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(root().join("instance-types/time.toml")).unwrap();
    let make = |name: &str, reference: &str| {
        let line = text.lines().find(|l| l.starts_with("reference")).unwrap();
        let renamed = text.replace(line, &format!("reference = \"{reference}\"")).replacen(
            "name = \"time\"",
            &format!("name = \"{name}\""),
            1,
        );
        std::fs::write(dir.path().join(format!("{name}.toml")), renamed).unwrap();
    };
    make("absent", "berth/not-there:1");
    make("stranger", "elsewhere/thing:1");
    let a = Appliance::with(Options {
        types: vec![dir.path().into()],
        ..Options::default()
    });
    let said = a.cli_fails(1, &["run", "absent"]);
    assert!(said.contains("berth/not-there:1"), "{said}");
    let said = a.cli_fails(1, &["run", "stranger"]);
    assert!(said.contains("elsewhere/thing:1") && said.contains("images"), "{said}");
}

#[test]
fn foreign_containers_are_never_touched() {
    let a = Appliance::start();
    let b = Appliance::start();
    let i = a.run("time", &[]);
    let j = b.run("time", &[]);
    assert_ne!(a.box_id(), b.box_id());
    a.cli(&["rm", &i.id]);
    assert_eq!(b.show(&j.id)["state"], "running");
    assert_eq!(b.containers().len(), 1, "the other box's container stays");
    assert_eq!(
        a.post(
            &j.url.replace(&b.https.to_string(), &a.https.to_string()),
            &j.token,
            INITIALIZE,
            &[]
        )
        .status,
        401
    );
}
