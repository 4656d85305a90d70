//! Whose it is: several principals before one server, which asks, logs and notifies late and ignores cancellation.

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{Play, request};
use super::*;

const META: &str = "io.modelcontextprotocol/";

impl Play {
    fn headers(principal: &str, more: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().expect("header"));
        headers.insert("berth-principal", principal.parse().expect("header"));
        for (name, value) in more {
            headers.insert(*name, value.parse().expect("header"));
        }
        headers
    }

    fn post_as(&mut self, headers: &HeaderMap, body: &Value) -> u64 {
        self.wire += 1;
        self.bridge
            .post(self.now, self.wire, headers, body.to_string().as_bytes());
        self.settle();
        self.wire
    }

    /// A modern request.
    fn modern(&mut self, principal: &str, capabilities: Value, method: &str, mut params: Value) -> u64 {
        params["_meta"][format!("{META}protocolVersion")] = json!("2026-07-28");
        params["_meta"][format!("{META}clientCapabilities")] = capabilities;
        let mut more = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        let name = params["name"].as_str().map(str::to_owned);
        if let Some(name) = &name {
            more.push(("mcp-name", name));
        }
        let headers = Self::headers(principal, &more);
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.post_as(&headers, &body)
    }

    fn tool(&mut self, principal: &str, capabilities: Value) -> u64 {
        self.modern(principal, capabilities, "tools/call", json!({"name": "long"}))
    }

    /// A tool call of a client that wants log messages from a level on.
    fn logging_tool(&mut self, principal: &str, level: &str) -> u64 {
        let params = json!({"name": "long", "_meta": {"io.modelcontextprotocol/logLevel": level}});
        self.modern(principal, json!({}), "tools/call", params)
    }

    fn legacy(&mut self, principal: &str, session: &str, body: &Value) -> u64 {
        let headers = Self::headers(principal, &[("mcp-session-id", session)]);
        self.post_as(&headers, body)
    }

    fn open_session(&mut self, principal: &str) -> Option<String> {
        let init = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}}});
        let wire = self.post_as(&Self::headers(principal, &[]), &init);
        self.answer(wire).and_then(|a| a.session)
    }

    fn hang_up(&mut self, wire: u64) {
        self.bridge.closed(self.now, wire);
        self.settle();
    }

    fn body(&mut self, wire: u64) -> Value {
        let answer = self.answer(wire).unwrap_or_else(|| panic!("no answer for {wire}"));
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    fn says(&mut self, proc: ProcId, m: &Value) {
        self.say(proc, m);
        self.settle();
    }

    fn logs(&mut self, proc: ProcId, level: &str, data: &str) {
        let params = json!({"level": level, "data": data});
        self.says(
            proc,
            &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params}),
        );
    }

    fn asks(&mut self, proc: ProcId, id: &str) {
        let params = json!({"message": id, "requestedSchema": {}});
        self.says(
            proc,
            &json!({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": params}),
        );
    }

    /// The process that heard the last call, and the id that it knows it by.
    fn last_call(&self) -> (ProcId, Value) {
        let at = self.heard.iter().rposition(|m| m["method"] == "tools/call");
        let at = at.expect("a call reached the server");
        (self.heard_by[at], self.heard[at]["id"].clone())
    }

    /// What a question of the server was answered.
    fn reply_to(&self, id: &str) -> Option<&Value> {
        self.heard.iter().find(|m| m["id"] == id && m["method"].is_null())
    }

    fn state_of(&mut self, wire: u64) -> String {
        let body = self.body(wire);
        assert_eq!(body["result"]["resultType"], "input_required", "{body}");
        body["result"]["requestState"].as_str().expect("a state").to_owned()
    }

    fn retry(&mut self, principal: &str, capabilities: Value, state: &str, answer: Value) -> u64 {
        let params = json!({"name": "long", "requestState": state, "inputResponses": {"1": answer}});
        self.modern(principal, capabilities, "tools/call", params)
    }

    /// The server says in `initialize` that it can do this.
    fn can(&mut self, capabilities: &Value) {
        let proc = self.standing();
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities});
        self.bridge.procs.get_mut(&proc).expect("a process").hello = Some(hello.to_string().into());
    }
}

fn asking() -> Value {
    json!({"elicitation": {"form": {}}})
}

