//! Members, teams and grants from outside: what opens, what no longer does, and what is cut the moment it does not.

use crate::{remote::claimed, support};

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use support::{Appliance, Ends, INITIALIZE, Instance, WEBSOCKET, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// A stream of Server-Sent Events that somebody holds open.
pub struct Stream {
    child: Ends,
    out: BufReader<std::process::ChildStdout>,
}

impl Stream {
    /// One of an instance's endpoint, on a session of its own.
    pub fn of(a: &Appliance, i: &Instance, token: &str) -> Self {
        let opened = a.post(&i.url, token, INITIALIZE, &[]);
        assert_eq!(opened.status, 200, "{}", opened.body);
        let session = format!("Mcp-Session-Id: {}", opened.header("mcp-session-id").unwrap());
        Self::open(a, &i.url, token, &["-H", &session, "-H", "Accept: text/event-stream"])
    }

    /// The log of an instance, followed.
    fn log(a: &Appliance, i: &Instance, token: &str) -> Self {
        let url = format!("https://localhost:{}/api/v1/instances/{}/logs?follow=1", a.https, i.id);
        Self::open(a, &url, token, &[])
    }

    fn open(a: &Appliance, url: &str, token: &str, more: &[&str]) -> Self {
        let bearer = format!("Authorization: Bearer {token}");
        let mut stream = Self::ask(a, url, &[&["-H", &bearer], more].concat());
        stream.answers(" 200");
        stream
    }

    /// Asks, and waits for no answer.
    fn ask(a: &Appliance, url: &str, more: &[&str]) -> Self {
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--no-buffer",
                "--dump-header",
                "-",
                "--max-time",
                "300",
                "--cacert",
            ])
            .arg(a.ca())
            .args(more)
            .arg(url)
            .stdout(Stdio::piped());
        let mut child = Ends(command.spawn().unwrap());
        let out = BufReader::new(child.0.stdout.take().unwrap());
        Self { child, out }
    }

    /// A call whose body does not end.
    fn sends(a: &Appliance, i: &Instance, token: &str) -> Self {
        let (host, path) = i.url.strip_prefix("https://").unwrap().split_once('/').unwrap();
        let name = host.split(':').next().unwrap();
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-quiet",
            "-verify_quiet",
            "-connect",
            &format!("127.0.0.1:{}", a.https),
        ]);
        command.args(["-servername", name, "-CAfile"]).arg(a.ca());
        let mut child = Ends(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let request = format!(
            "POST /{path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nContent-Length: 1000\r\n\r\n{{\"jsonrpc\":"
        );
        child.0.stdin.as_mut().unwrap().write_all(request.as_bytes()).unwrap();
        let out = BufReader::new(child.0.stdout.take().unwrap());
        Self { child, out }
    }

    fn answers(&mut self, status: &str) {
        let mut head = String::new();
        self.out.read_line(&mut head).unwrap();
        assert!(head.contains(status), "{head}");
    }

    pub fn is_open(&mut self) -> bool {
        self.child.0.try_wait().unwrap().is_none()
    }

    /// Waits until it has ended; what it still brought.
    fn ends(&mut self) -> String {
        let child: &mut Child = &mut self.child.0;
        wait_for("the stream is cut", MINUTE, || child.try_wait().unwrap().is_some());
        let mut rest = Vec::new();
        self.out.read_to_end(&mut rest).unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    }
}

pub fn token(a: &Appliance, member: &str) -> (String, String) {
    let made = a.json(&["token", "create", "--member", member]);
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

fn status(a: &Appliance, i: &Instance, token: &str) -> u16 {
    a.post(&i.url, token, INITIALIZE, &[]).status
}

fn named<'v>(all: &'v Value, field: &str, value: &str) -> &'v Value {
    let found = all.as_array().unwrap().iter().find(|o| o[field] == value);
    found.unwrap_or_else(|| panic!("no {field} {value} in {all}"))
}

