//! The transport of 2024-11-05 (HTTP with SSE), as the agent serves it before a real stdio server.

use crate::rig;

use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rig::{PATIENCE, Rig, alive, call, initialize, order, until};
use serde_json::{Value, json};

/// A stream of the old transport, read event by event.
struct Stream {
    answer: Response<Incoming>,
    text: String,
    uri: String,
}

impl Stream {
    async fn open(rig: &Rig, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut all = vec![("accept", "text/event-stream")];
        all.extend_from_slice(headers);
        let answer = rig.open(Method::GET, path, &all, "").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert!(!answer.headers().contains_key("mcp-session-id"));
        let mut stream = Stream {
            answer,
            text: String::new(),
            uri: String::new(),
        };
        let (kind, data) = stream.event().await.expect("the first event");
        assert_eq!(kind, "endpoint");
        stream.uri = data;
        stream
    }

    /// The next event's name and data; none at the stream's end.
    async fn event(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
                let found = field("event: ").zip(field("data: "));
                assert!(field("id: ").is_none(), "nothing to resume from: {event}");
                self.text = rest.to_owned();
                match found {
                    Some(found) => return Some(found),
                    None => continue,
                }
            }
            let frame = tokio::time::timeout(PATIENCE, self.answer.body_mut().frame()).await;
            let frame = frame.expect("an event in time")?.expect("a frame");
            self.text
                .push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("utf-8"));
        }
    }

    async fn message(&mut self) -> Value {
        let (kind, data) = self.event().await.expect("a message");
        assert_eq!(kind, "message");
        serde_json::from_str(&data).expect("JSON")
    }

    /// Posts a message as these clients do; the status.
    async fn post(&self, rig: &Rig, headers: &[(&str, &str)], body: &Value) -> u16 {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        // By whatever path outside, the edge asks for these two.
        let at = if self.uri.contains("/sse?") { "/sse" } else { "/mcp" };
        let query = self.uri.split_once('?').expect("a query").1;
        let got = rig
            .send(Method::POST, &format!("{at}?{query}"), &all, &body.to_string())
            .await;
        if got.status == 202 {
            assert!(got.text.is_empty());
        }
        got.status.as_u16()
    }
}

#[tokio::test]
async fn one_stream_is_a_session() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let ours = [("berth-principal", "a"), ("berth-path", "/abcdefghij/sse")];
    let mut s = Stream::open(&rig, "/sse", &ours).await;
    assert!(s.uri.starts_with("/abcdefghij/sse?sessionId="), "{}", s.uri);
    let ours = &ours[..1];
    assert_eq!(
        s.post(&rig, ours, &call(1, "pid", json!({}))).await,
        400,
        "before initialize"
    );
    assert_eq!(s.post(&rig, ours, &initialize("2024-11-05")).await, 202);
    let hello = s.message().await;
    assert_eq!(
        (&hello["id"], &hello["result"]["protocolVersion"]),
        (&json!(0), &json!("2024-11-05"))
    );
    let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(s.post(&rig, ours, &note).await, 202);
    assert_eq!(s.post(&rig, ours, &call(1, "pid", json!({}))).await, 202);
    let said = s.message().await;
    let pid: i32 = said["result"]["content"][0]["text"]
        .as_str()
        .expect("text")
        .parse()
        .expect("pid");
    // Two at once, and a question of the server's between them.
    assert_eq!(s.post(&rig, ours, &call(2, "sample", json!({}))).await, 202);
    let ask = s.message().await;
    assert_eq!(ask["method"], "sampling/createMessage");
    assert_eq!(
        s.post(&rig, ours, &call(3, "echo", json!({"message": "hi"}))).await,
        202
    );
    assert_eq!(s.message().await["id"], 3);
    let reply = json!({"jsonrpc": "2.0", "id": ask["id"], "result": {"model": "test"}});
    assert_eq!(s.post(&rig, ours, &reply).await, 202);
    assert_eq!(s.message().await["id"], 2);
    // Nobody else may post to it, and nothing that is not JSON.
    assert_eq!(
        s.post(&rig, &[("berth-principal", "b")], &call(4, "pid", json!({})))
            .await,
        404
    );
    assert_eq!(s.post(&rig, &[], &call(4, "pid", json!({}))).await, 404);
    assert_eq!(rig.status().await["sessions"], 1);
    assert!(alive(pid));
    // It ends with its stream.
    let uri = s.uri.clone();
    drop(s);
    until("its process is gone", || !alive(pid)).await;
    rig.status_until(|s| s["sessions"] == 0).await;
    let (_, query) = uri.split_once('?').expect("a query");
    let json_type = [("content-type", "application/json"), ours[0]];
    let late = rig
        .send(
            Method::POST,
            &format!("/sse?{query}"),
            &json_type,
            &call(5, "pid", json!({})).to_string(),
        )
        .await;
    assert_eq!(
        (late.status.as_u16(), &late.json()["error"]["code"]),
        (404, &json!(-31001))
    );
}

