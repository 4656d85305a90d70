//! Whose it is: clients with different tokens before one instance, whose server asks and logs late and ignores
//! cancellation; and what a restart of the supervisor leaves of what they have under way.

use crate::rig;
use crate::support;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Method;
use rig::{Got, PATIENCE, Rig, events, modern, order};
use serde_json::{Value, json};
use support::{Appliance, Instance, Options, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const PRINCIPAL: &str = "berth-principal";

/// A client of the modern era.
struct Client<'a> {
    rig: &'a Rig,
    name: &'a str,
    capabilities: Value,
}

impl Client<'_> {
    async fn send(&self, method: &str, params: Value) -> Got {
        let (headers, body) = modern(1, method, params, self.capabilities.clone());
        let mut headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
        headers.push((PRINCIPAL, self.name));
        self.rig.post(&headers, &body).await
    }

    async fn tool(&self, name: &str, arguments: Value) -> Got {
        self.send("tools/call", json!({"name": name, "arguments": arguments}))
            .await
    }

    /// Calls a tool and goes away before it answers.
    async fn abandon(&self, name: &str, arguments: Value, until: impl Future<Output = ()>) {
        tokio::select! {
            got = self.tool(name, arguments) => panic!("{got:?}"),
            () = until => {}
        }
    }

    async fn text(&self, name: &str, arguments: Value) -> String {
        let got = self.tool(name, arguments).await;
        let last = got.messages().pop().unwrap_or_else(|| panic!("{got:?}"));
        last["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{last}"))
            .to_owned()
    }

    /// Waits until the fixture has said something of a call that is held.
    async fn held(&self, key: &str, what: &str) -> String {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let all: Value = serde_json::from_str(&self.text("held", json!({})).await).expect("JSON");
            if let Some(said) = all[key][what].as_str() {
                return said.to_owned();
            }
            assert!(std::time::Instant::now() < end, "never: {what} of {key} in {all}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn the_late_question_of_an_abandoned_call_is_put_to_nobody() {
    let rig = Rig::ready(&order("legacy", "shared")).await;
    let client = |name| Client {
        rig: &rig,
        name,
        capabilities: json!({"elicitation": {}}),
    };
    let (a, b) = (client("a"), client("b"));
    b.abandon("hold", json!({"key": "b", "say": "b: delete production?"}), async {
        a.held("b", "began").await;
    })
    .await;
    let of_a = a.tool("hold", json!({"key": "a", "say": "a: sure?"}));
    let script = async {
        a.held("a", "began").await;
        a.text("release", json!({"key": "b"})).await;
        let answer = a.held("b", "answer").await;
        assert!(answer.contains("several clients"), "{answer}");
        a.held("b", "done").await;
        a.text("release", json!({"key": "a"})).await;
    };
    let (asked, ()) = tokio::join!(of_a, script);
    let asked = asked.messages().pop().expect("an answer")["result"].clone();
    let question = &asked["inputRequests"]["1"]["params"]["message"];
    assert_eq!(question, "a: sure?", "{asked}");
    // Only its own principal comes back to it.
    let retry = json!({"name": "hold", "arguments": {"key": "a", "say": "a: sure?"},
        "requestState": asked["requestState"], "inputResponses": {"1": {"action": "accept"}}});
    let stolen = b.send("tools/call", retry.clone()).await;
    assert_eq!(stolen.status, 400, "{}", stolen.text);
    let done = a.send("tools/call", retry).await;
    assert!(done.text.contains("accept"), "{}", done.text);
}

#[tokio::test]
async fn a_session_type_keeps_tokens_apart() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    for capabilities in [json!({}), json!({"roots": {}})] {
        let client = |name| Client {
            rig: &rig,
            name,
            capabilities: capabilities.clone(),
        };
        let (a, b) = (client("a"), client("b"));
        let (of_a, of_b) = (a.text("pid", json!({})).await, b.text("pid", json!({})).await);
        assert_ne!(of_a, of_b, "{capabilities}");
        assert_eq!(
            (a.text("pid", json!({})).await, b.text("pid", json!({})).await),
            (of_a, of_b)
        );
    }
    let got = rig.post(&[(PRINCIPAL, "a")], &rig::initialize("2025-11-25")).await;
    let session = got.session();
    let named = |who| [("mcp-session-id", session.as_str()), (PRINCIPAL, who)];
    let foreign = rig.send(Method::DELETE, "/mcp", &named("b"), "").await;
    let unknown = [("mcp-session-id", "none"), (PRINCIPAL, "b")];
    let unknown = rig.send(Method::DELETE, "/mcp", &unknown, "").await;
    assert_eq!((foreign.status, foreign.text), (unknown.status, unknown.text));
    assert_eq!(foreign.status, 404);
    assert_eq!(rig.send(Method::DELETE, "/mcp", &named("a"), "").await.status, 204);
}

