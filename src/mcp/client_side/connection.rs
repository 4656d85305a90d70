//! A connection to a server that speaks HTTP: takes lines as a stdio server's stdin does, gives messages as its stdout,
//! and carries both by HTTP exchanges.
//!
//! ```text
//! fresh ──initialize──► opening ──result──► greeted ──notifications/initialized──► settling ──taken──► hearing ──► open
//!   │                      │ 400 to 499          │                                    (what follows is held)
//!   │                      └──GET, endpoint──────┘ the same over HTTP+SSE (2024-11-05)
//!   └──modern requests: an exchange each, and nothing else
//! ```
//!
//! A stream that ends before its answer is taken up again where the server gave its events ids (2025-11-25,
//! basic/transports, "Resumability and Redelivery"); the modern era has none of that. A cancelled request's exchange is
//! dropped: in the modern era that is the cancellation.
//!
//! Whatever a request comes to, it is answered: by the server's message, or by an error of ours. Never holds more than
//! [`MAX_HELD`] in all.

mod ends;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};

use self::ends::FORGOTTEN;
use super::answer::is_stream;
use super::exchange::{Body, Exchange, Phase, What, names_session};
use super::request::{self, Outgoing, Session, Target};
use crate::mcp::message::{self, Kind, Message};
use crate::mcp::mirror::Mirrored;
use crate::mcp::sse::{Event, Reader};
use crate::mcp::{codes, head, meta};

/// One HTTP exchange; never reused within a connection.
pub type ExchangeId = u64;

/// Bytes that may be held: unfinished answers and events, and lines that wait.
const MAX_HELD: usize = 16 * 1024 * 1024;
/// Of an answer that is an error by its status, so many bytes are read.
const MAX_REFUSAL: usize = 64 * 1024;
/// Of what it says, so many characters go into words.
const SHOWN: usize = 200;
/// A stream is taken up again so many times without an event in between.
const MAX_TRIES: u32 = 5;
/// When a stream is taken up again, where the server does not say; at the soonest, and at the latest.
const RETRY: (Duration, Duration, Duration) = (
    Duration::from_secs(1),
    Duration::from_millis(50),
    Duration::from_secs(30),
);

/// A server's own stream has so long to begin before calls go ahead of it: some send no head before the first event.
const HEARD: Duration = Duration::from_secs(1);

/// A server may take so long to take `notifications/initialized`.
const SETTLED: Duration = Duration::from_secs(10);

/// What the caller has to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a request; what comes of it is told to the connection under this id.
    Send(ExchangeId, Outgoing),
    /// Drop the exchange, wherever it stands.
    Drop(ExchangeId),
    /// A message of the server's.
    Line(Vec<u8>),
    /// The connection is of no use any more, and why.
    Gone(String),
    /// The server does not know the session any more. These requests it refused for that, or was never sent.
    Forgotten(Vec<Bytes>),
}

/// The state machine. See the module's text.
#[derive(Debug)]
pub struct Connection {
    /// One message at most, in bytes.
    max: usize,
    /// The endpoint's path, which an `endpoint` event may be relative to.
    base: String,
    phase: Phase,
    session: Session,
    /// Where messages of HTTP+SSE are posted to.
    post_to: Option<String>,
    /// The `initialize` that is under way.
    opening: Option<(Box<str>, Bytes)>,
    held: Vec<Bytes>,
    held_bytes: usize,
    exchanges: BTreeMap<ExchangeId, Exchange>,
    /// Why it was refused by POST, while a stream of HTTP+SSE is looked for.
    refusal: String,
    tools: Mirrored,
    next: ExchangeId,
    /// When what is held waits no longer.
    wait_until: Option<Instant>,
    effects: Vec<Effect>,
    gone: bool,
}

impl Connection {
    /// A connection on which nothing was said. `base`: the path of the server's endpoint; `max`: bytes of one message.
    pub fn new(base: &str, max: usize) -> Self {
        Self {
            max,
            base: base.to_owned(),
            phase: Phase::Fresh,
            session: Session::default(),
            post_to: None,
            opening: None,
            held: Vec::new(),
            held_bytes: 0,
            exchanges: BTreeMap::new(),
            refusal: String::new(),
            tools: Mirrored::default(),
            next: 1,
            wait_until: None,
            effects: Vec::new(),
            gone: false,
        }
    }

