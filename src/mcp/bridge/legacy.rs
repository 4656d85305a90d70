//! POST, and what legacy clients (2024-11-05 to 2025-11-25) send by it.
//!
//! Decides the era of each message; a modern one goes to the module `modern`.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use serde_json::value::RawValue;

use super::guests::Guest;
use super::listen::Wish;
use super::room::Need;
use super::{
    Bridge, Call, Effect, HttpAnswer, MAX_IN_FLIGHT, Phase, Role, SessionNo, StreamId, TOO_MUCH, What, WireId,
};
use crate::mcp::head::{self, Accepts};
use crate::mcp::message::{self, Kind, Message};
use crate::mcp::version::Era;
use crate::mcp::{codes, meta};

/// Exchanges that may wait for a shared process to be ready.
const MAX_WAITING: usize = 64;
/// Messages in one batch.
const MAX_BATCH: usize = 256;
/// The last protocol version that has batches.
const LAST_WITH_BATCHES: &str = "2025-03-26";
/// What a client of a later one is told.
pub(super) const NO_BATCHES: &str = "this protocol version has no batches";
/// A protocol version that a client asks for, at most.
const MAX_VERSION: usize = 64;

/// A client of a shared type whose `initialize` waits for the process.
#[derive(Debug)]
pub(super) struct Waiting {
    stream: StreamId,
    id: Box<str>,
    version: String,
    guest: Option<Box<Guest>>,
    principal: Arc<str>,
    until: Instant,
}

/// Whether a body is a batch.
pub(super) fn is_batch(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'[')
}

/// The messages of a batch; what is wrong with it, as code and words.
pub(super) fn batch(body: &[u8]) -> Result<Vec<Message<'_>>, (i64, String)> {
    let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(|e| (codes::PARSE_ERROR, e.to_string()))?;
    let parsed: Result<Vec<_>, _> = items.iter().map(|i| message::parse(i.get().as_bytes())).collect();
    match parsed {
        Ok(list) if (1..=MAX_BATCH).contains(&list.len()) && list.iter().all(|m| m.method != "initialize") => Ok(list),
        _ => {
            let bad =
                format!("a batch holds 1 to {MAX_BATCH} requests, notifications and responses, and no initialize");
            Err((codes::INVALID_REQUEST, bad))
        }
    }
}

impl Bridge {
    /// `POST` on the MCP endpoint. The answer comes as effects for `wire`, now or later.
    pub fn post(&mut self, now: Instant, wire: WireId, headers: &HeaderMap, body: &[u8]) {
        if !self.readable(wire, headers, body) {
            return;
        }
        let accepts = head::accepts(headers);
        if !accepts.json && !accepts.sse {
            let text = "send Accept: application/json, text/event-stream";
            return self.refuse(wire, 406, "", codes::INVALID_REQUEST, text, None);
        }
        if is_batch(body) {
            return self.batch(now, wire, headers, accepts, body);
        }
        let m = match message::parse(body) {
            Ok(m) => m,
            Err(e) => return self.refuse(wire, 400, "", e.code(), &e.to_string(), None),
        };
        let named = || !headers.contains_key(head::SESSION) && meta::names_version(m.params);
        let modern = match head::version(headers) {
            Some(_) if self.agreed(headers) => false,
            Some((_, Some(Era::Modern))) => true,
            Some((_, Some(Era::Legacy))) if named() => {
                let text = "MCP-Protocol-Version does not match the version in params._meta";
                return self.refuse(wire, 400, m.id, codes::HEADER_MISMATCH, text, None);
            }
            Some((_, Some(Era::Legacy))) => false,
            Some((v, None)) => return self.refuse_version(wire, m.id, v),
            None => named(),
        };
        if modern {
            return self.modern(now, wire, headers, accepts, &m);
        }
        if m.kind == Kind::Request && m.method == "initialize" {
            let principal = self.principal(headers);
            self.initialize(now, (wire, wire), accepts, principal, &m);
            return;
        }
        let Some(session) = self.session(now, wire, headers, m.id) else {
            return;
        };
        match m.kind {
            Kind::Request => {
                self.stream(now, wire, Some(session), accepts, 1);
                self.legacy_request(now, wire, session, &m);
            }
            Kind::Notification => {
                if self.legacy_notification(now, session, &m) {
                    self.accepted(wire);
                } else {
                    self.refuse(wire, 503, m.id, codes::BUSY, TOO_MUCH, None);
                }
            }
            Kind::Response => {
                self.ask_answered(now, session, &m);
                self.accepted(wire);
            }
        }
    }

