//! Every answer that the edge makes itself: error -> status, JSON-RPC code, headers, body. In this one file, so that
//! a client meets the same words for the same trouble everywhere. The texts never repeat what the client sent, and
//! never say whether an instance exists to somebody who has no token of it.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{body::EdgeBody, service::BodyError};
use crate::{
    api::{PROBLEM, Problem},
    authz::{Slowed, Whose},
    door::{HostError, Methods, Nowhere},
    link::CallError,
    mcp::{
        codes,
        message::{self, Kind},
    },
    model::State,
};

/// Why a client does not get what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Host(HostError),
    UnknownHost,
    UnknownPath,
    /// There are these.
    Method(Methods),
    Origin,
    NoToken,
    BadToken,
    ExpiredToken,
    /// While the request ran.
    RevokedToken,
    WrongSubject,
    /// While the request ran.
    SessionOver,
    /// The box serves nothing before it is claimed.
    Unclaimed,
    /// A screen's socket was asked for without a session of that screen.
    NoSession,
    /// A screen's link that opens nothing.
    BadTicket,
    /// A socket's address was asked for by something else than a WebSocket's handshake over HTTP/1.1.
    NotWebSocket,
    /// Too many wrong tokens, codes or links from this address, and this one is wrong too.
    TooManyFailures(Duration),
    /// Whoever holds this token has all the connections that they may have, and each is in use.
    Crowded,
    /// Calls come too fast for one that holds bounds; it could be let through after this long.
    TooFast(Whose, Duration),
    TooManyAtOnce(Whose),
    HeadTooLarge,
    BodyTooLarge,
    BodyTooSlow,
    BodyBroken,
    /// The instance is not serving; seconds until trying again makes sense, where it does.
    NotReady(State, Option<u32>),
    /// What is called cannot be kept for the audit, and the configuration says that nothing is called then.
    NoAudit,
    /// No connection to the agent was free in time.
    Busy,
    /// The agent went away before it answered.
    Lost,
    /// The agent does not speak HTTP.
    Garbled,
    FirstByte,
}

impl From<BodyError> for Refusal {
    fn from(e: BodyError) -> Refusal {
        match e {
            BodyError::TooLarge => Refusal::BodyTooLarge,
            BodyError::TooSlow => Refusal::BodyTooSlow,
            BodyError::Broken => Refusal::BodyBroken,
        }
    }
}

impl From<Nowhere> for Refusal {
    fn from(e: Nowhere) -> Refusal {
        match e {
            Nowhere::Host => Refusal::UnknownHost,
            Nowhere::Path => Refusal::UnknownPath,
        }
    }
}

impl From<CallError<BodyError>> for Refusal {
    fn from(e: CallError<BodyError>) -> Refusal {
        match e {
            CallError::Busy => Refusal::Busy,
            CallError::Closed => Refusal::NotReady(State::Removing, None),
            CallError::Lost(_) => Refusal::Lost,
            CallError::Timeout => Refusal::FirstByte,
            CallError::Wire(_) => Refusal::Garbled,
            CallError::Body(e) => e.into(),
        }
    }
}

/// When to try a stopped instance again, in seconds.
const STOPPED: u64 = 30;

/// RFC 6750 section 3.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"berth\"");
const CHALLENGE_INVALID: HeaderValue = HeaderValue::from_static("Bearer realm=\"berth\", error=\"invalid_token\"");

