//! One request, from its head to the head of its answer: its door, by host and path; what is asked there, in this order:
//! a head within its limit, a claimed box, a method, an origin, a token; then the door's handler. The first that refuses
//! answers. Somebody without a token of an instance gets the same answer whether it exists or not.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{
    authenticate::{Denied, Shown, authenticate, check_origin},
    body::{EdgeBody, Held},
    calls,
    conn::Client,
    cors, own, proxy,
    respond::{Refusal, or_slowed},
    screen,
    sent::ClientBody,
    state::Edge,
    trail::{Trail, Turned},
};
use crate::{
    audit::Audit,
    authz::{CallPlace, Pass},
    door::{self, Errors, Handler, Origins, Place},
    link::{Link, stats::InFlight},
};

/// Serves one request of a client's connection. Never fails: whatever goes wrong is an answer.
pub(super) async fn serve(client: Arc<Client>, request: Request<Incoming>) -> Result<Response<EdgeBody>, Infallible> {
    let busy = client.begin();
    let edge = &client.permit.edge;
    let began = Instant::now();
    let mut held = Held {
        busy: Some(busy),
        in_flight: Some(InFlight::begin(Arc::clone(&edge.stats))),
        link: None,
        trail: None,
    };
    let found = find(edge, &request);
    let errors = match &found {
        Ok((_, place)) => place.door.row().errors,
        Err(_) => door::errors_at(request.uri().path()),
    };
    let page = match &found {
        Ok((authority, place)) if place.door.row().origins == Origins::Callers => {
            cors::caller(edge, request.headers(), authority)
        }
        _ => None,
    };
    let admitted = admit(&client, &request, &found);
    let turned = match (&admitted, &found) {
        (Err(_), Ok((_, place))) => Some(Turned::of(place, request.headers(), began)),
        _ => None,
    };
    // What the client sent, as far as an error needs it to name the call.
    let mut sent = Bytes::new();
    let answer = match admitted {
        Ok(Admitted::Instance(link, (pass, place), at)) => {
            held.link = Some(InFlight::begin(Arc::clone(link.counters())));
            let mut trail = Trail::begin(
                &client,
                pass.token(),
                link.id(),
                (request.method(), request.headers()),
                began,
            );
            let answer = proxy::serve(&client, (&link, at), (&pass, place), request, (&mut sent, &mut trail)).await;
            if let Some(trail) = &mut trail {
                match &answer {
                    Ok(response) => trail.answers(response.status(), response.headers(), response.body().whole()),
                    Err(refusal) => trail.refused(refusal.told(), *refusal == Refusal::RevokedToken),
                }
            }
            held.trail = trail;
            let status = answer.as_ref().map_or_else(|r| r.status(), Response::status);
            link.counters().answered(status.as_u16(), began.elapsed());
            answer
        }
        Ok(Admitted::Own(entry)) => own::serve(&client, entry, request).await,
        Ok(Admitted::Screen(asked)) => screen::serve(&client, asked, request).await,
        Ok(Admitted::Preflight) => {
            discard(&client, request).await;
            Ok(cors::preflight())
        }
        Err(Denied { refusal, by }) => {
            if refusal.is_failed_guess() {
                client.permit.fall();
            }
            let (refusal, delay) = or_slowed(refusal, |ip| edge.failed(ip), client.permit.from);
            sent = discard(&client, request).await;
            if let Some(turned) = turned {
                turned.refused(&client, by.as_deref(), refusal.told(), &sent);
            }
            edge.delay(delay).await;
            Err(refusal)
        }
    };
    let mut response = answer.unwrap_or_else(|refusal| {
        told(edge, refusal);
        if refusal.leaves_body() {
            client.linger();
        }
        match errors {
            Errors::JsonRpc => refusal.response(&sent),
            Errors::Plain => refusal.plain_response(),
        }
    });
    if let Some(origin) = page {
        cors::tell(response.headers_mut(), origin);
    }
    client.answered();
    count(edge, response.status(), began.elapsed());
    response.body_mut().hold(held);
    Ok(response)
}

async fn discard(client: &Arc<Client>, request: Request<Incoming>) -> Bytes {
    let (parts, body) = request.into_parts();
    ClientBody::new(client, &parts.headers, body).discard().await
}

