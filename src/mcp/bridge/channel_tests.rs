//! Clients of the transport of 2024-11-05, with a clock and a server that the test plays.

use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::channels::asks_for_one;
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
fn a_batch_is_answered_on_the_stream() {
    for (version, has) in [("2024-11-05", true), ("2025-03-26", true), ("2025-06-18", false)] {
        let mut p = Play::new(Processes::Shared);
        let (stream, uri) = open(&mut p, "a");
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let batch = json!([request(1, "quick"), note, request(2, "quick")]);
        assert_eq!(post(&mut p, "a", &uri, &batch), 400, "before initialize");
        let mut first = initialize();
        first["params"]["protocolVersion"] = json!(version);
        assert_eq!(post(&mut p, "a", &uri, &first), 202);
        p.after(1);
        let ids = |p: &Play| -> Vec<u64> { messages(p, stream).iter().filter_map(|m| m["id"].as_u64()).collect() };
        if !has {
            assert_eq!(post(&mut p, "a", &uri, &batch), 400, "{version}");
            assert_eq!(ids(&p), [0]);
            continue;
        }
        assert_eq!(post(&mut p, "a", &uri, &batch), 202, "{version}");
        assert_eq!(ids(&p), [0, 1, 2], "{version}");
        let many = |n: u64| Value::from_iter((0..n).map(|i| request(100 + i, "quick")));
        for wrong in [json!([]), json!([1]), json!([initialize()]), many(257)] {
            assert_eq!(post(&mut p, "a", &uri, &wrong), 400, "{wrong}");
        }
        assert_eq!(ids(&p), [0, 1, 2], "nothing of a refused batch is done");
        assert_eq!(post(&mut p, "a", &uri, &request(3, "quick")), 202);
        assert_eq!(ids(&p), [0, 1, 2, 3], "and the stream goes on");
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

#[derive(Debug, Clone)]
enum Step {
    Listen,
    Say(usize, u64, &'static str),
    Session,
    Drop(u64),
    Die,
    Late(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let method = prop_oneof![
        3 => Just("initialize"),
        1 => Just("notifications/cancelled"),
        1 => Just("quick"),
        1 => Just("long"),
        1 => Just("ask"),
        1 => Just("resources/subscribe"),
        1 => Just("tools/call"),
        1 => Just("no JSON"),
    ];
    prop_oneof![
        3 => Just(Step::Listen),
        8 => (0..5usize, 0..4u64, method).prop_map(|(c, id, m)| Step::Say(c, id, m)),
        1 => Just(Step::Session),
        2 => (0..40u64).prop_map(Step::Drop),
        1 => Just(Step::Die),
        2 => (0..40u64).prop_map(Step::Late),
    ]
}

/// What a step says.
fn words(id: u64, method: &str) -> String {
    let mut m = match method {
        "initialize" => initialize(),
        "notifications/cancelled" => json!({"jsonrpc": "2.0", "method": method, "params": {"requestId": id}}),
        "no JSON" => return "{".to_owned(),
        _ => request(id, method),
    };
    if m["params"].is_null() {
        let uri = ["file:///x", "refused"][usize::from(id % 2 == 1)];
        let name = ["ask", "long"][usize::from(id > 1)];
        m["params"] = json!({"uri": uri, "name": name});
    }
    m.to_string()
}

fn is_over(p: &Play, wire: WireId) -> usize {
    let over = |e: &&Effect| matches!(e, Effect::Answer(w, _) | Effect::Close(w) if *w == wire);
    p.effects.iter().filter(over).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    /// Whatever old clients do in whatever order, beside newer ones: no exchange ends twice, every exchange ends, and once
    /// everybody is gone nothing is left but the standing process.
    #[test]
    fn channels_leave_nothing_behind(
        per_session in any::<bool>(), modern in any::<bool>(), steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut p = Play::with(if per_session { Processes::Session } else { Processes::Shared }, modern);
        let mut names: Vec<String> = Vec::new();
        for step in steps {
            match step {
                Step::Listen => {
                    p.wire += 1;
                    let accept = headers("a", &[("accept", "text/event-stream")]);
                    p.bridge.open_channel(p.now, p.wire, &accept, "/sse");
                    p.settle();
                    if let Some((_, name)) = p.sent(p.wire).trim_end().split_once('=') {
                        names.push(name.to_owned());
                    }
                }
                Step::Say(channel, id, method) => {
                    let name = names.get(channel).cloned().unwrap_or_else(|| "1-a".to_owned());
                    p.wire += 1;
                    let head = headers("a", &[]);
                    p.bridge.post_channel(p.now, p.wire, &head, &name, words(id, method).as_bytes());
                    p.settle();
                    prop_assert_eq!(is_over(&p, p.wire), 1, "answered at once");
                }
                Step::Session => {
                    if p.bridge.sessions() < 4 && p.bridge.standing_ready().is_some() {
                        let wire = p.post("", &initialize());
                        p.effects.retain(|e| !matches!(e, Effect::Answer(w, _) if *w == wire));
                        p.effects.push(Effect::Close(wire));
                    }
                }
                Step::Drop(wire) => {
                    if is_over(&p, wire) == 0 && wire >= 1 && wire <= p.wire {
                        p.bridge.closed(p.now, wire);
                        p.effects.push(Effect::Close(wire));
                        p.settle();
                    }
                }
                Step::Die => {
                    if let Some(proc) = p.bridge.procs.keys().copied().min() {
                        p.bridge.gone(p.now, proc, "it died");
                        p.settle();
                    }
                }
                Step::Late(seconds) => p.after(seconds),
            }
        }
        for wire in 1..=p.wire {
            let over = is_over(&p, wire);
            prop_assert!(over <= 1, "wire {} ended {} times", wire, over);
            if over == 0 {
                p.bridge.closed(p.now, wire);
                p.effects.push(Effect::Close(wire));
                p.settle();
            }
        }
        p.after(300);
        let [sessions, calls, streams, asks, procs] = p.bridge.held();
        prop_assert_eq!((sessions, calls, streams, asks), (0, 0, 0, 0));
        prop_assert!(procs <= 1);
        prop_assert_eq!((p.bridge.replay_total, p.bridge.kept, p.bridge.watched_bytes), (0, 0, 0));
    }
}