    /// Whether a body can be read at all; refused if not.
    pub(super) fn readable(&mut self, wire: WireId, headers: &HeaderMap, body: &[u8]) -> bool {
        if head::is_encoded(headers) {
            let text = "send the body without Content-Encoding: it is read as it is";
            let mut answer = HttpAnswer::error(415, "", codes::INVALID_REQUEST, text, None);
            answer.accept_encoding = Some("identity");
            self.effects.push(Effect::Answer(wire, answer));
            return false;
        }
        if !head::is_json(headers) {
            let text = "send Content-Type: application/json";
            self.refuse(wire, 415, "", codes::INVALID_REQUEST, text, None);
            return false;
        }
        if body.len() > self.config.max_message {
            let text = format!("a message may have {} bytes at most", self.config.max_message);
            self.refuse(wire, 413, "", codes::LIMIT, &text, None);
            return false;
        }
        true
    }

    /// Refuses a request that has its stream already: by a status where the stream is no stream yet, nor a batch.
    pub(super) fn refuse_on(&mut self, now: Instant, stream: StreamId, id: &str, status: u16, code: i64, text: &str) {
        if self.streams.get(&stream).is_some_and(|l| l.opened || l.batch.is_some()) {
            return self.respond(now, stream, message::error(id, code, text, None), status);
        }
        self.answer(stream, HttpAnswer::error(status, id, code, text, None));
    }

    /// The process that serves a session.
    pub(super) fn proc_of(&mut self, now: Instant, session: SessionNo) -> Option<u64> {
        match self.sessions.get(&session)?.proc {
            Some(own) => Some(own),
            None => self.shared_legacy(now),
        }
    }

    /// One request of a session. Its stream exists already.
    pub(super) fn legacy_request(&mut self, now: Instant, stream: StreamId, session: SessionNo, m: &Message<'_>) {
        let Some(proc) = self.proc_of(now, session) else {
            let text = "the server is starting again, try again";
            return self.refuse_on(now, stream, m.id, 503, codes::NOT_READY, text);
        };
        let clogged = self.clogged(proc);
        let Some(s) = self.sessions.get(&session) else { return };
        if s.ids.contains_key(m.id) {
            let text = "a request with this id is in flight already";
            return self.refuse_on(now, stream, m.id, 400, codes::INVALID_REQUEST, text);
        }
        if clogged || s.ids.len() >= MAX_IN_FLIGHT {
            return self.refuse_on(now, stream, m.id, 503, codes::BUSY, TOO_MUCH);
        }
        if s.guest.is_some() {
            return self.guest_request(now, stream, session, proc, m);
        }
        let mut what = What::Plain;
        if s.proc.is_none() {
            match self.watching(now, stream, session, m) {
                Wish::Other => {}
                Wish::Done => return,
                Wish::Ask(watch) => what = watch,
            }
        }
        let token = meta::progress_token(m);
        let (deadline, bound) = self.times(now);
        let id = self.register(Call {
            proc,
            stream: Some(stream),
            session: Some(session),
            client: None,
            id: m.id.into(),
            token: token.map(Into::into),
            deadline,
            bound,
            logs: Some(0),
            again: false,
            what,
        });
        self.pass_on(proc, id, m, token);
    }

