//! Clients and servers of different eras, with a server that the test plays.

use serde_json::{Value, json};

use super::tests::{Play, request};
use super::*;
use crate::mcp::codes;

const BOTH: [Processes; 2] = [Processes::Shared, Processes::Session];

fn with(method: &str, id: u64, params: Value) -> Value {
    let mut m = request(id, method);
    m["params"] = params;
    m
}

fn body(p: &mut Play, wire: u64) -> Value {
    let answer = p.answer(wire).unwrap_or_else(|| panic!("no answer: {:?}", p.effects));
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// The requests on a stream.
fn asked(p: &Play, wire: u64) -> Vec<Value> {
    let text = p.sent(wire);
    let data = text.lines().filter_map(|l| l.strip_prefix("data: "));
    data.filter_map(|d| serde_json::from_str::<Value>(d).ok())
        .filter(|m| m["method"] == "roots/list")
        .collect()
}

#[test]
fn a_legacy_client_is_the_guest_of_a_modern_server() {
    for processes in BOTH {
        let mut p = Play::with(processes, true);
        let first = p.session();
        let second = p.session();
        assert!(p.bridge.modern_only.as_deref().is_some_and(|why| why.contains("what?")));
        let hellos = p.heard.iter().filter(|m| m["method"] == "initialize").count();
        assert_eq!(hellos, 1, "it is asked once whether it knows initialize");
        assert_ne!(first, second);
        for (id, method) in [(1, "ping"), (2, "tools/list"), (3, "quick")] {
            let wire = p.post(&first, &request(id, method));
            let got = body(&mut p, wire);
            assert!(got["id"] == id && got["result"].is_object(), "{got}");
            assert!(got["result"].get("resultType").is_none() && got["result"].get("ttlMs").is_none());
        }
        let refused = p.post(&first, &with("logging/setLevel", 4, json!({"level": "loud"})));
        assert_eq!(body(&mut p, refused)["error"]["code"], -32602);
        let wire = p.post(&first, &with("logging/setLevel", 5, json!({"level": "info"})));
        assert_eq!(body(&mut p, wire)["result"], json!({}));
        p.post(&first, &request(6, "quick"));
        let last = p.heard.last().expect("a request");
        assert_eq!(last["params"]["_meta"]["io.modelcontextprotocol/logLevel"], "info");
        assert_eq!(
            last["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"],
            json!({"roots": {}})
        );
        for note in ["notifications/initialized", "notifications/roots/list_changed"] {
            p.post(&first, &json!({"jsonrpc": "2.0", "method": note}));
        }
    }
}

#[test]
fn required_input_is_asked_on_the_stream_of_the_call() {
    for processes in BOTH {
        let mut p = Play::with(processes, true);
        let session = p.session();
        let wire = p.post(
            &session,
            &with("tools/call", 1, json!({"name": "ask", "arguments": {"x": 1}})),
        );
        let questions = asked(&p, wire);
        assert_eq!(questions.len(), 2, "{}", p.sent(wire));
        let again = p.post(&session, &with("tools/call", 1, json!({"name": "ask"})));
        assert!(body(&mut p, again)["error"].is_object(), "the call is in flight");
        for q in &questions {
            p.post(
                &session,
                &json!({"jsonrpc": "2.0", "id": q["id"], "result": {"roots": []}}),
            );
        }
        let retry = p.heard.last().expect("a request").clone();
        assert_eq!(
            (&retry["params"]["requestState"], &retry["params"]["arguments"]["x"]),
            (&json!("s"), &json!(1))
        );
        let roots = json!({"a": {"roots": []}, "b": {"roots": []}});
        assert_eq!(retry["params"]["inputResponses"], roots);
        assert!(p.sent(wire).contains(r#""id":1,"result":{"got":"#), "{}", p.sent(wire));
        assert_eq!((p.bridge.kept, p.bridge.asks.len()), (0, 0));
    }
}

#[test]
fn a_client_that_does_not_answer_ends_the_call() {
    let mut p = Play::with(Processes::Shared, true);
    let session = p.session();
    let call = |id| with("tools/call", id, json!({"name": "ask"}));
    // An error to one question ends the call, and the other question with it.
    let wire = p.post(&session, &call(1));
    let first = asked(&p, wire).remove(0);
    let error = json!({"code": -1, "message": "not today"});
    p.post(&session, &json!({"jsonrpc": "2.0", "id": first["id"], "error": error}));
    assert!(p.sent(wire).contains("not today"), "{}", p.sent(wire));
    assert_eq!((p.bridge.kept, p.bridge.asks.len()), (0, 0));
    // So does time.
    let wire = p.post(&session, &call(2));
    p.after(101);
    assert!(p.sent(wire).contains("-31002"), "{}", p.sent(wire));
    assert_eq!((p.bridge.kept, p.bridge.asks.len()), (0, 0));
    // A server that never has enough is told so.
    let wire = p.post(&session, &with("tools/call", 3, json!({"name": "again"})));
    assert_eq!(body(&mut p, wire)["error"]["message"], "the server goes on asking");
    // Who declared nothing is asked nothing.
    let init = json!({"protocolVersion": "2025-06-18", "capabilities": {}});
    let wire = p.post("", &with("initialize", 0, init));
    let other = p.answer(wire).and_then(|a| a.session).expect("a session");
    let wire = p.post(&other, &call(4));
    assert!(
        body(&mut p, wire)["error"]["message"]
            .as_str()
            .expect("text")
            .contains("cannot be asked")
    );
}

#[test]
fn what_cannot_be_kept_is_not_asked_about() {
    let mut p = Play::with(Processes::Shared, true);
    let session = p.session();
    let big = |id| with("tools/call", id, json!({"name": "long", "x": "x".repeat(90_000)}));
    for id in 0..60 {
        p.post(&session, &big(id));
    }
    assert!(p.bridge.kept <= MAX_KEPT && p.bridge.kept > MAX_KEPT - 100_000);
    let wire = p.post(
        &session,
        &with("tools/call", 99, json!({"name": "ask", "x": "x".repeat(90_000)})),
    );
    assert_eq!(body(&mut p, wire)["error"]["code"], codes::BUSY);
}

#[test]
fn changes_reach_the_guests_that_want_them() {
    for processes in BOTH {
        let mut p = Play::with(processes, true);
        let session = p.session();
        let stream = p.get(&session);
        let other = p.session();
        let quiet = p.get(&other);
        let wire = p.post(&session, &with("resources/subscribe", 1, json!({"uri": "file:///a"})));
        assert_eq!(body(&mut p, wire)["result"], json!({}));
        let wire = p.post(&session, &with("resources/subscribe", 2, json!({"uri": "refused"})));
        assert!(body(&mut p, wire)["error"].is_object());
        let (proc, listen) = p
            .heard
            .iter()
            .rev()
            .find(|m| m["method"] == "subscriptions/listen")
            .map(|m| (p.asked.as_ref().expect("asked").0, m["id"].clone()))
            .expect("a subscription");
        let told = |method: &str, uri: Option<&str>| {
            let mut m = json!({"jsonrpc": "2.0", "method": method,
                "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": listen}}});
            if let Some(uri) = uri {
                m["params"]["uri"] = json!(uri);
            }
            m
        };
        p.say(proc, &told("notifications/resources/updated", Some("file:///a")));
        p.say(proc, &told("notifications/resources/updated", Some("file:///b")));
        p.say(proc, &told("notifications/tools/list_changed", None));
        p.settle();
        let heard = p.sent(stream);
        assert!(heard.contains("file:///a") && heard.contains("list_changed"), "{heard}");
        assert!(
            !heard.contains("file:///b") && !heard.contains("subscriptionId"),
            "{heard}"
        );
        assert!(!p.sent(quiet).contains("file:///a"));
        assert_eq!(p.sent(quiet).contains("list_changed"), processes == Processes::Shared);
        // The server ends it: it is asked for again.
        let before = p.heard.len();
        p.say(
            proc,
            &json!({"jsonrpc": "2.0", "id": listen, "result": {"resultType": "complete"}}),
        );
        p.after(7);
        let again = p.heard[before..].iter().find(|m| m["method"] == "subscriptions/listen");
        assert_eq!(
            again.expect("again")["params"]["notifications"]["resourceSubscriptions"],
            json!(["file:///a"])
        );
        assert!(!p.bridge.busy(), "a subscription keeps nobody busy");
    }
}

#[test]
fn a_server_that_ends_on_initialize_is_asked_what_it_is() {
    for processes in BOTH {
        let mut p = Play::with(processes, true);
        p.mute = true;
        let init = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
        let wire = p.post("", &with("initialize", 7, init));
        let (proc, m) = p.asked.clone().expect("asked");
        assert_eq!(m["method"], "initialize");
        p.mute = false;
        p.bridge.gone(p.now, proc, "the server exited with status 1");
        p.settle();
        let answer = p.answer(wire).expect("an answer");
        assert!(answer.session.is_some(), "{answer:?}");
        assert_eq!(body(&mut p, wire)["result"]["protocolVersion"], "2025-11-25");
    }
}

#[test]
fn a_refused_subscription_is_not_remembered() {
    let mut p = Play::new(Processes::Shared);
    let (one, two) = (p.session(), p.session());
    for session in [&one, &two, &one] {
        let wire = p.post(session, &with("resources/subscribe", 1, json!({"uri": "refused"})));
        assert_eq!(body(&mut p, wire)["error"]["code"], -32602, "whoever asks, and again");
    }
    assert_eq!(
        (
            p.bridge.watched_bytes,
            p.heard.iter().filter(|m| m["method"] == "resources/subscribe").count()
        ),
        (0, 3)
    );
    // What it agrees to it is asked for once.
    for session in [&one, &two] {
        let wire = p.post(session, &with("resources/subscribe", 2, json!({"uri": "file:///a"})));
        assert_eq!(body(&mut p, wire)["result"], json!({}));
    }
    assert_eq!(p.heard.iter().filter(|m| m["params"]["uri"] == "file:///a").count(), 1);
    // A URI has a bound, and all of them together.
    let wire = p.post(
        &one,
        &with("resources/subscribe", 3, json!({"uri": "x".repeat(MAX_NAME + 1)})),
    );
    assert_eq!(body(&mut p, wire)["error"]["code"], -32602);
    let mut refused = 0;
    for id in 100..200 {
        let uri = format!("{id}{}", "x".repeat(MAX_NAME - 10));
        let wire = p.post(&one, &with("resources/subscribe", id, json!({"uri": uri})));
        refused += usize::from(p.answer(wire).is_some_and(|a| a.status == 503));
    }
    assert!(refused > 30 && p.bridge.watched_bytes <= MAX_WATCHED_BYTES, "{refused}");
}

#[test]
fn a_listener_hears_what_the_server_agreed_to() {
    let mut p = Play::new(Processes::Shared);
    let proc = p.standing();
    let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {"resources": {"subscribe": true}}});
    p.bridge.procs.get_mut(&proc).expect("a process").hello = Some(hello.to_string().into());
    let mut headers = http::HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "subscriptions/listen"),
    ] {
        headers.insert(name, value.parse().expect("header"));
    }
    let mut m = with(
        "subscriptions/listen",
        5,
        json!({"notifications": {"resourceSubscriptions": ["a", "refused"]}}),
    );
    m["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}});
    p.bridge.post(p.now, 900, &headers, m.to_string().as_bytes());
    p.settle();
    assert!(
        p.sent(900)
            .contains(r#""notifications":{"resourceSubscriptions":["a"]}"#),
        "{}",
        p.sent(900)
    );
    p.bridge.closed(p.now, 900);
    p.settle();
    assert_eq!(p.heard.last().expect("a request")["method"], "resources/unsubscribe");
    assert_eq!(p.bridge.watched_bytes, 0);
}
