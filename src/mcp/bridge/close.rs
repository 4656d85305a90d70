//! The end of everything at once, while the agent goes on: another start order takes the place of this one.
//!
//! Every call is answered with an error that says why, every session and stream ends, every process is stopped. What the
//! ends would start again is for the caller to ignore: nothing of this bridge runs any more.

use std::time::Instant;

use super::{Bridge, Proc, ProcId, Role, SessionNo, StreamId};

impl Bridge {
    /// Ends what a principal has here, who is let in no longer: sessions with their calls, streams and processes, and
    /// processes of the pool. How many sessions there were.
    pub fn forget(&mut self, now: Instant, principal: &str, why: &str) -> usize {
        let theirs = self.sessions.iter().filter(|(_, s)| &*s.principal == principal);
        let sessions: Vec<SessionNo> = theirs.map(|(no, _)| *no).collect();
        for no in &sessions {
            self.end_session(now, *no, why);
        }
        let listeners = self.listeners.iter().filter(|(_, l)| &*l.principal == principal);
        let listeners: Vec<StreamId> = listeners.map(|(stream, _)| *stream).collect();
        self.complete(listeners);
        let theirs = |p: &Proc| matches!(&p.role, Role::Pool(of, _) if &**of == principal);
        let pooled: Vec<ProcId> = self
            .procs
            .iter()
            .filter(|(_, p)| theirs(p))
            .map(|(id, _)| *id)
            .collect();
        for proc in pooled {
            self.stop(now, proc);
        }
        sessions.len()
    }

    /// Ends all sessions, calls, streams and processes.
    pub fn close(&mut self, now: Instant, why: &str) {
        let sessions: Vec<SessionNo> = self.sessions.keys().copied().collect();
        for no in sessions {
            self.end_session(now, no, why);
        }
        self.refuse_waiting(now, why);
        let channels: Vec<StreamId> = self.channels.keys().copied().collect();
        for channel in channels {
            self.end_stream(channel);
        }
        self.end_all_listeners();
        let procs: Vec<ProcId> = self.procs.keys().copied().collect();
        for proc in procs {
            self.order_stop(proc);
            self.gone(now, proc, why);
        }
        self.standing.respawn_at = None;
    }
}
