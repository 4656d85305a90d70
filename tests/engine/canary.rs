//! Secrets are looked for wherever they must not be. Canary values are planted, every verb is run, the server crashes,
//! fails and prints them, the supervisor logs all that it can; then files, processes, containers, logs and answers
//! are searched for them, plain and encoded. They may stand in the environment of the server's own process alone.

use crate::support;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use support::{Appliance, Instance, Options, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// A value that stands nowhere on this machine yet, and the ways in which it may be written down.
struct Canary {
    value: String,
    forms: Vec<Vec<u8>>,
}

impl Canary {
    fn new(what: &str) -> Self {
        let mut random = [0u8; 12];
        getrandom::fill(&mut random).unwrap();
        let tail: String = random.iter().map(|b| format!("{b:02x}")).collect();
        let value = format!("key-{what}-{tail}");
        let mut forms = vec![
            value.as_bytes().to_vec(),
            value
                .bytes()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
                .into_bytes(),
            value
                .bytes()
                .map(|b| format!("{b:02X}"))
                .collect::<String>()
                .into_bytes(),
            value.bytes().rev().collect(),
        ];
        // Base64, wherever it begins in a longer text: less what its neighbours share.
        use base64::Engine;
        for before in 0..3 {
            let text = format!("{}{value}", &"xx"[..before]);
            let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&text);
            forms.push(encoded.as_bytes()[4..encoded.len() - 3].to_vec());
        }
        Self { value, forms }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|f| memchr::memmem::find(bytes, f).is_some())
    }
}

/// Everything that a search found, in words.
#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn look(&mut self, canaries: &[&Canary], place: &str, bytes: &[u8]) {
        for c in canaries.iter().filter(|c| c.is_in(bytes)) {
            self.0.push(format!("{} in {place}", &c.value[..10]));
        }
    }

    /// Every file below a folder; one that vanishes meanwhile is no longer there to be found.
    fn look_below(&mut self, canaries: &[&Canary], folder: &Path) -> usize {
        let (mut todo, mut files) = (vec![folder.to_owned()], 0);
        while let Some(path) = todo.pop() {
            let Ok(entries) = std::fs::read_dir(&path) else {
                continue;
            };
            for path in entries.filter_map(|e| e.ok().map(|e| e.path())) {
                let Ok(kind) = std::fs::symlink_metadata(&path).map(|m| m.file_type()) else {
                    continue;
                };
                if kind.is_dir() {
                    todo.push(path);
                } else if kind.is_file() {
                    files += 1;
                    let place = path.display().to_string();
                    self.look(canaries, &place, place.as_bytes());
                    self.look(canaries, &place, &std::fs::read(&path).unwrap_or_default());
                }
            }
        }
        files
    }
}

/// Command line and environment of every process: pid -> both.
fn processes() -> BTreeMap<u32, (Vec<u8>, Vec<u8>)> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
        .map(|pid| {
            let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
            (pid, (read("cmdline"), read("environ")))
        })
        .collect()
}

/// A verb's whole output, with what it was given on its input.
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn verb(&mut self, a: &Appliance, args: &[&str], input: &str) -> bool {
        let out = a.piped(args, input);
        self.0
            .push((format!("berth {}", args.join(" ")), [out.stdout, out.stderr].concat()));
        out.status.success()
    }

    fn get(&mut self, a: &Appliance, path: &str) {
        let out = std::process::Command::new("curl")
            .args(["--silent", "--max-time", "20", "--unix-socket"])
            .arg(a.socket())
            .arg(format!("http://berth{path}"))
            .output()
            .unwrap();
        assert!(!out.stdout.is_empty(), "GET {path} gave nothing");
        self.0.push((format!("GET {path}"), out.stdout));
    }
}