    /// One notification of a session; `false` when the server does not read.
    pub(super) fn legacy_notification(&mut self, now: Instant, session: SessionNo, m: &Message<'_>) -> bool {
        let Some(proc) = self.proc_of(now, session) else {
            return true;
        };
        if self.clogged(proc) {
            return false;
        }
        let Some(s) = self.sessions.get(&session) else {
            return true;
        };
        let (shared, guest) = (s.proc.is_none(), s.guest.is_some());
        if m.method == "notifications/cancelled" {
            self.legacy_cancel(now, session, proc, m);
        } else if guest {
            // The modern era has no other notification from clients.
        } else if !shared {
            self.write(proc, |out| message::splice_line(out, m.text, &[]));
        } else if !matches!(
            &*m.method,
            "notifications/initialized" | "notifications/roots/list_changed"
        ) {
            // Those two speak for one client, and the process has heard ours.
            self.write(proc, |out| message::splice_line(out, m.text, &[]));
        }
        true
    }

    /// A client cancels a call. The server may answer all the same, for a while.
    fn legacy_cancel(&mut self, now: Instant, session: SessionNo, proc: u64, m: &Message<'_>) {
        let Some(raw) = message::params(m.params).and_then(|p| p.request_id) else {
            return;
        };
        let Some(id) = self.sessions.get(&session).and_then(|s| s.ids.get(raw.get()).copied()) else {
            return;
        };
        let Some(call) = self.calls.get_mut(&id).filter(|c| c.proc == proc) else {
            return;
        };
        if let Some(s) = self.sessions.get_mut(&session) {
            s.cancelled.insert(id);
        }
        let grace = now + super::UNDELIVERED;
        call.deadline = Some(call.deadline.map_or(grace, |d| d.min(grace)));
        call.bound = None;
        if matches!(&call.what, What::Guest(pending) if pending.is_asking()) {
            // The server has answered what it was asked; the questions to the client end with the call.
            return;
        }
        let mut buffer = itoa::Buffer::new();
        let own = buffer.format(id).as_bytes();
        let cuts = [(message::place(m.text, raw.get()), own)];
        self.write(proc, |out| message::splice_line(out, m.text, &cuts));
    }

    /// Whether the protocol version of a session has batches.
    pub(super) fn knows_batches(&self, session: SessionNo) -> bool {
        let version = self.sessions.get(&session).map(|s| s.version.as_str());
        version.is_none_or(|v| v <= LAST_WITH_BATCHES)
    }

    /// A batch (2025-03-26): all its requests share one stream.
    fn batch(&mut self, now: Instant, wire: WireId, headers: &HeaderMap, accepts: Accepts, body: &[u8]) {
        let list = match self::batch(body) {
            Ok(list) => list,
            Err((code, text)) => return self.refuse(wire, 400, "", code, &text, None),
        };
        let Some(session) = self.session(now, wire, headers, "") else {
            return;
        };
        if !self.knows_batches(session) {
            return self.refuse(wire, 400, "", codes::INVALID_REQUEST, NO_BATCHES, None);
        }
        let requests = list.iter().filter(|m| m.kind == Kind::Request).count();
        if requests > 0 {
            self.stream(now, wire, Some(session), accepts, requests as u32);
            if let Some(stream) = self.streams.get_mut(&wire) {
                stream.batch = Some(Vec::new());
            }
        }
        for m in &list {
            match m.kind {
                Kind::Request => self.legacy_request(now, wire, session, m),
                Kind::Notification => {
                    self.legacy_notification(now, session, m);
                }
                Kind::Response => self.ask_answered(now, session, m),
            }
        }
        if requests == 0 {
            self.accepted(wire);
        }
    }

