//! Bodies of answers, on their way to the client: at most one piece is held, and a stream ends at once when its token is
//! revoked or expires, or its session ends.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame, SizeHint};
use tokio::{sync::futures::OwnedNotified, time::Sleep};

use super::{
    conn::{Busy, Progress},
    service::OwnBody,
    stats::Shared,
    trail::Trail,
};
use crate::{
    authz::{CallPlace, Cut, OnWay, Pass},
    link::{ReplyBody, stats, wire::WireError},
    model::AuditOutcome,
};

/// Why a streamed answer broke off. The client sees a reset stream or a closed connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("the instance's answer broke off: {0}")]
    Wire(#[from] WireError),
    #[error("the token was revoked or has expired, or the session has ended")]
    Cut,
}

/// What an answer holds on to until it has ended: its fields exist to be dropped.
#[derive(Default)]
#[allow(dead_code)]
pub(super) struct Held {
    pub(super) busy: Option<Busy>,
    pub(super) in_flight: Option<stats::InFlight<Shared>>,
    pub(super) link: Option<stats::InFlight<stats::Counters>>,
    pub(super) trail: Option<Box<Trail>>,
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
    BoxService(OwnBody),
}

impl From<OwnBody> for Source {
    fn from(body: OwnBody) -> Source {
        Source::BoxService(body)
    }
}

impl Source {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        match self {
            Source::Link(reply) => reply.poll_next(cx).map(|n| n.map(|r| r.map_err(StreamError::from))),
            Source::BoxService(body) => loop {
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
            Source::BoxService(body) => body.size_hint().exact(),
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
    pub(super) cut: Over,
    /// The token expires.
    pub(super) expiry: Option<Pin<Box<Sleep>>>,
    /// The edge drains: ends cleanly, if the client can go on elsewhere.
    pub(super) drain: Option<Drain>,
    /// What it takes of the bounds of calls, until its end.
    #[allow(dead_code, reason = "it is counted until it is dropped")]
    pub(super) place: Option<CallPlace>,
}

/// The end of what was shown, before its time.
pub(super) enum Over {
    /// The token is revoked, or its way ends.
    Token(
        #[allow(dead_code, reason = "it is counted until it is dropped")] OnWay,
        Pin<Box<OwnedNotified>>,
    ),
    /// The session ends.
    Session(BoxFuture<'static, ()>),
    /// Nothing was shown.
    Never,
}

impl Over {
    /// That of what a token opened; none where it has ended already.
    pub(super) fn of(pass: &Pass) -> Option<Over> {
        let over = Over::Token(pass.begin(), Box::pin(pass.cut().fired()));
        (!pass.cut().is_cut()).then_some(over)
    }
}

impl Future for Over {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut() {
            Over::Token(_, cut) => cut.as_mut().poll(cx),
            Over::Session(ended) => ended.as_mut().poll(cx),
            Over::Never => Poll::Pending,
        }
    }
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

    /// All of it, where it does not come in pieces.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Full(bytes) => Some(bytes.as_deref().unwrap_or_default()),
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
        if let Some(trail) = &mut this.held.trail {
            match &next {
                Some(Ok(piece)) => {
                    trail.piece(piece);
                    // Of an answer of a known length nobody asks for what follows its last piece.
                    if matches!(&this.kind, Kind::Stream(s) if s.reply.remaining() == Some(0)) {
                        trail.ended(None);
                    }
                }
                Some(Err(StreamError::Cut)) => trail.ended(Some(AuditOutcome::Cut)),
                Some(Err(StreamError::Wire(_))) => trail.ended(Some(AuditOutcome::Broken)),
                None => trail.ended(None),
            }
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
        if self.ends.expiry.as_mut().is_some_and(expired) || Pin::new(&mut self.ends.cut).poll(cx).is_ready() {
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
        self.progress.note(now);
        next
    }
}

/// How long until then, in Unix seconds.
pub(super) fn until(unix: i64) -> Duration {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or(0));
    end.duration_since(SystemTime::now()).unwrap_or_default()
}