#[test]
fn the_question_of_an_abandoned_call_goes_to_nobody() {
    // Modern clients of one process.
    let mut p = Play::new(Processes::Shared);
    let b = p.tool("b", asking());
    let (proc, of_b) = p.last_call();
    p.hang_up(b);
    let a = p.tool("a", asking());
    let (_, of_a) = p.last_call();
    p.asks(proc, "b: delete production?");
    assert!(p.answer(a).is_none(), "{:?}", p.answer(a));
    let reply = p.reply_to("b: delete production?").expect("the server gets an error");
    assert!(
        reply["error"]["message"]
            .as_str()
            .is_some_and(|t| t.contains("several clients")),
        "{reply}"
    );
    let said = |e: &Effect| matches!(e, Effect::Log(line) if line.contains("several clients"));
    assert!(p.effects.iter().any(said), "the log gets a line");
    // The server is done with it: what it asks now can be about the other call alone.
    p.says(proc, &json!({"jsonrpc": "2.0", "id": of_b, "result": {}}));
    p.asks(proc, "a: sure?");
    let state = p.state_of(a);
    p.retry("a", asking(), &state, json!({"action": "accept"}));
    assert_eq!(p.reply_to("a: sure?").expect("an answer")["result"]["action"], "accept");
    assert_eq!(p.bridge.calls.len(), 1, "{of_a}");
}

#[test]
fn the_question_of_a_deleted_session_goes_to_nobody() {
    let mut p = Play::new(Processes::Shared);
    let (a, b) = (p.open_session("a").expect("a"), p.open_session("b").expect("b"));
    p.legacy("b", &b, &request(7, "tools/call"));
    let (proc, _) = p.last_call();
    p.wire += 1;
    let headers = Play::headers("b", &[("mcp-session-id", b.as_str())]);
    p.bridge.delete(p.now, p.wire, &headers);
    p.settle();
    let wire = p.legacy("a", &a, &request(8, "tools/call"));
    p.after(1);
    p.asks(proc, "b's");
    p.logs(proc, "info", "b's");
    assert!(!p.sent(wire).contains("b's"), "{}", p.sent(wire));
    assert!(p.reply_to("b's").expect("a reply")["error"].is_object());
    // Nor does it when only it is left in the books.
    p.hang_up(wire);
    let stream = p.get_as("a", &a);
    p.asks(proc, "b's again");
    assert!(!p.sent(stream).contains("b's"), "{}", p.sent(stream));
    // A call that is cancelled, or takes too long, is no different.
    let mut p = Play::new(Processes::Shared);
    let (a, b) = (p.open_session("a").expect("a"), p.open_session("b").expect("b"));
    p.legacy("b", &b, &request(7, "tools/call"));
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}});
    p.legacy("b", &b, &cancel);
    p.after(101);
    let wire = p.legacy("a", &a, &request(8, "tools/call"));
    p.after(1);
    p.asks(proc, "b's");
    assert!(!p.sent(wire).contains("b's"), "{}", p.sent(wire));
}

impl Play {
    fn get_as(&mut self, principal: &str, session: &str) -> u64 {
        self.wire += 1;
        let headers = Self::headers(principal, &[("mcp-session-id", session)]);
        self.bridge.get(self.now, self.wire, &headers);
        self.settle();
        self.wire
    }
}

#[test]
fn the_books_are_bounded_and_full_books_guess_nothing() {
    let mut p = Play::new(Processes::Shared);
    for _ in 0..owner::MAX_ABANDONED + 5 {
        let wire = p.tool("b", asking());
        p.hang_up(wire);
    }
    let proc = p.standing();
    assert!(p.bridge.procs[&proc].abandoned.len() <= owner::MAX_ABANDONED);
    let a = p.tool("a", asking());
    p.asks(proc, "whose?");
    assert!(p.answer(a).is_none() && p.reply_to("whose?").expect("a reply")["error"].is_object());
}

