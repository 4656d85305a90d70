//! The newest events, numbered from 1 on. Pure.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::news::{Concerned, News};
use crate::{api::EventRecord, mcp::sse};

/// One of the ring.
#[derive(Debug)]
pub enum Entry {
    /// A record changed. With its event as JSON, for whoever sees the record as it is.
    News(Box<News>, Bytes),
    /// What these may see changed.
    Rights(Concerned),
}

impl Entry {
    /// That of a record that changed.
    pub(super) fn of(mut news: News) -> Option<Entry> {
        match serde_json::to_vec(&news.event) {
            Ok(json) => {
                // Of other kinds everybody who may see a record sees it as the JSON has it.
                let shown_to_each =
                    |r: &mut EventRecord| matches!(r, EventRecord::Instance(_) | EventRecord::Member(_));
                news.event.record.take_if(|r| !shown_to_each(r));
                let line = sse::line(&json).into_boxed_slice();
                Some(Entry::News(Box::new(news), line.into()))
            }
            Err(e) => {
                log::error!("an event of {} cannot be told: {e}", news.event.id);
                None
            }
        }
    }

    /// What it takes of memory, about.
    fn size(&self) -> usize {
        match self {
            // A record is about as long as its JSON.
            Entry::News(news, json) => {
                let kept = 1 + usize::from(news.event.record.is_some());
                512 + kept * json.len() + 64 * news.gone_for.len()
            }
            Entry::Rights(concerned) => 128 + 64 * concerned.len(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// The number of the last one; 0 where there was none yet.
    newest: u64,
    bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl Ring {
    pub(super) fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            newest: 0,
            bytes: 0,
            most,
            most_bytes,
        }
    }

    /// Adds one; the oldest leave where there are too many, the one itself where it alone is too large.
    pub(super) fn push(&mut self, entry: Entry) {
        self.newest += 1;
        self.bytes += entry.size();
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > self.most || self.bytes > self.most_bytes {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes -= oldest.size();
        }
    }

    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether everything is there that came after that one.
    pub(super) fn holds_all_after(&self, seq: u64) -> bool {
        self.newest.saturating_sub(seq) <= self.entries.len() as u64
    }

    /// What came after that one, with numbers.
    pub(super) fn after(&self, seq: u64) -> impl DoubleEndedIterator<Item = (u64, &Arc<Entry>)> {
        let behind = usize::try_from(self.newest.saturating_sub(seq)).unwrap_or(usize::MAX);
        let count = behind.min(self.entries.len());
        let first = self.newest - count as u64 + 1;
        let skip = self.entries.len() - count;
        let entries = self.entries.range(skip..).enumerate();
        entries.map(move |(n, entry)| (first + n as u64, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str) -> Entry {
        let mut concerned = Concerned::default();
        concerned.member(&name.parse().unwrap());
        Entry::Rights(concerned)
    }

    fn numbers(ring: &Ring, after: u64) -> Vec<u64> {
        ring.after(after).map(|(seq, _)| seq).collect()
    }

    #[test]
    fn the_oldest_leave_by_number_and_by_bytes() {
        let mut ring = Ring::new(3, 1 << 20);
        assert!(ring.holds_all_after(0) && numbers(&ring, 0).is_empty());
        for _ in 0..3 {
            ring.push(mark("ada"));
        }
        assert_eq!((numbers(&ring, 0), numbers(&ring, 2)), (vec![1, 2, 3], vec![3]));
        assert!(ring.holds_all_after(0) && numbers(&ring, 3).is_empty());
        ring.push(mark("ada"));
        assert!(!ring.holds_all_after(0) && ring.holds_all_after(1));
        assert_eq!((numbers(&ring, 1), ring.newest()), (vec![2, 3, 4], 4));
        let each = mark("ada").size();
        let mut small = Ring::new(100, 2 * each);
        for n in 1..=5 {
            small.push(mark("ada"));
            assert!(small.bytes <= 2 * each && small.holds_all_after(n), "{n}");
        }
        assert_eq!(numbers(&small, 3), [4, 5]);
        let mut tiny = Ring::new(100, 1);
        tiny.push(mark("ada"));
        assert!(!tiny.holds_all_after(0) && tiny.holds_all_after(1));
        assert_eq!((numbers(&tiny, 0), tiny.bytes), (vec![], 0));
    }
}
