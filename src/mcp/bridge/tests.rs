//! The bridge with a clock and a server that the test plays.

use std::time::{Duration, Instant};

use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::mcp::frame::Line;

pub(super) struct Play {
    pub(super) bridge: Bridge,
    pub(super) now: Instant,
    pub(super) wire: u64,
    pub(super) effects: Vec<Effect>,
    /// The server speaks the modern era alone.
    modern: bool,
    /// The server does not answer by itself; what it was asked last is here.
    pub(super) mute: bool,
    pub(super) asked: Option<(ProcId, Value)>,
    /// Everything that the server was sent.
    pub(super) heard: Vec<Value>,
    /// By which process.
    pub(super) heard_by: Vec<ProcId>,
}

impl Play {
    pub(super) fn new(processes: Processes) -> Self {
        Self::with(processes, false)
    }

    pub(super) fn with(processes: Processes, modern: bool) -> Self {
        let config = Config {
            processes,
            max_sessions: 4,
            idle: Duration::from_secs(60),
            vanish: Duration::from_secs(30),
            call: Duration::from_secs(100),
            start: Duration::from_secs(20),
            max_message: 100_000,
        };
        let mut n = 0u8;
        let random = Box::new(move |out: &mut [u8]| {
            n = n.wrapping_add(1);
            out.fill(n);
        });
        let mut play = Self {
            bridge: Bridge::new(config, random),
            now: Instant::now(),
            wire: 0,
            effects: Vec::new(),
            modern,
            mute: false,
            asked: None,
            heard: Vec::new(),
            heard_by: Vec::new(),
        };
        play.bridge.start(play.now);
        play.settle();
        play
    }

    /// Plays the server: answers what it knows at once. Processes that were started are returned.
    pub(super) fn settle(&mut self) -> Vec<ProcId> {
        let mut started = Vec::new();
        loop {
            let effects = self.bridge.take_effects();
            if effects.is_empty() {
                return started;
            }
            for e in effects {
                match e {
                    Effect::Spawn(id) => started.push(id),
                    Effect::Input(id) => self.serve(id),
                    Effect::Stop(_) => self.bridge.reaped(),
                    other => self.effects.push(other),
                }
            }
        }
    }

    fn serve(&mut self, proc: ProcId) {
        let mut input = Vec::new();
        self.bridge.take_input(proc, &mut input);
        for line in input.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let m: Value = serde_json::from_slice(line).expect("one JSON a line");
            self.asked = Some((proc, m.clone()));
            self.heard.push(m.clone());
            self.heard_by.push(proc);
            if self.mute {
                continue;
            }
            if self.modern {
                for answer in modern_only(&m) {
                    self.say(proc, &answer);
                }
                continue;
            }
            let answer = match m["method"].as_str().unwrap_or_default() {
                "server/discover" => {
                    json!({"jsonrpc": "2.0", "id": m["id"], "error": {"code": -32601, "message": "?"}})
                }
                "initialize" => json!({"jsonrpc": "2.0", "id": m["id"], "result":
                    {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}}),
                "quick" => json!({"jsonrpc": "2.0", "id": m["id"], "result": {}}),
                "ask" => json!({"jsonrpc": "2.0", "id": "q", "method": "roots/list"}),
                "resources/subscribe" if m["params"]["uri"] == "refused" => {
                    json!({"jsonrpc": "2.0", "id": m["id"], "error": {"code": -32602, "message": "no"}})
                }
                "resources/subscribe" => json!({"jsonrpc": "2.0", "id": m["id"], "result": {}}),
                _ => continue,
            };
            self.say(proc, &answer);
        }
    }

    pub(super) fn say(&mut self, proc: ProcId, m: &Value) {
        self.bridge.line(self.now, proc, &Line::Whole(m.to_string().as_bytes()));
    }

    pub(super) fn post(&mut self, session: &str, body: &Value) -> u64 {
        self.wire += 1;
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().expect("header"));
        if !session.is_empty() {
            headers.insert("mcp-session-id", session.parse().expect("header"));
        }
        self.bridge
            .post(self.now, self.wire, &headers, body.to_string().as_bytes());
        self.settle();
        self.wire
    }

    pub(super) fn get(&mut self, session: &str) -> u64 {
        self.wire += 1;
        let mut headers = HeaderMap::new();
        headers.insert("mcp-session-id", session.parse().expect("header"));
        self.bridge.get(self.now, self.wire, &headers);
        self.settle();
        self.wire
    }

    pub(super) fn session(&mut self) -> String {
        let init = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {"protocolVersion": "2025-11-25", "capabilities": {"roots": {}}}});
        let wire = self.post("", &init);
        self.answer(wire).and_then(|a| a.session).expect("a session")
    }

    pub(super) fn answer(&mut self, wire: u64) -> Option<HttpAnswer> {
        self.effects.iter().find_map(|e| match e {
            Effect::Answer(w, a) if *w == wire => Some(a.clone()),
            _ => None,
        })
    }

    pub(super) fn sent(&self, wire: u64) -> String {
        let sent = self.effects.iter().filter_map(|e| match e {
            Effect::Send(w, bytes) if *w == wire => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        });
        sent.collect()
    }

    pub(super) fn after(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.bridge.tick(self.now);
            self.settle();
        }
    }

    pub(super) fn standing(&self) -> ProcId {
        self.bridge.standing.proc.expect("a standing process")
    }
}

