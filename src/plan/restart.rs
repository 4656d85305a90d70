//! How soon a server that died runs again, and when to give up. Pure: the caller keeps the time.
//!
//! ```text
//! died -> wait 0.25 s -> died -> 1 s -> died -> 4 s -> died -> 16 s -> died -> give up
//!   ^                                                                    a minute of health forgets all deaths
//! ```
//!
//! One that was never ready since it was asked to run is given up after the third death, within seconds: somebody is
//! waiting for it. One that a supervisor found when it started is not given up for a quarter of an hour: all instances
//! start at once after a boot, and on a slow or busy machine a first answer takes longer than it did when somebody waited.

use super::Millis;

/// So many quick deaths in a row are one too many.
pub const GIVE_UP_AFTER: u32 = 5;
/// The same for one that was never ready: what it lacks, waiting does not bring.
pub const NEVER_READY_GIVE_UP_AFTER: u32 = 3;
/// A run that was healthy for this long was no quick death.
pub const HEALTHY_RUN: Millis = 60_000;
/// So long from its own start a supervisor gives up nothing that it found.
pub const PATIENCE: Millis = 15 * 60_000;
const FIRST_WAIT: Millis = 250;
const LONGEST_WAIT: Millis = 60_000;

/// The recent deaths of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restarts {
    quick: u32,
    was_ready: bool,
    /// Before this moment it is not given up.
    patient_until: Millis,
    /// All restarts since somebody last asked for a start.
    pub total: u32,
}

/// What follows from a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start again at this moment.
    At(Millis),
    /// It dies too often.
    GiveUp,
}

impl Restarts {
    /// Of an instance that a supervisor found at its own start, moment 0.
    pub fn found() -> Self {
        Self {
            patient_until: PATIENCE,
            ..Self::default()
        }
    }

    /// Notes a death at `now` of a run that had been ready since `ready_since` (None: it never was).
    pub fn died(&mut self, now: Millis, ready_since: Option<Millis>) -> Verdict {
        if ready_since.is_some_and(|since| now.saturating_sub(since) >= HEALTHY_RUN) {
            self.quick = 0;
        }
        self.quick += 1;
        self.was_ready |= ready_since.is_some();
        let limit = if self.was_ready {
            GIVE_UP_AFTER
        } else {
            NEVER_READY_GIVE_UP_AFTER
        };
        if self.quick >= limit && now >= self.patient_until {
            return Verdict::GiveUp;
        }
        self.total += 1;
        Verdict::At(now + wait(self.quick, 4))
    }

    /// How many quick deaths in a row there were.
    pub fn quick(&self) -> u32 {
        self.quick
    }
}

/// The wait before try `n` (from 1) at something that is not the instance's fault: Docker is away.
pub fn engine_wait(n: u32) -> Millis {
    wait(n, 2).min(5_000)
}

fn wait(n: u32, factor: u64) -> Millis {
    factor
        .checked_pow(n.saturating_sub(1))
        .and_then(|f| f.checked_mul(FIRST_WAIT))
        .map_or(LONGEST_WAIT, |w| w.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_deaths_back_off_and_end() {
        let mut r = Restarts::default();
        let waits: Vec<_> = (0..5).map(|_| r.died(1000, Some(900))).collect();
        assert_eq!(
            waits,
            [
                Verdict::At(1250),
                Verdict::At(2000),
                Verdict::At(5000),
                Verdict::At(17_000),
                Verdict::GiveUp
            ]
        );
        assert_eq!(r.total, 4);
    }

    #[test]
    fn what_was_never_ready_ends_sooner() {
        let mut r = Restarts::default();
        let waits: Vec<_> = (0..3).map(|_| r.died(1000, None)).collect();
        assert_eq!(waits, [Verdict::At(1250), Verdict::At(2000), Verdict::GiveUp]);
    }

    #[test]
    fn what_a_supervisor_found_is_tried_for_a_quarter_of_an_hour() {
        let mut r = Restarts::found();
        let (mut now, mut tries) = (0, 0);
        while let Verdict::At(at) = r.died(now, None) {
            assert!(now < PATIENCE && at <= now + LONGEST_WAIT, "{now} {at}");
            now = at + 1000;
            tries += 1;
        }
        assert!(now >= PATIENCE && tries > 10, "{now} {tries}");
    }

    #[test]
    fn a_minute_of_health_forgets() {
        let mut r = Restarts::default();
        for n in 0..100 {
            let now = n * 70_000;
            assert_eq!(r.died(now + 65_000, Some(now)), Verdict::At(now + 65_250));
        }
        assert_eq!(r.total, 100);
        assert_eq!(
            r.died(10_000_000, None),
            Verdict::At(10_001_000),
            "never ready is quick"
        );
    }

    #[test]
    fn waits_are_bounded() {
        assert_eq!(engine_wait(1), 250);
        assert_eq!(engine_wait(u32::MAX), 5000);
        assert_eq!(wait(200, 4), LONGEST_WAIT);
    }
}
