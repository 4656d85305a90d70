//! The box's own doors, once a request may enter: its body as the door takes it, the [`BoxService`]'s answer, and when that ends.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header, request};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    authenticate::Shown,
    body::{Drain, EdgeBody, Ends, Over, until},
    conn::Client,
    respond::{Refusal, protect},
    sent::ClientBody,
    service::{BodyError, BoxService, OwnBody, OwnRequest},
    state::Edge,
};
use crate::{authz::CallPlace, door::Door};

/// A wrong claim is answered so much later, at least.
const CLAIM_DELAY: Duration = Duration::from_millis(500);

/// A request that may enter: where, by which name, and as whom.
pub(super) struct Entry {
    pub(super) service: Arc<dyn BoxService>,
    pub(super) door: Door,
    pub(super) authority: String,
    pub(super) shown: Shown,
    pub(super) place: Option<CallPlace>,
}

/// Answers. Bodies stream both ways. Who shows nothing has nothing that could end before the answer does: that is short.
pub(super) async fn serve(
    client: &Arc<Client>,
    mut entry: Entry,
    incoming: Request<Incoming>,
) -> Result<Response<EdgeBody>, Refusal> {
    let edge = &client.permit.edge;
    let place = entry.place.take();
    let (parts, incoming) = incoming.into_parts();
    let (resumable, head_only) = (parts.method == Method::GET, parts.method == Method::HEAD);
    let http2 = parts.version == Version::HTTP_2;
    // What is asked of a page may end the session itself; it is judged when it is done.
    let ends_itself = entry.door == Door::Console && !resumable && !head_only;
    let (mut cut, expires_at, over) = match &entry.shown {
        Shown::Session(_) if ends_itself => (Over::Never, None, Refusal::SessionOver),
        Shown::Token(pass) => {
            let cut = Over::of(pass).ok_or(Refusal::RevokedToken)?;
            (cut, pass.token().expires_at(), Refusal::RevokedToken)
        }
        Shown::Session(session) => {
            let ended = edge.config.sessions.ended(session);
            (Over::Session(Box::pin(ended)), None, Refusal::SessionOver)
        }
        Shown::Nothing(_) => (Over::Never, None, Refusal::NoToken),
    };
    let short = matches!(entry.shown, Shown::Nothing(_));
    let sent = ClientBody::new(client, &parts.headers, incoming);
    let answer = tokio::select! {
        biased;
        answer = exchange((edge, client.permit.address), entry, parts, sent) => answer?,
        () = &mut cut => return Err(over),
    };
    let (mut parts, body) = answer.into_parts();
    if short && parts.status == StatusCode::UNAUTHORIZED {
        wrong_claim(client).await?;
    }
    protect(&mut parts.headers);
    if head_only {
        if let Some(length) = body.size_hint().exact() {
            parts.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        return Ok(Response::from_parts(parts, EdgeBody::full(Bytes::new())));
    }
    let ends = Ends {
        cut,
        expiry: expires_at.map(|at| Box::pin(tokio::time::sleep(until(at)))),
        drain: (resumable && !short && !edge.drain.is_cut()).then(|| Drain::new(&edge.drain, true)),
        place,
    };
    let (body, progress) = EdgeBody::stream(body.into(), ends, client.clock);
    if http2 {
        client.watch(&progress);
    }
    Ok(Response::from_parts(parts, body))
}

/// The request to whoever is behind the door, and the head of the answer. What the client sent decides, where that broke its
/// bounds.
async fn exchange(
    (edge, from): (&Edge, IpAddr),
    entry: Entry,
    parts: request::Parts,
    sent: ClientBody,
) -> Result<Response<OwnBody>, Refusal> {
    let limits = &edge.config.limits;
    let bounds = entry.door.bounds(parts.method.as_str(), parts.uri.path());
    let began = Instant::now();
    let read = sent.for_the_box(bounds.body.bytes(limits.body_bytes), limits.client_timeout);
    // What is answered in a given time is read in that time as well.
    let (body, streamed) = match bounds.answer {
        Some(time) => tokio::time::timeout_at(began + time, read)
            .await
            .unwrap_or(Err(BodyError::TooSlow))?,
        None => read.await?,
    };
    let asked = OwnRequest {
        door: entry.door,
        authority: entry.authority,
        by: entry.shown.principal().seen_at(from),
        session: match entry.shown {
            Shown::Session(session) => Some(session),
            Shown::Token(_) | Shown::Nothing(_) => None,
        },
        request: Request::from_parts(parts, body),
    };
    let until = match (bounds.answer, &streamed) {
        (Some(time), _) => began + time,
        (None, Some(body)) => body.ends_by + limits.first_byte_timeout,
        (None, None) => Instant::now() + limits.first_byte_timeout,
    };
    let answer = tokio::time::timeout_at(until, entry.service.answer(asked)).await;
    match streamed.and_then(|s| s.broken()) {
        Some(broken) => Err(broken.into()),
        None => answer.map_err(|_| Refusal::FirstByte),
    }
}

/// A wrong claim is answered late, and with 429 where the client's address has made too many.
async fn wrong_claim(client: &Client) -> Result<(), Refusal> {
    let edge = &client.permit.edge;
    let slowed = edge.failed(client.permit.from);
    edge.delay(slowed.delay.max(CLAIM_DELAY)).await;
    slowed.wait.map_or(Ok(()), |wait| Err(Refusal::TooManyFailures(wait)))
}
