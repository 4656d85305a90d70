//! The supervisor's side of an agent, for tests: a Unix listener, a pool of the connections that the agent dials, and
//! an agent process that ends with the rig.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longer than anything that works takes, on a loaded machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

type Sender = SendRequest<Full<Bytes>>;

/// One agent and what a supervisor has of it.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub agent: tokio::process::Child,
    idle: tokio::sync::Mutex<mpsc::UnboundedReceiver<Sender>>,
    back: mpsc::UnboundedSender<Sender>,
    accepting: tokio::task::JoinHandle<()>,
    pub log: std::sync::Arc<std::sync::Mutex<Vec<String>>>,
}

/// A small HTTP answer.
#[derive(Debug)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {:?}", self.text))
    }

    /// The JSON of every event of a stream, or the one JSON of an answer.
    pub fn messages(&self) -> Vec<Value> {
        if self.text.starts_with('{') {
            return vec![self.json()];
        }
        events(&self.text).into_iter().map(|(_, v)| v).collect()
    }

    pub fn session(&self) -> String {
        self.headers["mcp-session-id"].to_str().expect("visible").to_owned()
    }
}

/// The events of a stream: id and data.
pub fn events(text: &str) -> Vec<(Option<String>, Value)> {
    let mut out = Vec::new();
    for block in text.split("\n\n") {
        let id = block.lines().find_map(|l| l.strip_prefix("id: ")).map(str::to_owned);
        if let Some(data) = block
            .lines()
            .find_map(|l| l.strip_prefix("data: "))
            .filter(|d| !d.is_empty())
        {
            out.push((id, serde_json::from_str(data).expect("JSON event")));
        }
    }
    out
}

pub fn fixture(mode: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/server.py");
    vec![
        "python3".into(),
        "-u".into(),
        path.to_string_lossy().into_owned(),
        mode.into(),
    ]
}

/// An order for the fixture server.
pub fn order(mode: &str, processes: &str) -> Value {
    order_for(fixture(mode), processes)
}

pub fn order_for(command: Vec<String>, processes: &str) -> Value {
    json!({
        "spec": "spec-1",
        "services": [],
        "mcp": {
            "transport": {"kind": "stdio", "command": command, "env": {"TYPE_VAR": "type"}, "processes": processes},
            "max_sessions": 8, "idle_timeout_ms": 60000, "vanish_timeout_ms": 60000, "call_timeout_ms": 20000,
            "start_timeout_ms": 15000, "max_message": 1048576
        },
        "health": {"kind": {"kind": "mcp"}, "timeout_ms": 5000},
        "env": {"API_TOKEN": "s3cret-s3cret"}
    })
}

fn listen(path: &Path, back: &mpsc::UnboundedSender<Sender>) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).expect("bind");
    let back = back.clone();
    tokio::spawn(async move {
        let mut set = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .expect("handshake");
            set.spawn(async move {
                let _ = connection.await;
            });
            let _ = back.send(sender);
        }
    })
}