impl Refusal {
    fn status_and_code(self) -> (StatusCode, i64) {
        match self {
            Refusal::Host(_) | Refusal::BodyBroken => (StatusCode::BAD_REQUEST, codes::INVALID_REQUEST),
            Refusal::UnknownHost => (StatusCode::MISDIRECTED_REQUEST, codes::NOT_FOUND),
            Refusal::UnknownPath => (StatusCode::NOT_FOUND, codes::NOT_FOUND),
            Refusal::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, codes::INVALID_REQUEST),
            Refusal::Origin | Refusal::WrongSubject | Refusal::NoSession | Refusal::BadTicket => {
                (StatusCode::FORBIDDEN, codes::UNAUTHORIZED)
            }
            Refusal::NotWebSocket => (StatusCode::UPGRADE_REQUIRED, codes::INVALID_REQUEST),
            Refusal::NoToken
            | Refusal::BadToken
            | Refusal::ExpiredToken
            | Refusal::RevokedToken
            | Refusal::SessionOver => (StatusCode::UNAUTHORIZED, codes::UNAUTHORIZED),
            Refusal::TooManyFailures(_) | Refusal::TooFast(..) | Refusal::TooManyAtOnce(_) => {
                (StatusCode::TOO_MANY_REQUESTS, codes::LIMIT)
            }
            Refusal::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, codes::LIMIT),
            Refusal::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, codes::LIMIT),
            Refusal::BodyTooSlow => (StatusCode::REQUEST_TIMEOUT, codes::LIMIT),
            Refusal::NotReady(State::Removing, _) => (StatusCode::GONE, codes::NOT_FOUND),
            Refusal::NotReady(..) | Refusal::Unclaimed => (StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY),
            Refusal::Busy | Refusal::Crowded | Refusal::NoAudit => (StatusCode::SERVICE_UNAVAILABLE, codes::BUSY),
            Refusal::Lost | Refusal::Garbled => (StatusCode::BAD_GATEWAY, codes::SERVER_GONE),
            Refusal::FirstByte => (StatusCode::GATEWAY_TIMEOUT, codes::CALL_TIMEOUT),
        }
    }

    pub(super) fn status(self) -> StatusCode {
        self.status_and_code().0
    }

    fn message(self) -> &'static str {
        match self {
            Refusal::Host(HostError::Missing) => "The request names no host.",
            Refusal::Host(HostError::Several) => "The request names several hosts.",
            Refusal::Host(HostError::Mismatch) => "Host and the request's target name different hosts.",
            Refusal::Host(HostError::Malformed) => "The host is not valid.",
            Refusal::UnknownHost => "This box does not serve that host; `berth list` shows its addresses.",
            Refusal::UnknownPath => {
                "There is nothing at that path; an MCP endpoint is /mcp on its own host, or /mcp/{id}."
            }
            Refusal::Method(_) => "That method is not allowed.",
            Refusal::Origin => "Pages of that origin may not call this box.",
            Refusal::NoToken => "A bearer token is needed.",
            Refusal::BadToken => "The bearer token is not valid.",
            Refusal::ExpiredToken => "The bearer token has expired.",
            Refusal::RevokedToken => "The bearer token was revoked.",
            Refusal::SessionOver => "The session has ended.",
            Refusal::WrongSubject => "The bearer token is not for this address.",
            Refusal::Unclaimed => "This box is not claimed yet: `berth login` claims it, with the code on its screen.",
            Refusal::NoSession | Refusal::BadTicket => "You need a link to open this screen: `berth screen` makes one.",
            Refusal::NotWebSocket => "This address takes only WebSockets over HTTP/1.1.",
            Refusal::TooManyFailures(_) => {
                "Too many wrong tokens or codes came from this address; wait before trying again."
            }
            Refusal::Crowded => "This token has too many connections in use; close some, or use HTTP/2.",
            Refusal::TooFast(Whose::Member, _) => "This member's calls come too fast; wait before the next.",
            Refusal::TooFast(Whose::Token, _) => "Calls with this token come too fast; wait before the next.",
            Refusal::TooFast(Whose::Instance, _) => "Calls to this instance come too fast; wait before the next.",
            Refusal::TooFast(Whose::Workspace, _) => {
                "Calls to the instances of this workspace come too fast; wait before the next."
            }
            Refusal::TooManyAtOnce(Whose::Member) => {
                "This member has too many calls under way; wait for their answers."
            }
            Refusal::TooManyAtOnce(Whose::Token) => {
                "Too many calls with this token are under way; wait for their answers."
            }
            Refusal::TooManyAtOnce(Whose::Instance) => "Too many calls to this instance are under way; try again.",
            Refusal::TooManyAtOnce(Whose::Workspace) => {
                "Too many calls to the instances of this workspace are under way; try again."
            }
            Refusal::HeadTooLarge => "The request's header section is too large.",
            Refusal::BodyTooLarge => "The request's body is too large.",
            Refusal::BodyTooSlow => "The request's body did not arrive in time.",
            Refusal::BodyBroken => "The request's body ended early or is malformed.",
            Refusal::NotReady(State::Pending | State::Preparing | State::Starting, _) => {
                "The instance is starting; try again."
            }
            Refusal::NotReady(State::Running, _) => "The instance's agent is not connected; try again.",
            Refusal::NotReady(State::Stopped, _) => "The instance is stopped; `berth start` starts it.",
            Refusal::NotReady(State::Failed, _) => "The instance has failed; `berth show` says why.",
            Refusal::NotReady(State::Removing, _) => "The instance is being removed.",
            Refusal::NoAudit => {
                "This box's disk takes no rows of the audit, so that nothing can be called; tell its administrator."
            }
            Refusal::Busy => "All connections to the instance are busy; try again.",
            Refusal::Lost => "The instance went away before it answered.",
            Refusal::Garbled => "The instance did not answer in valid HTTP.",
            Refusal::FirstByte => "The instance did not answer in time.",
        }
    }

    /// Its status and its code, as the audit has them.
    pub(super) fn told(self) -> (StatusCode, &'static str) {
        (self.status(), self.api_code())
    }

    /// Its code among those of the API's errors.
    fn api_code(self) -> &'static str {
        match self {
            Refusal::Host(_) => "bad-host",
            Refusal::UnknownHost => "unknown-host",
            Refusal::UnknownPath => "unknown-path",
            Refusal::Method(_) => "bad-method",
            Refusal::Origin => "bad-origin",
            Refusal::NoToken => "unauthenticated",
            Refusal::BadToken => "bad-token",
            Refusal::ExpiredToken => "expired-token",
            Refusal::RevokedToken => "revoked-token",
            Refusal::SessionOver => "session-over",
            Refusal::WrongSubject => "wrong-token",
            Refusal::Unclaimed => "locked",
            Refusal::NoSession => "no-session",
            Refusal::BadTicket => "bad-ticket",
            Refusal::NotWebSocket => "not-websocket",
            Refusal::TooManyFailures(_) => "too-many-failures",
            Refusal::Crowded => "crowded",
            Refusal::TooFast(..) => "too-fast",
            Refusal::TooManyAtOnce(_) => "too-many-at-once",
            Refusal::HeadTooLarge => "head-too-large",
            Refusal::BodyTooLarge => "body-too-large",
            Refusal::BodyTooSlow => "body-too-slow",
            Refusal::BodyBroken => "body-broken",
            Refusal::NotReady(State::Removing, _) => "gone",
            Refusal::NotReady(..) => "not-serving",
            Refusal::NoAudit => "no-audit",
            Refusal::Busy => "busy",
            Refusal::Lost => "lost",
            Refusal::Garbled => "garbled",
            Refusal::FirstByte => "too-late",
        }
    }

    /// What the API says, which names no verb of the CLI.
    fn detail(self) -> &'static str {
        match self {
            Refusal::UnknownHost => "This box does not serve that host.",
            Refusal::Unclaimed => "This box is not claimed yet; its screen shows the code that claims it.",
            Refusal::NoSession | Refusal::BadTicket => "You need a link to open this screen.",
            Refusal::NotReady(State::Stopped, _) => "The instance is stopped.",
            Refusal::NotReady(State::Failed, _) => "The instance has failed.",
            other => other.message(),
        }
    }

    /// `Retry-After`, in seconds, where waiting helps.
    fn retry_after(self) -> Option<u64> {
        match self {
            Refusal::TooManyFailures(wait) | Refusal::TooFast(_, wait) => {
                Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
            }
            // Somebody may start it at any time.
            Refusal::NotReady(State::Stopped, _) => Some(STOPPED),
            Refusal::NotReady(_, after) => after.map(u64::from),
            Refusal::Busy | Refusal::Lost | Refusal::Crowded | Refusal::TooManyAtOnce(_) => Some(1),
            Refusal::NoAudit => Some(STOPPED),
            _ => None,
        }
    }

    /// Whether the client may still be sending what nobody will read.
    pub(super) fn leaves_body(self) -> bool {
        matches!(
            self,
            Refusal::BodyTooLarge | Refusal::BodyTooSlow | Refusal::HeadTooLarge
        )
    }

    /// Whether it counts against the client's address.
    pub(super) fn is_failed_guess(self) -> bool {
        matches!(
            self,
            Refusal::BadToken | Refusal::ExpiredToken | Refusal::WrongSubject | Refusal::BadTicket
        )
    }

    /// The answer, in JSON-RPC: with the id of what was sent, where that is a request (section 5). For somebody who has
    /// shown no right token nothing is read.
    pub(super) fn response(self, sent: &[u8]) -> Response<EdgeBody> {
        let ((_, code), message) = (self.status_and_code(), self.message());
        let asked = self.is_the_instances().then(|| message::parse(sent).ok()).flatten();
        let id = asked.filter(|m| m.kind == Kind::Request).map_or("null", |m| m.id);
        self.respond(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#
        ))
    }

    /// Whether it is said to somebody who may use the instance.
    fn is_the_instances(self) -> bool {
        matches!(
            self,
            Refusal::NotReady(..)
                | Refusal::RevokedToken
                | Refusal::Crowded
                | Refusal::NoAudit
                | Refusal::TooFast(..)
                | Refusal::TooManyAtOnce(_)
                | Refusal::Busy
                | Refusal::Lost
                | Refusal::Garbled
                | Refusal::FirstByte
        )
    }

    /// The answer as the box's own API gives it: a problem of RFC 9457.
    pub(super) fn plain_response(self) -> Response<EdgeBody> {
        let problem = Problem::plain(self.api_code(), self.detail());
        let mut response = self.respond(serde_json::json!(problem).to_string());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        protect(headers);
        response
    }

    fn respond(self, text: String) -> Response<EdgeBody> {
        let status = self.status();
        let mut response = Response::new(EdgeBody::full(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Refusal::Method(methods) = self {
            // RFC 9110, section 15.5.6.
            let known: Vec<&str> = methods.known().collect();
            if let Ok(known) = HeaderValue::from_str(&known.join(", ")) {
                headers.insert(header::ALLOW, known);
            }
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        if status == StatusCode::UNAUTHORIZED {
            let given = self != Refusal::NoToken;
            headers.insert(
                header::WWW_AUTHENTICATE,
                if given { CHALLENGE_INVALID } else { CHALLENGE },
            );
        }
        response
    }
}

/// What every answer of the box's own says to browsers, whatever else it says: nothing of it is kept, framed, guessed
/// at or told to other sites.
pub(super) fn protect(headers: &mut http::HeaderMap) {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (CROSS_ORIGIN_RESOURCE, "same-origin"),
        (CROSS_ORIGIN_OPENER, "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

const CROSS_ORIGIN_RESOURCE: header::HeaderName = header::HeaderName::from_static("cross-origin-resource-policy");
const CROSS_ORIGIN_OPENER: header::HeaderName = header::HeaderName::from_static("cross-origin-opener-policy");

/// The plain-HTTP listener's answer: the same address by https (308 keeps method and body).
pub(super) fn moved(location: HeaderValue) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// What [`crate::authz::FailureLimiter`] makes of a refusal, and how late it goes out.
pub(super) fn or_slowed(refusal: Refusal, failed: impl FnOnce(IpAddr) -> Slowed, from: IpAddr) -> (Refusal, Duration) {
    if !refusal.is_failed_guess() {
        return (refusal, Duration::ZERO);
    }
    let slowed = failed(from);
    (slowed.wait.map_or(refusal, Refusal::TooManyFailures), slowed.delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_json_rpc() {
        use Refusal::*;
        let all = [
            Host(HostError::Missing),
            Host(HostError::Several),
            Host(HostError::Mismatch),
            Host(HostError::Malformed),
            UnknownHost,
            UnknownPath,
            Method(Methods::Only(&["GET"])),
            Origin,
            NoToken,
            BadToken,
            ExpiredToken,
            RevokedToken,
            WrongSubject,
            SessionOver,
            Unclaimed,
            NoSession,
            BadTicket,
            NotWebSocket,
            TooManyFailures(Duration::from_millis(1500)),
            Crowded,
            TooFast(Whose::Member, Duration::ZERO),
            TooFast(Whose::Token, Duration::ZERO),
            TooFast(Whose::Instance, Duration::ZERO),
            TooFast(Whose::Workspace, Duration::ZERO),
            TooManyAtOnce(Whose::Member),
            TooManyAtOnce(Whose::Token),
            TooManyAtOnce(Whose::Instance),
            TooManyAtOnce(Whose::Workspace),
            HeadTooLarge,
            BodyTooLarge,
            BodyTooSlow,
            BodyBroken,
            NotReady(State::Starting, Some(2)),
            NotReady(State::Failed, None),
            NotReady(State::Removing, None),
            NoAudit,
            Busy,
            Lost,
            Garbled,
            FirstByte,
        ];
        for refusal in all {
            let r = refusal.response(b"");
            let v: serde_json::Value = serde_json::from_slice(r.body().whole().unwrap()).unwrap();
            assert_eq!(v["jsonrpc"], "2.0");
            assert!(v["id"].is_null() && v["error"]["code"].is_i64() && v["error"]["message"].is_string());
            let plain = refusal.plain_response();
            let v: serde_json::Value = serde_json::from_slice(plain.body().whole().unwrap()).unwrap();
            assert_eq!(
                (plain.status(), &v["status"]),
                (r.status(), &r.status().as_u16().into()),
                "{v}"
            );
            assert!(!v["detail"].as_str().unwrap().contains("`berth"), "{v}");
            assert_eq!(
                r.status() == 401,
                r.headers().contains_key("www-authenticate"),
                "{refusal:?}"
            );
        }
        assert_eq!(
            TooManyFailures(Duration::from_millis(1500)).response(b"").headers()["retry-after"],
            "2"
        );
        let call = br#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;
        let soon = TooFast(Whose::Instance, Duration::from_micros(3)).response(call);
        assert_eq!(
            (soon.status().as_u16(), &soon.headers()["retry-after"]),
            (429, &"1".parse().unwrap())
        );
        let said: serde_json::Value = serde_json::from_slice(soon.body().whole().unwrap()).unwrap();
        assert_eq!(said["id"], 7, "who made the call is told which it was");
    }
}
