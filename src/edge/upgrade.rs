//! Protocol switches (RFC 9110 section 7.8), of which WebSocket is the one that matters: after the 101 the bytes are
//! carried both ways as they come. HTTP/1.1 only. Ends with either side, with the token, and when the edge drains.

use std::{io, sync::Arc, time::Duration};

use http::{Request, Version, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{body::Ends, conn::Client};
use crate::link::Switched;

/// A side that takes nothing for this long ends it.
const STALL: Duration = Duration::from_secs(60);

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
pub(super) async fn relay(client: Arc<Client>, upgraded: OnUpgrade, switched: Switched, mut ends: Ends) {
    let _busy = client.begin();
    let edge = &client.permit.edge;
    let drain = edge.drain.fired();
    if edge.drain.is_cut() {
        return;
    }
    let expiry = async {
        match ends.expiry.as_mut() {
            Some(sleep) => sleep.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = carry(upgraded, switched) => {}
        () = &mut ends.cut => {}
        () = expiry => {}
        () = drain => {}
    }
}

async fn carry(upgraded: OnUpgrade, switched: Switched) {
    let Ok(Ok(outside)) = timeout(STALL, upgraded).await else {
        return;
    };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(outside));
    let (mut from_agent, mut to_agent) = switched.stream.into_split();
    if write(&mut to_client, &switched.early).await.is_err() {
        return;
    }
    let up = copy(&mut from_client, &mut to_agent);
    let down = copy(&mut from_agent, &mut to_client);
    // Half-closed is not closed: the other direction goes on until it ends by itself.
    let _ = tokio::try_join!(up, down);
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buf = vec![0; 16 * 1024];
    loop {
        match from.read(&mut buf).await? {
            0 => return to.shutdown().await,
            n => write(to, &buf[..n]).await?,
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
