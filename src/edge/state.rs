//! What all tasks of the edge share: its configuration, the tables that it looks things up in, its counters, its ends.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use super::{
    clients::Clients,
    screen::{looks::Screens, rooms::Rooms},
    service::BoxService,
    stats::Shared,
};
use crate::{
    audit::Audit,
    authz::{Cut, FailureLimiter, Gates, Places, SessionTable, Slowed, TokenTable},
    config::Limits,
    door::Router,
    link::Registry,
    model::{InstanceId, State},
    policy::Access,
};

/// Answers that may be held back at a time.
const MAX_DELAYED: usize = 1024;
/// Connections at the plain-HTTP listeners, which have places of their own. Each is there for one redirect.
pub const PLAIN_CONNECTIONS: usize = 128;

/// Where connections are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One single-threaded runtime for every two cores: the other half is for agents and servers. On 2 cores, with
    /// server-everything behind the bridge, one worker carried a fifth more calls a second than two did.
    HalfTheCores,
    /// That many single-threaded runtimes.
    Own(usize),
    /// The caller's runtime.
    Caller,
}

/// What the edge needs to know.
#[derive(Clone)]
pub struct EdgeConfig {
    pub router: Arc<Router>,
    pub limits: Limits,
    /// Browser origins that may call, besides our own and those of the callers' own machines.
    pub allowed_origins: Vec<String>,
    pub workers: Workers,
    pub screens: Arc<Screens>,
    /// Those of people in browsers.
    pub sessions: SessionTable,
    /// What policy looks at.
    pub access: Arc<ArcSwap<Access>>,
    /// Where requests leave their rows; none where none are wanted, as by a benchmark.
    pub audit: Option<Audit>,
}

/// The state of an instance that has no link: stopped, failed, or not reached yet after a start.
pub type States = Box<dyn Fn(&InstanceId) -> Option<State> + Send + Sync>;

/// What all tasks of the edge share.
pub struct Edge {
    pub(super) config: EdgeConfig,
    pub(super) router: Arc<Router>,
    pub(super) registry: Registry,
    pub(super) tokens: TokenTable,
    pub(super) states: States,
    pub(super) service: Option<Arc<dyn BoxService>>,
    pub(super) tls: tokio_rustls::TlsAcceptor,
    pub(super) limiter: Mutex<FailureLimiter>,
    pub(super) gates: Gates,
    /// Answers that go out late on purpose.
    pub(super) delayed: AtomicUsize,
    pub(super) rooms: Arc<Rooms>,
    /// The clients of MCP sessions.
    pub(super) clients: Clients,
    pub(super) places: Mutex<Places>,
    /// Numbers connections.
    pub(super) next: AtomicU64,
    /// Times of connections are counted from here.
    pub(super) clock: Instant,
    pub(super) stats: Arc<Shared>,
    /// Finish what is in flight and take nothing new.
    pub(super) drain: Cut,
    /// End everything now.
    pub(super) kill: Cut,
}

impl Edge {
    pub(super) fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ms since the edge began.
    pub(super) fn now(&self) -> u64 {
        self.clock.elapsed().as_millis() as u64
    }

    /// Notes a wrong token or claim, and what it costs.
    pub(super) fn failed(&self, from: IpAddr) -> Slowed {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.failed(from, Instant::now())
    }

    /// Waits before an answer that shall go out late. Past [`MAX_DELAYED`] of them it does not: who waits takes up room.
    pub(super) async fn delay(&self, by: Duration) {
        struct Place<'a>(&'a AtomicUsize);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        let before = self.delayed.fetch_add(1, Relaxed);
        let _place = Place(&self.delayed);
        if before < MAX_DELAYED && !by.is_zero() {
            tokio::time::sleep(by).await;
        }
    }
}
