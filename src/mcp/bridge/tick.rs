//! Everything that ends by time. Each wait in the bridge has its deadline looked at here, and nowhere else.

use std::collections::HashSet;
use std::time::Instant;

use super::{Bridge, CallId, SessionNo};
use crate::mcp::codes;

impl Bridge {
    /// Looks at all deadlines. To be called about ten times a second while [`Bridge::busy`], else once a second.
    pub fn tick(&mut self, now: Instant) {
        self.tick_procs(now);
        self.tick_health(now);
        // Before the calls: a question that nobody answered in time gives its server time to go on without.
        self.tick_asks(now);
        self.tick_calls(now);
        self.tick_waiting(now);
        self.tick_suspended(now);
        self.tick_feeds(now);
        self.tick_lanes(now);
        self.tick_channels(now);
        self.tick_sessions(now);
        self.shrink();
    }

    fn tick_calls(&mut self, now: Instant) {
        let late = |d: Option<Instant>| d.is_some_and(|d| now >= d);
        let ids: Vec<CallId> = self
            .calls
            .iter()
            .filter(|(_, c)| late(c.deadline))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let (code, why) = if self.is_cancelled(id) {
                (codes::CANCELLED, "the client cancelled the call".to_owned())
            } else {
                (codes::CALL_TIMEOUT, self.too_late(now, id))
            };
            self.abandon(now, id, code, &why, true);
        }
    }

    fn tick_asks(&mut self, now: Instant) {
        let ids: Vec<u64> = self
            .asks
            .iter()
            .filter(|(_, a)| now >= a.deadline)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.fail_ask(now, id, "the client gave no answer in time");
        }
    }

    fn tick_sessions(&mut self, now: Instant) {
        // A call that nobody waits for any more keeps no session alive: its client may come back, but has not.
        let shortest = self.config.idle.min(self.config.vanish).min(super::UNUSED);
        let old = |s: &super::Session| s.open && now >= s.last + shortest;
        let candidates: Vec<SessionNo> = self
            .sessions
            .iter()
            .filter(|(_, s)| old(s))
            .map(|(no, _)| *no)
            .collect();
        if candidates.is_empty() {
            return;
        }
        let connected: HashSet<SessionNo> = self
            .streams
            .values()
            .filter(|l| l.wire.is_some())
            .filter_map(|l| l.session)
            .collect();
        for no in candidates {
            let Some(s) = self.sessions.get_mut(&no) else { continue };
            if connected.contains(&no) {
                s.last = now;
                continue;
            }
            let limit = if !s.used {
                // Its client may not even know of it.
                shortest
            } else if s.listened || !s.ids.is_empty() {
                self.config.vanish
            } else {
                // A client that only sends has no stream to lose.
                self.config.idle
            };
            if now >= s.last + limit {
                self.end_session(now, no, "the session was idle for too long");
            }
        }
    }
}
