//! Screens: the page that shows one, and its two sockets. Everything here is for whoever holds a session of that
//! instance (`session`); somebody without one gets the same answer whether the instance exists or not.
//!
//! | path below the screen's address | answer |
//! | --- | --- |
//! | `/open?ticket=…` | a session cookie for the ticket, once, and on to the page |
//! | `/` | the page |
//! | `/assets/{version}/…` | what the page is made of; the same for everybody |
//! | `/control` | WebSocket, JSON: state, viewers, who holds the controls; take, release, recreate |
//! | `/websockify?viewer=N` | WebSocket, binary: RFB between the page and the display |
//!
//! Who looks and who takes the controls stands in the log. A viewer costs two tasks and their bounded buffers; one
//! that is slow holds up its own bytes alone.

mod control;
pub(super) mod looks;
mod page;
pub(super) mod rooms;
mod sockets;
mod viewer;

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use self::rooms::may_control;
use super::{
    authenticate::{self, Shown, own_page},
    body::EdgeBody,
    conn::Client,
    respond::{Refusal, or_slowed},
    trail,
};
use crate::{
    door::{Place, SCREEN_COOKIE},
    model::{AuditKind, InstanceId, Principal},
    session::LIFE,
};

/// A request for a screen, by its door.
pub(super) struct Entry {
    pub(super) id: InstanceId,
    pub(super) place: Place,
    pub(super) authority: String,
    pub(super) shown: Shown,
}

/// Answers a request for a screen.
pub(super) async fn serve(
    client: &Arc<Client>,
    entry: Entry,
    mut request: Request<Incoming>,
) -> Result<Response<EdgeBody>, Refusal> {
    let on_upgrade = super::upgrade::asked(&request).then(|| hyper::upgrade::on(&mut request));
    let (parts, _) = request.into_parts();
    let path = parts.uri.path();
    let (own, query) = (&path[entry.place.leads..], parts.uri.query());
    let edge = &client.permit.edge;
    match own {
        "" => Ok(page::redirect(&format!("{path}/"))),
        "/open" => entry.open(client, path, query).await,
        "/" => Ok(match entry.shown {
            Shown::Session(_) => page::page(&edge.router, entry.id.as_str()),
            _ => page::no_session(),
        }),
        "/control" | "/websockify" => {
            // RFC 6455 section 10.2.
            own_page(edge, &parts.headers, &entry.authority)?;
            let Shown::Session(session) = entry.shown else {
                return Err(Refusal::NoSession);
            };
            let accept = sockets::accept(&parts.headers).ok_or(Refusal::NotWebSocket)?;
            let on_upgrade = on_upgrade.ok_or(Refusal::NotWebSocket)?;
            if own == "/control" {
                control::start(client, &entry.id, session, on_upgrade)?;
            } else {
                viewer::start(client, &entry.id, session, query, on_upgrade).await?;
            }
            Ok(sockets::switching(accept))
        }
        _ => own
            .strip_prefix("/assets/")
            .and_then(page::asset)
            .ok_or(Refusal::UnknownPath),
    }
}

impl Entry {
    /// Exchanges a ticket for a session. The page that answers moves on by itself, as a page of our own: a redirect
    /// would not carry a strict cookie when the link was followed from elsewhere. It leaves no ticket in the history.
    async fn open(&self, client: &Client, path: &str, query: Option<&str>) -> Result<Response<EdgeBody>, Refusal> {
        let edge = &client.permit.edge;
        let may = |by: &Principal| authenticate::may(edge, by, &self.place);
        let ticket = query.and_then(|q| q.split('&').find_map(|p| p.strip_prefix("ticket=")));
        let opened = match ticket {
            Some(ticket) => edge.config.sessions.open(ticket, may).map_err(|_| Refusal::Busy)?,
            None => None,
        };
        let Some((secret, session)) = opened else {
            let (refusal, delay) = or_slowed(Refusal::BadTicket, |ip| edge.failed(ip), client.permit.from);
            edge.delay(delay).await;
            return match refusal {
                Refusal::BadTicket => Ok(page::no_session()),
                slowed => Err(slowed),
            };
        };
        log::info!(
            instance = self.id.as_str(), by = session.by.name().as_str(), from:display = client.permit.from,
            session = session.number, control = may_control(&session, &self.id); "a screen's link was opened"
        );
        trail::screen(client, &session.by, &self.id, (AuditKind::SignIn, "open-screen-link"));
        let cookie = self.place.cookie(SCREEN_COOKIE, path);
        Ok(page::opened(cookie.path(), &cookie.set(&secret, LIFE)))
    }
}
