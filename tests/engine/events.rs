//! What changes, as it changes, over real HTTP: who sees which events, from where a stream goes on, and when it ends.

use crate::{remote::claimed, support};

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use berth::mcp::sse;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Answer, Appliance, Options, signal, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// An event of a stream: its name, its data, and the id to go on from.
#[derive(Debug, Clone)]
struct Event {
    name: String,
    data: Value,
    id: Option<String>,
}

impl Event {
    fn text(&self, field: &str) -> &str {
        self.data[field].as_str().unwrap_or_default()
    }
}

/// A client that follows.
struct Follower {
    curl: Child,
    events: Receiver<Event>,
    /// All that came.
    text: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Follower {
    fn of(a: &Appliance, token: &str, query: &str, last: Option<&str>) -> Self {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--no-buffer", "--fail", "--max-time", "300", "--cacert"])
            .arg(a.ca())
            .args(["-H", "Accept: text/event-stream", "-H"])
            .arg(format!("Authorization: Bearer {token}"));
        if let Some(id) = last {
            curl.args(["-H", &format!("Last-Event-ID: {id}")]);
        }
        let mut curl = curl
            .arg(format!("https://localhost:{}/api/v1/events{query}", a.https))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(curl.stdout.take().unwrap());
        let (send, events) = channel();
        let text = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let (begun, has_begun) = channel();
        let all = text.clone();
        std::thread::spawn(move || {
            let (mut reader, mut line) = (sse::Reader::default(), Vec::new());
            while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                all.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                let mut event = None;
                reader.feed(&line, |e| event = Some(e));
                if let Some(e) = event {
                    let event = Event {
                        name: e.kind,
                        data: serde_json::from_slice(&e.data).unwrap(),
                        id: reader.last_id().map(str::to_owned),
                    };
                    let _ = send.send(event);
                }
                if line == b"\n" {
                    let _ = begun.send(reader.last_id().map(str::to_owned));
                }
                line.clear();
            }
        });
        // The box knows of the stream from here on.
        has_begun.recv_timeout(MINUTE).expect("the stream begins");
        Self { curl, events, text }
    }

    fn next(&self) -> Event {
        let next = self.events.recv_timeout(MINUTE);
        next.unwrap_or_else(|e| panic!("no event ({e}); so far:\n{}", self.text.lock().unwrap()))
    }

    /// The events up to the first that is the one.
    fn until(&self, is: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut all = Vec::new();
        loop {
            all.push(self.next());
            if is(&all[all.len() - 1]) {
                return all;
            }
        }
    }

