//! Protocol switches (RFC 9110, section 7.8), WebSocket first of all: after the 101 the bytes are carried both ways as
//! they come, between the supervisor's connection and a stream in the container.
//!
//! Never carries more connections at once than [`MANY`], and never waits longer than [`STALL`] for a side that takes
//! nothing. How long a connection may be silent is for the edge and the service to say.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Switched connections at once.
const MANY: usize = 128;
/// A side that takes nothing for this long ends the connection.
const STALL: Duration = Duration::from_secs(60);
/// What is read at once.
const PIECE: usize = 16 * 1024;

/// Counts the switched connections.
#[derive(Debug, Default)]
pub(super) struct Switches(Rc<Cell<usize>>);

/// The right to one switched connection.
#[derive(Debug)]
pub(super) struct Permit(Rc<Cell<usize>>);

impl Switches {
    /// `None`: there are as many as there may be.
    pub(super) fn enter(&self) -> Option<Permit> {
        let open = self.0.get();
        (open < MANY).then(|| {
            self.0.set(open + 1);
            Permit(Rc::clone(&self.0))
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The protocol that a message's headers offer to switch to (or say was switched to).
pub(super) fn offered(headers: &HeaderMap) -> Option<HeaderValue> {
    let lines = headers.get_all(CONNECTION).iter();
    let named = lines
        .flat_map(|l| l.as_bytes().split(|b| *b == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    headers.get(UPGRADE).filter(|_| named).cloned()
}

/// Says in a message's headers that it is about a switch.
pub(super) fn offer(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}

/// Carries bytes between the supervisor's connection and another that switched too, until both directions have ended.
pub(super) async fn between(supervisor: OnUpgrade, service: OnUpgrade, permit: Permit) {
    if let Ok(Ok(inner)) = timeout(STALL, service).await {
        carry(supervisor, TokioIo::new(inner), permit).await;
    }
}

/// Carries bytes between the supervisor's connection, once it has switched, and a stream in the container.
pub(super) async fn carry(supervisor: OnUpgrade, inner: impl AsyncRead + AsyncWrite, permit: Permit) {
    let Ok(Ok(outer)) = timeout(STALL, supervisor).await else {
        return;
    };
    let (mut from_outer, mut to_outer) = tokio::io::split(TokioIo::new(outer));
    let (mut from_inner, mut to_inner) = tokio::io::split(inner);
    // Half-closed is not closed: the other direction goes on until it ends by itself. An error ends both.
    let _ = tokio::try_join!(
        copy(&mut from_outer, &mut to_inner),
        copy(&mut from_inner, &mut to_outer)
    );
    drop(permit);
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let n = from.read(&mut piece).await?;
        let step = async {
            if n == 0 {
                return to.shutdown().await;
            }
            to.write_all(&piece[..n]).await?;
            to.flush().await
        };
        timeout(STALL, step)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if n == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert_eq!(offered(&headers), None);
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert_eq!(offered(&headers), Some(HeaderValue::from_static("websocket")));
        headers.remove(UPGRADE);
        assert_eq!(offered(&headers), None);
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let switches = Switches::default();
        let mut held: Vec<Permit> = (0..MANY).map_while(|_| switches.enter()).collect();
        assert_eq!(held.len(), MANY);
        assert!(switches.enter().is_none());
        held.pop();
        assert!(switches.enter().is_some());
    }
}
