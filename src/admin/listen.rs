//! The admin socket: made, guarded, accepted. Of what is asked it knows how much may be sent: bodies stream both ways.

use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::Limited;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Gid, Uid};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::{Backend, routes};
use crate::{
    door::{API, Door},
    model::Principal,
};

/// Connections at once; past it they wait in the socket's queue.
const MAX_CONNECTIONS: usize = 64;

/// The admin socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the admin socket {path} cannot be made: {source}")]
pub struct AdminError {
    path: PathBuf,
    source: io::Error,
}

/// Makes the socket: mode 0660, group `berth` where there is one.
///
/// # Errors
/// The folder cannot be made or written, or the path is too long for a Unix socket (107 bytes).
pub fn bind(path: &Path) -> Result<UnixListener, AdminError> {
    let fail = |source| AdminError {
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    // The store's lock says that no other supervisor lives here, so a socket that is left is nobody's.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(fail)?;
    if let Some(gid) = group_id("berth") {
        std::os::unix::fs::chown(path, None, Some(gid)).map_err(fail)?;
    }
    Ok(listener)
}

/// A local group's id. Read from the file: the C library's look-up loads modules, which a static binary cannot.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

/// Answers until `stop` turns true, then lets open requests end within `drain`.
pub async fn serve<B: Backend>(
    listener: UnixListener,
    path: PathBuf,
    backend: Arc<B>,
    mut stop: watch::Receiver<bool>,
    drain: Duration,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let group = std::fs::metadata(&path).map(|m| m.gid()).ok();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|s| *s) => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Ok((stream, slot)) = accepted else {
            // Out of descriptors, most likely: give the others time to close theirs.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(by) = principal(&stream, group) else {
            log::warn!("refused a peer on the admin socket: neither root nor of its group");
            continue;
        };
        let (backend, stop) = (backend.clone(), stop.clone());
        connections.spawn(async move {
            one(stream, by, backend, stop).await;
            drop(slot);
        });
    }
    let _ = tokio::time::timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
    // The path stays: the next supervisor, which may be there already, has made or will make it its own.
}

async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

async fn one<B: Backend>(stream: UnixStream, by: Principal, backend: Arc<B>, mut stop: watch::Receiver<bool>) {
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (backend, by) = (backend.clone(), by.clone());
        async move {
            let asked = routes::Asked {
                at: None,
                method: request.method().clone(),
                path: request.uri().path().to_owned(),
                query: request.uri().query().unwrap_or_default().to_owned(),
                by,
                headers: request.headers().clone(),
            };
            let path = format!("{API}{}", asked.path);
            let most = Door::Api.bounds(asked.method.as_str(), &path).body.bytes(usize::MAX);
            let body = Limited::new(request.into_body(), usize::try_from(most).unwrap_or(usize::MAX));
            Ok::<_, std::convert::Infallible>(routes::answer(&*backend, asked, body).await)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        _ = stop.wait_for(|s| *s) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Who is at the other end, as the kernel says: root, the supervisor's own user, or a member of the socket's group; nobody
/// else.
fn principal(stream: &UnixStream, group: Option<u32>) -> Option<Principal> {
    let peer = stream.peer_cred().ok()?;
    let uid = Uid::from_raw(peer.uid());
    if uid.is_root() || uid == Uid::effective() {
        return Some(Principal::root());
    }
    let group = group.filter(|g| *g != 0)?;
    of_group(&peer, group).then(|| Principal::user(peer.uid()))
}

fn of_group(peer: &tokio::net::unix::UCred, group: u32) -> bool {
    if Gid::from_raw(peer.gid()).as_raw() == group {
        return true;
    }
    // Supplementary groups are not in SO_PEERCRED.
    let Some(pid) = peer.pid() else { return false };
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    status
        .lines()
        .find_map(|l| l.strip_prefix("Groups:"))
        .is_some_and(|l| l.split_whitespace().any(|g| g.parse() == Ok(group)))
}
