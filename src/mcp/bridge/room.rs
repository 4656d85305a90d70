//! Room for one client more: by count, and by the memory that a process more would need. Full turns nobody away while
//! something is idle: that which is idle for longest gives way, of whoever has most, and never anything that is in use.
//!
//! A session is in use while a request of it or a question to it has no answer, while it has a stream open, and for the
//! first moments in which its client learns its id. A process of the pool is in use while it has calls or listeners.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Bridge, ProcId, Role, SessionNo, UNDELIVERED};

/// This part of the limit stays free, for what the processes that run take in a rush: one in so many.
const MARGIN: u64 = 16;
/// Processes that may be ending while others are started in their place: a part of the sessions, and at least so many.
const ENDING: (usize, usize) = (4, 2);
/// What happens again and again gets a line in the log no more often than this.
const AGAIN: Duration = Duration::from_secs(60);

/// The memory of the container as the caller measures it, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// `None`: there is no limit, or it is not known.
    pub limit: Option<u64>,
    /// What is in use and cannot be had back from the page cache.
    pub used: u64,
    /// What of it processes hold that were told to end.
    pub leaving: u64,
    /// What processes that have just begun will most likely take yet.
    pub growing: u64,
    /// What one process more is likely to take.
    pub one: u64,
}

impl Memory {
    /// So many bytes are missing for one process more, once those that are ending have ended.
    pub fn short(&self) -> u64 {
        self.missing(self.leaving)
    }

    /// Whether one process more fits as it is.
    pub fn fits_now(&self) -> bool {
        self.missing(0) == 0
    }

    fn missing(&self, freed: u64) -> u64 {
        let Some(limit) = self.limit else { return 0 };
        let held = self.used.saturating_sub(freed).saturating_add(self.growing);
        held.saturating_add(self.one)
            .saturating_add(limit / MARGIN)
            .saturating_sub(limit)
    }

    fn words(&self) -> String {
        let mib = |n: u64| n >> 20;
        format!(
            "there is no memory for one more process of this server: {} MiB of {} MiB are in use, and one takes about {} MiB; \
             end sessions that are not needed, or give the instance a larger size",
            mib(self.used.saturating_add(self.growing)),
            mib(self.limit.unwrap_or_default()),
            mib(self.one).max(1)
        )
    }
}

/// Measures the memory; called before a process is started for a client, and at no other time.
pub type Meter = Box<dyn FnMut() -> Memory + Send>;

/// What happened again since the log's last line about it.
#[derive(Debug, Default)]
pub(super) struct Often {
    said: Option<Instant>,
    more: u32,
}

impl Often {
    /// The text for the log, if it is time for one.
    fn say(&mut self, now: Instant, text: &str) -> Option<String> {
        if self.said.is_some_and(|at| now < at + AGAIN) {
            self.more += 1;
            return None;
        }
        self.said = Some(now);
        Some(match std::mem::take(&mut self.more) {
            0 => text.to_owned(),
            more => format!("{text} ({more} times more since the last line like this)"),
        })
    }
}

/// What a client needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A session on a process that is there.
    Session,
    /// A process of its own, with its session or without.
    Process,
    /// A process where another could serve as well: no session gives way to that.
    Spare,
}

/// What may give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    Pooled(ProcId),
    Session(SessionNo),
}

impl Bridge {
    /// The same bridge, which looks at the container's memory before it starts a process for a client.
    #[must_use]
    pub fn with_meter(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }

    /// Makes room for one client more. What has to give way has been ended when this returns.
    ///
    /// # Errors
    /// Why there is no room, in words for the client.
    pub(super) fn make_room(&mut self, now: Instant, need: Need) -> Result<(), String> {
        let full = match self.room_by_count(now, need) {
            Ok(freed) if need != Need::Session => self.room_by_memory(now, need, freed),
            Ok(_) => Ok(()),
            Err(why) => Err(why),
        };
        if let Err(why) = &full
            && need != Need::Spare
            && let Some(text) = self
                .often
                .0
                .say(now, &format!("a client was told to come later: {why}"))
        {
            self.log(text);
        }
        full
    }

    /// Processes that were ended for it.
    fn room_by_count(&mut self, now: Instant, need: Need) -> Result<u64, String> {
        let most = self.config.max_sessions;
        let pooled = self.procs.values().filter(|p| matches!(p.role, Role::Pool(..))).count();
        let held = self.sessions.len() + pooled;
        // Processes that are about to end still count, or opening and deleting in a loop would pile them up.
        if held + self.stopping / 2 < most {
            return Ok(0);
        }
        if need != Need::Session && self.stopping >= (most / ENDING.0).max(ENDING.1) {
            return Err("processes of sessions that have ended are still ending, try again in a moment".to_owned());
        }
        if held < most {
            return Ok(0);
        }
        let Some(idle) = self.idle(now, need).into_iter().next() else {
            return Err(format!(
                "all {most} sessions of this server are in use, try again later; DELETE ends one that is not needed"
            ));
        };
        let freed = self.has_process(idle);
        self.give_way(now, idle, &format!("there may be {most}"));
        Ok(u64::from(freed))
    }