#[test]
fn a_log_message_is_its_owners_even_if_he_does_not_listen() {
    let mut p = Play::new(Processes::Shared);
    let a = p.logging_tool("a", "info");
    let b = p.tool("b", json!({}));
    let (proc, of_b) = p.last_call();
    p.logs(proc, "info", "b's secret 4711");
    assert!(!p.sent(a).contains("4711") && !p.sent(b).contains("4711"));
    // Nor while it is abandoned.
    p.hang_up(b);
    p.logs(proc, "info", "b's secret 4712");
    assert!(!p.sent(a).contains("4712"), "{}", p.sent(a));
    p.says(proc, &json!({"jsonrpc": "2.0", "id": of_b, "result": {}}));
    p.logs(proc, "info", "a's own");
    assert!(p.sent(a).contains("a's own"), "{}", p.sent(a));
    // What a itself has given up, and the server need not answer, keeps nothing from it.
    let other = p.tool("a", json!({}));
    p.hang_up(other);
    p.logs(proc, "info", "still a's own");
    assert!(p.sent(a).contains("still a's own"), "{}", p.sent(a));
}

#[test]
fn a_session_that_went_takes_no_log_messages_from_the_next_of_its_principal() {
    let mut p = Play::new(Processes::Shared);
    let first = p.open_session("a").expect("a session");
    p.legacy("a", &first, &request(7, "tools/call"));
    let (proc, _) = p.last_call();
    p.wire += 1;
    let headers = Play::headers("a", &[("mcp-session-id", first.as_str())]);
    p.bridge.delete(p.now, p.wire, &headers);
    p.settle();
    let second = p.open_session("a").expect("a session");
    let wire = p.legacy("a", &second, &request(8, "tools/call"));
    p.logs(proc, "info", "hello");
    assert!(p.sent(wire).contains("hello"), "{}", p.sent(wire));
}

#[test]
fn log_messages_below_the_level_are_kept_back() {
    let mut p = Play::new(Processes::Session);
    p.can(&json!({"logging": {}}));
    let a = p.logging_tool("a", "warning");
    let (proc, _) = p.last_call();
    p.logs(proc, "debug", "too little");
    p.logs(proc, "error", "enough");
    let sent = p.sent(a);
    assert!(!sent.contains("too little") && sent.contains("enough"), "{sent}");
    // One caller's level does not take from another what he asked for.
    p.logging_tool("a", "error");
    let levels: Vec<&Value> = p.heard.iter().filter(|m| m["method"] == "logging/setLevel").collect();
    assert_eq!(levels.last().expect("a level")["params"]["level"], "warning");
}

#[test]
fn processes_suspended_calls_and_sessions_belong_to_a_principal() {
    let mut p = Play::new(Processes::Session);
    let a = p.tool("a", asking());
    let (of_a, _) = p.last_call();
    p.asks(of_a, "a's question");
    let state = p.state_of(a);
    let second = p.tool("b", asking());
    let (of_b, _) = p.last_call();
    assert_ne!(of_a, of_b, "who has the same capabilities is not the same");
    // Also who declares none, and legacy sessions.
    p.tool("a", json!({}));
    let (plain_a, _) = p.last_call();
    p.tool("b", json!({}));
    assert_ne!(p.last_call().0, plain_a);
    let session = p.open_session("a").expect("a session");
    // A suspended call is resumed by its own principal alone, and by another's try it does not end.
    let stolen = p.retry("b", asking(), &state, json!({"action": "accept"}));
    let unknown = p.retry("b", asking(), "no such state", json!({}));
    assert_eq!(p.body(stolen), p.body(unknown), "as if there were none");
    assert!(p.reply_to("a's question").is_none());
    p.retry("a", asking(), &state, json!({"action": "decline"}));
    assert_eq!(
        p.reply_to("a's question").expect("an answer")["result"]["action"],
        "decline"
    );
    // A session's id is of no use to another.
    let foreign = p.legacy("b", &session, &request(1, "quick"));
    let absent = p.legacy("b", "no such session", &request(1, "quick"));
    assert_eq!(p.answer(foreign), p.answer(absent));
    assert_eq!(p.answer(foreign).expect("an answer").status, 404);
    let stream = p.get_as("b", &session);
    assert_eq!(p.answer(stream).expect("an answer").status, 404);
    p.wire += 1;
    let headers = Play::headers("b", &[("mcp-session-id", session.as_str())]);
    p.bridge.delete(p.now, p.wire, &headers);
    p.settle();
    let wire = p.wire;
    assert_eq!(p.answer(wire).expect("an answer").status, 404);
    let own = p.legacy("a", &session, &request(1, "quick"));
    assert_eq!(p.answer(own).expect("an answer").status, 200);
    let _ = second;
}