fn every_verb(a: &Appliance, i: &Instance, said: &mut Said, site: &str) {
    let id = i.id.as_str();
    for json in [false, true] {
        let mut verb = |args: &[&str], input: &str| {
            let mut args = args.to_vec();
            args.extend(json.then_some("--json"));
            said.verb(a, &args, input)
        };
        for args in [
            &["status"][..],
            &["types"],
            &["types", "show", "fixture-secret"],
            &["list"],
            &["show", id],
            &["logs", id],
            &["credential", "list", id],
            &["connect", id],
            &["token", "list"],
            &["ca"],
            &["stop", id],
            &["start", id],
            &["recreate", id],
        ] {
            assert!(verb(args, ""), "berth {args:?}");
        }
        verb(&["doctor", "--config", a.config().to_str().unwrap()], "");
        assert!(verb(&["credential", "set", id, "EXTRA"], site));
        assert!(verb(&["credential", "unset", id, "EXTRA"], ""));
        assert!(verb(&["token", "create", "--instance", id], ""));
        // What is refused must not repeat it either.
        assert!(!verb(&["credential", "set", id, "SITE"], site));
        assert!(!verb(&["credential", "set", id, "BAD-NAME"], site));
        assert!(!verb(
            &["run", "fixture-secret", "--env-file", "-"],
            &format!("SITE={site}\n")
        ));
        assert!(!verb(
            &["run", "fixture-secret", "--env-file", "-"],
            &format!("{site}\n")
        ));
        assert!(!verb(
            &["run", "no-such-type", "--env-file", "-"],
            &format!("API_KEY={site}\n")
        ));
    }
    let one = format!("/v1/instances/{id}");
    for path in [
        "/v1/status",
        "/v1/types",
        "/v1/instances",
        "/v1/tokens",
        "/metrics",
        &one,
    ] {
        said.get(a, path);
    }
    said.get(a, &format!("{one}/credentials"));
    said.get(a, &format!("{one}/logs"));
}

/// The engine's own folder of each of the box's containers, and what it says of them.
fn containers(a: &Appliance, canaries: &[&Canary], found: &mut Found) {
    let root = a.docker_lines(&["info", "--format", "{{ .DockerRootDir }}"]).remove(0);
    for container in a.containers() {
        let folder = PathBuf::from(&root).join("containers").join(&container);
        assert!(
            found.look_below(canaries, &folder) > 3,
            "{} is searched",
            folder.display()
        );
        for args in [&["inspect"][..], &["logs"], &["diff"], &["top"]] {
            let out = a.docker(&[args, &[container.as_str()]].concat());
            found.look(
                canaries,
                &format!("docker {args:?}"),
                &[out.stdout, out.stderr].concat(),
            );
        }
        let layers = a.docker_lines(&["inspect", "--format", "{{ .GraphDriver.Data.UpperDir }}", &container]);
        found.look_below(canaries, Path::new(&layers[0]));
    }
    found.look_below(canaries, &PathBuf::from(&root).join("volumes"));
    found.look_below(canaries, &PathBuf::from(&root).join("network"));
}

