//! Services that speak HTTP themselves and redirect their endpoint, behind the agent.

use crate::rig;

use http::Method;
use rig::{Rig, order};
use serde_json::{Value, json};

/// An order for a service whose `/mcp` redirects; `PORT` in the location stands for its port.
fn redirecting(status: u16, location: &str, health: &str) -> Value {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port")
        .port();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/redirects.py");
    let location = location.replace("PORT", &port.to_string());
    let command = ["python3", program, &port.to_string(), &status.to_string(), &location];
    let mut order = order("legacy", "shared");
    order["services"] = json!([{"name": "web", "command": command, "env": {}, "restart": "always",
        "ready": {"kind": "port", "port": port, "timeout_ms": 15000}}]);
    order["mcp"]["transport"] = json!({"kind": "http", "port": port, "path": "/mcp"});
    order["mcp"]["start_timeout_ms"] = json!(3000);
    order["health"]["kind"] = match health {
        "mcp" => json!({"kind": "mcp"}),
        path => json!({"kind": "http", "port": port, "path": path}),
    };
    order
}

#[tokio::test]
async fn a_redirect_within_the_service_is_followed_in_the_container() {
    for (status, location, health) in [
        (307, "http://127.0.0.1:PORT/mcp/", "mcp"),
        (308, "/mcp/", "mcp"),
        (307, "http://localhost:PORT/mcp/", "/health"),
    ] {
        let rig = Rig::ready(&redirecting(status, location, health)).await;
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let seen = rig.post(&[("berth-path", "/mcp/x")], &body).await;
        assert_eq!(seen.status, 200, "{location}: {}", seen.text);
        let seen = seen.json();
        assert_eq!((&seen["method"], &seen["path"]), (&json!("POST"), &json!("/mcp/")));
        assert_eq!(seen["body"].as_str().expect("text"), body.to_string());
        assert_eq!(seen["berth"], json!([]), "what the edge says is the agent's alone");
        let seen = rig.send(Method::GET, "/mcp?x=1", &[], "").await.json();
        assert_eq!((&seen["method"], &seen["path"]), (&json!("GET"), &json!("/mcp/?x=1")));
        assert_eq!(rig.send(Method::GET, "/.berth/health", &[], "").await.status, 204);
        // The old transport is for servers that Berth speaks to by stdio.
        assert_eq!(
            rig.send(Method::GET, "/sse", &[("accept", "text/event-stream")], "")
                .await
                .status,
            404
        );
    }
}

#[tokio::test]
async fn any_other_redirect_fails_with_the_path_to_name() {
    for (status, location, said) in [
        (
            302,
            "http://127.0.0.1:PORT/mcp/",
            "redirects (302) to /mcp/: name that path, as in --http PORT/mcp/",
        ),
        (307, "http://127.0.0.1:1/mcp/", "which is not the service itself"),
        (307, "https://example.org/s3cret-s3cret", "https://example.org/***"),
        (307, "/mcp", "redirects more than 5 times"),
    ] {
        let order = redirecting(status, location, "mcp");
        let port = order["mcp"]["transport"]["port"].to_string();
        let rig = Rig::ordered(&order).await;
        let state = rig.state(|s| s["state"] == "failed").await;
        let reason = state["reason"].as_str().expect("a reason");
        assert!(reason.contains(&said.replace("PORT", &port)), "{location}: {reason}");
        assert!(!reason.contains("s3cret"), "{reason}");
    }
}