#[test]
fn modern_servers_of_a_session_type_are_kept_apart_too() {
    let mut p = Play::with(Processes::Session, true);
    let mut procs = Vec::new();
    for principal in ["a", "b", "a", "b"] {
        let wire = p.modern(principal, json!({}), "tools/call", json!({"name": "x"}));
        assert_eq!(p.answer(wire).expect("an answer").status, 200);
        procs.push(p.last_call().0);
    }
    assert_eq!((procs[0], procs[1]), (procs[2], procs[3]));
    assert_ne!(procs[0], procs[1]);
}

#[test]
fn every_open_question_has_a_process_until_all_are_taken() {
    let mut p = Play::new(Processes::Session);
    let mut states = Vec::new();
    for n in 0..4 {
        let wire = p.tool("a", asking());
        let (proc, _) = p.last_call();
        p.asks(proc, &format!("q{n}"));
        states.push(p.state_of(wire));
    }
    let full = p.tool("a", asking());
    let answer = p.answer(full).expect("an answer");
    assert_eq!((answer.status, answer.retry_after), (503, Some(1)));
    assert!(p.open_session("b").is_none(), "the bound is the same for sessions");
    // What is answered makes room.
    p.retry("a", asking(), &states[2], json!({"action": "accept"}));
    let (proc, _) = p.last_call();
    assert!(p.reply_to("q2").is_some());
    let call = p.bridge.procs.values().flat_map(|p| &p.calls).copied();
    let done = call
        .filter(|c| p.bridge.calls[c].stream.is_some())
        .last()
        .expect("a call");
    let of = p.bridge.calls[&done].proc;
    p.says(of, &json!({"jsonrpc": "2.0", "id": done, "result": {}}));
    let wire = p.tool("a", asking());
    assert_eq!(p.last_call().0, of, "{proc}");
    assert!(p.answer(wire).is_none());
}

#[test]
fn an_abandoned_question_does_not_block_the_feature() {
    let mut p = Play::new(Processes::Session);
    for n in 0..2 {
        let wire = p.tool("a", asking());
        let (proc, _) = p.last_call();
        p.asks(proc, &format!("abandoned {n}"));
        p.state_of(wire);
    }
    for n in 0..2 {
        let wire = p.tool("a", asking());
        let (proc, id) = p.last_call();
        p.asks(proc, &format!("q{n}"));
        let state = p.state_of(wire);
        let again = p.retry("a", asking(), &state, json!({"action": "accept"}));
        p.says(proc, &json!({"jsonrpc": "2.0", "id": id, "result": {"n": n}}));
        assert_eq!(p.body(again)["result"]["n"], n);
    }
    // A process that still works on what was given up takes no call that may be asked about, and ends.
    let wire = p.tool("a", asking());
    let (tainted, _) = p.last_call();
    p.hang_up(wire);
    p.tool("a", asking());
    assert_ne!(p.last_call().0, tainted);
    p.after(7);
    assert!(!p.bridge.procs.contains_key(&tainted));
}

#[test]
fn before_anything_is_asked_calls_share_a_few_processes() {
    let mut p = Play::new(Processes::Session);
    for _ in 0..20 {
        let wire = p.tool("a", asking());
        assert!(p.answer(wire).is_none(), "none is refused");
    }
    assert!(
        p.bridge.procs.len() <= 5,
        "what is not known yet may have all that there may be"
    );
    let mut p = Play::new(Processes::Session);
    p.tool("a", asking());
    let (proc, id) = p.last_call();
    p.says(proc, &json!({"jsonrpc": "2.0", "id": id, "result": {}}));
    for _ in 0..20 {
        let wire = p.tool("a", asking());
        assert!(p.answer(wire).is_none(), "none is refused");
    }
    assert!(p.bridge.procs.len() <= 3, "what answers without asking shares two");
    // Which tool asks is found out by its asking: the others go on sharing, but not with that one.
    let mut p = Play::new(Processes::Session);
    let wire = p.tool("a", asking());
    let (asker, _) = p.last_call();
    p.asks(asker, "?");
    p.state_of(wire);
    for _ in 0..20 {
        let wire = p.modern("a", asking(), "tools/call", json!({"name": "plain"}));
        assert!(p.answer(wire).is_none(), "none is refused");
        assert_ne!(p.last_call().0, asker);
    }
    assert!(p.bridge.procs.len() <= 5);
}

