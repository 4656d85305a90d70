//! The bridge: Streamable HTTP exchanges on one side, stdio server processes on the other, as one state machine.
//!
//! Sans-IO: callers feed it requests, lines, ends and the time, and carry out the [`Effect`]s that it leaves. It never
//! waits, never reads a clock, and holds nothing without a bound. One HTTP exchange is a *wire*; the stream of
//! messages that it carries is a *stream*, which may outlive its wire (resumption) in the legacy era.
//!
//! ```text
//!            post/get/delete                       line
//!  client ───────────────────► sessions ─► calls ◄──────── processes
//!         ◄─────────────────── streams    ◄─ asks  ────────►
//!            answer/open/send                     input
//! ```
//!
//! A **process**: `discovering → initializing → ready → gone` (legacy servers), `discovering → ready → gone` (modern
//! ones), `initializing → ready → gone` when the client's own `initialize` opens it (process per session).
//!
//! A **call** is a request that a server has not answered yet. Its id is ours, so that clients may share a process;
//! the client's id and progress token are put back on the way home. It ends by its answer, its deadline, the death
//! of its process or the end of its session, each of which the client is told.
//!
//! An **ask** is a request from a server to a client, which ends by its answer, or by its deadline with an error to the
//! server.
//!
//! A **principal** is who the edge says is behind a request. Sessions, suspended calls and, where a type has a process for
//! each session, processes belong to one; module `owner` says whose a message is that a server sends by itself.
//!
//! Clients of the transport of 2024-11-05, whatever version they speak: `channels`.
//!
//! Clients and servers of different eras: `translate` and `suspend` serve modern clients of legacy servers, `guests`,
//! `rounds` and `feeds` legacy clients of modern ones.

mod asks;
mod calls;
#[cfg(test)]
mod channel_tests;
mod channels;
#[cfg(test)]
mod client_tests;
mod clock;
#[cfg(test)]
mod clock_tests;
mod close;
#[cfg(test)]
mod era_tests;
mod exchange;
mod feeds;
mod guests;
mod health;
#[cfg(test)]
mod health_tests;
mod legacy;
mod listen;
mod modern;
mod notices;
mod owner;
#[cfg(test)]
mod owner_tests;
mod pool;
mod procs;
mod room;
#[cfg(test)]
mod room_tests;
mod rounds;
mod sessions;
mod streams;
mod suspend;
#[cfg(test)]
mod tests;
mod tick;
mod translate;

pub use channels::named;
pub use exchange::{SSE, stream_head};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::head::Accepts;
use super::mirror::Mirrored;
use super::sse::EventId;
use super::version::Era;
use crate::model::{McpOrder, Processes};

pub use room::{Memory, Meter};

/// A server process, as the bridge names it.
pub type ProcId = u64;
/// An HTTP exchange, as the caller names it; never reused.
pub type WireId = u64;
type CallId = u64;
type StreamId = u64;
type SessionNo = u64;
type AskId = u64;

/// Requests that one session (or all modern clients of one process) may have in flight.
const MAX_IN_FLIGHT: usize = 1024;
/// Bytes that may wait for a server that does not read its stdin.
const MAX_INPUT: usize = 1024 * 1024;
/// A name or URI that is kept, and a client's capabilities, at most.
const MAX_NAME: usize = 8 * 1024;
const MAX_CAPABILITIES: usize = 16 * 1024;
/// Bytes that may be kept, over all clients, for requests that the server may ask its client about.
const MAX_KEPT: usize = 4 * 1024 * 1024;
/// Bytes of URIs that may be watched, over all clients.
const MAX_WATCHED_BYTES: usize = 512 * 1024;
/// What a client is told for whom there is no room.
const TOO_MUCH: &str = "the server has too much to do, try again";
/// Events, and bytes of events, kept for resumption per session.
const REPLAY: (usize, usize) = (256, 1024 * 1024);
/// Bytes of events kept for resumption over all sessions.
const REPLAY_ALL: usize = 8 * 1024 * 1024;
/// Messages, and bytes of messages, kept for a session that has no stream open.
const BACKLOG: (usize, usize) = (64, 256 * 1024);
/// A session whose client never came back with its id ends after this long: the answer to `initialize` was lost.
const UNUSED: Duration = Duration::from_secs(120);
/// How long a request from a server waits for a stream to its client.
const UNDELIVERED: Duration = Duration::from_secs(5);
/// When a call without an answer becomes an event stream: soon in a session, whose streams can be resumed; late
/// without one, since an open stream has no status left to tell an error by.
const OPEN_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a quiet event stream gets a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Progress, and people who are asked, give a call its time anew, but never more than so many times of it in all.
pub const LONGEST: u32 = 8;
/// A standing process that dies younger than this died quickly.
const QUICK: Duration = Duration::from_secs(60);
/// So many quick deaths in a row, and the server has failed.
const MAX_QUICK: u32 = 5;

