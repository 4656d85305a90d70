//! A viewer's control socket: tells it how the instance is, who else looks and who holds the controls, and takes its
//! wishes. As long as it is open the viewer is in the room; when it closes, the controls go back.
//!
//! To the page: [`Telling`] as JSON, at first and whenever it changed. From the page: `{"do": "take"}`,
//! `{"do": "release"}`, `{"do": "recreate"}`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{
    super::{conn::Client, respond::Refusal, state::Edge, trail},
    rooms::{Seat, may_control},
    sockets::{self, Socket},
};
use crate::{
    model::{AuditKind, InstanceId, State},
    screen::room::Notice,
    session::Session,
};

/// A page that takes not one message in this long is gone.
const STALL: Duration = Duration::from_secs(60);
/// Wishes of one page come at most this often; the next waits.
const PACE: Duration = Duration::from_millis(50);
/// How often a silent page is asked whether it is there, within the idle limit.
const ASKS: u32 = 4;

/// What a page is told.
#[derive(Debug, PartialEq, Serialize)]
struct Telling {
    /// For the address of the page's second socket.
    viewer: u64,
    name: String,
    /// `None`: the instance is gone.
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    notice: Notice,
    /// Why the last wish was not granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    #[serde(rename = "do")]
    what: What,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Take,
    Release,
    Recreate,
}

/// Takes a place in the room and, once the handshake is through, serves the socket.
pub(super) fn start(
    client: &Arc<Client>,
    id: &InstanceId,
    session: Session,
    on_upgrade: OnUpgrade,
) -> Result<(), Refusal> {
    let seat = client.permit.edge.rooms.sit(id, &session).map_err(|_| Refusal::Busy)?;
    let page = Page {
        client: Arc::clone(client),
        id: id.clone(),
        session,
        seat,
    };
    tokio::spawn(page.run(on_upgrade));
    Ok(())
}

struct Page {
    client: Arc<Client>,
    id: InstanceId,
    session: Session,
    seat: Seat,
}

impl Page {
    async fn run(self, on_upgrade: OnUpgrade) {
        let _busy = self.client.begin();
        let Some(socket) = sockets::open(on_upgrade).await else {
            return;
        };
        let edge = Arc::clone(&self.client.permit.edge);
        let drain = edge.drain.fired();
        let evicted = self.client.permit.pulse.end();
        let gives_way = evicted.fired();
        if edge.drain.is_cut() || evicted.is_cut() {
            return;
        }
        tokio::select! {
            () = self.serve(&edge, socket) => {}
            () = drain => {}
            () = gives_way => {}
            () = edge.config.sessions.ended(&self.session) => {}
        }
    }

    async fn serve(&self, edge: &Edge, mut socket: Socket) {
        let mut bell = self.seat.bell();
        let mut looks = edge.config.screens.changed.clone();
        let (mut told, mut refused) = (None, None);
        let limit = edge.config.limits.upgraded_idle_timeout;
        let mut heard = Instant::now();
        let mut ask = interval_at(heard + limit / ASKS, limit / ASKS);
        loop {
            bell.mark_unchanged();
            looks.mark_unchanged();
            if !self.seat.is_kept() {
                return;
            }
            let telling = self.telling(edge, refused.take());
            if told.as_ref() != Some(&telling) {
                let Ok(text) = serde_json::to_string(&telling) else {
                    return;
                };
                if !matches!(timeout(STALL, socket.send(Message::text(text))).await, Ok(Ok(()))) {
                    return;
                }
                told = Some(telling);
            }
            let message = tokio::select! {
                message = socket.next() => message,
                rung = bell.changed() => if rung.is_ok() { continue } else { return },
                rung = looks.changed() => if rung.is_ok() { continue } else { return },
                // A page may have nothing to say for hours; its browser answers all the same, while it is there.
                _ = ask.tick() => {
                    let asked = timeout(STALL, socket.send(Message::Ping(Bytes::new()))).await;
                    if heard.elapsed() > limit || !matches!(asked, Ok(Ok(()))) {
                        return;
                    }
                    continue;
                }
            };
            heard = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => {
                    let Ok(wish) = serde_json::from_str::<Wish>(&text) else {
                        return;
                    };
                    refused = self.grant(edge, wish.what).await.err();
                    sleep(PACE).await;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return,
            }
        }
    }

    fn telling(&self, edge: &Edge, refused: Option<String>) -> Telling {
        let look = (edge.config.screens.look)(&self.id);
        let (name, state, reason) = match look {
            Some(look) => (look.name, Some(look.state), look.reason),
            None => (String::new(), None, None),
        };
        Telling {
            viewer: self.seat.number,
            name,
            state,
            reason,
            notice: self.seat.notice(),
            refused,
        }
    }

    async fn grant(&self, edge: &Edge, what: What) -> Result<(), String> {
        let (by, from) = (self.session.by.name(), self.client.permit.from);
        let by = by.as_str();
        let (instance, viewer) = (self.id.as_str(), self.seat.number);
        match what {
            What::Take => {
                let before = self.seat.take().map_err(|e| e.to_string())?;
                let from_whom = before.as_deref().unwrap_or("nobody");
                log::info!(instance, by, from:display, viewer, from_whom; "a person took control of a screen");
                let note = Some(format!("from {from_whom}"));
                trail::screen_note(
                    &self.client,
                    &self.session.by,
                    &self.id,
                    (AuditKind::Screen, "take-control"),
                    note,
                );
            }
            What::Release => {
                if self.seat.release() {
                    log::info!(instance, by, from:display, viewer; "a person gave back control of a screen");
                    trail::screen(
                        &self.client,
                        &self.session.by,
                        &self.id,
                        (AuditKind::Screen, "give-back-control"),
                    );
                }
            }
            What::Recreate => {
                if !may_control(&self.session, &self.id) {
                    return Err("this link is for looking only".to_owned());
                }
                log::info!(instance, by, from:display, viewer; "a person recreates an instance from its screen");
                let done = (edge.config.screens.recreate)(
                    self.id.clone(),
                    self.session.by.clone().seen_at(self.client.permit.address),
                )
                .await;
                done.map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }
}
