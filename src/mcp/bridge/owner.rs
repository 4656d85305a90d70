//! Ownership: whose a message is that a server sends by itself, on a process that serves several clients.
//!
//! Such a message names no call. So every call keeps its place in the books of its process until its answer has come: an
//! *abandoned* call (its client is gone, has cancelled it, or waited for too long) stays there as an owner without an ear,
//! since the server may work on it still. Only when all that is in the books has one owner is the message given to that
//! owner; one that could be anybody's goes to nobody. Ownership comes first: whether its owner wants to hear a message is
//! asked afterwards, and changes nothing about who that is.
//!
//! Never guesses: a process whose books are full says so ([`Proc::lost_track`]), and nothing that it says by itself is
//! given to anybody from then on.

use std::sync::Arc;

use http::HeaderMap;

use super::{Bridge, Call, CallId, Proc, ProcId, Role, SessionNo, What};
use crate::mcp::head;
use crate::mcp::message::{self, Message};

/// Abandoned calls that one process remembers.
pub(super) const MAX_ABANDONED: usize = 256;
/// The log levels, from the least severe, as they stand in a message (RFC 5424).
pub(super) const LEVELS: [&str; 8] = [
    "\"debug\"",
    "\"info\"",
    "\"notice\"",
    "\"warning\"",
    "\"error\"",
    "\"critical\"",
    "\"alert\"",
    "\"emergency\"",
];

/// Who is behind a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// A legacy session.
    Session(SessionNo),
    /// Modern clients of one principal.
    Client(Arc<str>),
}

/// A call without a client, which its server has not answered.
#[derive(Debug)]
pub(super) struct Abandoned {
    owner: Owner,
    principal: Arc<str>,
    may_ask: bool,
}

/// The principals that a process has ever served.
#[derive(Debug, Default)]
pub(super) enum Served {
    #[default]
    Nobody,
    One(Arc<str>),
    Many,
}

/// Whose a message is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Nothing in the books explains it.
    Nobody,
    /// This call's.
    Call(CallId),
    /// This session's, by which of its calls cannot be said.
    Session(SessionNo),
    /// More than one could be meant.
    Anybody,
}

/// Where a log level stands among all; `None` for one that does not exist.
pub(super) fn severity(raw: &str) -> Option<u8> {
    LEVELS.iter().position(|l| *l == raw).map(|at| at as u8)
}

/// Whether a server may ask its client something while it works on a request (MCP 2026-07-28, basic/patterns/mrtr).
pub(super) fn may_ask(method: &str) -> bool {
    matches!(method, "tools/call" | "prompts/get" | "resources/read")
}

impl Call {
    /// Whose call it is; `None` for our own, and for subscriptions, whose messages name them.
    pub(super) fn owner(&self) -> Option<Owner> {
        match (&self.what, self.session, &self.client) {
            (What::Listen, ..) => None,
            (_, Some(no), _) => Some(Owner::Session(no)),
            (_, None, Some(principal)) => Some(Owner::Client(Arc::clone(principal))),
            _ => None,
        }
    }

    /// Whether its server may ask something about it.
    pub(super) fn may_ask(&self) -> bool {
        match &self.what {
            What::Translated(origin) => may_ask(&origin.method),
            _ => self.session.is_some(),
        }
    }

    /// Whether a log message is wanted with it.
    pub(super) fn wants(&self, m: &Message<'_>) -> bool {
        let Some(least) = self.logs else { return false };
        let level = message::params(m.params).and_then(|p| severity(p.level?.get()));
        level.is_none_or(|level| level >= least)
    }
}

impl Proc {
    /// Notes whom it serves.
    pub(super) fn serves(&mut self, principal: &Arc<str>) {
        match &self.served {
            Served::Nobody => self.served = Served::One(Arc::clone(principal)),
            Served::One(one) if !Arc::ptr_eq(one, principal) && one != principal => self.served = Served::Many,
            Served::One(_) | Served::Many => {}
        }
    }

    /// Whether a question of its server could be about a call that has no client any more.
    pub(super) fn is_unsure(&self) -> bool {
        self.lost_track || self.abandoned.values().any(|a| a.may_ask)
    }
}

impl Bridge {
    /// Who sends a request, as the edge says: the same text is one allocation.
    pub(super) fn principal(&mut self, headers: &HeaderMap) -> Arc<str> {
        let text = head::text(headers, head::PRINCIPAL).unwrap_or_default();
        if let Some(known) = self.principals.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.principals.insert(Arc::clone(&new));
        new
    }

    /// Forgets principals that nothing here belongs to.
    pub(super) fn forget_principals(&mut self) {
        self.principals.retain(|p| Arc::strong_count(p) > 1);
    }

