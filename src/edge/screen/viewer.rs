//! One viewer's RFB, between its WebSocket and the display. Towards the display every message is read and judged
//! (`screen::rfb`); towards the viewer bytes pass as they come, a piece at a time: while a viewer does not take one,
//! no further one is read, and the display, which sends only what was asked for, leaves frames out.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitSink, stream::SplitStream};
use hyper::upgrade::OnUpgrade;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    super::{conn::Client, respond::Refusal, trail},
    rooms::Shared,
    sockets::{self, Socket},
};
use crate::{
    link::{
        LinkError, Switched,
        pace::{Pace, SMALL},
    },
    model::{AuditKind, InstanceId},
    screen::rfb::Filter,
    session::Session,
};

/// How long the display may take to answer a new viewer.
const DIAL: Duration = Duration::from_secs(10);
/// Bytes towards a viewer in one piece.
const PIECE: usize = 32 * 1024;
/// A viewer, or a display, that takes not one piece in this long is gone.
const STALL: Duration = Duration::from_secs(60);

/// Dials the display and, once the handshake is through, carries. The viewer has its control socket open already.
pub(super) async fn start(
    client: &Arc<Client>,
    id: &InstanceId,
    session: Session,
    query: Option<&str>,
    on_upgrade: OnUpgrade,
) -> Result<(), Refusal> {
    let edge = &client.permit.edge;
    let number = query.and_then(|q| {
        q.split('&')
            .find_map(|p| p.strip_prefix("viewer=")?.parse::<u64>().ok())
    });
    let number = number.ok_or(Refusal::NoSession)?;
    let shared = edge.rooms.room_of(id, number, &session).ok_or(Refusal::NoSession)?;
    let link = edge.registry.get(id.as_str()).ok_or(Refusal::Lost)?;
    let display = link.screen(DIAL).await.map_err(|e| {
        log::debug!("no screen of {id}: {e}");
        match e {
            LinkError::Refused { status: 404, .. } => Refusal::UnknownPath,
            _ => Refusal::Lost,
        }
    })?;
    let viewing = Viewing {
        client: Arc::clone(client),
        id: id.clone(),
        number,
        shared,
        session,
    };
    tokio::spawn(viewing.run(on_upgrade, display));
    Ok(())
}

struct Viewing {
    client: Arc<Client>,
    id: InstanceId,
    number: u64,
    shared: Arc<Shared>,
    session: Session,
}

impl Viewing {
    async fn run(self, on_upgrade: OnUpgrade, display: Switched) {
        let _busy = self.client.begin();
        let Some(socket) = sockets::open(on_upgrade).await else {
            return;
        };
        let (from, by) = (self.client.permit.from, self.session.by.name());
        let by = by.as_str();
        let (id, began) = (self.id.as_str(), Instant::now());
        log::info!(instance = id, by, from:display, viewer = self.number; "a person opened a screen");
        trail::screen(&self.client, &self.session.by, &self.id, (AuditKind::Screen, "view"));
        let why = self.carry(socket, display).await;
        log::info!(
            instance = id, by, from:display, viewer = self.number, seconds = began.elapsed().as_secs(), why;
            "a person closed a screen"
        );
        let note = Some(format!("after {} s: {why}", began.elapsed().as_secs()));
        trail::screen_note(
            &self.client,
            &self.session.by,
            &self.id,
            (AuditKind::Screen, "leave"),
            note,
        );
    }

    /// Carries until something ends, and says what did.
    async fn carry(&self, socket: Socket, display: Switched) -> &'static str {
        let edge = &self.client.permit.edge;
        let (mut sink, stream) = socket.split();
        let (from_display, to_display) = display.stream.into_split();
        let drain = edge.drain.fired();
        let evicted = self.client.permit.pulse.end();
        let gives_way = evicted.fired();
        let (code, why) = if evicted.is_cut() {
            (CloseCode::Again, "others need its place")
        } else if edge.drain.is_cut() {
            (CloseCode::Restart, "the supervisor stops")
        } else {
            tokio::select! {
                why = self.up(stream, to_display) => (CloseCode::Policy, why),
                why = self.seat_left() => (CloseCode::Normal, why),
                // The sink is borrowed until one of these ends; what is half written then goes with the connection.
                why = down(from_display, &mut sink, display.early, &display.pace) => (CloseCode::Away, why),
                () = drain => (CloseCode::Restart, "the supervisor stops"),
                () = gives_way => (CloseCode::Again, "others need its place"),
                () = edge.config.sessions.ended(&self.session) => (CloseCode::Policy, "the session has ended"),
            }
        };
        let reason = why.into();
        let _ = timeout(
            Duration::from_secs(1),
            sink.send(Message::Close(Some(CloseFrame { code, reason }))),
        )
        .await;
        why
    }

    /// From the viewer to the display.
    async fn up(&self, mut stream: SplitStream<Socket>, mut to: OwnedWriteHalf) -> &'static str {
        let mut filter = Filter::default();
        let mut out = Vec::new();
        let mut bell = self.shared.bell();
        let mut held = false;
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                rung = bell.changed() => {
                    let holds = self.shared.holds(self.number);
                    if rung.is_err() {
                        return "its room is closed";
                    }
                    if held && !holds {
                        filter.release(&mut out);
                        if send(&mut to, &mut out).await.is_err() {
                            return "the display took nothing more";
                        }
                    }
                    held = holds;
                    continue;
                }
            };
            let bytes = match message {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_))) | None => return "it went",
                Some(Ok(Message::Text(_) | Message::Frame(_))) => return "it sent text",
                Some(Err(e)) => {
                    log::debug!("viewer {}: {e}", self.number);
                    return "its connection was lost";
                }
            };
            let holds = self.shared.holds(self.number);
            if held && !holds {
                filter.release(&mut out);
            }
            held = holds;
            if let Err(e) = filter.feed(&bytes, holds, &mut out) {
                log::warn!("viewer {}: {e}", self.number);
                return "it sent what no viewer sends";
            }
            if send(&mut to, &mut out).await.is_err() {
                return "the display took nothing more";
            }
        }
    }

    /// Ends with the viewer's control socket.
    async fn seat_left(&self) -> &'static str {
        let mut bell = self.shared.bell();
        while self.shared.has(self.number) {
            if bell.changed().await.is_err() {
                break;
            }
        }
        "its page went"
    }
}

async fn send(to: &mut OwnedWriteHalf, out: &mut Vec<u8>) -> io::Result<()> {
    if !out.is_empty() {
        let written = timeout(STALL, to.write_all(out)).await;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        out.clear();
        out.shrink_to(PIECE);
    }
    Ok(())
}

/// From the display to the viewer.
async fn down(
    mut from: OwnedReadHalf,
    sink: &mut SplitSink<Socket, Message>,
    early: Bytes,
    pace: &Pace,
) -> &'static str {
    let mut buf = vec![0; PIECE];
    let mut piece = early;
    loop {
        if !piece.is_empty() {
            match timeout(STALL, sink.send(Message::Binary(piece))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return "its connection was lost",
                Err(_) => return "it took nothing",
            }
        }
        piece = match from.read(&mut buf).await {
            Ok(0) | Err(_) => return "the display went",
            Ok(n) => Bytes::copy_from_slice(&buf[..n]),
        };
        if piece.len() < SMALL
            && let Some(time) = pace.count()
        {
            sleep(time).await;
        }
    }
}
