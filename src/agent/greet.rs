//! Whether a service that speaks HTTP itself is an MCP server: asked as a client would ask (MCP 2025-11-25,
//! basic/lifecycle and basic/transports).
//!
//! ```text
//! ping without a session ─┬─result──► alive
//!   │                     └─"not initialized"──► alive: the one session that it has is left to a client
//!   └─anything else──► initialize ─┬─result, with a session──► alive: the session is kept, and pinged from now on
//!                                  ├─result, error of JSON-RPC, 401, 403 or 429──► alive
//!                                  ├─400 to 499──► GET: a stream of 2024-11-05 is alive, anything else a fault
//!                                  └─anything else──► a fault
//! ping in the session ─┬─answered──► alive
//!                      ├─no answer──► tools/list, from now on
//!                      ├─refused, after it was answered before──► greeted anew
//!                      └─refused from the beginning──► alive: whatever it answers but an error of the server
//! ```
//!
//! An error of JSON-RPC is an answer: servers of the stateless era (2026-07-28) do not know `initialize`, others want a
//! session for everything else. A server that wants its own authorization is up; whoever has that gets through.
//!
//! Servers count sessions, and some have only one in their life. So `ping` goes first, which opens none, and at most one is
//! kept. What was opened and is not kept is ended at once.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::proxy::{Place, Trouble};
use crate::mcp::message::{self, Kind};
use crate::mcp::sse::Reader;
use crate::mcp::version::NEWEST_LEGACY;

/// The request that every server has to answer, and that opens no session.
pub(super) const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
/// What no server leaves without an answer.
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
/// The id of all of them.
const ID: u64 = 1;

/// How long `initialize` may take. It goes on while probes come and go: a session that was opened must not be lost.
const INITIALIZE: Duration = Duration::from_secs(30);
/// How long anything else may take that is asked on the way.
const ASIDE: Duration = Duration::from_secs(2);
/// Of an answer, so many bytes are read.
const MAX_ANSWER: usize = 1 << 20;
/// So many of them are kept to be shown.
const KEPT: usize = 4096;
/// A session that the server has forgotten is opened anew so many times.
const MAX_LOST: u32 = 16;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// What is known of a server.
#[derive(Debug, Default)]
pub(super) struct Greeting(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    session: Option<Session>,
    /// A greeting that is under way.
    pending: Option<JoinHandle<Result<Option<Session>, Trouble>>>,
    /// Sessions that the server has forgotten.
    lost: u32,
}

/// A session of ours.
#[derive(Debug)]
struct Session {
    /// Its id and its protocol version.
    headers: HeaderMap,
    /// A request in it was answered.
    worked: bool,
    /// It does not answer `ping`.
    lists: bool,
}

/// One MCP round trip, of which `limit` is known to be the time.
///
/// # Errors
/// [`Trouble`].
pub(super) async fn probe(place: &Rc<Place>, limit: Duration) -> Result<(), Trouble> {
    let mut state = place.greeting.0.lock().await;
    let State { session, pending, lost } = &mut *state;
    if let Some(known) = session {
        if known.check(place, limit, *lost < MAX_LOST).await? {
            return Ok(());
        }
        *lost += 1;
        *session = None;
    }
    let greeting = pending.get_or_insert_with(|| tokio::task::spawn_local(greet(Rc::clone(place))));
    let greeted = greeting.await;
    *pending = None;
    *session = greeted.map_err(|e| Trouble::Fault(e.to_string()))??;
    Ok(())
}

