//! F3: the HTTPS front. TLS, routing, authentication, limits, proxying to the instances' links, and their screens. It reads no store,
//! holds no lock across an await, and buffers no body.
//!
//! ```text
//! accept (1 task a listener, caller's runtime)
//!    | socket, to the worker with the fewest connections
//! worker (1 thread for every two cores, a single-threaded runtime each)
//!    | 1 task a connection: handshake, then hyper, then each request inline:
//!    |   its door -> limits -> Origin -> token -> state of the instance -> its link
//!    |                                       \-> the box's own doors ([`BoxService`])
//! link's pool -> agent
//! ```
//!
//! A request never changes threads: client socket and agent socket are registered with the same reactor. Measured
//! against tokio's work-stealing runtime on 2 cores (`benches/edge`); the figures stand in that folder's README.
//! One accept task hands sockets out, in place of `SO_REUSEPORT`, because the listeners may come from systemd and
//! because it balances by load.
//!
//! Files import what is below them only (`tests/structure.rs`):
//!
//! ```text
//! accept     sockets, workers, TLS; `redirect` at the plain-HTTP listeners
//! request    one request: its door, what has to be shown there, its handler, its answer
//! authenticate, cors     who asks, and whether a page may
//! calls      whether they may ask now
//! proxy, own, screen     handlers: instances, what the box serves itself, screens
//! respond    every answer that the edge makes itself
//! sent, upgrade    bodies from clients, protocol switches
//! trail      what the audit is told of a request
//! body       bodies to clients
//! conn       one client connection
//! state      what all tasks share
//! ```

mod accept;
mod authenticate;
mod body;
mod calls;
mod clients;
mod conn;
mod cors;
mod frames;
mod own;
mod passed;
mod proxy;
mod redirect;
mod request;
mod respond;
mod screen;
mod sent;
mod service;
mod state;
mod stats;
mod trail;
mod upgrade;

