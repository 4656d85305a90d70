//! An answer's body as it comes from the agent. Holds at most one read's worth; gives the connection back to its pool
//! when the body has ended, and closes it in every other case.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};

use super::{
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
    pool: Option<Arc<Pool>>,
}

impl ReplyBody {
    pub(super) fn empty() -> ReplyBody {
        ReplyBody {
            conn: None,
            decoder: Decoder::new(Framing::Length(0)),
            reusable: false,
            ready: None,
            pool: None,
        }
    }

    pub(super) fn new(conn: Conn, framing: Framing, reusable: bool, pool: Arc<Pool>) -> ReplyBody {
        ReplyBody {
            conn: Some(conn),
            decoder: Decoder::new(framing),
            reusable,
            ready: None,
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
        let mut got: Option<Bytes> = None;
        let ended = loop {
            match self.decoder.decode(&mut conn.buf) {
                Ok(Decoded::Data(data)) => {
                    got = Some(match got {
                        None => data,
                        Some(before) => {
                            let mut both = BytesMut::from(before);
                            both.extend_from_slice(&data);
                            both.freeze()
                        }
                    });
                }
                Ok(Decoded::Need) => break false,
                Ok(Decoded::End) => break true,
                Err(e) => {
                    self.conn = None;
                    return Err(e);
                }
            }
        };
        if ended {
            self.release();
            return Ok(Some(got.unwrap_or_default()));
        }
        self.ready = got;
        Ok(None)
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
        loop {
            let Some(conn) = self.conn.as_mut() else {
                return Poll::Ready(None);
            };
            match self.decoder.decode(&mut conn.buf) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::End) => {
                    self.release();
                    return Poll::Ready(None);
                }
                Ok(Decoded::Need) => {}
                Err(e) => return self.fail(e),
            }
            match ready!(conn.poll_fill(cx)) {
                Ok(n) if n > 0 => {}
                Ok(_) if self.decoder.ends_with_connection() => {
                    self.conn = None;
                    return Poll::Ready(None);
                }
                Ok(_) | Err(_) => return self.fail(WireError::Early),
            }
        }
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
