//! A connection whose server the test plays.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::*;

struct Play {
    connection: Connection,
    now: Instant,
    /// What was sent and not looked at.
    sent: Vec<(ExchangeId, Outgoing)>,
    dropped: Vec<ExchangeId>,
    lines: Vec<Value>,
    gone: Option<String>,
    /// What the server, which has forgotten the session, was not asked.
    unsent: Option<Vec<Value>>,
}

impl Play {
    fn new() -> Self {
        Self {
            connection: Connection::new("/mcp", 10_000),
            now: Instant::now(),
            sent: Vec::new(),
            dropped: Vec::new(),
            lines: Vec::new(),
            gone: None,
            unsent: None,
        }
    }

    fn settle(&mut self) {
        for effect in self.connection.take_effects() {
            match effect {
                Effect::Send(id, out) => self.sent.push((id, out)),
                Effect::Drop(id) => {
                    self.sent.retain(|(sent, _)| *sent != id);
                    self.dropped.push(id);
                }
                Effect::Line(line) => self.lines.push(serde_json::from_slice(&line).expect("JSON")),
                Effect::Gone(why) => self.gone = Some(why),
                Effect::Forgotten(unsent) => {
                    let read = |line: &Bytes| serde_json::from_slice(line).expect("JSON");
                    self.unsent = Some(unsent.iter().map(read).collect());
                }
            }
        }
    }

    fn write(&mut self, m: &Value) {
        self.connection.write(format!("{m}\n").as_bytes());
        self.settle();
    }

    /// The next request that was sent.
    fn next(&mut self) -> (ExchangeId, Outgoing) {
        assert!(!self.sent.is_empty(), "nothing was sent");
        self.sent.remove(0)
    }

    fn head(&mut self, id: ExchangeId, status: u16, kind: &str, session: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", kind.parse().expect("header"));
        if let Some(session) = session {
            headers.insert("mcp-session-id", session.parse().expect("header"));
        }
        let status = StatusCode::from_u16(status).expect("status");
        self.connection.head(id, status, &headers);
        self.settle();
    }

    fn data(&mut self, id: ExchangeId, text: &str) {
        self.connection.data(id, text.as_bytes());
        self.settle();
    }

    fn end(&mut self, id: ExchangeId) {
        self.connection.end(self.now, id);
        self.settle();
    }

    fn answer(&mut self, id: ExchangeId, status: u16, session: Option<&str>, text: &str) {
        self.head(id, status, "application/json", session);
        self.data(id, text);
        self.end(id);
    }

    fn after(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.connection.tick(self.now);
        self.settle();
    }

    /// A session of the legacy era; its own stream.
    fn opened() -> (Self, ExchangeId) {
        let mut p = Self::new();
        p.write(&initialize());
        let (id, out) = p.next();
        assert!(!out.headers.contains_key("mcp-protocol-version"), "{out:?}");
        p.answer(id, 200, Some("s1"), &hello());
        assert_eq!(p.lines.remove(0)["result"]["protocolVersion"], "2025-06-18");
        p.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        p.write(&call(2));
        let (id, out) = p.next();
        assert_eq!(out.headers["mcp-session-id"], "s1");
        assert_eq!(out.headers["mcp-protocol-version"], "2025-06-18");
        assert!(p.sent.is_empty(), "what follows waits");
        p.answer(id, 202, None, "");
        let (standing, out) = p.next();
        assert_eq!(out.method, Method::GET);
        p.after(0);
        assert!(p.sent.is_empty() && p.connection.waits(), "it waits for the stream");
        p.after(1000);
        let (first, out) = p.next();
        assert_eq!(out.method, Method::POST, "but not for ever");
        p.answer(first, 200, None, &result(2));
        assert_eq!(p.lines.remove(0)["id"], 2);
        (p, standing)
    }
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}})
}

fn hello() -> String {
    json!({"jsonrpc": "2.0", "id": 1, "result": {"protocolVersion": "2025-06-18"}}).to_string()
}

fn call(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "t"}})
}

fn result(id: u64) -> String {
    json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string()
}

