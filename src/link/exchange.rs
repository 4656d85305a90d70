//! One request on one connection, in the caller's own task: head and small body leave in one write, the answer's head
//! is parsed in place. Dropping the future closes the connection, which is how the agent learns of a cancelled call.
//!
//! A request is sent again only if the agent cannot have seen it: nothing was written, or the agent closed the
//! connection while all of it (at most [`UNREAD`] bytes, which the first read would have taken) still stood unread in
//! the socket, which Linux reports as ECONNRESET on a Unix socket.

use std::{future::Future, io, pin::pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::{
    net::UnixStream,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Link,
    body::ReplyBody,
    pace::{FREE, Pace, SMALL},
    pool::{Conn, TakeError},
    wire::{self, Heads, Outgoing, ReplyHead, WireError},
};

/// How long a request waits for a connection.
const WAIT: Duration = Duration::from_secs(5);
/// Connections that one request may find dead: the whole pool of an agent that died, and no more.
const MAX_DEAD: usize = 600;
/// How long a head may take from its first byte to its last.
const HEAD: Duration = Duration::from_secs(10);
/// See the module's text.
const UNREAD: usize = 4096;

/// A request towards the agent.
pub struct Request<'a> {
    pub method: &'a Method,
    /// Origin-form: path and query.
    pub target: &'a str,
    pub headers: &'a HeaderMap,
    /// Fields of `headers` that stay behind, besides hop-by-hop ones, `Host` and `Content-Length`.
    pub skip: &'a (dyn Fn(&HeaderName) -> bool + Sync),
    /// The protocol to switch to.
    pub upgrade: Option<&'a HeaderValue>,
}

/// A request's body.
pub enum Payload<S> {
    None,
    /// In memory: may be sent again.
    Whole(Bytes),
    /// As it comes; chunked where the length is not known.
    Stream {
        source: S,
        length: Option<u64>,
    },
}

/// Where a streamed body comes from; whoever implements it bounds size and time.
pub trait BodySource: Send {
    type Error: Send;
    /// The next piece; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<Result<Bytes, Self::Error>>> + Send;
}

/// For requests that stream nothing.
#[derive(Debug)]
pub enum NoBody {}

impl BodySource for NoBody {
    type Error = std::convert::Infallible;
    async fn next(&mut self) -> Option<Result<Bytes, Self::Error>> {
        match *self {}
    }
}

/// An answer.
pub struct Reply {
    pub status: StatusCode,
    /// Without hop-by-hop fields.
    pub headers: HeaderMap,
    pub body: ReplyBody,
    /// With status 101.
    pub switched: Option<Switched>,
}

