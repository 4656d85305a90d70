//! Which process serves a modern client, where the type does not have one process for all.
//!
//! Processes belong to a principal: what one client's server knows, asks and keeps is never another's business. The
//! standing process goes to the first principal that comes and declares nothing that it could be asked; every other
//! principal, and every other set of capabilities, has processes of its own, which end when they are idle.
//!
//! A server that asks its client questions does not say about which call it asks. So a call of a tool (a prompt, a
//! resource) about which it was seen to ask has a process for itself, up to the number of sessions that the type allows.
//! Calls of tools that have answered without asking share a few ([`FEW`]), and what was never called before gets a process
//! as long as there are not many ([`SEVERAL`]); neither shares one with a call that waits for its client.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::room::Need;
use super::{Bridge, Call, Phase, ProcId, Role, UNDELIVERED, What};
use crate::mcp::meta;
use crate::mcp::version::Era;

/// Processes that are started for calls at the same time about which nothing was ever asked: of one kind, and in all.
const FEW: (usize, usize) = (2, 4);
/// The same for calls of which nothing is known.
const SEVERAL: (usize, usize) = (8, 16);
/// Names that are remembered of either kind. Past it every call counts as one that is asked about.
const MAX_NAMES: usize = 64;

/// The tools, prompts and resources (raw) about which a server was seen to ask.
#[derive(Debug, Default)]
pub(super) struct Askers {
    names: HashSet<Box<str>>,
    all: bool,
    /// Those that have answered without.
    plain: HashSet<Box<str>>,
}

impl Askers {
    fn note(&mut self, name: &str) {
        if self.names.contains(name) {
            return;
        }
        self.all |= self.names.len() >= MAX_NAMES;
        self.plain.remove(name);
        if !self.all {
            self.names.insert(name.into());
        }
    }

    /// A call has been answered.
    pub(super) fn note_plain(&mut self, name: &str) {
        if !self.has(name) && !self.plain.contains(name) && self.plain.len() < MAX_NAMES {
            self.plain.insert(name.into());
        }
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

/// One process as a candidate.
struct Candidate {
    id: ProcId,
    /// Calls that it has.
    load: usize,
    /// Whether it has none that may be asked about.
    free: bool,
    /// Whether it has none that waits for its client, or is known to be asked about.
    shareable: bool,
}

impl Bridge {
    /// The process for a client of a legacy server with these capabilities; `about`: the name of what is called, if the
    /// server may ask about it.
    ///
    /// # Errors
    /// Why there is none, in words for the client.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        standing: ProcId,
        principal: &Arc<str>,
        capabilities: &str,
        about: Option<&str>,
    ) -> Result<ProcId, String> {
        if !self.per_session() {
            return Ok(standing);
        }
        // One text for what means the same.
        let key = serde_json::from_str::<serde_json::Value>(capabilities)
            .map_err(|e| format!("the client's capabilities cannot be read: {e}"))?
            .to_string();
        let about = about.filter(|_| key != "{}");
        if key == "{}" && self.claim(principal) {
            return Ok(standing);
        }
        let (group, all) = self.candidates(principal, &key);
        let least = |fits: &dyn Fn(&Candidate) -> bool| {
            group
                .iter()
                .filter(|c| fits(c))
                .min_by_key(|c| (c.load, c.id))
                .map(|c| c.id)
        };
        let alone = about.is_some_and(|name| self.askers.has(name));
        let chosen = match least(&|c| c.free || about.is_none()) {
            Some(id) => id,
            None => {
                let shared = least(&|c| c.shareable && !alone);
                let plain = about.is_some_and(|name| self.askers.plain.contains(name));
                let enough = if plain { FEW } else { SEVERAL };
                let few = group.len() < enough.0 && all < enough.1;
                match shared {
                    Some(id) if !few => id,
                    _ => match (
                        self.make_room(now, shared.map_or(Need::Process, |_| Need::Spare)),
                        shared,
                    ) {
                        (Ok(()), _) => self.spawn_pooled(now, principal, key, capabilities),
                        (Err(_), Some(id)) => id,
                        (Err(why), None) => return Err(why),
                    },
                }
            }
        };
        if let Some(p) = self.procs.get_mut(&chosen) {
            p.used = now;
        }
        Ok(chosen)
    }

    /// The server of a process asks its client: about every call that could be meant it may ask again. What roots a client
    /// has is asked of it, not about a call.
    pub(super) fn note_asker(&mut self, proc: ProcId, method: &str) {
        let Some(p) = self.procs.get(&proc).filter(|_| method != "roots/list") else {
            return;
        };
        let calls = p
            .calls
            .iter()
            .filter_map(|id| self.calls.get(id))
            .filter(|c| c.may_ask());
        for call in calls {
            if let What::Translated(origin) = &call.what {
                self.askers.note(&origin.name);
            }
        }
    }

    /// The process for a client of a modern server.
    ///
    /// # Errors
    /// Why there is none, in words for the client.
    pub(super) fn choose_modern(
        &mut self,
        now: Instant,
        standing: ProcId,
        principal: &Arc<str>,
    ) -> Result<ProcId, String> {
        if !self.per_session() || self.claim(principal) {
            return Ok(standing);
        }
        let own = self.candidates(principal, "").0.first().map(|c| c.id);
        let chosen = match own {
            Some(id) => id,
            None => {
                self.make_room(now, Need::Process)?;
                // Silence is not for an answer here: the standing process has said what it is.
                let silent_at = now + self.config.start + Duration::from_secs(1);
                let id = self.spawn(
                    now,
                    Role::Pool(Arc::clone(principal), String::new()),
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
        Ok(chosen)
    }

    /// Whether the standing process is this principal's, by now if it was nobody's.
    fn claim(&mut self, principal: &Arc<str>) -> bool {
        self.standing.owner.get_or_insert_with(|| Arc::clone(principal)) == principal
    }

    fn candidates(&self, principal: &Arc<str>, key: &str) -> (Vec<Candidate>, usize) {
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
            let unsure = p.is_unsure() && !self.askers.is_empty();
            let waits = |c: &Call| c.stream.is_none() && c.owner().is_some();
            let asks = |c: &Call| matches!(&c.what, What::Translated(o) if self.askers.has(&o.name));
            group.push(Candidate {
                id: *id,
                load: p.calls.len(),
                free: !unsure && !calls().any(Call::may_ask),
                shareable: !unsure && !calls().any(|c| waits(c) || asks(c)),
            });
        }
        group.sort_unstable_by_key(|c| c.id);
        (group, all)
    }

    /// A process for a principal and these capabilities; `key` is what they mean, in one text.
    pub(super) fn spawn_pooled(
        &mut self,
        now: Instant,
        principal: &Arc<str>,
        key: String,
        capabilities: &str,
    ) -> ProcId {
        let role = Role::Pool(Arc::clone(principal), key);
        let id = self.spawn_legacy(now, role, &capabilities.replace(['\n', '\r'], " "));
        self.watch_too(now, id, principal);
        id
    }

    /// Processes of the pool whose time is over: idle for too long, or of no use since a question of theirs could be about
    /// a call that was given up.
    pub(super) fn over_in_pool(&self, now: Instant) -> Vec<ProcId> {
        let over = |id: ProcId, p: &super::Proc| {
            let useless = p.is_unsure() && !self.askers.is_empty() && now >= p.used + UNDELIVERED;
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