    /// Keeps a call in the books of its process after its client is gone.
    pub(super) fn bury(&mut self, id: CallId, call: &Call) {
        let Some(owner) = call.owner() else { return };
        let may_ask = call.may_ask();
        let Some(principal) = self.behind(&owner) else { return };
        let Some(p) = self.procs.get_mut(&call.proc) else {
            return;
        };
        if p.lost_track || matches!(p.role, Role::Session(_)) {
            return;
        }
        if p.abandoned.len() < MAX_ABANDONED {
            let abandoned = Abandoned {
                owner,
                principal,
                may_ask,
            };
            p.abandoned.insert(id, abandoned);
            return;
        }
        p.lost_track = true;
        p.abandoned.clear();
        self.log(format!(
            "the server has not answered {MAX_ABANDONED} calls whose clients are gone; what it asks or logs by itself \
             goes to nobody from now on. Restart the instance to end this"
        ));
    }

    /// The principal behind an owner.
    fn behind(&self, owner: &Owner) -> Option<Arc<str>> {
        match owner {
            Owner::Session(no) => self.sessions.get(no).map(|s| Arc::clone(&s.principal)),
            Owner::Client(principal) => Some(Arc::clone(principal)),
        }
    }

    /// Whose a message of a process is that names no call. A `question` can only be about calls that may be asked about,
    /// and never goes to another run than its own. Anything else may go to the principal whose it is, though it be about
    /// a call that this principal has given up: a server need not answer these (2025-11-25, basic/utilities/cancellation).
    pub(super) fn whose(&self, proc: ProcId, question: bool) -> Whose {
        let Some(p) = self.procs.get(&proc) else {
            return Whose::Nobody;
        };
        if p.lost_track {
            return Whose::Anybody;
        }
        let live: Vec<(CallId, Owner, bool)> = p
            .calls
            .iter()
            .filter_map(|id| self.calls.get(id).and_then(|c| Some((*id, c.owner()?, c.may_ask()))))
            .collect();
        let principal = live.first().and_then(|(_, o, _)| self.behind(o));
        let counts = |a: &&Abandoned| question || principal.as_ref().is_none_or(|p| *p != a.principal);
        let abandoned = p.abandoned.values().filter(counts).map(|a| &a.owner);
        let mut owners = live.iter().map(|(_, o, _)| o).chain(abandoned);
        let Some(first) = owners.next() else {
            return Whose::Nobody;
        };
        if owners.any(|o| o != first) {
            return match (question, live.is_empty()) {
                // All of them are gone: see `only_session`.
                (false, true) => Whose::Nobody,
                _ => Whose::Anybody,
            };
        }
        let meant: Vec<CallId> = live
            .iter()
            .filter(|(_, _, may_ask)| *may_ask || !question)
            .map(|(id, ..)| *id)
            .collect();
        let dead = question && p.is_unsure();
        match (meant.as_slice(), first) {
            ([call], _) if !dead => Whose::Call(*call),
            (_, Owner::Session(no)) => Whose::Session(*no),
            ([], Owner::Client(_)) if !dead => Whose::Nobody,
            (_, Owner::Client(_)) => Whose::Anybody,
        }
    }

    /// The calls of a session at a process.
    pub(super) fn calls_of(&self, proc: ProcId, no: SessionNo) -> Vec<CallId> {
        let of = |id: &CallId| self.calls.get(id).is_some_and(|c| c.session == Some(no));
        let calls = self.procs.get(&proc).map(|p| p.calls.iter());
        calls.into_iter().flatten().copied().filter(of).collect()
    }

    /// The session of a shared process, where nobody else can be meant: it is the only one, and the process has served
    /// no other principal, nor modern clients of this one that are not through.
    pub(super) fn only_session(&self, proc: ProcId) -> Option<SessionNo> {
        let legacy = Some(proc) == self.standing.proc || Some(proc) == self.twin;
        let mut shared = self.sessions.iter().filter(|(_, s)| legacy && s.proc.is_none());
        let (Some((no, s)), None) = (shared.next(), shared.next()) else {
            return None;
        };
        let p = self.procs.get(&proc)?;
        let alone = match &p.served {
            Served::Nobody => true,
            Served::One(principal) => *principal == s.principal,
            Served::Many => false,
        };
        (alone && !p.lost_track).then_some(*no)
    }

    /// Says once for each process that messages of its server are dropped, since they could be anybody's.
    pub(super) fn drop_ownerless(&mut self, proc: ProcId, method: &str) {
        let Some(p) = self.procs.get_mut(&proc).filter(|p| !p.dropped) else {
            return;
        };
        p.dropped = true;
        let method = &method[..method.floor_char_boundary(64)];
        self.log(format!(
            "dropped a message of the server ({method}) that could be any of several clients'; more of its kind are \
             dropped without a line"
        ));
    }
}
