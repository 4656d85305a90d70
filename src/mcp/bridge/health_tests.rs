//! Whether a server counts as alive: with the clock of the test and a server that the test plays.

use serde_json::{Value, json};

use super::tests::Play;
use super::*;

const LIMIT: Duration = Duration::from_secs(4);

/// What a probe with this ticket came to, the first time that something was told.
fn told(p: &Play, ticket: u64) -> Option<bool> {
    p.effects.iter().find_map(|e| match e {
        Effect::Health(t, why) if *t == ticket => Some(why.is_none()),
        _ => None,
    })
}

fn probe(p: &mut Play, ticket: u64) {
    p.heard.clear();
    p.bridge.health(p.now, ticket, LIMIT);
    p.settle();
}

fn heard(p: &Play) -> Vec<&str> {
    p.heard.iter().filter_map(|m| m["method"].as_str()).collect()
}

fn answer(p: &mut Play, method: &str, what: &str) {
    let asked = p.heard.iter().find(|m| m["method"] == method).expect(method).clone();
    let mut m = json!({"jsonrpc": "2.0", "id": asked["id"]});
    m[what] = match what {
        "error" => json!({"code": -32601, "message": "Method not found"}),
        _ => json!({"tools": []}),
    };
    let proc = p.standing();
    p.say(proc, &m);
    p.settle();
}

#[test]
fn a_server_that_answers_ping_is_asked_nothing_else() {
    let mut p = Play::new(Processes::Shared);
    for ticket in 1..4 {
        probe(&mut p, ticket);
        p.after(1);
        answer(&mut p, "ping", "result");
        p.after(3);
        assert_eq!((told(&p, ticket), heard(&p)), (Some(true), vec!["ping"]));
    }
    assert_eq!(p.bridge.held()[1], 0);
}

#[test]
fn a_server_that_ignores_ping_lives_while_it_answers_anything() {
    for what in ["result", "error"] {
        let mut p = Play::new(Processes::Shared);
        probe(&mut p, 1);
        p.after(1);
        assert_eq!(heard(&p), ["ping"]);
        p.after(1);
        assert_eq!(heard(&p), ["ping", "tools/list"]);
        assert_eq!(told(&p, 1), None);
        answer(&mut p, "tools/list", what);
        assert_eq!(told(&p, 1), Some(true));
        // From now on nothing is lost by waiting for a ping; another process is asked anew.
        probe(&mut p, 2);
        assert_eq!(heard(&p), ["tools/list"]);
        answer(&mut p, "tools/list", what);
        assert_eq!(told(&p, 2), Some(true));
        p.after(30);
        assert!(!heard(&p).contains(&"notifications/cancelled"));
        assert_eq!(p.bridge.held()[1], 0);
        let said = |e: &&Effect| matches!(e, Effect::Log(text) if text.contains("does not answer ping"));
        assert_eq!(p.effects.iter().filter(said).count(), 1);
        let proc = p.standing();
        p.bridge.gone(p.now, proc, "it died");
        p.after(2);
        probe(&mut p, 3);
        assert_eq!(heard(&p), ["ping"]);
    }
}

/// What comes too late for its probe counts for those that follow.
#[test]
fn a_late_answer_is_learnt_from() {
    let mut p = Play::new(Processes::Shared);
    probe(&mut p, 1);
    p.after(10);
    answer(&mut p, "tools/list", "result");
    probe(&mut p, 2);
    assert_eq!(heard(&p), ["tools/list"]);
}

#[test]
fn a_server_that_answers_nothing_is_dead_and_nothing_is_left_of_its_probes() {
    let mut p = Play::new(Processes::Shared);
    probe(&mut p, 1);
    p.after(19);
    assert_eq!(heard(&p), ["ping", "tools/list"]);
    assert_eq!(told(&p, 1), None, "who asked has given up long ago");
    p.after(10);
    assert_eq!((told(&p, 1), p.bridge.held()[1]), (Some(false), 0));
}

#[test]
fn the_list_is_one_that_the_server_has() {
    let mut p = Play::new(Processes::Shared);
    let proc = p.standing();
    for (capabilities, list) in [
        (json!({"tools": {}, "prompts": {}}), "tools/list"),
        (json!({"prompts": {}, "resources": {}}), "prompts/list"),
        (json!({"resources": {}}), "resources/list"),
        (Value::Null, "tools/list"),
    ] {
        let hello = json!({"capabilities": capabilities}).to_string();
        p.bridge.procs.get_mut(&proc).expect("a process").hello = Some(hello.into());
        probe(&mut p, 1);
        p.after(2);
        assert_eq!(heard(&p), ["ping", list]);
        answer(&mut p, "ping", "result");
    }
}
