//! The connections to the supervisor: the agent dials, the supervisor asks.
//!
//! ```text
//! dialing ──► idle ◄──► busy ──101──► another protocol's, no link any more (see `switch`)
//!    ▲          │ more idle than needed for 10 s, or lost
//!    └── redial └──► closed
//! ```
//!
//! Keeps as many idle connections as are busy (two at least), so that a request never waits for a dial, and gives
//! them back when they are not used. What runs in the container never notices that the supervisor is away.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::orders::Orders;
use super::serve;
use super::slot::{Keep, OnDrop};

/// Idle connections at least; connections at most.
const FEW: usize = 2;
const MANY: usize = 512;
/// An idle connection that is not needed is closed after this long.
const SURPLUS: Duration = Duration::from_secs(10);
/// How often a lost supervisor is dialed: at first, until when, and from then on.
const REDIAL: (Duration, Duration, Duration) = (
    Duration::from_millis(25),
    Duration::from_secs(10),
    Duration::from_millis(250),
);
/// hyper's buffers for one connection; a larger body takes several reads.
const BUFFER: usize = 16 * 1024;

struct Link {
    requests: Cell<u32>,
    idle_since: Cell<Instant>,
    close: Notify,
}

struct Pool {
    socket: PathBuf,
    orders: Rc<Orders>,
    links: RefCell<HashMap<u64, Rc<Link>>>,
    next: Cell<u64>,
    busy: Cell<usize>,
    want: Notify,
}

/// Starts the pool.
pub(super) fn start(socket: PathBuf, orders: Rc<Orders>) {
    let pool = Rc::new(Pool {
        socket,
        orders,
        links: RefCell::default(),
        next: Cell::new(0),
        busy: Cell::new(0),
        want: Notify::new(),
    });
    tokio::task::spawn_local(dial(Rc::clone(&pool)));
    tokio::task::spawn_local(trim(pool));
}

impl Pool {
    fn idle(&self) -> usize {
        self.links.borrow().len() - self.busy.get()
    }

    fn short(&self) -> bool {
        self.links.borrow().len() < MANY && self.idle() < FEW.max(self.busy.get())
    }
}

/// Dials whenever there are too few idle connections.
async fn dial(pool: Rc<Pool>) {
    let mut lost: Option<Instant> = None;
    loop {
        if !pool.short() {
            // The timeout is for a link that ended without anybody noticing the shortage.
            let _ = timeout(Duration::from_secs(1), pool.want.notified()).await;
            continue;
        }
        match UnixStream::connect(&pool.socket).await {
            Ok(stream) => {
                lost = None;
                serve_link(&pool, stream);
            }
            Err(_) => {
                let since = *lost.get_or_insert_with(Instant::now);
                sleep(if since.elapsed() < REDIAL.1 { REDIAL.0 } else { REDIAL.2 }).await;
            }
        }
    }
}

fn serve_link(pool: &Rc<Pool>, stream: UnixStream) {
    let id = pool.next.get();
    pool.next.set(id + 1);
    let link = Rc::new(Link {
        requests: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        close: Notify::new(),
    });
    pool.links.borrow_mut().insert(id, Rc::clone(&link));
    let pool = Rc::clone(pool);
    tokio::task::spawn_local(async move {
        let service = {
            let (pool, link) = (Rc::clone(&pool), Rc::clone(&link));
            service_fn(move |req| {
                let mark = mark(&pool, &link);
                serve::serve(Rc::clone(&pool.orders), req, mark)
            })
        };
        let mut connection = hyper::server::conn::http1::Builder::new()
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            _ = &mut connection => {}
            () = link.close.notified() => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                let _ = connection.await;
            }
        }
        pool.links.borrow_mut().remove(&id);
        pool.want.notify_one();
    });
}

/// Counts a link as busy until the mark is dropped.
fn mark(pool: &Rc<Pool>, link: &Rc<Link>) -> Keep {
    if link.requests.replace(link.requests.get() + 1) == 0 {
        pool.busy.set(pool.busy.get() + 1);
        if pool.short() {
            pool.want.notify_one();
        }
    }
    let (pool, link) = (Rc::clone(pool), Rc::clone(link));
    Box::new(OnDrop(Some(move || {
        link.requests.set(link.requests.get() - 1);
        if link.requests.get() == 0 {
            pool.busy.set(pool.busy.get() - 1);
            link.idle_since.set(Instant::now());
        }
    })))
}

/// Closes idle connections that are not needed any more.
async fn trim(pool: Rc<Pool>) {
    loop {
        sleep(SURPLUS / 4).await;
        let surplus = pool.idle().saturating_sub(FEW.max(pool.busy.get()));
        let links = pool.links.borrow();
        let stale = links
            .values()
            .filter(|l| l.requests.get() == 0 && l.idle_since.get().elapsed() >= SURPLUS);
        for link in stale.take(surplus) {
            link.close.notify_one();
        }
    }
}
