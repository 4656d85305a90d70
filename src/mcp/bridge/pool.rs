//! Which process serves a modern client, where the type does not have one process for all.
//!
//! Processes belong to a principal: what one client's server knows, asks and keeps is never another's business. The
//! standing process goes to the first principal that comes and declares nothing that it could be asked; every other
//! principal, and every other set of capabilities, has processes of its own, which end when they are idle.
//!
//! A server that asks its client questions does not say about which call it asks. So a call that may be asked about has
//! a process for itself once the server was seen to ask, up to the number of sessions that the type allows; before that,
//! calls of one principal share a few ([`FEW`]).

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Bridge, Call, Phase, ProcId, Role, UNDELIVERED, What};
use crate::mcp::meta;
use crate::mcp::version::Era;

/// Processes that are started for calls at the same time before any of them has asked something: of one kind, and in all.
const FEW: (usize, usize) = (2, 4);

/// One process as a candidate: calls that it has, and whether it can take one that may be asked about.
struct Candidate {
    id: ProcId,
    load: usize,
    free: bool,
    shareable: bool,
}

impl Bridge {
    /// The process for a client of a legacy server with these capabilities; `asking`: for a call about which the server
    /// may ask. `None` when there is no room.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        standing: ProcId,
        principal: &Rc<str>,
        capabilities: &str,
        asking: bool,
    ) -> Option<ProcId> {
        if !self.per_session() {
            return Some(standing);
        }
        // One text for what means the same.
        let key = serde_json::from_str::<serde_json::Value>(capabilities)
            .ok()?
            .to_string();
        let asking = asking && key != "{}";
        if key == "{}" && self.claim(principal) {
            return Some(standing);
        }
        let (group, all) = self.candidates(principal, &key);
        let least = |fits: &dyn Fn(&Candidate) -> bool| {
            group
                .iter()
                .filter(|c| fits(c))
                .min_by_key(|c| (c.load, c.id))
                .map(|c| c.id)
        };
        let chosen = match least(&|c| c.free || !asking) {
            Some(id) => id,
            None => {
                let shared = least(&|c| c.shareable && !self.asks_seen);
                let few = group.len() < FEW.0 && all < FEW.1;
                match shared {
                    Some(id) if !few || !self.has_place(now) => id,
                    None if !self.has_place(now) => return None,
                    _ => self.spawn_pooled(now, principal, key, capabilities),
                }
            }
        };
        if let Some(p) = self.procs.get_mut(&chosen) {
            p.used = now;
        }
        Some(chosen)
    }

    /// The process for a client of a modern server.
    pub(super) fn choose_modern(&mut self, now: Instant, standing: ProcId, principal: &Rc<str>) -> Option<ProcId> {
        if !self.per_session() || self.claim(principal) {
            return Some(standing);
        }
        let own = self.candidates(principal, "").0.first().map(|c| c.id);
        let chosen = match own {
            Some(id) => id,
            None if !self.has_place(now) => return None,
            None => {
                // Silence is not for an answer here: the standing process has said what it is.
                let silent_at = now + self.config.start + Duration::from_secs(1);
                let id = self.spawn(
                    now,
                    Role::Pool(Rc::clone(principal), String::new()),
                    Phase::Discovering { silent_at },
                    Era::Modern,
                );
                self.request(now, id, "server/discover", &meta::discover_params(), What::Discover);
                id
            }
        };
        if let Some(p) = self.procs.get_mut(&chosen) {
            p.used = now;
        }
        Some(chosen)
    }

    /// Whether the standing process is this principal's, by now if it was nobody's.
    fn claim(&mut self, principal: &Rc<str>) -> bool {
        self.standing.owner.get_or_insert_with(|| Rc::clone(principal)) == principal
    }

    fn candidates(&self, principal: &Rc<str>, key: &str) -> (Vec<Candidate>, usize) {
        let (mut group, mut all) = (Vec::new(), 0);
        for (id, p) in &self.procs {
            let Role::Pool(owner, capabilities) = &p.role else {
                continue;
            };
            all += 1;
            if owner != principal || capabilities != key {
                continue;
            }
            let calls = || p.calls.iter().filter_map(|c| self.calls.get(c));
            let unsure = p.is_unsure() && self.asks_seen;
            let suspended = calls().any(|c| c.lane.is_none() && c.owner().is_some());
            group.push(Candidate {
                id: *id,
                load: p.calls.len(),
                free: !unsure && !calls().any(Call::may_ask),
                shareable: !unsure && !suspended,
            });
        }
        group.sort_unstable_by_key(|c| c.id);
        (group, all)
    }

    fn spawn_pooled(&mut self, now: Instant, principal: &Rc<str>, key: String, capabilities: &str) -> ProcId {
        let role = Role::Pool(Rc::clone(principal), key);
        let id = self.spawn_legacy(now, role, &capabilities.replace(['\n', '\r'], " "));
        self.watch_too(now, id, principal);
        id
    }

    /// Whether one process more may be started for clients: an idle one gives way.
    pub(super) fn has_place(&mut self, now: Instant) -> bool {
        let pooled = self.procs.values().filter(|p| matches!(p.role, Role::Pool(..))).count();
        // Processes that are about to end still count, or opening and deleting in a loop would pile them up.
        let taken = |b: &Self, pooled: usize| b.sessions.len() + pooled + b.stopping / 2;
        if taken(self, pooled) < self.config.max_sessions {
            return true;
        }
        let idle = self
            .procs
            .iter()
            .filter(|(id, p)| matches!(p.role, Role::Pool(..)) && p.calls.is_empty() && !self.is_listened_to(**id));
        let Some(oldest) = idle
            .min_by_key(|(id, p)| (!p.is_unsure(), p.used, **id))
            .map(|(id, _)| *id)
        else {
            return false;
        };
        self.stop(now, oldest);
        taken(self, pooled - 1) < self.config.max_sessions
    }

    /// Processes of the pool whose time is over: idle for too long, or of no use since a question of theirs could be about
    /// a call that was given up.
    pub(super) fn over_in_pool(&self, now: Instant) -> Vec<ProcId> {
        let over = |id: ProcId, p: &super::Proc| {
            let useless = p.is_unsure() && self.asks_seen && now >= p.used + UNDELIVERED;
            let idle = now >= p.used + self.config.idle && !self.is_listened_to(id);
            matches!(p.role, Role::Pool(..)) && p.calls.is_empty() && (useless || idle)
        };
        self.procs
            .iter()
            .filter(|(id, p)| over(**id, p))
            .map(|(id, _)| *id)
            .collect()
    }
}
