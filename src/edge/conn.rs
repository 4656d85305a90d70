//! One client connection: what it is doing (for its timeouts), its bytes, and the loop that drives hyper over it.
//!
//! ```text
//! idle --bytes--> head --request whole--> busy(n) --last answer ended--> idle
//! ```
//!
//! Timeouts are checked on a coarse tick, one timer a connection, so that a request arms none: a head that takes too
//! long, an idle connection, a client that takes nothing of its answer. Breaking one closes the connection.

use std::{
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    frames::{self, Frames},
    state::Edge,
};
use crate::{
    authz::{NoPlace, Party, Pulse, Standing, Token, address_group},
    config::Limits,
    model::Who,
};

/// What a client that was refused mid-body may still send before we hang up, in bytes.
const LINGER_BYTES: usize = 1 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// A place among the edge's connections; given back when dropped.
pub(super) struct Permit {
    pub(super) edge: Arc<Edge>,
    worker: Arc<AtomicUsize>,
    /// Who is at the other end, IPv6 by its /64.
    pub(super) from: IpAddr,
    pub(super) address: IpAddr,
    number: u64,
    pub(super) pulse: Arc<Pulse>,
    place: Mutex<(Standing, Party)>,
    /// That of `place`, for who must not lock.
    standing: AtomicU8,
}

impl Permit {
    /// A place for a connection that has just been accepted. Who has to give way for it does.
    pub(super) fn new(edge: &Arc<Edge>, worker: &Arc<AtomicUsize>, address: IpAddr, tls: bool) -> Option<Permit> {
        let place = (
            if tls { Standing::Stranger } else { Standing::Plain },
            Party::of_address(address),
        );
        let (number, pulse) = (edge.next.fetch_add(1, Relaxed), Pulse::new(edge.now()));
        let evicted = edge.places().enter(place, number, Arc::clone(&pulse)).ok()?;
        edge.stats.evicted.fetch_add(evicted as u64, Relaxed);
        edge.stats.connections.fetch_add(1, Relaxed);
        worker.fetch_add(1, Relaxed);
        Some(Permit {
            edge: Arc::clone(edge),
            worker: Arc::clone(worker),
            from: address_group(address),
            address,
            number,
            pulse,
            place: Mutex::new(place),
            standing: AtomicU8::new(place.0 as u8),
        })
    }

    /// A right token was shown on this connection: it is no stranger's any more. False: whoever holds that token has
    /// all places that they may have, and needs every one of them.
    pub(super) fn shown(&self, token: &Token) -> bool {
        let standing = match token.principal().who() {
            Who::Member(_) => Standing::Member,
            _ => Standing::Holder,
        };
        self.rise(standing, token.number())
    }

    /// Whether no right token, and no session, was shown on it.
    pub(super) fn is_strangers(&self) -> bool {
        self.standing.load(Relaxed) <= Standing::Stranger as u8
    }

    /// The same for a session of a screen.
    pub(super) fn shown_session(&self, number: u64) -> bool {
        // Apart from the tokens' numbers by chance alone, which is all that counting needs.
        self.rise(Standing::Holder, number)
    }

    fn rise(&self, standing: Standing, shown: u64) -> bool {
        self.standing.load(Relaxed) >= standing as u8
            || self.change((standing, Party::of_holder(shown, self.address))).is_ok()
    }

    /// A wrong token was shown: what was right before counts no more.
    pub(super) fn fall(&self) {
        if self.standing.load(Relaxed) > Standing::Stranger as u8 {
            let place = (Standing::Stranger, Party::of_address(self.address));
            if self.change(place).is_err() {
                self.pulse.end().fire();
            }
        }
    }

    fn change(&self, to: (Standing, Party)) -> Result<(), NoPlace> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let evicted = self.edge.places().change(*place, to, self.number)?;
        self.edge.stats.evicted.fetch_add(evicted as u64, Relaxed);
        *place = to;
        self.standing.store(to.0 as u8, Relaxed);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.worker.fetch_sub(1, Relaxed);
        self.edge.stats.connections.fetch_sub(1, Relaxed);
        let place = *self.place.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.edge.places().leave(place, self.number);
    }
}

