//! Which eras and transports a server speaks, and which of them a client's request needs.
//!
//! ```text
//! server/discover ─┬─names 2026-07-28──► modern; initialize ─┬─result──► legacy as well; the session is ended
//!                  │                                         └─anything else──► modern alone
//!                  ├─any answer of JSON-RPC, or 2xx──► legacy
//!                  ├─another 4xx──► GET ─┬─an endpoint event──► legacy, HTTP+SSE
//!                  │                     └─anything else──► legacy
//!                  └─401, 403, 429, 5xx──► nobody knows: see [`Speaks::default`]
//! ```
//!
//! `server/discover` goes first: it opens no session, and servers of both eras stay what they are.

use http::{HeaderMap, StatusCode};

use super::answer::{Answer, Hearing, ID};
use super::request::{self, Outgoing, Session};
use crate::mcp::head;
use crate::mcp::version::{self, Era};

/// How a server speaks the legacy era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP, 2025-03-26 and later.
    Streamable,
    /// HTTP with SSE, 2024-11-05.
    HttpSse,
}

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speaks {
    pub modern: bool,
    pub legacy: Option<Transport>,
}

impl Default for Speaks {
    /// What is taken for granted of a server that does not tell: everything, so that requests reach it as they are.
    fn default() -> Self {
        Self {
            modern: true,
            legacy: Some(Transport::Streamable),
        }
    }
}

/// What a client's request needs its server to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    Modern,
    Legacy,
}

impl Speaks {
    /// Whether a request can reach the server as it is.
    pub fn takes(self, wants: Wants) -> bool {
        match wants {
            Wants::Modern => self.modern,
            Wants::Legacy => self.legacy == Some(Transport::Streamable),
        }
    }
}

/// What a request needs, by its headers alone. A modern one whose version is missing or unknown says by another header
/// what it is.
pub fn wants(headers: &HeaderMap) -> Wants {
    match head::version(headers) {
        Some((_, Some(Era::Legacy))) => Wants::Legacy,
        Some((_, Some(Era::Modern))) => Wants::Modern,
        _ if headers.contains_key("mcp-method") => Wants::Modern,
        _ => Wants::Legacy,
    }
}

/// A probe under way.
#[derive(Debug)]
pub struct Probe(Step);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Discovering,
    Initializing,
    Streaming,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Another request, whose answer the probe wants.
    Ask(Outgoing),
    /// What the server speaks, and the request that ends the session that was opened to find out. `None`: it does not tell.
    Done(Option<Speaks>, Option<Outgoing>),
}

impl Probe {
    /// A probe and its first request.
    pub fn start() -> (Self, Outgoing) {
        (Self(Step::Discovering), request::discover(ID))
    }

    /// Takes the answer to the last request; `None`: there was none in time.
    pub fn heard(&mut self, heard: Option<&Hearing>) -> Next {
        let done = |modern, legacy| Next::Done(Some(Speaks { modern, legacy }), None);
        let streamable = Some(Transport::Streamable);
        match (self.0, heard) {
            (Step::Discovering, Some(heard)) => self.discovered(heard),
            (Step::Initializing, Some(heard)) => match &heard.answer {
                Some(Answer::Result { version, .. }) if heard.status.is_success() => {
                    let known = version.as_deref().and_then(version::era) == Some(Era::Legacy);
                    let speaks = Speaks {
                        modern: true,
                        legacy: streamable.filter(|_| known),
                    };
                    Next::Done(Some(speaks), ended(heard, version.as_deref()))
                }
                _ if puts_off(heard.status) => Next::Done(None, None),
                _ => done(true, None),
            },
            (Step::Discovering | Step::Initializing, None) => Next::Done(None, None),
            (Step::Streaming, Some(heard)) if heard.names_endpoint => done(false, Some(Transport::HttpSse)),
            (Step::Streaming, _) => done(false, streamable),
        }
    }

    fn discovered(&mut self, heard: &Hearing) -> Next {
        match &heard.answer {
            Some(Answer::Result { modern: true, .. }) if heard.status.is_success() => {
                self.0 = Step::Initializing;
                Next::Ask(request::initialize(ID))
            }
            None if heard.status.is_client_error() && !puts_off(heard.status) => {
                self.0 = Step::Streaming;
                Next::Ask(request::stream(&Session::default(), None))
            }
            None if !heard.status.is_success() => Next::Done(None, None),
            // Also in words of JSON-RPC.
            Some(Answer::Error { .. }) if is_elsewhere(heard.status) => Next::Done(None, None),
            _ => {
                let speaks = Speaks {
                    modern: false,
                    legacy: Some(Transport::Streamable),
                };
                Next::Done(Some(speaks), ended(heard, None))
            }
        }
    }
}

