//! Counters of one link, written on the hot path with relaxed atomics and read by the metrics page.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Upper bounds of the latency buckets, in microseconds; one more bucket holds what is slower.
pub const BUCKETS_US: [u64; 16] = [
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    1_000_000,
    5_000_000,
    30_000_000,
    120_000_000,
];

/// Requests by outcome and time to the first byte of the answer.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    in_flight: AtomicU64,
    by_class: [AtomicU64; 5],
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

/// A reading of [`Counters`] and of the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Requests begun.
    pub requests: u64,
    /// Requests whose answer has not ended.
    pub in_flight: u64,
    /// Answers by class: `[0]` is 1xx, `[4]` is 5xx; those that the edge made for this instance included.
    pub by_class: [u64; 5],
    /// Answers by time to their head, as in [`BUCKETS_US`]; not cumulative.
    pub buckets: [u64; BUCKETS_US.len() + 1],
    /// The sum of those times, in microseconds.
    pub sum_us: u64,
    /// Connections from the agent.
    pub connections: usize,
    /// Of those, idle.
    pub idle: usize,
}

/// Counts a request as in flight until dropped.
#[derive(Debug)]
pub struct InFlight<C: AsRef<Counters>>(Arc<C>);

impl AsRef<Counters> for Counters {
    fn as_ref(&self) -> &Counters {
        self
    }
}

impl<C: AsRef<Counters>> InFlight<C> {
    /// Counts one more request.
    pub fn begin(counters: Arc<C>) -> Self {
        C::as_ref(&counters).requests.fetch_add(1, Relaxed);
        C::as_ref(&counters).in_flight.fetch_add(1, Relaxed);
        InFlight(counters)
    }
}

impl<C: AsRef<Counters>> Drop for InFlight<C> {
    fn drop(&mut self) {
        C::as_ref(&self.0).in_flight.fetch_sub(1, Relaxed);
    }
}

impl Counters {
    /// Counts an answer.
    pub fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.by_class[class].fetch_add(1, Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BUCKETS_US.partition_point(|bound| *bound < us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// A reading; the pool's figures are left 0.
    pub fn read(&self) -> LinkStats {
        LinkStats {
            requests: self.requests.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            by_class: std::array::from_fn(|i| self.by_class[i].load(Relaxed)),
            buckets: std::array::from_fn(|i| self.buckets[i].load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
            connections: 0,
            idle: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn counts() {
        let c = Arc::new(Counters::default());
        let one = InFlight::begin(Arc::clone(&c));
        c.answered(200, Duration::from_micros(50));
        c.answered(503, Duration::from_secs(1000));
        let s = c.read();
        assert_eq!((s.requests, s.in_flight, s.by_class), (1, 1, [0, 1, 0, 0, 1]));
        assert_eq!((s.buckets[0], s.buckets[16]), (1, 1));
        drop(one);
        assert_eq!(c.read().in_flight, 0);
    }
}
