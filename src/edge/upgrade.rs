//! Protocol switches (RFC 9110 section 7.8), of which WebSocket is the one that matters: after the 101 the bytes are
//! carried both ways as they come. HTTP/1.1 only. Ends with either side, with the token, when nothing moves for long, and
//! when the edge drains.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Version, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{body::Ends, conn::Client, trail::Trail};
use crate::{
    link::{
        Switched,
        pace::{Pace, SMALL},
    },
    model::AuditOutcome,
};

/// A side that takes nothing for this long ends it.
const STALL: Duration = Duration::from_secs(60);
/// How often within the idle limit it is looked whether anything moved.
const IDLE_LOOKS: u32 = 4;

/// Whether the request asks for another protocol than HTTP/2.
pub(super) fn asked(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    let lines = headers.get_all(header::CONNECTION).iter();
    request.version() == Version::HTTP_11
        && headers
            .get(header::UPGRADE)
            .is_some_and(|u| !u.as_bytes().starts_with(b"h2"))
        && lines
            .flat_map(|l| l.as_bytes().split(|b| *b == b','))
            .any(|o| o.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

/// Carries bytes until something ends.
pub(super) async fn relay(
    client: Arc<Client>,
    upgraded: OnUpgrade,
    switched: Switched,
    with: (Ends, Option<Box<Trail>>),
) {
    let (mut ends, mut trail) = with;
    let _busy = client.begin();
    let edge = &client.permit.edge;
    let drain = edge.drain.fired();
    let evicted = client.permit.pulse.end();
    let gives_way = evicted.fired();
    if edge.drain.is_cut() || evicted.is_cut() {
        if let Some(trail) = &mut trail {
            trail.ended(Some(AuditOutcome::Cut));
        }
        return;
    }
    let idle_limit = edge.config.limits.upgraded_idle_timeout;
    let moved = Moved::default();
    let expiry = async {
        match ends.expiry.as_mut() {
            Some(sleep) => sleep.await,
            None => std::future::pending().await,
        }
    };
    let over = tokio::select! {
        () = carry(upgraded, switched, &moved) => AuditOutcome::Ok,
        () = idle(&moved, idle_limit) => AuditOutcome::Ok,
        () = gives_way => AuditOutcome::Cut,
        () = &mut ends.cut => AuditOutcome::Cut,
        () = expiry => AuditOutcome::Cut,
        () = drain => AuditOutcome::Ok,
    };
    if let Some(trail) = &mut trail {
        trail.carried((moved.up.load(Relaxed), moved.down.load(Relaxed)));
        trail.ended(Some(over));
    }
}

/// Bytes that were carried, from the client and to it.
#[derive(Debug, Default)]
struct Moved {
    up: AtomicU64,
    down: AtomicU64,
}

impl Moved {
    fn all(&self) -> u64 {
        self.up.load(Relaxed) + self.down.load(Relaxed)
    }
}

/// Ends when nothing has moved for this long, or a quarter more.
async fn idle(moved: &Moved, limit: Duration) {
    let (mut before, mut quiet) = (u64::MAX, 0);
    while quiet < IDLE_LOOKS {
        tokio::time::sleep(limit / IDLE_LOOKS).await;
        let now = moved.all();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

/// `moved` goes up with every piece, either way.
async fn carry(upgraded: OnUpgrade, switched: Switched, moved: &Moved) {
    let Ok(Ok(outside)) = timeout(STALL, upgraded).await else {
        return;
    };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(outside));
    let (mut from_agent, mut to_agent) = switched.stream.into_split();
    moved.down.fetch_add(switched.early.len() as u64, Relaxed);
    if write(&mut to_client, &switched.early).await.is_err() {
        return;
    }
    let up = copy(&mut from_client, &mut to_agent, &moved.up, None);
    let down = copy(&mut from_agent, &mut to_client, &moved.down, Some(&switched.pace));
    // Half-closed is not closed: the other direction goes on until it ends by itself.
    let _ = tokio::try_join!(up, down);
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    moved: &AtomicU64,
    pace: Option<&Pace>,
) -> io::Result<()> {
    let mut buf = vec![0; 16 * 1024];
    loop {
        match from.read(&mut buf).await? {
            0 => return to.shutdown().await,
            n => {
                moved.fetch_add(n as u64, Relaxed);
                write(to, &buf[..n]).await?;
                if n < SMALL
                    && let Some(time) = pace.and_then(Pace::count)
                {
                    tokio::time::sleep(time).await;
                }
            }
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let all = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    timeout(STALL, all)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
