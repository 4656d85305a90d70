//! What the supervisor says to the agent (`model/order.rs` has the protocol), and the two tasks of a link.
//!
//! ```text
//! watch:  no agent --first connection--> Up --GET /.berth/events--> Status… --stream lost--> connections left? --no--> Down
//!                                                   ^--------------------------------------------- yes
//! ```

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    CallError, Link, LinkError, LinkEvent, LinkReport, NoBody, Payload, Peer, Request, Switched, gate::Admission,
    pace::Pace,
};
use crate::model::{AgentEvent, AgentStatus, Forget, Forgotten, StartOrder};

/// The agent speaks at least every 5 s.
const SILENCE: Duration = Duration::from_secs(16);
const CONTROL: Duration = Duration::from_secs(15);
/// A line of events, or the reason of a refusal, at most.
const MAX_LINE: usize = 256 * 1024;
/// Pieces of an agent's events: one in so long, and what falls into the second at once. What comes faster gathers in the
/// socket, and of several statuses that came together the last counts.
const EVENTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(4));

/// Puts the agent's connections into the pool; those of others wait until it is known who is the agent.
pub(super) async fn accept(link: Arc<Link>, listener: UnixListener, events: mpsc::Sender<LinkReport>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(peer) = peer(&stream) else { continue };
                match link.gate.admit(peer, stream) {
                    Admission::Proven(stream) => {
                        if !link.pool.add(stream) {
                            log::warn!("the agent of {} holds too many connections; one was refused", link.id);
                            sleep(Duration::from_millis(100)).await;
                        }
                    }
                    Admission::Waits(false) => {}
                    Admission::Waits(true) => {
                        let reporter = Reporter::of(&link, &events);
                        if reporter.send(LinkEvent::Unproven(peer)).await.is_err() {
                            return;
                        }
                    }
                }
            }
            Err(e) => {
                log::warn!("cannot accept from the agent of {}: {e}", link.id);
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn peer(stream: &UnixStream) -> std::io::Result<Peer> {
    let told = stream.peer_cred()?;
    let pid = told.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    Ok(Peer { pid, uid: told.uid() })
}

/// Where reports go, and what they carry.
struct Reporter<'a> {
    link: &'a Arc<Link>,
    generation: u64,
    events: &'a mpsc::Sender<LinkReport>,
}

impl<'a> Reporter<'a> {
    fn of(link: &'a Arc<Link>, events: &'a mpsc::Sender<LinkReport>) -> Self {
        Self {
            link,
            generation: link.generation.load(Ordering::Acquire),
            events,
        }
    }

    /// Whether a newer container has been announced.
    fn is_past(&self) -> bool {
        self.link.generation.load(Ordering::Acquire) != self.generation
    }

    async fn send(&self, event: LinkEvent) -> Result<(), ()> {
        let report = LinkReport {
            id: self.link.id.clone(),
            generation: self.generation,
            event,
        };
        self.events.send(report).await.map_err(|_| ())
    }
}