/// The limits that the bridge keeps.
#[derive(Debug, Clone)]
pub struct Config {
    /// One process for all, or one per session.
    pub processes: Processes,
    /// Live sessions, and processes for modern clients, at most.
    pub max_sessions: usize,
    /// A session without traffic or an open stream ends after this long.
    pub idle: Duration,
    /// One that lost its own stream (GET), or the client of a call in flight, ends after this long: the client has most
    /// likely gone, or sleeps.
    pub vanish: Duration,
    /// How long one call may take without progress and without a question to its client; [`LONGEST`] times that in all.
    pub call: Duration,
    /// How long a server has for its first answer.
    pub start: Duration,
    /// One message at most, in bytes.
    pub max_message: usize,
}

impl Config {
    /// The limits of an order.
    pub fn new(order: &McpOrder, processes: Processes) -> Self {
        Self {
            processes,
            max_sessions: order.max_sessions as usize,
            idle: Duration::from_millis(order.idle_timeout_ms),
            vanish: Duration::from_millis(order.vanish_timeout_ms),
            call: Duration::from_millis(order.call_timeout_ms),
            start: Duration::from_millis(order.start_timeout_ms),
            max_message: order.max_message,
        }
    }
}

/// A whole HTTP response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpAnswer {
    /// The HTTP status.
    pub status: u16,
    /// `Mcp-Session-Id`
    pub session: Option<String>,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u32>,
    /// Whether `Allow` is sent: the method does not exist here.
    pub allow: Option<&'static str>,
    /// `Accept-Encoding`, where the body's was not taken (RFC 9110 section 12.5.3).
    pub accept_encoding: Option<&'static str>,
    /// JSON, or nothing.
    pub body: Bytes,
}

impl HttpAnswer {
    /// An error: 503 asks to come again.
    fn error(status: u16, id: &str, code: i64, text: &str, data: Option<&str>) -> Self {
        Self {
            status,
            retry_after: (status == 503).then_some(1),
            body: super::message::error(id, code, text, data).into(),
            ..Self::default()
        }
    }
}

