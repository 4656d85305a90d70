//! F2: Stands before a server that speaks HTTP and translates for the clients that it has no protocol era or transport in
//! common with. Which these are, one probe tells (`mcp::client_side`). All others are passed on as they are, by whoever asks
//! here; nothing of what they send is looked at but its headers.
//!
//! ```text
//! client ─ request ─► takes? ─no──► passed on (not by this module)
//!                        └────yes─► hub: the bridge ─► a connection for each process it would have ─► exchanges
//! ```
//!
//! What the server speaks is asked once, and again after it was away, when it refuses what it should know, and in time
//! (`known`). Clients that have begun here go on here. Tasks of a translator are those of its hub: one that looks at
//! deadlines, and one for each exchange with the server; all end with it.

mod body;
mod hub;
mod known;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::UPGRADE;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::budget::{Budget, collect};
use crate::mcp::bridge::{Config, SSE};
use crate::mcp::client_side::{Hearing, Outgoing, Speaks, Transport, Wants, wants};
use crate::mcp::{codes, head, message};

pub use body::Body;
use hub::Hub;
use known::Known;

/// Why the server gives no answer, in words for clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

/// An answer of the server.
pub type Sent = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Unanswered>> + Send>>;

/// Randomness for the ids of a bridge's sessions.
pub fn random(out: &mut [u8]) {
    if getrandom::fill(out).is_err() {
        // Without randomness there are no session ids that nobody can guess.
        std::process::abort();
    }
}

/// The server, as it is reached.
pub trait Server: Send + Sync + 'static {
    /// Sends one request, with whatever proves Berth to it.
    fn send(&self, out: Outgoing) -> Sent;
    /// The path of its endpoint.
    fn path(&self) -> String;
    /// A line for the log.
    fn log(&self, text: &str);
}

/// What stands before one server.
pub struct Translator {
    server: Arc<dyn Server>,
    config: Config,
    budget: Budget,
    known: Known,
    hub: Mutex<Option<Arc<Hub>>>,
}

impl std::fmt::Debug for Translator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Translator")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl Translator {
    /// Before this server; bodies that are read, and streams that wait, count for the budget.
    pub fn new(server: Arc<dyn Server>, config: Config, budget: Budget) -> Self {
        Self {
            known: Known::new(Arc::clone(&server)),
            server,
            config,
            budget,
            hub: Mutex::default(),
        }
    }

    /// Whether a request is to be translated: its client's session is here, or the server does not speak its era.
    pub async fn takes(&self, request: &Request<Incoming>) -> bool {
        let (headers, query) = (request.headers(), request.uri().query());
        if headers.contains_key(UPGRADE) {
            return false;
        }
        if self.live().is_some_and(|hub| hub.knows(headers, query)) {
            return true;
        }
        let speaks = self.speaks().await;
        if request.uri().path() == SSE {
            return speaks.legacy == Some(Transport::HttpSse);
        }
        !speaks.takes(wants(headers))
    }

    /// A request was passed on and answered with this status: what is known of the server may be wrong. `begins`: see
    /// [`begins`].
    pub fn passed(&self, begins: bool, status: StatusCode) {
        let odd = matches!(
            status,
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
        );
        if odd && begins {
            self.known.doubt();
        }
    }

    /// The server did not answer: it may be another one when it comes back.
    pub fn away(&self) {
        self.known.forget();
    }

    /// Answers a request that is to be translated.
    pub async fn serve(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let (body, charge) = match parts.method {
            Method::POST => match collect(body, self.config.max_message, &self.budget).await {
                Ok(read) => read,
                Err(why) => return refuse(why.status(), why.code(), &why.to_string()),
            },
            _ => Default::default(),
        };
        let hub = self.hub();
        match hub.ready().await {
            Ok(()) => {}
            Err(None) => {
                let text = "the server is starting, try again";
                return refuse(StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY, text);
            }
            Err(Some(why)) => {
                self.away();
                let text = format!("the server cannot be spoken to: {why}");
                return refuse(StatusCode::BAD_GATEWAY, codes::SERVER_GONE, &text);
            }
        }
        let answer = hub.ask(&parts, &body);
        drop((parts, body, charge));
        answer.await
    }

    /// Ends every session and stream of it; clients are told why.
    pub fn close(&self, why: &str) {
        let hub = self.slot().take();
        if let Some(hub) = hub {
            hub.close(why);
        }
    }

    /// Ends the sessions of a principal who is let in no longer; how many there were.
    pub fn forget(&self, principal: &str, why: &str) -> usize {
        self.live().map_or(0, |hub| hub.forget(principal, why))
    }

    /// What the server speaks: known, or asked now.
    pub async fn speaks(&self) -> Speaks {
        self.known.speaks().await
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Hub>>> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hub, if there is one and it serves.
    fn live(&self) -> Option<Arc<Hub>> {
        self.slot().clone().filter(|hub| !hub.is_over())
    }

    /// The hub; a new one where there is none.
    fn hub(&self) -> Arc<Hub> {
        let mut slot = self.slot();
        match &*slot {
            Some(hub) if !hub.is_over() => Arc::clone(hub),
            _ => {
                let (server, budget) = (Arc::clone(&self.server), self.budget.clone());
                let hub = Hub::start(server, self.config.clone(), budget);
                *slot = Some(Arc::clone(&hub));
                hub
            }
        }
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.close("the server is no longer served here");
    }
}

/// Whether the status of a request's answer says something of what its server speaks: it begins a session, or needs none.
pub fn begins(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::POST && (!headers.contains_key(head::SESSION) || wants(headers) == Wants::Modern)
}

/// Reads an answer until it has told what it is.
pub async fn hear(answer: Response<Incoming>) -> Hearing {
    let (parts, mut body) = answer.into_parts();
    let mut heard = Hearing::new(parts.status, parts.headers);
    while let Some(Ok(frame)) = body.frame().await {
        if heard.feed(&frame.into_data().unwrap_or_default()) {
            break;
        }
    }
    heard.end();
    heard
}

/// An error of JSON-RPC as a whole answer.
fn refuse(status: StatusCode, code: i64, text: &str) -> Response<Body> {
    let mut answer = Response::new(Body::full(message::error("", code, text, None).into()));
    *answer.status_mut() = status;
    let kind = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        let second = http::HeaderValue::from_static("1");
        answer.headers_mut().insert(http::header::RETRY_AFTER, second);
    }
    answer
}
