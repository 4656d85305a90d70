//! Servers that speak HTTP themselves, before clients of the era or the transport that they lack: as the agent serves them.

use crate::rig;
use crate::support::{Appliance, INITIALIZE, Options};

use http::Method;
use http_body_util::BodyExt;
use rig::{Got, PATIENCE, Rig, call, events, initialize, modern};
use serde_json::{Value, json};

use crate::http_services::serving;

/// The conformance fixture as a service of one era.
fn service(era: &str) -> Value {
    let root = env!("CARGO_MANIFEST_DIR");
    let node = format!("{root}/tests/clients/node/bin/node");
    let program = format!("{root}/tests/fixtures/conformance/server.mjs");
    serving(&[&node, &program, "http", "PORT", era], "/mcp").0
}

async fn send(rig: &Rig, id: u64, method: &str, params: Value, capabilities: Value) -> Got {
    let (headers, body) = modern(id, method, params, capabilities);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    rig.post(&headers, &body).await
}

fn tool(name: &str) -> Value {
    json!({"name": name, "arguments": {}})
}

fn last(got: &Got) -> Value {
    got.messages().pop().unwrap_or_else(|| panic!("no message in {got:?}"))
}

#[tokio::test]
async fn a_modern_client_is_served_by_a_legacy_server() {
    let rig = Rig::ready(&service("legacy")).await;
    let found = send(&rig, 1, "server/discover", json!({}), json!({})).await.json();
    assert!(found["result"]["capabilities"]["tools"].is_object(), "{found}");
    let got = send(&rig, 2, "tools/call", tool("test_simple_text"), json!({})).await;
    let said = last(&got);
    assert_eq!(
        (&said["id"], &said["result"]["resultType"]),
        (&json!(2), &json!("complete")),
        "{said}"
    );
    let params = json!({"name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": "p"}});
    let all = send(&rig, 3, "tools/call", params, json!({})).await.messages();
    assert!(all.len() > 2 && all[0]["params"]["progressToken"] == "p", "{all:?}");
    // What the server asks on the call's stream becomes required input.
    let asks = json!({"name": "test_elicitation", "arguments": {"message": "Who?"}});
    let asked = last(&send(&rig, 4, "tools/call", asks.clone(), json!({"elicitation": {}})).await)["result"].clone();
    assert_eq!(asked["resultType"], "input_required", "{asked}");
    let (key, question) = asked["inputRequests"]
        .as_object()
        .expect("questions")
        .iter()
        .next()
        .expect("one");
    assert_eq!(question["method"], "elicitation/create");
    let mut retry = asks;
    retry["requestState"] = asked["requestState"].clone();
    retry["inputResponses"] = json!({key: {"action": "accept", "content": {"username": "ada", "email": "a@b.c"}}});
    let done = last(&send(&rig, 5, "tools/call", retry, json!({"elicitation": {}})).await);
    assert!(done["result"].to_string().contains("ada"), "{done}");
    // A subscription hears what the server says by itself.
    let wanted = json!({"notifications": {"toolsListChanged": true}});
    let (headers, body) = modern(6, "subscriptions/listen", wanted, json!({}));
    let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let mut stream = rig.post_open(&headers, &body).await;
    let mut text = String::new();
    let mut told = false;
    while !text.contains("list_changed") {
        let frame = tokio::time::timeout(PATIENCE, stream.body_mut().frame()).await;
        let frame = frame
            .unwrap_or_else(|_| panic!("only {text:?}"))
            .expect("goes on")
            .expect("no error");
        text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("utf-8"));
        if text.contains("acknowledged") && !told {
            told = true;
            send(&rig, 7, "tools/call", tool("test_trigger_tool_change"), json!({})).await;
        }
    }
    let (_, note) = events(&text).pop().expect("an event");
    assert_eq!(note["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 6);
    let refused = send(&rig, 8, "no/such", json!({}), json!({})).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["error"]["code"]),
        (404, &json!(-32601))
    );
    // A legacy client's session is the server's own.
    let session = rig.initialize().await;
    let got = rig.call(&session, 1, "test_simple_text", json!({})).await;
    assert_eq!(last(&got)["id"], 1);
}

