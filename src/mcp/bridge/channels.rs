//! Clients of the transport of 2024-11-05 (HTTP with SSE): one stream for all that a client is told, and a URI, said by the
//! stream's first event, to which it posts all that it says (2024-11-05, basic/transports, "HTTP with SSE").
//!
//! ```text
//! GET ──► endpoint event ──POST initialize──► a session ──POST …──► its answers, on the stream
//!              │                                  │
//!              └── no initialize in time ──► ended ◄── the stream closed, or the session ended
//! ```
//!
//! A *channel* is such a stream. Its stream has the number of its exchange, and becomes the session's own when there is a
//! session. That session ends with its stream: there is no resumption, so its events have no ids and none is kept. Which
//! channel a POST is for is said by a secret in its query, which only the token may use that opened the stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use super::legacy::{self, NO_BATCHES};
use super::{Bridge, Effect, SessionNo, StreamId, TOO_MUCH, WireId};
use crate::mcp::head::{self, Accepts};
use crate::mcp::message::{self, Kind, Message};
use crate::mcp::{codes, sse};

/// How long a stream waits for its client's `initialize`.
const FIRST: Duration = Duration::from_secs(60);
/// The query's parameter that names a channel.
const PARAMETER: &str = "sessionId";

/// What a client is told that has no session yet.
const NOT_YET: &str = "send initialize first, and wait for its answer";

/// A stream of the old transport.
#[derive(Debug)]
pub(super) struct Channel {
    secret: String,
    principal: Arc<str>,
    since: Instant,
}

/// Whether a GET without a session asks for a stream of the old transport. Clients of the newer ones have a session by
/// then, where they have been answered `initialize`, and name their version from 2025-06-18 on.
pub(super) fn asks_for_one(headers: &HeaderMap) -> bool {
    let named = [head::SESSION, head::VERSION, "last-event-id"];
    head::names_sse(headers) && !named.iter().any(|n| headers.contains_key(*n))
}

/// The channel that a query names; none where what it says cannot be one of ours.
pub fn named(query: Option<&str>) -> Option<&str> {
    let pairs = query?.split('&').filter_map(|p| p.split_once('='));
    let value = pairs.into_iter().find(|(name, _)| *name == PARAMETER)?.1;
    let hex = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit());
    let (number, secret) = value.split_once('-')?;
    (hex(number) && hex(secret)).then_some(value)
}

impl Bridge {
    /// `GET` by a client of the old transport. `path` is the one that the client used: it is to post to it.
    pub fn open_channel(&mut self, now: Instant, wire: WireId, headers: &HeaderMap, path: &str) {
        if !head::accepts(headers).sse {
            let text = "a GET stream needs Accept: text/event-stream";
            return self.refuse(wire, 406, "", codes::INVALID_REQUEST, text, None);
        }
        let begun = self.channels.keys().filter(|w| self.session_of(**w).is_none());
        if begun.count() >= self.config.max_sessions {
            return self.refuse(wire, 503, "", codes::BUSY, TOO_MUCH, None);
        }
        let accepts = Accepts { json: false, sse: true };
        self.stream(now, wire, None, accepts, 0);
        if let Some(stream) = self.streams.get_mut(&wire) {
            (stream.opened, stream.standing) = (true, true);
        }
        let (secret, principal) = (self.secret(), self.principal(headers));
        self.effects.push(Effect::Open(wire, None));
        let uri = format!("{path}?{PARAMETER}={wire:x}-{secret}");
        self.effects.push(Effect::Send(wire, Bytes::from(sse::endpoint(&uri))));
        let channel = Channel {
            secret,
            principal,
            since: now,
        };
        self.channels.insert(wire, channel);
    }

    /// The session of a channel.
    fn session_of(&self, channel: StreamId) -> Option<SessionNo> {
        self.streams.get(&channel)?.session
    }

