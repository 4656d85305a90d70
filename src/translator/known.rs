//! What a server speaks: asked once, remembered, and asked again in time.
//!
//! Only the first request waits for the answer. Later ones go by what was known, while the server is asked anew beside them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Server, hear};
use crate::mcp::client_side::{Next, Probe, Speaks};

/// What a server speaks is believed for so long; that it does not tell, for so long.
const KNOWN: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(15));
/// A server that refuses something is asked anew, but not more often than this.
const AGAIN: Duration = Duration::from_secs(10);
/// One answer of a probe may take so long.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
struct Fact {
    speaks: Speaks,
    since: Instant,
    /// It is believed for so long.
    time: Duration,
    /// The server may be another by now: whoever wants to know waits.
    doubtful: bool,
}

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub(super) struct Known(Arc<Inner>);

struct Inner {
    server: Arc<dyn Server>,
    fact: Mutex<Option<Fact>>,
    /// One probe at a time.
    probing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Known").field(&*self.fact()).finish()
    }
}

impl Known {
    /// Nothing yet.
    pub(super) fn new(server: Arc<dyn Server>) -> Self {
        Self(Arc::new(Inner {
            server,
            fact: Mutex::default(),
            probing: tokio::sync::Mutex::default(),
        }))
    }

    /// What the server speaks.
    pub(super) async fn speaks(&self) -> Speaks {
        let fact = *self.fact();
        match fact {
            Some(fact) if fact.doubtful => self.ask_through(Some(fact.since)).await,
            Some(fact) if fact.since.elapsed() < fact.time => fact.speaks,
            Some(fact) => {
                if self.0.probing.try_lock().is_ok() {
                    let own = self.clone();
                    tokio::spawn(async move { own.ask(Some(fact.since)).await });
                }
                fact.speaks
            }
            None => self.ask_through(None).await,
        }
    }

    /// It may have become another server: the next request waits for the answer. Where there is none, it counts as the same.
    pub(super) fn forget(&self) {
        if let Some(fact) = &mut *self.fact() {
            fact.doubtful = true;
        }
    }

    /// What is known may be wrong.
    pub(super) fn doubt(&self) {
        if let Some(fact) = &mut *self.fact()
            && fact.since.elapsed() >= AGAIN
        {
            fact.time = Duration::ZERO;
        }
    }

    /// Asks to the end, also where whoever waits for it goes away: a server that is slow to answer would never be known, and
    /// a session that was opened to find out never be ended.
    async fn ask_through(&self, before: Option<Instant>) -> Speaks {
        let own = self.clone();
        let asked = tokio::spawn(async move { own.ask(before).await });
        asked.await.unwrap_or_default()
    }

    /// Asks, unless somebody else has asked since.
    async fn ask(&self, before: Option<Instant>) -> Speaks {
        let _one = self.0.probing.lock().await;
        let fact = *self.fact();
        if let Some(fact) = fact.filter(|f| Some(f.since) != before) {
            return fact.speaks;
        }
        let found = probe(&*self.0.server).await;
        let (speaks, time) = match found {
            Some(speaks) => (speaks, KNOWN.0),
            // What it spoke before is the best guess.
            None => (fact.map(|f| f.speaks).unwrap_or_default(), KNOWN.1),
        };
        *self.fact() = Some(Fact {
            speaks,
            since: Instant::now(),
            time,
            doubtful: false,
        });
        speaks
    }

    fn fact(&self) -> std::sync::MutexGuard<'_, Option<Fact>> {
        self.0.fact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a server what it speaks; `None` when it does not tell.
async fn probe(server: &dyn Server) -> Option<Speaks> {
    let (mut probe, mut out) = Probe::start();
    loop {
        let asked = async { Some(hear(server.send(out).await.ok()?).await) };
        let heard = timeout(ANSWER, asked).await.ok().flatten();
        match probe.heard(heard.as_ref()) {
            Next::Ask(next) => out = next,
            Next::Done(speaks, end) => {
                if let Some(end) = end {
                    // One that does not end sessions on request lets them expire.
                    let _ = timeout(ANSWER, server.send(end)).await;
                }
                return speaks;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::mcp::client_side::Outgoing;
    use crate::translator::{Sent, Unanswered};

    /// A server that is away; it counts what it is asked.
    #[derive(Default)]
    struct Away(AtomicUsize);

    impl Server for Away {
        fn send(&self, _: Outgoing) -> Sent {
            self.0.fetch_add(1, SeqCst);
            Box::pin(async { Err(Unanswered("away".to_owned())) })
        }

        fn path(&self) -> String {
            "/mcp".to_owned()
        }

        fn log(&self, _: &str) {}
    }

    #[tokio::test]
    async fn a_server_is_asked_once_until_there_is_a_reason() {
        let server = Arc::new(Away::default());
        let known = Known::new(server.clone());
        let (one, two) = tokio::join!(known.speaks(), known.speaks());
        assert_eq!(
            (one, two),
            (Speaks::default(), Speaks::default()),
            "everything is passed on"
        );
        known.doubt();
        known.speaks().await;
        assert_eq!(server.0.load(SeqCst), 1, "it has just said");
        known.forget();
        known.speaks().await;
        assert_eq!(server.0.load(SeqCst), 2);
        // Time over: what was known is used, and the server is asked beside it.
        if let Some(fact) = &mut *known.fact() {
            fact.time = Duration::ZERO;
        }
        known.speaks().await;
        while server.0.load(SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    }
}
