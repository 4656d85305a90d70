//! Slows down addresses that keep presenting wrong tokens. Pure: time comes as an argument. The table is bounded;
//! when it is full the entry that was quiet longest makes room. A right token is never held up by it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Wrong tokens that an address may present within [`WINDOW`] before it is slowed down.
const FREE: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// The longest wait.
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
    /// Notes a failure. `Some(wait)`: answer 429 with `Retry-After`, in place of what the failure would have said.
    pub fn failed(&mut self, ip: IpAddr, now: Instant) -> Option<Duration> {
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
        e.last = now;
        if let Some(until) = e.until {
            if now < until {
                return Some(until - now);
            }
            // Served its time: the next strike comes sooner and lasts longer.
            e.until = None;
            e.failures = FREE / 2;
            e.window_start = now;
        }
        if now.duration_since(e.window_start) > WINDOW {
            e.failures = 0;
            e.window_start = now;
        }
        e.failures += 1;
        if e.failures <= FREE {
            return None;
        }
        let wait = Duration::from_secs(1u64 << e.strikes.min(10)).min(LONGEST);
        e.strikes = e.strikes.saturating_add(1);
        e.until = Some(now + wait);
        Some(wait)
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

    #[test]
    fn slows_down_and_recovers() {
        let (mut l, t0) = (FailureLimiter::default(), Instant::now());
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..FREE {
            assert_eq!(l.failed(ip, t0), None);
        }
        assert_eq!(l.failed(ip, t0), Some(Duration::from_secs(1)));
        assert_eq!(
            l.failed("192.0.2.2".parse().unwrap(), t0),
            None,
            "others are not held up"
        );
        let mut now = t0 + Duration::from_secs(2);
        let mut waits = vec![];
        for _ in 0..100 {
            if let Some(w) = l.failed(ip, now) {
                waits.push(w.as_secs());
                now += w + Duration::from_millis(1);
            }
        }
        assert!(waits.starts_with(&[2, 4, 8, 16]), "{waits:?}");
        assert_eq!(waits.iter().max(), Some(&300));
    }

    #[test]
    fn a_slow_trickle_is_free() {
        let (mut l, mut now) = (FailureLimiter::default(), Instant::now());
        for _ in 0..100 {
            assert_eq!(l.failed("192.0.2.1".parse().unwrap(), now), None);
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
            assert_eq!(l.failed(ip, now).is_some(), i == FREE);
        }
        assert_eq!(l.len(), 1);
    }
}