/// A connection as its requests, its stream and its driver see it.
pub(super) struct Client {
    pub(super) permit: Permit,
    pub(super) clock: Instant,
    busy: AtomicUsize,
    /// Times in ms of `clock`, plus 1; 0: not so.
    idle_since: AtomicU64,
    head_since: AtomicU64,
    write_blocked_since: AtomicU64,
    linger: AtomicBool,
    /// What answers have brought in since it was taken last; see [`frames`].
    earned: AtomicU64,
    /// HTTP/2 streams with an answer under way.
    streams: Mutex<Vec<Weak<Progress>>>,
}

/// When a piece was handed to hyper that has not asked for the next one since: ms of the connection's clock, 0: none.
/// On HTTP/2 that means that the client does not open its window.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU64);

impl Progress {
    pub(super) fn note(&self, at: u64) {
        self.0.store(at, Relaxed);
    }

    fn stalled_since(&self) -> Option<u64> {
        Some(self.0.load(Relaxed)).filter(|t| *t > 0)
    }
}

/// A request in progress; ends with its answer.
pub(super) struct Busy(Arc<Client>);

impl Busy {
    /// A piece of the answer is on its way.
    pub(super) fn piece(&self, length: usize) {
        self.0.earned.fetch_add(frames::per_piece(length), Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.busy.fetch_sub(1, Relaxed) == 1 {
            let now = self.0.now();
            self.0.idle_since.store(now, Relaxed);
            self.0.permit.pulse.quiet(now);
        }
    }
}

impl Client {
    pub(super) fn new(permit: Permit) -> Arc<Client> {
        let clock = permit.edge.clock;
        Arc::new(Client {
            clock,
            busy: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            // A client that says nothing at all is as slow as one that dribbles.
            head_since: AtomicU64::new(permit.edge.now() + 1),
            permit,
            write_blocked_since: AtomicU64::new(0),
            linger: AtomicBool::new(false),
            earned: AtomicU64::new(0),
            streams: Mutex::default(),
        })
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_millis() as u64 + 1
    }

    /// A request's head is whole.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Relaxed);
        self.idle_since.store(0, Relaxed);
        self.head_since.store(0, Relaxed);
        self.permit.pulse.busy();
        Busy(Arc::clone(self))
    }

    /// A request has its answer.
    pub(super) fn answered(&self) {
        self.earned.fetch_add(frames::PER_ANSWER, Relaxed);
    }

    /// Reads on for a moment before closing, so that the client gets the answer and not a reset.
    pub(super) fn linger(&self) {
        self.linger.store(true, Relaxed);
    }

    pub(super) fn watch(&self, progress: &Arc<Progress>) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|w| w.strong_count() > 0);
        streams.push(Arc::downgrade(progress));
    }

    /// Which bound is broken now, if any.
    fn overdue(&self, limits: &Limits, http2: bool) -> Option<&'static str> {
        let now = self.now();
        let over = |since: u64, limit: Duration| since > 0 && now.saturating_sub(since) > limit.as_millis() as u64;
        let stall = stall(limits);
        if over(self.write_blocked_since.load(Relaxed), stall) {
            return Some("the client takes nothing");
        }
        if self.busy.load(Relaxed) > 0 {
            let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            let stalled = |w: &Weak<Progress>| {
                w.upgrade()
                    .and_then(|p| p.stalled_since())
                    .is_some_and(|t| over(t, stall))
            };
            return streams
                .iter()
                .any(stalled)
                .then_some("the client takes nothing of a stream");
        }
        if over(self.idle_since.load(Relaxed), limits.idle_timeout) {
            return Some("idle");
        }
        // HTTP/2 clients may ping while they are idle: only before the first request does silence count there.
        let slow_head = !(http2 && self.idle_since.load(Relaxed) > 0);
        (slow_head && over(self.head_since.load(Relaxed), limits.client_timeout)).then_some("slow request head")
    }
}

