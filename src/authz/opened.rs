//! What a token has open, by what it was let through to: each way ends by itself, so that who loses one instance keeps what
//! they do at another.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use super::cut::Cut;
use crate::model::InstanceId;

/// One way in that a token was let through.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub(super) cut: Cut,
    pub(super) last_used: AtomicI64,
    /// Requests and streams that are on it.
    open: AtomicUsize,
}

/// A request that is on a way, or the stream that answers it; it leaves when it is dropped.
#[derive(Debug)]
pub struct OnWay(Arc<Way>);

impl Way {
    /// One that ends with its token alone.
    pub(super) fn of(cut: Cut) -> Self {
        Self { cut, ..Self::default() }
    }
}

impl OnWay {
    pub(super) fn new(way: &Arc<Way>) -> Self {
        way.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(way))
    }
}

impl Drop for OnWay {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where ways led that have ended, and how many requests and streams were on each.
pub type Ended = Vec<(Option<InstanceId>, usize)>;

/// The ways of one token: to an instance, or (`None`) to the API.
#[derive(Debug, Default)]
pub(super) struct Opened(Mutex<BTreeMap<Option<InstanceId>, Arc<Way>>>);

impl Opened {
    fn ways(&self) -> MutexGuard<'_, BTreeMap<Option<InstanceId>, Arc<Way>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way there, new where there was none. One that has ended stays so: `over` says that all have.
    pub(super) fn way(&self, to: Option<&InstanceId>, over: &Cut) -> Arc<Way> {
        let mut ways = self.ways();
        let to = to.cloned();
        let way = Arc::clone(ways.entry(to).or_default());
        if over.is_cut() {
            way.cut.fire();
        }
        way
    }

    /// It was used to go there, by somebody who showed it elsewhere.
    pub(super) fn note(&self, to: &InstanceId, now: i64) {
        let way = Arc::clone(self.ways().entry(Some(to.clone())).or_default());
        way.last_used.store(now, Ordering::Relaxed);
    }

    /// Ends the ways that are to end, and forgets them: where to, and how many requests and streams were on each.
    pub(super) fn end(&self, ends: impl Fn(Option<&InstanceId>) -> bool) -> Ended {
        let mut ended = Vec::new();
        self.ways().retain(|to, way| {
            let over = ends(to.as_ref());
            if over {
                ended.push((to.clone(), way.open.load(Ordering::Relaxed)));
                way.cut.fire();
            }
            !over
        });
        ended
    }

    /// When it was last let through to each instance, Unix seconds.
    pub(super) fn uses(&self) -> Vec<(InstanceId, i64)> {
        let ways = self.ways();
        let used = ways.iter().filter_map(|(to, way)| {
            let at = way.last_used.load(Ordering::Relaxed);
            to.clone().filter(|_| at > 0).map(|id| (id, at))
        });
        used.collect()
    }
}