#[test]
fn answers_without_a_state_are_asked_for_anew() {
    let mut p = Play::new(Processes::Session);
    let params = json!({"name": "long", "inputResponses": {"1": {"action": "accept"}}});
    let wire = p.modern("a", asking(), "tools/call", params);
    assert!(p.answer(wire).is_none(), "{:?}", p.answer(wire));
    let (proc, _) = p.last_call();
    assert_eq!(p.heard.last().expect("a call")["params"]["inputResponses"], json!({}));
    p.asks(proc, "anew");
    p.state_of(wire);
}

#[test]
fn a_stream_of_changes_hears_of_every_process_of_its_principal() {
    let mut p = Play::new(Processes::Session);
    p.can(&json!({"tools": {"listChanged": true}, "resources": {"subscribe": true}}));
    let wanted = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": ["file:///a"]}});
    let mine = p.modern("a", json!({}), "subscriptions/listen", wanted.clone());
    let other = p.modern("b", json!({}), "subscriptions/listen", wanted);
    assert!(p.sent(mine).contains("acknowledged") && p.sent(other).contains("acknowledged"));
    p.tool("a", asking());
    let (proc, _) = p.last_call();
    let subscribed = |p: &Play, proc| {
        let mut at = p.heard.iter().zip(&p.heard_by);
        at.any(|(m, by)| m["method"] == "resources/subscribe" && *by == proc)
    };
    assert!(subscribed(&p, proc), "what is watched is watched there, too");
    p.says(
        proc,
        &json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}),
    );
    let changed =
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "file:///a"}});
    p.says(proc, &changed);
    let sent = p.sent(mine);
    assert!(
        sent.contains("tools/list_changed") && sent.contains("resources/updated"),
        "{sent}"
    );
    assert!(!p.sent(other).contains("changed") && !p.sent(other).contains("updated"));
    // Processes that somebody listens to are not idle, and their end ends the stream by its result.
    p.after(70);
    assert!(!p.effects.contains(&Effect::Close(other)));
    let of_b: Vec<ProcId> = p
        .bridge
        .procs
        .iter()
        .filter(|(_, p)| matches!(&p.role, Role::Pool(o, _) if &**o == "b"))
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(of_b.len(), 1);
    p.bridge.gone(p.now, of_b[0], "it died");
    p.settle();
    let sent = p.sent(other);
    assert!(
        sent.contains(r#""resultType":"complete""#) && sent.contains("subscriptionId\":1"),
        "{sent}"
    );
    assert!(p.effects.contains(&Effect::Close(other)) && !p.effects.contains(&Effect::Close(mine)));
    assert_eq!(p.bridge.watched_bytes, "file:///a".len());
}

#[test]
fn tasks_are_not_shown_to_those_who_cannot_use_them() {
    let mut p = Play::new(Processes::Session);
    p.can(&json!({"tools": {}, "tasks": {"list": {}}}));
    let wire = p.modern("a", json!({}), "server/discover", json!({}));
    assert_eq!(p.body(wire)["result"]["capabilities"], json!({"tools": {}}));
    let wire = p.modern("a", json!({}), "tools/list", json!({}));
    let (proc, id) = p.asked.clone().map(|(proc, m)| (proc, m["id"].clone())).expect("asked");
    let tools = json!([{"name": "a", "execution": {"taskSupport": "optional"}}, {"name": "b"},
        {"name": "c", "execution": {"taskSupport": "required"}}]);
    p.says(
        proc,
        &json!({"jsonrpc": "2.0", "id": id, "result": {"tools": tools, "nextCursor": "n"}}),
    );
    let result = p.body(wire)["result"].clone();
    assert_eq!(result["tools"], json!([{"name": "a"}, {"name": "b"}]));
    assert_eq!(result["nextCursor"], "n");
    let wire = p.modern("a", json!({}), "tasks/list", json!({}));
    assert_eq!(p.answer(wire).expect("an answer").status, 404);
}

