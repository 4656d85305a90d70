//! The modern era (MCP 2026-07-28) through the agent, before servers of either era.

use crate::rig;

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rig::{Got, PATIENCE, Rig, events, modern, order};
use serde_json::{Value, json};

/// Headers, status, error code.
type Case<'a> = (&'a [(&'a str, &'a str)], u16, Option<i64>);

async fn send(rig: &Rig, id: u64, method: &str, params: Value, capabilities: Value) -> Got {
    let (headers, body) = modern(id, method, params, capabilities);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    rig.post(&headers, &body).await
}

async fn tool(rig: &Rig, id: u64, name: &str, arguments: Value) -> Got {
    send(
        rig,
        id,
        "tools/call",
        json!({"name": name, "arguments": arguments}),
        json!({}),
    )
    .await
}

async fn open(rig: &Rig, id: u64, method: &str, params: Value) -> http::Response<Incoming> {
    let (headers, body) = modern(id, method, params, json!({}));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    rig.post_open(&headers, &body).await
}

async fn read_until(body: &mut Incoming, fits: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    while !fits(&text) {
        let frame = tokio::time::timeout(PATIENCE, body.frame())
            .await
            .unwrap_or_else(|_| panic!("only {text:?}"));
        let Some(frame) = frame else {
            panic!("ended after {text:?}")
        };
        text.push_str(std::str::from_utf8(frame.expect("frame").data_ref().expect("data")).expect("utf-8"));
    }
    text
}

