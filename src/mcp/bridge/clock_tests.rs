//! How long calls may take: with the clock of the test and a server that the test plays.

use serde_json::{Value, json};

use super::tests::{Play, request};
use super::*;

fn long(token: bool) -> Value {
    let mut m = request(1, "long");
    if token {
        m["params"] = json!({"_meta": {"progressToken": "t"}});
    }
    m
}

fn progress(p: &mut Play, proc: ProcId, token: &Value) {
    p.say(
        proc,
        &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}),
    );
    p.settle();
}

/// The ids that the server was told to give up.
fn cancelled(p: &Play) -> Vec<Value> {
    let cancels = p.heard.iter().filter(|m| m["method"] == "notifications/cancelled");
    cancels.map(|m| m["params"]["requestId"].clone()).collect()
}

#[test]
fn progress_gives_a_call_its_time_anew_and_silence_ends_it() {
    let mut p = Play::new(Processes::Session);
    let session = p.session();
    let wire = p.post(&session, &long(true));
    let (proc, asked) = p.asked.clone().expect("the server was asked");
    for _ in 0..3 {
        p.after(90);
        progress(&mut p, proc, &asked["params"]["_meta"]["progressToken"]);
    }
    p.after(99);
    assert!(!p.sent(wire).contains("-31002"), "{}", p.sent(wire));
    assert!(cancelled(&p).is_empty());
    p.after(1);
    assert!(p.sent(wire).contains("-31002") && p.sent(wire).contains("no sign of progress"));
    assert_eq!(cancelled(&p), [asked["id"].clone()]);
}

#[test]
fn progress_of_another_call_is_no_help() {
    let mut p = Play::new(Processes::Session);
    let session = p.session();
    let wire = p.post(&session, &long(true));
    let (proc, asked) = p.asked.clone().expect("the server was asked");
    p.after(90);
    let own = asked["id"].as_u64().expect("a number");
    for token in [json!("t"), json!(own + 1), Value::Null] {
        progress(&mut p, proc, &token);
    }
    p.after(10);
    assert!(p.sent(wire).contains("-31002"), "{}", p.sent(wire));
}

/// However much progress a server reports, and however often it asks, a call has an end.
#[test]
fn no_call_lasts_for_ever() {
    let mut p = Play::new(Processes::Session);
    let session = p.session();
    p.get(&session);
    let wire = p.post(&session, &long(true));
    let (proc, asked) = p.asked.clone().expect("the server was asked");
    for n in 0..15 {
        p.after(50);
        progress(&mut p, proc, &asked["params"]["_meta"]["progressToken"]);
        p.say(
            proc,
            &json!({"jsonrpc": "2.0", "id": n, "method": "elicitation/create", "params": {}}),
        );
        p.settle();
    }
    p.after(49);
    assert!(!p.sent(wire).contains("-31002"), "799 s of 800");
    p.after(1);
    assert!(p.sent(wire).contains("took 800 s"), "{}", p.sent(wire));
    assert_eq!(cancelled(&p), [asked["id"].clone()]);
}

#[test]
fn a_person_who_is_asked_gives_the_call_its_time_anew() {
    for (method, counts) in [
        ("elicitation/create", true),
        ("sampling/createMessage", true),
        ("roots/list", true),
        ("ping", false),
    ] {
        for answers in [true, false] {
            let mut p = Play::new(Processes::Session);
            let session = p.session();
            let wire = p.post(&session, &long(false));
            let (proc, _) = p.asked.clone().expect("the server was asked");
            p.after(90);
            p.say(
                proc,
                &json!({"jsonrpc": "2.0", "id": "q", "method": method, "params": {}}),
            );
            p.settle();
            let ask = *p.bridge.asks.keys().next().expect("an ask");
            p.after(9);
            if answers {
                p.after(if counts { 81 } else { 0 });
                p.post(&session, &json!({"jsonrpc": "2.0", "id": ask, "result": {}}));
            } else {
                p.after(if counts { 91 } else { 0 });
                assert_eq!(p.bridge.asks.is_empty(), counts, "its time is over");
            }
            // The server goes on with the answer, or without.
            p.after(if counts { 99 } else { 1 });
            assert_eq!(p.sent(wire).contains("-31002"), !counts, "{method} {answers}");
            p.after(1);
            assert!(p.sent(wire).contains("-31002"), "{method} {answers}");
        }
    }
}

/// What its client has given up is not put off by progress.
#[test]
fn a_cancelled_call_ends_soon_whatever_its_server_says() {
    let mut p = Play::new(Processes::Session);
    let session = p.session();
    p.post(&session, &long(true));
    let (proc, asked) = p.asked.clone().expect("the server was asked");
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    p.post(&session, &cancel);
    for _ in 0..5 {
        p.after(1);
        progress(&mut p, proc, &asked["params"]["_meta"]["progressToken"]);
    }
    assert!(p.bridge.calls.is_empty());
}

/// A legacy client of a modern server: each round of questions gives the call its time, within its bound.
#[test]
fn rounds_of_questions_have_an_end_too() {
    let mut p = Play::with(Processes::Shared, true);
    let session = p.session();
    let stream = p.get(&session);
    let mut m = request(1, "tools/call");
    m["params"] = json!({"name": "ask"});
    let wire = p.post(&session, &m);
    p.after(99);
    for id in p.bridge.asks.keys().copied().collect::<Vec<_>>() {
        p.post(&session, &json!({"jsonrpc": "2.0", "id": id, "result": {"roots": []}}));
    }
    p.after(1);
    assert!(
        p.sent(wire).contains("got") || p.sent(stream).contains("got"),
        "answered"
    );
    let mut m = request(2, "tools/call");
    m["params"] = json!({"name": "ask"});
    let wire = p.post(&session, &m);
    let bound = p.bridge.calls.values().find_map(|c| c.bound).expect("a bound");
    assert_eq!(bound, p.now + p.bridge.longest());
    p.after(100);
    assert!(p.sent(wire).contains("-31002"), "nobody answered: {}", p.sent(wire));
}
