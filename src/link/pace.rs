//! How often small pieces of one instance may wake the supervisor. A server that sends a byte at a time makes as much work
//! with each as another with 8 KiB; past a rate that no honest one needs, the next read waits a moment, in which what comes
//! gathers in the socket. All connections of the instance share one [`Pace`], so that it cannot have more by having more
//! connections; other instances never wait for it. (GCRA: ITU-T I.371, annex A.)

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A read of fewer bytes is a small one.
pub const SMALL: usize = 512;
/// Small reads of one answer that nobody counts: an ordinary answer has one or two.
pub const FREE: u32 = 16;
/// Past those: so long for each of an instance.
const EACH: Duration = Duration::from_micros(250);
/// What may come at once.
const BURST: Duration = Duration::from_millis(64);
/// No reader waits longer.
const LONGEST: Duration = Duration::from_millis(250);

/// One instance's rate of something.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    each: u64,
    burst: u64,
    /// In µs since `began`: when the rate would be used up evenly.
    even: AtomicU64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::new(EACH, BURST)
    }
}

impl Pace {
    /// One in `each`, and what falls into `burst` at once.
    pub fn new(each: Duration, burst: Duration) -> Pace {
        Pace {
            began: Instant::now(),
            each: each.as_micros() as u64,
            burst: burst.as_micros() as u64,
            even: AtomicU64::new(0),
        }
    }

    /// Counts one; how long to wait before the next, where that is needed.
    pub fn count(&self) -> Option<Duration> {
        self.count_at(self.began.elapsed().as_micros() as u64)
    }

    fn count_at(&self, now: u64) -> Option<Duration> {
        let most = now + self.burst + LONGEST.as_micros() as u64;
        let step = |even: u64| Some((even.max(now) + self.each).min(most));
        let before = self.even.fetch_update(Relaxed, Relaxed, step).unwrap_or(now);
        let wait = (before.max(now) + self.each).min(most).saturating_sub(now + self.burst);
        // A timer has no finer ticks.
        (wait > 0).then(|| Duration::from_micros(wait.max(1000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_waits() {
        let pace = Pace::new(Duration::from_millis(1), Duration::from_millis(10));
        for n in 0..10 {
            assert_eq!(pace.count_at(0), None, "{n}");
        }
        let waits: Vec<u64> = (0..3).map(|_| pace.count_at(0).unwrap().as_millis() as u64).collect();
        assert_eq!(waits, [1, 2, 3], "many readers share one rate");
        for _ in 0..10_000 {
            pace.count_at(0);
        }
        assert_eq!(pace.count_at(0), Some(LONGEST));
        assert_eq!(pace.count_at(1_000_000), None, "quiet makes up for it");
    }

    #[test]
    fn an_even_stream_never_waits() {
        let pace = Pace::default();
        for n in 0..100_000u64 {
            assert_eq!(pace.count_at(n * 250), None);
        }
    }
}