#[test]
fn nobody_keeps_a_session_that_nobody_knows() {
    // Its client went before it was told the id.
    let mut p = Play::new(Processes::Session);
    p.mute = true;
    let init = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}}});
    let wire = p.post_as(&Play::headers("a", &[]), &init);
    assert_eq!(p.bridge.sessions(), 1);
    p.hang_up(wire);
    assert_eq!((p.bridge.sessions(), p.bridge.procs.len()), (0, 1));
    // Or the answer was lost: it never came back.
    p.mute = false;
    p.open_session("a").expect("a session");
    p.after(31);
    assert_eq!(p.bridge.sessions(), 0);
    // Or it went in the middle of a call, which goes on: that is no reason to keep the session until the call's deadline.
    let session = p.open_session("a").expect("a session");
    let wire = p.legacy("a", &session, &request(1, "tools/call"));
    p.after(1);
    p.hang_up(wire);
    p.after(20);
    assert_eq!(p.bridge.sessions(), 1, "it may come back");
    p.after(15);
    assert_eq!((p.bridge.sessions(), p.bridge.procs.len()), (0, 1));
}

/// A call as the server sees it. It never hears of cancellations.
struct Job {
    proc: ProcId,
    id: Value,
    owner: usize,
    answered: bool,
}

/// Clients of three tokens, each of which knows its own name and no other's, and a server that knows them all.
struct Cast {
    p: Play,
    shared: bool,
    /// The server speaks the modern era, which has no requests to clients.
    modern: bool,
    seen: usize,
    heard: usize,
    jobs: Vec<Job>,
    /// Question → job.
    questions: HashMap<String, usize>,
    wires: HashMap<u64, usize>,
    sessions: Vec<(String, usize)>,
    /// What legacy clients were asked: session, owner, id.
    asked: Vec<(String, usize, Value)>,
    /// What modern clients were asked: owner, state.
    states: Vec<(usize, String)>,
}

const NAMES: [&str; 3] = ["<anna>", "<bert>", "<cleo>"];

impl Cast {
    fn call(owner: usize, id: usize) -> Value {
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": "long", "arguments": {"owner": NAMES[owner]}, "_meta": {"progressToken": NAMES[owner]}}})
    }

    /// Everything that clients and server have got since the last time.
    fn absorb(&mut self) {
        while self.heard < self.p.heard.len() {
            let (m, proc) = (self.p.heard[self.heard].clone(), self.p.heard_by[self.heard]);
            self.heard += 1;
            let said = m["params"]["arguments"]["owner"].as_str();
            if let Some(owner) = said.and_then(|s| NAMES.iter().position(|n| *n == s)) {
                let id = m["id"].clone();
                self.jobs.push(Job {
                    proc,
                    id,
                    owner,
                    answered: false,
                });
            }
            let question = m["id"].as_str().filter(|_| m["method"].is_null());
            if let Some(job) = question.and_then(|q| self.questions.get(q))
                && m["result"].is_object()
            {
                let owner = NAMES[self.jobs[*job].owner];
                assert_eq!(m["result"]["content"]["by"], owner, "into a run of {owner} went {m}");
            }
        }
        while self.seen < self.p.effects.len() {
            let (wire, text) = match &self.p.effects[self.seen] {
                Effect::Answer(wire, answer) => (*wire, String::from_utf8_lossy(&answer.body).into_owned()),
                Effect::Send(wire, bytes) => (*wire, String::from_utf8_lossy(bytes).into_owned()),
                _ => (0, String::new()),
            };
            self.seen += 1;
            let Some(owner) = self.wires.get(&wire).copied() else {
                continue;
            };
            for (other, name) in NAMES.iter().enumerate() {
                assert!(other == owner || !text.contains(name), "{} saw {text}", NAMES[owner]);
            }
            let data = text.lines().map(|l| l.strip_prefix("data: ").unwrap_or(l));
            for m in data.filter_map(|d| serde_json::from_str::<Value>(d).ok()) {
                if m["method"] == "elicitation/create" {
                    let session = self.sessions.iter().find(|(_, o)| *o == owner);
                    let key = session.map(|(key, _)| key.clone()).unwrap_or_default();
                    self.asked.push((key, owner, m["id"].clone()));
                }
                if let Some(state) = m["result"]["requestState"].as_str() {
                    self.states.push((owner, state.to_owned()));
                }
            }
        }
    }

