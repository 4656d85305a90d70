//! Requests as the eras and transports want them (MCP 2026-07-28 and 2025-11-25, basic/transports; 2024-11-05,
//! basic/transports, "HTTP with SSE").
//!
//! Never carries a credential: whoever sends a request adds it.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::value::RawValue;

use crate::mcp::message::{self, Message};
use crate::mcp::mirror::Mirrored;
use crate::mcp::version::MODERN;
use crate::mcp::{head, meta};

const SESSION: HeaderName = HeaderName::from_static(head::SESSION);
const VERSION: HeaderName = HeaderName::from_static(head::VERSION);
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The server's MCP endpoint.
    Endpoint,
    /// A path of the same server, with its query.
    Path(String),
}

/// One HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub method: Method,
    pub target: Target,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What a session of the legacy era adds to its requests.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
}

impl Session {
    fn put(&self, headers: &mut HeaderMap) {
        let fields = [(SESSION, &self.id), (VERSION, &self.version)];
        for (name, value) in fields {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }
}

fn posted(body: Bytes) -> Outgoing {
    let fields = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (ACCEPT, HeaderValue::from_static("application/json, text/event-stream")),
    ];
    Outgoing {
        method: Method::POST,
        target: Target::Endpoint,
        headers: HeaderMap::from_iter(fields),
        body,
    }
}

/// A message of the legacy era.
pub(super) fn legacy(body: Bytes, session: &Session) -> Outgoing {
    let mut out = posted(body);
    session.put(&mut out.headers);
    out
}

/// A request of the modern era.
pub(super) fn modern(m: &Message<'_>, tools: &Mirrored) -> Outgoing {
    let mut out = posted(Bytes::copy_from_slice(m.text.as_bytes()));
    let params = message::params(m.params).unwrap_or_default();
    out.headers.insert(VERSION, HeaderValue::from_static(MODERN));
    if let Ok(method) = HeaderValue::try_from(&*m.method) {
        out.headers.insert(METHOD, method);
    }
    let name = match &*m.method {
        "tools/call" | "prompts/get" => params.name,
        "resources/read" => params.uri,
        _ => None,
    };
    if let Some(name) = name.and_then(|n| message::string(n.get())) {
        if let Ok(value) = HeaderValue::try_from(head::encode(&name)) {
            out.headers.insert(NAME, value);
        }
        if m.method == "tools/call" {
            tools.put(&mut out.headers, &name, params.arguments.map_or("{}", RawValue::get));
        }
    }
    out
}

/// A stream of the server's own messages, taken up after an event.
pub(super) fn stream(session: &Session, after: Option<&str>) -> Outgoing {
    let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/event-stream"))]);
    session.put(&mut headers);
    if let Some(value) = after.and_then(|id| HeaderValue::try_from(id).ok()) {
        headers.insert(LAST_EVENT, value);
    }
    Outgoing {
        method: Method::GET,
        target: Target::Endpoint,
        headers,
        body: Bytes::new(),
    }
}

/// The end of a session.
pub(super) fn end(session: &Session) -> Outgoing {
    let mut headers = HeaderMap::new();
    session.put(&mut headers);
    Outgoing {
        method: Method::DELETE,
        target: Target::Endpoint,
        headers,
        body: Bytes::new(),
    }
}

/// Our own `server/discover`, under this id.
pub(super) fn discover(id: u64) -> Outgoing {
    let params = meta::discover_params();
    let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"server/discover\",\"params\":{params}}}");
    let mut out = posted(text.into());
    out.headers.insert(VERSION, HeaderValue::from_static(MODERN));
    out.headers.insert(METHOD, HeaderValue::from_static("server/discover"));
    out
}

/// Our own `initialize`, under this id.
pub(super) fn initialize(id: u64) -> Outgoing {
    let params = meta::initialize_params("{}");
    let text = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"initialize\",\"params\":{params}}}");
    posted(text.into())
}

/// Where an `endpoint` event of 2024-11-05 says to post to: a path of the same server, whatever host it names.
pub(super) fn endpoint(base: &str, reference: &str) -> Option<String> {
    let base = base.split(['?', '#']).next().unwrap_or_default();
    let reference = reference.trim().split('#').next().unwrap_or_default();
    let after = reference
        .strip_prefix("//")
        .or_else(|| match reference.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?']) => Some(rest),
            _ => None,
        });
    let path = match after {
        Some(rest) => match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('?') => format!("/{}", &rest[at..]),
            Some(at) => rest[at..].to_owned(),
            None => "/".to_owned(),
        },
        None if reference.is_empty() => return None,
        None if reference.starts_with('/') => reference.to_owned(),
        None if reference.starts_with('?') => format!("{base}{reference}"),
        None => format!("{}{reference}", &base[..base.rfind('/').map_or(0, |at| at + 1)]),
    };
    let uri = http::Uri::try_from(&*path).ok()?;
    (path.starts_with('/') && uri.authority().is_none()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_path_of_the_same_server() {
        for (reference, want) in [
            ("/messages?sessionId=1", Some("/messages?sessionId=1")),
            ("?session=1", Some("/v1/sse?session=1")),
            ("messages/?s=1", Some("/v1/messages/?s=1")),
            ("http://127.0.0.1:9/m?s=1", Some("/m?s=1")),
            ("https://evil.example/m", Some("/m")),
            ("https://evil.example?x", Some("/?x")),
            ("//evil.example/m#x", Some("/m")),
            ("https://evil.example", Some("/")),
            ("", None),
            ("/a b", None),
        ] {
            assert_eq!(endpoint("/v1/sse?k=1", reference).as_deref(), want, "{reference}");
        }
    }

    #[test]
    fn modern_requests_say_in_headers_what_they_are() {
        let text = r#"{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"file:///ä"}}"#;
        let m = message::parse(text.as_bytes()).expect("a message");
        let out = modern(&m, &Mirrored::default());
        let said = |name: &str| out.headers[name].to_str().expect("visible").to_owned();
        assert_eq!(said("mcp-protocol-version"), "2026-07-28");
        assert_eq!(said("mcp-method"), "resources/read");
        assert_eq!(head::decode(&said("mcp-name")).as_deref(), Some("file:///ä"));
    }
}
