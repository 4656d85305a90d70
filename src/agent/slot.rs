//! The meeting point of one HTTP exchange and whoever answers it: a head, then bytes, bounded, without locks.
//!
//! A reader that does not drain loses its stream, never anybody's memory.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::budget::{Budget, Charge};
use crate::translator;

/// Bytes and pieces that may wait for a reader, while the budget has room.
const MAX_WAITING: (usize, usize) = (1024 * 1024, 1024);

/// Status and headers of an answer, and its body when that is known already.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// `None`: a stream follows.
    pub(super) body: Option<Bytes>,
}

#[derive(Debug, Default)]
struct State {
    head: Option<Head>,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// What of the budget the queue holds.
    charge: Option<Charge>,
    ended: bool,
    waker: Option<Waker>,
}

/// One exchange.
#[derive(Debug, Default)]
pub(super) struct Slot {
    state: RefCell<State>,
    /// Where there is none, nothing is counted.
    budget: Option<Budget>,
    /// The reader is gone.
    pub(super) dead: Cell<bool>,
}

impl Slot {
    /// An exchange whose waiting bytes count.
    pub(super) fn counted(budget: Budget) -> Self {
        Self {
            budget: Some(budget),
            ..Self::default()
        }
    }

    /// Gives the head.
    pub(super) fn head(&self, head: Head) {
        let mut s = self.state.borrow_mut();
        s.head = Some(head);
        wake(&mut s);
    }

    /// Gives bytes of the stream; `false` when the reader has fallen too far behind, which ends the stream.
    pub(super) fn send(&self, bytes: Bytes) -> bool {
        let mut s = self.state.borrow_mut();
        if s.ended {
            return false;
        }
        let spent = || self.budget.as_ref().is_some_and(Budget::is_spent);
        let full = !s.queue.is_empty()
            && (s.queued + bytes.len() > MAX_WAITING.0 || s.queue.len() >= MAX_WAITING.1 || spent());
        if full {
            s.queue.clear();
            s.charge = None;
            s.ended = true;
        } else {
            s.queued += bytes.len();
            if let Some(budget) = &self.budget {
                s.charge.get_or_insert_with(|| budget.force(0)).add(bytes.len());
            }
            s.queue.push_back(bytes);
        }
        wake(&mut s);
        !full
    }

    /// Ends the stream.
    pub(super) fn end(&self) {
        let mut s = self.state.borrow_mut();
        s.ended = true;
        wake(&mut s);
    }

    /// Waits for the head.
    pub(super) async fn wait_head(&self) -> Head {
        std::future::poll_fn(|cx| {
            let mut s = self.state.borrow_mut();
            match s.head.take() {
                Some(head) => Poll::Ready(head),
                None => {
                    s.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut s = self.state.borrow_mut();
        if let Some(bytes) = s.queue.pop_front() {
            s.queued -= bytes.len();
            if let Some(charge) = &mut s.charge {
                charge.shrink(bytes.len());
            }
            return Poll::Ready(Some(bytes));
        }
        if s.ended {
            return Poll::Ready(None);
        }
        s.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn wake(s: &mut State) {
    if let Some(waker) = s.waker.take() {
        waker.wake();
    }
}

/// Runs something when it is dropped: the exchange's end.
pub(super) struct OnDrop<F: FnOnce()>(pub(super) Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// Keeps something until the answer has been sent.
pub(super) type Keep = Box<dyn std::any::Any>;

/// The body of every answer of the agent.
pub(super) enum Body {
    Full(Option<Bytes>),
    Stream(Rc<Slot>, #[allow(dead_code, reason = "dropped with the body")] Keep),
    Proxied(Incoming),
    Translated(translator::Body),
}

/// A body and the mark that its connection is in use, which goes with it.
pub(super) struct Marked(
    pub(super) Body,
    #[allow(dead_code, reason = "dropped with the body")] pub(super) Keep,
);

impl http_body::Body for Marked {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut self.get_mut().0 {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::Stream(slot, _) => slot.poll(cx).map(|b| b.map(|b| Ok(Frame::data(b)))),
            Body::Proxied(incoming) => Pin::new(incoming).poll_frame(cx).map_err(std::io::Error::other),
            Body::Translated(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Body::Full(bytes) => bytes.is_none(),
            Body::Stream(..) => false,
            Body::Proxied(incoming) => incoming.is_end_stream(),
            Body::Translated(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Body::Stream(..) => SizeHint::default(),
            Body::Proxied(incoming) => incoming.size_hint(),
            Body::Translated(body) => body.size_hint(),
        }
    }
}

/// What a service returns to hyper: it never fails.
pub(super) type Served = Result<http::Response<Marked>, Infallible>;