    fn serve(&mut self, at: usize, deed: u8) {
        let Some(n) = at.checked_rem(self.jobs.len()) else {
            return;
        };
        let job = &mut self.jobs[n];
        // Who shares a process with others cannot be told what it says after its answer: nothing says whose it is.
        if !self.p.bridge.procs.contains_key(&job.proc) || job.answered && (self.shared || deed == 4) {
            return;
        }
        if self.modern && deed == 0 {
            return;
        }
        let name = NAMES[job.owner];
        let m = match deed {
            0 => {
                let id = format!("q{}", self.questions.len());
                self.questions.insert(id.clone(), n);
                json!({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": {"message": name}})
            }
            1 => {
                json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": name}})
            }
            2 => json!({"jsonrpc": "2.0", "method": "notifications/x", "params": {"of": name}}),
            3 => json!({"jsonrpc": "2.0", "method": "notifications/progress",
                "params": {"progressToken": job.id, "progress": 1, "message": name}}),
            _ => {
                job.answered = true;
                json!({"jsonrpc": "2.0", "id": job.id, "result": {"content": [{"type": "text", "text": name}]}})
            }
        };
        let proc = job.proc;
        self.p.says(proc, &m);
    }

    fn wire(&mut self, wire: u64, owner: usize) {
        self.wires.insert(wire, owner);
    }

    fn step(&mut self, step: &Deed) {
        match *step {
            Deed::Open(owner) => {
                if let Some(key) = self.p.open_session(NAMES[owner]) {
                    self.sessions.push((key, owner));
                }
            }
            Deed::Legacy(at, id) => {
                if let Some((key, owner)) = at.checked_rem(self.sessions.len()).map(|n| self.sessions[n].clone()) {
                    let wire = self.p.legacy(NAMES[owner], &key, &Self::call(owner, id));
                    self.wire(wire, owner);
                }
            }
            Deed::Get(at, by) => {
                if let Some(n) = at.checked_rem(self.sessions.len()) {
                    let key = self.sessions[n].0.clone();
                    let wire = self.p.get_as(NAMES[by], &key);
                    self.wire(wire, by);
                }
            }
            Deed::Delete(at, by) => {
                if let Some(n) = at.checked_rem(self.sessions.len()) {
                    self.p.wire += 1;
                    let headers = Play::headers(NAMES[by], &[("mcp-session-id", self.sessions[n].0.as_str())]);
                    self.p.bridge.delete(self.p.now, self.p.wire, &headers);
                    self.p.settle();
                }
            }
            Deed::Modern(owner, can, hears) => {
                let capabilities = if can { json!({"elicitation": {}}) } else { json!({}) };
                let mut params = Self::call(owner, 1)["params"].clone();
                if hears {
                    params["_meta"][format!("{META}logLevel")] = json!("debug");
                }
                let wire = self.p.modern(NAMES[owner], capabilities, "tools/call", params);
                self.wire(wire, owner);
            }
            Deed::Serve(at, deed) => self.serve(at, deed),
            Deed::Drop(at) => {
                let open = |w: &u64, effects: &[Effect]| {
                    !effects
                        .iter()
                        .any(|e| matches!(e, Effect::Answer(x, _) | Effect::Close(x) if x == w))
                };
                let mut all: Vec<u64> = self
                    .wires
                    .keys()
                    .copied()
                    .filter(|w| open(w, &self.p.effects))
                    .collect();
                all.sort_unstable();
                if let Some(n) = at.checked_rem(all.len()) {
                    self.p.effects.push(Effect::Close(all[n]));
                    self.p.hang_up(all[n]);
                }
            }
            Deed::Reply(at, by) => {
                if let Some(n) = at.checked_rem(self.asked.len()) {
                    let (key, _, id) = self.asked[n].clone();
                    let result = json!({"action": "accept", "content": {"by": NAMES[by]}});
                    let reply = json!({"jsonrpc": "2.0", "id": id, "result": result});
                    self.p.legacy(NAMES[by], &key, &reply);
                }
            }
            Deed::Resume(at, by) => {
                if let Some(n) = at.checked_rem(self.states.len()) {
                    let answer = json!({"action": "accept", "content": {"by": NAMES[by]}});
                    let state = self.states[n].1.clone();
                    let wire = self.p.retry(NAMES[by], json!({"elicitation": {}}), &state, answer);
                    self.wire(wire, by);
                }
            }
            Deed::Late(seconds) => self.p.after(seconds),
        }
        self.absorb();
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Open(usize),
    Legacy(usize, usize),
    Get(usize, usize),
    Delete(usize, usize),
    Modern(usize, bool, bool),
    Serve(usize, u8),
    Drop(usize),
    Reply(usize, usize),
    Resume(usize, usize),
    Late(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let who = || 0..NAMES.len();
    prop_oneof![
        2 => who().prop_map(Deed::Open),
        4 => (0..8usize, 1..6usize).prop_map(|(s, id)| Deed::Legacy(s, id)),
        2 => (0..8usize, who()).prop_map(|(s, by)| Deed::Get(s, by)),
        1 => (0..8usize, who()).prop_map(|(s, by)| Deed::Delete(s, by)),
        6 => (who(), any::<bool>(), any::<bool>()).prop_map(|(o, can, hears)| Deed::Modern(o, can, hears)),
        12 => (0..64usize, 0..5u8).prop_map(|(job, deed)| Deed::Serve(job, deed)),
        4 => (0..64usize).prop_map(Deed::Drop),
        3 => (0..64usize, who()).prop_map(|(at, by)| Deed::Reply(at, by)),
        3 => (0..64usize, who()).prop_map(|(at, by)| Deed::Resume(at, by)),
        1 => prop_oneof![Just(1u64), Just(6), Just(40), Just(101)].prop_map(Deed::Late),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    /// Whatever clients and server do in whatever order: nobody ever sees another's name, and no run gets an answer that
    /// another principal gave.
    #[test]
    fn nobody_sees_anothers_name(
        shared in any::<bool>(), modern in any::<bool>(), deeds in proptest::collection::vec(deed(), 0..80),
    ) {
        let p = Play::with(if shared { Processes::Shared } else { Processes::Session }, modern);
        let mut cast = Cast {
            p, shared, modern, seen: 0, heard: 0, jobs: Vec::new(), questions: HashMap::new(), wires: HashMap::new(),
            sessions: Vec::new(), asked: Vec::new(), states: Vec::new(),
        };
        for deed in &deeds {
            cast.step(deed);
        }
    }
}

#[test]
fn what_a_forgotten_session_refused_is_asked_once_more_on_a_new_connection() {
    for capabilities in [json!({}), json!({"elicitation": {}})] {
        let mut p = Play::new(Processes::Session);
        let wire = p.tool("a", capabilities.clone());
        let (proc, asked) = p.asked.clone().expect("asked");
        let other = p.tool("a", capabilities.clone());
        let (elsewhere, second) = p.asked.clone().expect("asked");
        let line = |m: &Value| bytes::Bytes::from(m.to_string());
        p.bridge.forgotten(p.now, proc, &[line(&asked)]);
        p.settle();
        let (new, again) = p.asked.clone().expect("asked");
        assert_eq!((&again, again == second), (&asked, false), "{capabilities}");
        assert_ne!(new, proc);
        assert!(p.answer(wire).is_none());
        if elsewhere == proc {
            let lost = p.body(other);
            assert!(
                lost["error"].is_object(),
                "whether it was worked on is not known: {lost}"
            );
        }
        p.says(new, &json!({"jsonrpc": "2.0", "id": again["id"], "result": {}}));
        assert_eq!(p.body(wire)["result"]["resultType"], "complete");

        // A server that forgets every session is not asked for ever.
        let wire = p.tool("a", capabilities);
        for _ in 0..2 {
            let (proc, asked) = p.asked.clone().expect("asked");
            assert_eq!(asked["method"], "tools/call");
            p.bridge.forgotten(p.now, proc, &[line(&asked)]);
            p.settle();
        }
        assert!(p.body(wire)["error"].is_object());
    }
}

#[test]
fn a_server_that_ends_idle_connections_is_not_given_up() {
    let mut p = Play::new(Processes::Session);
    for _ in 0..20 {
        let standing = p.bridge.standing.proc.expect("a connection");
        p.now += Duration::from_secs(30);
        p.bridge.hung_up(p.now, standing, "the server has ended its stream");
        p.settle();
        p.now += Duration::from_secs(1);
        p.bridge.tick(p.now);
        p.settle();
    }
    let wire = p.tool("a", json!({}));
    assert!(p.answer(wire).is_none(), "it is asked");
    assert!(
        !p.effects.iter().any(|e| matches!(e, Effect::Failed(_))),
        "{:?}",
        p.effects
    );
}