#[test]
fn a_member_reaches_what_they_are_granted_and_loses_it_at_once() {
    let a = Appliance::start();
    claimed(&a);
    let (mine, other) = (a.run("fixture-echo", &[]), a.run("fixture-echo", &["--name", "other"]));
    a.cli(&["member", "add", "ada"]);
    let (ada, id) = token(&a, "ada");
    assert_eq!(
        (status(&a, &mine, &ada), status(&a, &other, &ada)),
        (403, 403),
        "nothing is granted yet"
    );
    for i in [&mine, &other] {
        let made = a.json(&["grant", "add", "ada", &i.id, "--manage"]);
        assert_eq!((&made["member"], &made["level"]), (&"ada".into(), &"manage".into()));
    }
    let (mut here, mut there) = (Stream::of(&a, &mine, &ada), Stream::of(&a, &other, &ada));
    let mut log = Stream::log(&a, &mine, &ada);
    // The grant was used, and the token, and from where.
    let used = a.json(&["grant", "list"]);
    assert!(named(&used, "instance", &mine.id)["last_used_at"].is_string(), "{used}");
    let tokens = a.json(&["token", "list"]);
    let shown = named(&tokens, "id", &id);
    assert_eq!(shown["last_used_from"], "127.0.0.1", "{shown}");
    let unused = a.json(&["grant", "list", "--unused", "30d"]);
    assert_eq!(
        (&unused["grants"], &unused["tokens"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );

    // One is taken away: what hangs on it ends, the other goes on.
    a.cli(&["grant", "rm", "ada", &mine.id]);
    here.ends();
    log.ends();
    assert!(there.is_open());
    assert_eq!((status(&a, &mine, &ada), status(&a, &other, &ada)), (403, 200));
    // A grant that is narrowed cuts what it no longer covers.
    let mut log = Stream::log(&a, &other, &ada);
    a.cli(&["grant", "add", "ada", &other.id]);
    log.ends();
    assert!(there.is_open(), "to use it is enough for that");
    // By a team it is open just as well, until they leave it.
    a.cli(&["grant", "rm", "ada", &other.id]);
    there.ends();
    a.cli(&["team", "add", "eng"]);
    let refused = a.cli_fails(1, &["team", "join", "eng", "nobody"]);
    assert!(
        refused.contains("no member nobody") && refused.contains("berth member list"),
        "{refused}"
    );
    a.cli(&["team", "join", "eng", "ada"]);
    a.cli(&["grant", "add", "team:eng", &other.id]);
    let mut there = Stream::of(&a, &other, &ada);
    let grants = a.json(&["grant", "list"]);
    assert!(
        named(&grants, "team", "default/eng")["last_used_at"].is_string(),
        "{grants}"
    );
    a.cli(&["team", "leave", "eng", "ada"]);
    there.ends();
    assert_eq!(status(&a, &other, &ada), 403);
    // And until a date.
    a.cli(&["team", "join", "eng", "ada"]);
    a.cli(&["grant", "rm", "team:eng", &other.id]);
    let soon = (jiff::Timestamp::now() + Duration::from_secs(10)).to_string();
    a.cli(&["grant", "add", "team:eng", &other.id, "--until", &soon]);
    Stream::of(&a, &other, &ada).ends();
    assert_eq!(status(&a, &other, &ada), 403);
    // It goes with its instance.
    a.cli(&["rm", &mine.id, &other.id]);
    wait_for("the grants are gone", MINUTE, || {
        a.json(&["grant", "list"]).as_array().unwrap().is_empty()
    });
}

#[test]
fn who_is_disabled_loses_everything_at_once_and_the_others_nothing() {
    let a = Appliance::start();
    claimed(&a);
    let i = a.run("fixture-echo", &[]);
    for name in ["ada", "bob"] {
        a.cli(&["member", "add", name]);
        a.cli(&["grant", "add", name, &i.id, "--manage"]);
    }
    let (ada, bob) = (token(&a, "ada").0, token(&a, "bob").0);
    let set = format!(
        r#"{{"action":"set_credential","id":"{}","key":"COLOUR","value":"blue"}}"#,
        i.id
    );
    let actions = format!("https://localhost:{}/api/v1/actions", a.https);
    assert_eq!(a.post(&actions, &ada, &set, &[]).status, 200);
    // A server that runs is restarted with it.
    wait_for("it serves with it", MINUTE, || status(&a, &i, &ada) == 200);
    a.wait_state(&i.id, "running", MINUTE);
    let mut of_ada = [Stream::of(&a, &i, &ada), Stream::log(&a, &i, &ada)];
    let mut of_bob = [Stream::of(&a, &i, &bob), Stream::log(&a, &i, &bob)];
    let made = format!(r#"{{"action":"create_token","instance":"{}"}}"#, i.id);
    assert_eq!(a.post(&actions, &ada, &made, &[]).status, 200);
    let disabled = a.json(&["member", "disable", "ada"]);
    assert!(disabled["disabled_at"].is_string(), "{disabled}");
    for stream in &mut of_ada {
        stream.ends();
    }
    // The report names it all, and is signed.
    let report = &disabled["report"];
    assert_eq!((&report["member"], &report["by"]), (&"ada".into(), &"root".into()));
    assert_eq!(report["tokens"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["instance_tokens"][0]["instance"], i.id.as_str(), "{report}");
    let open = |place: &Value| {
        report["cut"]
            .as_array()
            .unwrap()
            .iter()
            .find(|w| w["instance"] == *place)
            .map(|w| &w["open"])
    };
    assert_eq!(
        (open(&i.id.as_str().into()), open(&Value::Null)),
        (Some(&1.into()), Some(&1.into())),
        "{report}"
    );
    assert!(report["mcp_sessions"][0]["ended"].as_u64() >= Some(1), "{report}");
    assert_eq!(report["credentials"][0]["key"], "COLOUR", "{report}");
    let text = disabled.to_string();
    let verified = a.piped(&["member", "verify", "-"], &text);
    assert!(verified.status.success(), "{verified:?}");
    let changed = a.piped(
        &["member", "verify", "-"],
        &text.replace("\"screen_sessions\":0", "\"screen_sessions\":1"),
    );
    assert!(
        String::from_utf8_lossy(&changed.stderr).contains("was changed"),
        "{changed:?}"
    );
    assert_eq!(status(&a, &i, &ada), 401);
    assert!(of_bob.iter_mut().all(Stream::is_open));
    assert_eq!(status(&a, &i, &bob), 200);
    let refused = a.cli_fails(1, &["token", "create", "--member", "ada"]);
    assert!(
        refused.contains("ada is disabled") && refused.contains("berth member enable ada"),
        "{refused}"
    );
    let tokens = a.json(&["token", "list"]);
    let hers = tokens.as_array().unwrap().iter().filter(|t| t["member"] == "ada");
    assert_eq!(hers.count(), 0, "no token stays: {tokens}");
    // Twice is no error; and undone, with a new token, the grants stand as before.
    let again = a.json(&["member", "disable", "ada"]);
    assert_eq!(again["disabled_at"], disabled["disabled_at"]);
    a.cli(&["member", "enable", "ada"]);
    assert_eq!(status(&a, &i, &ada), 401, "an ended token stays so");
    let ada = token(&a, "ada").0;
    assert_eq!(status(&a, &i, &ada), 200);
    // Nobody locks themselves out: an owner stays.
    let refused = a.cli_fails(1, &["member", "disable", "admin"]);
    assert!(
        refused.contains("the only owner") && refused.contains("--role owner"),
        "{refused}"
    );
    let refused = a.cli_fails(1, &["member", "set", "admin", "--role", "member"]);
    assert!(refused.contains("the only owner"), "{refused}");
    a.cli(&["member", "set", "bob", "--role", "owner"]);
    a.cli(&["member", "rm", "admin"]);
    assert_eq!(a.json(&["member", "list"]).as_array().unwrap().len(), 2);
    a.cli(&["rm", &i.id]);
}

const SENDING: &str = "a call that is being sent";

/// One open thing of each kind that a member can have, by what it is called.
fn one_of_each(a: &Appliance, i: &Instance, desk: &Instance, token: &str) -> Vec<(&'static str, Stream)> {
    let bearer = format!("Authorization: Bearer {token}");
    let api = |path: &str| format!("https://localhost:{}/api/v1/{path}", a.https);
    let opened = a.post(&i.url, token, INITIALIZE, &[]);
    let session = format!("Mcp-Session-Id: {}", opened.header("mcp-session-id").unwrap());
    let never = r#"{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"never","arguments":{}}}"#;
    let json = "Content-Type: application/json";
    let call = [
        "-H",
        &bearer,
        "-H",
        &session,
        "-H",
        json,
        "-H",
        "Accept: application/json, text/event-stream",
        "-d",
        never,
    ];
    let old = i.url.strip_suffix("/mcp").unwrap().to_owned() + "/sse";
    let events = ["-H", "Accept: text/event-stream"];
    let link: Value = a
        .post(&api(&format!("instances/{}/screen", desk.id)), token, "{}", &[])
        .json();
    let url = link["url"].as_str().unwrap_or_else(|| panic!("{link}"));
    let cookie = a
        .curl(&[url])
        .header("set-cookie")
        .unwrap()
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let host = format!("https://vnc-{}.localhost:{}", desk.id, a.https);
    let (origin, cookie) = (format!("Origin: {host}"), format!("Cookie: {cookie}"));
    let upgrade = [&WEBSOCKET[..], &["-H", &origin, "-H", &cookie]].concat();
    let mut control = Stream::ask(a, &format!("{host}/control"), &upgrade);
    control.answers(" 101");
    vec![
        ("the stream of a session", Stream::of(a, i, token)),
        ("a stream of the old transport", Stream::open(a, &old, token, &events)),
        ("a call", Stream::ask(a, &i.url, &call)),
        (SENDING, Stream::sends(a, i, token)),
        ("a log", Stream::log(a, i, token)),
        ("events", Stream::open(a, &api("events"), token, &events)),
        ("the audit", Stream::open(a, &api("audit?follow=1"), token, &[])),
        ("a screen's socket", control),
    ]
}

#[test]
fn who_is_disabled_is_cut_off_from_everything_that_is_open() {
    let a = Appliance::start();
    claimed(&a);
    let (i, desk) = (a.run("fixture-echo", &[]), a.run("linux-command-line", &[]));
    for name in ["ada", "bob"] {
        a.cli(&["member", "add", name]);
        for i in [&i, &desk] {
            a.cli(&["grant", "add", name, &i.id, "--manage"]);
        }
    }
    let (ada, bob) = (token(&a, "ada").0, token(&a, "bob").0);
    let (mut of_ada, mut of_bob) = (one_of_each(&a, &i, &desk, &ada), one_of_each(&a, &i, &desk, &bob));
    let flying = format!("berth_requests_in_flight{{instance=\"{}\"", i.id);
    wait_for("both calls are under way", MINUTE, || {
        let metrics = a.metrics();
        let line = metrics.lines().find(|l| l.starts_with(&flying)).unwrap_or_default();
        line.rsplit(' ').next().and_then(|n| n.parse::<u32>().ok()) >= Some(2)
    });
    let report = a.json(&["member", "disable", "ada"])["report"].clone();
    // From here on nothing reaches her: not the words of a server that dies.
    let canary = "dying as asked";
    let die = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"die","arguments":{}}}"#;
    let opened = a.post(&i.url, &bob, INITIALIZE, &[]);
    let session = format!("Mcp-Session-Id: {}", opened.header("mcp-session-id").unwrap());
    let died = a.post(&i.url, &bob, die, &["-H", &session]);
    assert!(died.body.contains("error"), "{} {}", died.status, died.body);
    wait_for("it is in the log", MINUTE, || a.cli(&["logs", &i.id]).contains(canary));
    for (what, stream) in &mut of_ada {
        // What is being sent still is answered already; whoever sends it may go on.
        if *what == SENDING {
            stream.answers(" 401");
            continue;
        }
        let rest = stream.ends();
        assert!(!rest.contains(canary), "{what}: {rest}");
    }
    // The others go on.
    for (what, stream) in &mut of_bob {
        assert!(stream.is_open(), "{what} of bob's has ended");
    }
    let cut = report["cut"].as_array().unwrap().iter();
    let cut: u64 = cut.filter_map(|c| c["open"].as_u64()).sum();
    assert_eq!(
        (cut, &report["screen_sessions"]),
        (of_ada.len() as u64 - 1, &1.into()),
        "{report}"
    );
}

#[test]
fn what_a_token_opens_is_chosen_with_it() {
    let mut a = Appliance::start();
    claimed(&a);
    let (one, two) = (a.run("memory", &[]), a.run("memory", &["--name", "two"]));
    a.cli(&["member", "add", "ada"]);
    for i in [&one, &two] {
        a.cli(&["grant", "add", "ada", &i.id]);
    }
    let scoped = |scope: &[&str]| {
        let made = a.json(&[&["token", "create", "--member", "ada"], scope].concat());
        made["token"].as_str().unwrap().to_owned()
    };
    let (all, api, only) = (scoped(&[]), scoped(&["--scope", "api"]), scoped(&["--scope", "two"]));
    let api_status = |a: &Appliance, token: &str| {
        let url = format!("https://localhost:{}/api/v1/instances", a.https);
        let bearer = format!("Authorization: Bearer {token}");
        a.curl(&["-H", &bearer, &url]).status
    };
    let seen = |a: &Appliance, token: &str| (status(a, &one, token), status(a, &two, token), api_status(a, token));
    let wanted = [(200, 200, 200), (403, 403, 200), (403, 200, 403)];
    assert_eq!([&all, &api, &only].map(|t| seen(&a, t)), wanted);
    // It is kept: a supervisor that starts anew knows it.
    a.kill();
    a.launch();
    for i in [&one, &two] {
        a.wait_state(&i.id, "running", MINUTE);
    }
    wait_for("they serve again", MINUTE, || {
        [&all, &api, &only].map(|t| seen(&a, t)) == wanted
    });
    // Nobody makes a wider one by a narrow one.
    let body = r#"{"action":"create_token","member":"ada"}"#;
    let url = format!("https://localhost:{}/api/v1/actions", a.https);
    let make = |token: &str| a.post(&url, token, body, &[]);
    let refused = make(&api);
    assert_eq!((refused.status, &refused.json()["code"]), (403, &"wider-scope".into()));
    assert_eq!(make(&all).status, 200);
    a.cli(&["rm", &one.id, &two.id]);
}

#[test]
fn a_workspace_runs_what_it_allows() {
    let mut a = Appliance::start();
    a.cli(&[
        "workspace",
        "add",
        "lab",
        "--allow-types",
        "memory,npx",
        "--allow-packages",
        "@acme/*",
    ]);
    fn run<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["run"], more, &["--workspace", "lab", "--no-wait"]].concat()
    }
    let refused = a.cli_fails(1, &run(&["time"]));
    assert!(
        refused.contains("the type time may not be run in the workspace lab") && refused.contains("memory, npx"),
        "{refused}"
    );
    let refused = a.cli_fails(1, &run(&["npx", "--package", "@other/server"]));
    assert!(
        refused.contains("the package @other/server") && refused.contains("berth workspace set lab"),
        "{refused}"
    );
    let i = a.json(&run(&["memory"]));
    let id = i["id"].as_str().unwrap();
    // It is kept, holds for what is made anew, and nothing else changes.
    a.kill();
    a.launch();
    let set = a.json(&["workspace", "set", "lab", "--allow-types", "time"]);
    assert_eq!(
        (&set["allow"]["types"][0], &set["allow"]["packages"][0]),
        (&"time".into(), &"@acme/*".into())
    );
    assert!(
        a.cli_fails(1, &["recreate", id])
            .contains("may not be run in the workspace lab")
    );
    a.wait_state(id, "running", MINUTE);
    a.cli(&["workspace", "set", "lab", "--allow-types", "any"]);
    a.cli(&["recreate", id]);
    let refused = a.cli_fails(1, &["workspace", "set", "lab", "--allow-images", &"x".repeat(201)]);
    assert!(refused.contains("200 characters"), "{refused}");
    // What it may write is bounded, and said.
    a.cli(&["workspace", "set", "lab", "--allow-types", "any", "--disk", "64MiB"]);
    let refused = a.cli_fails(1, &run(&["memory", "--name", "more"]));
    assert!(
        refused.contains("may write 64 MiB on the disk") && refused.contains("berth workspace set lab --disk SIZE"),
        "{refused}"
    );
    let shown = a.json(&["workspace", "show", "lab"]);
    assert!(shown["promised_bytes"].as_u64() > Some(64 << 20), "{shown}");
    assert_eq!(shown["limits"]["disk_bytes"], 64 << 20, "{shown}");
    a.cli(&["workspace", "set", "lab", "--disk", "default"]);
    let more = a.json(&run(&["memory", "--name", "more"]));
    a.cli(&["rm", id, more["id"].as_str().unwrap()]);
}