/// Finds out what a server is; the session that it opened.
async fn greet(place: Rc<Place>) -> Result<Option<Session>, Trouble> {
    if let Ok(heard) = timeout(ASIDE, post(&place, PING, &HeaderMap::new())).await {
        let heard = heard?;
        match &heard.answer {
            Some(Answer::Result { .. }) if heard.status.is_success() && heard.session().is_none() => {
                return Ok(None);
            }
            Some(Answer::Error(words)) if heard.status != StatusCode::NOT_FOUND && not_initialized(words) => {
                return Ok(None);
            }
            _ => end(&place, heard.session()).await,
        }
    }
    let hello = serde_json::json!({"jsonrpc": "2.0", "id": ID, "method": "initialize", "params": {
        "protocolVersion": NEWEST_LEGACY, "capabilities": {},
        "clientInfo": {"name": "berth", "version": env!("CARGO_PKG_VERSION")}}});
    let heard = timeout(INITIALIZE, post(&place, &hello.to_string(), &HeaderMap::new()))
        .await
        .unwrap_or_else(|_| Err(Trouble::Fault(format!("{} does not answer initialize", place.name()))))?;
    match (&heard.answer, heard.status) {
        // Without a session, there is nothing else that could be missing.
        (_, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => {}
        (_, status) if status.is_server_error() => {}
        (Some(Answer::Result { .. }), _) => return Ok(open(&place, heard).await),
        (Some(Answer::Error(_)), _)
        | (None, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS) => {
            end(&place, heard.session()).await;
            return Ok(None);
        }
        _ => {}
    }
    if heard.status.is_client_error() && timeout(ASIDE, streams(&place)).await.unwrap_or(false) {
        return Ok(None);
    }
    end(&place, heard.session()).await;
    Err(heard.trouble(&place))
}

/// What an SDK's server with one session in its life says until its first client has come.
fn not_initialized(words: &str) -> bool {
    words.to_ascii_lowercase().contains("not initialized")
}

/// The session that an answer opened, if it did, as far as a client has to bring it.
async fn open(place: &Place, heard: Heard) -> Option<Session> {
    let mut session = Session {
        headers: heard.session()?,
        worked: false,
        lists: false,
    };
    // A server that does not take it says so when it is asked for something.
    let _ = timeout(ASIDE, post(place, INITIALIZED, &session.headers)).await;
    if let Ok(Ok(heard)) = timeout(ASIDE, session.ask(place, ASIDE)).await {
        session.worked = heard.lives();
    }
    Some(session)
}

/// Ends a session. A server that does not end sessions on request lets them expire.
async fn end(place: &Place, session: Option<HeaderMap>) {
    if let Some(headers) = session {
        let _ = timeout(ASIDE, place.reach(&Method::DELETE, &headers, &Bytes::new())).await;
    }
}

/// Whether `GET` gives a stream of 2024-11-05: its first event says where to post to.
async fn streams(place: &Place) -> bool {
    let accept = (ACCEPT, HeaderValue::from_static("text/event-stream"));
    let Ok(answer) = place
        .reach(&Method::GET, &HeaderMap::from_iter([accept]), &Bytes::new())
        .await
    else {
        return false;
    };
    if !answer.status().is_success() || !is_stream(&answer) {
        return false;
    }
    let (mut body, mut reader, mut length, mut first) = (answer.into_body(), Reader::default(), 0, None);
    while length < KEPT && first.is_none() {
        let Some(Ok(frame)) = body.frame().await else { break };
        let piece = frame.into_data().unwrap_or_default();
        length += piece.len();
        reader.feed(&piece, |event| {
            first.get_or_insert(event.kind);
        });
    }
    first.as_deref() == Some("endpoint")
}

impl Session {
    /// Whether the server knows the session; `renew`: it may be asked for another one.
    async fn check(&mut self, place: &Place, limit: Duration, renew: bool) -> Result<bool, Trouble> {
        let heard = self.ask(place, limit).await?;
        if heard.status.is_server_error() {
            return Err(heard.trouble(place));
        }
        if heard.lives() {
            self.worked = true;
        } else if self.worked && renew {
            if heard.status != StatusCode::NOT_FOUND {
                end(place, Some(self.headers.clone())).await;
            }
            return Ok(false);
        }
        Ok(true)
    }

    async fn ask(&mut self, place: &Place, limit: Duration) -> Result<Heard, Trouble> {
        if !self.lists
            && let Ok(heard) = timeout(limit / 2, post(place, PING, &self.headers)).await
        {
            return heard;
        }
        let heard = post(place, LIST, &self.headers).await?;
        self.lists |= heard.lives();
        Ok(heard)
    }
}

/// An answer to one of the requests.
struct Heard {
    status: StatusCode,
    headers: HeaderMap,
    answer: Option<Answer>,
    /// How the body begins.
    said: Vec<u8>,
}

/// A response of JSON-RPC.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// To our request; the protocol version that it names.
    Result { version: Option<String> },
    /// To whatever: many that refuse a request do not look at its id. Its message.
    Error(String),
}