/// What the caller has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start a server process; feed it from [`Bridge::take_input`].
    Spawn(ProcId),
    /// [`Bridge::take_input`] has bytes for this process.
    Input(ProcId),
    /// Close the process's stdin and see that its group ends. The bridge has forgotten it.
    Stop(ProcId),
    /// Answer the exchange, which ends it.
    Answer(WireId, HttpAnswer),
    /// Answer the exchange with an event stream (with this `Mcp-Session-Id`).
    Open(WireId, Option<String>),
    /// Put bytes on the exchange's event stream. A reader that does not keep up loses the stream.
    Send(WireId, Bytes),
    /// End the exchange's event stream.
    Close(WireId),
    /// The answer to [`Bridge::health`]: `None` is healthy.
    Health(u64, Option<String>),
    /// The standing process answered for the first time, or again after it died.
    Ready,
    /// The server cannot run.
    Failed(String),
    /// A line for the log.
    Log(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// The one that says whether the server works; serves everybody that has no process of their own.
    Standing,
    /// Serves legacy clients of a shared type whose standing process speaks the modern era.
    Twin,
    /// Belongs to one session.
    Session(SessionNo),
    /// Serves modern clients of this principal that declared these capabilities; none where it speaks the modern era.
    Pool(Arc<str>, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// `server/discover` was sent; `initialize` follows when it stays silent until then.
    Discovering {
        silent_at: Instant,
    },
    /// `initialize` was sent.
    Initializing,
    Ready,
}

#[derive(Debug)]
struct Proc {
    role: Role,
    phase: Phase,
    era: Era,
    /// The raw result of `initialize` or `server/discover`.
    hello: Option<Box<str>>,
    /// The protocol version that it speaks.
    version: String,
    /// Lines for its stdin.
    input: Vec<u8>,
    /// Lines that wait until it is ready.
    held: Vec<u8>,
    calls: BTreeSet<CallId>,
    born: Instant,
    used: Instant,
    /// The log level last set, where the bridge sets it for its callers.
    level: Option<Box<str>>,
    /// Calls whose clients are gone, and which the server has not answered.
    abandoned: BTreeMap<CallId, owner::Abandoned>,
    /// There were more of these than are remembered: nothing that it says by itself is anybody's.
    lost_track: bool,
    served: owner::Served,
    /// It was said that messages of it are dropped.
    dropped: bool,
    pings: health::Pings,
}

/// What a call's answer is for.
#[derive(Debug)]
enum What {
    /// A client's request, passed on as it is.
    Plain,
    /// A client's `initialize`, which opens its session.
    Opening,
    /// Our own `server/discover`.
    Discover,
    /// Our own `initialize`.
    Handshake,
    /// Our own probe, with its ticket.
    Health(u64, health::Probe),
    /// Our own request whose answer does not matter.
    Unheard,
    /// A modern client's `subscriptions/listen`, passed on.
    Listen,
    /// A modern client's request on a legacy process.
    Translated(Box<translate::Origin>),
    /// A legacy client's request on a modern process.
    Guest(Box<rounds::GuestCall>),
    /// Our own `subscriptions/listen` on a modern process, for the legacy clients that it serves.
    Feed,
    /// A `resources/subscribe` on a shared legacy process.
    Watch(Box<str>, listen::Watcher),
}

#[derive(Debug)]
struct Call {
    proc: ProcId,
    stream: Option<StreamId>,
    session: Option<SessionNo>,
    /// The principal of a modern client.
    client: Option<Arc<str>>,
    /// The client's id, raw.
    id: Box<str>,
    /// The client's progress token, raw.
    token: Option<Box<str>>,
    deadline: Option<Instant>,
    /// However often its deadline is put off: no further than this. `None`: it is never put off.
    bound: Option<Instant>,
    /// The least severe log messages of the server that may go to this call, if any may: see [`owner::severity`].
    logs: Option<u8>,
    /// It was sent to a second connection, since the first one's session was forgotten.
    again: bool,
    what: What,
}

#[derive(Debug)]
struct Stream {
    session: Option<SessionNo>,
    wire: Option<WireId>,
    accepts: Accepts,
    opened: bool,
    /// The session's own stream (GET), which carries what belongs to no call.
    standing: bool,
    /// Its call is `initialize`: time does not make it a stream, since the answer's head names the session.
    opening: bool,
    seq: u32,
    /// Calls that have not been answered on it.
    pending: u32,
    /// Answers of a batch that is not a stream yet.
    batch: Option<Vec<Vec<u8>>>,
    since: Instant,
    last: Instant,
}

#[derive(Debug)]
struct Session {
    key: String,
    principal: Arc<str>,
    /// Its client has sent something after `initialize`: it knows its id.
    used: bool,
    /// Its own process; `None` where one serves all.
    proc: Option<ProcId>,
    version: String,
    /// Whether its `initialize` was answered.
    open: bool,
    last: Instant,
    /// Its own stream (GET) was open once. Streams that answer a POST end with their answers, and say nothing of the client.
    listened: bool,
    stream: StreamId,
    /// The client's ids in flight.
    ids: HashMap<Box<str>, CallId>,
    /// Of these calls, those that it has cancelled.
    cancelled: BTreeSet<CallId>,
    backlog: VecDeque<(Option<AskId>, Vec<u8>)>,
    backlog_bytes: usize,
    replay: VecDeque<(EventId, Bytes)>,
    replay_bytes: usize,
    /// Resources that it subscribed to.
    watched: BTreeSet<String>,
    /// What its server, which speaks the modern era, is told of the client with every request.
    guest: Option<Box<guests::Guest>>,
}

#[derive(Debug)]
struct Ask {
    proc: ProcId,
    asker: asks::Asker,
    session: Option<SessionNo>,
    stream: Option<StreamId>,
    delivered: bool,
    /// Its session's calls at the process have their time anew when it is over.
    puts_off: bool,
    deadline: Instant,
}

#[derive(Debug, Default)]
struct Standing {
    proc: Option<ProcId>,
    /// The principal whose modern clients it serves, where others have processes of their own.
    owner: Option<Arc<str>>,
    respawn_at: Option<Instant>,
    quick: u32,
    was_ready: bool,
    /// The server died of our `server/discover`: do not send it again.
    no_discover: bool,
}

/// Where random bytes come from.
pub type Random = Box<dyn FnMut(&mut [u8]) + Send>;

/// The state machine. See the module's text.
pub struct Bridge {
    config: Config,
    random: Random,
    meter: Meter,
    /// Clients that were sent away, and sessions that gave way.
    often: (room::Often, room::Often),
    next: u64,
    procs: HashMap<ProcId, Proc>,
    standing: Standing,
    twin: Option<ProcId>,
    /// The server has no `initialize`, and why: its legacy clients are guests of modern processes.
    modern_only: Option<String>,
    sessions: HashMap<SessionNo, Session>,
    keys: HashMap<String, SessionNo>,
    principals: HashSet<Arc<str>>,
    /// What the server was seen to ask about.
    askers: pool::Askers,
    calls: HashMap<CallId, Call>,
    streams: HashMap<StreamId, Stream>,
    /// Wires that carry another stream than the one that bears their number.
    moved: HashMap<WireId, StreamId>,
    /// Streams of clients of the transport of 2024-11-05, by their streams.
    channels: HashMap<StreamId, channels::Channel>,
    asks: HashMap<AskId, Ask>,
    suspended: HashMap<String, suspend::Suspended>,
    listeners: HashMap<StreamId, listen::Listener>,
    feeds: HashMap<ProcId, feeds::Feed>,
    waiting: Vec<legacy::Waiting>,
    tools: Mirrored,
    replay_total: usize,
    /// Bytes of what calls of guests keep, and of URIs that are watched.
    kept: usize,
    watched_bytes: usize,
    /// Processes that were told to stop and have not ended yet.
    stopping: usize,
    effects: Vec<Effect>,
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge")
            .field("sessions", &self.sessions.len())
            .field("calls", &self.calls.len())
            .finish()
    }
}