    /// `freed`: processes that were ended just now, and are not in the measure.
    fn room_by_memory(&mut self, now: Instant, need: Need, freed: u64) -> Result<(), String> {
        let memory = (self.meter)();
        let one = memory.one.max(1);
        let short = memory.short().saturating_sub(freed.saturating_mul(one));
        if short == 0 {
            return Ok(());
        }
        let wanted = usize::try_from(short.div_ceil(one)).unwrap_or(usize::MAX);
        let idle = self.idle(now, need).into_iter();
        let idle: Vec<Idle> = idle.filter(|i| self.has_process(*i)).collect();
        if idle.len() < wanted {
            return Err(memory.words());
        }
        for idle in idle.into_iter().take(wanted) {
            self.give_way(now, idle, "the container's memory has no room for more");
        }
        Ok(())
    }

    /// Whether its end is the end of a process.
    fn has_process(&self, idle: Idle) -> bool {
        match idle {
            Idle::Pooled(_) => true,
            Idle::Session(no) => self.sessions.get(&no).is_some_and(|s| s.proc.is_some()),
        }
    }

    /// What may give way, in that order: processes of the pool, whose clients notice nothing, then sessions.
    fn idle(&self, now: Instant, need: Need) -> Vec<Idle> {
        let mut pooled: Vec<_> = self
            .procs
            .iter()
            .filter(|(id, p)| matches!(p.role, Role::Pool(..)) && p.calls.is_empty() && !self.is_listened_to(**id))
            .map(|(id, p)| (!p.is_unsure(), p.used, *id))
            .collect();
        pooled.sort_unstable();
        let mut busy: HashSet<SessionNo> = self.asks.values().filter_map(|a| a.session).collect();
        busy.extend(
            self.streams
                .values()
                .filter(|l| l.wire.is_some())
                .filter_map(|l| l.session),
        );
        let mut shares: HashMap<&Arc<str>, usize> = HashMap::new();
        for s in self.sessions.values() {
            *shares.entry(&s.principal).or_default() += 1;
        }
        let rests = |no: &SessionNo, s: &super::Session| {
            let learns = !s.used && now < s.last + UNDELIVERED;
            need != Need::Spare && s.open && s.ids.is_empty() && !busy.contains(no) && !learns
        };
        let mut sessions: Vec<_> = self
            .sessions
            .iter()
            .filter(|(no, s)| rests(no, s))
            .map(|(no, s)| (Reverse(shares.get(&s.principal).copied()), s.last, *no))
            .collect();
        sessions.sort_unstable();
        let pooled = pooled.into_iter().map(|(.., id)| Idle::Pooled(id));
        pooled
            .chain(sessions.into_iter().map(|(.., no)| Idle::Session(no)))
            .collect()
    }

    fn give_way(&mut self, now: Instant, idle: Idle, why: &str) {
        match idle {
            Idle::Pooled(id) => self.stop(now, id),
            Idle::Session(no) => {
                let rested = self
                    .sessions
                    .get(&no)
                    .map_or(0, |s| now.duration_since(s.last).as_secs());
                let text = format!("ended a session that was idle for {rested} s to admit another: {why}");
                if let Some(text) = self.often.1.say(now, &text) {
                    self.log(text);
                }
                self.end_session(now, no, "the session was idle and gave way to another");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn memory(limit: u64, used: u64, one: u64) -> Memory {
        Memory {
            limit: Some(limit * MIB),
            used: used * MIB,
            one: one * MIB,
            ..Memory::default()
        }
    }

    #[test]
    fn memory_counts_what_grows_and_what_leaves() {
        assert_eq!(memory(512, 420, 60).short(), 0, "480 of 512, less the margin of 32");
        assert_eq!(memory(512, 421, 60).short(), MIB);
        let grows = Memory {
            growing: 10 * MIB,
            ..memory(512, 420, 60)
        };
        assert_eq!(grows.short(), 10 * MIB);
        let leaves = Memory {
            leaving: 10 * MIB,
            ..grows
        };
        assert_eq!((leaves.short(), leaves.fits_now()), (0, false));
        let unknown = Memory {
            limit: None,
            ..memory(0, 1 << 30, 1 << 30)
        };
        assert!(unknown.fits_now() && unknown.short() == 0);
        assert!(
            memory(512, 500, 60)
                .words()
                .contains("500 MiB of 512 MiB are in use, and one takes about 60 MiB")
        );
    }

    #[test]
    fn the_log_has_one_line_a_minute() {
        let (mut often, now) = (Often::default(), Instant::now());
        assert_eq!(often.say(now, "x").as_deref(), Some("x"));
        assert_eq!(often.say(now + AGAIN / 2, "x"), None);
        assert_eq!(
            often.say(now + AGAIN, "x").as_deref(),
            Some("x (1 times more since the last line like this)")
        );
    }
}