/// A connection that speaks another protocol now.
pub struct Switched {
    pub stream: UnixStream,
    /// Bytes of the new protocol that came with the head.
    pub early: Bytes,
    /// For whoever reads it on.
    pub pace: Arc<Pace>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError<E> {
    #[error("all connections to the instance are busy")]
    Busy,
    #[error("the link is closed")]
    Closed,
    #[error("the connection to the instance was lost: {0}")]
    Lost(io::Error),
    #[error("the instance did not answer in time")]
    Timeout,
    #[error("the instance sent no valid HTTP: {0}")]
    Wire(#[from] WireError),
    /// The request's body could not be had.
    #[error("the request's body ended in an error")]
    Body(E),
}

enum Failed<E> {
    /// The agent cannot have seen it.
    Unseen(io::Error),
    For(CallError<E>),
}

impl<E> From<WireError> for Failed<E> {
    fn from(e: WireError) -> Self {
        Failed::For(e.into())
    }
}

impl Link {
    /// Sends a request and waits for the head of its answer.
    ///
    /// `first_byte` bounds the time from the complete request to that head, and each stall in sending.
    ///
    /// # Errors
    /// [`CallError`]; the connection is closed then.
    pub async fn call<S: BodySource>(
        self: &Arc<Self>,
        request: &Request<'_>,
        mut payload: Payload<S>,
        first_byte: Duration,
    ) -> Result<Reply, CallError<S::Error>> {
        let own = request.target.starts_with("/.berth/");
        if !own && self.pool.is_full() {
            return Err(CallError::Busy);
        }
        let (mut resets, mut dead) = (0, 0);
        let out = first_write(request, &payload);
        loop {
            let mut conn = self.pool.take(WAIT).await.map_err(|e| match e {
                TakeError::Busy => CallError::Busy,
                TakeError::Closed => CallError::Closed,
            })?;
            match attempt(&mut conn, request, &out, &mut payload, first_byte, &self.pool.pace).await {
                Ok((head, early)) => return Ok(self.reply(conn, head, early)),
                Err(Failed::For(e)) => return Err(e),
                Err(Failed::Unseen(e)) => {
                    dead += 1;
                    resets += usize::from(e.kind() == io::ErrorKind::ConnectionReset);
                    if resets > 1 || dead > MAX_DEAD {
                        return Err(CallError::Lost(e));
                    }
                }
            }
        }
    }

    fn reply(&self, conn: Conn, head: ReplyHead, early: bool) -> Reply {
        let (status, headers) = (head.status, head.headers);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            let (stream, buf) = conn.into_parts();
            let switched = Some(Switched {
                stream,
                early: buf.freeze(),
                pace: Arc::clone(&self.pool.pace),
            });
            let body = ReplyBody::empty();
            return Reply {
                status,
                headers,
                body,
                switched,
            };
        }
        let body = ReplyBody::new(conn, head.framing, head.reusable && !early, Arc::clone(&self.pool));
        Reply {
            status,
            headers,
            body,
            switched: None,
        }
    }
}

/// The head, and the body too where it is in memory.
fn first_write<S>(request: &Request<'_>, payload: &Payload<S>) -> BytesMut {
    let (framing, body): (_, &[u8]) = match payload {
        Payload::None => (Outgoing::None, b""),
        Payload::Whole(body) => (Outgoing::Length(body.len() as u64), body),
        Payload::Stream { length: Some(n), .. } => (Outgoing::Length(*n), b""),
        Payload::Stream { length: None, .. } => (Outgoing::Chunked, b""),
    };
    let mut out = BytesMut::with_capacity(1024 + body.len());
    wire::put_head(
        &mut out,
        request.method,
        request.target,
        request.headers,
        request.skip,
        framing,
        request.upgrade,
    );
    out.extend_from_slice(body);
    out
}

/// The answer's head, and whether it came before the request's body was through.
async fn attempt<S: BodySource>(
    conn: &mut Conn,
    request: &Request<'_>,
    out: &[u8],
    payload: &mut Payload<S>,
    first_byte: Duration,
    pace: &Pace,
) -> Result<(ReplyHead, bool), Failed<S::Error>> {
    match timeout_send(conn, out, first_byte).await {
        Ok(()) => {}
        Err((0, e)) if e.kind() != io::ErrorKind::TimedOut => return Err(Failed::Unseen(e)),
        // The agent may answer (413, say) without reading the rest.
        Err((_, e)) => return Err(send_failed(e)),
    }
    let mut replayable = out.len() <= UNREAD;
    if let Payload::Stream { source, length } = payload {
        replayable = false;
        if let Some(head) = pump(conn, request, source, length.is_none(), first_byte, pace).await? {
            return Ok((head, true));
        }
    }
    let head = timeout(first_byte, read_head(conn, request, replayable, pace)).await;
    head.unwrap_or(Err(Failed::For(CallError::Timeout)))
        .map(|head| (head, false))
}

async fn timeout_send(conn: &mut Conn, bytes: &[u8], limit: Duration) -> Result<(), (usize, io::Error)> {
    // Almost always the socket takes it at once: no timer then.
    match conn.stream.try_write(bytes) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(n) => {
            let rest = timeout(limit, conn.send(&bytes[n..])).await;
            rest.unwrap_or_else(|_| Err((0, io::ErrorKind::TimedOut.into())))
                .map_err(|(m, e)| (n + m, e))
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            let all = timeout(limit, conn.send(bytes)).await;
            all.unwrap_or_else(|_| Err((0, io::ErrorKind::TimedOut.into())))
        }
        Err(e) => Err((0, e)),
    }
}