#[tokio::test]
async fn a_listener_hears_of_the_process_that_serves_its_calls() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let wanted = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": ["file:///a"]}});
    let (headers, body) = modern(7, "subscriptions/listen", wanted, json!({}));
    let mut headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    headers.push((PRINCIPAL, "a"));
    let mut stream = rig.post_open(&headers, &body).await;
    let mut seen = String::new();
    let mut called = false;
    while !(seen.contains("list_changed") && seen.contains("resources/updated")) {
        use http_body_util::BodyExt;
        let frame = tokio::time::timeout(PATIENCE, stream.body_mut().frame()).await;
        let frame = frame
            .unwrap_or_else(|_| panic!("only {seen}"))
            .expect("more")
            .expect("frame");
        seen.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("utf-8"));
        if !called {
            called = true;
            // A call of the same token that has another process.
            let a = Client {
                rig: &rig,
                name: "a",
                capabilities: json!({"elicitation": {}}),
            };
            a.tool("touch", json!({"uri": "file:///a"})).await;
        }
    }
}

/// One client's calls, some of which it gives up: everything that it ever got.
async fn talk(rig: &Rig, name: &str, legacy: bool) -> String {
    let mut all = String::new();
    let client = Client {
        rig,
        name,
        capabilities: json!({"elicitation": {}}),
    };
    let mut session = None;
    if legacy {
        let got = rig.post(&[(PRINCIPAL, name)], &rig::initialize("2025-11-25")).await;
        session = Some(got.session());
    }
    for round in 0..12u64 {
        let arguments = json!({"name": name, "ms": 15 * (round % 4), "ask": round % 3 == 0});
        let params = json!({"name": "chatty", "arguments": arguments,
            "_meta": {"progressToken": name, "io.modelcontextprotocol/logLevel": "debug"}});
        let call = async {
            match &session {
                Some(id) => {
                    let body = json!({"jsonrpc": "2.0", "id": round, "method": "tools/call", "params":
                        {"name": "chatty", "arguments": arguments, "_meta": {"progressToken": name}}});
                    rig.post(&[("mcp-session-id", id), (PRINCIPAL, name)], &body).await
                }
                None => client.send("tools/call", params).await,
            }
        };
        // Whatever the machine's load makes of this: an answer or a call that was given up.
        if let Ok(got) = tokio::time::timeout(Duration::from_millis(20 + 25 * (round % 3)), call).await {
            all.push_str(&got.text);
            let asked = got.messages().pop().unwrap_or_default()["result"].clone();
            if let Some(state) = asked["requestState"].as_str() {
                let retry = json!({"name": "chatty", "arguments": {}, "requestState": state,
                    "inputResponses": {"1": {"action": "accept", "content": {"by": name}}}});
                all.push_str(&client.send("tools/call", retry).await.text);
            }
        }
    }
    // One that is not given up.
    let end = std::time::Instant::now() + PATIENCE;
    let last = json!({"name": name, "ms": 0});
    loop {
        let got = client.tool("chatty", last.clone()).await;
        all.push_str(&got.text);
        if got.status == 200 {
            return all;
        }
        // Processes that work for those who are gone still take all the room.
        assert!(got.status == 503 && std::time::Instant::now() < end, "{got:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn nobody_sees_anothers_name() {
    let names = ["<anna>", "<bert>", "<cleo>", "<dora>"];
    for processes in ["shared", "session"] {
        let mut o = order("legacy", processes);
        o["mcp"]["max_sessions"] = json!(16);
        let rig = Rig::ready(&o).await;
        let talks = names.iter().enumerate().map(|(n, name)| talk(&rig, name, n % 2 == 1));
        let all = futures_util::future::join_all(talks).await;
        for (name, text) in names.iter().zip(&all) {
            assert!(text.contains(name), "{name} got nothing of its own: {text}");
            for other in names.iter().filter(|o| *o != name) {
                assert!(!text.contains(other), "{name} saw {other}: {text}");
            }
        }
    }
}

/// curl in the background, until its answer ends.
fn stream(a: &Appliance, i: &Instance, more: &[&str]) -> Child {
    Command::new("curl")
        .args(["--silent", "--no-buffer", "--max-time", "300", "--cacert"])
        .arg(a.ca())
        .args(["-H", "Content-Type: application/json"])
        .args(["-H", "Accept: application/json, text/event-stream"])
        .args(["-H", &format!("Authorization: Bearer {}", i.token)])
        .args(more)
        .arg(&i.url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn in_flight(a: &Appliance) -> bool {
    a.metrics()
        .lines()
        .any(|l| l.starts_with("berth_requests_in_flight{") && l.ends_with(" 1"))
}

/// The bound is ten minutes, and nothing here waits for it.
const PATIENT: &str = "[limits]\ndrain_timeout = \"10m\"\n";

#[test]
fn a_restart_ends_what_can_be_resumed_at_once_and_loses_nothing() {
    let mut a = Appliance::with(Options {
        extra: PATIENT.into(),
        ..Options::default()
    });
    let i = a.run("everything", &[]);
    let init = support::INITIALIZE.replace("2025-06-18", "2025-11-25");
    let opened = a.post(&i.url, &i.token, &init, &[]);
    let session = format!("Mcp-Session-Id: {}", opened.header("mcp-session-id").unwrap());
    let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    a.post(&i.url, &i.token, ready, &["-H", &session]);
    let body = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params":
        {"name": "trigger-long-running-operation", "arguments": {"duration": 3600, "steps": 2}}});
    let mut call = stream(&a, &i, &["-H", &session, "-d", &body.to_string()]);
    wait_for("the call is under way", MINUTE, || in_flight(&a));
    assert!(a.terminate().success());
    assert!(call.wait().unwrap().success(), "its stream ended in an orderly way");
    let text = support::read_all(&mut call.stdout.take().unwrap());
    let last = text.lines().filter_map(|l| l.strip_prefix("id: ")).next_back();
    let last = format!("Last-Event-ID: {}", last.unwrap_or_else(|| panic!("no id in {text:?}")));
    a.launch();
    a.wait_state(&i.id, "running", MINUTE);
    let mut rest = stream(&a, &i, &["-H", &session, "-H", &last]);
    wait_for("the stream is taken up", MINUTE, || in_flight(&a));
    let bearer = format!("Authorization: Bearer {}", i.token);
    let deleted = a.curl(&["-X", "DELETE", "-H", &bearer, "-H", &session, &i.url]);
    assert_eq!(deleted.status, 204, "{}", deleted.body);
    assert!(rest.wait().unwrap().success());
    let text = support::read_all(&mut rest.stdout.take().unwrap());
    let end = events(&text).pop().expect("an answer").1;
    assert_eq!(end["id"], 9, "{end}");
}

#[test]
fn a_call_that_cannot_be_resumed_keeps_nobody_else_waiting() {
    let mut a = Appliance::with(Options {
        extra: PATIENT.into(),
        ..Options::default()
    });
    let i = a.run("everything", &[]);
    let (headers, body) = modern(
        9,
        "tools/call",
        json!({"name": "trigger-long-running-operation", "arguments": {"duration": 3600, "steps": 2}}),
        json!({}),
    );
    let headers: Vec<String> = headers.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    let body = body.to_string();
    let mut more: Vec<&str> = headers.iter().flat_map(|h| ["-H", h]).collect();
    more.extend(["-d", &body]);
    let mut call = stream(&a, &i, &more);
    wait_for("the call is under way", MINUTE, || in_flight(&a));
    let mut old = a.supersede();
    a.wait_state(&i.id, "running", MINUTE);
    let session = a.open(&i);
    assert!(a.call(&i, &session, "echo", &json!({"message": "hi"})).contains("hi"));
    assert!(
        old.try_wait().unwrap().is_none(),
        "the old one waits for the call still"
    );
    assert!(call.try_wait().unwrap().is_none());
    call.kill().unwrap();
    call.wait().unwrap();
    wait_for("the old one ends with the call", MINUTE, || {
        old.try_wait().unwrap().is_some()
    });
    assert!(old.wait().unwrap().success());
}