    /// What is to be done since the last time it was asked.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        self.see_off();
        std::mem::take(&mut self.effects)
    }

    /// Takes whole lines, each a message.
    pub fn write(&mut self, lines: &[u8]) {
        for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            self.message(Bytes::copy_from_slice(line));
        }
    }

    /// Ends the connection: what is under way is dropped; the request that ends its session, if it has one.
    pub fn close(&mut self) -> Option<Outgoing> {
        self.drop_all();
        self.gone = true;
        self.session.id.as_ref().map(|_| request::end(&self.session))
    }

    /// An answer's head.
    pub fn head(&mut self, id: ExchangeId, status: StatusCode, headers: &HeaderMap) {
        let in_session = self.session.id.is_some();
        if self
            .exchanges
            .get(&id)
            .is_some_and(|x| matches!(x.what, What::Standing))
        {
            self.open();
        }
        let Some(x) = self.exchanges.get_mut(&id) else { return };
        // Where a stream of the server's own is not found, there may never have been any.
        let asks = !x.modern && !matches!(x.what, What::Standing);
        if status == StatusCode::NOT_FOUND && in_session && asks {
            return self.forgotten(id);
        }
        if !status.is_success() {
            x.body = Body::Refusal(status, Vec::new());
            if matches!(x.what, What::Settle) {
                self.settled();
            }
            return;
        }
        // It is worked on.
        self.held_bytes = self.held_bytes.saturating_sub(x.line.take().map_or(0, |l| l.len()));
        x.body = match x.what {
            What::Settle | What::Note => Body::Ignored,
            _ if is_stream(headers) => Body::Events(Reader::default()),
            What::Standing | What::Channel => Body::Refusal(status, Vec::new()),
            What::Call(_) if self.post_to.is_some() => Body::Ignored,
            What::Call(_) => Body::Json(Vec::new()),
        };
        if x.opens
            && let Some(session) = headers.get(head::SESSION)
        {
            self.session.id = Some(session.clone());
        }
        if matches!(x.what, What::Settle) {
            self.settled();
        }
    }

    /// A piece of an answer's body.
    pub fn data(&mut self, id: ExchangeId, piece: &[u8]) {
        let Some(x) = self.exchanges.get_mut(&id) else { return };
        let mut events: Vec<Event> = Vec::new();
        let too_long = match &mut x.body {
            Body::Unknown | Body::Ignored => return,
            Body::Json(text) => {
                text.extend_from_slice(piece);
                self.held_bytes += piece.len();
                text.len() > self.max || self.held_bytes > MAX_HELD
            }
            Body::Refusal(_, text) => {
                text.extend_from_slice(&piece[..piece.len().min(MAX_REFUSAL.saturating_sub(text.len()))]);
                false
            }
            Body::Events(reader) => {
                let before = reader.held();
                reader.feed(piece, |event| events.push(event));
                let held = reader.held();
                self.held_bytes = (self.held_bytes + held).saturating_sub(before);
                x.last = reader.last_id().map(str::to_owned).or(x.last.take());
                x.retry = reader.retry().or(x.retry);
                held > self.max || self.held_bytes > MAX_HELD
            }
        };
        for event in events {
            self.event(id, &event);
        }
        if too_long {
            let why = format!("the server's answer is longer than {} bytes", self.max);
            self.fail(id, codes::LIMIT, &why);
        }
    }

    /// An answer's body has ended.
    pub fn end(&mut self, now: Instant, id: ExchangeId) {
        let Some(x) = self.exchanges.get_mut(&id) else { return };
        match std::mem::replace(&mut x.body, Body::Ignored) {
            Body::Json(text) => {
                self.held_bytes = self.held_bytes.saturating_sub(text.len());
                if !text.trim_ascii().is_empty() {
                    self.deliver(id, &text);
                }
                let why = "the server's answer holds no response to the request";
                self.fail(id, codes::BAD_ANSWER, why);
            }
            Body::Events(reader) => {
                self.held_bytes = self.held_bytes.saturating_sub(reader.held());
                self.stream_ended(now, id);
            }
            Body::Refusal(status, text) => self.refused(now, id, status, &text),
            Body::Unknown => self.failed(now, id, "the server sent no answer"),
            // What a call over HTTP+SSE is answered with comes on the channel.
            Body::Ignored => drop(self.exchanges.remove(&id)),
        }
    }

    /// There is no answer, or no more of it.
    pub fn failed(&mut self, now: Instant, id: ExchangeId, why: &str) {
        let Some(x) = self.exchanges.get(&id) else { return };
        match (&x.what, &x.body) {
            (_, Body::Events(_)) => self.end(now, id),
            (What::Channel, _) => self.lost(&format!("the server's stream cannot be opened: {why}")),
            (What::Standing, _) => {
                self.open();
                self.again(now, id);
            }
            (What::Settle, _) => {
                self.exchanges.remove(&id);
                self.settled();
            }
            (What::Note, _) => drop(self.exchanges.remove(&id)),
            (What::Call(_), _) if x.opens || self.phase == Phase::Fresh && !x.modern => self.lost(why),
            (What::Call(_), _) if x.last.is_some() => self.again(now, id),
            (What::Call(_), _) => self.fail(id, codes::SERVER_GONE, &format!("the server does not answer: {why}")),
        }
    }

    /// Takes streams up again whose time has come, and waits no longer for one that does not begin.
    pub fn tick(&mut self, now: Instant) {
        let wait = match self.phase {
            Phase::Settling => SETTLED,
            _ => HEARD,
        };
        if self.is_holding() && now >= *self.wait_until.get_or_insert(now + wait) {
            self.settled();
            self.open();
        }
        self.end_bounded(now);
        let due = |x: &Exchange| x.again_at.is_some_and(|at| now >= at);
        let ids: Vec<ExchangeId> = self
            .exchanges
            .iter()
            .filter(|(_, x)| due(x))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(mut x) = self.exchanges.remove(&id) else {
                continue;
            };
            x.again_at = None;
            x.body = Body::Unknown;
            let out = request::stream(&self.session, x.last.as_deref());
            self.send(x, out);
        }
    }

    /// Whether something waits for [`Connection::tick`].
    pub fn waits(&self) -> bool {
        let ends = |x: &Exchange| x.again_at.is_some() || x.is_bounded();
        self.is_holding() || self.phase == Phase::Forgotten || self.exchanges.values().any(ends)
    }

    fn send(&mut self, x: Exchange, out: Outgoing) -> ExchangeId {
        let id = self.next;
        self.next += 1;
        self.exchanges.insert(id, x);
        self.effects.push(Effect::Send(id, out));
        id
    }

    /// One message on its way to the server.
    fn message(&mut self, line: Bytes) {
        if self.gone {
            return;
        }
        let Ok(m) = message::parse(&line) else { return };
        if m.kind == Kind::Request && meta::names_version(m.params) {
            let out = request::modern(&m, &self.tools);
            let (id, lists) = (m.id.into(), m.method == "tools/list");
            let mut x = Exchange::new(What::Call(id));
            (x.modern, x.lists) = (true, lists);
            self.send(x, out);
            return;
        }
        if m.method == "notifications/cancelled" {
            return self.cancel(&m, &line);
        }
        let opens = m.kind == Kind::Request && m.method == "initialize";
        match self.phase {
            Phase::Forgotten if m.kind != Kind::Request => return,
            Phase::Forgotten if self.held_bytes + line.len() > MAX_HELD => {
                let error = message::error(m.id, codes::SERVER_GONE, FORGOTTEN, None);
                return self.effects.push(Effect::Line(error));
            }
            Phase::Forgotten => {
                self.held_bytes += line.len();
                return self.held.push(line);
            }
            // The modern era knows no notification and no response of a client's.
            Phase::Fresh if m.kind != Kind::Request => return,
            Phase::Fresh if opens => {
                self.phase = Phase::Opening;
                self.opening = Some((m.id.into(), line.clone()));
            }
            _ if self.is_holding() && self.held_bytes + line.len() <= MAX_HELD => {
                self.held_bytes += line.len();
                return self.held.push(line);
            }
            _ => {}
        }
        let what = match m.kind {
            Kind::Request => What::Call(m.id.into()),
            _ if m.method == "notifications/initialized" && self.phase == Phase::Greeted => {
                self.phase = Phase::Settling;
                What::Settle
            }
            _ => What::Note,
        };
        let mut x = Exchange::new(what);
        x.opens = opens;
        x.keep = m.kind == Kind::Response;
        let in_session = self.session.id.is_some() && !opens;
        if in_session && matches!(x.what, What::Call(_)) && self.held_bytes + line.len() <= MAX_HELD {
            self.held_bytes += line.len();
            x.line = Some(line.clone());
        }
        if matches!(x.what, What::Note) {
            self.make_room();
        }
        self.post(x, line);
    }

    /// Posts a message of the legacy era.
    fn post(&mut self, x: Exchange, line: Bytes) {
        let mut out = request::legacy(line, &self.session);
        if let Some(path) = &self.post_to {
            out.target = Target::Path(path.clone());
        }
        self.send(x, out);
    }

    /// Whether what follows the greeting waits.
    fn is_holding(&self) -> bool {
        matches!(self.phase, Phase::Settling | Phase::Hearing)
    }

    /// The server has taken `notifications/initialized`: its own messages are asked for.
    fn settled(&mut self) {
        if self.phase != Phase::Settling {
            return;
        }
        (self.phase, self.wait_until) = (Phase::Hearing, None);
        if self.post_to.is_some() {
            return self.open();
        }
        let out = request::stream(&self.session, None);
        self.send(Exchange::new(What::Standing), out);
    }

    /// What the server says by itself is heard, or there is nothing to hear: what was held may follow.
    fn open(&mut self) {
        if self.phase != Phase::Hearing {
            return;
        }
        self.phase = Phase::Open;
        for line in std::mem::take(&mut self.held) {
            self.held_bytes = self.held_bytes.saturating_sub(line.len());
            self.message(line);
        }
    }

    /// One event of a stream.
    fn event(&mut self, id: ExchangeId, event: &Event) {
        let Some(x) = self.exchanges.get_mut(&id) else { return };
        x.tries = 0;
        match (&x.what, &*event.kind) {
            (What::Channel, "endpoint") if self.post_to.is_none() => {
                let reference = String::from_utf8_lossy(&event.data).into_owned();
                let Some(path) = request::endpoint(&self.base, &reference) else {
                    return self.lost("the server's endpoint event names no path");
                };
                self.post_to = Some(path);
                if let Some((call, line)) = self.opening.clone() {
                    let mut x = Exchange::new(What::Call(call));
                    x.opens = true;
                    self.post(x, line);
                }
            }
            // Events without data only give an id.
            (_, "message") if !event.data.trim_ascii().is_empty() => self.deliver(id, &event.data),
            _ => {}
        }
    }

    /// A message, or a batch of them (2025-03-26), of the server's.
    fn deliver(&mut self, id: ExchangeId, text: &[u8]) {
        if text.trim_ascii_start().starts_with(b"[")
            && let Ok(all) = serde_json::from_slice::<Vec<&serde_json::value::RawValue>>(text)
        {
            for one in all {
                self.deliver_one(id, one.get().as_bytes());
            }
        } else {
            self.deliver_one(id, text);
        }
    }

    fn deliver_one(&mut self, id: ExchangeId, text: &[u8]) {
        let mended = message::mended(text);
        let text = mended.as_deref().unwrap_or(text);
        let Ok(m) = message::parse(text) else {
            // Who reads the lines says what is wrong with it.
            return self.effects.push(Effect::Line(text.to_vec()));
        };
        if m.kind == Kind::Response {
            self.responded(id, &m);
        } else {
            self.effects.push(Effect::Line(text.to_vec()));
        }
    }

    /// A response: to the exchange's own call, or on a stream to another.
    fn responded(&mut self, id: ExchangeId, m: &Message<'_>) {
        let same = |call: &str| {
            call == m.id || (message::own_id(call).is_some() && message::own_id(call) == message::own_id(m.id))
        };
        let opened = self.opening.as_ref().is_some_and(|(call, _)| same(call));
        if opened && let Some(version) = m.result.and_then(meta::protocol_version) {
            self.phase = Phase::Greeted;
            self.opening = None;
            self.session.version = HeaderValue::try_from(version).ok();
        } else if opened {
            (self.phase, self.opening) = (Phase::Fresh, None);
        }
        let mut line = m.text.as_bytes().to_vec();
        if let Some(x) = self.exchanges.get_mut(&id)
            && let What::Call(call) = &x.what
        {
            if same(call) {
                if x.answered {
                    return;
                }
                x.answered = true;
                if x.lists {
                    self.tools.learn(m.result.unwrap_or_default());
                }
            } else if m.id.is_empty() && !x.answered {
                // A refusal that does not say of what.
                x.answered = true;
                line = format!(
                    "{{\"jsonrpc\":\"2.0\",\"id\":{call},\"error\":{}}}",
                    m.error.unwrap_or("{}")
                )
                .into_bytes();
            }
        }
        self.effects.push(Effect::Line(line));
    }

    /// An answer that is an error by its status.
    fn refused(&mut self, now: Instant, id: ExchangeId, status: StatusCode, text: &[u8]) {
        let Some(x) = self.exchanges.get(&id) else { return };
        let mended = message::mended(text);
        let parsed = message::parse(mended.as_deref().unwrap_or(text)).ok();
        let error = parsed.filter(|m| m.kind == Kind::Response && m.error.is_some());
        let words = error.as_ref().map(|m| meta::error_message(m.error));
        let said = || {
            let shown = String::from_utf8_lossy(text);
            let shown: String = shown
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .chars()
                .take(SHOWN)
                .collect();
            format!("the server answered HTTP {}: {shown:?}", status.as_u16())
        };
        match &x.what {
            What::Standing if status.is_server_error() => self.again(now, id),
            What::Channel => {
                let why = std::mem::take(&mut self.refusal);
                self.lost(&why);
            }
            What::Standing | What::Settle | What::Note => drop(self.exchanges.remove(&id)),
            What::Call(_) if x.opens && self.post_to.is_none() && status.is_client_error() && error.is_none() => {
                self.refusal = said();
                self.exchanges.remove(&id);
                let out = request::stream(&Session::default(), None);
                self.send(Exchange::new(What::Channel), out);
            }
            // Some servers answer so for a session that they have forgotten.
            What::Call(_) if !x.modern && self.session.id.is_some() && words.is_some_and(|w| names_session(&w)) => {
                match status {
                    StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => self.forgotten(id),
                    // It may have been worked on.
                    _ => self.lost(FORGOTTEN),
                }
            }
            What::Call(_) => {
                if let Some(m) = error {
                    self.responded(id, &m);
                }
                let why = said();
                self.fail(id, codes::SERVER_GONE, &why);
            }
        }
    }

    /// A stream has ended, or broken off.
    fn stream_ended(&mut self, now: Instant, id: ExchangeId) {
        let Some(x) = self.exchanges.get(&id) else { return };
        match x.what {
            What::Channel => self.lost("the server has ended its stream"),
            What::Standing => self.again(now, id),
            What::Call(_) if !x.answered && !x.modern && x.last.is_some() => self.again(now, id),
            _ => {
                let why = "the server has ended its stream without an answer";
                self.fail(id, codes::SERVER_GONE, why);
            }
        }
    }

    /// Takes a stream up again, after the time that the server asked for.
    fn again(&mut self, now: Instant, id: ExchangeId) {
        let Some(x) = self.exchanges.get_mut(&id) else { return };
        x.tries += 1;
        if x.tries > MAX_TRIES && matches!(x.what, What::Call(_)) {
            return self.fail(id, codes::SERVER_GONE, "the server's stream cannot be taken up again");
        }
        let asked = x.retry.map_or(RETRY.0 * x.tries, Duration::from_millis);
        x.body = Body::Unknown;
        x.again_at = Some(now + asked.clamp(RETRY.1, RETRY.2));
    }
}
