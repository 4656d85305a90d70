//! What a server answers to a request of ours, read as far as it tells what the server is.
//!
//! Takes for an answer what a response of JSON-RPC is, and nothing else. Never holds more than [`MAX_ANSWER`].

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde_json::value::RawValue;

use crate::mcp::message::{self, Kind};
use crate::mcp::meta;
use crate::mcp::sse::Reader;
use crate::mcp::version;

/// The id of every request that is asked to find out what a server is.
pub const ID: u64 = 1;
/// Of an answer, so many bytes are read.
const MAX_ANSWER: usize = 1 << 20;
/// So many of them are kept to be shown.
const KEPT: usize = 4096;

/// A response of JSON-RPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To our request.
    Result {
        /// The protocol version that it names.
        version: Option<String>,
        /// It names a version of the modern era as one of those that the server speaks.
        modern: bool,
    },
    /// To whatever: many that refuse a request do not look at its id. Its message.
    Error(String),
}

/// The answer to one HTTP request, while it is read.
#[derive(Debug)]
pub struct Hearing {
    /// The HTTP status.
    pub status: StatusCode,
    /// The head's fields.
    pub headers: HeaderMap,
    /// The response in it.
    pub answer: Option<Answer>,
    /// It is a stream of 2024-11-05: its first event says where to post to.
    pub names_endpoint: bool,
    /// How the body begins.
    pub said: Vec<u8>,
    stream: Option<Reader>,
    events: usize,
}

impl Hearing {
    /// Of a head.
    pub fn new(status: StatusCode, headers: HeaderMap) -> Self {
        Self {
            stream: is_stream(&headers).then(Reader::default),
            status,
            headers,
            answer: None,
            names_endpoint: false,
            said: Vec::new(),
            events: 0,
        }
    }

    /// Takes a piece of the body; `true` when the rest tells nothing new. A stream need not end.
    pub fn feed(&mut self, piece: &[u8]) -> bool {
        self.said.extend_from_slice(piece);
        if let Some(reader) = &mut self.stream {
            let (answer, events, names) = (&mut self.answer, &mut self.events, &mut self.names_endpoint);
            reader.feed(piece, |event| {
                *names |= *events == 0 && event.kind == "endpoint";
                *events += 1;
                if answer.is_none() {
                    *answer = read(&event.data);
                }
            });
        }
        self.answer.is_some()
            || self.names_endpoint
            || self.said.len() >= MAX_ANSWER
            || (self.stream.is_none() && !could_be_json(&self.said))
    }

    /// The body has ended, or enough of it was read.
    pub fn end(&mut self) {
        if self.answer.is_none() && self.said.len() >= MAX_ANSWER {
            // Too long to be looked into, and long enough to be a list.
            let found = memchr::memmem::find(&self.said, b"\"jsonrpc\"");
            self.answer = found.map(|_| Answer::Result {
                version: None,
                modern: false,
            });
        } else if self.stream.is_none() {
            self.answer = read(&self.said);
        }
        self.said.truncate(KEPT);
    }
}

/// Whether a head announces an event stream.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|k| k.to_str().ok());
    kind.is_some_and(|k| k.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

fn could_be_json(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    text.len() < 3 || matches!(text[0], b'{' | b'[')
}

/// The response in a body or in an event, which may be a batch (2025-03-26).
fn read(text: &[u8]) -> Option<Answer> {
    if text.trim_ascii_start().starts_with(b"[") {
        let all: Vec<&RawValue> = serde_json::from_slice(text).ok()?;
        return all.into_iter().find_map(|one| read_one(one.get().as_bytes()));
    }
    read_one(text)
}

fn read_one(text: &[u8]) -> Option<Answer> {
    let mended = message::mended(text);
    let message = message::parse(mended.as_deref().unwrap_or(text)).ok()?;
    if message.kind != Kind::Response {
        return None;
    }
    let text_of = |json: &str, name: &str| {
        let value = serde_json::from_str::<serde_json::Value>(json).ok()?;
        Some(value.get(name)?.as_str()?.to_owned())
    };
    match (message.result, message.error) {
        (Some(result), _) if message::own_id(message.id) == Some(ID) => Some(Answer::Result {
            version: text_of(result, "protocolVersion"),
            modern: meta::supported_versions(result).is_some_and(|all| all.iter().any(|v| v == version::MODERN)),
        }),
        (None, Some(error)) => Some(Answer::Error(text_of(error, "message").unwrap_or_default())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_of_json_rpc_is_told_from_anything_else() {
        let result = |version: Option<&str>, modern| {
            Some(Answer::Result {
                version: version.map(str::to_owned),
                modern,
            })
        };
        let error = |words: &str| Some(Answer::Error(words.to_owned()));
        for (text, want) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, result(None, false)),
            (
                r#" {"result":{"protocolVersion":"2025-06-18"},"id":"1","error":null,"jsonrpc":"2.0"}"#,
                result(Some("2025-06-18"), false),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"]}}"#,
                result(None, true),
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2025-11-25"]}}"#,
                result(None, false),
            ),
            (r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#, result(None, false)),
            (
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: Server not initialized"}}"#,
                error("Bad Request: Server not initialized"),
            ),
            (r#"{"jsonrpc":"2.0","error":{"code":-32022}}"#, error("")),
            (
                r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"x"}}"#,
                error("x"),
            ),
            // Another one's.
            (r#"{"jsonrpc":"2.0","id":2,"result":{}}"#, None),
            (r#"{"jsonrpc":"2.0","method":"notifications/message"}"#, None),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, None),
            (r#"{"detail":"Not Found"}"#, None),
            (r#"{"id":1,"result":{}}"#, None),
            ("[]", None),
            ("[1", None),
            ("<!doctype html>", None),
            ("ok", None),
            ("", None),
        ] {
            assert_eq!(read(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn a_page_is_no_json_from_its_first_letters_on() {
        for text in ["", "{", " {\"a\"", "[{\"", "\u{feff}{\"a", "\n\n"] {
            assert!(could_be_json(text.as_bytes()), "{text:?}");
        }
        for text in ["<!doctype", "Not Found", "\u{feff}<html"] {
            assert!(!could_be_json(text.as_bytes()), "{text:?}");
        }
    }
}
