//! The body of an answer: whole, or a stream that is bounded.
//!
//! A reader that does not keep up loses its stream, never anybody's memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::budget::{Budget, Charge};

/// Bytes and pieces that may wait for a reader, while the budget has room.
const MAX_WAITING: (usize, usize) = (1024 * 1024, 1024);

/// Keeps something until the answer has been sent.
pub(super) type Keep = Box<dyn std::any::Any + Send + Sync>;

/// The body of an answer.
pub struct Body(Kind);

enum Kind {
    Full(Option<Bytes>),
    Stream(
        mpsc::Receiver<Bytes>,
        Waiting,
        #[allow(dead_code, reason = "dropped with the body")] Keep,
    ),
}

/// What waits in a stream, counted.
#[derive(Clone)]
struct Waiting(Arc<Mutex<(usize, Charge)>>);

impl Waiting {
    fn count(&self) -> std::sync::MutexGuard<'_, (usize, Charge)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing end of a stream.
pub(super) struct Writer {
    pieces: mpsc::Sender<Bytes>,
    waiting: Waiting,
    budget: Budget,
}

impl Writer {
    /// Gives bytes; `false` when the reader is gone or too far behind, which ends the stream.
    pub(super) fn send(&self, bytes: Bytes) -> bool {
        {
            let mut waiting = self.waiting.count();
            let full = waiting.0 > 0 && (waiting.0 + bytes.len() > MAX_WAITING.0 || self.budget.is_spent());
            if full {
                return false;
            }
            waiting.0 += bytes.len();
            waiting.1.add(bytes.len());
        }
        self.pieces.try_send(bytes).is_ok()
    }
}

/// A stream's two ends.
pub(super) fn stream(budget: &Budget) -> (Writer, impl FnOnce(Keep) -> Body + Send + use<>) {
    let (pieces, read) = mpsc::channel(MAX_WAITING.1);
    let waiting = Waiting(Arc::new(Mutex::new((0, budget.force(0)))));
    let writer = Writer {
        pieces,
        waiting: waiting.clone(),
        budget: budget.clone(),
    };
    (writer, move |keep| Body(Kind::Stream(read, waiting, keep)))
}

impl Body {
    /// A whole body.
    pub(super) fn full(bytes: Bytes) -> Self {
        Self(Kind::Full((!bytes.is_empty()).then_some(bytes)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Stream(pieces, waiting, _) => pieces.poll_recv(cx).map(|piece| {
                let piece = piece?;
                let mut waiting = waiting.count();
                waiting.0 = waiting.0.saturating_sub(piece.len());
                waiting.1.shrink(piece.len());
                Some(Ok(Frame::data(piece)))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.0, Kind::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Stream(..) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_lags_loses_its_stream() {
        let budget = Budget::of_bytes(4 << 20);
        let (writer, body) = stream(&budget);
        let body = body(Box::new(()));
        let piece = Bytes::from(vec![0; 600 * 1024]);
        assert!(writer.send(piece.clone()));
        assert!(!writer.send(piece.clone()), "over what may wait");
        drop((writer, body));
        assert!(budget.take(4 << 20).is_some(), "nothing is counted any more");
        let (writer, body) = stream(&Budget::of_bytes(1));
        assert!(writer.send(piece), "what is read at once may be of any length");
        drop(body);
        assert!(!writer.send(Bytes::new()), "nobody reads");
    }
}
