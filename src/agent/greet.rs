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
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::proxy::{Place, Trouble};
use crate::mcp::client_side::{Answer, Hearing, ID, is_stream};
use crate::mcp::version::NEWEST_LEGACY;
use crate::translator::hear;

/// The request that every server has to answer, and that opens no session.
pub(super) const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
/// What no server leaves without an answer.
const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// How long `initialize` may take. It goes on while probes come and go: a session that was opened must not be lost.
const INITIALIZE: Duration = Duration::from_secs(30);
/// How long anything else may take that is asked on the way.
const ASIDE: Duration = Duration::from_secs(2);
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
            Some(Answer::Result { .. }) if heard.status.is_success() && session(&heard).is_none() => {
                return Ok(None);
            }
            Some(Answer::Error(words)) if heard.status != StatusCode::NOT_FOUND && not_initialized(words) => {
                return Ok(None);
            }
            _ => end(&place, session(&heard)).await,
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
            end(&place, session(&heard)).await;
            return Ok(None);
        }
        _ => {}
    }
    if heard.status.is_client_error() && timeout(ASIDE, streams(&place)).await.unwrap_or(false) {
        return Ok(None);
    }
    end(&place, session(&heard)).await;
    Err(trouble(heard, &place))
}

/// What an SDK's server with one session in its life says until its first client has come.
fn not_initialized(words: &str) -> bool {
    words.to_ascii_lowercase().contains("not initialized")
}

/// The session that an answer opened, if it did, as far as a client has to bring it.
async fn open(place: &Place, heard: Hearing) -> Option<Session> {
    let mut session = Session {
        headers: session(&heard)?,
        worked: false,
        lists: false,
    };
    // A server that does not take it says so when it is asked for something.
    let _ = timeout(ASIDE, post(place, INITIALIZED, &session.headers)).await;
    if let Ok(Ok(heard)) = timeout(ASIDE, session.ask(place, ASIDE)).await {
        session.worked = lives(&heard);
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
    if !answer.status().is_success() || !is_stream(answer.headers()) {
        return false;
    }
    hear(answer).await.names_endpoint
}

impl Session {
    /// Whether the server knows the session; `renew`: it may be asked for another one.
    async fn check(&mut self, place: &Place, limit: Duration, renew: bool) -> Result<bool, Trouble> {
        let heard = self.ask(place, limit).await?;
        if heard.status.is_server_error() {
            return Err(trouble(heard, place));
        }
        if lives(&heard) {
            self.worked = true;
        } else if self.worked && renew {
            if heard.status != StatusCode::NOT_FOUND {
                end(place, Some(self.headers.clone())).await;
            }
            return Ok(false);
        }
        Ok(true)
    }

    async fn ask(&mut self, place: &Place, limit: Duration) -> Result<Hearing, Trouble> {
        if !self.lists
            && let Ok(heard) = timeout(limit / 2, post(place, PING, &self.headers)).await
        {
            return heard;
        }
        let heard = post(place, LIST, &self.headers).await?;
        self.lists |= lives(&heard);
        Ok(heard)
    }
}

/// The session that an answer names, and the version to be spoken in it.
fn session(heard: &Hearing) -> Option<HeaderMap> {
    let mut headers = HeaderMap::from_iter([(SESSION, heard.headers.get(SESSION)?.clone())]);
    if let Some(Answer::Result {
        version: Some(version), ..
    }) = &heard.answer
        && let Ok(version) = HeaderValue::try_from(version)
    {
        headers.insert(VERSION, version);
    }
    Some(headers)
}

/// Whether an answer is what a server says in a session that it knows.
fn lives(heard: &Hearing) -> bool {
    heard.answer.is_some() && heard.status != StatusCode::NOT_FOUND
}

/// What is wrong with an answer.
fn trouble(heard: Hearing, place: &Place) -> Trouble {
    let Hearing {
        status, headers, said, ..
    } = heard;
    let what = format!("HTTP {} from {}", status.as_u16(), place.name());
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
        return Trouble::Fault(format!("{what}; is the path right? --http PORT/PATH"));
    }
    if status.is_server_error() {
        return Trouble::Said(what, said);
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|k| k.to_str().ok());
    let kind: String = kind.unwrap_or("no type").chars().take(40).collect();
    let what = format!("{what} is no answer of an MCP server; is the path right? --http PORT/PATH; it says ({kind})");
    Trouble::Said(what, said)
}

/// Posts one message and reads what it is answered with.
async fn post(place: &Place, body: &str, headers: &HeaderMap) -> Result<Hearing, Trouble> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    Ok(hear(place.reach(&Method::POST, headers, &body).await?).await)
}
