//! Asks an instance's server which tools it has, over its link, as any MCP client would: a session of its own, opened
//! and ended.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Value, json};

use crate::link::{Link, NoBody, Payload, Request};

/// All of it takes no longer.
const LIMIT: Duration = Duration::from_secs(30);
/// An answer has so many bytes at most.
const MAX: usize = 8 << 20;
/// Pages of a list.
const PAGES: usize = 50;
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: &str = "2025-06-18";

/// The server's tools, as MCP lists them.
///
/// # Errors
/// What went wrong, as a sentence.
pub(super) async fn list(link: &Arc<Link>) -> Result<Value, String> {
    let asked = async {
        let mut asker = Asker { link, session: None };
        let hello = json!({"protocolVersion": VERSION, "capabilities": {},
            "clientInfo": {"name": "berth", "version": env!("CARGO_PKG_VERSION")}});
        asker.ask(1, "initialize", hello).await?;
        asker
            .post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await?;
        let tools = asker.tools().await;
        asker.end().await;
        tools.map(Value::Array)
    };
    tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_| {
        Err(format!(
            "the server did not list its tools within {} s",
            LIMIT.as_secs()
        ))
    })
}

struct Asker<'a> {
    link: &'a Arc<Link>,
    session: Option<HeaderValue>,
}

impl Asker<'_> {
    async fn tools(&mut self) -> Result<Vec<Value>, String> {
        let (mut all, mut cursor) = (Vec::new(), None::<String>);
        for page in 0..PAGES {
            let params = cursor.as_ref().map_or_else(|| json!({}), |c| json!({"cursor": c}));
            let result = self.ask(2 + page as u64, "tools/list", params).await?;
            all.extend(result["tools"].as_array().cloned().unwrap_or_default());
            cursor = result["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Ok(all)
    }

    async fn ask(&mut self, id: u64, method: &str, params: Value) -> Result<Value, String> {
        let text = self
            .post(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .await?;
        let messages = text
            .lines()
            .map(|l| l.strip_prefix("data:").unwrap_or(l).trim())
            .filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let answer = messages
            .into_iter()
            .chain(serde_json::from_str(&text).ok())
            .find(|m| m["id"] == id)
            .ok_or_else(|| format!("the server did not answer {method}"))?;
        match answer.get("error") {
            Some(e) => Err(format!("the server answered {method} with an error: {}", e["message"])),
            None => Ok(answer["result"].clone()),
        }
    }

    async fn post(&mut self, message: &Value) -> Result<String, String> {
        let payload = Payload::Whole(message.to_string().into());
        self.call(&Method::POST, payload).await
    }

    async fn end(&mut self) {
        if self.session.is_some() {
            // A server that does not end sessions on request lets them expire.
            let _ = self.call(&Method::DELETE, Payload::None).await;
        }
    }

    async fn call(&mut self, method: &Method, payload: Payload<NoBody>) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if let Some(session) = &self.session {
            headers.insert(SESSION, session.clone());
            headers.insert("mcp-protocol-version", HeaderValue::from_static(VERSION));
        }
        let request = Request {
            method,
            target: "/mcp",
            headers: &headers,
            skip: &|_| false,
            upgrade: None,
        };
        let mut reply = self
            .link
            .call(&request, payload, LIMIT)
            .await
            .map_err(|e| format!("the server cannot be asked: {e}"))?;
        let mut text = BytesMut::new();
        while let Some(piece) = std::future::poll_fn(|cx| reply.body.poll_next(cx)).await {
            let piece = piece.map_err(|e| format!("the server's answer broke off: {e}"))?;
            text.extend_from_slice(&piece);
            if text.len() > MAX {
                return Err(format!("the server's answer has more than {MAX} bytes"));
            }
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        if !reply.status.is_success() {
            return Err(format!("the server answered {}: {}", reply.status, text.trim()));
        }
        if let Some(session) = reply.headers.get(SESSION) {
            self.session = Some(session.clone());
        }
        Ok(text)
    }
}
