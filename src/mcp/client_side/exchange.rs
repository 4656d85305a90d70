//! The plain values of a connection: how far it is, and its HTTP exchanges, each with what it is for and how far it is.

use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;

use crate::mcp::sse::Reader;

/// How far a connection is; see the diagram there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Fresh,
    Opening,
    Greeted,
    Settling,
    /// The server's own stream is asked for. What the server says before it is there is lost, with some SDKs even its
    /// questions, so that nothing is asked of the server until then.
    Hearing,
    Open,
    /// The server does not know the session any more. What it is still asked ends as it does, and nothing more is sent.
    Forgotten,
}

/// What an exchange is for.
#[derive(Debug)]
pub(super) enum What {
    /// A request of the bridge's, with its id (raw).
    Call(Box<str>),
    /// `notifications/initialized`.
    Settle,
    /// Anything else that is only sent.
    Note,
    /// The server's own stream.
    Standing,
    /// The one stream of HTTP+SSE.
    Channel,
}

#[derive(Debug)]
pub(super) enum Body {
    /// No head yet.
    Unknown,
    Json(Vec<u8>),
    Events(Reader),
    /// An error by its status.
    Refusal(StatusCode, Vec<u8>),
    Ignored,
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) what: What,
    pub(super) body: Body,
    /// A call in a session as it was written, until its answer has begun: refused for the session, it was not worked on.
    pub(super) line: Option<Bytes>,
    pub(super) modern: bool,
    pub(super) opens: bool,
    pub(super) lists: bool,
    /// Where the stream is taken up again.
    pub(super) last: Option<String>,
    pub(super) retry: Option<u64>,
    pub(super) tries: u32,
    /// Nothing is under way: it is taken up again then.
    pub(super) again_at: Option<Instant>,
    /// Only sent, or only read for words of a refusal: until then.
    pub(super) until: Option<Instant>,
    /// An answer to a question of the server's: it is not given up for others that are only sent.
    pub(super) keep: bool,
    /// Its call has been answered.
    pub(super) answered: bool,
}

impl Exchange {
    /// One whose request is about to be sent.
    pub(super) fn new(what: What) -> Self {
        Self {
            what,
            body: Body::Unknown,
            line: None,
            modern: false,
            opens: false,
            lists: false,
            last: None,
            retry: None,
            tries: 0,
            again_at: None,
            until: None,
            keep: false,
            answered: false,
        }
    }

    /// Whether a server that does not come to its end is not waited for.
    pub(super) fn is_bounded(&self) -> bool {
        matches!(self.what, What::Settle | What::Note) || matches!(self.body, Body::Refusal(..))
    }

    /// Bytes that it holds.
    pub(super) fn held(&self) -> usize {
        let line = self.line.as_ref().map_or(0, Bytes::len);
        line + match &self.body {
            Body::Json(text) => text.len(),
            Body::Events(reader) => reader.held(),
            _ => 0,
        }
    }
}

/// Whether a refusal is about the session, by the words that servers have for it: those of the official SDKs, and like ones.
pub(super) fn names_session(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.contains("session") || words.contains("not initialized")
}
