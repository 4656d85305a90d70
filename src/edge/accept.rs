//! From listener to served connection: caps, socket options, the hand-over to a worker, the TLS handshake. It never
//! waits for a client.

use std::{
    io,
    net::{IpAddr, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    conn::{Client, Permit, Tracked, drive},
    redirect, request,
    state::{Edge, PLAIN_CONNECTIONS, Workers},
};

/// Streams of one HTTP/2 connection at a time.
const STREAMS: u32 = 128;
/// Header lines of a request at most.
const HEADERS: usize = 128;
const BEAT: Duration = Duration::from_secs(1);
/// A peer that is gone is noticed after about a minute: 30 s of silence, then 3 probes 10 s apart.
const KEEPALIVE: (u32, u32, u32) = (30, 10, 3);
/// Bytes that stay unacknowledged this long end the connection, in ms (RFC 5482, tcp(7)).
const USER_TIMEOUT: u32 = 60_000;

/// A connection that was accepted and is not served yet.
struct Accepted {
    stream: TcpStream,
    permit: Permit,
    tls: bool,
}

/// Whoever serves connections.
pub(super) struct Worker {
    queue: mpsc::Sender<Accepted>,
    connections: Arc<AtomicUsize>,
    /// Goes up once a second while the worker's reactor turns.
    pub(super) beat: Arc<AtomicU64>,
}

/// Starts all workers, and the threads of those that have one.
pub(super) fn start_workers(edge: &Arc<Edge>) -> io::Result<(Vec<Worker>, Vec<thread::JoinHandle<()>>)> {
    let count = match edge.config.workers {
        Workers::Caller => 0,
        Workers::Own(n) => n.max(1),
        Workers::HalfTheCores => thread::available_parallelism().map_or(1, |n| usize::from(n).div_ceil(2)),
    };
    let (mut workers, mut threads) = (Vec::new(), Vec::new());
    for n in 0..count.max(1) {
        let (queue, incoming) = mpsc::channel(1024);
        let worker = Worker {
            queue,
            connections: Arc::default(),
            beat: Arc::default(),
        };
        let run = serve(Arc::clone(edge), incoming, Arc::clone(&worker.beat));
        workers.push(worker);
        if count == 0 {
            tokio::spawn(run);
            break;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let body = move || {
            // 0 is the caller's runtime.
            crate::link::set_reactor(n as u32 + 1);
            crate::sched::batch();
            runtime.block_on(run);
        };
        let thread = thread::Builder::new().name(format!("edge-{n}")).spawn(body)?;
        threads.push(thread);
    }
    Ok((workers, threads))
}

/// Accepts for ever.
pub(super) async fn run(
    edge: Arc<Edge>,
    listener: TcpListener,
    tls: bool,
    workers: Arc<Vec<Worker>>,
    beat: Arc<AtomicU64>,
) {
    let mut tick = interval(BEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let crowded = crowded(&edge);
        tokio::select! {
            () = tokio::time::sleep(CLOSES), if crowded => {}
            accepted = listener.accept(), if !crowded => match accepted {
                Ok((stream, from)) => hand_over(&edge, stream, from.ip(), tls, &workers),
                Err(e) => {
                    // Out of descriptors, as a rule: others must close first.
                    log::warn!("cannot accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            _ = tick.tick() => { beat.fetch_add(1, Relaxed); }
        }
    }
}

/// What is closing because it gave way still has its descriptor: one in so many of all places more.
const CLOSING: usize = 4;
/// How long to wait for some of them.
const CLOSES: Duration = Duration::from_millis(1);

/// Whether those that gave way cannot be closed as quickly as new ones come: who comes then waits in the kernel's queue.
fn crowded(edge: &Edge) -> bool {
    let most = edge.config.limits.connections + PLAIN_CONNECTIONS;
    edge.stats.connections.load(Relaxed) >= most + most / CLOSING
}

fn hand_over(edge: &Arc<Edge>, stream: tokio::net::TcpStream, from: IpAddr, tls: bool, workers: &[Worker]) {
    let stats = &edge.stats;
    stats.accepted.fetch_add(1, Relaxed);
    let Some(worker) = workers.iter().min_by_key(|w| w.connections.load(Relaxed)) else {
        return;
    };
    let Some(permit) = Permit::new(edge, &worker.connections, from, tls) else {
        stats.refused_full.fetch_add(1, Relaxed);
        return;
    };
    let Ok(stream) = stream.into_std() else { return };
    if worker.queue.try_send(Accepted { stream, permit, tls }).is_err() {
        // The permit came back with it, and is given back.
        stats.refused_full.fetch_add(1, Relaxed);
    }
}

/// A worker: serves what it is handed until the edge is cut.
async fn serve(edge: Arc<Edge>, mut incoming: mpsc::Receiver<Accepted>, beat: Arc<AtomicU64>) {
    let mut tick = interval(BEAT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kill = std::pin::pin!(edge.kill.fired());
    if edge.kill.is_cut() {
        return;
    }
    loop {
        tokio::select! {
            accepted = incoming.recv() => match accepted {
                Some(accepted) => { tokio::spawn(connection(accepted)); }
                // The accept loops are gone: connections end by `drain` and `kill`.
                None => { (&mut kill).await; break; }
            },
            _ = tick.tick() => { beat.fetch_add(1, Relaxed); }
            () = &mut kill => break,
        }
    }
    // A moment for connections to see the cut and close.
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn connection(accepted: Accepted) {
    let Accepted { stream, permit, tls } = accepted;
    let edge = Arc::clone(&permit.edge);
    let pulse = Arc::clone(&permit.pulse);
    let gives_way = pulse.end().fired();
    if pulse.end().is_cut() {
        return;
    }
    if let Err(e) = set_options(&stream) {
        log::debug!("a socket option was refused: {e}");
    }
    let Ok(stream) = tokio::net::TcpStream::from_std(stream) else {
        return;
    };
    if !tls {
        return redirect::serve(stream, permit).await;
    }
    let handshake = timeout(edge.config.limits.client_timeout, edge.tls.accept(stream));
    // Who has not finished it has asked for nothing: a drain does not wait for it.
    let drain = edge.drain.fired();
    if edge.drain.is_cut() {
        return;
    }
    let stream = tokio::select! {
        biased;
        h = handshake => match h {
            Ok(Ok(stream)) => stream,
            _ => {
                edge.stats.handshakes_failed.fetch_add(1, Relaxed);
                return;
            }
        },
        () = drain => return,
        () = gives_way => return,
    };
    let client = Client::new(permit);
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        let io = TokioIo::new(Tracked::new(stream, Arc::clone(&client), true));
        serve_http2(&edge, io, client).await;
    } else {
        let io = TokioIo::new(Tracked::new(stream, Arc::clone(&client), false));
        serve_http1(&edge, io, client).await;
    }
}

fn set_options(stream: &TcpStream) -> nix::Result<()> {
    let fd = stream.as_fd();
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    setsockopt(&fd, sockopt::TcpKeepIdle, &KEEPALIVE.0)?;
    setsockopt(&fd, sockopt::TcpKeepInterval, &KEEPALIVE.1)?;
    setsockopt(&fd, sockopt::TcpKeepCount, &KEEPALIVE.2)?;
    setsockopt(&fd, sockopt::TcpUserTimeout, &USER_TIMEOUT)
}

async fn serve_http1<S>(edge: &Arc<Edge>, io: TokioIo<S>, client: Arc<Client>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = Arc::clone(&client);
    let service = service_fn(move |r: hyper::Request<Incoming>| request::serve(Arc::clone(&served), r));
    let conn = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(HEADERS)
        // Past this hyper answers a bare 431; up to it the edge answers in its own words.
        .max_buf_size((edge.config.limits.header_bytes * 2).max(16 * 1024))
        .serve_connection(io, service)
        .with_upgrades();
    drive(&client, conn, false, |c| c.graceful_shutdown()).await;
}

async fn serve_http2<S>(edge: &Arc<Edge>, io: TokioIo<S>, client: Arc<Client>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = Arc::clone(&client);
    let service = service_fn(move |r: hyper::Request<Incoming>| request::serve(Arc::clone(&served), r));
    let conn = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        // Rapid reset (CVE-2023-44487) and its kin: a client that keeps resetting is sent away.
        .max_pending_accept_reset_streams(STREAMS as usize / 2)
        .max_local_error_reset_streams(256)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(u32::try_from(edge.config.limits.header_bytes * 2).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(io, service);
    drive(&client, conn, true, |c| c.graceful_shutdown()).await;
}