/// How long a client may take nothing of an answer.
fn stall(limits: &Limits) -> Duration {
    limits.client_timeout * 4
}

/// How often the bounds are looked at.
pub(super) fn tick(limits: &Limits) -> Duration {
    (limits.client_timeout.min(limits.idle_timeout) / 4).clamp(Duration::from_millis(25), Duration::from_secs(5))
}

/// Drives a connection until it ends, a bound is broken, or the edge is cut. `wind_down` makes hyper finish what is in
/// flight and take nothing new.
pub(super) async fn drive<C: Future>(client: &Client, conn: C, http2: bool, wind_down: fn(Pin<&mut C>)) {
    let edge = &client.permit.edge;
    let mut conn = std::pin::pin!(conn);
    let mut drain = std::pin::pin!(edge.drain.fired());
    let mut kill = std::pin::pin!(edge.kill.fired());
    let evicted = client.permit.pulse.end();
    let mut gives_way = std::pin::pin!(evicted.fired());
    let mut draining = false;
    let period = tick(&edge.config.limits);
    let mut tick = std::pin::pin!(tokio::time::sleep(period));
    if edge.kill.is_cut() || evicted.is_cut() {
        return;
    }
    if edge.drain.is_cut() {
        draining = true;
        wind_down(conn.as_mut());
    }
    loop {
        tokio::select! {
            biased;
            _ = conn.as_mut() => return,
            () = &mut kill => return,
            () = &mut gives_way => {
                log::debug!("closing a connection from {}: others need its place", client.permit.from);
                return;
            }
            () = &mut drain, if !draining => {
                draining = true;
                wind_down(conn.as_mut());
            }
            () = &mut tick => {
                if let Some(why) = client.overdue(&edge.config.limits, http2) {
                    log::debug!("closing a connection from {}: {why}", client.permit.from);
                    return;
                }
                tick.as_mut().reset(tokio::time::Instant::now() + period);
            }
        }
    }
}

/// A client's stream, which notes progress in its [`Client`].
pub(super) struct Tracked<S> {
    inner: S,
    client: Arc<Client>,
    /// On HTTP/2.
    frames: Option<Frames>,
    /// What lingering may still read, once the shutdown is sent.
    linger: Option<(usize, Pin<Box<tokio::time::Sleep>>)>,
    shut: bool,
}

impl<S> Tracked<S> {
    pub(super) fn new(inner: S, client: Arc<Client>, http2: bool) -> Tracked<S> {
        Tracked {
            inner,
            frames: http2.then(|| Frames::new(client.now())),
            client,
            linger: None,
            shut: false,
        }
    }

    fn note_write(&self, pending: bool) {
        let blocked = &self.client.write_blocked_since;
        if pending != (blocked.load(Relaxed) > 0) {
            blocked.store(if pending { self.client.now() } else { 0 }, Relaxed);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tracked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let Tracked { client, frames, .. } = &mut *self;
        if let Some(frames) = frames {
            let earned = || client.earned.swap(0, Relaxed);
            if let Err(flood) = frames.read(&buf.filled()[before..], earned, || client.now()) {
                client.permit.edge.stats.flooded.fetch_add(1, Relaxed);
                return Poll::Ready(Err(io::Error::other(flood)));
            }
        }
        if client.busy.load(Relaxed) == 0 && client.head_since.load(Relaxed) == 0 {
            client.head_since.store(client.now(), Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tracked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note_write(poll.is_pending());
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note_write(poll.is_pending());
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.note_write(poll.is_pending());
        poll
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.shut {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
            this.shut = true;
            if this.client.linger.load(Relaxed) {
                this.linger = Some((LINGER_BYTES, Box::pin(tokio::time::sleep(LINGER))));
            }
        }
        while let Some((left, until)) = this.linger.as_mut() {
            let mut scratch = [0u8; 4096];
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && *left > 0 => {
                    *left = left.saturating_sub(buf.filled().len());
                }
                Poll::Ready(_) => this.linger = None,
                Poll::Pending => {
                    ready!(until.as_mut().poll(cx));
                    this.linger = None;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