fn text(got: &Got) -> String {
    let last = got.messages().pop().unwrap_or_else(|| panic!("{got:?}"));
    last["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_else(|| panic!("{last}"))
        .to_owned()
}

#[tokio::test]
async fn headers_are_held_against_the_body() {
    for mode in ["modern", "legacy"] {
        let rig = Rig::ready(&order(mode, "shared")).await;
        let (_, body) = modern(
            1,
            "tools/call",
            json!({"name": "echo", "arguments": {"message": "x"}}),
            json!({}),
        );
        let v = ("mcp-protocol-version", "2026-07-28");
        let m = ("mcp-method", "tools/call");
        let n = ("mcp-name", "echo");
        let cases: [Case<'_>; 8] = [
            (&[v, m, n], 200, None),
            (&[v, m, ("mcp-name", "=?base64?ZWNobw==?=")], 200, None),
            (&[m, n], 400, Some(-32020)),
            (&[v, n], 400, Some(-32020)),
            (&[v, m], 400, Some(-32020)),
            (&[v, m, ("mcp-name", "other")], 400, Some(-32020)),
            (&[("mcp-protocol-version", "2025-11-25"), m, n], 400, Some(-32020)),
            (&[("mcp-protocol-version", "2099-01-01"), m, n], 400, Some(-32022)),
        ];
        for (headers, status, code) in cases {
            let got = rig.post(headers, &body).await;
            assert_eq!(
                (got.status.as_u16(), got.json()["error"]["code"].as_i64()),
                (status, code),
                "{mode} {headers:?}"
            );
            assert_eq!(got.json()["id"], 1);
        }
        let mut bare = body.clone();
        bare["params"]["_meta"]
            .as_object_mut()
            .expect("meta")
            .remove("io.modelcontextprotocol/clientCapabilities");
        let got = rig.post(&[v, m, n], &bare).await;
        assert_eq!(
            (got.status.as_u16(), got.json()["error"]["code"].as_i64()),
            (400, Some(-32602))
        );
        let got = send(&rig, 2, "no/such", json!({}), json!({})).await;
        assert_eq!(
            (got.status.as_u16(), got.json()["error"]["code"].as_i64()),
            (404, Some(-32601)),
            "{mode}"
        );
        assert_eq!(send(&rig, 2, "initialize", json!({}), json!({})).await.status, 404);
        let unsupported = rig
            .post(&[("mcp-protocol-version", "2099-01-01"), m, n], &body)
            .await
            .json();
        assert_eq!(unsupported["error"]["data"]["supported"][0], "2026-07-28");
        assert_eq!(rig.send(Method::GET, "/mcp", &[v], "").await.status, 405);
        assert_eq!(rig.send(Method::DELETE, "/mcp", &[v], "").await.status, 405);
        // A mirrored parameter, once the tool's schema has been seen.
        assert_eq!(send(&rig, 3, "tools/list", json!({}), json!({})).await.status, 200);
        let (_, region) = modern(
            4,
            "tools/call",
            json!({"name": "echo", "arguments": {"region": "x"}}),
            json!({}),
        );
        assert_eq!(rig.post(&[v, m, n], &region).await.json()["error"]["code"], -32020);
        assert_eq!(
            rig.post(&[v, m, n, ("mcp-param-region", "y")], &region).await.json()["error"]["code"],
            -32020
        );
        assert_eq!(
            rig.post(&[v, m, n, ("mcp-param-region", "x")], &region).await.status,
            200
        );
    }
}

#[tokio::test]
async fn a_modern_server_is_passed_through() {
    let rig = Rig::ready(&order("modern", "shared")).await;
    let found = send(&rig, 1, "server/discover", json!({}), json!({})).await.json();
    assert_eq!(found["result"]["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(text(&tool(&rig, 2, "echo", json!({"message": "hi"})).await), "Echo: hi");
    let params = json!({"name": "progress", "arguments": {}, "_meta": {"progressToken": "p"}});
    let all = send(&rig, 3, "tools/call", params, json!({})).await.messages();
    assert_eq!(
        (all.len(), &all[0]["params"]["progressToken"], &all[3]["id"]),
        (4, &json!("p"), &json!(3))
    );
    // Input that the server itself asks for.
    let asked = tool(&rig, 4, "input", json!({})).await.json();
    assert_eq!(asked["result"]["requestState"], "native");
    let again = json!({"name": "input", "requestState": "native", "inputResponses": {"who": {"roots": []}}});
    assert!(text(&send(&rig, 5, "tools/call", again, json!({})).await).contains("roots"));
    // A closed stream cancels.
    let (headers, body) = modern(6, "tools/call", json!({"name": "never", "arguments": {}}), json!({}));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let _ = tokio::time::timeout(Duration::from_millis(300), rig.post(&headers, &body)).await;
    let end = std::time::Instant::now() + PATIENCE;
    while text(&tool(&rig, 7, "cancelled", json!({})).await) == "[]" {
        assert!(std::time::Instant::now() < end);
    }
    assert_eq!(rig.status().await["processes"], 1);
}

#[tokio::test]
async fn legacy_clients_are_guests_of_a_modern_server() {
    for processes in ["shared", "session"] {
        let rig = Rig::ready(&order("modern", processes)).await;
        let session = rig.initialize().await;
        let said = rig.text(&session, 1, "echo", json!({"message": "hi"})).await;
        assert_eq!(said, "Echo: hi");
        let params = json!({"name": "progress", "arguments": {}, "_meta": {"progressToken": "p"}});
        let request = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params});
        let all = rig.post(&[("mcp-session-id", &session)], &request).await.messages();
        assert_eq!(
            (all.len(), &all[0]["params"]["progressToken"], &all[3]["id"]),
            (4, &json!("p"), &json!(2))
        );
        let dead = rig.call(&session, 3, "die", json!({})).await;
        assert!(dead.text.contains("-31000"), "{}", dead.text);
        if processes == "shared" {
            let end = std::time::Instant::now() + PATIENCE;
            while rig.call(&session, 4, "echo", json!({"message": "x"})).await.status != 200 {
                assert!(
                    std::time::Instant::now() < end,
                    "the session goes on with the next process"
                );
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        } else {
            let gone = rig.call(&session, 4, "echo", json!({"message": "x"})).await;
            assert_eq!(gone.status, 404, "the session went with its process");
        }
    }
}

#[tokio::test]
async fn subscriptions_reach_their_streams() {
    for mode in ["modern", "legacy"] {
        let rig = Rig::ready(&order(mode, "shared")).await;
        let wanted = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": ["file:///a"]}});
        let mut one = open(&rig, 11, "subscriptions/listen", wanted).await;
        let mut two = open(&rig, 11, "subscriptions/listen", json!({"notifications": {}})).await;
        let ack = read_until(one.body_mut(), |t| t.contains("\n\n")).await;
        let ack = events(&ack).remove(0).1;
        assert_eq!(ack["method"], "notifications/subscriptions/acknowledged");
        assert_eq!(
            ack["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 11,
            "{mode}"
        );
        assert_eq!(
            ack["params"]["notifications"]["resourceSubscriptions"],
            json!(["file:///a"])
        );
        read_until(two.body_mut(), |t| t.contains("acknowledged")).await;
        tool(&rig, 12, "touch", json!({"uri": "file:///a"})).await;
        let last = if mode == "legacy" { "updated" } else { "list_changed" };
        let told = read_until(one.body_mut(), |t| t.contains(last)).await;
        for (_, m) in events(&told) {
            assert_eq!(
                m["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 11,
                "{m}"
            );
        }
        drop(one);
        if mode == "legacy" {
            let end = std::time::Instant::now() + PATIENCE;
            while !text(&tool(&rig, 13, "seen", json!({})).await).contains("\"watched\": []") {
                assert!(std::time::Instant::now() < end);
            }
        }
        let quiet = tokio::time::timeout(Duration::from_millis(100), two.body_mut().frame()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}

#[tokio::test]
async fn a_legacy_server_is_translated() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let found = send(&rig, 1, "server/discover", json!({}), json!({})).await.json()["result"].clone();
    assert_eq!(found["resultType"], "complete");
    assert_eq!(found["supportedVersions"][0], "2026-07-28");
    assert_eq!(
        (found["instructions"].as_str(), found["ttlMs"].as_i64()),
        (Some("be kind"), Some(0))
    );
    assert_eq!(found["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "fixture");
    let list = send(&rig, 2, "tools/list", json!({}), json!({})).await.json()["result"].clone();
    assert_eq!(
        (list["resultType"].as_str(), list["cacheScope"].as_str()),
        (Some("complete"), Some("private"))
    );
    let params = json!({"name": "log", "arguments": {}, "_meta": {"io.modelcontextprotocol/logLevel": "info"}});
    let got = send(&rig, 3, "tools/call", params, json!({})).await;
    assert!(got.text.contains("notifications/message"), "{}", got.text);
    assert_eq!(
        got.messages().pop().expect("message")["result"]["resultType"],
        "complete"
    );
    assert!(text(&tool(&rig, 4, "seen", json!({})).await).contains("\"level\": \"info\""));
    let params = json!({"name": "progress", "arguments": {}, "_meta": {"progressToken": 1, "traceparent": "t"}});
    let all = send(&rig, 5, "tools/call", params, json!({})).await.messages();
    assert_eq!((all.len(), &all[0]["params"]["progressToken"]), (4, &json!(1)));
}

#[tokio::test]
async fn what_a_legacy_server_asks_becomes_required_input() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let sample = || json!({"name": "sample", "arguments": {}});
    let can = || json!({"sampling": {}});
    let asked = send(&rig, 1, "tools/call", sample(), can()).await.json()["result"].clone();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    assert_eq!(asked["inputRequests"]["1"]["method"], "sampling/createMessage");
    let state = asked["requestState"].as_str().expect("state").to_owned();
    // Without the answers it is asked again, under a new state.
    let mut retry = sample();
    retry["requestState"] = json!(state);
    let again = send(&rig, 2, "tools/call", retry.clone(), can()).await.json()["result"].clone();
    assert_eq!(again["resultType"], "input_required", "{again}");
    let used = send(&rig, 3, "tools/call", retry.clone(), can()).await;
    assert_eq!(
        (used.status.as_u16(), used.json()["error"]["code"].as_i64()),
        (400, Some(-32602))
    );
    retry["requestState"] = again["requestState"].clone();
    retry["inputResponses"] = json!({"1": {"model": "m", "role": "assistant"}});
    let done = send(&rig, 4, "tools/call", retry, can()).await;
    assert!(text(&done).contains("\"model\": \"m\""), "{}", done.text);
    assert_eq!(done.json()["id"], 4);
    // Who cannot be asked is not.
    let refused = text(&tool(&rig, 5, "sample", json!({})).await);
    assert!(refused.contains("cannot be asked"), "{refused}");
}

#[tokio::test]
async fn a_server_of_both_eras_serves_both() {
    for processes in ["shared", "session"] {
        let rig = Rig::ready(&order("dual", processes)).await;
        let session = rig.initialize().await;
        assert_eq!(
            rig.text(&session, 1, "echo", json!({"message": "old"})).await,
            "Echo: old"
        );
        assert_eq!(
            text(&tool(&rig, 1, "echo", json!({"message": "new"})).await),
            "Echo: new"
        );
        assert_eq!(rig.status().await["processes"], 2);
    }
}