    /// `POST` to a channel, which the query names. What it asks is answered on the channel's stream.
    pub fn post_channel(&mut self, now: Instant, wire: WireId, headers: &HeaderMap, name: &str, body: &[u8]) {
        if !self.readable(wire, headers, body) {
            return;
        }
        let principal = head::text(headers, head::PRINCIPAL).unwrap_or_default();
        let found = name.split_once('-').and_then(|(number, secret)| {
            let channel = StreamId::from_str_radix(number, 16).ok()?;
            let own = |c: &&Channel| c.secret == secret && *c.principal == *principal;
            self.channels.get(&channel).filter(own).map(|_| channel)
        });
        let Some(channel) = found else {
            let text = "unknown session: its stream has ended, open another";
            return self.refuse(wire, 404, "", codes::SESSION_NOT_FOUND, text, None);
        };
        if legacy::is_batch(body) {
            return self.channel_batch(now, wire, channel, body);
        }
        let m = match message::parse(body) {
            Ok(m) => m,
            Err(e) => return self.refuse(wire, 400, "", e.code(), &e.to_string(), None),
        };
        let opens = m.kind == Kind::Request && m.method == "initialize";
        let session = self.session_of(channel);
        match session {
            None if opens && !self.waits(channel) => {
                let principal = self.principal(headers);
                let accepts = Accepts { json: false, sse: true };
                if self.initialize(now, (wire, channel), accepts, principal, &m) {
                    self.accepted(wire);
                }
            }
            Some(no) if !opens && self.sessions.get(&no).is_some_and(|s| s.open) => {
                if self.channel_message(now, channel, no, &m) {
                    self.accepted(wire);
                } else {
                    self.refuse(wire, 503, m.id, codes::BUSY, TOO_MUCH, None);
                }
            }
            _ if opens => {
                let text = "initialize was sent already";
                self.refuse(wire, 400, m.id, codes::INVALID_REQUEST, text, None);
            }
            _ => self.refuse(wire, 400, m.id, codes::INVALID_REQUEST, NOT_YET, None),
        }
    }

    /// A batch: each of its requests is answered by an event of its own.
    fn channel_batch(&mut self, now: Instant, wire: WireId, channel: StreamId, body: &[u8]) {
        let list = match legacy::batch(body) {
            Ok(list) => list,
            Err((code, text)) => return self.refuse(wire, 400, "", code, &text, None),
        };
        let open = |no: &SessionNo| self.sessions.get(no).is_some_and(|s| s.open);
        let Some(no) = self.session_of(channel).filter(open) else {
            return self.refuse(wire, 400, "", codes::INVALID_REQUEST, NOT_YET, None);
        };
        if !self.knows_batches(no) {
            return self.refuse(wire, 400, "", codes::INVALID_REQUEST, NO_BATCHES, None);
        }
        for m in &list {
            // A notification that the server does not read is lost, as it is on the other path.
            self.channel_message(now, channel, no, m);
        }
        self.accepted(wire);
    }

    /// One message of a session; `false` when the server does not read.
    fn channel_message(&mut self, now: Instant, channel: StreamId, no: SessionNo, m: &Message<'_>) -> bool {
        if let Some(s) = self.sessions.get_mut(&no) {
            (s.last, s.used) = (now, true);
        }
        match m.kind {
            Kind::Request => self.legacy_request(now, channel, no, m),
            Kind::Notification => return self.legacy_notification(now, no, m),
            Kind::Response => self.ask_answered(now, no, m),
        }
        true
    }

    /// Makes a stream a session's: a channel's takes the place of the session's own.
    pub(super) fn join(&mut self, no: SessionNo, stream: StreamId) {
        let Some(l) = self.streams.get_mut(&stream) else { return };
        l.session = Some(no);
        if self.channels.contains_key(&stream)
            && let Some(s) = self.sessions.get_mut(&no)
        {
            let own = std::mem::replace(&mut s.stream, stream);
            self.streams.remove(&own);
        }
    }

    /// A channel's client is gone, and with it its session.
    pub(super) fn channel_closed(&mut self, now: Instant, channel: StreamId) {
        self.channels.remove(&channel);
        let Some(stream) = self.streams.get_mut(&channel) else {
            return;
        };
        stream.wire = None;
        match stream.session {
            Some(no) => self.end_session(now, no, "the client closed its stream"),
            None => drop(self.streams.remove(&channel)),
        }
    }

    /// Ends channels on which nothing was begun.
    pub(super) fn tick_channels(&mut self, now: Instant) {
        let due = |(w, c): &(&WireId, &Channel)| now >= c.since + FIRST && self.session_of(**w).is_none();
        let late: Vec<WireId> = self.channels.iter().filter(due).map(|(w, _)| *w).collect();
        for channel in late.into_iter().filter(|c| !self.waits(*c)).collect::<Vec<_>>() {
            self.end_stream(channel);
        }
    }
}