    /// Waits until the stream has ended; what came before, and whether it ended properly.
    fn end(mut self) -> (Vec<Event>, bool) {
        let mut status = None;
        wait_for("the stream ends", MINUTE, || {
            status = self.curl.try_wait().unwrap();
            status.is_some()
        });
        let mut all = Vec::new();
        loop {
            match self.events.recv_timeout(MINUTE) {
                Ok(event) => all.push(event),
                Err(RecvTimeoutError::Disconnected) => return (all, status.unwrap().success()),
                Err(RecvTimeoutError::Timeout) => panic!("curl has ended and its output has not"),
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.curl.kill();
        let _ = self.curl.wait();
    }
}

fn owner(a: &Appliance) -> String {
    token(a, "admin")
}

fn token(a: &Appliance, member: &str) -> String {
    let made = a.json(&["token", "create", "--member", member]);
    made["token"].as_str().unwrap().to_owned()
}

fn get(a: &Appliance, token: &str, path: &str) -> Answer {
    let bearer = format!("Authorization: Bearer {token}");
    let at = format!("https://localhost:{}/api/v1/{path}", a.https);
    a.curl(&["-H", &bearer, &at])
}

/// A change that everybody who sees workspaces hears of; when it has come, all from before has.
fn mark(a: &Appliance, name: &str) {
    a.cli(&["workspace", "add", name]);
}

fn is(name: &'static str, id: &str) -> impl Fn(&Event) -> bool {
    let id = id.to_owned();
    move |e| e.name == name && e.text("id") == id
}

#[test]
fn an_owner_sees_an_instance_come_change_and_go() {
    let a = Appliance::start();
    claimed(&a);
    let owner = owner(&a);
    let stream = Follower::of(&a, &owner, "", None);
    let i = a.run("memory", &["--name", "notes"]);
    let running = |e: &Event| {
        let record = &e.data["record"];
        is("instance-changed", &i.id)(e) && record["state"] == "running" && record["health"] == "healthy"
    };
    let mut seen = stream.until(running);
    let last = seen[seen.len() - 1].clone();
    let mut listed = get(&a, &owner, "instances").json()[0].clone();
    assert_eq!(last.data["record"], listed.take(), "it can be put in place of a list's");
    assert_eq!(
        (last.text("name"), last.text("workspace"), last.text("instance")),
        ("notes", "default", i.id.as_str())
    );
    let set = a.piped(&["credential", "set", &i.id, "KEY"], "s3cret-value");
    assert!(set.status.success(), "{set:?}");
    seen.extend(stream.until(|e| e.name.starts_with("credential-")));
    a.cli(&["stop", &i.id]);
    seen.extend(stream.until(|e| e.data["record"]["state"] == "stopped"));
    a.cli(&["rm", &i.id]);
    seen.extend(stream.until(is("instance-removed", &i.id)));
    let of_it: Vec<&Event> = seen.iter().filter(|e| e.name.starts_with("instance-")).collect();
    assert_eq!(of_it[0].name, "instance-added");
    let order = ["pending", "preparing", "starting", "running", "stopped", "removing"];
    let at = |e: &&Event| order.iter().position(|s| e.data["record"]["state"] == *s);
    // A restart with another credential is one more start.
    let first = of_it
        .iter()
        .position(|e| e.data["record"]["state"] == "running")
        .unwrap();
    let states: Vec<usize> = of_it[..=first].iter().filter_map(at).collect();
    assert!(states.is_sorted() && states.ends_with(&[3]), "{states:?}");
    let gone = of_it[of_it.len() - 1];
    assert_eq!((&gone.data["record"], gone.text("name")), (&Value::Null, "notes"));
    let names: BTreeSet<&str> = seen.iter().map(|e| e.name.as_str()).collect();
    for name in ["token-added", "workspace-changed", "instance-changed", "token-removed"] {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    let text = stream.text.lock().unwrap().clone();
    assert!(!text.contains("brt_") && !text.contains("s3cret"), "no secret travels");
    drop(stream);

    // Of what was asked for alone; and what there is, without waiting for more.
    let i = a.run("memory", &["--no-wait"]);
    let (kinds, one) = ("?kind=token,workspace", format!("?instance={}", i.id));
    let (kinds, one) = (
        Follower::of(&a, &owner, kinds, None),
        Follower::of(&a, &owner, &one, None),
    );
    a.cli(&["token", "create", "--instance", &i.id, "--name", "second"]);
    mark(&a, "behind");
    let seen = kinds.until(is("workspace-added", "behind"));
    assert!(
        seen.iter().all(|e| ["token", "workspace"].contains(&e.text("kind"))),
        "{seen:?}"
    );
    let seen = one.until(|e| e.name == "token-added");
    assert!(seen.iter().all(|e| e.text("instance") == i.id), "{seen:?}");
    let at = seen[seen.len() - 1].id.clone().unwrap();
    let rest = get(&a, &owner, &format!("events?follow=0&last_event_id={at}"));
    assert_eq!(rest.header("content-type"), Some("text/event-stream"));
    assert!(
        rest.body.contains("workspace-added") && !rest.body.contains("reset"),
        "{}",
        rest.body
    );
    for (wrong, code) in [
        ("kind=instances", "bad-parameter"),
        ("kinds=instance", "no-such-parameter"),
        ("instance=nothing", "no-instance"),
    ] {
        let answer = get(&a, &owner, &format!("events?{wrong}"));
        assert_eq!(answer.json()["code"], code, "{wrong}");
    }
    a.cli(&["rm", &i.id]);
}

#[test]
fn a_member_sees_what_they_may_and_is_told_when_that_changes() {
    let a = Appliance::start();
    claimed(&a);
    let (mine, other) = (
        a.run("memory", &["--no-wait"]),
        a.run("memory", &["--name", "other", "--no-wait"]),
    );
    a.cli(&["member", "add", "ada"]);
    a.cli(&["grant", "add", "ada", &mine.id]);
    let ada = token(&a, "ada");
    let stream = Follower::of(&a, &ada, "", None);
    let change = |i: &support::Instance| {
        a.cli(&["stop", &i.id]);
        a.cli(&["start", &i.id, "--no-wait"]);
    };
    change(&other);
    mark(&a, "elsewhere");
    change(&mine);
    let seen = stream.until(|e| is("instance-changed", &mine.id)(e) && e.data["record"]["state"] == "stopped");
    // That their workspace has so many instances the list of workspaces says as well.
    let theirs = |e: &Event| e.text("kind") == "instance" && e.text("instance") == mine.id;
    assert!(
        seen.iter().all(|e| theirs(e) || is("workspace-changed", "default")(e)),
        "{seen:?}"
    );
    // A grant more, and the first one no more: they read their lists again, and hear of it no more.
    a.cli(&["grant", "add", "ada", &other.id]);
    stream.until(|e| e.name == "reset" && e.text("why") == "rights");
    a.cli(&["grant", "rm", "ada", &mine.id]);
    let before = stream.until(|e| e.name == "reset");
    assert!(before.iter().all(|e| !e.name.starts_with("grant-")), "{before:?}");
    change(&mine);
    a.cli(&["token", "create", "--instance", &mine.id]);
    change(&other);
    let seen = stream.until(|e| is("instance-changed", &other.id)(e) && e.data["record"]["state"] == "stopped");
    let text = serde_json::to_string(&seen.iter().map(|e| &e.data).collect::<Vec<_>>()).unwrap();
    assert!(!text.contains(&mine.id), "{text}");
    // What they lost is not to be had from before, either.
    let from = seen[0].id.clone().unwrap();
    a.cli(&["grant", "add", "ada", &mine.id]);
    stream.until(|e| e.name == "reset");
    let again = Follower::of(&a, &ada, "", Some(&from));
    assert_eq!(again.next().text("why"), "rights");
    // An instance that goes is gone for whoever could see it.
    a.cli(&["rm", &mine.id]);
    for stream in [&stream, &again] {
        let seen = stream.until(is("instance-removed", &mine.id));
        assert!(seen.iter().all(|e| e.name != "reset"), "{seen:?}");
    }
    // A grant that ends by itself.
    let soon = (jiff::Timestamp::now() + Duration::from_secs(3)).to_string();
    a.cli(&["grant", "add", "ada", &other.id, "--until", &soon]);
    for _ in 0..2 {
        stream.until(|e| e.name == "reset" && e.text("why") == "rights");
    }
    assert_eq!(get(&a, &ada, "instances").json(), json!([]));

    let (owner, begun) = (owner(&a), Instant::now());
    let report = a.json(&["member", "disable", "ada"]);
    let ((rest, whole), (others, _)) = (stream.end(), again.end());
    assert!(rest.is_empty() && !whole && begun.elapsed() < MINUTE, "{rest:?}");
    assert_eq!(others[others.len() - 1].name, "reset", "{others:?}");
    let cut = report["report"]["cut"].as_array().unwrap();
    assert!(
        cut.iter().any(|c| c["open"].as_u64() >= Some(2)),
        "the report has the streams: {report}"
    );
    assert_eq!(get(&a, &owner, "events?follow=0").status, 200);
    a.cli(&["rm", &other.id]);
}

#[test]
fn whoever_takes_a_stream_up_again_misses_nothing_and_has_nothing_twice() {
    const CHANGES: usize = 40;
    let mut a = Appliance::start();
    claimed(&a);
    let owner = owner(&a);
    let first = Follower::of(&a, &owner, "?kind=workspace", None);
    mark(&a, "first");
    let mut last = first.next().id;
    drop(first);
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..CHANGES).for_each(|n| mark(&a, &format!("w{n}"))));
        while seen.len() < CHANGES {
            // Each is cut off after a few.
            let stream = Follower::of(&a, &owner, "?kind=workspace", last.as_deref());
            for _ in 0..3.min(CHANGES - seen.len()) {
                let event = stream.next();
                assert_eq!(event.name, "workspace-added", "{event:?}");
                seen.push(event.text("id").to_owned());
                last = event.id;
            }
        }
    });
    let all: Vec<String> = (0..CHANGES).map(|n| format!("w{n}")).collect();
    assert_eq!(seen, all);

    // A stream ends properly with its supervisor, which does not wait for it; the next run knows none of its ids.
    let streams = [0; 3].map(|_| Follower::of(&a, &owner, "", None));
    let begun = Instant::now();
    assert!(a.terminate().success());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for stream in streams {
        assert!(stream.end().1, "it ends properly");
    }
    a.launch();
    let stream = Follower::of(&a, &owner, "", last.as_deref());
    assert_eq!(stream.next().text("why"), "unknown-id");
    mark(&a, "after");
    let last = stream.next().id;
    a.kill();
    assert!(!stream.end().1);
    a.launch();
    let stream = Follower::of(&a, &owner, "", last.as_deref());
    assert_eq!((stream.next().text("why"), last.is_some()), ("unknown-id", true));
    mark(&a, "again");
    assert_eq!(stream.next().text("id"), "again");
}

