//! The box as the network sees it: HTTPS by curl with the box's own CA, MCP in plain JSON-RPC, and the official client
//! that the other tests use.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use super::{patience, root, wait};

/// An instance as a client holds it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Instance {
    pub id: String,
    pub token: String,
}

impl Instance {
    /// From what `berth run --json` printed.
    pub fn made(v: &Value) -> Self {
        let text = |key: &str| {
            v[key]
                .as_str()
                .unwrap_or_else(|| panic!("{key} is missing: {v:#}"))
                .to_owned()
        };
        Self {
            id: text("id"),
            token: text("token"),
        }
    }
}

/// Where a box is reached, and by which CA it is known.
#[derive(Debug, Clone)]
pub struct Address {
    /// The name that it is asked by; it is looked for on 127.0.0.1 whatever that is.
    pub host: String,
    pub port: u16,
    pub ca: PathBuf,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Address {
    pub fn new(port: u16, ca: &Path) -> Self {
        Self {
            host: "localhost".to_owned(),
            port,
            ca: ca.to_owned(),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", self.host, self.port)
    }

    /// A request; `None` when there was no answer.
    pub fn try_curl(&self, args: &[&str], path: &str) -> Option<Answer> {
        let out = Command::new("curl")
            .args(["--silent", "--show-error", "--include", "--max-time"])
            .arg(patience(30).as_secs().to_string())
            .args(["--connect-to", "::127.0.0.1:"])
            .arg("--cacert")
            .arg(&self.ca)
            .args(args)
            .arg(self.url(path))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some(Answer {
            status: head.split_whitespace().nth(1)?.parse().ok()?,
            headers: head.to_lowercase(),
            body: body.to_owned(),
        })
    }

    /// Waits for an answer over TLS, whatever it is.
    pub fn await_answer(&self) -> Answer {
        wait(patience(120), || self.try_curl(&[], "/"))
            .unwrap_or_else(|| panic!("nothing answers on {}", self.url("/")))
    }

    fn post(&self, i: &Instance, session: Option<&str>, body: &Value) -> Option<Answer> {
        let (bearer, body) = (format!("Authorization: Bearer {}", i.token), body.to_string());
        let mut args = vec![
            "-H",
            "Content-Type: application/json",
            "-H",
            "Accept: application/json, text/event-stream",
        ];
        args.extend(["-H", &bearer, "-d", &body]);
        let session = session.map(|s| format!("Mcp-Session-Id: {s}"));
        if let Some(s) = &session {
            args.extend(["-H", s, "-H", "MCP-Protocol-Version: 2025-06-18"]);
        }
        self.try_curl(&args, &format!("/mcp/{}", i.id))
    }

    /// Opens a session.
    pub fn try_session(&self, i: &Instance) -> Result<Session, String> {
        let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "qemu-tests", "version": "1"}}});
        let answer = self.post(i, None, &hello).ok_or("no answer")?;
        let id = answer
            .headers
            .lines()
            .find_map(|l| l.strip_prefix("mcp-session-id:"))
            .ok_or_else(|| format!("no session: {answer:?}"))?
            .trim()
            .to_owned();
        let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.post(i, Some(&id), &ready).ok_or("no answer")?;
        Ok(Session {
            address: self.clone(),
            instance: i.clone(),
            id,
        })
    }

    pub fn session(&self, i: &Instance) -> Session {
        let mut last = String::new();
        let opened = wait(patience(90), || self.try_session(i).map_err(|e| last = e).ok());
        opened.unwrap_or_else(|| panic!("{} opens no session: {last}", i.id))
    }

    /// `tests/clients/run CLIENT SCENARIO` against an instance: the official SDK, TLS checked with the box's CA.
    pub fn official_client(&self, i: &Instance, client: &str, scenario: &str) -> Value {
        let out = Command::new(root().join("tests/clients/run"))
            .args([client, scenario])
            .env("BERTH_URL", self.url(&format!("/mcp/{}", i.id)))
            .env("BERTH_TOKEN", &i.token)
            .env("BERTH_ERA", "legacy")
            .env("NODE_EXTRA_CA_CERTS", &self.ca)
            .env("SSL_CERT_FILE", &self.ca)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        let wrong = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{client} {scenario}: {said}{wrong}");
        serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap()
    }
}

pub struct Session {
    address: Address,
    pub instance: Instance,
    id: String,
}

impl Session {
    /// Calls a tool; the text of its answer, or what went wrong.
    pub fn try_call(&self, tool: &str, arguments: Value) -> Result<String, String> {
        let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": tool, "arguments": arguments}});
        let answer = self
            .address
            .post(&self.instance, Some(&self.id), &call)
            .ok_or("no answer")?;
        let line = answer
            .body
            .lines()
            .find_map(|l| l.strip_prefix("data: "))
            .unwrap_or(&answer.body);
        let message: Value = serde_json::from_str(line).map_err(|e| format!("{e}: {answer:?}"))?;
        let text = message.pointer("/result/content/0/text").and_then(Value::as_str);
        text.map(str::to_owned).ok_or_else(|| format!("{answer:?}"))
    }

    pub fn call(&self, tool: &str, arguments: Value) -> String {
        self.try_call(tool, arguments).unwrap_or_else(|e| panic!("{tool}: {e}"))
    }

    /// Calls `echo` until it answers; a deadline for services that come back.
    pub fn echo(&self, words: &str, deadline: Duration) {
        let mut last = String::new();
        let done = wait(deadline, || match self.try_call("echo", json!({ "message": words })) {
            Ok(text) if text.contains(words) => Some(()),
            other => {
                last = format!("{other:?}");
                None
            }
        });
        assert!(done.is_some(), "no echo of '{words}': {last}");
    }
}
