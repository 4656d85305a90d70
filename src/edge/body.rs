//! Bodies that pass through the edge. Towards the client: at most one piece is held, and a stream ends at once when
//! its token is revoked or expires. From the client: counted against the limit, timed piece by piece, and read out within
//! bounds when nobody wants the rest. Nothing here collects a body, but for small requests, which leave in one write and
//! may be sent again.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep},
};

use super::{
    conn::{Busy, Client},
    front::FrontBody,
    respond::BodyError,
};
use crate::authz::Cut;
use crate::link::{BodySource, Payload, ReplyBody, stats, wire::WireError};

/// A body that comes slower than this on the whole, in bytes a second, is not waited for.
const SLOWEST: u64 = 16 * 1024;
/// How long a refused request's body is read at most.
const DISCARD: Duration = Duration::from_secs(1);
/// A request body up to this size is read before a connection to the agent is taken.
const SMALL: usize = 64 * 1024;

/// Why a streamed answer broke off. The client sees a reset stream or a closed connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("the instance's answer broke off: {0}")]
    Wire(#[from] WireError),
    #[error("the token was revoked or has expired")]
    Cut,
}

/// What an answer holds on to until it has ended: its fields exist to be dropped.
#[derive(Default)]
#[allow(dead_code)]
pub(super) struct Held {
    pub(super) busy: Option<Busy>,
    pub(super) in_flight: Option<stats::InFlight<super::stats::Shared>>,
    pub(super) link: Option<stats::InFlight<stats::Counters>>,
}

/// When a piece was handed to hyper that has not asked for the next one since: ms of the connection's clock, 0: none.
/// On HTTP/2 that means that the client does not open its window.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU64);

impl Progress {
    pub(super) fn stalled_since(&self) -> Option<u64> {
        Some(self.0.load(Relaxed)).filter(|t| *t > 0)
    }
}

/// An answer's body.
pub(super) struct EdgeBody {
    kind: Kind,
    held: Held,
}

enum Kind {
    Full(Option<Bytes>),
    Stream(Box<Stream>),
}

/// Where a streamed answer comes from.
pub(super) enum Source {
    Link(ReplyBody),
    Front(FrontBody),
}

impl From<FrontBody> for Source {
    fn from(body: FrontBody) -> Source {
        Source::Front(body)
    }
}

impl Source {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        match self {
            Source::Link(reply) => reply.poll_next(cx).map(|n| n.map(|r| r.map_err(StreamError::from))),
            Source::Front(body) => loop {
                match std::task::ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    None => return Poll::Ready(None),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Poll::Ready(Some(Ok(data)));
                        }
                    }
                    Some(Err(never)) => match never {},
                }
            },
        }
    }

    fn remaining(&self) -> Option<u64> {
        match self {
            Source::Link(reply) => reply.remaining(),
            Source::Front(body) => body.size_hint().exact(),
        }
    }
}

struct Stream {
    reply: Source,
    ends: Ends,
    progress: Arc<Progress>,
    clock: std::time::Instant,
}

/// What ends a stream before its time.
pub(super) struct Ends {
    /// The token is revoked.
    pub(super) cut: Pin<Box<OwnedNotified>>,
    /// The token expires.
    pub(super) expiry: Option<Pin<Box<Sleep>>>,
    /// The edge drains: ends cleanly, if the client can go on elsewhere.
    pub(super) drain: Option<Drain>,
}

/// The end of a stream by the edge's drain: at once when its client can take it up again, and that it can from the first
/// whole event with an id on (MCP 2025-11-25, basic/transports, "Resumability and Redelivery").
pub(super) struct Drain {
    signal: Cut,
    fired: Pin<Box<OwnedNotified>>,
    /// Whatever came on it.
    always: bool,
    /// An event's id has passed.
    id: bool,
    /// The last piece ended an event, and a line.
    event: bool,
    line: bool,
}

impl Drain {
    /// `always`: whether the client can take it up again whatever came on it.
    pub(super) fn new(signal: &Cut, always: bool) -> Drain {
        Drain {
            fired: Box::pin(signal.fired()),
            signal: signal.clone(),
            always,
            id: false,
            event: false,
            line: true,
        }
    }