impl Bridge {
    /// A bridge with no process yet: [`Bridge::start`] asks for the first.
    pub fn new(config: Config, random: Random) -> Self {
        Self {
            config,
            random,
            meter: Box::new(Memory::default),
            often: Default::default(),
            next: 1,
            procs: HashMap::new(),
            standing: Standing::default(),
            twin: None,
            modern_only: None,
            sessions: HashMap::new(),
            keys: HashMap::new(),
            principals: HashSet::new(),
            askers: pool::Askers::default(),
            calls: HashMap::new(),
            streams: HashMap::new(),
            moved: HashMap::new(),
            channels: HashMap::new(),
            asks: HashMap::new(),
            suspended: HashMap::new(),
            listeners: HashMap::new(),
            feeds: HashMap::new(),
            waiting: Vec::new(),
            tools: Mirrored::default(),
            replay_total: 0,
            kept: 0,
            watched_bytes: 0,
            stopping: 0,
            effects: Vec::new(),
        }
    }

    /// What is to be done since the last time it was asked.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The lines that wait for a process's stdin; the caller's empty buffer takes their place.
    pub fn take_input(&mut self, proc: ProcId, empty: &mut Vec<u8>) {
        empty.clear();
        if let Some(p) = self.procs.get_mut(&proc) {
            std::mem::swap(&mut p.input, empty);
        }
    }

    /// Live sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Whether anything has a deadline that is near: then [`Bridge::tick`] wants to be called often.
    pub fn busy(&self) -> bool {
        self.calls.len() > self.quiet_feeds() || !self.asks.is_empty() || self.standing.respawn_at.is_some()
    }

    /// Things held, for tests that look for leaks: sessions, calls, streams, asks, processes.
    pub fn held(&self) -> [usize; 5] {
        let streams =
            self.streams.len() + self.moved.len() + self.channels.len() + self.listeners.len() + self.feeds.len();
        [
            self.sessions.len(),
            self.calls.len(),
            streams,
            self.asks.len() + self.suspended.len(),
            self.procs.len(),
        ]
    }

    /// A process that was told to stop has ended.
    pub fn reaped(&mut self) {
        self.stopping = self.stopping.saturating_sub(1);
    }

    /// Tells the caller to end a process.
    fn order_stop(&mut self, proc: ProcId) {
        self.stopping += 1;
        self.effects.push(Effect::Stop(proc));
    }

    /// Gives memory back after a rush.
    fn shrink(&mut self) {
        fn trim<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
            if map.capacity() > 1024 && map.len() < map.capacity() / 8 {
                map.shrink_to(map.len() * 2);
            }
        }
        trim(&mut self.sessions);
        trim(&mut self.keys);
        trim(&mut self.calls);
        trim(&mut self.streams);
        trim(&mut self.moved);
        trim(&mut self.channels);
        trim(&mut self.asks);
        self.forget_principals();
    }

    fn fresh(&mut self) -> u64 {
        let id = self.next;
        self.next += 1;
        id
    }

    fn secret(&mut self) -> String {
        let mut raw = [0u8; 24];
        (self.random)(&mut raw);
        crate::model::hex(&raw)
    }

    fn log(&mut self, text: String) {
        self.effects.push(Effect::Log(text));
    }

    fn refuse(&mut self, wire: WireId, status: u16, id: &str, code: i64, message: &str, data: Option<&str>) {
        let answer = HttpAnswer::error(status, id, code, message, data);
        self.effects.push(Effect::Answer(wire, answer));
    }

    fn accepted(&mut self, wire: WireId) {
        self.effects.push(Effect::Answer(
            wire,
            HttpAnswer {
                status: 202,
                ..HttpAnswer::default()
            },
        ));
    }
}
