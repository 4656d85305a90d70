//! Clients of the transport of 2024-11-05, with a clock and a server that the test plays.

use http::HeaderMap;
use serde_json::{Value, json};

use super::tests::{Play, request};
use super::*;

fn headers(principal: &str, more: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [("berth-principal", principal), ("content-type", "application/json")]
        .iter()
        .chain(more)
    {
        headers.insert(*name, value.parse().expect("header"));
    }
    headers
}

/// Opens a channel; its exchange, and what its client is to post to.
fn open(p: &mut Play, principal: &str) -> (WireId, String) {
    p.wire += 1;
    let accept = headers(principal, &[("accept", "text/event-stream")]);
    p.bridge.open_channel(p.now, p.wire, &accept, "/abcdefghij/sse");
    p.settle();
    let uri = p.sent(p.wire);
    let uri = uri.strip_prefix("event: endpoint\ndata: ").expect("the first event");
    (p.wire, uri.strip_suffix("\n\n").expect("one event").to_owned())
}

/// Posts to a channel; the status.
fn post(p: &mut Play, principal: &str, uri: &str, body: &Value) -> u16 {
    let query = uri
        .strip_prefix("/abcdefghij/sse?")
        .expect("relative, by the client's own path");
    let name = named(Some(query)).expect("it names a channel").to_owned();
    p.wire += 1;
    let head = headers(principal, &[]);
    p.bridge
        .post_channel(p.now, p.wire, &head, &name, body.to_string().as_bytes());
    p.settle();
    p.answer(p.wire).expect("an answer at once").status
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": "2024-11-05", "capabilities": {"roots": {}}}})
}

/// The messages on a stream.
fn messages(p: &Play, wire: WireId) -> Vec<Value> {
    let text = p.sent(wire);
    assert!(!text.contains("id: "), "nothing to resume from: {text}");
    let data = text.split("\n\n").filter(|e| e.starts_with("event: message\n"));
    data.map(|e| serde_json::from_str(e.split_once("data: ").expect("data").1).expect("JSON"))
        .collect()
}

#[test]
fn a_session_lives_on_one_stream() {
    for (processes, modern) in [
        (Processes::Session, false),
        (Processes::Shared, false),
        (Processes::Session, true),
        (Processes::Shared, true),
    ] {
        let mut p = Play::with(processes, modern);
        let before = p.bridge.held();
        let (stream, uri) = open(&mut p, "a");
        assert!(p.effects.contains(&Effect::Open(stream, None)));
        assert_eq!(post(&mut p, "a", &uri, &request(1, "quick")), 400, "before initialize");
        assert_eq!(post(&mut p, "a", &uri, &initialize()), 202);
        p.after(1);
        let said = messages(&p, stream);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0]["id"] == 0 && said[0]["result"]["protocolVersion"].is_string(),
            "{said:?}"
        );
        assert_eq!(post(&mut p, "a", &uri, &initialize()), 400, "once");
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(post(&mut p, "a", &uri, &note), 202);
        for id in 1..4 {
            assert_eq!(post(&mut p, "a", &uri, &request(id, "quick")), 202);
        }
        let said = messages(&p, stream);
        let ids: Vec<u64> = said.iter().filter_map(|m| m["id"].as_u64()).collect();
        assert_eq!(ids, [0, 1, 2, 3], "{said:?}");
        assert!(!p.effects.iter().any(|e| matches!(e, Effect::Close(w) if *w == stream)));
        // It stays as long as the stream does, and no longer.
        p.after(200);
        assert!(p.sent(stream).contains(": keep-alive"));
        assert_eq!(post(&mut p, "a", &uri, &request(4, "quick")), 202);
        p.bridge.closed(p.now, stream);
        p.settle();
        assert_eq!(post(&mut p, "a", &uri, &request(5, "quick")), 404);
        p.after(60);
        assert_eq!(p.bridge.held(), before, "{processes:?} modern {modern}");
    }
}

