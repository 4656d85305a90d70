//! Service manners: readiness, watchdog and stopping told to the service manager, sockets that it passes, who may use
//! the admin socket, metrics, drain.

use crate::support;

use std::{
    io::{ErrorKind, Read},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use support::{Appliance, INITIALIZE, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// What the supervisor tells the service manager next. A signal of another test's child interrupts a wait that has a
/// deadline.
fn told(notify: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    loop {
        match notify.recv(&mut buffer) {
            Ok(n) => return String::from_utf8_lossy(&buffer[..n]).into_owned(),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => panic!("no notification: {e}"),
        }
    }
}

/// SIGHUP, as `systemctl reload` sends it: good files are used from then on, bad ones change nothing and are said.
#[test]
fn types_are_read_again() {
    let mut a = Appliance::start();
    a.terminate();
    let at = a.dir().join("notify");
    let notify = UnixDatagram::bind(&at).unwrap();
    notify.set_read_timeout(Some(MINUTE)).unwrap();
    a.launch_with(&[("NOTIFY_SOCKET", at.to_str().unwrap())]);
    let until = |what: &str| loop {
        let said = told(&notify);
        if said.contains(what) {
            return said;
        }
    };
    until("READY=1");
    let i = a.run("time", &[]);
    let container = a.container_of(&i.id);
    let file = a.dir().join("types/time.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let names = |a: &Appliance| a.json(&["types"]).to_string();

    // A new type, and another image for one that runs.
    std::fs::write(
        a.dir().join("types/clock.toml"),
        text.replacen("\"time\"", "\"clock\"", 1),
    )
    .unwrap();
    let line = text.lines().find(|l| l.starts_with("reference")).unwrap();
    std::fs::write(&file, text.replace(line, "reference = \"berth/not-there:1\"")).unwrap();
    assert!(!names(&a).contains("clock"));
    support::signal(a.pid(), Signal::SIGHUP);
    assert!(until("RELOADING=1").contains("MONOTONIC_USEC="));
    until("READY=1");
    assert!(names(&a).contains("clock"));
    let j = a.run("clock", &[]);
    assert_eq!(a.post(&j.url, &j.token, INITIALIZE, &[]).status, 200);
    assert_eq!(a.container_of(&i.id), container, "what runs is untouched");
    assert_ne!(a.show(&i.id)["image"], "berth/not-there:1");
    assert!(a.json(&["status"])["notes"].to_string().find("type files").is_none());

    // A bad file: the old types stay, and everybody is told which line is wrong.
    std::fs::write(a.dir().join("types/clock.toml"), "nme = \"clock\"\n").unwrap();
    support::signal(a.pid(), Signal::SIGHUP);
    until("RELOADING=1");
    until("READY=1");
    assert!(names(&a).contains("clock"));
    let note = a.json(&["status"])["notes"].to_string();
    assert!(note.contains("clock.toml:1:"), "{note}");
    assert!(a.cli(&["status"]).contains("clock.toml:1:"));
    assert!(a.log().contains("the old ones stay"), "{}", a.log());
    let doctor = a.try_cli(&["doctor", "--config", a.config().to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("supervisor says"));
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200);

    // Mended: the note goes, and recreate uses the new type.
    std::fs::remove_file(a.dir().join("types/clock.toml")).unwrap();
    support::signal(a.pid(), Signal::SIGHUP);
    until("RELOADING=1");
    until("READY=1");
    assert!(!names(&a).contains("clock"));
    assert!(!a.json(&["status"])["notes"].to_string().contains("type files"));
    let said = a.cli_fails(1, &["recreate", &i.id]);
    assert!(said.contains("berth/not-there:1"), "{said}");
}

#[test]
fn the_service_manager_is_told_and_its_sockets_are_used() {
    let mut a = Appliance::start();
    a.terminate();
    let dir = a.dir().to_owned();
    let notify = UnixDatagram::bind(dir.join("notify")).unwrap();
    notify.set_read_timeout(Some(MINUTE)).unwrap();
    let next = || told(&notify);
    // As systemd does it: descriptors from 3 on, named, for this very process id. The listener exists before the
    // supervisor, so a connection made now waits in its queue.
    let script = "
import os, socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(64)
print('listening', flush=True)
sys.stdin.readline()
if s.fileno() != 3: os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='https', LISTEN_PID=str(os.getpid()), WATCHDOG_USEC='4000000', WATCHDOG_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";
    let child = Command::new("python3")
        .args(["-c", script, &a.https.to_string()])
        .arg(support::berth())
        .args(["serve", "--config"])
        .arg(a.config())
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = support::Ends(child);
    let mut line = [0; 10];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    // The request is on its way before there is a supervisor.
    let waiting = Command::new("curl")
        .args([
            "--silent",
            "--max-time",
            "60",
            "--write-out",
            "%{http_code}",
            "--output",
            "/dev/null",
            "--cacert",
        ])
        .arg(a.ca())
        .arg(format!("https://localhost:{}/mcp/aaaaaaaaaa", a.https))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdin.take());
    let told = next();
    assert!(
        told.contains("READY=1") && told.contains("STATUS=serving localhost"),
        "{told}"
    );
    let code = waiting.wait_with_output().unwrap().stdout;
    assert_eq!(
        String::from_utf8_lossy(&code),
        "401",
        "the connection that waited is served"
    );
    assert_eq!(
        next().trim_end(),
        "WATCHDOG=1",
        "fed while reconcile and edge make progress"
    );
    support::signal(child.id(), Signal::SIGTERM);
    loop {
        let told = next();
        if told.contains("STOPPING=1") {
            break;
        }
        assert!(told.contains("WATCHDOG=1") || told.contains("STATUS="), "{told}");
    }
    wait_for("it ends", MINUTE, || child.try_wait().unwrap().is_some());
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_admin_socket_is_for_root_and_its_group() {
    let a = Appliance::start();
    let mode = std::fs::metadata(a.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    let as_nobody = |socket: &std::path::Path| {
        let out = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(support::berth())
            .args(["status", "--socket"])
            .arg(socket)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    let said = as_nobody(&a.socket());
    assert!(said.contains("root and its group"), "{said}");
    // Even with the file's mode opened by mistake, the peer's credentials decide.
    std::fs::set_permissions(a.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
    as_nobody(&a.socket());
    a.cli(&["status"]);
}

#[test]
fn metrics_count_what_happened() {
    let a = Appliance::start();
    let i = a.run("time", &[]);
    for _ in 0..3 {
        assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200);
    }
    assert_eq!(a.post(&i.url, "wrong", INITIALIZE, &[]).status, 401);
    let text = a.metrics();
    let of = |start: &str| -> f64 {
        let line = text
            .lines()
            .find(|l| l.starts_with(start) && l.contains(&i.id) || l.starts_with(start) && !l.contains("instance="));
        let line = line.unwrap_or_else(|| panic!("no {start} in:\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(of("berth_instances{state=\"running\"}"), 1.0);
    assert_eq!(of("berth_instance_healthy"), 1.0);
    assert_eq!(of("berth_sessions"), 3.0);
    assert!(of("berth_instance_cpu_seconds_total") > 0.0);
    assert!(of("berth_instance_memory_bytes") > 1e6);
    assert!(of("berth_request_duration_seconds_count") >= 3.0);
    assert_eq!(of("berth_edge_unauthorized_total"), 1.0);
    assert!(!text.contains(&i.token));
    let ok = format!(
        "berth_requests_total{{instance=\"{}\",type=\"time\",workspace=\"default\",code=\"2xx\"}} 3",
        i.id
    );
    assert!(text.contains(&ok), "{text}");
}

#[test]
fn a_call_in_flight_ends_before_the_supervisor_does() {
    let mut a = Appliance::start();
    let i = a.run("everything", &["--size", "large"]);
    // In the modern era: what runs in a session can be resumed, and is not waited for.
    let body = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"trigger-long-running-operation","arguments":{"duration":3,"steps":1},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let call = Command::new("curl")
        .args(["--silent", "--max-time", "30", "--cacert"])
        .arg(a.ca())
        .args([
            "-H",
            "Content-Type: application/json",
            "-H",
            "Accept: application/json, text/event-stream",
            "-H",
            "MCP-Protocol-Version: 2026-07-28",
            "-H",
            "Mcp-Method: tools/call",
            "-H",
            "Mcp-Name: trigger-long-running-operation",
        ])
        .args(["-H", &format!("Authorization: Bearer {}", i.token), "-d", body, &i.url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the call is in flight", MINUTE, || {
        a.metrics()
            .lines()
            .any(|l| l.starts_with("berth_requests_in_flight{") && l.ends_with(" 1"))
    });
    assert!(a.terminate().success());
    let answer = String::from_utf8(call.wait_with_output().unwrap().stdout).unwrap();
    assert!(answer.contains("Long running operation completed"), "{answer}");
}

#[test]
fn doctor_says_what_is_wrong_and_how_to_mend_it() {
    let a = Appliance::start();
    let report = a.cli(&["doctor", "--config", a.config().to_str().unwrap()]);
    for name in [
        "engine:",
        "engine API:",
        "cgroups:",
        "state folder's disk:",
        "clock:",
        "certificates:",
        "supervisor:",
    ] {
        assert!(report.contains(name), "{name} not in:\n{report}");
    }
    let bad = a.dir().join("bad.toml");
    std::fs::write(&bad, "[docker]\nsocket = \"/nowhere.sock\"\n").unwrap();
    let out = a.try_cli(&["doctor", "--config", bad.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        said.contains("FAIL  engine: /nowhere.sock") && said.contains("-> start Docker"),
        "{said}"
    );
}

#[test]
fn connect_prints_configuration_that_works() {
    let a = Appliance::start();
    let i = a.run("time", &["--name", "clock"]);
    for (client, url, bearer) in [
        (
            "json",
            "/mcpServers/clock/url",
            "/mcpServers/clock/headers/Authorization",
        ),
        (
            "cursor",
            "/mcpServers/clock/url",
            "/mcpServers/clock/headers/Authorization",
        ),
        (
            "claude-code",
            "/mcpServers/clock/url",
            "/mcpServers/clock/headers/Authorization",
        ),
        ("vscode", "/servers/clock/url", "/servers/clock/headers/Authorization"),
        (
            "claude-desktop",
            "/mcpServers/clock/args/2",
            "/mcpServers/clock/env/BERTH_AUTHORIZATION",
        ),
    ] {
        let c = a.json(&["connect", "clock", "--client", client]);
        let token = c
            .pointer(bearer)
            .and_then(|v| v.as_str())
            .unwrap()
            .strip_prefix("Bearer ")
            .unwrap()
            .to_owned();
        let url = c.pointer(url).and_then(|v| v.as_str()).unwrap();
        assert_eq!(url, i.url);
        assert_ne!(token, i.token, "each client has a token of its own");
        assert_eq!(a.post(url, &token, INITIALIZE, &[]).status, 200, "{client}");
    }
    let tokens = a.json(&["token", "list"]);
    assert_eq!(tokens.as_array().unwrap().len(), 6);
    // Revoked: refused from the very next request on; the others go on.
    let made = a.json(&["token", "create", "--instance", "clock", "--expires", "1h"]);
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert_eq!(a.post(&i.url, token, INITIALIZE, &[]).status, 200);
    a.cli(&["token", "revoke", id]);
    let refused = a.post(&i.url, token, INITIALIZE, &[]);
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").unwrap().contains("invalid_token"));
    assert_eq!(a.post(&i.url, &i.token, INITIALIZE, &[]).status, 200);
}
