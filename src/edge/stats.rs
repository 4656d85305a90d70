//! Counters of the whole edge; those of each instance are its link's.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::{
    authz::{UnderWay, Whose},
    link::{LinkStats, stats::Counters},
};

/// Written by all workers.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) requests: Counters,
    pub(super) connections: AtomicUsize,
    pub(super) accepted: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) flooded: AtomicU64,
    pub(super) handshakes_failed: AtomicU64,
    pub(super) unauthorized: AtomicU64,
    pub(super) slowed: AtomicU64,
    /// By [`Whose`], in its order.
    pub(super) too_fast: [AtomicU64; 4],
    pub(super) too_many: [AtomicU64; 4],
}

impl AsRef<Counters> for Shared {
    fn as_ref(&self) -> &Counters {
        &self.requests
    }
}

/// A reading of the edge's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeStats {
    /// Requests over all instances, refused ones included; `connections` and `idle` in it are 0.
    pub requests: LinkStats,
    /// Open client connections.
    pub connections: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Closed on accept: there was no place at all.
    pub refused_full: u64,
    /// Closed because others needed their places: the longest idle of whoever had most.
    pub evicted: u64,
    /// HTTP/2 connections closed because they sent frames that ask for nothing.
    pub flooded: u64,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: u64,
    /// Answers 401 and 403.
    pub unauthorized: u64,
    /// Answers 429 after wrong tokens, codes or links.
    pub slowed: u64,
    /// Answers 429 to calls that came too fast, by whose bound it was.
    pub too_fast: [(Whose, u64); 4],
    /// Answers 429 to calls that were too many at once.
    pub too_many: [(Whose, u64); 4],
    /// Calls and streams whose answer has not ended.
    pub under_way: [UnderWay; 4],
}

impl Shared {
    pub(super) fn read(&self, under_way: [UnderWay; 4]) -> EdgeStats {
        let by_whose = |counts: &[AtomicU64; 4]| Whose::ALL.map(|w| (w, counts[w as usize].load(Relaxed)));
        EdgeStats {
            requests: self.requests.read(),
            connections: self.connections.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            refused_full: self.refused_full.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            flooded: self.flooded.load(Relaxed),
            handshakes_failed: self.handshakes_failed.load(Relaxed),
            unauthorized: self.unauthorized.load(Relaxed),
            slowed: self.slowed.load(Relaxed),
            too_fast: by_whose(&self.too_fast),
            too_many: by_whose(&self.too_many),
            under_way,
        }
    }
}