fn count(edge: &Edge, status: StatusCode, took: Duration) {
    edge.stats.requests.answered(status.as_u16(), took);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => edge.stats.unauthorized.fetch_add(1, Relaxed),
        _ => 0,
    };
}

/// Counts why somebody is told to wait.
fn told(edge: &Edge, refusal: Refusal) {
    let counter = match refusal {
        Refusal::TooManyFailures(_) => &edge.stats.slowed,
        Refusal::TooFast(whose, _) => &edge.stats.too_fast[whose as usize],
        Refusal::TooManyAtOnce(whose) => &edge.stats.too_many[whose as usize],
        _ => return,
    };
    counter.fetch_add(1, Relaxed);
}

/// The host that a request names, and where it goes.
fn find<'a>(edge: &Edge, request: &'a Request<Incoming>) -> Result<(&'a str, Place), Refusal> {
    let lines = request.headers().get_all(header::HOST).iter();
    let named = request.uri().authority().map(|a| a.as_str());
    let authority = door::authority(named, lines.map(HeaderValue::as_bytes)).map_err(Refusal::Host)?;
    Ok((authority, edge.router.find(authority, request.uri().path())?))
}

/// Whom a request is for, once it may.
enum Admitted {
    /// With the agent's path for it.
    Instance(Arc<Link>, (Pass, CallPlace), &'static str),
    Own(own::Entry),
    Screen(screen::Entry),
    /// A browser asks whether a page may call.
    Preflight,
}

/// Everything that can be decided from the head.
fn admit(
    client: &Client,
    request: &Request<Incoming>,
    found: &Result<(&str, Place), Refusal>,
) -> Result<Admitted, Denied> {
    let edge = &client.permit.edge;
    let (method, headers) = (request.method(), request.headers());
    if head_size(request) > edge.config.limits.header_bytes {
        return Err(Refusal::HeadTooLarge.into());
    }
    let (authority, place) = found.as_ref().map_err(|refusal| *refusal)?;
    let row = place.door.row();
    let origin = check_origin(edge, row, (method, headers), authority);
    if row.origins == Origins::Callers && origin.is_ok() && cors::is_preflight(method, headers) {
        return Ok(Admitted::Preflight);
    }
    if row.handler == Handler::Box && edge.service.is_none() {
        return Err(Refusal::UnknownPath.into());
    }
    if !row.unclaimed && edge.service.as_ref().is_some_and(|f| f.locked()) {
        return Err(Refusal::Unclaimed.into());
    }
    if !row.methods.hold(method.as_str()) {
        let methods = place.door.methods(request.uri().path());
        return Err(Refusal::Method(methods).into());
    }
    origin?;
    let shown = authenticate(client, place, authority, request)?;
    match (row.handler, &place.instance, shown, &edge.service) {
        (Handler::Instance(at), Some(id), Shown::Token(pass), _) => {
            let full = edge.config.audit.as_ref().is_some_and(Audit::refuses);
            // Whoever is refused for what the instance is has called all the same.
            let entered = calls::enter(edge, &pass, Some(id), request).and_then(|place| match full {
                true => Err(Refusal::NoAudit),
                false => Ok((proxy::link(edge, id)?, place)),
            });
            match entered {
                Ok((link, place)) => Ok(Admitted::Instance(link, (pass, place), at)),
                Err(refusal) => Err(Denied::known(refusal, pass.token().principal())),
            }
        }
        (Handler::Screen, Some(id), shown, _) => Ok(Admitted::Screen(screen::Entry {
            id: id.clone(),
            place: place.clone(),
            authority: (*authority).to_owned(),
            shown,
        })),
        (Handler::Box, None, shown, Some(service)) => {
            let counted = match &shown {
                Shown::Token(pass) => {
                    let entered = calls::enter(edge, pass, None, request);
                    Some(entered.map_err(|refusal| Denied::known(refusal, pass.token().principal()))?)
                }
                _ => None,
            };
            Ok(Admitted::Own(own::Entry {
                service: Arc::clone(service),
                door: place.door,
                authority: (*authority).to_owned(),
                shown,
                place: counted,
            }))
        }
        _ => Err(Refusal::UnknownPath.into()),
    }
}

fn head_size(request: &Request<Incoming>) -> usize {
    let line = request.uri().path_and_query().map_or(1, |p| p.as_str().len());
    let fields: usize = request
        .headers()
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len() + 4)
        .sum();
    line + fields
}
