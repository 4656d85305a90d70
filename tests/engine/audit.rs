//! The audit from outside: what is told of whom, that nothing that was asked is missing from it, and that nothing secret or
//! sent is in it.

use crate::{remote::claimed, support};

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use support::{Appliance, INITIALIZE, Instance, Options, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const CANARY: &str = "canary-7f3a9c";

/// Rows as `berth audit` prints them.
fn rows(a: &Appliance, filters: &[&str]) -> Vec<Value> {
    let mut args = vec!["audit", "--json", "--all"];
    args.extend(filters);
    let printed = a.cli(&args);
    printed.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn token(a: &Appliance, member: &str) -> (String, String) {
    let made = a.json(&["token", "create", "--member", member]);
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

/// A member of `default` who may use an instance; their token and its id.
fn user(a: &Appliance, name: &str, i: &Instance) -> (String, String) {
    a.cli(&["member", "add", name]);
    a.cli(&["grant", "add", name, &i.id]);
    token(a, name)
}

fn call(tool: &str, id: u64) -> String {
    let params = json!({ "name": tool, "arguments": { "text": CANARY, "message": CANARY } });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string()
}

#[test]
fn what_is_called_is_told_with_who_and_how_it_went() {
    let a = Appliance::start();
    claimed(&a);
    let i = a.run("fixture-echo", &[]);
    let (ada, ada_id) = user(&a, "ada", &i);
    a.cli(&["member", "add", "bob"]);
    let (bob, _) = token(&a, "bob");
    let opened = a.post(&i.url, &ada, INITIALIZE, &[]);
    let session = format!("Mcp-Session-Id: {}", opened.header("mcp-session-id").unwrap());
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let more = ["-H", session.as_str(), "-H", trace];
    assert_eq!(a.post(&i.url, &ada, &call("echo", 2), &more).status, 200);
    a.post(&i.url, &ada, &call("no-such-tool", 3), &more);
    assert_eq!(a.post(&i.url, &bob, &call("echo", 4), &[]).status, 403);
    let stranger = format!("brt_m_{}", "A".repeat(43));
    assert_eq!(a.post(&i.url, &stranger, &call("echo", 5), &[]).status, 401);

    let told = rows(&a, &["--tool", "echo", "--member", "ada"]);
    let [row] = &told[..] else { panic!("{told:?}") };
    for (field, value) in [
        ("kind", json!("call")),
        ("outcome", json!("ok")),
        ("member", json!("ada")),
        ("token", json!(ada_id)),
        ("via", json!("endpoint")),
        ("address", json!("127.0.0.1")),
        ("client", json!("test")),
        ("workspace", json!("default")),
        ("instance", json!(i.id)),
        ("server", json!("fixture-echo")),
        ("version", json!("1")),
        ("method", json!("tools/call")),
        ("era", json!("legacy")),
        ("grant", json!("member")),
        ("trace", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
        ("status", json!(200)),
    ] {
        assert_eq!(row[field], value, "{field} of {row}");
    }
    for field in ["latency_us", "bytes_in", "bytes_out"] {
        assert!(row[field].as_u64().unwrap() > 0, "{field} of {row}");
    }
    let failed = rows(&a, &["--tool", "no-such-tool"]);
    assert_eq!(failed[0]["outcome"], "error", "{failed:?}");
    let denied = rows(&a, &["--member", "bob", "--kind", "refusal"]);
    assert_eq!(
        (&denied[0]["code"], &denied[0]["status"], &denied[0]["tool"]),
        (&json!("wrong-token"), &json!(403), &json!("echo"))
    );
    let unknown = rows(&a, &["--by", "nobody", "--code", "bad-token"]);
    assert_eq!(
        (&unknown[0]["address"], &unknown[0]["tool"]),
        (&json!("127.0.0.1"), &Value::Null)
    );

    // People and spreadsheets read it, too.
    let lines = a.cli(&["audit", "--tool", "echo", "--outcome", "ok"]);
    assert!(lines.contains("tools/call echo") && lines.contains("ada"), "{lines}");
    let csv = a.cli(&["audit", "--csv", "--tool", "echo", "--member", "ada"]);
    let (head, first) = csv.split_once("\r\n").unwrap();
    assert!(
        head.starts_with("seq,time,kind,outcome,member,") && first.contains("Z,call,ok,ada,,"),
        "{csv}"
    );
    a.cli_fails(1, &["audit", "--kind", "calls"]);

    assert!(a.cli(&["audit", "verify"]).contains("rows are as they were written"));
    let head = a.json(&["status"])["audit"].clone();
    let noted = format!("{}:{}", head["seq"], head["hash"].as_str().unwrap());
    a.cli(&["audit", "verify", "--head", &noted]);
    a.cli_fails(
        1,
        &[
            "audit",
            "verify",
            "--head",
            &format!("1:{}", head["hash"].as_str().unwrap()),
        ],
    );
    let kept = files(&a.dir().join("state/audit"));
    assert!(!kept.is_empty());
    for file in kept {
        let text = std::fs::read(&file).unwrap();
        assert!(
            memchr::memmem::find(&text, CANARY.as_bytes()).is_none(),
            "{}",
            file.display()
        );
        assert!(
            memchr::memmem::find(&text, &ada.as_bytes()[6..]).is_none(),
            "{}",
            file.display()
        );
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn acts_are_told_with_what_they_changed_to_those_who_may_know() {
    let a = Appliance::start();
    claimed(&a);
    let i = a.run("fixture-echo", &[]);
    let (ada, _) = user(&a, "ada", &i);
    a.cli(&["workspace", "add", "lab"]);
    let there = a.run("fixture-echo", &["--workspace", "lab"]);
    a.cli(&["member", "add", "eve", "--workspace", "lab", "--role", "admin"]);
    let (eve, _) = token(&a, "eve");
    a.cli(&["workspace", "set", "lab", "--cpus", "2"]);
    a.cli(&["workspace", "set", "lab", "--cpus", "1.5"]);
    let set = rows(&a, &["--action", "set-quota", "--workspace", "lab"]);
    assert_eq!(
        set[1]["changes"],
        json!([{ "of": "workspace lab", "field": "cpus", "from": "2", "to": "1.5" }])
    );
    assert_eq!(
        (&set[1]["by"], &set[1]["via"], &set[1]["kind"]),
        (&json!("root"), &json!("socket"), &json!("act"))
    );
    a.cli_fails(1, &["workspace", "add", "lab"]);
    let refused = rows(&a, &["--action", "add-workspace", "--kind", "refusal"]);
    assert_eq!(refused.len(), 1, "{refused:?}");

    // Over the network: who acts is known, and from where; who may not see a row does not.
    let api = |token: &str, path: &str| {
        let bearer = format!("Authorization: Bearer {token}");
        let url = format!("https://localhost:{}/api/v1/{path}", a.https);
        a.curl(&["-H", &bearer, &url])
    };
    let stop = json!({ "action": "stop", "id": i.id }).to_string();
    let url = format!("https://localhost:{}/api/v1/actions", a.https);
    assert_eq!(a.post(&url, &ada, &stop, &[]).status, 403);
    let stop = json!({ "action": "stop", "id": there.id }).to_string();
    assert_eq!(a.post(&url, &eve, &stop, &[]).status, 200);
    let stopped = rows(&a, &["--action", "stop", "--member", "eve"]);
    assert_eq!(
        (&stopped[0]["address"], &stopped[0]["via"]),
        (&json!("127.0.0.1"), &json!("api"))
    );
    let denied = rows(&a, &["--action", "stop", "--member", "ada"]);
    assert_eq!(
        (&denied[0]["kind"], &denied[0]["code"]),
        (&json!("refusal"), &json!("not-permitted"))
    );
    let seen = |token: &str| {
        let answer = api(token, "audit?after=0");
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/jsonl"))
        );
        let rows: Vec<Value> = answer.body.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(!rows.is_empty());
        rows
    };
    assert!(seen(&ada).iter().all(|r| r["member"] == "ada"));
    assert!(
        seen(&eve)
            .iter()
            .all(|r| r["workspace"] == "lab" || r["member"] == "eve")
    );
    assert!(seen(&eve).iter().any(|r| r["action"] == "set-quota"));
    assert_eq!(api(&eve, "audit/verify").status, 403);
    assert_eq!(api(&ada, "audit?tools=x").status, 400);
    // That it was read is a row as well.
    assert!(!rows(&a, &["--action", "read-audit", "--member", "eve"]).is_empty());
}

#[test]
fn a_stream_is_told_when_it_begins_and_when_it_is_cut() {
    let a = Appliance::start();
    claimed(&a);
    let i = a.run("fixture-echo", &[]);
    let (ada, _) = user(&a, "ada", &i);
    let opened = a.post(&i.url, &ada, INITIALIZE, &[]);
    let session = format!("Mcp-Session-Id: {}", opened.header("mcp-session-id").unwrap());
    let bearer = format!("Authorization: Bearer {ada}");
    let mut listening = Command::new("curl");
    listening
        .args(["--silent", "--no-buffer", "--max-time", "300", "--cacert"])
        .arg(a.ca());
    listening.args(["-H", &bearer, "-H", &session, "-H", "Accept: text/event-stream", &i.url]);
    let _listening = support::Ends(listening.spawn().unwrap());
    let begun = || rows(&a, &["--method", "GET", "--kind", "stream"]);
    wait_for("the stream is told", MINUTE, || !begun().is_empty());
    let begun = begun();
    assert!(rows(&a, &["--method", "GET", "--kind", "call"]).is_empty());
    a.cli(&["grant", "rm", "ada", &i.id]);
    let ended = || rows(&a, &["--method", "GET", "--kind", "call"]);
    wait_for("its end is told", MINUTE, || !ended().is_empty());
    let ended = ended();
    assert_eq!((&ended[0]["outcome"], &ended[0]["of"]), (&json!("cut"), &begun[0]["n"]));
}

/// Whoever had an answer is in the audit, whenever the supervisor is killed.
#[test]
fn a_supervisor_that_is_killed_has_told_of_every_answer() {
    let mut a = Appliance::start();
    let i = a.run("fixture-echo", &[]);
    for round in 0..3 {
        let session = a.open(&i);
        let (answered, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let callers: Vec<_> = (0..3)
            .map(|caller: u64| {
                let (answered, stop, ca) = (answered.clone(), stop.clone(), a.ca());
                let (url, bearer, session) = (
                    i.url.clone(),
                    format!("Authorization: Bearer {}", i.token),
                    session.clone(),
                );
                std::thread::spawn(move || {
                    for n in 0.. {
                        if stop.load(Ordering::Relaxed) || n > 500 {
                            return;
                        }
                        // What tells calls apart is what the audit may know of them: their trace.
                        let trace = format!("{:032x}", (round + 1) << 64 | u128::from(caller) << 32 | n);
                        let parent = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
                        let out = Command::new("curl")
                            .args(["--silent", "--fail", "--max-time", "30", "--cacert"])
                            .arg(&ca)
                            .args([
                                "-H",
                                "Content-Type: application/json",
                                "-H",
                                &bearer,
                                "-H",
                                &session,
                                "-H",
                                &parent,
                            ])
                            .args([
                                "-H",
                                "Accept: application/json, text/event-stream",
                                "-d",
                                &call("echo", 7),
                                &url,
                            ])
                            .output()
                            .unwrap();
                        if out.status.success() {
                            answered.lock().unwrap().push(trace);
                        }
                    }
                })
            })
            .collect();
        wait_for("calls are answered", MINUTE, || answered.lock().unwrap().len() > 20);
        a.kill();
        stop.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|c| c.join().unwrap());
        a.launch();
        let told: BTreeSet<String> = rows(&a, &["--tool", "echo"])
            .into_iter()
            .filter_map(|r| Some(r["trace"].as_str()?.to_owned()))
            .collect();
        let missing: Vec<String> = answered
            .lock()
            .unwrap()
            .iter()
            .filter(|t| !told.contains(*t))
            .cloned()
            .collect();
        assert!(missing.is_empty(), "round {round}: {missing:?}");
        assert!(a.cli(&["audit", "verify"]).contains("rows are as they were written"));
        a.wait_state(&i.id, "running", MINUTE);
    }
    // A start that follows on no stop shows.
    let own = rows(&a, &["--kind", "box"]);
    let actions: Vec<&str> = own.iter().filter_map(|r| r["action"].as_str()).collect();
    assert_eq!(actions.iter().filter(|x| **x == "start").count(), 4, "{actions:?}");
    assert!(!actions.contains(&"stop"), "{actions:?}");
}

/// A disk of the audit's own, of a size that a test can fill.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let out = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "none"])
            .arg(&path)
            .output();
        assert!(out.unwrap().status.success(), "a tmpfs can be mounted");
        Self(path)
    }

    fn fill(&self) {
        // What is left of it, whatever its blocks are.
        let _ = std::fs::write(self.0.join("filler"), vec![b'x'; 1 << 20]);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_calls_or_not_as_the_configuration_says() {
    for (when_full, status) in [("refuse", 503), ("continue", 200)] {
        let mut a = Appliance::with(Options {
            extra: format!("[audit]\nwhen_full = \"{when_full}\"\n"),
            ..Options::default()
        });
        let i = a.run("fixture-echo", &[]);
        a.terminate();
        std::fs::rename(a.dir().join("state/audit"), a.dir().join("kept")).unwrap();
        let disk = SmallDisk::at(a.dir().join("state/audit"));
        for file in files(&a.dir().join("kept")) {
            std::fs::copy(&file, disk.0.join(file.file_name().unwrap())).unwrap();
        }
        a.launch();
        a.wait_state(&i.id, "running", MINUTE);
        let session = a.open(&i);
        let called = || a.post(&i.url, &i.token, &call("echo", 2), &["-H", &session]);
        assert_eq!(called().status, 200);
        disk.fill();
        // One row more than the disk takes, and it is said.
        let said = || {
            a.json(&["status"])["notes"]
                .to_string()
                .contains("takes no rows of the audit")
        };
        wait_for("it is said that the disk is full", MINUTE, || {
            called();
            said()
        });
        let answer = called();
        assert_eq!(answer.status, status, "{}", answer.body);
        if status == 503 {
            assert_eq!(answer.header("retry-after"), Some("30"));
            assert!(answer.body.contains("no rows of the audit"), "{}", answer.body);
        }
        disk.free();
        wait_for("the disk takes rows again", MINUTE, || !said());
        assert_eq!(called().status, 200);
        assert!(a.cli(&["audit", "verify"]).contains("rows are as they were written"));
        assert!(!rows(&a, &["--tool", "echo", "--outcome", "ok"]).is_empty());
        drop(a);
        drop(disk);
    }
}

/// What the old supervisor still answers while the next one runs is in the audit as well.
#[test]
fn nothing_is_missing_when_one_supervisor_follows_on_another() {
    let mut a = Appliance::start();
    let i = a.run("fixture-echo", &[]);
    let session = a.open(&i);
    let sleeps = json!({ "name": "sleep", "arguments": { "seconds": 3 } });
    let body = json!({ "jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": sleeps }).to_string();
    let bearer = format!("Authorization: Bearer {}", i.token);
    let mut calling = Command::new("curl");
    calling
        .args(["--silent", "--fail", "--max-time", "60", "--cacert"])
        .arg(a.ca());
    calling.args([
        "-H",
        "Content-Type: application/json",
        "-H",
        &bearer,
        "-H",
        &session,
        "-d",
        &body,
    ]);
    calling.args([
        "-H",
        "Accept: application/json, text/event-stream",
        "-o",
        "/dev/null",
        &i.url,
    ]);
    let mut calling = support::Ends(calling.spawn().unwrap());
    wait_for("the call is under way", MINUTE, || {
        let flying = format!("berth_requests_in_flight{{instance=\"{}\"", i.id);
        a.metrics().lines().any(|l| l.starts_with(&flying) && l.ends_with(" 1"))
    });
    let mut old = a.supersede();
    let answered = calling.0.wait().unwrap().success();
    wait_for("the old supervisor has ended", MINUTE, || {
        old.0.try_wait().unwrap().is_some()
    });
    // It is taken over within a minute, or by the next start.
    a.terminate();
    a.launch();
    let told = rows(&a, &["--tool", "sleep"]);
    let ok = told.iter().any(|r| r["outcome"] == "ok");
    assert_eq!(ok, answered, "{told:?}");
    assert!(a.cli(&["audit", "verify"]).contains("rows are as they were written"));
}

/// What is metered is what the audit has rows of, by person and by instance, also after a supervisor was killed.
#[test]
fn usage_agrees_with_the_audit() {
    let mut a = Appliance::start();
    claimed(&a);
    let i = a.run("fixture-echo", &[]);
    let (ada, _) = user(&a, "ada", &i);
    let (ben, _) = user(&a, "ben", &i);
    let opened = |token: &str| {
        let answer = a.post(&i.url, token, INITIALIZE, &[]);
        format!("Mcp-Session-Id: {}", answer.header("mcp-session-id").unwrap())
    };
    let (adas, bens) = (opened(&ada), opened(&ben));
    for n in 0..7 {
        a.post(&i.url, &ada, &call("echo", n), &["-H", &adas]);
    }
    a.post(&i.url, &ben, &call("no-such-tool", 1), &["-H", &bens]);
    let agrees = |a: &Appliance| {
        let told = rows(a, &["--kind", "call"]);
        let used = a.json(&["usage", "--by", "all"]);
        let used = used.as_array().unwrap();
        for who in ["ada", "ben"] {
            let theirs: Vec<&Value> = told.iter().filter(|r| r["member"] == who).collect();
            let sum = |rows: &[&Value], field: &str| rows.iter().filter_map(|r| r[field].as_u64()).sum::<u64>();
            let counted: Vec<&Value> = used.iter().filter(|u| u["member"] == who).collect();
            assert!(!theirs.is_empty());
            assert_eq!(sum(&counted, "calls"), theirs.len() as u64, "{who}: {used:?}");
            for field in ["bytes_in", "bytes_out"] {
                assert_eq!(sum(&counted, field), sum(&theirs, field), "{field} of {who}");
            }
            let failed = theirs.iter().filter(|r| r["outcome"] != "ok").count() as u64;
            assert_eq!(sum(&counted, "errors"), failed, "{who}");
            assert!(
                counted
                    .iter()
                    .all(|u| u["instance"] == i.id.as_str() && u["workspace"] == "default")
            );
        }
    };
    agrees(&a);
    a.kill();
    a.launch();
    a.wait_state(&i.id, "running", MINUTE);
    agrees(&a);
    // What the container uses by itself is nobody's, and comes with the next look.
    wait_for("CPU time is metered", MINUTE * 2, || {
        let used = a.json(&["usage"]);
        used[0]["cpu_seconds"].as_f64().is_some_and(|s| s > 0.0)
            && used[0]["memory_gib_hours"].as_f64().is_some_and(|m| m > 0.0)
    });
    let bearer = format!("Authorization: Bearer {ben}");
    let url = format!("https://localhost:{}/api/v1/usage?by=member", a.https);
    let theirs = a.curl(&["-H", &bearer, &url]).json();
    assert!(
        theirs.as_array().unwrap().iter().all(|u| u["member"] == "ben"),
        "{theirs}"
    );
    let csv = a.cli(&["usage", "--by", "day", "--csv"]);
    assert!(
        csv.starts_with("day,workspace,instance,member,calls,") && csv.lines().count() == 2,
        "{csv}"
    );
}