use std::{
    collections::BTreeMap,
    io,
    net::TcpListener,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{Backlog, listen};
use tokio::task::JoinHandle;

use crate::{
    authz::{Cut, Gates, Places, Room, TokenTable},
    link::Registry,
    model::{CallLimit, WorkspaceName},
    tls::{Certificates, TlsError},
};

pub use screen::looks::{Look, Looks, Recreate, Screens};
pub use service::{BodyError, BoxService, OwnBody, OwnRequest, Sent};
pub use state::{Edge, EdgeConfig, PLAIN_CONNECTIONS, States, Workers};
pub use stats::EdgeStats;

/// Why the edge could not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("cannot use the listener on {address}: {source}")]
    Listener { address: String, source: io::Error },
    #[error("cannot start an edge worker: {0}")]
    Worker(io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Bound sockets: the configuration's, or systemd's.
#[derive(Debug, Default)]
pub struct Listeners {
    pub https: Vec<TcpListener>,
    /// Redirects to https.
    pub http: Vec<TcpListener>,
}

impl Edge {
    /// Starts the edge on these sockets. Must be called within a tokio runtime, whose task accepts. Without a `service`
    /// it serves instances alone.
    ///
    /// # Errors
    /// [`EdgeError`].
    pub fn spawn(
        config: EdgeConfig,
        listeners: Listeners,
        registry: Registry,
        tokens: TokenTable,
        states: States,
        service: Option<Arc<dyn BoxService>>,
        certificates: &Certificates,
    ) -> Result<EdgeHandle, EdgeError> {
        let places = Places::new(Room {
            connections: config.limits.connections,
            strangers: config.limits.connections_without_token,
            per_address: config.limits.connections_per_address,
            plain: PLAIN_CONNECTIONS,
        });
        let edge = Arc::new(Edge {
            router: Arc::clone(&config.router),
            gates: Gates::new(config.limits.member_calls, config.limits.instance_calls),
            tls: tokio_rustls::TlsAcceptor::from(certificates.server_config()?),
            config,
            registry,
            tokens,
            states,
            service,
            limiter: Mutex::default(),
            delayed: AtomicUsize::new(0),
            rooms: Arc::default(),
            clients: clients::Clients::default(),
            places: Mutex::new(places),
            next: AtomicU64::new(0),
            clock: Instant::now(),
            stats: Arc::default(),
            drain: Cut::default(),
            kill: Cut::default(),
        });
        let (workers, threads) = accept::start_workers(&edge).map_err(EdgeError::Worker)?;
        let workers = Arc::new(workers);
        let mut tasks = Vec::new();
        let mut beats: Vec<Arc<AtomicU64>> = workers.iter().map(|w| Arc::clone(&w.beat)).collect();
        let all = listeners.https.into_iter().map(|l| (l, true));
        for (listener, tls) in all.chain(listeners.http.into_iter().map(|l| (l, false))) {
            let address = listener.local_addr().map_or_else(|_| "?".into(), |a| a.to_string());
            let listener = widen(&listener)
                .and_then(|()| listener.set_nonblocking(true))
                .and_then(|()| tokio::net::TcpListener::from_std(listener))
                .map_err(|source| EdgeError::Listener { address, source })?;
            let beat = Arc::new(AtomicU64::new(0));
            beats.push(Arc::clone(&beat));
            let run = accept::run(Arc::clone(&edge), listener, tls, Arc::clone(&workers), beat);
            tasks.push(tokio::spawn(run));
        }
        Ok(EdgeHandle {
            edge,
            tasks: Mutex::new(tasks),
            threads: Mutex::new(threads),
            workers: workers.len(),
            beats,
        })
    }
}

/// As long a queue of connections to accept as the kernel allows: in a full one a flood delays everybody else by the
/// seconds of their retransmissions.
fn widen(listener: &TcpListener) -> io::Result<()> {
    Ok(listen(listener, Backlog::MAXALLOWABLE)?)
}

/// A running edge. Dropping it cuts everything.
pub struct EdgeHandle {
    edge: Arc<Edge>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    /// The workers' first, then those of the accept loops.
    beats: Vec<Arc<AtomicU64>>,
    workers: usize,
}

impl EdgeHandle {
    /// Counters of the edge.
    pub fn stats(&self) -> EdgeStats {
        self.edge.stats.read(self.edge.gates.under_way())
    }

    /// How many calls the instances of a workspace take from now on: of each in the list, and of all others.
    pub fn limit_workspaces(&self, others: CallLimit, own: BTreeMap<WorkspaceName, CallLimit>) {
        self.edge.gates.limit_workspaces(others, own);
    }

    /// Goes up about once a second as long as every accept loop and every worker turns; the watchdog is fed while it
    /// does.
    pub fn heartbeat(&self) -> u64 {
        // While draining nothing is accepted, and that is no fault.
        let beating = if self.edge.drain.is_cut() {
            self.workers
        } else {
            self.beats.len()
        };
        self.beats
            .iter()
            .take(beating)
            .map(|b| b.load(Relaxed))
            .min()
            .unwrap_or(0)
    }

    /// Stops accepting, tells clients (`GOAWAY`, `Connection: close`), ends streams that clients resume, waits for
    /// the rest at most `within`, then cuts. Whether all ended by themselves.
    pub async fn drain(&self, within: Duration) -> bool {
        self.stop_accepting();
        self.edge.drain.fire();
        let until = tokio::time::Instant::now() + within;
        let open = || self.edge.stats.connections.load(Relaxed);
        while open() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let clean = open() == 0;
        self.edge.kill.fire();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|t| t.join().is_ok()));
        if !joined.await.unwrap_or(false) {
            log::error!("an edge worker ended in a panic");
        }
        clean
    }
}

impl EdgeHandle {
    fn stop_accepting(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }
}

impl Drop for EdgeHandle {
    fn drop(&mut self) {
        self.stop_accepting();
        self.edge.drain.fire();
        self.edge.kill.fire();
    }
}