#[test]
fn a_channel_is_its_tokens_own() {
    let mut p = Play::new(Processes::Shared);
    let (stream, uri) = open(&mut p, "a");
    assert_eq!(post(&mut p, "b", &uri, &initialize()), 404);
    let (_, other) = open(&mut p, "b");
    // The number of one with the secret of another.
    let number = uri
        .split_once('=')
        .and_then(|(_, n)| n.split_once('-'))
        .expect("a number")
        .0;
    let secret = other.rsplit_once('-').expect("a secret").1;
    let mixed = format!("/abcdefghij/sse?sessionId={number}-{secret}");
    assert_eq!(post(&mut p, "a", &mixed, &initialize()), 404);
    assert_eq!(post(&mut p, "b", &mixed, &initialize()), 404);
    assert!(messages(&p, stream).is_empty());
    assert_eq!(post(&mut p, "a", &uri, &initialize()), 202);
}

#[test]
fn questions_go_on_the_stream_and_answers_come_by_post() {
    let mut p = Play::new(Processes::Session);
    let (stream, uri) = open(&mut p, "a");
    assert_eq!(post(&mut p, "a", &uri, &initialize()), 202);
    assert_eq!(post(&mut p, "a", &uri, &request(1, "ask")), 202);
    let asked = messages(&p, stream).pop().expect("a question");
    assert_eq!(asked["method"], "roots/list");
    let reply = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": []}});
    assert_eq!(post(&mut p, "a", &uri, &reply), 202);
    let heard = p.heard.last().expect("the server hears");
    assert!(heard["id"] == "q" && heard["result"]["roots"].is_array(), "{heard}");
}

#[test]
fn a_channel_ends_with_its_process_and_when_nothing_comes() {
    let mut p = Play::new(Processes::Session);
    let before = p.bridge.held();
    let (idle, _) = open(&mut p, "a");
    let (stream, uri) = open(&mut p, "a");
    assert_eq!(post(&mut p, "a", &uri, &initialize()), 202);
    p.mute = true;
    assert_eq!(post(&mut p, "a", &uri, &request(7, "long")), 202);
    let (proc, _) = p.asked.take().expect("the server was asked");
    p.bridge.gone(p.now, proc, "the server exited with status 1");
    p.settle();
    let last = messages(&p, stream).pop().expect("an error");
    assert!(last["id"] == 7 && last["error"]["code"] == -31000, "{last}");
    assert!(p.effects.contains(&Effect::Close(stream)));
    p.mute = false;
    assert!(!p.effects.contains(&Effect::Close(idle)));
    p.after(61);
    assert!(p.effects.contains(&Effect::Close(idle)), "nobody came");
    assert_eq!(p.bridge.held(), before);
}

#[test]
fn channels_that_wait_are_bounded() {
    let mut p = Play::new(Processes::Shared);
    for _ in 0..4 {
        open(&mut p, "a");
    }
    p.wire += 1;
    let accept = headers("a", &[("accept", "text/event-stream")]);
    p.bridge.open_channel(p.now, p.wire, &accept, "/sse");
    assert_eq!(p.bridge.effects.len(), 1);
    p.settle();
    let full = p.answer(p.wire).expect("refused");
    assert_eq!((full.status, full.retry_after), (503, Some(1)));
    p.bridge.close(p.now, "the end");
    p.settle();
    assert!(p.bridge.channels.is_empty());
}

#[test]
fn newer_clients_are_not_taken_for_old_ones() {
    let sse = ("accept", "text/event-stream");
    for (more, old) in [
        (&[sse][..], true),
        (&[("accept", "application/json, text/event-stream;q=0.5")], true),
        (&[], false),
        (&[("accept", "*/*")], false),
        (&[sse, ("mcp-session-id", "x")], false),
        (&[sse, ("mcp-protocol-version", "2025-06-18")], false),
        (&[sse, ("last-event-id", "1-1")], false),
    ] {
        assert_eq!(asks_for_one(&headers("a", more)), old, "{more:?}");
    }
    for (query, name) in [
        ("sessionId=1f-abc0", Some("1f-abc0")),
        ("a=b&sessionId=1f-abc0&c", Some("1f-abc0")),
        ("sessionId=1f", None),
        ("sessionId=x-y", None),
        ("sessionid=1f-ab", None),
        ("sessionId=-", None),
        ("", None),
    ] {
        assert_eq!(named(Some(query)), name, "{query}");
    }
    assert_eq!(named(None), None);
}
