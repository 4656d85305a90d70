//! F2: what changes on the box, for whoever follows it: the newest events in one ring, which all streams read, each at its own
//! pace. Whoever publishes waits for nobody, and a stream holds nothing of its own but its place in the ring.
//!
//! ```text
//! ledger, reconciler -- what is --> differences --> ring (4096 events, 8 MiB) <-- place -- stream: may they see it? -> client
//! ```
//!
//! A stream whose place has left the ring goes on with the newest, and is told that it missed some. What somebody may see is
//! asked when an event leaves, not when it comes: by policy, as it is then. Where what somebody may see has itself changed, the
//! ring has a mark ([`Concerned`]) for them: nothing from before it is sent to them any more.

mod ids;
mod news;
mod ring;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use tokio::sync::watch;

use crate::api::ResetCause;
use ids::Ids;
use ring::Ring;

pub use news::{Concerned, News};
pub use ring::Entry;

/// The ring has so many events at most, and so many bytes.
pub const MOST_EVENTS: usize = 4096;
pub const MOST_BYTES: usize = 8 << 20;
/// One person may follow on so many streams, all together on so many.
pub const STREAMS_EACH: usize = 32;
pub const STREAMS: usize = 2048;
/// A stream takes so many events at a time.
const AT_A_TIME: usize = 64;

/// There are no random bytes to make ids of.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random numbers: {0}")]
pub struct NoRandom(#[from] getrandom::Error);

/// There are as many streams as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// Of whoever asks.
    Theirs,
    /// All together.
    All,
}

/// The events of one run of the supervisor. Cheap to clone; clones share one ring.
#[derive(Debug, Clone)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: RwLock<Ring>,
    ids: Ids,
    /// What the ring has last, for whoever waits.
    newest: watch::Sender<Newest>,
    /// Streams by whose they are.
    streams: Mutex<Streams>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Newest {
    seq: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Streams {
    all: usize,
    by: BTreeMap<String, usize>,
}

impl Events {
    /// None yet.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn new() -> Result<Events, NoRandom> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Events(Arc::new(Inner {
            ring: RwLock::new(Ring::new(MOST_EVENTS, MOST_BYTES)),
            ids: Ids::new(key),
            newest: watch::Sender::default(),
            streams: Mutex::default(),
        })))
    }

    /// Publishes what changed at once, in this order, and behind it for whom what they may see changed with it.
    pub fn publish(&self, news: Vec<News>, concerned: Concerned) {
        let entries = news.into_iter().filter_map(Entry::of);
        let mark = (!concerned.is_nobody()).then_some(Entry::Rights(concerned));
        let entries: Vec<Entry> = entries.chain(mark).collect();
        if entries.is_empty() {
            return;
        }
        let mut ring = self.0.ring.write().unwrap_or_else(PoisonError::into_inner);
        entries.into_iter().for_each(|entry| ring.push(entry));
        let seq = ring.newest();
        drop(ring);
        self.0.newest.send_modify(|n| n.seq = seq);
    }

    /// Ends all streams, those as well that begin later.
    pub fn close(&self) {
        self.0.newest.send_modify(|n| n.closed = true);
    }

    /// A stream of somebody, from now on or from behind the event of this id.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn follow(&self, who: &str, last: Option<&str>) -> Result<Following, TooMany> {
        let place = self.place(who)?;
        let newest = self.0.newest.subscribe();
        let ring = self.0.ring.read().unwrap_or_else(PoisonError::into_inner);
        let last = last.map(|id| self.0.ids.seq(id).filter(|seq| *seq <= ring.newest()));
        let (at, owed) = match last {
            None => (ring.newest(), None),
            Some(None) => (ring.newest(), Some(ResetCause::UnknownId)),
            Some(Some(at)) if !ring.holds_all_after(at) => (ring.newest(), Some(ResetCause::TooOld)),
            Some(Some(at)) => (at, None),
        };
        drop(ring);
        Ok(Following {
            at,
            owed,
            newest,
            place,
        })
    }

    fn place(&self, who: &str) -> Result<Place, TooMany> {
        let mut streams = self.streams();
        let theirs = streams.by.get(who).copied().unwrap_or_default();
        if theirs >= STREAMS_EACH {
            return Err(TooMany::Theirs);
        }
        if streams.all >= STREAMS {
            return Err(TooMany::All);
        }
        streams.all += 1;
        streams.by.insert(who.to_owned(), theirs + 1);
        drop(streams);
        Ok(Place {
            events: self.clone(),
            who: who.to_owned(),
        })
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        // Each change is one of two counts, which no panic comes between.
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many streams there are.
    pub fn open(&self) -> usize {
        self.streams().all
    }
}

/// A stream among those that there may be, until it is dropped.
#[derive(Debug)]
struct Place {
    events: Events,
    who: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.events.streams();
        streams.all -= 1;
        if let Some(theirs) = streams.by.get_mut(&self.who) {
            *theirs -= 1;
            if *theirs == 0 {
                streams.by.remove(&self.who);
            }
        }
    }
}

/// What a stream takes next.
#[derive(Debug)]
pub enum Taken {
    /// It has all that there is.
    Nothing,
    /// Lists are to be read again.
    Reset(ResetCause),
    /// These, each with its number.
    Events(Vec<(u64, Arc<Entry>)>),
}

/// A stream: how far in the ring it is.
#[derive(Debug)]
pub struct Following {
    /// It has everything up to that one.
    at: u64,
    /// It is to be told this first.
    owed: Option<ResetCause>,
    newest: watch::Receiver<Newest>,
    place: Place,
}

impl Following {
    /// What comes next, for somebody whom a mark may concern.
    pub fn take(&mut self, concerned: impl Fn(&Concerned) -> bool) -> Taken {
        self.newest.mark_unchanged();
        if let Some(why) = self.owed.take() {
            return Taken::Reset(why);
        }
        let inner = &self.place.events.0;
        let ring = inner.ring.read().unwrap_or_else(PoisonError::into_inner);
        if !ring.holds_all_after(self.at) {
            self.at = ring.newest();
            return Taken::Reset(ResetCause::TooSlow);
        }
        let mark = |(_, entry): &(u64, &Arc<Entry>)| matches!(&***entry, Entry::Rights(c) if concerned(c));
        if let Some((seq, _)) = ring.after(self.at).rev().find(mark) {
            self.at = seq;
            return Taken::Reset(ResetCause::Rights);
        }
        let next = ring.after(self.at).take(AT_A_TIME);
        let next: Vec<(u64, Arc<Entry>)> = next.map(|(seq, entry)| (seq, Arc::clone(entry))).collect();
        match next.last() {
            Some((seq, _)) => {
                self.at = *seq;
                Taken::Events(next)
            }
            None => Taken::Nothing,
        }
    }

    /// Returns when there may be more to take; false: it ends.
    pub async fn changed(&mut self) -> bool {
        self.newest.changed().await.is_ok() && !self.is_over()
    }

    /// Whether it ends now.
    pub fn is_over(&self) -> bool {
        self.newest.borrow().closed
    }

    /// The id of an event, or (`None`) of the last one that was taken, seen or not.
    pub fn id(&self, seq: Option<u64>) -> String {
        self.place.events.0.ids.id(seq.unwrap_or(self.at))
    }
}

#[cfg(test)]
mod tests;
