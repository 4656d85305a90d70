//! What clients send: counted against the limit, timed piece by piece, and read out within bounds when nobody wants the
//! rest. Nothing here collects a body, but for small requests, which leave in one write and may be sent again.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    conn::{Busy, Client},
    service::{BodyError, Sent},
};
use crate::{
    link::{BodySource, Payload},
    mcp::glance::Glance,
};

/// A body that comes slower than this on the whole, in bytes a second, is not waited for.
const SLOWEST: u64 = 16 * 1024;
/// How long a refused request's body is read at most.
const DISCARD: Duration = Duration::from_secs(1);
/// A request body up to this size is read before a connection to the agent is taken.
const SMALL: usize = 64 * 1024;

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
    /// Looks at what passes.
    glance: Option<Arc<Mutex<Glance>>>,
    left: u64,
    pause: Duration,
    /// When it must have come whole.
    deadline: Instant,
}

/// What becomes of a body that comes while it is answered.
pub(super) struct Streamed {
    what: Arc<OnceLock<BodyError>>,
    /// When it has come whole, or broken off.
    pub(super) ends_by: Instant,
}

impl Streamed {
    /// What went wrong with it, as far as it was read.
    pub(super) fn broken(&self) -> Option<BodyError> {
        self.what.get().copied()
    }
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

/// How long a body of so many bytes may take, whose pieces come within `pause` each.
fn time_for(bytes: u64, pause: Duration) -> Duration {
    pause * 4 + Duration::from_secs(bytes / SLOWEST)
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
            self.passes(&first);
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
                self.passes(&data);
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
            glance: None,
            left: 0,
            pause: DISCARD,
            deadline: Instant::now() + DISCARD,
        }
    }

    /// Each piece is looked at as it passes.
    pub(super) fn watched_by(&mut self, glance: Arc<Mutex<Glance>>) {
        self.glance = Some(glance);
    }

    fn passes(&self, piece: &[u8]) {
        if let Some(glance) = &self.glance {
            glance.lock().unwrap_or_else(PoisonError::into_inner).read(piece);
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
        self.deadline = Instant::now() + time_for(length.unwrap_or(limit), pause);
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

    /// A body for what the box answers itself, of at most `limit` bytes; `pause` is the longest wait for a piece of it. A
    /// small one is whole, and a longer one gives its end and says by [`Streamed`] what went wrong with it.
    pub(super) async fn for_the_box(self, limit: u64, pause: Duration) -> Result<(Sent, Option<Streamed>), BodyError> {
        let (source, length) = match self.payload(true, limit, pause).await? {
            Payload::None => return Ok((Sent::whole(Bytes::new()), None)),
            Payload::Whole(bytes) => return Ok((Sent::whole(bytes), None)),
            Payload::Stream { source, length } => (source, length),
        };
        let streamed = Streamed {
            what: Arc::default(),
            ends_by: source.deadline,
        };
        let what = Arc::clone(&streamed.what);
        let pieces = futures_util::stream::unfold(Some((source, what)), |rest| async move {
            let (mut source, what) = rest?;
            let piece = source.next().await?;
            if let Err(e) = piece {
                let _ = what.set(e);
                return Some((Err(e), None));
            }
            Some((piece, Some((source, what))))
        });
        Ok((Sent::stream(Box::pin(pieces), length), Some(streamed)))
    }

    /// Takes a request's body as far as it is small; `limit` in bytes, `pause` the longest wait for a piece of it.
    pub(super) async fn payload(
        mut self,
        has_body_by_method: bool,
        limit: u64,
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
        self.bound(limit, pause)?;
        if length.is_some_and(|n| n > SMALL as u64) {
            return Ok(Payload::Stream { source: self, length });
        }
        // Until it is known to be long it has no more time than a small one.
        let whole = self.deadline;
        self.deadline = whole.min(Instant::now() + time_for(SMALL as u64, pause));
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
                (self.first, self.deadline) = (Some(all.freeze()), whole);
                return Ok(Payload::Stream { source: self, length });
            }
        }
        Ok(Payload::Whole(all.freeze()))
    }
}