impl Rig {
    /// An agent without an order.
    pub async fn bare() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let (back, idle) = mpsc::unbounded_channel();
        let path = dir.path().join("agent.sock");
        let accepting = listen(&path, &back);
        let program = crate::support::berth();
        let mut agent = tokio::process::Command::new(program)
            .arg("agent")
            .env("BERTH_AGENT_SOCKET", &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("agent");
        let log = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let (copy, stderr) = (log.clone(), agent.stderr.take().expect("stderr"));
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("  {line}");
                copy.lock().expect("log").push(line);
            }
        });
        Self {
            dir,
            agent,
            idle: tokio::sync::Mutex::new(idle),
            back,
            accepting,
            log,
        }
    }

    /// An agent that was given an order.
    pub async fn ordered(order: &Value) -> Self {
        let rig = Self::bare().await;
        let got = rig.send(Method::POST, "/.berth/start", &[], &order.to_string()).await;
        assert_eq!(got.status, 204, "{}", got.text);
        rig
    }

    /// An agent whose server is ready.
    pub async fn ready(order: &Value) -> Self {
        let rig = Self::ordered(order).await;
        let state = rig.state(|s| s["state"] != "starting").await;
        assert_eq!(state["state"], "ready", "{state}");
        rig
    }

    /// The first status of the events that fits.
    pub async fn state(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let mut events = self.open(Method::GET, "/.berth/events", &[], "").await;
        assert_eq!(events.status(), 200);
        let mut text = String::new();
        loop {
            while let Some((line, rest)) = text.split_once('\n') {
                let event: Value = serde_json::from_str(line).expect("event");
                if event["event"] == "status" && fits(&event) {
                    return event;
                }
                text = rest.to_owned();
            }
            let frame = timeout(PATIENCE, events.body_mut().frame())
                .await
                .expect("an event in time");
            let frame = frame.expect("the stream goes on").expect("no error");
            text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("utf-8"));
        }
    }

    /// Sends a request; the answer's body is for the caller.
    pub async fn open(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Incoming> {
        let mut sender = loop {
            let next = timeout(PATIENCE, async { self.idle.lock().await.recv().await }).await;
            let mut sender = next.expect("a connection in time").expect("open");
            if sender.ready().await.is_ok() {
                break sender;
            }
        };
        let mut req = Request::builder().method(method).uri(path).header("host", "agent");
        for (k, v) in headers {
            req = req.header(*k, *v);
        }
        let req = req
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .expect("request");
        let answer = timeout(PATIENCE, sender.send_request(req))
            .await
            .expect("in time")
            .expect("an answer");
        let back = self.back.clone();
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let _ = back.send(sender);
            }
        });
        answer
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
        let answer = self.open(method, path, headers, body).await;
        let (parts, body) = answer.into_parts();
        let bytes = timeout(PATIENCE, body.collect())
            .await
            .expect("in time")
            .expect("body")
            .to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("utf-8");
        Got {
            status: parts.status,
            headers: parts.headers,
            text,
        }
    }

    pub async fn post(&self, headers: &[(&str, &str)], body: &Value) -> Got {
        let mut all = vec![
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        all.extend_from_slice(headers);
        self.send(Method::POST, "/mcp", &all, &body.to_string()).await
    }

    pub async fn post_open(&self, headers: &[(&str, &str)], body: &Value) -> Response<Incoming> {
        let mut all = vec![
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        all.extend_from_slice(headers);
        self.open(Method::POST, "/mcp", &all, &body.to_string()).await
    }

    /// A legacy session.
    pub async fn initialize(&self) -> String {
        let got = self.post(&[], &initialize("2025-11-25")).await;
        assert_eq!(got.status, 200, "{}", got.text);
        let session = got.session();
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(self.post(&[("mcp-session-id", &session)], &note).await.status, 202);
        session
    }

    /// Calls a tool in a session.
    pub async fn call(&self, session: &str, id: u64, name: &str, arguments: Value) -> Got {
        self.post(&[("mcp-session-id", session)], &call(id, name, arguments))
            .await
    }

    /// Calls a tool in a session and returns its text.
    pub async fn text(&self, session: &str, id: u64, name: &str, arguments: Value) -> String {
        let got = self.call(session, id, name, arguments).await;
        let last = got.messages().pop().unwrap_or_else(|| panic!("no message in {got:?}"));
        assert_eq!(last["id"], id, "{last}");
        last["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{last}"))
            .to_owned()
    }

    pub async fn status(&self) -> Value {
        self.send(Method::GET, "/.berth/status", &[], "").await.json()
    }

    /// Waits until the status fits.
    pub async fn status_until(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if fits(&status) {
                return status;
            }
            assert!(std::time::Instant::now() < end, "never: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The supervisor goes away, with all its connections, and comes back.
    pub async fn restart_supervisor(&mut self, away: Duration) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        let (back, idle) = mpsc::unbounded_channel();
        self.back = back;
        self.idle = tokio::sync::Mutex::new(idle);
        let path = self.socket();
        std::fs::remove_file(&path).expect("socket");
        tokio::time::sleep(away).await;
        self.accepting = listen(&path, &self.back);
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub fn pid(&self) -> i32 {
        self.agent.id().expect("running").cast_signed()
    }

    /// Waits for the agent's end.
    pub async fn exit(&mut self) -> i32 {
        timeout(PATIENCE, self.agent.wait())
            .await
            .expect("in time")
            .expect("wait")
            .code()
            .expect("a status")
    }
}

pub fn initialize(version: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": {"sampling": {}}, "clientInfo": {"name": "test", "version": "1"}}})
}

pub fn call(id: u64, name: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name, "arguments": arguments}})
}

/// A modern request and the headers that go with it.
pub fn modern(id: u64, method: &str, mut params: Value, capabilities: Value) -> (Vec<(&'static str, String)>, Value) {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    let mut headers = vec![
        ("mcp-protocol-version", "2026-07-28".to_owned()),
        ("mcp-method", method.to_owned()),
    ];
    if let Some(name) = params["name"].as_str().or(params["uri"].as_str()) {
        headers.push(("mcp-name", name.to_owned()));
    }
    (
        headers,
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}),
    )
}

/// Whether a process exists and is no zombie.
pub fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "))
}

/// Waits until something holds.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
