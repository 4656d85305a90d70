//! Nobody in a container but its process 1 is the agent: what else runs there cannot open the socket, reach the agent's
//! memory, or be believed; and has no right that would help.

use crate::support;

use std::{
    collections::BTreeMap,
    io::Read,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::restart;
use nix::sys::signal::Signal;
use serde_json::json;
use support::{
    Appliance, INITIALIZE, Instance, Options,
    desktop::{Assistant, Browser, inside, link},
    root, wait_for,
};

const MINUTE: Duration = Duration::from_secs(60);
/// What the agent keeps: to signal, and to change group and user (capabilities(7): 5, 6, 7).
const KEPT: &str = "00000000000000e0";
const NONE: &str = "0000000000000000";

/// A job dials the agent's socket in forty threads, answers and forges whatever it gets, and looks for every other way to
/// the agent, while somebody with another token works.
#[test]
fn a_job_gets_nothing_of_what_others_say() {
    let a = Appliance::start();
    let i = a.run("linux-command-line", &[]);
    let made = a.json(&["token", "create", "--instance", &i.id]);
    let other = Instance {
        token: made["token"].as_str().unwrap().to_owned(),
        ..Instance::from(
            &json!({"id": i.id, "token": i.token, "endpoints": {"mcp": {"url": i.url, "path_url": i.path_url}}}),
        )
    };
    let script = std::fs::read_to_string(root().join("tests/fixtures/attacks/agent-socket.py")).unwrap();
    let mut attacker = Assistant::of(&a, &i);
    attacker.call("write_file", json!({ "path": "attack.py", "content": script }));
    let job = attacker
        .call("start_job", json!({ "command": "python3 attack.py 20" }))
        .data["job"]
        .clone();
    let output = |attacker: &mut Assistant| attacker.call("read_job", json!({ "job": job, "since": 0 })).text;
    wait_for("the attack goes on", MINUTE, || {
        output(&mut attacker).contains("dialling")
    });
    let mut victim = Assistant::of(&a, &other);
    let mut calls = 0;
    while calls < 12 || !output(&mut attacker).contains("done") {
        let secret = format!("secret-{calls}-{}", made["id"].as_str().unwrap());
        let said = victim.call("run_command", json!({ "command": format!("echo {secret}") }));
        assert_eq!(said.text, format!("{secret}\n"), "call {calls}");
        calls += 1;
    }
    let output = output(&mut attacker);
    assert!(output.contains("connect: EACCES"), "{output}");
    for word in ["CONNECTED", "STOLEN", "REACHED", "secret-"] {
        assert!(!output.contains(word), "{word} in:\n{output}");
    }
    let view = a.show(&i.id);
    assert_eq!(
        (&view["state"], &view["health"], &view["restarts"]),
        (&json!("running"), &json!("healthy"), &json!(0)),
        "{view:#}"
    );
    assert!(!view.to_string().contains("FORGED") && !a.log().contains("FORGED"));
}

/// What dials from the right container as the right user, and from the host as root: not process 1, so not heard.
#[test]
fn only_process_1_is_believed() {
    let a = Appliance::start();
    let i = a.run("fixture-echo", &[]);
    let session = a.open(&i);
    // The agent's own user and group: the socket opens.
    let dial = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect('/berth/run/agent.sock')\nprint('open', flush=True)\ns.settimeout(60)\nprint('got', s.recv(1000), flush=True)";
    let container = a.container_of(&i.id);
    let strangers: Vec<_> = (0..3)
        .map(|_| {
            Command::new("docker")
                .args([
                    "-H",
                    &format!("unix://{}", support::engine_socket()),
                    "exec",
                    "--user",
                    "10000:10000",
                ])
                .args([&container, "python3", "-c", dial])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let socket = a.dir().join(format!("run/i/{}/agent.sock", i.id));
    let mut as_root = UnixStream::connect(&socket).unwrap();
    as_root.set_read_timeout(Some(MINUTE)).unwrap();
    for n in 0..20 {
        let said = a.call(&i, &session, "echo", &json!({ "message": format!("round {n}") }));
        assert!(said.contains(&format!("round {n}")), "{said}");
    }
    let mut said = Vec::new();
    as_root.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"", "closed, and nothing was said");
    for stranger in strangers {
        let out = stranger.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "open\ngot b''\n");
    }
    assert!(a.log().contains("is not its agent"), "{}", a.log());
    assert_eq!(a.show(&i.id)["restarts"], 0);
}

/// The fields of `/proc/PID/status`; none for one that has ended.
fn status(pid: u32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let fields = text.lines().filter_map(|l| l.split_once(':'));
    fields.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect()
}

/// Looks at every process of an instance; what they are, by command line.
fn check_processes(a: &Appliance, id: &str) -> Vec<String> {
    check_processes_from(0, a, id)
}

/// The same where the engine counts users from `base` on.
fn check_processes_from(base: u32, a: &Appliance, id: &str) -> Vec<String> {
    let agent = u32::try_from(a.inspect(id)["State"]["Pid"].as_u64().unwrap()).unwrap();
    let namespace = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let four = |n: u32| [(base + n).to_string().as_str(); 4].join("\t");
    let mut seen = Vec::new();
    for (pid, command) in inside(a, id) {
        let own = pid == agent;
        let s = status(pid);
        if s.is_empty() || s["State"].starts_with('Z') {
            continue;
        }
        let number = if own { 10_000 } else { 10_001 };
        let user = four(number);
        assert_eq!((&s["Uid"], &s["Gid"]), (&user, &user), "{command}");
        assert_eq!(s["Groups"], (base + number).to_string(), "{command}");
        assert_eq!(s["NoNewPrivs"], "1", "{command}");
        // A browser's own sandbox has rights within a namespace of its own, and none outside of it.
        if namespace(pid) == namespace(agent) {
            let has = if own { KEPT } else { NONE };
            assert_eq!((s["CapPrm"].as_str(), s["CapEff"].as_str()), (has, has), "{command}");
            for set in ["CapInh", "CapBnd", "CapAmb"] {
                assert_eq!(s[set], NONE, "{set} of {command}");
            }
        }
        seen.push(command);
    }
    seen
}

/// An image of the fixture servers whose own user is the agent's.
struct Tagged(String);

impl Tagged {
    fn of(a: &Appliance, user: &str) -> Self {
        let tag = format!("berth/test-user-{}:1", a.box_id());
        let made = a.docker_lines(&[
            "create",
            "--label",
            &format!("berth.test={}", a.box_id()),
            "berth/test-servers:1",
            "x",
        ]);
        let check = "HEALTHCHECK --interval=1s CMD sleep 600";
        let done = a.docker(&["commit", "--change", user, "--change", check, &made[0], &tag]);
        a.docker(&["rm", &made[0]]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self(tag)
    }
}

impl Drop for Tagged {
    fn drop(&mut self) {
        let engine = format!("unix://{}", support::engine_socket());
        let _ = Command::new("docker")
            .args(["-H", &engine, "rmi", "-f", &self.0])
            .output();
    }
}

#[test]
fn everything_but_process_1_is_another_user_without_rights() {
    let a = Appliance::start();
    let i = a.run("fixture-echo", &[]);
    let session = a.open(&i);
    assert!(!check_processes(&a, &i.id).is_empty());
    // The volume and /tmp are the server's.
    let said = a.call(
        &i,
        &session,
        "write_file",
        &json!({ "path": "/data/note", "bytes": 10 }),
    );
    assert!(said.contains("wrote"), "{said}");

    // Commands, jobs and what they start; services; the screen; a browser with its sandbox.
    let i = a.run("linux-command-line", &[]);
    let mut assistant = Assistant::of(&a, &i);
    assistant.call(
        "start_job",
        json!({ "command": "setsid sleep 600 & bash -c 'sleep 601; true'" }),
    );
    wait_for("the job's processes", MINUTE, || {
        let all = inside(&a, &i.id);
        all.iter().any(|(_, c)| c.contains("sleep 601")) && all.iter().any(|(_, c)| c.contains("sleep 600"))
    });
    let seen = check_processes(&a, &i.id).join("\n");
    for what in ["Xvnc", "berth shell", "sleep 600", "sleep 601"] {
        assert!(seen.contains(what), "{what} is not in {seen}");
    }
    let mut people = Browser::start(&a);
    people.open("ada", &link(&a, &i.id, &[]));
    people.wait_phase("ada", "live");
    a.cli(&["rm", &i.id]);

    // An image that would be the agent's user, or root, is neither.
    for user in ["USER 10000:10000", "USER 0"] {
        let image = Tagged::of(&a, user);
        let made = a.cli(&[
            "run",
            "image",
            "--image",
            &image.0,
            "--command",
            "python3",
            "--json",
            "--",
            "-I",
            "-S",
            "/opt/mcp/server.py",
            "stdio",
        ]);
        let i = Instance::from(&serde_json::from_str(&made).unwrap());
        a.open(&i);
        let seen = check_processes(&a, &i.id).join("\n");
        assert!(seen.contains("server.py"), "{user}: {seen}");
        assert_eq!(a.inspect(&i.id)["Config"]["Healthcheck"]["Test"], json!(["NONE"]));
        a.cli(&["rm", &i.id]);
    }
}

#[test]
fn a_browser_and_its_display_have_no_right_of_the_agents() {
    let a = Appliance::start();
    let i = a.run("fixture-browser", &[]);
    let mut assistant = Assistant::of(&a, &i);
    assistant.call("browser_navigate", json!({ "url": "http://127.0.0.1:8000/" }));
    let seen = check_processes(&a, &i.id).join("\n");
    for what in ["Xvnc", "start.mjs", "--type=renderer"] {
        assert!(seen.contains(what), "{what} is not in {seen}");
    }
}

/// A folder with one more type: the fixture server behind a shell.
fn shell_type(script: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(root().join("tests/fixtures/types/fixture-echo.toml")).unwrap();
    let line = text.lines().find(|l| l.starts_with("command = ")).unwrap();
    let command = format!("command = [\"sh\", \"-c\", '''{script}; exec python3 -I -S /opt/mcp/server.py stdio''']");
    let text = text
        .replace("\"fixture-echo\"", "\"fixture-shell\"")
        .replace(line, &command);
    std::fs::write(dir.path().join("fixture-shell.toml"), text).unwrap();
    dir
}

/// Many programs open their standard streams by name.
#[test]
fn a_server_opens_its_standard_streams_by_name() {
    let types = shell_type(
        "echo opened by name > /dev/stderr; echo home is $HOME >> /proc/self/fd/2; test -r /dev/stdin -a -w /dev/stdout && echo both too >&2",
    );
    let mut options = Options::default();
    options.types.push(types.path().to_owned());
    let a = Appliance::with(options);
    let i = a.run("fixture-shell", &[]);
    a.open(&i);
    let log = a.cli(&["logs", &i.id]);
    for words in ["opened by name", "home is /tmp", "both too"] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

fn answers(a: &Appliance, i: &Instance) -> bool {
    a.post(&i.url, &i.token, INITIALIZE, &[]).status == 200
}

fn pid(a: &Appliance, i: &Instance) -> u64 {
    a.inspect(&i.id)["State"]["Pid"].as_u64().unwrap()
}

/// Containers that somebody restarts by hand, with a supervisor and without one, have another process 1.
#[test]
fn a_process_1_that_changed_is_found_again() {
    let mut a = Appliance::start();
    let i = a.run("fixture-echo", &[]);
    let container = a.container_of(&i.id);
    let restart = |a: &Appliance| {
        let before = pid(a, &i);
        assert!(a.docker(&["restart", "-t", "1", &container]).status.success());
        before
    };
    let before = restart(&a);
    wait_for("it answers from another process", MINUTE, || {
        answers(&a, &i) && pid(&a, &i) != before
    });
    a.wait_state(&i.id, "running", MINUTE);
    a.kill();
    let before = restart(&a);
    a.launch();
    wait_for("it answers to another supervisor", MINUTE, || {
        answers(&a, &i) && pid(&a, &i) != before
    });
    // One that is made anew, and one that died.
    a.cli(&["recreate", &i.id]);
    assert!(answers(&a, &i));
    let before = pid(&a, &i);
    support::signal(u32::try_from(before).unwrap(), Signal::SIGKILL);
    wait_for("it answers from a new process", MINUTE, || {
        answers(&a, &i) && pid(&a, &i) != before
    });
    a.cli(&["rm", &i.id]);
}

/// A supervisor that starts while the engine is away serves what runs: which process is whose agent was noted down.
#[test]
fn without_an_engine_a_new_supervisor_serves_what_runs() {
    let dir = tempfile::Builder::new().prefix("berth-s").tempdir_in("/tmp").unwrap();
    let engine: PathBuf = dir.path().join("engine");
    let plug = || std::os::unix::fs::symlink(support::engine_socket(), &engine).unwrap();
    plug();
    let mut a = Appliance::with(Options {
        engine: engine.display().to_string(),
        ..Options::default()
    });
    let i = a.run("fixture-echo", &[]);
    let session = a.open(&i);
    let note = a.dir().join(format!("run/i/{}.peer", i.id));
    assert!(note.exists());
    a.kill();
    std::fs::remove_file(&engine).unwrap();
    a.launch();
    wait_for("it serves", MINUTE, || answers(&a, &i));
    let said = a.call(&i, &session, "echo", &json!({ "message": "the same session" }));
    assert!(said.contains("the same session"), "{said}");
    assert_ne!(a.json(&["status"])["engine"], "ok");
    // Of another boot it means nothing: nobody is believed before the engine was asked.
    a.kill();
    let text = std::fs::read_to_string(&note).unwrap();
    std::fs::write(&note, format!("another-boot{}", &text[text.find(' ').unwrap()..])).unwrap();
    a.launch();
    wait_for("the agent waits", MINUTE, || {
        a.log().matches("somebody is at its socket").count() > 0
    });
    assert!(!answers(&a, &i));
    plug();
    wait_for("it serves again", MINUTE, || answers(&a, &i));
    assert_eq!(a.show(&i.id)["restarts"], 0);
    a.cli(&["rm", &i.id]);
    assert!(!Path::new(&note).exists());
}

/// Where containers' users are other users of the machine, the socket opens for the agent all the same, and for nobody else.
#[test]
fn remapped_users_change_nothing() {
    let mut engine = restart::Engine::remapped();
    engine.copy("berth/test-servers:1");
    let mut a = Appliance::with(Options {
        engine: engine.socket(),
        ..Options::default()
    });
    let i = a.run("fixture-echo", &[]);
    let session = a.open(&i);
    let seen = check_processes_from(restart::BASE, &a, &i.id).join("\n");
    assert!(seen.contains("server.py"), "{seen}");
    let said = a.call(
        &i,
        &session,
        "write_file",
        &json!({ "path": "/data/note", "bytes": 10 }),
    );
    assert!(said.contains("wrote"), "{said}");
    let container = a.container_of(&i.id);
    let dial = |user: &str| {
        let script = "import socket\ns = socket.socket(socket.AF_UNIX)\ns.settimeout(60)\ns.connect('/berth/run/agent.sock')\nprint('got', s.recv(9))";
        let out = a.docker(&["exec", "--user", user, &container, "python3", "-c", script]);
        String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
    };
    for user in ["10001:10001", "0:0", "10001:0"] {
        assert!(dial(user).contains("PermissionError"), "{user}: {}", dial(user));
    }
    assert_eq!(dial("10000:10000").trim(), "got b''");
    a.kill();
    a.launch();
    wait_for("it serves again", MINUTE, || answers(&a, &i));
    assert_eq!(a.show(&i.id)["restarts"], 0);
    a.cli(&["rm", &i.id]);
    assert_eq!(a.leftovers(), Vec::<String>::new());
    drop(a);
    engine.stop();
}
