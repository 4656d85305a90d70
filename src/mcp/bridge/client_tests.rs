//! What real clients do that the newest text does not say.

use http::HeaderMap;
use serde_json::{Value, json};

use super::tests::{Play, request};
use super::*;
use crate::mcp::codes;

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.insert(*name, value.parse().expect("header"));
    }
    headers
}

/// POSTs a message with these headers, besides its type.
fn post(p: &mut Play, all: &[(&'static str, &str)], body: &Value) -> WireId {
    p.wire += 1;
    let mut headers = headers(all);
    headers.insert("content-type", "application/json".parse().expect("header"));
    p.bridge.post(p.now, p.wire, &headers, body.to_string().as_bytes());
    p.settle();
    p.wire
}

fn initialize(version: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": version, "capabilities": {}}})
}

#[test]
fn a_session_speaks_the_version_that_it_agreed_on() {
    // One that was there before the first that is known here, one of the future, and one that has no sessions elsewhere.
    for version in ["2024-10-07", "DRAFT-2027-v1", "2026-07-28"] {
        let mut p = Play::new(Processes::Session);
        p.mute = true;
        let wire = post(&mut p, &[], &initialize("2025-11-25"));
        let (proc, asked) = p.asked.take().expect("initialize reached the server");
        p.say(
            proc,
            &json!({"jsonrpc": "2.0", "id": asked["id"], "result":
            {"protocolVersion": version, "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}}),
        );
        p.settle();
        p.mute = false;
        let session = p.answer(wire).and_then(|a| a.session).expect("a session");
        let with = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", version)];
        let wire = post(&mut p, &with, &request(1, "quick"));
        assert_eq!(p.answer(wire).expect("an answer").status, 200, "{version}");
        p.wire += 1;
        p.bridge.get(p.now, p.wire, &headers(&with));
        p.settle();
        let (wire, own) = (p.wire, Some(session.clone()));
        assert!(p.effects.contains(&Effect::Open(wire, own)), "{version}: its stream");
        // Any other that is not known is refused as before, and so is this one outside its session.
        for wrong in [
            [
                ("mcp-session-id", session.as_str()),
                ("mcp-protocol-version", "1999-01-01"),
            ],
            [("mcp-session-id", "another"), ("mcp-protocol-version", version)],
        ] {
            let wire = post(&mut p, &wrong, &request(2, "quick"));
            assert_eq!(p.answer(wire).expect("an answer").status, 400, "{wrong:?}");
        }
        p.wire += 1;
        p.bridge.delete(p.now, p.wire, &headers(&with));
        let wire = p.wire;
        p.settle();
        assert_eq!(p.answer(wire).expect("an answer").status, 204, "{version}");
    }
}

#[test]
fn an_encoded_body_is_refused_in_words() {
    let mut p = Play::new(Processes::Shared);
    let session = p.session();
    let named = ("mcp-session-id", session.as_str());
    let wire = post(&mut p, &[named, ("content-encoding", "gzip")], &request(1, "quick"));
    let answer = p.answer(wire).expect("an answer");
    assert_eq!((answer.status, answer.accept_encoding), (415, Some("identity")));
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(said.contains("without Content-Encoding"), "{said}");
    let wire = post(&mut p, &[named, ("content-encoding", "identity")], &request(2, "quick"));
    assert_eq!(p.answer(wire).expect("an answer").status, 200);
}

#[test]
fn a_call_that_was_cancelled_ends_without_blame() {
    for accept in ["application/json", "application/json, text/event-stream"] {
        let mut p = Play::new(Processes::Session);
        let session = p.session();
        let with = [("mcp-session-id", session.as_str()), ("accept", accept)];
        let wire = post(&mut p, &with, &request(1, "long"));
        p.after(1);
        let streams = p.effects.contains(&Effect::Open(wire, Some(session.clone())));
        assert_eq!(streams, accept.contains("event-stream"));
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
        let note = post(&mut p, &with, &cancel);
        assert_eq!(p.answer(note).expect("an answer").status, 202);
        p.after(6);
        if streams {
            // It ends, and says nothing that its client would not know what to do with.
            assert!(p.effects.contains(&Effect::Close(wire)));
            assert!(!p.sent(wire).contains("error"), "{}", p.sent(wire));
        } else {
            let said = p.answer(wire).expect("an exchange needs an answer").body;
            let said: Value = serde_json::from_slice(&said).expect("JSON");
            assert_eq!(
                (&said["id"], &said["error"]["code"]),
                (&json!(1), &json!(codes::CANCELLED))
            );
            assert_eq!(said["error"]["message"], "the client cancelled the call");
        }
        let told = p.heard.iter().filter(|m| m["method"] == "notifications/cancelled");
        assert_eq!(told.count(), 1, "the server is told once");
        let wire = post(&mut p, &with, &request(1, "quick"));
        assert_eq!(p.answer(wire).expect("an answer").status, 200, "its id is free");
    }
}

#[test]
fn a_ping_without_a_stream_is_answered_for_the_client() {
    let mut p = Play::new(Processes::Session);
    let session = p.session();
    let with = [("mcp-session-id", session.as_str()), ("accept", "application/json")];
    post(&mut p, &with, &request(1, "long"));
    let (proc, _) = p.asked.take().expect("the server was asked");
    p.say(proc, &request(7, "ping"));
    p.settle();
    let heard = p.heard.last().expect("an answer at once").clone();
    assert!(heard["id"] == 7 && heard["result"] == json!({}), "{heard}");
    // What has a stream is asked itself.
    let stream = p.get(&session);
    p.say(proc, &request(8, "ping"));
    p.settle();
    assert!(p.sent(stream).contains("\"ping\""), "{}", p.sent(stream));
    assert_eq!(p.heard.last(), Some(&heard), "not answered here");
}
