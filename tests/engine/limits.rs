//! Bounds of calls on a whole box: whoever calls in a loop is told to wait, and nobody else notices.

use crate::{
    people::{Stream, token},
    remote::claimed,
    support::{Answer, Appliance, Ends, INITIALIZE, Instance, Options, wait_for},
};

use std::{
    process::{Command, Stdio},
    time::Duration,
};

const MINUTE: Duration = Duration::from_secs(60);
const LIST: &str = r#"{"jsonrpc":"2.0","id":41,"method":"tools/list"}"#;

/// A session of a token's holder at an instance.
struct Session<'a> {
    a: &'a Appliance,
    url: String,
    token: String,
    header: String,
}

impl<'a> Session<'a> {
    fn open(a: &'a Appliance, i: &Instance, token: &str) -> Self {
        let opened = a.post(&i.url, token, INITIALIZE, &[]);
        assert_eq!(opened.status, 200, "{}", opened.body);
        Self::opened(a, i, token, &opened)
    }

    fn opened(a: &'a Appliance, i: &Instance, token: &str, answer: &Answer) -> Self {
        Self {
            a,
            url: i.url.clone(),
            token: token.to_owned(),
            header: format!("Mcp-Session-Id: {}", answer.header("mcp-session-id").unwrap()),
        }
    }

    fn call(&self) -> Answer {
        self.a.post(&self.url, &self.token, LIST, &["-H", &self.header])
    }

    /// Calls until one is refused.
    fn refused(&self) -> Answer {
        let mut answer = self.call();
        wait_for("a call is refused", MINUTE, || {
            answer = self.call();
            answer.status == 429
        });
        answer
    }

    /// Calls on 32 connections without a pause, until it is dropped.
    fn in_a_loop(&self) -> Ends {
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--http1.1",
                "--parallel",
                "--parallel-max",
                "32",
                "--parallel-immediate",
                "--cacert",
            ])
            .arg(self.a.ca())
            .args([
                "-H",
                "Content-Type: application/json",
                "-H",
                "Accept: application/json, text/event-stream",
            ])
            .args([
                "-H",
                &format!("Authorization: Bearer {}", self.token),
                "-H",
                &self.header,
            ])
            .args(["-d", LIST, "-o", "/dev/null"])
            .arg(format!("{}?n=[1-100000000]", self.url))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ends(command.spawn().unwrap())
    }
}

