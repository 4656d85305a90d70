//! Services that speak HTTP themselves, behind the agent: redirects of their endpoint, and what tells that one is there.

use crate::rig;

use http::Method;
use rig::{Got, Rig, initialize, order};
use serde_json::{Value, json};

/// An order for a service with its MCP endpoint at `path`; `PORT` in the command stands for its port.
pub fn serving(command: &[&str], path: &str) -> (Value, u16) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port")
        .port();
    let command: Vec<String> = command
        .iter()
        .map(|word| word.replace("PORT", &port.to_string()))
        .collect();
    let mut order = order("legacy", "shared");
    order["services"] = json!([{"name": "web", "command": command, "env": {}, "restart": "always",
        "ready": {"kind": "port", "port": port, "timeout_ms": 30000}}]);
    order["mcp"]["transport"] = json!({"kind": "http", "port": port, "path": path});
    order["mcp"]["start_timeout_ms"] = json!(30000);
    (order, port)
}

/// An order for a service whose `/mcp` redirects; `PORT` in the location stands for its port.
fn redirecting(status: u16, location: &str, health: &str) -> Value {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/redirects.py");
    let (mut order, port) = serving(&["python3", program, "PORT", &status.to_string(), location], "/mcp");
    order["mcp"]["start_timeout_ms"] = json!(3000);
    order["health"]["kind"] = match health {
        "mcp" => json!({"kind": "mcp"}),
        path => json!({"kind": "http", "port": port, "path": path}),
    };
    order
}

/// An order for a service that answers a greeting in this way (`tests/fixtures/greets.py`).
fn greeting(mode: &str, path: &str) -> (Value, u16) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/greets.py");
    serving(&["python3", program, "PORT", mode], path)
}

async fn health(rig: &Rig) -> Got {
    rig.send(Method::GET, "/.berth/health", &[], "").await
}

async fn healthy(rig: &Rig, times: usize) {
    for _ in 0..times {
        let got = health(rig).await;
        assert_eq!(got.status, 204, "{}", got.text);
    }
}

