//! Exchanges as HTTP: what a request asks of the bridge, and the heads of its answers. Pure.

use std::time::Instant;

use http::header::{ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};

use super::channels::{asks_for_one, named};
use super::{Bridge, HttpAnswer, WireId};
use crate::mcp::head;

/// The endpoint of the transport of 2024-11-05; every other path is that of Streamable HTTP.
pub const SSE: &str = "/sse";

const SESSION: HeaderName = HeaderName::from_static(head::SESSION);
const NO_BUFFER: HeaderName = HeaderName::from_static("x-accel-buffering");

impl Bridge {
    /// A request with its whole body. The answer comes as effects for `wire`, now or later.
    pub fn request_of(&mut self, now: Instant, wire: WireId, request: &request::Parts, body: &[u8]) {
        let (headers, old) = (&request.headers, request.uri.path() == SSE);
        match (&request.method, named(request.uri.query())) {
            (&Method::POST, Some(channel)) => self.post_channel(now, wire, headers, channel, body),
            (&Method::GET, _) if old || asks_for_one(headers) => {
                let path = head::text(headers, head::PATH).unwrap_or(request.uri.path());
                self.open_channel(now, wire, headers, path);
            }
            _ if old => self.not_allowed(wire, "GET"),
            (&Method::POST, None) => self.post(now, wire, headers, body),
            (&Method::GET, _) => self.get(now, wire, headers),
            (&Method::DELETE, _) => self.delete(now, wire, headers),
            _ => self.not_allowed(wire, "GET, POST, DELETE"),
        }
    }
}

impl Bridge {
    /// Whether a session, or a stream of the transport of 2024-11-05 by its name, is here.
    pub fn knows(&self, session: Option<&str>, channel: Option<&str>) -> bool {
        let number = channel.and_then(|c| WireId::from_str_radix(c.split_once('-')?.0, 16).ok());
        session.is_some_and(|s| self.keys.contains_key(s)) || number.is_some_and(|n| self.channels.contains_key(&n))
    }
}

impl HttpAnswer {
    /// Status and fields.
    pub fn head(&self) -> (StatusCode, HeaderMap) {
        let mut headers = HeaderMap::new();
        if !self.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(value) = self.session.as_ref().and_then(|s| HeaderValue::try_from(s).ok()) {
            headers.insert(SESSION, value);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(encoding) = self.accept_encoding {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(encoding));
        }
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, headers)
    }
}

/// The fields of an event stream's head (with this `Mcp-Session-Id`).
pub fn stream_head(session: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(NO_BUFFER, HeaderValue::from_static("no"));
    if let Some(value) = session.and_then(|s| HeaderValue::try_from(s).ok()) {
        headers.insert(SESSION, value);
    }
    headers
}
