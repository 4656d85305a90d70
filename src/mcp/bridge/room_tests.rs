//! Who gets in when all is taken, and who gives way: with the clock of the test and a server that the test plays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderMap;
use serde_json::{Value, json};

use super::tests::{Play, request};
use super::*;

const MIB: u64 = 1 << 20;

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}}})
}

/// Opens a session as a client does, and says what came of it.
fn open(p: &mut Play, principal: &str) -> HttpAnswer {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().expect("header"));
    headers.insert(crate::mcp::head::PRINCIPAL, principal.parse().expect("header"));
    p.wire += 1;
    let wire = p.wire;
    p.bridge
        .post(p.now, wire, &headers, initialize().to_string().as_bytes());
    p.settle();
    let answer = p.answer(wire).expect("an answer");
    if let Some(session) = &answer.session {
        headers.insert("mcp-session-id", session.parse().expect("header"));
        p.wire += 1;
        let wire = p.wire;
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        p.bridge.post(p.now, wire, &headers, note.to_string().as_bytes());
        p.settle();
    }
    answer
}

fn opened(p: &mut Play, principal: &str) -> String {
    let answer = open(p, principal);
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    answer.session.unwrap_or_else(|| panic!("{} {said}", answer.status))
}

fn lives(p: &Play, session: &str) -> bool {
    p.bridge.keys.contains_key(session)
}

#[test]
fn the_session_that_is_idle_for_longest_gives_way() {
    for processes in [Processes::Shared, Processes::Session] {
        let mut p = Play::new(processes);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(opened(&mut p, ""));
            p.after(1);
        }
        // The first was used since.
        p.post(&all[0], &request(1, "quick"));
        p.after(1);
        let fifth = opened(&mut p, "");
        let left: Vec<bool> = all.iter().chain([&fifth]).map(|s| lives(&p, s)).collect();
        assert_eq!(left, [true, false, true, true, true], "{processes:?}");
        let wire = p.post(&all[1], &request(1, "quick"));
        assert_eq!(p.answer(wire).map(|a| a.status), Some(404));
        let said = |e: &Effect| matches!(e, Effect::Log(text) if text.contains("idle for 4 s to admit another"));
        assert_eq!(p.effects.iter().filter(|e| said(e)).count(), 1, "{processes:?}");
        // One that only opens is its own victim, and never locked out.
        for _ in 0..20 {
            opened(&mut p, "");
            p.after(1);
        }
        assert_eq!(p.bridge.sessions(), 4);
    }
}

#[test]
fn what_is_in_use_never_gives_way() {
    let mut p = Play::new(Processes::Session);
    let (calls, listens, is_asked) = (opened(&mut p, ""), opened(&mut p, ""), opened(&mut p, ""));
    p.post(&calls, &request(1, "long"));
    let wire = p.post(&is_asked, &request(1, "quick"));
    assert!(p.answer(wire).is_some());
    let proc = p.asked.as_ref().map(|(proc, _)| *proc).expect("its process");
    let stream = p.get(&listens);
    let of_other = p.get(&is_asked);
    p.say(
        proc,
        &json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {}}),
    );
    p.settle();
    p.bridge.closed(p.now, of_other);
    assert_eq!(p.bridge.asks.len(), 1);
    // The fourth has just been told its id.
    let fresh = p.session();
    let refused = open(&mut p, "");
    assert_eq!((refused.status, refused.retry_after), (503, Some(1)));
    assert!(
        String::from_utf8_lossy(&refused.body).contains("all 4 sessions"),
        "{refused:?}"
    );
    p.after(10);
    let fifth = opened(&mut p, "");
    assert!(!lives(&p, &fresh), "nobody came back with its id");
    let all = [&calls, &listens, &is_asked, &fifth];
    assert!(all.iter().all(|s| lives(&p, s)));
    // Whatever was in use gives way once it is not.
    p.post(&fifth, &request(1, "long"));
    assert_eq!(open(&mut p, "").status, 503);
    p.bridge.closed(p.now, stream);
    opened(&mut p, "");
    assert!(!lives(&p, &listens));
}

/// Who fills the table gives way first: others keep theirs, however long they were idle.
#[test]
fn whoever_has_most_gives_way_first() {
    let mut p = Play::new(Processes::Shared);
    let patient = opened(&mut p, "a");
    p.after(20);
    for _ in 0..10 {
        opened(&mut p, "b");
    }
    assert!(lives(&p, &patient));
    assert_eq!(p.bridge.sessions(), 4);
}

/// A play whose memory the test sets: 512 MiB, of which so many are used; a process takes 60.
fn measured(used: &Arc<AtomicU64>) -> Play {
    let mut p = Play::new(Processes::Session);
    let used = Arc::clone(used);
    let bridge = std::mem::replace(
        &mut p.bridge,
        Bridge::new(
            Config {
                processes: Processes::Session,
                max_sessions: 1,
                idle: QUICK,
                vanish: QUICK,
                call: QUICK,
                start: QUICK,
                max_message: 1,
            },
            Box::new(|_| {}),
        ),
    );
    p.bridge = bridge.with_meter(Box::new(move || Memory {
        limit: Some(512 * MIB),
        used: used.load(Relaxed) * MIB,
        one: 60 * MIB,
        ..Memory::default()
    }));
    p
}

#[test]
fn no_process_is_started_without_memory_for_it() {
    let used = Arc::new(AtomicU64::new(420));
    let mut p = measured(&used);
    let first = opened(&mut p, "");
    p.post(&first, &request(1, "long"));
    used.store(480, Relaxed);
    let procs = p.bridge.procs.len();
    let refused = open(&mut p, "");
    assert_eq!((refused.status, refused.retry_after), (503, Some(1)));
    let said = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(
        said.contains("480 MiB of 512 MiB are in use") && said.contains("60 MiB"),
        "{said}"
    );
    assert_eq!(p.bridge.procs.len(), procs, "nothing was started");
    assert!(lives(&p, &first), "it is in use");
    // A modern client that would get a process of its own is told the same.
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "x"),
    ] {
        headers.insert(name, value.parse().expect("header"));
    }
    let mut m = request(1, "tools/call");
    m["params"] = json!({"name": "x", "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"roots": {}}}});
    p.wire += 1;
    let wire = p.wire;
    p.bridge.post(p.now, wire, &headers, m.to_string().as_bytes());
    p.settle();
    let refused = p.answer(wire).expect("an answer");
    assert_eq!(refused.status, 503);
    assert!(
        String::from_utf8_lossy(&refused.body).contains("no memory"),
        "{refused:?}"
    );
}

#[test]
fn idle_sessions_give_their_memory_to_another() {
    let used = Arc::new(AtomicU64::new(200));
    let mut p = measured(&used);
    let (first, second) = (opened(&mut p, ""), opened(&mut p, ""));
    p.after(1);
    let third = opened(&mut p, "");
    // 100 MiB are missing for one: two of those that are there have to go.
    used.store(520, Relaxed);
    opened(&mut p, "");
    let left: Vec<bool> = [&first, &second, &third].map(|s| lives(&p, s)).into();
    assert_eq!(left, [false, false, true]);
    // More than there is to be had: nobody is ended for nothing.
    used.store(900, Relaxed);
    assert_eq!(open(&mut p, "").status, 503);
    assert!(lives(&p, &third));
}
