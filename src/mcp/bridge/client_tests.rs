//! What real clients do that the newest text does not say.

use http::HeaderMap;
use serde_json::{Value, json};

use super::tests::{Play, request};
use super::*;

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
