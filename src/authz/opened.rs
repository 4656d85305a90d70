//! What a token has open, by what it was let through to: each way ends by itself, so that who loses one instance keeps what
//! they do at another.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use super::{cut::Cut, gates::Through};
use crate::model::InstanceId;

/// One way in that a token was let through.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub(super) cut: Cut,
    pub(super) last_used: AtomicI64,
    /// The gates that its calls pass, from the first one on.
    pub(super) through: OnceLock<Arc<Through>>,
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

/// The ways of one token: to the API, and to instances.
#[derive(Debug, Default)]
pub(super) struct Opened(Mutex<Ways>);

#[derive(Debug, Default)]
struct Ways {
    api: Option<Arc<Way>>,
    /// To what of the API looks itself at what its asker may: it ends with the token alone.
    watched: Option<Arc<Way>>,
    instances: BTreeMap<InstanceId, Arc<Way>>,
}

impl Ways {
    /// The way there, new where there was none. Every request asks: one that is known costs no more than to look it up.
    fn to(&mut self, to: Option<&InstanceId>) -> Arc<Way> {
        let Some(id) = to else {
            return Arc::clone(self.api.get_or_insert_default());
        };
        match self.instances.get(id) {
            Some(way) => Arc::clone(way),
            None => Arc::clone(self.instances.entry(id.clone()).or_default()),
        }
    }
}

impl Opened {
    fn ways(&self) -> MutexGuard<'_, Ways> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way there, new where there was none. One that has ended stays so: `over` says that all have.
    pub(super) fn way(&self, to: Option<&InstanceId>, over: &Cut) -> Arc<Way> {
        let mut ways = self.ways();
        let way = ways.to(to);
        if over.is_cut() {
            way.cut.fire();
        }
        way
    }

    /// The way to what of the API looks itself at what its asker may.
    pub(super) fn watched(&self, over: &Cut) -> Arc<Way> {
        let mut ways = self.ways();
        Arc::clone(ways.watched.get_or_insert_with(|| Arc::new(Way::of(over.clone()))))
    }

    /// Ends all: where to, and how many requests and streams were on each.
    pub(super) fn end_all(&self) -> Ended {
        let watched = self.ways().watched.take();
        let watching = watched.map_or(0, |way| way.open.load(Ordering::Relaxed));
        let mut ended = self.end(|_| true);
        if watching > 0 {
            match ended.iter_mut().find(|(to, _)| to.is_none()) {
                Some((_, open)) => *open += watching,
                None => ended.push((None, watching)),
            }
        }
        ended
    }

    /// It was used to go there, by somebody who showed it elsewhere.
    pub(super) fn note(&self, to: &InstanceId, now: i64) {
        self.ways().to(Some(to)).last_used.store(now, Ordering::Relaxed);
    }

    /// Ends the ways that are to end, and forgets them: where to, and how many requests and streams were on each.
    pub(super) fn end(&self, ends: impl Fn(Option<&InstanceId>) -> bool) -> Ended {
        let mut ended = Vec::new();
        let mut over = |to: Option<&InstanceId>, way: &Way| {
            let over = ends(to);
            if over {
                ended.push((to.cloned(), way.open.load(Ordering::Relaxed)));
                way.cut.fire();
            }
            over
        };
        let mut ways = self.ways();
        ways.api.take_if(|way| over(None, way));
        ways.instances.retain(|to, way| !over(Some(to), way));
        ended
    }

    /// When it was last let through to that instance, Unix seconds.
    pub(super) fn used(&self, to: &InstanceId) -> Option<i64> {
        let at = self.ways().instances.get(to)?.last_used.load(Ordering::Relaxed);
        (at > 0).then_some(at)
    }

    /// When it was last let through to each instance, Unix seconds.
    pub(super) fn uses(&self) -> Vec<(InstanceId, i64)> {
        let ways = self.ways();
        let used = ways
            .instances
            .iter()
            .map(|(to, way)| (to, way.last_used.load(Ordering::Relaxed)));
        used.filter(|(_, at)| *at > 0)
            .map(|(to, at)| (to.clone(), at))
            .collect()
    }
}
