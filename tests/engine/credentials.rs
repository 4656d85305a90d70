//! Credentials: asked for before anything runs, given by pipe and by terminal, changed in place, never read back.

use crate::support;

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use support::{Appliance, INITIALIZE, Instance, Options, berth, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const KEY: &str = "key-11112222-first";
const OTHER: &str = "key-33334444-second";

/// What the server sees of a variable.
fn seen(a: &Appliance, i: &Instance, key: &str) -> Value {
    let session = a.open(i);
    let about = a.call(i, &session, "about", &json!({}));
    let about = about
        .lines()
        .find_map(|l| l.strip_prefix("data: "))
        .unwrap_or(&about)
        .to_owned();
    let about: Value = serde_json::from_str(&about).unwrap();
    let text = about["result"]["content"][0]["text"].as_str().unwrap();
    serde_json::from_str::<Value>(text).unwrap()["environment"][key].clone()
}

/// POSTs an action to the admin API; status and body.
fn act(a: &Appliance, action: &Value) -> (u16, Value) {
    let out = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--write-out",
            "\n%{http_code}",
            "--unix-socket",
        ])
        .arg(a.socket())
        .args(["-d", &action.to_string(), "http://berth/v1/actions"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn what_is_required_is_named_before_anything_is_made() {
    let a = Appliance::start();
    let said = a.cli_fails(1, &["run", "fixture-secret"]);
    for words in ["API_KEY", "Test key", "Ask the drawer of straws", "--env-file -"] {
        assert!(said.contains(words), "{words} is not in: {said}");
    }
    assert!(!said.contains("SITE"), "what is optional is not asked for: {said}");
    let (status, body) = act(&a, &json!({ "action": "run", "type": "fixture-secret" }));
    assert_eq!(status, 422, "{body}");
    assert_eq!(body["missing"][0]["key"], "API_KEY");
    assert_eq!(body["missing"][0]["kind"], "password");
    assert_eq!(body["missing"][0]["help"], "Ask the drawer of straws for one.");
    // A value of the wrong form is refused, and not repeated.
    let env = json!({ "API_KEY": "hunter2hunter2", "SITE": "UPPER" });
    let (status, body) = act(&a, &json!({ "action": "run", "type": "fixture-secret", "env": env }));
    assert_eq!(status, 422, "{body}");
    assert_eq!(
        (&body["wrong"][0]["key"], &body["wrong"][1]["key"]),
        (&json!("API_KEY"), &json!("SITE"))
    );
    assert!(
        !body.to_string().contains("hunter2") && !body.to_string().contains("UPPER"),
        "{body}"
    );
    let out = a.piped(
        &["run", "fixture-secret", "--env-file", "-"],
        "API_KEY=hunter2hunter2\n",
    );
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("key-[a-z0-9-]") && !said.contains("hunter2"), "{said}");
    assert_eq!(a.json(&["list"]), json!([]));
    assert_eq!(a.leftovers(), Vec::<String>::new());
    let shown = a.cli(&["types", "show", "fixture-secret"]);
    assert!(shown.contains("SITE (Site, optional)"), "{shown}");
}

#[test]
fn a_change_restarts_the_server_in_its_container() {
    let a = Appliance::start();
    let i = a.run_with("fixture-secret", &format!("API_KEY={KEY}\n"));
    assert_eq!(seen(&a, &i, "API_KEY"), KEY);
    let (container, began) = (a.container_of(&i.id), a.inspect(&i.id)["State"]["StartedAt"].clone());
    let session = a.open(&i);

    let out = a.piped(&["credential", "set", &i.id, "API_KEY"], &format!("{OTHER}\n"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(seen(&a, &i, "API_KEY"), OTHER);
    assert_eq!(a.container_of(&i.id), container, "the container is kept");
    assert_eq!(a.inspect(&i.id)["State"]["StartedAt"], began, "and was not restarted");
    assert_eq!(a.show(&i.id)["restarts"], 0, "what was asked for is no failure");
    let ended = a.post(
        &i.url,
        &i.token,
        r#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#,
        &["-H", &session],
    );
    assert_eq!(ended.status, 404, "sessions end: {}", ended.body);

    let list = a.json(&["credential", "list", &i.id]);
    assert_eq!(list[0]["key"], "API_KEY");
    assert_eq!((&list[0]["set"], &list[0]["set_by"]), (&json!(true), &json!("root")));
    assert!(list[0]["set_at"].is_string());
    assert_eq!((&list[1]["key"], &list[1]["set"]), (&json!("SITE"), &json!(false)));
    let shown = a.cli(&["credential", "list", &i.id]);
    assert!(shown.contains("not set") && !shown.contains(OTHER), "{shown}");
    assert!(!list.to_string().contains(OTHER), "{list}");

    // One more, of which the type knows nothing, and away again.
    assert!(a.piped(&["credential", "set", &i.id, "EXTRA"], "more").status.success());
    assert_eq!(seen(&a, &i, "EXTRA"), "more");
    a.cli(&["credential", "unset", &i.id, "EXTRA"]);
    assert_eq!(seen(&a, &i, "EXTRA"), Value::Null);
    let said = a.cli_fails(1, &["credential", "unset", &i.id, "API_KEY"]);
    assert!(said.contains("is required"), "{said}");
    let out = a.piped(&["credential", "set", &i.id, "API_KEY"], "hunter2hunter2");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && !said.contains("hunter2"), "{said}");
    let said = a.cli_fails(1, &["credential", "unset", &i.id, "NOTHING"]);
    assert!(said.contains("has no value of that name"), "{said}");
    assert_eq!(a.container_of(&i.id), container);

    // Stopped, it may lack it; but it does not start without it.
    a.cli(&["stop", &i.id]);
    a.cli(&["credential", "unset", &i.id, "API_KEY"]);
    let said = a.cli_fails(1, &["start", &i.id]);
    assert!(
        said.contains("Ask the drawer") && said.contains("credential set"),
        "{said}"
    );
    assert!(a.cli_fails(1, &["recreate", &i.id]).contains("API_KEY"));
    assert!(a.piped(&["credential", "set", &i.id, "API_KEY"], KEY).status.success());
    assert_eq!(a.show(&i.id)["state"], "stopped", "a stopped instance stays so");
    a.cli(&["start", &i.id]);
    assert_eq!(seen(&a, &i, "API_KEY"), KEY);
}

#[test]
fn a_wrong_value_fails_with_the_servers_words_and_the_right_one_mends_it() {
    let a = Appliance::start();
    let env = "API_KEY=key-wrong-wrong-wrong\n";
    let out = a.piped(&["run", "fixture-secret", "--env-file", "-", "--json"], env);
    assert_eq!(out.status.code(), Some(1));
    let view: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(view["state"], "failed", "{view}");
    let reason = view["reason"].as_str().unwrap();
    assert!(
        reason.contains("the key *** is not accepted"),
        "its last words, which had no line end: {reason}"
    );
    let i = view["id"].as_str().unwrap();
    let out = a.piped(&["credential", "set", i, "API_KEY"], KEY);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(a.show(i)["state"], "running");
    // A good server that gets a wrong value fails soon, not by a time-out.
    let out = a.piped(&["credential", "set", i, "API_KEY"], "key-wrong-again");
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.contains("is not accepted") && !said.contains("key-wrong-again"),
        "{said}"
    );
}

/// What was acknowledged is true after the supervisor was killed: the new one hands it over.
#[test]
fn a_change_survives_the_supervisor() {
    let mut a = Appliance::start();
    let i = a.run_with("fixture-secret", &format!("API_KEY={KEY}\n"));
    let container = a.container_of(&i.id);
    let out = a.piped(&["credential", "set", &i.id, "API_KEY", "--no-wait"], OTHER);
    a.kill();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    a.launch();
    a.wait_state(&i.id, "running", MINUTE);
    wait_for("the server has the new value", MINUTE, || {
        a.post(&i.url, &i.token, INITIALIZE, &[]).status == 200 && seen(&a, &i, "API_KEY") == OTHER
    });
    assert_eq!(a.container_of(&i.id), container);
}

/// Services and their own processes are restarted too, and nothing of the old values is left.
#[test]
fn services_get_the_new_values_too() {
    let a = Appliance::start();
    let i = a.run_with("fixture-http", "TOKEN=first-value\n");
    let values = || {
        let top = a.docker_lines(&["top", &a.container_of(&i.id), "-eo", "pid"]);
        let pids = top.iter().filter_map(|l| l.trim().parse::<u32>().ok());
        pids.filter_map(|p| std::fs::read_to_string(format!("/proc/{p}/environ")).ok())
            .flat_map(|e| {
                e.split('\0')
                    .filter_map(|v| v.strip_prefix("TOKEN=").map(str::to_owned))
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(values(), ["first-value"], "one process has it: not the agent");
    assert!(
        a.piped(&["credential", "set", &i.id, "TOKEN"], "second-value")
            .status
            .success()
    );
    assert_eq!(values(), ["second-value"]);
    assert_eq!(a.show(&i.id)["restarts"], 0);
}

/// On a terminal, `berth run` asks, and what is typed does not show.
#[test]
fn a_terminal_is_asked_and_shows_nothing() {
    let a = Appliance::start();
    let line = format!("{} run fixture-secret", berth().display());
    // What never answers ends, and fails the test.
    let mut child = Command::new("timeout")
        .args(["--foreground", "120", "script"])
        .args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"])
        .env("BERTH_SOCKET", a.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = String::new();
    let mut until = |words: &str| {
        let mut piece = [0; 256];
        while !shown.contains(words) {
            let n = screen.read(&mut piece).unwrap();
            assert!(n > 0, "{words:?} does not come: {shown}");
            shown.push_str(&String::from_utf8_lossy(&piece[..n]));
        }
        std::mem::take(&mut shown)
    };
    let first = until("API_KEY: ");
    assert!(first.contains("Test key: Ask the drawer of straws for one."), "{first}");
    keyboard.write_all(b"hunter2hunter2\n").unwrap();
    let again = until("API_KEY: ");
    assert!(
        again.contains("does not match") && !again.contains("hunter2"),
        "{again}"
    );
    keyboard.write_all(format!("{KEY}\n").as_bytes()).unwrap();
    let rest = until("token");
    assert!(!rest.contains(KEY), "{rest}");
    drop(keyboard);
    assert!(child.wait().unwrap().success());
    let id = a.json(&["list"])[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(a.show(&id)["state"], "running");
}

#[test]
fn the_key_comes_from_systemd_where_it_passes_one() {
    let plain = Appliance::start();
    assert!(plain.cli(&["status"]).contains("key file"));
    let passed = tempfile::tempdir().unwrap();
    std::fs::write(passed.path().join("berth-box-key"), [9; 32]).unwrap();
    let mut a = Appliance::with(Options {
        env: vec![("CREDENTIALS_DIRECTORY", passed.path().display().to_string())],
        ..Options::default()
    });
    let sealing = a.json(&["status"])["sealing"].clone();
    assert!(sealing.as_str().unwrap().contains("systemd credential"), "{sealing}");
    assert!(!a.dir().join("state/keys/box.key").exists());
    let i = a.run_with("fixture-secret", &format!("API_KEY={KEY}\n"));
    // With another key nothing opens, and that is said.
    a.terminate();
    std::fs::write(passed.path().join("berth-box-key"), [8; 32]).unwrap();
    a.launch();
    a.cli_fails(1, &["recreate", &i.id]);
    let reason = a.show(&i.id)["reason"].clone();
    assert!(reason.as_str().unwrap().contains("cannot be opened"), "{reason}");
}
