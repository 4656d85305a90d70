//! What supervisor and agent say to each other, as JSON over the instance's socket.
//!
//! The agent dials the supervisor's Unix socket and then *serves* HTTP/1.1 on every connection it opened; the
//! supervisor is the client on each. Paths that the agent serves:
//!
//! | method, path | body | answer |
//! | --- | --- | --- |
//! | `POST /.berth/start` | [`StartOrder`] | 204; 409 when it already runs another spec |
//! | `GET /.berth/events` | | `application/x-ndjson`: an [`AgentEvent`] a line, the current status first, kept open |
//! | `GET /.berth/status` | | [`AgentStatus`] |
//! | `GET /.berth/health` | | 204, or 503 with a plain-text reason: asks the type's health contract now |
//! | `GET /.berth/screen`, `Upgrade: rfb` | | 101, then the display's RFB (RFC 6143); 404 without one, 503 while it is down |
//! | any, `/mcp` | | the MCP endpoint (Streamable HTTP, both eras) |
//!
//! The edge maps outside paths to `/mcp` alone, so nobody outside can reach `/.berth/`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RemoteAuth, Secret};

/// Version of this protocol; the agent names it in [`AgentStatus`].
pub const AGENT_PROTOCOL: u32 = 1;

/// What a container shall run. Handed over at each container start, and when credentials change; holds credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartOrder {
    /// The hash of the spec (as in the label `berth.spec`): a repeated order with the same hash and revision is a no-op.
    pub spec: String,
    /// Started in order, each when the one before is ready.
    pub services: Vec<ServiceOrder>,
    pub mcp: McpOrder,
    pub health: HealthOrder,
    /// Where the display speaks RFB, on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen: Option<u16>,
    /// Added to the environment of every process; wins over the type's own.
    pub env: BTreeMap<String, Secret>,
    /// Those of `env` whose value goes into a file; the variable holds its path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Counts the changes of `env`: an order of the same spec with a higher one restarts everything in place.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// One long-running process beside or below the MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOrder {
    pub name: String,
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub ready: Ready,
    pub restart: RestartPolicy,
}

/// When a service counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Ready {
    /// As soon as it runs.
    Started,
    /// When this TCP port on loopback accepts.
    Port { port: u16, timeout_ms: u64 },
}

/// What happens when a service's process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Start it again, backing off.
    Always,
    /// Start it again unless it exited with status 0.
    OnFailure,
    /// Leave it.
    Never,
}

/// How the container's MCP endpoint is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct McpOrder {
    pub transport: McpTransport,
    /// Live legacy sessions, and processes for modern clients, at most; past it 503 with `Retry-After`.
    pub max_sessions: u32,
    /// A session without traffic or an open stream for this long ends, in milliseconds.
    pub idle_timeout_ms: u64,
    /// A session that lost its own stream (GET), has no other open and sends nothing for this long counts as vanished, in
    /// milliseconds; so does one whose client left while a call was in flight. Streams that ended with the answer to a POST
    /// are no such loss: `idle_timeout_ms` counts.
    pub vanish_timeout_ms: u64,
    /// One call may take this long at most, in milliseconds.
    pub call_timeout_ms: u64,
    /// A server gets this long for its first answer, in milliseconds.
    pub start_timeout_ms: u64,
    /// One JSON-RPC message at most, in bytes, either way.
    pub max_message: usize,
}

/// How the agent reaches the MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum McpTransport {
    /// A child that speaks JSON-RPC lines on stdin and stdout: bridged to Streamable HTTP.
    Stdio {
        command: Vec<String>,
        env: BTreeMap<String, String>,
        processes: Processes,
    },
    /// One of the services speaks Streamable HTTP on loopback: requests are passed on as they are.
    Http { port: u16, path: String },
    /// Streamable HTTP somewhere else; only the supervisor's own relay takes such an order.
    Remote { url: String, auth: RemoteAuth },
}

/// How many server processes a stdio type runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Processes {
    /// Each legacy session has a process of its own, which ends with it.
    Session,
    /// One process serves everybody.
    Shared,
}

/// The type's health contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthOrder {
    pub kind: HealthKind,
    /// How long one probe may take, in milliseconds.
    pub timeout_ms: u64,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum HealthKind {
    /// One MCP round trip to the server: `initialize` or `server/discover` first, `ping` or `server/discover` after; a list
    /// in the place of a `ping` that the server does not answer. A service that speaks HTTP itself is asked `ping` first, and
    /// greeted where that is refused; an error of JSON-RPC is an answer.
    Mcp,
    /// `GET` on loopback that answers 2xx.
    Http { port: u16, path: String },
}

/// Where the agent is.
///
/// ```text
/// waiting --start order--> starting --first healthy answer--> ready
///                              |                                |
///                              +------> failed <----------------+   (it then exits; the reason is the last event)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// No start order yet.
    Waiting,
    /// Services are starting; the health contract has not been met yet.
    Starting,
    /// The health contract was met.
    Ready,
    /// Cannot run: `reason` says why.
    Failed,
}

/// What the agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// [`AGENT_PROTOCOL`]
    pub protocol: u32,
    /// The crate version of the agent.
    pub version: String,
    pub state: AgentState,
    /// The spec hash of the start order, once received.
    pub spec: Option<String>,
    /// The revision of the start order that it goes by.
    #[serde(default)]
    pub revision: u64,
    /// Why it failed, or what it waits for; the server's last words on stderr included. Never holds environment values.
    pub reason: Option<String>,
    pub services: Vec<ServiceStatus>,
    /// Live sessions of the bridge.
    pub sessions: u32,
    /// Live server processes of the bridge.
    pub processes: u32,
    /// Server processes of the bridge that the kernel killed for want of memory, since this agent began.
    #[serde(default)]
    pub oom_kills: u32,
}

/// One service's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    pub ready: bool,
    pub restarts: u32,
}

/// A line of `/.berth/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum AgentEvent {
    /// The status, at first and whenever `state`, `reason`, a service or `oom_kills` changed (session counts alone do not count).
    Status(AgentStatus),
    /// Sent every 5 s when nothing else was, so that a dead link shows.
    Alive,
}

/// Principals who are let in no longer, whose sessions are to end (`POST /.berth/forget`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forget {
    /// Public ids of tokens, as `berth-principal` has them.
    pub principals: Vec<String>,
}

impl Forget {
    /// What their calls in flight are told.
    pub const WHY: &str = "whoever called is let in no longer";
}

/// The answer to [`Forget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// MCP sessions that were ended.
    pub sessions: usize,
}
