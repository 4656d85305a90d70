//! One request, from its head to the head of its answer: limits -> host and path -> Origin -> token -> state -> link.
//! What pages of other origins may read is in [`cors`].
//! The first that refuses answers. Somebody without a token of an instance gets the same answer whether it exists or
//! not.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{
    authenticate::{authenticate, check_origin},
    body::{EdgeBody, Held},
    conn::Client,
    cors,
    front::Door,
    own, proxy,
    respond::{Refusal, or_slowed},
    screen,
    sent::ClientBody,
    state::Edge,
};
use crate::{
    authz::Token,
    link::{Link, stats::InFlight},
    model::{InstanceId, Principal, State, Via},
    policy::{self, Verb},
    route::{self, ScreenAt, Target},
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
    };
    let own = is_own_door(request.uri().path());
    let page = request
        .headers()
        .contains_key(header::ORIGIN)
        .then(|| cors::caller(edge, &request))
        .flatten();
    // What the client sent, as far as an error needs it to name the call.
    let mut sent = Bytes::new();
    let answer = match admit(&client, &request) {
        Ok(Admitted::Own(entry)) => own::serve(&client, entry, request).await,
        Ok(Admitted::Preflight) => {
            discard(&client, request).await;
            Ok(cors::preflight())
        }
        Ok(Admitted::Screen(id, at)) => screen::serve(&client, id, at, request).await,
        Ok(Admitted::Instance(link, token, at)) => {
            held.link = Some(InFlight::begin(Arc::clone(link.counters())));
            let answer = proxy::serve(&client, (&link, at), &token, request, &mut sent).await;
            let status = answer.as_ref().map_or_else(|r| r.status(), Response::status);
            link.counters().answered(status.as_u16(), began.elapsed());
            answer
        }
        Err(refusal) => {
            if refusal.is_failed_guess() {
                client.permit.fall();
            }
            let (refusal, delay) = or_slowed(refusal, |ip| edge.failed(ip), client.permit.from);
            sent = discard(&client, request).await;
            edge.delay(delay).await;
            Err(refusal)
        }
    };
    let mut response = answer.unwrap_or_else(|refusal| {
        if refusal.leaves_body() {
            client.linger();
        }
        if own {
            refusal.plain_response()
        } else {
            refusal.response(&sent)
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
        StatusCode::TOO_MANY_REQUESTS => edge.stats.slowed.fetch_add(1, Relaxed),
        _ => 0,
    };
}

/// Whom a request is for, once it may.
enum Admitted {
    /// With the agent's path for it.
    Instance(Arc<Link>, Arc<Token>, &'static str),
    Own(own::Entry),
    /// Routed only: screens have sessions of their own.
    Screen(InstanceId, ScreenAt),
    /// A browser asks whether a page may call.
    Preflight,
}

/// Whether errors there are told as the box's own API tells them, and not in JSON-RPC.
fn is_own_door(path: &str) -> bool {
    path == "/" || path.starts_with("/api/")
}

/// Everything that can be decided from the head.
fn admit(client: &Client, request: &Request<Incoming>) -> Result<Admitted, Refusal> {
    let edge = &client.permit.edge;
    let headers = request.headers();
    if head_size(request) > edge.config.limits.header_bytes {
        return Err(Refusal::HeadTooLarge);
    }
    let lines = headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let named = request.uri().authority().map(|a| a.as_str());
    let authority = route::authority(named, lines).map_err(Refusal::Host)?;
    let (id, at) = match edge.router.route(authority, request.uri().path()) {
        Target::Mcp { id } => (id, "/mcp"),
        Target::Sse { id } => (id, "/sse"),
        Target::Front => return admit_own(client, request, authority, Door::Page),
        Target::Claim => return admit_own(client, request, authority, Door::Claim),
        Target::Api => return admit_own(client, request, authority, Door::Api),
        Target::UnknownHost => return Err(Refusal::UnknownHost),
        Target::Screen { .. } if edge.front.as_ref().is_some_and(|f| f.locked()) => return Err(Refusal::Unclaimed),
        Target::Screen { id, at } => return Ok(Admitted::Screen(id, at)),
        Target::UnknownPath => return Err(Refusal::UnknownPath),
    };
    if cors::is_preflight(request.method(), headers) && check_origin(edge, headers, authority).is_ok() {
        return Ok(Admitted::Preflight);
    }
    if edge.front.as_ref().is_some_and(|f| f.locked()) {
        return Err(Refusal::Unclaimed);
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    if headers.contains_key(header::ORIGIN) {
        check_origin(edge, headers, authority)?;
    }
    let token = authenticate(edge, headers, Verb::Call, policy::Target::Instance(&id))?;
    if !client.permit.shown(&token) {
        return Err(Refusal::Crowded);
    }
    let link = edge.registry.get(id.as_str());
    let Some(link) = link else {
        return Err(match (edge.states)(&id) {
            Some(state @ (State::Stopped | State::Failed | State::Removing)) => Refusal::NotReady(state, None),
            // Not reached yet: the supervisor has only just started, or the instance has.
            state => Refusal::NotReady(state.unwrap_or(State::Pending), Some(1)),
        });
    };
    match link.state() {
        State::Running => Ok(Admitted::Instance(link, token, at)),
        State::Pending | State::Preparing | State::Starting => {
            Err(Refusal::NotReady(link.state(), Some(link.retry_after().unwrap_or(1))))
        }
        state => Err(Refusal::NotReady(state, None)),
    }
}

/// The same for one of the box's own doors.
fn admit_own(client: &Client, request: &Request<Incoming>, authority: &str, door: Door) -> Result<Admitted, Refusal> {
    let edge = &client.permit.edge;
    let Some(front) = &edge.front else {
        return Err(Refusal::UnknownPath);
    };
    if !own::method_served(door, request.method()) {
        return Err(Refusal::Method);
    }
    // Pages of other sites that may call instances have no business here.
    let mut origins = request.headers().get_all(header::ORIGIN).iter();
    if !origins.all(|o| o.to_str().is_ok_and(|o| edge.router.origin_is_ours(o, authority))) {
        return Err(Refusal::Origin);
    }
    let (by, token) = match door {
        // A claim is looked at wherever it comes from: only a wrong one is slowed down.
        Door::Page => (Principal::nobody(Via::Page), None),
        Door::Claim => (Principal::nobody(Via::Claim), None),
        Door::Api if front.locked() => return Err(Refusal::Unclaimed),
        Door::Api => {
            let token = authenticate(edge, request.headers(), Verb::UseApi, policy::Target::Box)?;
            (token.principal().clone(), Some(token))
        }
    };
    if token.as_ref().is_some_and(|t| !client.permit.shown(t)) {
        return Err(Refusal::Crowded);
    }
    Ok(Admitted::Own(own::Entry {
        front: Arc::clone(front),
        door,
        authority: authority.to_owned(),
        by,
        token,
    }))
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