    /// `initialize`: opens a session, which is answered on the stream. `false` when the exchange was refused.
    pub(super) fn initialize(
        &mut self,
        now: Instant,
        (wire, stream): (WireId, StreamId),
        accepts: Accepts,
        principal: Arc<str>,
        m: &Message<'_>,
    ) -> bool {
        let params = message::params(m.params).unwrap_or_default();
        let asked = params.version.and_then(|v| message::string(v.get()));
        let Some(asked) = asked.filter(|v| v.len() <= MAX_VERSION) else {
            let text = "initialize needs params.protocolVersion";
            self.refuse(wire, 400, m.id, codes::INVALID_PARAMS, text, None);
            return false;
        };
        let guest = Guest::new(&params);
        if self.per_session() {
            if let Err(why) = self.make_room(now, Need::Process) {
                self.refuse(wire, 503, m.id, codes::BUSY, &why, None);
                return false;
            }
            self.initialize_own(now, stream, accepts, m, &asked, (guest, principal));
            return true;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.refuse(wire, 503, m.id, codes::BUSY, TOO_MUCH, None);
            return false;
        }
        self.opening_stream(now, stream, None, accepts);
        let until = now + self.config.start;
        self.waiting.push(Waiting {
            stream,
            id: m.id.into(),
            version: asked,
            guest,
            principal,
            until,
        });
        self.greet_waiting(now);
        true
    }

    /// Whether the stream's `initialize` waits for the process.
    pub(super) fn waits(&self, stream: StreamId) -> bool {
        self.waiting.iter().any(|w| w.stream == stream)
    }

    /// `initialize` where each session has a process of its own: a new one answers it, or says what it is if it is
    /// known to speak the modern era alone.
    fn initialize_own(
        &mut self,
        now: Instant,
        stream: StreamId,
        accepts: Accepts,
        m: &Message<'_>,
        asked: &str,
        (guest, principal): (Option<Box<Guest>>, Arc<str>),
    ) {
        let standing = self.standing_ready().and_then(|id| self.procs.get(&id));
        let guest = guest.filter(|_| standing.is_some_and(|p| p.era == Era::Modern));
        let discover = guest.is_some() && self.modern_only.is_some();
        let era = if discover { Era::Modern } else { Era::Legacy };
        let proc = self.spawn(now, Role::Standing, Phase::Initializing, era);
        let session = self.open_session(now, Some(proc), asked, principal);
        if let Some(p) = self.procs.get_mut(&proc) {
            p.role = Role::Session(session);
        }
        if let Some(s) = self.sessions.get_mut(&session) {
            s.guest = guest;
        }
        self.opening_stream(now, stream, Some(session), accepts);
        let id = self.register(Call {
            proc,
            stream: Some(stream),
            session: Some(session),
            client: None,
            id: m.id.into(),
            token: None,
            deadline: None,
            bound: None,
            logs: None,
            again: false,
            what: What::Opening,
        });
        if discover {
            return self.discover_own(proc, id);
        }
        let mut line = Vec::new();
        message::splice(
            &mut line,
            m.text,
            &[(message::place(m.text, m.id), id.to_string().as_bytes())],
        );
        let line = String::from_utf8(line).unwrap_or_default().replace(['\n', '\r'], " ");
        self.write_now(proc, &line);
    }

    /// The client's own `initialize` was answered by the process of its session.
    pub(super) fn opened(&mut self, now: Instant, call: &Call, m: &Message<'_>) {
        let (Some(no), Some(stream)) = (call.session, call.stream) else {
            return;
        };
        let era = self.procs.get(&call.proc).map(|p| p.era);
        let (json, version) = match m.result.and_then(meta::protocol_version) {
            Some(version) if era == Some(Era::Legacy) => (self.restore(m, 0, call), version),
            _ => match self.guest_opened(no, call, m) {
                Ok(Some(found)) => found,
                Ok(None) => return,
                Err(()) => {
                    self.leave(stream);
                    self.respond(now, stream, self.restore(m, 0, call), 200);
                    return self.end_session(now, no, "initialize was refused");
                }
            },
        };
        if let Some(p) = self.procs.get_mut(&call.proc) {
            p.version = version.clone();
            p.hello = m.result.map(Into::into);
        }
        let Some(session) = self.sessions.get_mut(&no) else {
            return;
        };
        if era == Some(Era::Legacy) {
            session.guest = None;
        }
        session.version = version;
        session.open = true;
        session.last = now;
        let key = session.key.clone();
        self.ready(now, call.proc);
        self.welcome(now, stream, Some(key), json);
        if era == Some(Era::Modern) {
            self.feed_joined(now, call.proc);
        }
    }

