//! Screens: the page that shows one, and its two sockets. Everything here is for whoever holds a session of that
//! instance (`screen::access`); somebody without one gets the same answer whether the instance exists or not.
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
pub(super) mod desk;
pub(super) mod looks;
mod page;
mod sockets;
mod viewer;

use std::sync::Arc;

use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;

use self::desk::unix_now;
use super::{
    body::EdgeBody,
    conn::Client,
    respond::{Refusal, or_slowed},
    state::Edge,
};
use crate::{model::InstanceId, screen::access::Session};

/// Cookies in one request that are looked at.
const MAX_COOKIES: usize = 64;
/// A request for a screen, by its door.
pub(super) struct Entry {
    pub(super) id: InstanceId,
    /// So many bytes of its path only lead to the screen; none where the screen has a host of its own.
    pub(super) leads: usize,
    pub(super) authority: String,
}

/// One such request.
struct Asked<'a> {
    edge: &'a Arc<Edge>,
    entry: &'a Entry,
    headers: &'a HeaderMap,
}

/// Answers a request for a screen.
pub(super) async fn serve(
    client: &Arc<Client>,
    entry: Entry,
    mut request: Request<Incoming>,
) -> Result<Response<EdgeBody>, Refusal> {
    let on_upgrade = super::upgrade::asked(&request).then(|| hyper::upgrade::on(&mut request));
    let (parts, _) = request.into_parts();
    let asked = Asked {
        edge: &client.permit.edge,
        entry: &entry,
        headers: &parts.headers,
    };
    let path = parts.uri.path();
    let (own, query) = (&path[entry.leads..], parts.uri.query());
    if let Some(session) = asked.session()
        && !client.permit.shown_session(session.number)
    {
        return Err(Refusal::Crowded);
    }
    match own {
        "" => Ok(page::redirect(&format!("{path}/"))),
        "/open" => asked.open(client, query).await,
        "/" => Ok(match asked.session() {
            Some(_) => page::page(&asked.edge.router, entry.id.as_str()),
            None => page::no_session(),
        }),
        "/control" | "/websockify" => {
            let session = asked.socket_session()?;
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

impl Asked<'_> {
    /// `__Host-` binds the cookie to the very host; by path, where the host is everybody's, the path has to do.
    fn cookie_name(&self) -> String {
        match self.entry.leads {
            0 => "__Host-berth-screen".to_owned(),
            _ => format!("__Secure-berth-screen-{}", self.entry.id),
        }
    }

    /// The session that the request's cookie stands for.
    fn session(&self) -> Option<Session> {
        let name = self.cookie_name();
        let lines = self
            .headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|v| v.to_str().ok());
        let mut pairs = lines
            .flat_map(|l| l.split(';'))
            .take(MAX_COOKIES)
            .filter_map(|p| p.trim().split_once('='));
        let (_, secret) = pairs.find(|(n, _)| *n == name)?;
        self.edge.desk.session(secret, &self.entry.id)
    }

    /// The session of a socket, which must be asked for by the screen's own page (RFC 6455 section 10.2).
    fn socket_session(&self) -> Result<Session, Refusal> {
        let mut origins = self.headers.get_all(header::ORIGIN).iter();
        let origin = origins.next().and_then(|o| o.to_str().ok()).ok_or(Refusal::Origin)?;
        if origins.next().is_some() || !self.edge.router.origin_is_the_hosts(origin, &self.entry.authority) {
            return Err(Refusal::Origin);
        }
        self.session().ok_or(Refusal::NoSession)
    }

    /// Exchanges a ticket for a session. The page that answers moves on by itself, as a page of our own: a redirect
    /// would not carry a strict cookie when the link was followed from elsewhere. It leaves no ticket in the history.
    async fn open(&self, client: &Client, query: Option<&str>) -> Result<Response<EdgeBody>, Refusal> {
        let ticket = query.and_then(|q| q.split('&').find_map(|p| p.strip_prefix("ticket=")));
        let opened = match ticket {
            Some(ticket) => self.edge.desk.open(ticket, &self.entry.id).map_err(|_| Refusal::Busy)?,
            None => None,
        };
        let Some((secret, session)) = opened else {
            let (refusal, delay) = or_slowed(Refusal::BadTicket, |ip| self.edge.failed(ip), client.permit.from);
            self.edge.delay(delay).await;
            return match refusal {
                Refusal::BadTicket => Ok(page::no_session()),
                slowed => Err(slowed),
            };
        };
        log::info!(
            instance = self.entry.id.as_str(), by = session.grant.by.name().as_str(), from:display = client.permit.from,
            session = session.number, control = session.grant.control; "a screen's link was opened"
        );
        let path = match self.entry.leads {
            0 => "/".to_owned(),
            _ => format!("/vnc/{}/", self.entry.id),
        };
        let life = session.ends_at.saturating_sub(unix_now());
        let cookie = format!(
            "{}={secret}; Path={path}; Max-Age={life}; Secure; HttpOnly; SameSite=Strict",
            self.cookie_name()
        );
        Ok(page::opened(&path, &cookie))
    }
}
