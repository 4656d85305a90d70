//! Slows down addresses that keep presenting wrong tokens: first their answers come later and later, then they are
//! refused for a while, longer each time; quiet makes up for it. Pure: time comes as an argument. The table is
//! bounded; when it is full the entry that was quiet longest makes room. A right token is never held up by it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Wrong tokens that an address may present within [`WINDOW`] before it is slowed down.
const FREE: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Wrong tokens within [`WINDOW`] that are answered at once: a person mistypes.
const PROMPT: u32 = 3;
/// By how much the first late answer is late; each further one by twice as much.
const DELAY: Duration = Duration::from_millis(50);
/// No answer is later than this.
const LATEST: Duration = Duration::from_secs(1);
/// The longest wait. So long a quiet also takes one strike off.
const LONGEST: Duration = Duration::from_secs(300);
const CAPACITY: usize = 8192;

#[derive(Debug, Clone, Copy)]
struct Entry {
    failures: u32,
    window_start: Instant,
    last: Instant,
    /// Refused until then.
    until: Option<Instant>,
    /// How often it was slowed down: the wait doubles each time.
    strikes: u32,
}

/// What a failure costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slowed {
    /// The answer goes out so much later.
    pub delay: Duration,
    /// Answer 429 with this `Retry-After`, in place of what the failure would have said.
    pub wait: Option<Duration>,
}

/// Failures by address (IPv6: by /64, which one host may own whole).
#[derive(Debug, Default)]
pub struct FailureLimiter {
    entries: HashMap<IpAddr, Entry>,
}

/// What counts as one address: IPv4 whole (mapped ones too), IPv6 by its /64.
pub fn address_group(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

impl FailureLimiter {
    /// Notes a failure.
    pub fn failed(&mut self, ip: IpAddr, now: Instant) -> Slowed {
        let ip = address_group(ip);
        if !self.entries.contains_key(&ip) {
            self.make_room(now);
        }
        let e = self.entries.entry(ip).or_insert(Entry {
            failures: 0,
            window_start: now,
            last: now,
            until: None,
            strikes: 0,
        });
        let quiet = now.duration_since(e.last).as_secs() / LONGEST.as_secs();
        e.strikes = e.strikes.saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX));
        e.last = now;
        if let Some(until) = e.until {
            if now < until {
                return Slowed {
                    delay: LATEST,
                    wait: Some(until - now),
                };
            }
            // Served its time: the next strike comes sooner and lasts longer.
            e.until = None;
            e.failures = FREE / 2;
            e.window_start = until;
        }
        if now.duration_since(e.window_start) > WINDOW {
            e.failures = 0;
            e.window_start = now;
        }
        e.failures += 1;
        let late = e.failures.saturating_sub(PROMPT);
        let delay = if late == 0 {
            Duration::ZERO
        } else {
            DELAY.saturating_mul(1 << (late - 1).min(10)).min(LATEST)
        };
        if e.failures <= FREE {
            return Slowed { delay, wait: None };
        }
        let wait = Duration::from_secs(1u64 << e.strikes.min(10)).min(LONGEST);
        e.strikes = e.strikes.saturating_add(1);
        // From when the client is told.
        e.until = Some(now + delay + wait);
        Slowed {
            delay,
            wait: Some(wait),
        }
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody has failed lately.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn make_room(&mut self, now: Instant) {
        if self.entries.len() < CAPACITY {
            return;
        }
        let stale = LONGEST + WINDOW;
        self.entries.retain(|_, e| now.duration_since(e.last) < stale);
        // Still full: the quietest eighth goes, so that this scan is rare.
        if self.entries.len() >= CAPACITY {
            let mut ages: Vec<Instant> = self.entries.values().map(|e| e.last).collect();
            ages.sort_unstable();
            let line = ages[CAPACITY / 8];
            let mut left = CAPACITY / 8;
            self.entries.retain(|_, e| {
                let goes = left > 0 && e.last <= line;
                left -= usize::from(goes);
                !goes
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn slows_down_and_recovers() {
        let (mut l, t0) = (FailureLimiter::default(), Instant::now());
        let mut delays = vec![];
        for _ in 0..FREE {
            let slowed = l.failed(ip(1), t0);
            assert_eq!(slowed.wait, None);
            delays.push(slowed.delay.as_millis());
        }
        assert_eq!(delays, [0, 0, 0, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(l.failed(ip(1), t0).wait, Some(Duration::from_secs(1)));
        let told = l.failed(ip(1), t0).wait;
        assert_eq!(told, Some(LATEST + Duration::from_secs(1)), "how long still");
        assert_eq!(l.failed(ip(2), t0), Slowed::default(), "others are not held up");
        let mut now = t0 + LATEST + Duration::from_secs(1);
        let mut waits = vec![];
        for _ in 0..100 {
            let slowed = l.failed(ip(1), now);
            if let Some(w) = slowed.wait {
                waits.push(w.as_secs());
                now += slowed.delay + w;
            }
        }
        assert!(waits.starts_with(&[2, 4, 8, 16]), "{waits:?}");
        assert_eq!(waits.iter().max(), Some(&300));
    }

    #[test]
    fn quiet_makes_up_for_it() {
        let (mut l, mut now) = (FailureLimiter::default(), Instant::now());
        let strike = |l: &mut FailureLimiter, now: Instant| loop {
            if let Some(wait) = l.failed(ip(1), now).wait {
                return wait.as_secs();
            }
        };
        for want in [1, 2, 4, 8] {
            let wait = strike(&mut l, now);
            assert_eq!(wait, want);
            now += LATEST + Duration::from_secs(wait);
        }
        now += LONGEST * 2;
        assert_eq!(
            l.failed(ip(1), now),
            Slowed::default(),
            "the first after a long quiet is prompt"
        );
        assert_eq!(strike(&mut l, now), 4, "two strikes are forgiven");
        now += LONGEST * 100;
        assert_eq!(strike(&mut l, now), 1, "all are");
    }

    #[test]
    fn a_slow_trickle_is_never_refused() {
        let (mut l, mut now) = (FailureLimiter::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(l.failed(ip(1), now).wait, None);
            now += Duration::from_secs(10);
        }
    }

    #[test]
    fn the_table_is_bounded_and_v6_counts_by_64() {
        let (mut l, now) = (FailureLimiter::default(), Instant::now());
        for i in 0..40_000u32 {
            l.failed(IpAddr::from((i + 0x0a00_0000).to_be_bytes()), now);
            assert!(l.len() <= CAPACITY);
        }
        let mut l = FailureLimiter::default();
        for i in 0..=FREE {
            let ip: IpAddr = format!("2001:db8::{i:x}").parse().unwrap();
            assert_eq!(l.failed(ip, now).wait.is_some(), i == FREE);
        }
        assert_eq!(l.len(), 1);
    }
}
