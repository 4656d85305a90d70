//! Whether the server answers: one round trip to the standing process.
//!
//! ```text
//! ping ──answered──────────────────────────────────► healthy
//!   └─half of the time is over──► a list as well ──► healthy; this process is asked for the list from now on
//!                                       └─neither──► not healthy
//! ```
//!
//! Every receiver has to answer `ping` (2025-11-25, basic/utilities/ping), and some servers do not. A list that the server
//! said it has is answered by all of them; where it has none, the error says that it lives. Servers of the modern era are
//! asked `server/discover`.

use std::time::{Duration, Instant};

use super::{Bridge, CallId, Effect, ProcId, What};
use crate::mcp::meta;
use crate::mcp::version::Era;

/// What a process is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Ping,
    /// Something that no server leaves without an answer.
    Sure,
}

/// What is known of a process and `ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pings {
    /// It is asked by it.
    Used,
    /// It was asked by it, with this ticket, and is asked for something else as well from then on.
    Doubted(u64, Instant),
    /// It does not answer it.
    Useless,
}

impl Bridge {
    /// One round trip to the standing process within `limit`; the answer comes as [`Effect::Health`] with the ticket. One
    /// that comes too late is no answer, but what was learnt of the process stays.
    pub fn health(&mut self, now: Instant, ticket: u64, limit: Duration) {
        let Some(proc) = self.standing_ready() else {
            let why = "the server is not ready".to_owned();
            return self.effects.push(Effect::Health(ticket, Some(why)));
        };
        if self.clogged(proc) {
            let why = "the server does not read its stdin".to_owned();
            return self.effects.push(Effect::Health(ticket, Some(why)));
        }
        let Some(p) = self.procs.get_mut(&proc) else { return };
        if p.era == Era::Legacy && p.pings != Pings::Useless {
            p.pings = Pings::Doubted(ticket, now + limit / 2);
            self.request(now, proc, "ping", "{}", What::Health(ticket, Probe::Ping));
        } else {
            self.ask_surely(now, proc, ticket);
        }
    }

    fn ask_surely(&mut self, now: Instant, proc: ProcId, ticket: u64) {
        let what = What::Health(ticket, Probe::Sure);
        if self.procs.get(&proc).is_some_and(|p| p.era == Era::Modern) {
            self.request(now, proc, "server/discover", &meta::discover_params(), what);
            return;
        }
        let can = self.capabilities_of(proc);
        let list = ["tools", "prompts", "resources"]
            .into_iter()
            .find(|c| can[c].is_object());
        let method = format!("{}/list", list.unwrap_or("tools"));
        self.request(now, proc, &method, "{}", what);
    }

    /// A probe was answered, if only by an error.
    pub(super) fn probed(&mut self, proc: ProcId, ticket: u64, probe: Probe) {
        self.effects.push(Effect::Health(ticket, None));
        let pings: Vec<CallId> = self.probes(proc, Probe::Ping).map(|(id, _)| id).collect();
        let Some(p) = self.procs.get_mut(&proc) else { return };
        if probe == Probe::Ping {
            p.pings = Pings::Used;
        } else if !pings.is_empty() {
            p.pings = Pings::Useless;
            // An answer to them would say nothing new.
            for id in pings {
                self.unregister(id);
            }
            self.log(
                "the server does not answer ping, and another request it does: its health is asked for by that one from now on"
                    .to_owned(),
            );
        }
    }

    /// A probe was not answered in time: its ticket is lost when nothing else is asked for it.
    pub(super) fn probe_lost(&mut self, proc: ProcId, ticket: u64, why: &str) {
        let others = [Probe::Ping, Probe::Sure];
        if !others.iter().any(|p| self.probes(proc, *p).any(|(_, t)| t == ticket)) {
            self.effects.push(Effect::Health(ticket, Some(why.to_owned())));
        }
    }

    /// The probes of a kind that have no answer: call and ticket.
    fn probes(&self, proc: ProcId, probe: Probe) -> impl Iterator<Item = (CallId, u64)> + '_ {
        let calls = self.procs.get(&proc).map(|p| p.calls.iter()).into_iter().flatten();
        calls.filter_map(move |id| match self.calls.get(id)?.what {
            What::Health(ticket, of) if of == probe => Some((*id, ticket)),
            _ => None,
        })
    }

    /// Asks for something else where a ping has no answer after half of its time.
    pub(super) fn tick_health(&mut self, now: Instant) {
        let Some(proc) = self.standing_ready() else { return };
        let Some(p) = self.procs.get_mut(&proc) else { return };
        let Pings::Doubted(ticket, at) = p.pings else { return };
        if now < at {
            return;
        }
        p.pings = Pings::Used;
        if self.probes(proc, Probe::Ping).any(|(_, t)| t == ticket) && !self.clogged(proc) {
            self.ask_surely(now, proc, ticket);
        }
    }
}