#[test]
fn a_member_works_from_their_own_computer() {
    let a = Appliance::start();
    let laptop = claimed(&a);
    let i = a.run("memory", &["--name", "notes"]);
    a.cli(&["member", "add", "ada"]);
    a.cli(&["grant", "add", "ada", "notes"]);
    let ada = token(&a, "ada").0;
    let status = a.json(&["status"]);
    let print = status["box"]["ca_fingerprint"].as_str().unwrap();
    let url = format!("https://127.0.0.1:{}", a.https);
    let login = [
        "login",
        &url,
        "--name",
        "hers",
        "--fingerprint",
        print,
        "--token",
        "-",
        "--json",
    ];
    let known: Value = serde_json::from_str(&laptop.piped(&login, &ada)).unwrap();
    assert_eq!(known["member"], "ada");
    assert!(laptop.cli(&["list"]).contains(&i.id));
    // What she connects with is hers, and opens this instance alone.
    laptop.cli(&["connect", "notes", "--client", "cursor"]);
    let tokens = a.json(&["token", "list"]);
    let made = named(&tokens, "name", "connect cursor");
    assert_eq!((&made["member"], &made["by"]), (&"ada".into(), &"ada".into()), "{made}");
    assert_eq!(made["scope"]["instances"][0], i.id.as_str());
    let refused = laptop.fails(1, &["rm", "notes"], "");
    assert!(refused.contains("not permitted"), "{refused}");
    // Whoever changes what is theirs has an answer all the same.
    a.cli(&["member", "set", "ada", "--role", "admin"]);
    laptop.cli(&["team", "add", "eng"]);
    laptop.cli(&["team", "join", "eng", "ada"]);
    laptop.cli(&["grant", "add", "team:eng", "notes"]);
    laptop.cli(&["team", "rm", "eng"]);
    a.cli(&["rm", &i.id]);
}
