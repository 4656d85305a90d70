//! The connections of one agent: idle ones in a stack, so that the warmest is used first, and a bounded queue of
//! those who wait for one. The lock is held for a few instructions and never across an await.
//!
//! A socket belongs to the reactor (epoll instance) that it is registered with. Edge workers each run one of their
//! own; a connection that another reactor holds is moved over when it is taken, so that a request's wake-ups stay on
//! one thread. [`set_reactor`] tells the threads apart.

use std::{
    cell::Cell,
    future::Future,
    io,
    os::fd::AsRawFd,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use nix::sys::socket::{MsgFlags, recv};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Notify,
};

use super::pace::Pace;

/// Idle connections kept.
const MAX_IDLE: usize = 512;
/// Connections of one agent, busy ones included.
pub(super) const MAX_OPEN: usize = 2048;
/// Connections that clients may keep busy; an agent opens some more, and those are for the supervisor's own questions.
const CLIENTS: usize = 480;
/// Requests that may wait for a connection.
const MAX_WAITERS: usize = 1024;
/// Room that a read finds.
const READ: usize = 8 * 1024;
/// A buffer larger than this is not kept with an idle connection.
const KEEP: usize = 16 * 1024;

thread_local! {
    static REACTOR: Cell<u32> = const { Cell::new(0) };
}

/// Says that this thread drives a reactor of its own; 0 is the process's main runtime.
pub fn set_reactor(n: u32) {
    REACTOR.set(n);
}

/// Why no connection was to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakeError {
    /// None within the time, or too many wait.
    Busy,
    /// The link is closed.
    Closed,
}

/// Connections that an agent may always have, however many others have.
const OWN: usize = 16;

/// Descriptors for the connections of all agents together. Each has [`OWN`]; of what is left when others have taken theirs
/// one agent gets no more than half, so that there is always some for the next.
#[derive(Debug)]
pub(super) struct Descriptors {
    most: usize,
    open: AtomicUsize,
}

impl Descriptors {
    pub(super) fn new(most: usize) -> Arc<Descriptors> {
        Arc::new(Descriptors {
            most,
            open: AtomicUsize::new(0),
        })
    }

    fn allows(&self, own: usize) -> bool {
        own < OWN || own < self.most.saturating_sub(self.open.load(Ordering::Relaxed)) / 2
    }
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) pace: Arc<Pace>,
    descriptors: Arc<Descriptors>,
    idle: Mutex<Vec<Conn>>,
    waiters: AtomicUsize,
    returned: Notify,
    open: Arc<AtomicUsize>,
    closed: AtomicBool,
}

/// Counts a connection as open until dropped.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>, Arc<Descriptors>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        self.1.open.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One connection. Dropping it closes it; [`Pool::put`] gives it back.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) stream: UnixStream,
    pub(super) buf: BytesMut,
    reactor: u32,
    _open: Open,
}

impl Pool {
    pub(super) fn new(descriptors: Arc<Descriptors>) -> Pool {
        Pool {
            pace: Arc::default(),
            descriptors,
            idle: Mutex::default(),
            waiters: AtomicUsize::new(0),
            returned: Notify::new(),
            open: Arc::default(),
            closed: AtomicBool::new(false),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Conn>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection from the agent; `false`: there are too many, it is closed.
    pub(super) fn add(&self, stream: UnixStream) -> bool {
        let own = self.open.fetch_add(1, Ordering::Relaxed);
        self.descriptors.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&self.open), Arc::clone(&self.descriptors));
        if own >= MAX_OPEN || !self.descriptors.allows(own) {
            return false;
        }
        self.put(Conn {
            stream,
            buf: BytesMut::new(),
            reactor: REACTOR.get(),
            _open: open,
        });
        true
    }

    /// Gives a connection back. One with bytes left over said more than it was asked: it is closed.
    pub(super) fn put(&self, mut conn: Conn) {
        if !conn.buf.is_empty() || self.closed.load(Ordering::Acquire) {
            return;
        }
        if conn.buf.capacity() > KEEP {
            conn.buf = BytesMut::new();
        }
        let mut idle = self.idle();
        if idle.len() < MAX_IDLE {
            idle.push(conn);
        }
        drop(idle);
        if self.waiters.load(Ordering::SeqCst) > 0 {
            self.returned.notify_one();
        }
    }

