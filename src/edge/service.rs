//! What the box serves of its own, besides instances: the console, claiming, and the admin API for members. The edge
//! guards these doors (hosts, `Origin`, tokens, limits, time) and knows nothing of what is behind: a [`BoxService`] answers,
//! which the assembly hands over.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;

use crate::{door::Door, model::Principal, session::Session};

/// An answer's body.
pub type OwnBody = BoxBody<Bytes, Infallible>;

/// A request at one of the box's own doors.
#[derive(Debug)]
pub struct OwnRequest {
    pub door: Door,
    /// The host, and the port where it was named, that the client used.
    pub authority: String,
    pub by: Principal,
    /// The session that was shown.
    pub session: Option<Session>,
    pub request: Request<Sent>,
}

/// Why a client's body could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body is too large")]
    TooLarge,
    #[error("the body did not come in time")]
    TooSlow,
    #[error("the body broke off")]
    Broken,
}

/// What a client sends, within its door's bounds: small bodies whole, longer ones as they come. What breaks a bound ends it
/// with an error; the client is told by the edge then, whatever the answer is.
pub struct Sent(Kind);

enum Kind {
    Whole(Option<Bytes>),
    Stream(BoxStream<'static, Result<Bytes, BodyError>>, Option<u64>),
}

impl Sent {
    /// A body that has come.
    pub fn whole(bytes: Bytes) -> Sent {
        Sent(Kind::Whole(Some(bytes).filter(|b| !b.is_empty())))
    }

    /// A body as it comes; its length in bytes, where that is known.
    pub(super) fn stream(pieces: BoxStream<'static, Result<Bytes, BodyError>>, length: Option<u64>) -> Sent {
        Sent(Kind::Stream(pieces, length))
    }
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sent")
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let piece = match &mut self.get_mut().0 {
            Kind::Whole(bytes) => bytes.take().map(Ok),
            Kind::Stream(pieces, left) => {
                let piece = ready!(pieces.as_mut().poll_next(cx));
                if let (Some(left), Some(Ok(piece))) = (left, &piece) {
                    *left = left.saturating_sub(piece.len() as u64);
                }
                piece
            }
        };
        Poll::Ready(piece.map(|p| p.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Stream(_, left) => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// What is behind the doors.
pub trait BoxService: Send + Sync + 'static {
    /// Whether the box serves nothing yet but claiming, and the pages for it.
    fn locked(&self) -> bool;
    /// Answers. 401 means that a claim was wrong, and counts against the client's address.
    fn answer<'a>(&'a self, asked: OwnRequest) -> BoxFuture<'a, Response<OwnBody>>;
}