/// Reports the agent's coming, words and going.
pub(super) async fn watch(link: Arc<Link>, events: mpsc::Sender<LinkReport>) {
    loop {
        link.pool.connected().await;
        let reporter = Reporter::of(&link, &events);
        if link.pool.sweep() == 0 {
            continue;
        }
        if reporter.send(LinkEvent::Up).await.is_err() {
            return;
        }
        loop {
            let began = Instant::now();
            if let Err(e) = follow(&reporter).await {
                log::debug!("the events of {} ended: {e}", link.id);
            }
            // Connections of a dead agent close with it, a moment after the first.
            let mut left = link.pool.sweep();
            for _ in 0..10 {
                if left == 0 {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
                left = link.pool.sweep();
            }
            if left == 0 || reporter.is_past() {
                break;
            }
            // Still there: ask again, at most once a second.
            sleep(Duration::from_secs(1).saturating_sub(began.elapsed())).await;
        }
        if reporter.send(LinkEvent::Down).await.is_err() {
            return;
        }
    }
}

/// Forwards one stream of events until it ends.
async fn follow(reporter: &Reporter<'_>) -> Result<(), LinkError> {
    const WHAT: &str = "follow the agent's events";
    let link = reporter.link;
    let bad = |why: String| LinkError::Protocol { what: WHAT, why };
    let mut reply = send(link, WHAT, &Method::GET, "/.berth/events", None, CONTROL).await?;
    if reply.status != StatusCode::OK {
        return Err(bad(format!("status {}", reply.status)));
    }
    let mut line = BytesMut::new();
    let pace = Pace::new(EVENTS.0, EVENTS.1);
    loop {
        let next = std::future::poll_fn(|cx| reply.body.poll_next(cx));
        let piece = timeout(SILENCE, next).await.map_err(|_| LinkError::Timeout {
            what: WHAT,
            id: link.id.clone(),
            seconds: SILENCE.as_secs_f32(),
        })?;
        let Some(piece) = piece else { return Ok(()) };
        line.extend_from_slice(&piece.map_err(|e| bad(e.to_string()))?);
        let mut latest = None;
        while let Some(end) = memchr::memchr(b'\n', &line) {
            let text = line.split_to(end + 1);
            match serde_json::from_slice(text.trim_ascii()).map_err(|e| bad(e.to_string()))? {
                AgentEvent::Alive => {}
                AgentEvent::Status(status) => latest = Some(status),
            }
        }
        if line.len() > MAX_LINE {
            return Err(bad(format!("an event of more than {MAX_LINE} bytes")));
        }
        if let Some(status) = latest {
            // A question that waited for a connection may have got one of the next container.
            if reporter.is_past() {
                return Ok(());
            }
            let told = reporter.send(LinkEvent::Status(status)).await;
            told.map_err(|()| bad("nobody listens".into()))?;
        }
        if let Some(time) = pace.count() {
            sleep(time).await;
        }
    }
}

impl Link {
    /// Hands over the start order (`POST /.berth/start`).
    ///
    /// # Errors
    /// [`LinkError::Refused`] with 409 when the agent runs another spec; else as the connection failed.
    pub async fn start(self: &Arc<Self>, order: &StartOrder) -> Result<(), LinkError> {
        const WHAT: &str = "hand over the start order";
        let body = serde_json::to_vec(order).map_err(|e| LinkError::Protocol {
            what: WHAT,
            why: e.to_string(),
        })?;
        self.control(WHAT, &Method::POST, "/.berth/start", Some(body.into()), CONTROL)
            .await?;
        Ok(())
    }

    /// Asks the type's health contract now (`GET /.berth/health`).
    ///
    /// # Errors
    /// [`LinkError::Refused`] with the agent's reason, [`LinkError::Timeout`], or as the connection failed.
    pub async fn health(self: &Arc<Self>, limit: Duration) -> Result<(), LinkError> {
        self.control("ask for health", &Method::GET, "/.berth/health", None, limit)
            .await?;
        Ok(())
    }

    /// What the agent says of itself now (`GET /.berth/status`).
    ///
    /// # Errors
    /// [`LinkError::Protocol`] for an answer that is no status; else as the connection failed.
    pub async fn status(self: &Arc<Self>, limit: Duration) -> Result<AgentStatus, LinkError> {
        const WHAT: &str = "ask for the agent's status";
        let text = self.control(WHAT, &Method::GET, "/.berth/status", None, limit).await?;
        serde_json::from_slice(&text).map_err(|e| LinkError::Protocol {
            what: WHAT,
            why: e.to_string(),
        })
    }

    /// Ends the sessions of principals who are let in no longer (`POST /.berth/forget`); how many there were.
    ///
    /// # Errors
    /// [`LinkError::Refused`] with 404 by an agent that is too old for it; else as the connection failed.
    pub async fn forget(self: &Arc<Self>, forget: &Forget, limit: Duration) -> Result<usize, LinkError> {
        const WHAT: &str = "end sessions";
        let protocol = |e: serde_json::Error| LinkError::Protocol {
            what: WHAT,
            why: e.to_string(),
        };
        let body = serde_json::to_vec(forget).map_err(protocol)?;
        let text = self
            .control(WHAT, &Method::POST, "/.berth/forget", Some(body.into()), limit)
            .await?;
        let Forgotten { sessions } = serde_json::from_slice(&text).map_err(protocol)?;
        Ok(sessions)
    }

    /// The display's RFB (`GET /.berth/screen`), for one viewer.
    ///
    /// # Errors
    /// [`LinkError::Refused`] with 404 when there is no screen, 503 while the display is down; else as the connection
    /// failed.
    pub async fn screen(self: &Arc<Self>, limit: Duration) -> Result<Switched, LinkError> {
        const WHAT: &str = "reach the display";
        let (headers, upgrade) = (HeaderMap::new(), HeaderValue::from_static("rfb"));
        let request = Request {
            method: &Method::GET,
            target: "/.berth/screen",
            headers: &headers,
            skip: &|_| false,
            upgrade: Some(&upgrade),
        };
        let reply = self.call(&request, Payload::<NoBody>::None, limit).await;
        let reply = reply.map_err(|e| failed(self, WHAT, limit, e))?;
        reply.switched.ok_or_else(|| LinkError::Refused {
            what: WHAT,
            status: reply.status.as_u16(),
            reason: "there is no display to look at now".to_owned(),
        })
    }

    async fn control(
        self: &Arc<Self>,
        what: &'static str,
        method: &Method,
        target: &str,
        body: Option<Bytes>,
        limit: Duration,
    ) -> Result<BytesMut, LinkError> {
        let asked = async {
            let mut reply = send(self, what, method, target, body, limit).await?;
            let mut text = BytesMut::new();
            while let Some(piece) = std::future::poll_fn(|cx| reply.body.poll_next(cx)).await {
                let piece = piece.map_err(|e| LinkError::Protocol {
                    what,
                    why: e.to_string(),
                })?;
                if text.len() + piece.len() > MAX_LINE {
                    break;
                }
                text.extend_from_slice(&piece);
            }
            if reply.status.is_success() {
                return Ok(text);
            }
            Err(LinkError::Refused {
                what,
                status: reply.status.as_u16(),
                reason: String::from_utf8_lossy(&text).trim().to_owned(),
            })
        };
        timeout(limit, asked).await.unwrap_or_else(|_| {
            Err(LinkError::Timeout {
                what,
                id: self.id.clone(),
                seconds: limit.as_secs_f32(),
            })
        })
    }
}

async fn send(
    link: &Arc<Link>,
    what: &'static str,
    method: &Method,
    target: &str,
    body: Option<Bytes>,
    limit: Duration,
) -> Result<super::Reply, LinkError> {
    let mut headers = HeaderMap::new();
    let payload: Payload<NoBody> = match body {
        None => Payload::None,
        Some(body) => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Payload::Whole(body)
        }
    };
    let request = Request {
        method,
        target,
        headers: &headers,
        skip: &|_| false,
        upgrade: None,
    };
    link.call(&request, payload, limit)
        .await
        .map_err(|e| failed(link, what, limit, e))
}

fn failed<E: std::fmt::Display>(link: &Link, what: &'static str, limit: Duration, e: CallError<E>) -> LinkError {
    match e {
        CallError::Busy | CallError::Closed => LinkError::NoAgent {
            what,
            id: link.id.clone(),
        },
        CallError::Timeout => LinkError::Timeout {
            what,
            id: link.id.clone(),
            seconds: limit.as_secs_f32(),
        },
        e => LinkError::Protocol {
            what,
            why: e.to_string(),
        },
    }
}