    /// Whether the stream ends now.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        // Also asks to be woken when it is not yet.
        let fired = self.signal.is_cut() || self.fired.as_mut().poll(cx).is_ready();
        fired && (self.always || self.id && self.event)
    }

    /// Looks at a piece that passes. A name that is cut in two is not seen: then the next one is.
    fn passes(&mut self, piece: &[u8]) {
        if self.always {
            return;
        }
        self.id = self.id || self.line && piece.starts_with(b"id:") || memchr::memmem::find(piece, b"\nid:").is_some();
        self.event = piece.ends_with(b"\n\n") || self.line && piece == b"\n";
        self.line = piece.ends_with(b"\n");
    }
}

impl EdgeBody {
    pub(super) fn full(bytes: Bytes) -> EdgeBody {
        EdgeBody {
            kind: Kind::Full((!bytes.is_empty()).then_some(bytes)),
            held: Held::default(),
        }
    }

    /// `clock` is the connection's, for `progress`.
    pub(super) fn stream(reply: Source, ends: Ends, clock: std::time::Instant) -> (EdgeBody, Arc<Progress>) {
        let progress = Arc::new(Progress::default());
        let stream = Stream {
            reply,
            ends,
            progress: Arc::clone(&progress),
            clock,
        };
        let body = EdgeBody {
            kind: Kind::Stream(Box::new(stream)),
            held: Held::default(),
        };
        (body, progress)
    }

    pub(super) fn hold(&mut self, held: Held) {
        self.held = held;
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Full(bytes) => bytes.as_ref(),
            Kind::Stream(_) => None,
        }
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = self.get_mut();
        let next = match &mut this.kind {
            Kind::Full(bytes) => bytes.take().map(Ok),
            Kind::Stream(stream) => std::task::ready!(stream.poll(cx)),
        };
        if let (Some(Ok(piece)), Some(busy)) = (&next, &this.held.busy) {
            busy.piece(piece.len());
        }
        if next.is_none() && matches!(this.kind, Kind::Stream(_)) {
            this.kind = Kind::Full(None);
            this.held = Held::default();
        }
        Poll::Ready(next.map(|n| n.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Stream(s) => s.reply.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let expired = |e: &mut Pin<Box<Sleep>>| e.as_mut().poll(cx).is_ready();
        if self.ends.expiry.as_mut().is_some_and(expired) || self.ends.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(StreamError::Cut)));
        }
        if self.ends.drain.as_mut().is_some_and(|d| d.is_over(cx)) {
            return Poll::Ready(None);
        }
        let next = self.reply.poll_next(cx);
        if let (Some(drain), Poll::Ready(Some(Ok(piece)))) = (&mut self.ends.drain, &next) {
            drain.passes(piece);
        }
        let handed_out = matches!(next, Poll::Ready(Some(_)));
        let now = if handed_out {
            self.clock.elapsed().as_millis() as u64 + 1
        } else {
            0
        };
        self.progress.0.store(now, Relaxed);
        next
    }
}

/// The client's body: bounded and timed. What is left of it when it is dropped is read out within bounds, for nothing but
/// the answer's sake: a client that sends all of its request before it reads would find the connection closed in its
/// place (RFC 9112 section 9.6), and over HTTP/2 many take a reset stream for a broken one.
pub(super) struct ClientBody {
    /// None once it has ended, or when there is nothing to wait for.
    body: Option<Incoming>,
    client: Arc<Client>,
    /// The client waits to be told before it sends it: it may never come.
    expects: bool,
    /// Read before it was known to be long.
    first: Option<Bytes>,
    left: u64,
    pause: Duration,
    /// When it must have come whole.
    deadline: Instant,
}

/// How much, in bytes, and how long is read of a body that nobody wants: of who has shown no right token, and of who has.
const READ_OUT: [(usize, Duration); 2] = [(1 << 20, Duration::from_secs(2)), (64 << 20, Duration::from_secs(30))];

impl Drop for ClientBody {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|b| !b.is_end_stream() && !self.expects) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let client = &self.client;
        let bounds = READ_OUT[usize::from(!client.permit.is_strangers())];
        runtime.spawn(read_out(Arc::clone(client), client.begin(), body, bounds));
    }
}