fn metric(a: &Appliance, name: &str) -> f64 {
    let text = a.metrics();
    let line = text.lines().find(|l| l.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn limited(a: &Appliance, of: &str, why: &str) -> f64 {
    metric(a, &format!("berth_edge_limited_total{{of=\"{of}\",why=\"{why}\"}}"))
}

fn under_way(a: &Appliance, of: &str, what: &str) -> f64 {
    metric(a, &format!("berth_edge_under_way{{of=\"{of}\",what=\"{what}\"}}"))
}

fn nothing_is_under_way(a: &Appliance) {
    for of in ["member", "token", "instance", "workspace"] {
        for what in ["calls", "streams"] {
            wait_for("what was under way has ended", MINUTE, || under_way(a, of, what) == 0.0);
        }
    }
}

fn seconds(answer: &Answer) -> u64 {
    let wait = answer
        .header("retry-after")
        .expect("when to call again")
        .parse()
        .unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    wait
}

#[test]
fn whoever_calls_in_a_loop_starves_nobody() {
    let a = Appliance::with(Options {
        extra: "[limits]\nmember_calls_per_second = 20\ninstance_calls_per_second = 30\n".to_owned(),
        ..Options::default()
    });
    claimed(&a);
    let (one, two) = (
        a.run("fixture-echo", &["--name", "one"]),
        a.run("fixture-echo", &["--name", "two"]),
    );
    for name in ["ada", "bob", "cyn"] {
        a.cli(&["member", "add", name]);
        for i in [&one, &two] {
            a.cli(&["grant", "add", name, &i.id]);
        }
    }
    let [ada, bob, cyn] = ["ada", "bob", "cyn"].map(|name| token(&a, name).0);
    let of_bob = [Session::open(&a, &one, &bob), Session::open(&a, &two, &bob)];
    let (of_ada, of_cyn) = (Session::open(&a, &one, &ada), Session::open(&a, &one, &cyn));
    let other_of_ada = Session::open(&a, &two, &token(&a, "ada").0);
    let of_others = |of: &str| {
        let before = limited(&a, of, "rate");
        for n in 0..16 {
            let answer = of_bob[n % 2].call();
            assert_eq!(answer.status, 200, "call {n}: {}", answer.body);
            // Now and then, as an assistant does.
            std::thread::sleep(Duration::from_millis(250));
        }
        let after = limited(&a, of, "rate");
        assert!(after > before + 100.0, "the loops went on: {before}, {after}");
    };
    let mut loops = vec![of_ada.in_a_loop()];
    wait_for("her bound is met", MINUTE, || limited(&a, "member", "rate") > 50.0);
    of_others("member");
    // By her other token, elsewhere, she is the same person.
    let refused = other_of_ada.refused();
    let said = refused.json();
    assert_eq!((&said["id"], &said["error"]["code"]), (&41.into(), &(-31007).into()));
    assert!(
        said["error"]["message"].as_str().unwrap().contains("This member"),
        "{said}"
    );
    // Two together ask for more than the instance takes.
    loops.push(of_cyn.in_a_loop());
    wait_for("its bound is met", MINUTE, || limited(&a, "instance", "rate") > 50.0);
    of_others("instance");
    assert!(loops.iter_mut().all(|l| l.try_wait().unwrap().is_none()));
    // Once they have stopped, whoever waits as long as told is let through.
    let refused = of_ada.refused();
    drop(loops);
    std::thread::sleep(Duration::from_secs(seconds(&refused)));
    assert_eq!(of_ada.call().status, 200);
    nothing_is_under_way(&a);
    a.cli(&["rm", &one.id, &two.id]);
}

#[test]
fn each_message_of_a_batch_counts() {
    let a = Appliance::with(Options {
        extra: "[limits]\nmember_calls_per_second = 5\n".to_owned(),
        ..Options::default()
    });
    // A hundred are twenty seconds' worth. What is too long to be held is counted once it has passed.
    let padded = LIST.replace(
        "41",
        &format!("41,\"params\":{{\"_meta\":{{\"x\":\"{}\"}}}}", "x".repeat(800)),
    );
    for message in [LIST, &padded] {
        let i = a.run("fixture-echo", &[]);
        let old = INITIALIZE.replace("2025-06-18", "2025-03-26");
        let opened = a.post(&i.url, &i.token, &old, &[]);
        assert_eq!(opened.status, 200, "{}", opened.body);
        let session = Session::opened(&a, &i, &i.token, &opened);
        let batch = format!("[{}]", [message; 100].join(","));
        let post = || a.post(&i.url, &i.token, &batch, &["-H", &session.header]);
        let mut answer = session.call();
        wait_for("nothing else is counted any more", MINUTE, || {
            answer = post();
            answer.status != 429
        });
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body.matches("\"id\":41").count() == 100, "{}", answer.body);
        let refused = session.call();
        assert_eq!(refused.status, 429, "{}", refused.body);
        assert!(seconds(&refused) > 4, "{}", refused.body);
        a.cli(&["rm", &i.id]);
    }
}

#[test]
fn a_workspace_has_a_bound_of_its_own_that_changes_at_once() {
    let mut a = Appliance::start();
    a.cli(&[
        "workspace",
        "add",
        "lab",
        "--calls-per-second",
        "1",
        "--calls-at-once",
        "1",
    ]);
    let (one, two, outside) = (
        a.run("fixture-echo", &["--workspace", "lab"]),
        a.run("fixture-echo", &["--workspace", "lab"]),
        a.run("fixture-echo", &[]),
    );
    {
        let [of_one, of_two] = [&one, &two].map(|i| Session::open(&a, i, &i.token));
        let elsewhere = Session::open(&a, &outside, &outside.token);
        let refused = of_one.refused();
        let said = refused.json();
        assert!(
            said["error"]["message"].as_str().unwrap().contains("of this workspace"),
            "{said}"
        );
        // The bound is that of both together.
        let refused = of_two.refused();
        for _ in 0..8 {
            assert_eq!(elsewhere.call().status, 200);
        }
        std::thread::sleep(Duration::from_secs(seconds(&refused)));
        assert_eq!(of_two.call().status, 200);
    }
    // It is kept, and can be changed.
    let shown = a.json(&["workspace", "show", "lab"]);
    assert_eq!(
        (&shown["limits"]["calls_per_second"], &shown["quota"]["calls_at_once"]),
        (&1.into(), &1.into())
    );
    let refused = a.cli_fails(1, &["workspace", "set", "lab", "--calls-per-second", "many"]);
    assert!(refused.contains("0 for no limit"), "{refused}");
    a.kill();
    a.launch();
    for i in [&one, &two] {
        a.wait_state(&i.id, "running", MINUTE);
    }
    let mut opened = None;
    wait_for("it serves again", MINUTE, || {
        let answer = a.post(&one.url, &one.token, INITIALIZE, &[]);
        let open = answer.status == 200;
        opened = open.then(|| Session::opened(&a, &one, &one.token, &answer));
        open
    });
    let session = opened.unwrap();
    session.refused();
    let set = a.json(&["workspace", "set", "lab", "--calls-per-second", "0"]);
    assert_eq!(set["limits"]["calls_per_second"], 0);
    wait_for("the new bound holds", MINUTE, || session.call().status == 200);
    // Who listens takes no call's place, of which there is one.
    let mut streams = [&one, &two].map(|i| Stream::of(&a, i, &i.token));
    assert_eq!(under_way(&a, "workspace", "streams"), 2.0);
    for _ in 0..8 {
        assert_eq!(session.call().status, 200);
    }
    assert!(streams.iter_mut().all(Stream::is_open));
    drop(streams);
    let calling = session.in_a_loop();
    wait_for("the other bound is met", MINUTE, || {
        limited(&a, "workspace", "at_once") > 0.0
    });
    drop(calling);
    nothing_is_under_way(&a);
    let set = a.json(&[
        "workspace",
        "set",
        "lab",
        "--calls-per-second",
        "default",
        "--calls-at-once",
        "default",
    ]);
    assert!(set["quota"].is_null(), "{set}");
    assert!(
        a.cli(&["workspace", "show", "lab"])
            .contains("1024   (the box's default)")
    );
    a.cli(&["rm", &one.id, &two.id, &outside.id]);
}