#[tokio::test]
async fn the_newer_endpoint_serves_old_clients_and_newer_ones_as_before() {
    for (mode, processes) in [("legacy", "shared"), ("modern", "shared"), ("modern", "session")] {
        let rig = Rig::ready(&order(mode, processes)).await;
        let mut s = Stream::open(&rig, "/mcp", &[("berth-path", "/mcp/abcdefghij")]).await;
        assert!(s.uri.starts_with("/mcp/abcdefghij?sessionId="), "{}", s.uri);
        assert_eq!(s.post(&rig, &[], &initialize("2025-03-26")).await, 202);
        assert_eq!(s.message().await["result"]["protocolVersion"], "2025-03-26", "{mode}");
        assert_eq!(s.post(&rig, &[], &call(1, "echo", json!({"message": "hi"}))).await, 202);
        assert_eq!(s.message().await["result"]["content"][0]["text"], "Echo: hi", "{mode}");
        // A newer client's GET without its session, a stream of nobody, is what it was.
        for headers in [
            &[("accept", "text/event-stream"), ("mcp-protocol-version", "2025-06-18")][..],
            &[("accept", "text/event-stream"), ("last-event-id", "1-1")],
            &[("accept", "*/*")],
        ] {
            assert_eq!(
                rig.send(Method::GET, "/mcp", headers, "").await.status,
                400,
                "{headers:?}"
            );
        }
        // Newer clients try the address with POST first, and fall back on a 4xx.
        let head = [("content-type", "application/json")];
        let post = rig
            .send(Method::POST, "/sse", &head, &initialize("2025-11-25").to_string())
            .await;
        assert_eq!(
            (post.status.as_u16(), post.headers["allow"].to_str().expect("text")),
            (405, "GET")
        );
        let session = rig.initialize().await;
        let own = [("accept", "text/event-stream"), ("mcp-session-id", session.as_str())];
        let stream = rig.open(Method::GET, "/mcp", &own, "").await;
        assert_eq!(stream.headers()["mcp-session-id"], session.as_str());
        assert_eq!(
            rig.text(&session, 1, "echo", json!({"message": "new"})).await,
            "Echo: new"
        );
    }
}

#[tokio::test]
async fn a_server_that_dies_ends_the_stream_with_the_cause() {
    let rig = Rig::ready(&order("legacy", "session")).await;
    let mut s = Stream::open(&rig, "/sse", &[]).await;
    assert_eq!(s.post(&rig, &[], &initialize("2024-11-05")).await, 202);
    s.message().await;
    assert_eq!(s.post(&rig, &[], &call(1, "die", json!({"of": "age"}))).await, 202);
    let said = s.message().await;
    assert_eq!((&said["id"], &said["error"]["code"]), (&json!(1), &json!(-31000)));
    assert!(
        said["error"]["message"]
            .as_str()
            .expect("text")
            .contains("dying of age"),
        "{said}"
    );
    assert!(s.event().await.is_none(), "and the stream ends");
}