fn modern(id: u64, method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

#[test]
fn a_session_is_opened_kept_and_ended() {
    let (mut p, standing) = Play::opened();
    // A question of the server's on its own stream, and the answer to it.
    p.head(standing, 200, "text/event-stream", None);
    p.data(
        standing,
        "id: 9\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"roots/list\"}\n\n",
    );
    assert_eq!(p.lines.remove(0)["method"], "roots/list");
    p.write(&json!({"jsonrpc": "2.0", "id": 7, "result": {}}));
    let (id, out) = p.next();
    assert_eq!(out.headers["mcp-session-id"], "s1");
    p.answer(id, 202, None, "");
    // Its stream is opened again, after its last event.
    p.end(standing);
    assert!(p.connection.waits() && p.sent.is_empty());
    p.after(2000);
    let (again, out) = p.next();
    assert_eq!(
        (&out.method, &out.headers["last-event-id"]),
        (&Method::GET, &"9".parse().expect("header"))
    );
    p.head(again, 404, "text/plain", None);
    p.end(again);
    p.after(60_000);
    assert!(p.sent.is_empty(), "a server without such a stream is not asked again");
    assert_eq!(p.gone, None);
    let end = p.connection.close().expect("a session to end");
    assert_eq!(
        (end.method, &end.headers["mcp-session-id"]),
        (Method::DELETE, &"s1".parse().expect("header"))
    );
}

#[test]
fn a_session_that_the_server_forgot_is_the_end_and_what_it_refused_was_not_done() {
    for (status, text) in [
        (404, "Not Found".to_owned()),
        (
            400,
            json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": "No valid session ID"}})
                .to_string(),
        ),
    ] {
        let (mut p, standing) = Play::opened();
        p.write(&call(3));
        let (id, _) = p.next();
        p.answer(id, status, None, &text);
        assert_eq!((p.unsent, p.gone, p.lines), (Some(vec![call(3)]), None, Vec::new()));
        assert!(p.dropped.contains(&standing));
        assert!(p.connection.close().is_none(), "there is no session to end");
    }
}

/// A server that fails while it works on a call may have done some of it, whatever words it has for that.
#[test]
fn what_may_have_been_worked_on_is_not_asked_again() {
    let (mut p, _) = Play::opened();
    p.write(&call(3));
    let (id, _) = p.next();
    let text = json!({"jsonrpc": "2.0", "id": 3, "error": {"code": -32603, "message": "Session 7 was rolled back"}});
    p.answer(id, 500, None, &text.to_string());
    assert!(p.gone.is_some() && p.unsent.is_none());
    let end = p.connection.close().expect("a session to end");
    assert_eq!(end.method, Method::DELETE);
}

#[test]
fn no_more_is_kept_for_another_try_than_may_be_held() {
    let (mut p, _) = Play::opened();
    let big =
        |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"x": "x".repeat(1 << 20)}});
    let mut ids = Vec::new();
    for id in 10..40 {
        p.write(&big(id));
        ids.push(p.next().0);
    }
    for id in ids {
        p.answer(id, 404, None, "");
    }
    let unsent = p.unsent.expect("a forgotten session");
    assert_eq!(unsent.len(), 15, "16 MiB");
}

#[test]
fn calls_in_a_forgotten_session_end_as_they_do() {
    let (mut p, _) = Play::opened();
    for id in 3..=6 {
        p.write(&call(id));
    }
    let ids: Vec<_> = (3..=6).map(|_| p.next().0).collect();
    p.head(ids[0], 200, "text/event-stream", None);
    p.answer(ids[1], 404, None, "");
    assert_eq!(p.unsent, None, "three are under way");
    // What comes now is not sent; one of it is not wanted any more, and what needs no answer is for nobody.
    p.write(&call(7));
    p.write(&call(8));
    p.write(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 8}}));
    p.write(&json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}));
    assert!(p.sent.is_empty());
    p.data(ids[0], &format!("data: {}\n\n", result(3)));
    p.end(ids[0]);
    assert_eq!(p.lines.remove(0)["id"], 3, "it was worked on, and answered");
    p.answer(ids[2], 404, None, "");
    assert_eq!(p.unsent, None);
    p.after(0);
    p.after(5000);
    // Whether the server works on the last one nobody can say.
    assert_eq!((&p.lines[0]["id"], p.lines[0]["error"].is_object()), (&json!(6), true));
    assert_eq!(p.unsent, Some(vec![call(4), call(7), call(5)]));
}

#[test]
fn what_needs_no_answer_is_not_waited_for() {
    let (mut p, _) = Play::opened();
    let note = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
    let mut ids = Vec::new();
    p.dropped.clear();
    for _ in 0..100 {
        p.write(&note);
        ids.extend(p.sent.drain(..).map(|(id, _)| id));
    }
    assert_eq!(p.dropped, ids[..36], "the oldest give way");
    // Neither those that get no head, nor a refusal whose words have no end.
    p.head(ids[99], 202, "text/plain", None);
    p.write(&call(3));
    let (refused, _) = p.next();
    p.head(refused, 500, "text/plain", None);
    p.data(refused, "out of");
    p.after(0);
    assert!(p.connection.waits() && p.lines.is_empty());
    p.after(10_000);
    assert_eq!(p.dropped.len(), 101);
    let words = p.lines[0]["error"]["message"].as_str().expect("an error");
    assert!(words.contains("500") && words.contains("out of"), "{words}");
    assert!(!p.connection.waits());
}

