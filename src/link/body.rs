//! An answer's body as it comes from the agent. Holds at most one read's worth; gives the connection back to its pool
//! when the body has ended, and closes it in every other case.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::time::Sleep;

use super::{
    pace::{FREE, SMALL},
    pool::{Conn, Pool},
    wire::{Decoded, Decoder, Framing, WireError},
};

/// The body of a [`super::Reply`].
#[derive(Debug)]
pub struct ReplyBody {
    conn: Option<Conn>,
    decoder: Decoder,
    reusable: bool,
    /// Decoded and not handed out.
    ready: Option<Bytes>,
    /// What comes after it.
    broken: Option<WireError>,
    /// Reads that brought little, so far.
    small: u32,
    /// Before the next read.
    wait: Option<Pin<Box<Sleep>>>,
    pool: Option<Arc<Pool>>,
}

/// Why decoding stopped.
enum Stop {
    Need,
    End,
    Broken(WireError),
}

/// All of the body that has arrived, in one piece: what a server cut up small goes on whole.
fn arrived(decoder: &mut Decoder, buf: &mut BytesMut) -> (Option<Bytes>, Stop) {
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    let stop = loop {
        match decoder.decode(buf) {
            Ok(Decoded::Data(data)) if first.is_none() => first = Some(data),
            Ok(Decoded::Data(data)) => {
                if let Some(first) = first.as_ref().filter(|_| all.is_empty()) {
                    all.reserve(first.len() + data.len() + buf.len());
                    all.extend_from_slice(first);
                }
                all.extend_from_slice(&data);
            }
            Ok(Decoded::Need) => break Stop::Need,
            Ok(Decoded::End) => break Stop::End,
            Err(e) => break Stop::Broken(e),
        }
    };
    (if all.is_empty() { first } else { Some(all.freeze()) }, stop)
}

impl ReplyBody {
    pub(super) fn empty() -> ReplyBody {
        ReplyBody {
            conn: None,
            decoder: Decoder::new(Framing::Length(0)),
            reusable: false,
            ready: None,
            broken: None,
            small: 0,
            wait: None,
            pool: None,
        }
    }

    pub(super) fn new(conn: Conn, framing: Framing, reusable: bool, pool: Arc<Pool>) -> ReplyBody {
        ReplyBody {
            conn: Some(conn),
            decoder: Decoder::new(framing),
            reusable,
            ready: None,
            broken: None,
            small: 0,
            wait: None,
            pool: Some(pool),
        }
    }

    /// The whole body, if all of it has arrived already: it can then leave in one write with its head.
    ///
    /// # Errors
    /// [`WireError`] when what arrived is malformed.
    pub fn whole(&mut self) -> Result<Option<Bytes>, WireError> {
        let Some(conn) = self.conn.as_mut() else {
            return Ok(Some(Bytes::new()));
        };
        let (got, stop) = arrived(&mut self.decoder, &mut conn.buf);
        match stop {
            Stop::End => {
                self.release();
                Ok(Some(got.unwrap_or_default()))
            }
            Stop::Need => {
                self.ready = got;
                Ok(None)
            }
            Stop::Broken(e) => {
                self.conn = None;
                Err(e)
            }
        }
    }

    /// What is still to come, where the agent said so.
    pub fn remaining(&self) -> Option<u64> {
        let ready = self.ready.as_ref().map_or(0, |b| b.len() as u64);
        self.decoder.remaining().map(|n| n + ready)
    }

    /// The next piece; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, WireError>>> {
        if let Some(data) = self.ready.take() {
            return Poll::Ready(Some(Ok(data)));
        }
        if let Some(e) = self.broken.take() {
            return self.fail(e);
        }
        loop {
            let Some(conn) = self.conn.as_mut() else {
                return Poll::Ready(None);
            };
            let (got, stop) = arrived(&mut self.decoder, &mut conn.buf);
            match stop {
                Stop::Need => {}
                Stop::End => {
                    self.release();
                    return Poll::Ready(got.map(Ok));
                }
                Stop::Broken(e) if got.is_none() => return self.fail(e),
                Stop::Broken(e) => self.broken = Some(e),
            }
            if let Some(data) = got {
                return Poll::Ready(Some(Ok(data)));
            }
            match ready!(self.poll_fill(cx)) {
                Ok(n) if n > 0 => {}
                Ok(_) if self.decoder.ends_with_connection() => {
                    self.conn = None;
                    return Poll::Ready(None);
                }
                Ok(_) | Err(_) => return self.fail(WireError::Early),
            }
        }
    }

    /// Reads more, no sooner than the instance's pace allows; 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(conn) = self.conn.as_mut() else {
            return Poll::Ready(Ok(0));
        };
        if let Some(wait) = self.wait.as_mut() {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        let n = ready!(conn.poll_fill(cx))?;
        if n < SMALL {
            self.small = self.small.saturating_add(1);
            if self.small > FREE {
                let wait = self.pool.as_ref().and_then(|p| p.pace.count());
                self.wait = wait.map(|time| Box::pin(tokio::time::sleep(time)));
            }
        }
        Poll::Ready(Ok(n))
    }

    fn fail(&mut self, e: WireError) -> Poll<Option<Result<Bytes, WireError>>> {
        self.conn = None;
        Poll::Ready(Some(Err(e)))
    }

    fn release(&mut self) {
        if let (Some(conn), Some(pool), true) = (self.conn.take(), &self.pool, self.reusable) {
            pool.put(conn);
        }
    }
}