    /// An idle connection that looks alive, preferably one of this thread's reactor.
    fn take_now(&self) -> Option<Conn> {
        loop {
            let mut idle = self.idle();
            let here = REACTOR.get();
            let near = idle.iter().rev().take(16).position(|c| c.reactor == here);
            let mut conn = match near {
                Some(from_top) => {
                    let at = idle.len() - 1 - from_top;
                    idle.remove(at)
                }
                None => idle.pop()?,
            };
            drop(idle);
            if conn.is_stale() {
                continue;
            }
            if conn.reactor != here {
                match conn.moved_here(here) {
                    Ok(moved) => conn = moved,
                    Err(_) => continue,
                }
            }
            return Some(conn);
        }
    }

    /// A connection, waiting for one at most `wait`.
    pub(super) async fn take(&self, wait: Duration) -> Result<Conn, TakeError> {
        match self.take_now() {
            Some(conn) => Ok(conn),
            None => tokio::time::timeout(wait, self.wait())
                .await
                .unwrap_or(Err(TakeError::Busy)),
        }
    }

    async fn wait(&self) -> Result<Conn, TakeError> {
        if self.waiters.fetch_add(1, Ordering::SeqCst) >= MAX_WAITERS {
            self.waiters.fetch_sub(1, Ordering::SeqCst);
            return Err(TakeError::Busy);
        }
        let _waiting = Waiting(&self.waiters);
        loop {
            if self.closed.load(Ordering::Acquire) {
                self.returned.notify_one();
                return Err(TakeError::Closed);
            }
            // In the queue before the look, or a connection put back in between wakes nobody.
            let mut returned = std::pin::pin!(self.returned.notified());
            returned.as_mut().enable();
            if let Some(conn) = self.take_now() {
                return Ok(conn);
            }
            returned.await;
        }
    }

    /// Waits, however long, until there is an idle connection; takes none.
    pub(super) async fn connected(&self) {
        // Counted like a waiter so that `put` wakes it; what it is woken for it hands on.
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiters);
        loop {
            let mut returned = std::pin::pin!(self.returned.notified());
            returned.as_mut().enable();
            if !self.idle().is_empty() {
                self.returned.notify_one();
                return;
            }
            returned.await;
        }
    }

    /// Closes idle connections whose peer is gone; how many connections are left, busy ones included.
    pub(super) fn sweep(&self) -> usize {
        self.idle().retain(Conn::is_alive);
        self.open.load(Ordering::Relaxed)
    }

    /// Whether clients keep as many connections busy as they may. Takes no lock as long as there are few.
    pub(super) fn is_full(&self) -> bool {
        let open = self.open.load(Ordering::Relaxed);
        open > CLIENTS && open.saturating_sub(self.idle().len()) >= CLIENTS
    }

    /// Connections, and how many of them are idle.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.open.load(Ordering::Relaxed), self.idle().len())
    }

    /// Drops what is idle now.
    pub(super) fn clear(&self) {
        self.idle().clear();
    }

    /// Drops what is idle and takes nothing back.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.idle().clear();
        self.returned.notify_one();
    }
}

impl Conn {
    /// Whether the reactor has seen the peer's end, or words that nobody asked for. Costs no system call while the
    /// connection is quiet.
    fn is_stale(&self) -> bool {
        !matches!(self.stream.try_read(&mut [0; 1]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same, asking the kernel.
    fn is_alive(&self) -> bool {
        let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.stream.as_raw_fd(), &mut [0; 1], peek) == Err(nix::errno::Errno::EAGAIN)
    }

    fn moved_here(self, reactor: u32) -> io::Result<Conn> {
        Ok(Conn {
            stream: UnixStream::from_std(self.stream.into_std()?)?,
            reactor,
            ..self
        })
    }

    /// Reads more into the buffer; 0 is the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buf.reserve(READ);
        pin!(self.stream.read_buf(&mut self.buf)).poll(cx)
    }

    /// Reads more into the buffer; 0 is the end.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.buf.reserve(READ);
        self.stream.read_buf(&mut self.buf).await
    }

    /// Writes all; on failure says how many bytes had gone.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]).await {
                Ok(0) => return Err((sent, io::ErrorKind::WriteZero.into())),
                Ok(n) => sent += n,
                Err(e) => return Err((sent, e)),
            }
        }
        Ok(())
    }

    /// The bare stream, and what was read of it already.
    pub(super) fn into_parts(self) -> (UnixStream, BytesMut) {
        (self.stream, self.buf)
    }
}