/// What a server says that speaks the modern era alone.
fn modern_only(m: &Value) -> Vec<Value> {
    let (id, params) = (&m["id"], &m["params"]);
    let result = |r: Value| vec![json!({"jsonrpc": "2.0", "id": id, "result": r})];
    let meta = |id: &Value| json!({"io.modelcontextprotocol/subscriptionId": id});
    let method = m["method"].as_str().expect("a modern server is sent no responses");
    if id.is_null() {
        assert_eq!(method, "notifications/cancelled", "{m}");
        return Vec::new();
    }
    if method == "initialize" {
        return vec![json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "what?"}})];
    }
    assert_eq!(
        params["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28",
        "{m}"
    );
    match method {
        "server/discover" => result(json!({"resultType": "complete", "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {"listChanged": true}, "resources": {"subscribe": true}, "logging": {}}})),
        "quick" | "tools/list" => result(json!({"resultType": "complete", "tools": [], "ttlMs": 1})),
        "tools/call" if params["inputResponses"].is_null() && params["name"] == "ask" => {
            let asks = json!({"a": {"method": "roots/list"}, "b": {"method": "roots/list"}});
            result(json!({"resultType": "input_required", "requestState": "s", "inputRequests": asks}))
        }
        "tools/call" if params["name"] == "again" => {
            result(json!({"resultType": "input_required", "requestState": "s"}))
        }
        "tools/call" if params["name"] == "long" => Vec::new(),
        "tools/call" => result(json!({"resultType": "complete", "got": params["inputResponses"]})),
        "subscriptions/listen" => {
            let mut agreed = params["notifications"].clone();
            if let Some(uris) = agreed["resourceSubscriptions"].as_array_mut() {
                uris.retain(|u| u != "refused");
            }
            vec![
                json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": {"_meta": meta(id), "notifications": agreed}}),
            ]
        }
        _ => Vec::new(),
    }
}

pub(super) fn request(id: u64, method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method})
}

#[test]
fn a_long_call_becomes_a_stream_that_is_kept_alive_and_ends() {
    let mut p = Play::new(Processes::Shared);
    let session = p.session();
    let wire = p.post(&session, &request(1, "long"));
    assert!(!p.effects.iter().any(|e| matches!(e, Effect::Open(w, _) if *w == wire)));
    p.after(1);
    assert!(p.effects.contains(&Effect::Open(wire, Some(session))));
    p.after(30);
    assert!(p.sent(wire).matches(": keep-alive").count() >= 2, "{}", p.sent(wire));
    p.after(70);
    assert!(p.sent(wire).contains("-31002"), "{}", p.sent(wire));
    assert!(p.effects.contains(&Effect::Close(wire)));
}

/// What a server gets wrong is mended where its meaning is plain, and otherwise ends its call at once, with the cause.
#[test]
fn odd_answers_are_understood_or_end_their_call() {
    for (odd, said) in [
        (r#"{"jsonrpc":"2.0","id":"ID","result":{"fine":1}}"#, "fine"),
        (r#"{"jsonrpc":"2.0","id":ID.0,"result":{"fine":1}}"#, "fine"),
        (r#"{"jsonrpc":"2.0","id":ID,"result":{"fine":1},"error":null}"#, "fine"),
        (
            r#"{"jsonrpc":"2.0","id":ID,"result":null,"error":{"code":-32602,"message":"bad arguments"}}"#,
            "bad arguments",
        ),
        (
            "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":ID,\"result\":{\"fine\":1}}",
            "fine",
        ),
        (r#"{"jsonrpc":"2.0","id":ID,"result":{"mean":NaN}}"#, "cannot be read"),
        (
            r#"{"jsonrpc":"2.0","id":ID,"result":{"a":1},"error":{"code":1,"message":"m"}}"#,
            "cannot be read",
        ),
        (r#"{"jsonrpc":"2.0","id":"another","result":{}}"#, "another id than"),
    ] {
        let mut p = Play::new(Processes::Shared);
        let session = p.session();
        p.mute = true;
        let wire = p.post(&session, &request(1, "tools/call"));
        let (proc, asked) = p.asked.take().expect("the server was asked");
        let line = odd.replace("ID", &asked["id"].to_string());
        p.bridge.line(p.now, proc, &Line::Whole(line.as_bytes()));
        p.settle();
        let answer = p.answer(wire).unwrap_or_else(|| panic!("no answer to {odd}"));
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(body.contains(said) && body.contains("\"id\":1"), "{odd}: {body}");
        // The session goes on.
        p.mute = false;
        let wire = p.post(&session, &request(2, "quick"));
        assert!(p.answer(wire).is_some_and(|a| a.status == 200), "after {odd}");
    }
}

#[test]
fn a_slow_initialize_is_answered_whole_with_its_session() {
    let mut p = Play::new(Processes::Session);
    p.mute = true;
    let init = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}}});
    let wire = p.post("", &init);
    p.after(8);
    assert!(!p.effects.iter().any(|e| matches!(e, Effect::Open(w, _) if *w == wire)));
    let (proc, asked) = p.asked.take().expect("initialize reached the server");
    p.say(
        proc,
        &json!({"jsonrpc": "2.0", "id": asked["id"], "result":
        {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}}),
    );
    p.settle();
    let answer = p.answer(wire).expect("an answer");
    assert!(answer.session.is_some() && answer.status == 200, "{answer:?}");
}

/// Streams that answered a POST and ended are no sign that their client has gone: its sessions have the whole idle time.
/// One that lost its own stream has its grace, and one that nobody ever used the shortest time.
#[test]
fn a_session_ends_by_the_time_that_its_client_deserves() {
    let quick = |p: &mut Play, session: &str| {
        let wire = p.post(session, &request(9, "quick"));
        p.answer(wire).map(|a| a.status)
    };
    for (kind, lives) in [("posts", 59), ("listens", 29), ("left a call", 29), ("unused", 29)] {
        for (seconds, status) in [(lives, 200), (lives + 1, 404)] {
            let mut p = Play::new(Processes::Shared);
            let session = p.session();
            match kind {
                "posts" | "left a call" => {
                    let wire = p.post(&session, &request(1, "long"));
                    p.after(2);
                    assert!(p.effects.contains(&Effect::Open(wire, Some(session.clone()))));
                    if kind == "posts" {
                        let (proc, asked) = p.asked.take().expect("the server was asked");
                        p.say(proc, &json!({"jsonrpc": "2.0", "id": asked["id"], "result": {}}));
                        p.settle();
                        assert!(p.effects.contains(&Effect::Close(wire)));
                    } else {
                        p.bridge.closed(p.now, wire);
                    }
                    // What a session hears last counts.
                    p.post(&session, &json!({"jsonrpc": "2.0", "method": "notifications/x"}));
                }
                "listens" => {
                    let wire = p.get(&session);
                    p.after(100);
                    p.bridge.closed(p.now, wire);
                }
                _ => {}
            }
            p.after(seconds);
            assert_eq!(quick(&mut p, &session), Some(status), "{kind} after {seconds} s");
        }
    }
}

#[test]
fn five_quick_deaths_are_the_end() {
    let mut p = Play::new(Processes::Shared);
    for death in 1..=5 {
        assert!(p.effects.contains(&Effect::Ready));
        p.effects.clear();
        let proc = p.standing();
        p.bridge.gone(p.now, proc, "the server exited with status 1");
        p.settle();
        let failed = p
            .effects
            .iter()
            .any(|e| matches!(e, Effect::Failed(why) if why.contains("5 times")));
        assert_eq!(failed, death == 5, "{death}");
        p.after(2);
    }
}

#[test]
fn a_question_without_a_stream_is_answered_with_an_error_in_time() {
    let mut p = Play::new(Processes::Shared);
    let session = p.session();
    let proc = p.standing();
    p.say(proc, &request(9, "roots/list"));
    assert_eq!(p.bridge.asks.len(), 1);
    p.after(6);
    assert_eq!(p.bridge.asks.len(), 0);
    // With a stream it is asked, and the answer finds its way back.
    let stream = p.get(&session);
    assert!(!p.sent(stream).contains("roots/list"), "its time was over");
    p.say(proc, &request(10, "roots/list"));
    p.settle();
    assert!(p.sent(stream).contains("roots/list"));
    let id = *p.bridge.asks.keys().next().expect("an ask");
    let other = p.session();
    p.post(&other, &json!({"jsonrpc": "2.0", "id": id, "result": {}}));
    assert_eq!(p.bridge.asks.len(), 1, "another session's answer counts for nothing");
    p.post(&session, &json!({"jsonrpc": "2.0", "id": id, "result": {}}));
    assert_eq!(p.bridge.asks.len(), 0);
    // Two sessions: nobody may be asked.
    p.say(proc, &request(11, "roots/list"));
    assert_eq!(p.bridge.asks.len(), 0);
}

#[test]
fn a_server_that_does_not_read_makes_busy_not_memory() {
    let mut p = Play::new(Processes::Shared);
    let session = p.session();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().expect("header"));
    headers.insert("mcp-session-id", session.parse().expect("header"));
    let mut refused = 0;
    for id in 0..40 {
        let body = json!({"jsonrpc": "2.0", "id": id, "method": "x", "params": {"p": "x".repeat(50_000)}}).to_string();
        p.bridge.post(p.now, 1000 + id, &headers, body.as_bytes());
        refused += p
            .bridge
            .take_effects()
            .iter()
            .filter(|e| matches!(e, Effect::Answer(_, a) if a.status == 503))
            .count();
    }
    assert!(refused >= 15, "{refused}");
}

#[test]
fn replay_is_bounded() {
    let mut p = Play::new(Processes::Shared);
    let session = p.session();
    p.get(&session);
    let proc = p.standing();
    for i in 0..2000 {
        p.say(
            proc,
            &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x".repeat(i)}}),
        );
        p.settle();
    }
    let s = p.bridge.sessions.values().next().expect("a session");
    assert!(s.replay.len() <= REPLAY.0 && s.replay_bytes <= REPLAY.1);
    assert_eq!(p.bridge.replay_total, s.replay_bytes);
}

#[derive(Debug, Clone)]
enum Step {
    Open,
    Call(usize, u64, &'static str),
    Get(usize),
    Delete(usize),
    Drop(u64),
    Die,
    Late(u64),
    Modern(u64, &'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let method = || {
        prop_oneof![
            Just("quick"),
            Just("long"),
            Just("ask"),
            Just("resources/subscribe"),
            Just("resources/unsubscribe"),
            Just("tools/call"),
        ]
    };
    prop_oneof![
        Just(Step::Open),
        (0..5usize, 0..4u64, method()).prop_map(|(s, id, m)| Step::Call(s, id, m)),
        (0..5usize).prop_map(Step::Get),
        (0..5usize).prop_map(Step::Delete),
        (0..40u64).prop_map(Step::Drop),
        Just(Step::Die),
        (0..40u64).prop_map(Step::Late),
        (0..4u64, method()).prop_map(|(id, m)| Step::Modern(id, m)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    /// Whatever happens in whatever order: no exchange is answered twice, every exchange ends, and once everybody is
    /// gone nothing is left but the standing process.
    #[test]
    fn nothing_is_left_behind(
        per_session in any::<bool>(), modern in any::<bool>(), steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut p = Play::with(if per_session { Processes::Session } else { Processes::Shared }, modern);
        let mut sessions: Vec<String> = Vec::new();
        for step in steps {
            match step {
                Step::Open => {
                    if p.bridge.sessions() < 4 && p.bridge.standing_ready().is_some() {
                        sessions.push(p.session());
                    }
                }
                Step::Call(s, id, method) => {
                    let key = sessions.get(s).cloned().unwrap_or_else(|| "none".to_owned());
                    let mut m = request(id, method);
                    let uri = ["file:///x", "refused"][usize::from(id % 2 == 1)];
                    let name = ["ask", "long"][usize::from(id > 1)];
                    m["params"] = json!({"uri": uri, "name": name});
                    p.post(&key, &m);
                }
                Step::Get(s) => {
                    let key = sessions.get(s).cloned().unwrap_or_else(|| "none".to_owned());
                    p.get(&key);
                }
                Step::Delete(s) => {
                    let mut headers = HeaderMap::new();
                    let key = sessions.get(s).cloned().unwrap_or_else(|| "none".to_owned());
                    headers.insert("mcp-session-id", key.parse().expect("header"));
                    p.wire += 1;
                    p.bridge.delete(p.now, p.wire, &headers);
                    p.settle();
                }
                Step::Drop(wire) => {
                    let over = p.effects.iter().any(|e| match e {
                        Effect::Answer(w, _) | Effect::Close(w) => *w == wire,
                        _ => false,
                    });
                    if !over && wire >= 1 && wire <= p.wire {
                        p.bridge.closed(p.now, wire);
                        p.effects.push(Effect::Close(wire));
                        p.settle();
                    }
                }
                Step::Die => {
                    let any = p.bridge.procs.keys().copied().min();
                    if let Some(proc) = any {
                        p.bridge.gone(p.now, proc, "it died");
                        p.settle();
                    }
                }
                Step::Late(seconds) => p.after(seconds),
                Step::Modern(id, method) => {
                    p.wire += 1;
                    let mut headers = HeaderMap::new();
                    headers.insert("content-type", "application/json".parse().expect("header"));
                    headers.insert("mcp-protocol-version", "2026-07-28".parse().expect("header"));
                    headers.insert("mcp-method", method.parse().expect("header"));
                    let mut m = request(id, method);
                    m["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                        "io.modelcontextprotocol/clientCapabilities": {}});
                    p.bridge.post(p.now, p.wire, &headers, m.to_string().as_bytes());
                    p.settle();
                }
            }
        }
        for wire in 1..=p.wire {
            let over = p.effects.iter().filter(|e| match e {
                Effect::Answer(w, _) | Effect::Close(w) => *w == wire,
                _ => false,
            }).count();
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
