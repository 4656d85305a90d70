//! Server processes: starting, finding out their era, their ends.
//!
//! ```text
//!               discover answered
//! discovering ──────────────────────► ready (modern)
//!    │ any other answer, or silence
//!    ▼           initialize answered
//! initializing ─────────────────────► ready (legacy)
//!    │ refused, or the end, while the standing process is modern
//!    └────────────────────────────────► ready (modern; the client is a guest)
//! ```
//!
//! `server/discover` goes first (MCP 2026-07-28, stdio, "Backward Compatibility"). Legacy servers of the official
//! SDKs answer it with an error at once, so that costs one pipe round trip. Both are not sent together, because
//! `initialize` would put a server that knows both eras into the legacy one. A server that stays silent gets
//! `initialize` after [`SILENCE`]; one that dies of the question (some SDKs end on anything but `initialize`) is started
//! again and asked `initialize` alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::health::Pings;
use super::owner::Served;
use super::{Bridge, CallId, Effect, MAX_QUICK, Phase, Proc, ProcId, QUICK, Role, What, guests};
use crate::mcp::message::{self, Kind, Message};
use crate::mcp::version::{self, Era};
use crate::mcp::{codes, meta};
use crate::model::Processes;

/// How long a server may stay silent on `server/discover`, counted from its start (loading included).
const SILENCE: Duration = Duration::from_secs(4);
/// First delay before a standing process is started again; doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(100);
/// A connection that served for so long was no failure, however it ended.
const SOUND: Duration = Duration::from_secs(5);
/// The longest such delay.
const LONGEST: Duration = Duration::from_secs(10);

impl Bridge {
    /// Starts the standing process.
    pub fn start(&mut self, now: Instant) {
        if self.standing.proc.is_some() {
            return;
        }
        self.standing.respawn_at = None;
        let proc = if self.standing.no_discover {
            self.spawn_legacy(now, Role::Standing, "{}")
        } else {
            let silence = SILENCE.min(self.config.start / 3);
            let proc = self.spawn(
                now,
                Role::Standing,
                Phase::Discovering {
                    silent_at: now + silence,
                },
                Era::Modern,
            );
            self.request(now, proc, "server/discover", &meta::discover_params(), What::Discover);
            proc
        };
        self.standing.proc = Some(proc);
    }

    /// Starts a process that is greeted with our own `initialize`.
    pub(super) fn spawn_legacy(&mut self, now: Instant, role: Role, capabilities: &str) -> ProcId {
        let proc = self.spawn(now, role, Phase::Initializing, Era::Legacy);
        self.request(
            now,
            proc,
            "initialize",
            &meta::initialize_params(capabilities),
            What::Handshake,
        );
        proc
    }

    pub(super) fn spawn(&mut self, now: Instant, role: Role, phase: Phase, era: Era) -> ProcId {
        let id = self.fresh();
        self.procs.insert(
            id,
            Proc {
                role,
                phase,
                era,
                hello: None,
                version: String::new(),
                input: Vec::new(),
                held: Vec::new(),
                calls: BTreeSet::new(),
                born: now,
                used: now,
                level: None,
                abandoned: BTreeMap::new(),
                lost_track: false,
                served: Served::Nobody,
                dropped: false,
                pings: Pings::Used,
            },
        );
        self.effects.push(Effect::Spawn(id));
        id
    }

    /// Our `server/discover` was answered.
    pub(super) fn discovered(&mut self, now: Instant, proc: ProcId, m: &Message<'_>) {
        let Some(p) = self.procs.get_mut(&proc) else { return };
        if p.phase == Phase::Ready {
            return;
        }
        let versions = m.result.and_then(meta::supported_versions).unwrap_or_default();
        if versions.iter().any(|v| v == version::MODERN) {
            p.era = Era::Modern;
            p.version = version::MODERN.to_owned();
            p.hello = m.result.map(Into::into);
            return self.ready(now, proc);
        }
        if let Role::Pool(..) = p.role {
            let why = "the server does not speak the version that it spoke before";
            self.order_stop(proc);
            return self.gone(now, proc, why);
        }
        if matches!(p.phase, Phase::Discovering { .. }) {
            self.greet(now, proc);
        }
    }

    /// Goes over from `server/discover` to `initialize`.
    pub(super) fn greet(&mut self, now: Instant, proc: ProcId) {
        let Some(p) = self.procs.get_mut(&proc) else { return };
        p.phase = Phase::Initializing;
        self.request(now, proc, "initialize", &meta::initialize_params("{}"), What::Handshake);
    }