#[tokio::test]
async fn a_legacy_client_is_served_by_a_modern_server() {
    let rig = Rig::ready(&service("modern")).await;
    let hello = rig.post(&[], &initialize("2025-06-18")).await;
    assert_eq!(
        hello.json()["result"]["protocolVersion"],
        "2025-06-18",
        "{}",
        hello.text
    );
    let session = hello.session();
    let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(rig.post(&[("mcp-session-id", &session)], &note).await.status, 202);
    let got = rig.call(&session, 1, "test_simple_text", json!({})).await;
    assert_eq!(last(&got)["id"], 1);
    let params = json!({"name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": "p"}});
    let request = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params});
    let all = rig.post(&[("mcp-session-id", &session)], &request).await.messages();
    assert!(all.len() > 2 && all[0]["params"]["progressToken"] == "p", "{all:?}");
    // What the server needs is asked on the call's stream.
    let asks = call(3, "test_sampling", json!({"prompt": "plums"}));
    let mut stream = rig.post_open(&[("mcp-session-id", &session)], &asks).await;
    let (mut text, mut replied) = (String::new(), false);
    while let Some(frame) = tokio::time::timeout(PATIENCE, stream.body_mut().frame())
        .await
        .expect("in time")
    {
        text.push_str(std::str::from_utf8(frame.expect("frame").data_ref().expect("data")).expect("utf-8"));
        let asked = events(&text)
            .into_iter()
            .find(|(_, m)| m["method"] == "sampling/createMessage");
        if let Some((_, asked)) = asked.filter(|_| !replied) {
            replied = true;
            let result = json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "blue"}});
            let reply = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result});
            assert_eq!(rig.post(&[("mcp-session-id", &session)], &reply).await.status, 202);
        }
    }
    let (_, done) = events(&text).pop().expect("an answer");
    assert!(done["id"] == 3 && done["result"].to_string().contains("blue"), "{text}");
    // A modern client's request is the server's own.
    let got = send(&rig, 4, "tools/call", tool("test_simple_text"), json!({})).await;
    assert_eq!(last(&got)["id"], 4);
    let ended = rig
        .send(Method::DELETE, "/mcp", &[("mcp-session-id", &session)], "")
        .await;
    assert!(ended.status.is_success());
    let gone = rig.call(&session, 5, "test_simple_text", json!({})).await;
    assert_eq!(gone.status, 404, "{}", gone.text);
}

/// A process that ends with the test.
struct Ends(std::process::Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server elsewhere that speaks the transport of 2024-11-05 alone is reached as any other.
#[test]
fn a_remote_server_of_http_sse_serves_clients_of_both_eras() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port")
        .port();
    let program = format!(
        r#"
from mcp.server.mcpserver import MCPServer
server = MCPServer("old")
@server.tool()
def echo(message: str) -> str:
    return "Echo: " + message
server.run(transport="sse", port={port})
"#
    );
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/py/.venv/bin/python");
    let mut server = std::process::Command::new(python);
    server.args(["-c", &program]).stderr(std::process::Stdio::null());
    let _server = Ends(server.spawn().expect("the clients are installed (tests/clients/setup)"));
    let a = Appliance::with(Options {
        extra: "[remote]\nprivate_networks = [\"127.0.0.0/8\"]\n".into(),
        ..Options::default()
    });
    let i = a.json(&["run", "remote", "--url", &format!("http://127.0.0.1:{port}/sse")]);
    let at = |v: &Value| v.as_str().expect("text").to_owned();
    let (url, token) = (at(&i["endpoints"]["mcp"]["url"]), at(&i["token"]));
    let hello = a.post(&url, &token, INITIALIZE, &[]);
    assert_eq!(hello.status, 200, "{}", hello.body);
    assert!(hello.header("mcp-session-id").is_some(), "{}", hello.body);
    let params = json!({"name": "echo", "arguments": {"message": "hi"}});
    let (headers, body) = modern(1, "tools/call", params, json!({}));
    let headers: Vec<String> = headers.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    let more: Vec<&str> = headers.iter().flat_map(|h| ["-H", h]).collect();
    let said = a.post(&url, &token, &body.to_string(), &more);
    assert!(said.status == 200 && said.body.contains("Echo: hi"), "{}", said.body);
    assert_eq!(a.show(&at(&i["id"]))["health"], "healthy");
}
