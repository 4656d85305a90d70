//! The ends of exchanges and of the connection: cancelled, given up, failed, and a session that the server has forgotten.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::exchange::{Exchange, Phase, What};
use super::{Connection, Effect, ExchangeId};
use crate::mcp::codes;
use crate::mcp::message::{self, Kind, Message};

/// What is only sent, and what a server says with a refusal, may take so long.
const BOUNDED: Duration = Duration::from_secs(10);
/// So much of it may be under way; beyond, the oldest is given up.
const MAX_NOTES: usize = 64;
/// Calls in a session that the server has forgotten may take so long.
const SEEN_OFF: Duration = Duration::from_secs(5);
pub(super) const FORGOTTEN: &str = "the server does not know the session any more";

impl Connection {
    /// Gives up what was only sent longest ago, where there is too much of it.
    pub(super) fn make_room(&mut self) {
        let note = |(id, x): (&ExchangeId, &Exchange)| (matches!(x.what, What::Note) && !x.keep).then_some(*id);
        let notes: Vec<ExchangeId> = self.exchanges.iter().filter_map(note).collect();
        if let (Some(oldest), true) = (notes.first(), notes.len() >= MAX_NOTES) {
            self.forget(*oldest);
        }
    }

    /// Ends what a server takes too long for, though nobody waits for an answer.
    pub(super) fn end_bounded(&mut self, now: Instant) {
        if self.phase == Phase::Forgotten && now >= *self.wait_until.get_or_insert(now + SEEN_OFF) {
            for id in self.calls() {
                self.fail(id, codes::SERVER_GONE, FORGOTTEN);
            }
        }
        let mut over = Vec::new();
        for (id, x) in self.exchanges.iter_mut().filter(|(_, x)| x.is_bounded()) {
            if now >= *x.until.get_or_insert(now + BOUNDED) {
                over.push(*id);
            }
        }
        for id in over {
            match self.exchanges.get(&id).map(|x| &x.what) {
                Some(What::Note) => self.forget(id),
                Some(What::Settle) => {
                    self.forget(id);
                    self.settled();
                }
                // With the words that have come.
                _ => self.end(now, id),
            }
            if !self.effects.contains(&Effect::Drop(id)) {
                self.effects.push(Effect::Drop(id));
            }
        }
    }

    /// The calls that have no answer yet.
    pub(super) fn calls(&self) -> Vec<ExchangeId> {
        let call = |(id, x): (&ExchangeId, &Exchange)| (matches!(x.what, What::Call(_)) && !x.answered).then_some(*id);
        self.exchanges.iter().filter_map(call).collect()
    }

    /// The server has refused this for its session, which it does not know any more.
    pub(super) fn forgotten(&mut self, id: ExchangeId) {
        if !matches!(
            self.phase,
            Phase::Settling | Phase::Hearing | Phase::Open | Phase::Forgotten
        ) {
            return self.lost(FORGOTTEN);
        }
        let refused = self.exchanges.get_mut(&id).and_then(|x| x.line.take());
        self.forget(id);
        // It counts for what is held as it did.
        self.held.extend(refused);
        if self.phase != Phase::Forgotten {
            (self.phase, self.wait_until) = (Phase::Forgotten, None);
        }
    }

    /// Ends a forgotten session once all that it was asked has come to something.
    pub(super) fn see_off(&mut self) {
        if self.phase == Phase::Forgotten && !self.gone && self.calls().is_empty() {
            self.drop_all();
            // There is none to be ended.
            self.session.id = None;
            self.gone = true;
            let unsent = std::mem::take(&mut self.held);
            self.effects.push(Effect::Forgotten(unsent));
        }
    }

    /// Drops the exchange of a cancelled request. In the legacy era the server is told as well, unless it was never asked.
    pub(super) fn cancel(&mut self, m: &Message<'_>, line: &Bytes) {
        let named = message::params(m.params).and_then(|p| p.request_id);
        let waits = |held: &Bytes| {
            let request = message::parse(held).ok().filter(|m| m.kind == Kind::Request);
            request.is_some_and(|r| named.is_some_and(|n| n.get() == r.id))
        };
        if let Some(at) = self.held.iter().position(waits) {
            self.held_bytes = self.held_bytes.saturating_sub(self.held.remove(at).len());
            return;
        }
        let mine = |x: &Exchange| matches!((&x.what, named), (What::Call(id), Some(n)) if **id == *n.get());
        let found = self
            .exchanges
            .iter()
            .find(|(_, x)| mine(x))
            .map(|(id, x)| (*id, x.modern));
        let modern = found.map_or(self.phase == Phase::Fresh, |(_, modern)| modern);
        if !modern && self.phase != Phase::Forgotten {
            self.make_room();
            self.post(Exchange::new(What::Note), line.clone());
        }
        if let Some((id, _)) = found {
            self.forget(id);
        }
    }

    /// Drops an exchange.
    pub(super) fn forget(&mut self, id: ExchangeId) {
        if let Some(x) = self.exchanges.remove(&id) {
            self.held_bytes = self.held_bytes.saturating_sub(x.held());
            if x.again_at.is_none() {
                self.effects.push(Effect::Drop(id));
            }
        }
    }

    /// Ends an exchange; a call that has no answer yet gets an error.
    pub(super) fn fail(&mut self, id: ExchangeId, code: i64, why: &str) {
        let Some(x) = self.exchanges.get(&id) else { return };
        let unanswered = match &x.what {
            What::Call(call) if !x.answered => Some(message::error(call, code, why, None)),
            _ => None,
        };
        self.forget(id);
        self.effects.extend(unanswered.map(Effect::Line));
    }

    pub(super) fn drop_all(&mut self) {
        let all: Vec<ExchangeId> = self.exchanges.keys().copied().collect();
        for id in all {
            self.forget(id);
        }
    }

    /// The connection is over.
    pub(super) fn lost(&mut self, why: &str) {
        if !std::mem::replace(&mut self.gone, true) {
            self.drop_all();
            self.effects.push(Effect::Gone(why.to_owned()));
        }
    }
}