#[test]
fn a_broken_stream_is_taken_up_again() {
    let (mut p, _) = Play::opened();
    p.write(&call(3));
    let (id, _) = p.next();
    p.head(id, 200, "text/event-stream", None);
    p.data(id, "id: a\nretry: 300\ndata: \n\n");
    p.connection.failed(p.now, id, "reset");
    p.after(200);
    assert!(p.sent.is_empty());
    p.after(100);
    let (id, out) = p.next();
    assert_eq!(
        (&out.method, &out.headers["last-event-id"]),
        (&Method::GET, &"a".parse().expect("header"))
    );
    p.head(id, 200, "text/event-stream", None);
    p.data(id, &format!("id: b\ndata: {}\n\n", result(3)));
    p.end(id);
    assert_eq!(p.lines, [json!({"jsonrpc": "2.0", "id": 3, "result": {}})]);
    // Without ids there is nothing to go on from.
    p.write(&call(4));
    let (id, _) = p.next();
    p.head(id, 200, "text/event-stream", None);
    p.end(id);
    assert_eq!(p.lines[1]["error"]["code"], -31000);
    // A server that never answers is given up.
    p.write(&call(5));
    let (mut id, _) = p.next();
    p.head(id, 200, "text/event-stream", None);
    p.data(id, "id: a\ndata: \n\n");
    for _ in 0..5 {
        p.end(id);
        p.after(60_000);
        id = p.next().0;
        p.head(id, 200, "text/event-stream", None);
    }
    p.end(id);
    assert_eq!(
        (&p.lines[2]["id"], &p.lines[2]["error"]["code"]),
        (&json!(5), &json!(-31000))
    );
    assert!(!p.connection.waits());
}

#[test]
fn a_cancelled_call_is_dropped_and_in_the_legacy_era_the_server_told() {
    let cancel = |id: u64| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    let (mut p, _) = Play::opened();
    p.write(&call(3));
    let (id, _) = p.next();
    p.write(&cancel(3));
    assert!(p.dropped.contains(&id));
    assert!(String::from_utf8_lossy(&p.next().1.body).contains("notifications/cancelled"));
    let mut p = Play::new();
    p.write(&modern(3, "subscriptions/listen", json!({})));
    let (id, _) = p.next();
    p.write(&cancel(3));
    assert_eq!((p.dropped.as_slice(), p.sent.len(), p.lines.len()), (&[id][..], 0, 0));
}

#[test]
fn a_modern_request_stands_for_itself() {
    let mut p = Play::new();
    p.write(&modern(1, "tools/list", json!({})));
    let (id, out) = p.next();
    assert_eq!(out.headers["mcp-method"], "tools/list");
    let schema = json!({"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}});
    let tools = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "t", "inputSchema": schema}]}});
    p.answer(id, 200, None, &tools.to_string());
    p.write(&modern(
        2,
        "tools/call",
        json!({"name": "t", "arguments": {"region": "eu"}}),
    ));
    let (id, out) = p.next();
    assert_eq!(
        (&out.headers["mcp-name"], &out.headers["mcp-param-region"]),
        (&"t".parse().expect("h"), &"eu".parse().expect("h"))
    );
    assert!(!out.headers.contains_key("mcp-session-id"));
    p.head(id, 200, "text/event-stream", None);
    p.data(
        id,
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n",
    );
    p.data(id, &format!("data: {}\n\n", result(2)));
    p.end(id);
    let methods: Vec<&Value> = p.lines.iter().map(|l| &l["id"]).collect();
    assert_eq!(methods, [&json!(1), &Value::Null, &json!(2)]);
    // What is refused without an id is an answer all the same, and so is a page.
    for (status, text, code) in [
        (
            404,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"no"}}"#,
            -32601,
        ),
        (500, "<html>", -31000),
        (200, "<html>", -31008),
        (202, "", -31008),
    ] {
        p.lines.clear();
        p.write(&modern(3, "x/y", json!({})));
        let (id, _) = p.next();
        p.head(id, status, "application/json", None);
        p.connection.data(id, text.as_bytes());
        p.connection.end(p.now, id);
        for effect in p.connection.take_effects() {
            if let Effect::Line(line) = effect
                && let Ok(line) = serde_json::from_slice(&line)
            {
                p.lines.push(line);
            }
        }
        let got: Vec<_> = p.lines.iter().map(|l| (&l["id"], &l["error"]["code"])).collect();
        assert_eq!(got, [(&json!(3), &json!(code))], "{status} {text}");
    }
    assert_eq!(p.gone, None);
}