impl Heard {
    /// The session that it names, and the version to be spoken in it.
    fn session(&self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::from_iter([(SESSION, self.headers.get(SESSION)?.clone())]);
        if let Some(Answer::Result { version: Some(version) }) = &self.answer
            && let Ok(version) = HeaderValue::try_from(version)
        {
            headers.insert(VERSION, version);
        }
        Some(headers)
    }

    /// Whether it is what a server answers in a session that it knows.
    fn lives(&self) -> bool {
        self.answer.is_some() && self.status != StatusCode::NOT_FOUND
    }

    fn trouble(self, place: &Place) -> Trouble {
        let Self {
            status, headers, said, ..
        } = self;
        let what = format!("HTTP {} from {}", status.as_u16(), place.name());
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            return Trouble::Fault(format!("{what}; is the path right? --http PORT/PATH"));
        }
        if status.is_server_error() {
            return Trouble::Said(what, said);
        }
        let kind = headers.get(CONTENT_TYPE).and_then(|k| k.to_str().ok());
        let kind: String = kind.unwrap_or("no type").chars().take(40).collect();
        let what =
            format!("{what} is no answer of an MCP server; is the path right? --http PORT/PATH; it says ({kind})");
        Trouble::Said(what, said)
    }
}

/// Posts one message and reads what it is answered with.
async fn post(place: &Place, body: &str, headers: &HeaderMap) -> Result<Heard, Trouble> {
    let answer = place
        .reach(&Method::POST, headers, &Bytes::copy_from_slice(body.as_bytes()))
        .await?;
    let stream = is_stream(&answer);
    let (parts, body) = answer.into_parts();
    let (answer, said) = listen(body, stream).await;
    Ok(Heard {
        status: parts.status,
        headers: parts.headers,
        answer,
        said,
    })
}

fn is_stream(answer: &Response<Incoming>) -> bool {
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|k| k.to_str().ok());
    kind.is_some_and(|k| k.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// Reads a body until it has told what it is: a stream need not end.
async fn listen(mut body: Incoming, stream: bool) -> (Option<Answer>, Vec<u8>) {
    let (mut all, mut reader, mut answer) = (Vec::new(), Reader::default(), None);
    while answer.is_none() && all.len() < MAX_ANSWER && (stream || could_be_json(&all)) {
        let Some(Ok(frame)) = body.frame().await else { break };
        let piece = frame.into_data().unwrap_or_default();
        all.extend_from_slice(&piece);
        if stream {
            reader.feed(&piece, |event| answer = answer.take().or_else(|| read(&event.data)));
        }
    }
    if answer.is_none() && all.len() >= MAX_ANSWER {
        // Too long to be looked into, and long enough to be a list.
        answer = memchr::memmem::find(&all, b"\"jsonrpc\"").map(|_| Answer::Result { version: None });
    } else if !stream {
        answer = read(&all);
    }
    all.truncate(KEPT);
    (answer, all)
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
        let result = |version: Option<&str>| {
            Some(Answer::Result {
                version: version.map(str::to_owned),
            })
        };
        let error = |words: &str| Some(Answer::Error(words.to_owned()));
        for (text, want) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, result(None)),
            (
                r#" {"result":{"protocolVersion":"2025-06-18"},"id":"1","error":null,"jsonrpc":"2.0"}"#,
                result(Some("2025-06-18")),
            ),
            (r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#, result(None)),
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