/// Memory that the supervisor takes, in bytes.
fn memory(a: &Appliance) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", a.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn who_does_not_read_costs_little_and_holds_up_nobody() {
    const STREAMS: usize = 8;
    // More than the kernel holds for a connection.
    const CHANGES: usize = 500;
    let a = Appliance::with(Options {
        // Nobody is given up for taking nothing, however slow this machine is.
        extra: "[limits]\nclient_timeout = \"600s\"\n".into(),
        ..Options::default()
    });
    claimed(&a);
    let owner = owner(&a);
    a.cli(&["workspace", "add", "large"]);
    let slow: Vec<Follower> = (0..STREAMS).map(|_| Follower::of(&a, &owner, "", None)).collect();
    slow.iter().for_each(|s| signal(s.curl.id(), Signal::SIGSTOP));
    let fast = Follower::of(&a, &owner, "", None);
    let at = format!("https://localhost:{}/api/v1/actions", a.https);
    let change = |n: usize| {
        // About 40 KB each.
        let patterns: Vec<String> = (0..200).map(|p| format!("{n}-{p}-{}", "x".repeat(180))).collect();
        let action = json!({ "action": "set_allowlist", "workspace": "large", "allow": { "types": patterns } });
        let file = a.dir().join("action");
        std::fs::write(&file, action.to_string()).unwrap();
        let answer = a.post(&at, &owner, &format!("@{}", file.display()), &[]);
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    change(0);
    let (before, begun) = (memory(&a), Instant::now());
    (1..=CHANGES).for_each(change);
    let (grown, took) = (memory(&a).saturating_sub(before), begun.elapsed());
    // Each with a queue of its own would hold them all.
    let all = (STREAMS * CHANGES * 40_000) as u64;
    println!("{CHANGES} changes took {took:?}; {grown} bytes more for {STREAMS} that do not read, of {all}");
    assert!(grown < all / 2 && grown < 64 << 20, "{grown} bytes more");
    let last = format!("{CHANGES}-0-");
    let newest = |e: &Event| {
        e.data["record"]["allow"]["types"][0]
            .as_str()
            .is_some_and(|t| t.starts_with(&last))
    };
    fast.until(newest);
    // Once they read again they are told that they missed some.
    let mut told = 0;
    for stream in &slow {
        signal(stream.curl.id(), Signal::SIGCONT);
    }
    change(CHANGES + 1);
    for stream in slow {
        let end = Instant::now() + MINUTE;
        while let Ok(event) = stream
            .events
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if event.text("why") == "too-slow" {
                told += 1;
                break;
            }
        }
    }
    assert_eq!(told, STREAMS, "each is told that they were too slow");
    let metrics = a.metrics();
    assert!(metrics.contains("berth_event_streams "), "{metrics}");
}