#[test]
fn no_canary_is_anywhere_but_in_the_servers_own_process() {
    let (first, second) = (Canary::new("one"), Canary::new("two"));
    let (failing, refused) = (Canary::new("wrong"), Canary::new("not"));
    let all = [&first, &second, &failing, &refused];
    let a = Appliance::with(Options {
        log: "trace",
        ..Options::default()
    });
    let mut said = Said(Vec::new());
    let i = a.run_with("fixture-secret", &format!("API_KEY={}\n", first.value));
    every_verb(&a, &i, &mut said, &refused.value);

    // Calls, by clients that may and by such that may not; a crash; and a change.
    let session = a.open(&i);
    let noise = a.call(&i, &session, "noise", &json!({ "bytes": 4000 }));
    said.0.push(("a call".into(), noise.into_bytes()));
    let crash = a.call(&i, &session, "die", &json!({}));
    said.0.push(("a crash".into(), crash.into_bytes()));
    let stranger = a.post(&i.url, &format!("brt_i_{}", refused.value), support::INITIALIZE, &[]);
    assert_eq!(stranger.status, 401);
    said.0.push(("a refusal".into(), stranger.body.into_bytes()));
    assert!(said.verb(&a, &["credential", "set", &i.id, "API_KEY"], &second.value));
    let session = a.open(&i);
    let killed = a.call(&i, &session, "kill", &json!({ "signal": 11 }));
    said.0.push(("a segmentation fault".into(), killed.into_bytes()));
    a.wait_state(&i.id, "running", MINUTE);

    // A server that fails, and says with what.
    let env = format!("API_KEY={}\n", failing.value);
    assert!(!said.verb(
        &a,
        &[
            "run",
            "fixture-secret",
            "--name",
            "failing",
            "--env-file",
            "-",
            "--json"
        ],
        &env
    ));
    let view: Value = serde_json::from_slice(said.0.last().unwrap().1.split(|b| *b == b'\n').next().unwrap())
        .unwrap_or_else(|_| a.show("failing"));
    assert_eq!(view["state"], "failed");
    assert!(
        view["reason"].as_str().unwrap().contains("the key *** is not accepted"),
        "{view}"
    );
    assert!(said.verb(&a, &["logs", "failing"], "") && said.verb(&a, &["show", "failing"], ""));

    let log = a.cli(&["logs", &i.id]);
    for words in ["the key is ***!", "basic ***", "bearer ***", "hex ***"].map(|w| w.split("***").next().unwrap()) {
        assert!(
            log.contains(words),
            "the server's own words are there, {words:?}: {log}"
        );
    }
    let mut found = Found::default();
    for (what, output) in &said.0 {
        found.look(&all, what, output);
    }
    found.look(&all, "the supervisor's log", a.log().as_bytes());
    assert!(a.log().contains("DEBUG"), "the log is as talkative as it can be");
    assert!(found.look_below(&all, a.dir()) > 5);
    containers(&a, &all, &mut found);
    for folder in ["/var/log", "/run/log", "/var/lib/systemd/coredump", "/var/crash"] {
        found.look_below(&all, Path::new(folder));
    }

    // Only the server has it, and it does: else all this has searched for nothing.
    let top = a.docker_lines(&["top", &a.container_of(&i.id), "-eo", "pid,args"]);
    let servers: Vec<u32> = top
        .iter()
        .filter(|l| l.contains("python3"))
        .map(|l| l.split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert!(!servers.is_empty(), "{top:?}");
    for (pid, (line, environment)) in processes() {
        found.look(&all, &format!("the command line of {pid}"), &line);
        if servers.contains(&pid) {
            assert!(second.is_in(&environment), "the server {pid} has its key");
            found.look(&[&first, &failing, &refused], "the server's environment", &environment);
        } else {
            found.look(&all, &format!("the environment of {pid}"), &environment);
        }
    }
    assert!(found.0.is_empty(), "canaries were found:\n{}", found.0.join("\n"));

    assert!(said.verb(&a, &["rm", &i.id, "failing"], ""));
    assert!(found.look_below(&all, &a.dir().join("state")) > 0);
    assert!(found.0.is_empty(), "after removal:\n{}", found.0.join("\n"));
}

/// `--env KEY=VALUE` is a convenience that a process list would show: the value is wiped from it at once.
#[test]
fn a_value_on_the_command_line_is_wiped_from_the_process_list() {
    let canary = Canary::new("argument");
    let a = Appliance::start();
    let pair = format!("API_KEY={}", canary.value);
    let mut child = a.command(&["run", "fixture-secret", "--env", &pair]).spawn().unwrap();
    let line = || std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
    wait_for("the command line is wiped", MINUTE, || {
        memchr::memmem::find(&line(), b"API_KEY=****").is_some()
    });
    assert!(!canary.is_in(&line()));
    assert!(child.wait().unwrap().success());
}

/// Supervisor and agent leave no core, and their memory is shown to nobody of their user.
#[test]
fn supervisor_and_agent_cannot_be_dumped() {
    let a = Appliance::start();
    let i = a.run_with("fixture-secret", "API_KEY=key-for-no-dumps\n");
    let agent = a.inspect(&i.id)["State"]["Pid"].as_u64().unwrap();
    for pid in [u64::from(a.pid()), agent] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
        let fields: Vec<&str> = core.split_whitespace().collect();
        assert_eq!(fields[4..6], ["1", "1"], "{core}");
    }
    // One that is dumpable belongs to its own user in /proc (proc(5)); the agent's does not.
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(format!("/proc/{agent}/environ")).unwrap().uid();
    assert_eq!(owner, 0, "the agent, of user 10000, is not dumpable");
}