fn send_failed<E>(e: io::Error) -> Failed<E> {
    Failed::For(if e.kind() == io::ErrorKind::TimedOut {
        CallError::Timeout
    } else {
        CallError::Lost(e)
    })
}

async fn read_head<E>(
    conn: &mut Conn,
    request: &Request<'_>,
    replayable: bool,
    pace: &Pace,
) -> Result<ReplyHead, Failed<E>> {
    let mut heads = Heads::default();
    // Almost always the first read brings all of it: no timer then.
    let mut until = None;
    let mut reads = 0;
    loop {
        let filled = match until {
            None => conn.fill().await,
            Some(until) => timeout_at(until, conn.fill())
                .await
                .map_err(|_| Failed::For(CallError::Timeout))?,
        };
        let n = match filled {
            Ok(0) => return Err(Failed::For(CallError::Lost(io::ErrorKind::UnexpectedEof.into()))),
            Ok(n) => n,
            Err(e) if replayable && conn.buf.is_empty() && e.kind() == io::ErrorKind::ConnectionReset => {
                return Err(Failed::Unseen(e));
            }
            Err(e) => return Err(Failed::For(CallError::Lost(e))),
        };
        if let Some(head) = heads.take(&mut conn.buf, request.method, request.upgrade.is_some())? {
            return Ok(head);
        }
        // After an interim response the final one may take its time.
        until = (!conn.buf.is_empty()).then(|| until.unwrap_or_else(|| Instant::now() + HEAD));
        reads += 1;
        if n < SMALL && reads > FREE {
            wait(pace).await;
        }
    }
}

async fn wait(pace: &Pace) {
    if let Some(time) = pace.count() {
        tokio::time::sleep(time).await;
    }
}

/// Sends a streamed body; `Some` when the answer came first, and the rest of the body is not wanted.
async fn pump<S: BodySource>(
    conn: &mut Conn,
    request: &Request<'_>,
    source: &mut S,
    chunked: bool,
    limit: Duration,
    pace: &Pace,
) -> Result<Option<ReplyHead>, Failed<S::Error>> {
    let mut framed = BytesMut::new();
    let mut heads = Heads::default();
    loop {
        let piece = {
            let mut next = pin!(source.next());
            loop {
                tokio::select! {
                    biased;
                    piece = &mut next => break piece,
                    n = conn.fill() => match n {
                        Ok(0) => return Err(Failed::For(CallError::Lost(io::ErrorKind::UnexpectedEof.into()))),
                        Ok(_) => {
                            if let Some(head) = heads.take(&mut conn.buf, request.method, false)? {
                                return Ok(Some(head));
                            }
                        }
                        Err(e) => return Err(Failed::For(CallError::Lost(e))),
                    },
                }
            }
        };
        let ended = piece.is_none();
        let sent = match piece {
            None if chunked => timeout_send(conn, wire::LAST_CHUNK, limit).await,
            None => return Ok(None),
            Some(Err(e)) => return Err(Failed::For(CallError::Body(e))),
            Some(Ok(piece)) if chunked => {
                framed.clear();
                wire::put_chunk(&mut framed, &piece);
                timeout_send(conn, &framed, limit).await
            }
            Some(Ok(piece)) => timeout_send(conn, &piece, limit).await,
        };
        match sent {
            Ok(()) if ended => return Ok(None),
            Ok(()) => {}
            Err((_, e)) => {
                // It closed its reading side: perhaps after an answer.
                let head = timeout(
                    Duration::from_secs(1),
                    read_head::<S::Error>(conn, request, false, pace),
                )
                .await;
                return match head {
                    Ok(Ok(head)) => Ok(Some(head)),
                    _ => Err(send_failed(e)),
                };
            }
        }
    }
}