/// Asks the service itself, past the agent.
async fn direct(port: u16, method: &str, path: &str) -> Value {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    let text = tokio::time::timeout(rig::PATIENCE, asked)
        .await
        .expect("in time")
        .expect("an answer");
    let (_, body) = text.split_once("\r\n\r\n").expect("a head");
    serde_json::from_str(body).unwrap_or(Value::Null)
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

/// What is no MCP endpoint is never ready, and its reason stands there from the first probe on.
#[tokio::test]
async fn what_does_not_answer_as_an_mcp_server_is_never_healthy() {
    for (mode, path, said) in [
        (
            "sessions",
            "/mpc",
            "HTTP 404 from /mpc on port PORT; is the path right? --http PORT/PATH",
        ),
        (
            "page",
            "/",
            "HTTP 200 from / on port PORT is no answer of an MCP server; is the path right? --http PORT/PATH; it says (text/html): \
             \"<!doctype html> <title>Welcome to \\u{1b}[31m nginx</title>xx",
        ),
        (
            "broken",
            "/mcp",
            r#"HTTP 500 from /mcp on port PORT: "{\"detail\": \"key ***\"}""#,
        ),
    ] {
        let (mut order, port) = greeting(mode, path);
        order["mcp"]["start_timeout_ms"] = json!(2000);
        let rig = Rig::ordered(&order).await;
        let said = said.replacen("PORT", &port.to_string(), 1);
        let starting = rig.state(|s| s["reason"].is_string()).await;
        assert_eq!(starting["state"], "starting", "{starting}");
        let reason = starting["reason"].as_str().expect("a reason");
        assert!(reason.starts_with(&said), "{mode}: {reason}");
        assert!(reason.len() < 500, "{reason}");
        let last = rig.state(|s| s["state"] != "starting").await;
        assert_eq!(last["state"], "failed", "{mode}: {last}");
        let reason = last["reason"].as_str().expect("a reason");
        assert!(reason.starts_with(&format!("not healthy in time: {said}")), "{reason}");
    }
}

/// Servers count sessions: probes have one, whatever the server makes of it.
#[tokio::test]
async fn probes_of_a_server_with_sessions_have_one() {
    let (order, port) = greeting("sessions", "/mcp");
    let rig = Rig::ready(&order).await;
    healthy(&rig, 5).await;
    let count = direct(port, "GET", "/count").await;
    assert_eq!((&count["opened"], &count["live"]), (&json!(1), &json!(1)), "{count}");
    let methods = count["methods"].as_array().expect("methods");
    assert_eq!(
        methods[..3],
        ["ping", "initialize", "notifications/initialized"].map(Value::from)
    );
    assert!(methods[3..].iter().all(|m| m == "ping"), "{count}");
    // Each time that it has forgotten the session, as after a restart of its own, there is another one.
    for forgotten in 1..4 {
        direct(port, "POST", "/forget").await;
        healthy(&rig, 3).await;
        let count = direct(port, "GET", "/count").await;
        assert_eq!(
            (&count["opened"], &count["live"]),
            (&json!(1 + forgotten), &json!(1)),
            "{count}"
        );
    }
    for forgotten in 4..40 {
        direct(port, "POST", "/forget").await;
        let got = health(&rig).await;
        assert_eq!(got.status, 204, "{forgotten}: {}", got.text);
    }
    let count = direct(port, "GET", "/count").await;
    assert!(count["opened"].as_u64().expect("a number") <= 17, "{count}");
    assert_eq!(count["most"], 1, "{count}");
}

#[tokio::test]
async fn a_server_that_leaves_a_ping_unanswered_is_asked_for_its_tools() {
    let (order, port) = greeting("silent", "/mcp");
    let rig = Rig::ready(&order).await;
    healthy(&rig, 3).await;
    let count = direct(port, "GET", "/count").await;
    assert_eq!(count["opened"], 1, "{count}");
    assert_eq!(
        count["methods"].as_array().expect("methods").last(),
        Some(&json!("tools/list"))
    );
}

/// A session that takes longer to open than a probe may take is opened once.
#[tokio::test]
async fn a_session_that_opens_slowly_is_not_lost() {
    let (mut order, port) = greeting("slow", "/mcp");
    order["health"]["timeout_ms"] = json!(300);
    let rig = Rig::ready(&order).await;
    healthy(&rig, 2).await;
    let count = direct(port, "GET", "/count").await;
    assert_eq!(count["opened"], 1, "{count}");
}

/// Some servers have one session in their life: that is for a client.
#[tokio::test]
async fn the_only_session_of_a_server_is_left_to_a_client() {
    let (order, port) = greeting("single", "/mcp");
    let rig = Rig::ready(&order).await;
    healthy(&rig, 3).await;
    assert_eq!(direct(port, "GET", "/count").await["opened"], 0);
    let got = rig.post(&[], &initialize("2025-11-25")).await;
    assert_eq!(got.status, 200, "{}", got.text);
    healthy(&rig, 3).await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let got = rig.post(&[("mcp-session-id", &got.session())], &ping).await;
    assert_eq!(got.status, 200, "{}", got.text);
}

/// A server that wants its own authorization, and one of the transport of 2024-11-05, are there.
#[tokio::test]
async fn a_server_that_answers_in_another_way_is_healthy() {
    for mode in ["guarded", "old"] {
        let (order, _) = greeting(mode, "/mcp");
        let rig = Rig::ready(&order).await;
        healthy(&rig, 2).await;
    }
}

/// The servers of official SDKs: of both eras, and the transport of 2024-11-05.
#[tokio::test]
async fn official_sdks_are_healthy_and_see_one_session() {
    let root = env!("CARGO_MANIFEST_DIR");
    let node = format!("{root}/tests/clients/node/bin/node");
    let conformance = format!("{root}/tests/fixtures/conformance/server.mjs");
    let (order, _) = serving(&[&node, &conformance, "http", "PORT"], "/mcp");
    let rig = Rig::ready(&order).await;
    healthy(&rig, 3).await;
    let got = rig.post(&[], &initialize("2025-11-25")).await;
    assert_eq!(got.status, 200, "{}", got.text);

    let python = format!("{root}/tests/clients/py/.venv/bin/python");
    let program = r#"
from mcp.server.mcpserver import MCPServer
from starlette.responses import JSONResponse
server = MCPServer("sdk")
@server.custom_route("/count", methods=["GET"])
async def count(request):
    return JSONResponse({"live": len(server.session_manager._server_instances)})
server.run(transport="TRANSPORT", port=PORT)
"#;
    let program_of = |transport: &str| program.replace("TRANSPORT", transport);
    let (order, port) = serving(&[&python, "-c", &program_of("streamable-http")], "/mcp");
    let rig = Rig::ready(&order).await;
    healthy(&rig, 5).await;
    assert_eq!(direct(port, "GET", "/count").await, json!({"live": 1}));
    let got = rig.post(&[], &initialize("2025-11-25")).await;
    assert_eq!(got.status, 200, "{}", got.text);

    let (order, _) = serving(&[&python, "-c", &program_of("sse")], "/sse");
    let rig = Rig::ready(&order).await;
    healthy(&rig, 2).await;
    let stream = rig
        .open(Method::GET, "/mcp", &[("accept", "text/event-stream")], "")
        .await;
    assert_eq!(stream.status(), 200);
    assert_eq!(
        stream.headers()["content-type"]
            .to_str()
            .expect("visible")
            .split(';')
            .next(),
        Some("text/event-stream")
    );
}