#[test]
fn an_answer_over_the_limit_is_an_error() {
    for kind in ["application/json", "text/event-stream"] {
        let mut p = Play::new();
        p.write(&modern(1, "tools/list", json!({})));
        let (id, _) = p.next();
        p.head(id, 200, kind, None);
        p.data(id, &format!("data: {}", "x".repeat(20_000)));
        assert_eq!(p.lines[0]["error"]["code"], -31007);
        assert_eq!(p.dropped, [id]);
    }
}

#[test]
fn the_oldest_transport_has_one_stream() {
    let mut p = Play::new();
    p.write(&initialize());
    let (id, _) = p.next();
    p.answer(id, 405, None, "no");
    let (channel, out) = p.next();
    assert_eq!((&out.method, &out.target), (&Method::GET, &Target::Endpoint));
    p.head(channel, 200, "text/event-stream", None);
    p.data(channel, "event: endpoint\ndata: /messages?s=1\n\n");
    let (id, out) = p.next();
    assert_eq!(out.target, Target::Path("/messages?s=1".to_owned()));
    p.answer(id, 202, None, "Accepted");
    p.data(channel, &format!("event: message\ndata: {}\n\n", hello()));
    assert_eq!(p.lines.remove(0)["id"], 1);
    p.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let (id, _) = p.next();
    p.answer(id, 202, None, "");
    p.write(&call(2));
    let (id, _) = p.next();
    p.answer(id, 202, None, "");
    assert!(p.lines.is_empty() && p.sent.is_empty(), "no other stream is asked for");
    p.data(channel, &format!("event: message\ndata: {}\n\n", result(2)));
    assert_eq!(p.lines.remove(0)["id"], 2);
    p.end(channel);
    assert!(p.gone.is_some());
    // What speaks neither is gone with the words of its first refusal.
    let mut p = Play::new();
    p.write(&initialize());
    let (id, _) = p.next();
    p.answer(id, 404, None, "no such page");
    let (channel, _) = p.next();
    p.answer(channel, 404, None, "nor this");
    assert!(
        p.gone
            .as_deref()
            .is_some_and(|w| w.contains("404") && w.contains("no such page"))
    );
}

/// What a server asks before its stream is there, it asks nobody: the call that makes it ask waits.
#[test]
fn no_call_goes_ahead_of_the_servers_own_stream() {
    let settled = || {
        let mut p = Play::new();
        p.write(&initialize());
        let (id, _) = p.next();
        p.answer(id, 200, Some("s1"), &hello());
        p.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        let (id, _) = p.next();
        p.head(id, 202, "text/plain", None);
        let (standing, out) = p.next();
        assert_eq!(out.method, Method::GET);
        p.write(&call(2));
        assert!(p.sent.is_empty());
        (p, standing)
    };
    // A call that is cancelled while it waits is never made.
    let (mut p, standing) = settled();
    p.write(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}));
    p.head(standing, 405, "text/plain", None);
    assert!(p.sent.is_empty());
    for (status, kind) in [(200, "text/event-stream"), (405, "text/plain"), (503, "text/plain")] {
        let (mut p, standing) = settled();
        p.head(standing, status, kind, None);
        assert_eq!(p.next().1.method, Method::POST, "{status}");
    }
    let (mut p, standing) = settled();
    p.connection.failed(p.now, standing, "refused");
    p.settle();
    assert_eq!(p.next().1.method, Method::POST);
}

#[test]
fn a_server_that_is_away_is_gone_or_an_error() {
    let mut p = Play::new();
    p.write(&initialize());
    let (id, _) = p.next();
    p.connection.failed(p.now, id, "refused");
    p.settle();
    assert_eq!(p.gone.as_deref(), Some("refused"));
    let (mut p, _) = Play::opened();
    p.write(&call(3));
    let (id, _) = p.next();
    p.connection.failed(p.now, id, "refused");
    p.settle();
    assert_eq!((p.lines[0]["error"]["code"].as_i64(), p.gone), (Some(-31000), None));
}