    /// A stream for `initialize`; a channel is one already.
    fn opening_stream(&mut self, now: Instant, id: StreamId, session: Option<SessionNo>, accepts: Accepts) {
        if !self.channels.contains_key(&id) {
            self.stream(now, id, session, accepts, 1);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.opening = true;
            }
        } else if let Some(no) = session {
            self.join(no, id);
        }
    }

    /// Takes the stream of an `initialize` that failed out of its session, so that it outlives it for the answer. A channel
    /// ends with its session, after the answer.
    fn leave(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|_| !self.channels.contains_key(&id)) {
            stream.session = None;
        }
    }

    /// Answers `initialize`, with the session's id.
    fn welcome(&mut self, now: Instant, stream: StreamId, session: Option<String>, json: Vec<u8>) {
        if self.streams.get(&stream).is_some_and(|l| l.accepts.json && !l.opened) {
            self.answer(
                stream,
                HttpAnswer {
                    status: 200,
                    session,
                    body: json.into(),
                    ..HttpAnswer::default()
                },
            );
        } else {
            self.respond(now, stream, json, 200);
        }
    }

    /// The process of a session ended, or its time ran out, before it answered `initialize`.
    pub(super) fn opening_failed(&mut self, now: Instant, call: &Call, code: i64, why: &str) {
        let (Some(no), Some(stream)) = (call.session, call.stream) else {
            return;
        };
        self.leave(stream);
        self.respond(now, stream, message::error(&call.id, code, why, None), 200);
        self.end_session(now, no, why);
    }

    /// Answers the clients that wait for a shared process, if it is there.
    pub(super) fn greet_waiting(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(proc) = self.shared_legacy(now) else { return };
        let modern = self.procs.get(&proc).is_some_and(|p| p.era == Era::Modern);
        for w in std::mem::take(&mut self.waiting) {
            if !self.streams.contains_key(&w.stream) {
                continue;
            }
            if let Err(why) = self.make_room(now, Need::Session) {
                self.refuse_on(now, w.stream, &w.id, 503, codes::BUSY, &why);
                continue;
            }
            if modern && w.guest.is_none() {
                let text = "the client's capabilities are no object, or too long";
                self.refuse_on(now, w.stream, &w.id, 400, codes::INVALID_PARAMS, text);
                continue;
            }
            let Some((hello, version)) = self.hello_for(proc, &w.version) else {
                continue;
            };
            let no = self.open_session(now, None, &version, w.principal);
            let mut key = None;
            if let Some(s) = self.sessions.get_mut(&no) {
                s.open = true;
                s.guest = w.guest.filter(|_| modern);
                key = Some(s.key.clone());
            }
            self.join(no, w.stream);
            self.welcome(now, w.stream, key, message::result(&w.id, &hello));
            if modern {
                self.feed_joined(now, proc);
            }
        }
    }

    /// Tells the clients that wait for a shared process that there is none.
    pub(super) fn refuse_waiting(&mut self, now: Instant, why: &str) {
        for w in std::mem::take(&mut self.waiting) {
            self.respond(now, w.stream, message::error(&w.id, codes::SERVER_GONE, why, None), 200);
        }
    }

    /// Clients that have waited too long for a shared process.
    pub(super) fn tick_waiting(&mut self, now: Instant) {
        let (late, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|w| now >= w.until);
        self.waiting = rest;
        let late: Vec<Waiting> = late;
        for w in late {
            let text = "the server is not ready, try again";
            self.refuse_on(now, w.stream, &w.id, 503, codes::NOT_READY, text);
        }
    }
}