#[test]
fn one_person_has_so_many_streams_and_the_verb_prints_them() {
    let a = Appliance::start();
    let open = || {
        let mut stream = UnixStream::connect(a.socket()).unwrap();
        stream.set_read_timeout(Some(MINUTE)).unwrap();
        let head = "GET /v1/events HTTP/1.1\r\nHost: berth\r\nAccept: text/event-stream\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 1024];
        let n = stream.read(&mut answer).unwrap();
        (stream, String::from_utf8_lossy(&answer[..n]).into_owned())
    };
    let mut streams: Vec<_> = (0..berth::events::STREAMS_EACH).map(|_| open()).collect();
    assert!(streams.iter().all(|(_, head)| head.starts_with("HTTP/1.1 200 ")));
    let (_, refused) = open();
    assert!(
        refused.starts_with("HTTP/1.1 429 ") && refused.contains("too-many-streams"),
        "{refused}"
    );
    assert!(a.cli_fails(1, &["events"]).contains("32 streams"));
    streams.pop();
    let mut verb = None;
    wait_for("a stream is free again", MINUTE, || {
        let mut child = a
            .command(&["events", "--kind", "workspace,member"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let runs = child.try_wait().unwrap().is_none();
        verb = runs.then_some(child);
        runs
    });
    let mut verb = verb.unwrap();
    let mut lines = BufReader::new(verb.stdout.take().unwrap()).lines();
    // It has begun with the first line that it prints.
    let mut n = 0;
    let (send, first) = channel();
    std::thread::spawn(move || send.send(lines.next().unwrap().unwrap()));
    let line = loop {
        n += 1;
        mark(&a, &format!("w{n}"));
        if let Ok(line) = first.recv_timeout(Duration::from_secs(2)) {
            break line;
        }
        assert!(n < 30, "no line came");
    };
    assert!(line.contains("  workspace   added    w"), "{line}");
    verb.kill().unwrap();
    verb.wait().unwrap();
    a.cli_fails(2, &["events", "--kind", "nothing"]);
}
