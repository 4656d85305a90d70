//! The time of a call: counted from its start, and anew from each sign that somebody works on it: progress that its
//! server reports, and a question to its client on the way. A call has [`LONGEST`] times its timeout at most.

use std::time::{Duration, Instant};

use super::{Bridge, Call, CallId, LONGEST, ProcId, SessionNo};

impl Bridge {
    /// How long one call may take in all.
    pub(super) fn longest(&self) -> Duration {
        self.config.call.saturating_mul(LONGEST)
    }

    /// Deadline and bound of a call that begins now.
    pub(super) fn times(&self, now: Instant) -> (Option<Instant>, Option<Instant>) {
        (Some(now + self.config.call), Some(now + self.longest()))
    }

    /// Gives a call its time anew. One that waits for its client has no deadline (module `suspend`), one that its client
    /// gave up has no bound.
    pub(super) fn put_off(&mut self, now: Instant, id: CallId) {
        let next = now + self.config.call;
        if let Some(Call {
            deadline: Some(deadline),
            bound: Some(bound),
            ..
        }) = self.calls.get_mut(&id)
        {
            *deadline = next.min(*bound);
        }
    }

    /// The same for all calls of a session at a process: a question does not say about which of them it is asked.
    pub(super) fn put_off_all(&mut self, now: Instant, proc: ProcId, no: SessionNo) {
        for id in self.calls_of(proc, no) {
            self.put_off(now, id);
        }
    }

    /// When a call that waits for its client has to go on: within its bound.
    pub(super) fn until(&self, now: Instant, id: CallId) -> Instant {
        let next = now + self.config.call;
        let bound = self.calls.get(&id).and_then(|c| c.bound);
        bound.map_or(next, |b| next.min(b))
    }

    /// Why a call whose deadline is over ends, in words.
    pub(super) fn too_late(&self, now: Instant, id: CallId) -> String {
        let call = self.calls.get(&id);
        if call.and_then(|c| c.bound).is_some_and(|b| now >= b) {
            let most = self.longest().as_secs();
            return format!("the call took {most} s, which is the longest that one may take whatever its progress");
        }
        let limit = self.config.call.as_secs_f32();
        format!("the server gave no answer, and no sign of progress, within {limit} s")
    }
}