    /// Our `initialize` was answered.
    pub(super) fn greeted(&mut self, now: Instant, proc: ProcId, m: &Message<'_>) {
        let Some(p) = self.procs.get_mut(&proc) else { return };
        if p.phase == Phase::Ready {
            return;
        }
        let spoken = m.result.and_then(meta::protocol_version);
        let (Some(result), Some(spoken)) = (m.result, spoken) else {
            let why = format!("the server refused initialize: {}", meta::error_message(m.error));
            if p.role == Role::Twin {
                self.modern_only = Some(why.clone());
            }
            self.order_stop(proc);
            return self.gone(now, proc, &why);
        };
        p.era = Era::Legacy;
        p.version = spoken;
        p.hello = Some(result.into());
        self.write_now(proc, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        self.ready(now, proc);
    }

    /// The process serves from now on.
    pub(super) fn ready(&mut self, now: Instant, proc: ProcId) {
        let Some(p) = self.procs.get_mut(&proc) else { return };
        p.phase = Phase::Ready;
        let held = std::mem::take(&mut p.held);
        let role = p.role.clone();
        if !held.is_empty() {
            self.write(proc, |out| out.extend_from_slice(&held));
        }
        match role {
            Role::Standing => {
                self.standing.was_ready = true;
                self.effects.push(Effect::Ready);
                self.rewatch(now);
                self.feed(now, proc);
                self.greet_waiting(now);
            }
            Role::Twin => self.greet_waiting(now),
            Role::Session(_) | Role::Pool(..) => {}
        }
    }

    /// Stops a process: what it was still asked is answered with an error.
    pub(super) fn stop(&mut self, now: Instant, proc: ProcId) {
        self.order_stop(proc);
        self.gone(now, proc, "the server process was stopped");
    }

    /// A process has ended, or could not be started. `why` is for people, and names its last words.
    pub fn gone(&mut self, now: Instant, proc: ProcId, why: &str) {
        let Some(p) = self.procs.get(&proc) else { return };
        // A server without `initialize` may end on it.
        let shy = p.era == Era::Legacy && p.phase == Phase::Initializing && now < p.born + self.config.start;
        if let (Role::Session(no), true) = (&p.role, shy)
            && self.sessions.get(no).is_some_and(|s| s.guest.is_some())
        {
            return self.discover_anew(now, proc, *no);
        }
        let calls: Vec<u64> = p.calls.iter().copied().collect();
        let text = format!("the server is gone: {why}");
        let unsure = matches!(p.phase, Phase::Discovering { .. }) && p.era == Era::Modern;
        for call in calls {
            self.abandon(now, call, codes::SERVER_GONE, &text, false);
        }
        let Some(p) = self.procs.remove(&proc) else { return };
        self.asks.retain(|_, a| a.proc != proc);
        self.forget_suspended(proc);
        self.feed_gone(now, proc, &text);
        match p.role {
            Role::Standing => self.standing_gone(now, &p, why, unsure),
            Role::Twin => {
                self.twin = None;
                if shy && self.modern_only.is_none() {
                    self.modern_only = Some(why.to_owned());
                }
                match &self.modern_only {
                    Some(why) => {
                        let text = format!("legacy clients are translated for this server ({why})");
                        self.log(text);
                        self.greet_waiting(now);
                    }
                    None => self.refuse_waiting(now, &text),
                }
            }
            Role::Session(no) => self.end_session(now, no, &text),
            Role::Pool(principal, _) => self.end_listeners(Some(&principal)),
        }
    }

    /// The connection that stands for a process has ended. That of a server which was spoken to says nothing of the server:
    /// it may end what is idle, and is not given up for it.
    pub fn hung_up(&mut self, now: Instant, proc: ProcId, why: &str) {
        let sound = |p: &Proc| p.phase == Phase::Ready && now >= p.born + SOUND;
        if self.procs.get(&proc).is_some_and(sound) {
            self.standing.quick = self.standing.quick.min(MAX_QUICK - 2);
        }
        self.gone(now, proc, why);
    }

    /// The server does not know the session of a connection any more. The requests of `unsent` it refused for that, or was
    /// never sent: it has not worked on them, and is asked once more on a new connection. A session of a client's own ends:
    /// its client begins anew.
    pub fn forgotten(&mut self, now: Instant, proc: ProcId, unsent: &[Bytes]) {
        const WHY: &str = "the server does not know the session any more";
        let Some(role) = self.procs.get(&proc).map(|p| p.role.clone()) else {
            return;
        };
        let mut again: Vec<(CallId, &Bytes)> = Vec::new();
        if matches!(role, Role::Standing | Role::Pool(..)) {
            for line in unsent {
                let request = message::parse(line).ok().filter(|m| m.kind == Kind::Request);
                let id = request.and_then(|m| message::own_id(m.id));
                let Some((id, call)) = id.and_then(|id| Some((id, self.calls.get_mut(&id)?))) else {
                    continue;
                };
                // One that the server has asked about was worked on; its client comes back with an answer.
                let refused = call.proc == proc && call.stream.is_some() && matches!(call.what, What::Translated(_));
                if refused && !std::mem::replace(&mut call.again, true) {
                    again.push((id, line));
                }
            }
        }
        if let Some(p) = self.procs.get_mut(&proc) {
            p.calls.retain(|id| !again.iter().any(|(again, _)| again == id));
        }
        let owner = self.standing.owner.clone();
        self.hung_up(now, proc, WHY);
        if again.is_empty() {
            return;
        }
        let new = match role {
            Role::Pool(principal, capabilities) => {
                Some(self.spawn_pooled(now, &principal, capabilities.clone(), &capabilities))
            }
            _ => {
                self.start(now);
                self.standing.owner = owner;
                self.standing.proc
            }
        };
        for (id, line) in again {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            let Some((new, p)) = new.and_then(|new| Some((new, self.procs.get_mut(&new)?))) else {
                self.abandon(now, id, codes::SERVER_GONE, WHY, false);
                continue;
            };
            call.proc = new;
            p.calls.insert(id);
            if let Some(principal) = &call.client {
                p.serves(principal);
            }
            self.write_line(new, line);
        }
    }

    fn standing_gone(&mut self, now: Instant, p: &Proc, why: &str, unsure: bool) {
        self.standing.proc = None;
        let owner = self.standing.owner.take();
        self.end_listeners(owner.as_ref());
        if !self.standing.was_ready {
            if unsure && !self.standing.no_discover && now < p.born + self.config.start {
                self.standing.no_discover = true;
                self.log(format!(
                    "the server ended on server/discover ({why}); trying initialize alone"
                ));
                return self.start(now);
            }
            return self
                .effects
                .push(Effect::Failed(format!("{why}, before its first answer")));
        }
        let quick = now < p.born + QUICK;
        self.standing.quick = if quick { self.standing.quick + 1 } else { 1 };
        if self.standing.quick >= MAX_QUICK {
            let text = format!("the server died {} times in a row: {why}", self.standing.quick);
            return self.effects.push(Effect::Failed(text));
        }
        let delay = (SHORTEST * 2u32.pow(self.standing.quick.saturating_sub(1))).min(LONGEST);
        self.log(format!("{why}; starting it again in {} ms", delay.as_millis()));
        self.standing.respawn_at = Some(now + delay);
    }

    /// The process that serves legacy clients of a shared type, once there is one: the standing process, where it
    /// speaks their era or no other; else its twin.
    pub(super) fn shared_legacy(&mut self, now: Instant) -> Option<ProcId> {
        let standing = self.standing_ready()?;
        if self.modern_only.is_some() || self.procs.get(&standing).is_some_and(|p| p.era == Era::Legacy) {
            return Some(standing);
        }
        let twin = match self.twin {
            Some(id) => id,
            None => {
                let id = self.spawn_legacy(now, Role::Twin, "{}");
                self.twin = Some(id);
                id
            }
        };
        let ready = self.procs.get(&twin).is_some_and(|p| p.phase == Phase::Ready);
        ready.then_some(twin)
    }

    /// The process that serves legacy clients of a shared type (and modern ones of a legacy server), if it is there.
    pub(super) fn shared_legacy_now(&self) -> Option<ProcId> {
        let ready = |id: &ProcId| {
            self.procs
                .get(id)
                .is_some_and(|p| p.phase == Phase::Ready && p.era == Era::Legacy)
        };
        self.standing.proc.filter(ready).or(self.twin.filter(ready))
    }

    /// The standing process, where it serves.
    pub(super) fn standing_ready(&self) -> Option<ProcId> {
        self.standing
            .proc
            .filter(|id| self.procs.get(id).is_some_and(|p| p.phase == Phase::Ready))
    }

    /// Whether each session has a process of its own.
    pub(super) fn per_session(&self) -> bool {
        self.config.processes == Processes::Session
    }

    /// Live processes by their age: which of them have outstayed their time to become ready.
    pub(super) fn tick_procs(&mut self, now: Instant) {
        if self.standing.respawn_at.is_some_and(|at| now >= at) {
            self.start(now);
        }
        let mut late = Vec::new();
        let mut silent = Vec::new();
        for (id, p) in &self.procs {
            if p.phase != Phase::Ready && now >= p.born + self.config.start {
                late.push(*id);
            } else if matches!(p.phase, Phase::Discovering { silent_at } if now >= silent_at) {
                silent.push(*id);
            }
        }
        for id in silent {
            self.greet(now, id);
        }
        for id in late {
            let why = format!("the server gave no answer within {} ms", self.config.start.as_millis());
            self.order_stop(id);
            self.gone(now, id, &why);
        }
        let idle = self.config.idle;
        let is_idle = |p: &Proc| p.calls.is_empty() && now >= p.used + idle;
        let in_use = !self.sessions.is_empty();
        let twin = self
            .twin
            .filter(|id| !in_use && self.procs.get(id).is_some_and(is_idle));
        for id in self.over_in_pool(now).into_iter().chain(twin) {
            self.stop(now, id);
        }
    }

    /// What an answered `initialize` is told a client of a shared process.
    pub(super) fn hello_for(&self, proc: ProcId, asked: &str) -> Option<(String, String)> {
        let p = self.procs.get(&proc)?;
        let hello = p.hello.as_deref()?;
        if p.era == Era::Modern {
            return Some(guests::greeting(hello, asked));
        }
        let version = version::negotiate(asked, &p.version).to_owned();
        let params = message::params(Some(hello))?;
        let raw = params.version?.get();
        let mut out = Vec::new();
        let quoted = message::quote(&version);
        message::splice(&mut out, hello, &[(message::place(hello, raw), quoted.as_bytes())]);
        Some((String::from_utf8(out).ok()?, version))
    }
}