async fn read_out(client: Arc<Client>, _busy: Busy, mut body: Incoming, (mut left, time): (usize, Duration)) {
    let all = async {
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    if !tokio::time::timeout(time, all).await.unwrap_or(false) {
        client.linger();
    }
}

impl BodySource for ClientBody {
    type Error = BodyError;

    async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        self.expects = false;
        loop {
            let until = self.deadline.min(Instant::now() + self.pause);
            let frame = match tokio::time::timeout_at(until, self.body.as_mut()?.frame()).await {
                Err(_) => {
                    self.body = None;
                    return Some(Err(BodyError::TooSlow));
                }
                Ok(None) => {
                    self.body = None;
                    return None;
                }
                Ok(Some(Err(_))) => {
                    self.body = None;
                    return Some(Err(BodyError::Broken));
                }
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers are dropped.
            if let Ok(data) = frame.into_data() {
                match self.left.checked_sub(data.len() as u64) {
                    None => return Some(Err(BodyError::TooLarge)),
                    Some(left) => self.left = left,
                }
                return Some(Ok(data));
            }
        }
    }
}

impl ClientBody {
    /// A request's body, of which nothing is read yet.
    pub(super) fn new(client: &Arc<Client>, headers: &HeaderMap, body: Incoming) -> ClientBody {
        ClientBody {
            body: Some(body),
            client: Arc::clone(client),
            expects: headers.contains_key(header::EXPECT),
            first: None,
            left: 0,
            pause: DISCARD,
            deadline: Instant::now() + DISCARD,
        }
    }

    fn is_over(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// Its length, where that is known.
    fn length(&self) -> Option<u64> {
        self.body.as_ref().map_or(Some(0), |b| b.size_hint().exact())
    }

    /// Sets its bounds: `limit` bytes, and `pause`, the longest wait for a piece of it.
    fn bound(&mut self, limit: u64, pause: Duration) -> Result<(), BodyError> {
        let length = self.length();
        if length.is_some_and(|n| n > limit) {
            return Err(BodyError::TooLarge);
        }
        (self.left, self.pause) = (limit, pause);
        self.deadline = Instant::now() + pause * 4 + Duration::from_secs(length.unwrap_or(limit) / SLOWEST);
        Ok(())
    }

    /// Reads the body of a request that is refused and forgets it, as far as it is small and comes at once: many clients,
    /// over HTTP/2 above all, take an answer before the end of what they send for a broken stream.
    pub(super) async fn discard(mut self) -> Bytes {
        if self.is_over() || self.length().is_some_and(|n| n > SMALL as u64) {
            return Bytes::new();
        }
        self.left = SMALL as u64;
        let mut all = BytesMut::new();
        let taken = async {
            while let Some(Ok(piece)) = self.next().await {
                all.extend_from_slice(&piece);
            }
        };
        let _ = tokio::time::timeout(DISCARD, taken).await;
        all.freeze()
    }

    /// A whole body of at most `limit` bytes, for what the box answers itself.
    pub(super) async fn collect(mut self, limit: usize, pause: Duration) -> Result<Bytes, BodyError> {
        self.bound(limit as u64, pause)?;
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await.transpose()? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// A body as it comes, of at most `limit` bytes; `pause` is the longest wait for a piece of it.
    pub(super) fn pieces(
        mut self,
        limit: u64,
        pause: Duration,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>, BodyError> {
        self.bound(limit, pause)?;
        let pieces = futures_util::stream::unfold(Some(self), |source| async move {
            let mut source = source?;
            let piece = source.next().await?;
            let failed = |e: BodyError| std::io::Error::other(format!("the upload broke off: {e:?}"));
            let piece = piece.map_err(failed);
            let rest = piece.is_ok().then_some(source);
            Some((piece, rest))
        });
        Ok(Box::pin(pieces))
    }

    /// Takes a request's body as far as it is small; `limit` in bytes, `pause` the longest wait for a piece of it.
    pub(super) async fn payload(
        mut self,
        has_body_by_method: bool,
        limit: usize,
        pause: Duration,
    ) -> Result<Payload<ClientBody>, BodyError> {
        if self.is_over() {
            return Ok(if has_body_by_method {
                Payload::Whole(Bytes::new())
            } else {
                Payload::None
            });
        }
        let length = self.length();
        self.bound(limit as u64, pause)?;
        if length.is_some_and(|n| n > SMALL as u64) {
            return Ok(Payload::Stream { source: self, length });
        }
        let Some(first) = self.next().await.transpose()? else {
            return Ok(Payload::Whole(Bytes::new()));
        };
        if self.is_over() {
            return Ok(Payload::Whole(first));
        }
        let mut all = BytesMut::from(first);
        while let Some(piece) = self.next().await.transpose()? {
            all.extend_from_slice(&piece);
            if all.len() > SMALL {
                self.first = Some(all.freeze());
                return Ok(Payload::Stream { source: self, length });
            }
        }
        Ok(Payload::Whole(all.freeze()))
    }
}