/// Whether an answer says nothing of what the server speaks: it wants another key, or has too much to do.
fn puts_off(status: StatusCode) -> bool {
    status.is_server_error() || is_elsewhere(status)
}

/// The same of statuses that no server has for a method which it does not know.
fn is_elsewhere(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Ends the session that an answer opened.
fn ended(heard: &Hearing, version: Option<&str>) -> Option<Outgoing> {
    let id = heard.headers.get(head::SESSION)?.clone();
    let version = version.and_then(|v| v.try_into().ok());
    Some(request::end(&Session { id: Some(id), version }))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn heard(status: u16, kind: &str, session: Option<&str>, body: &str) -> Hearing {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", kind.parse().expect("header"));
        if let Some(session) = session {
            headers.insert(head::SESSION, session.parse().expect("header"));
        }
        let mut heard = Hearing::new(StatusCode::from_u16(status).expect("status"), headers);
        heard.feed(body.as_bytes());
        heard.end();
        heard
    }

    fn json(status: u16, body: &str) -> Hearing {
        heard(status, "application/json", None, body)
    }

    const DISCOVERY: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"]}}"#;
    const HELLO: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}"#;
    const ERROR: &str = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no session"}}"#;

    fn speaks(modern: bool, legacy: Option<Transport>) -> Option<Speaks> {
        Some(Speaks { modern, legacy })
    }

    #[test]
    fn one_question_tells_a_legacy_server() {
        for (answer, want) in [
            (json(400, ERROR), speaks(false, Some(Transport::Streamable))),
            (
                json(200, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601}}"#),
                speaks(false, Some(Transport::Streamable)),
            ),
            (json(200, "{}"), speaks(false, Some(Transport::Streamable))),
            (json(401, "{}"), None),
            (json(503, "{}"), None),
            (json(302, ""), None),
        ] {
            let (mut probe, first) = Probe::start();
            assert_eq!(first.headers["mcp-method"], "server/discover");
            assert_eq!(probe.heard(Some(&answer)), Next::Done(want, None), "{answer:?}");
        }
        let (mut probe, _) = Probe::start();
        assert_eq!(probe.heard(None), Next::Done(None, None));
    }

    #[test]
    fn a_modern_server_is_asked_for_the_other_era_too() {
        for (answer, legacy, ends) in [
            (heard(200, "application/json", Some("s"), HELLO), true, true),
            (json(200, HELLO), true, false),
            (json(400, ERROR), false, false),
            (json(404, "gone"), false, false),
        ] {
            let (mut probe, _) = Probe::start();
            let Next::Ask(next) = probe.heard(Some(&json(200, DISCOVERY))) else {
                panic!("initialize is asked");
            };
            assert!(!next.headers.contains_key(head::VERSION) && !next.headers.contains_key("mcp-method"));
            let Next::Done(got, end) = probe.heard(Some(&answer)) else {
                panic!("it is known");
            };
            assert_eq!(got, speaks(true, legacy.then_some(Transport::Streamable)));
            assert_eq!(end.is_some_and(|e| e.method == Method::DELETE), ends);
        }
    }

    #[test]
    fn a_server_of_the_oldest_transport_is_found() {
        let stream = |text: &str| heard(200, "text/event-stream", None, text);
        for (answer, want) in [
            (stream("event: endpoint\ndata: /m\n\n"), Transport::HttpSse),
            (stream("data: {}\n\n"), Transport::Streamable),
            (json(405, ""), Transport::Streamable),
        ] {
            let (mut probe, _) = Probe::start();
            assert!(matches!(probe.heard(Some(&json(405, "no"))), Next::Ask(o) if o.method == Method::GET));
            assert_eq!(probe.heard(Some(&answer)), Next::Done(speaks(false, Some(want)), None));
        }
    }

    #[test]
    fn what_a_request_needs_is_said_by_its_headers() {
        let of = |fields: &[(&'static str, &str)]| {
            let fields = fields.iter().map(|(k, v)| {
                let name = http::HeaderName::from_static(k);
                (name, v.parse().expect("header"))
            });
            wants(&HeaderMap::from_iter(fields))
        };
        let method = ("mcp-method", "tools/list");
        assert_eq!(of(&[("mcp-protocol-version", "2026-07-28")]), Wants::Modern);
        assert_eq!(of(&[("mcp-protocol-version", "2025-06-18"), method]), Wants::Legacy);
        assert_eq!(of(&[("mcp-protocol-version", "2099-01-01"), method]), Wants::Modern);
        assert_eq!(of(&[method]), Wants::Modern);
        assert_eq!(of(&[]), Wants::Legacy);
        assert!(Speaks::default().takes(Wants::Modern) && Speaks::default().takes(Wants::Legacy));
    }
}
