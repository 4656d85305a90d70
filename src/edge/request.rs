//! One request, from its head to the head of its answer: limits -> host and path -> Origin -> token -> state -> link.
//! What pages of other origins may read is in [`cors`].
//! The first that refuses answers. Somebody without a token of an instance gets the same answer whether it exists or
//! not.
//!
//! What does not reach the instance: `Authorization` and `Cookie` (the client's secrets), hop-by-hop fields and those
//! that `Connection` names (RFC 9110 section 7.6.1), `Forwarded` and `X-Forwarded-*` (the client could lie in them),
//! and `Origin` (validated here; the server inside knows no outside name). In place of `Authorization` goes the token's
//! public id, as [`head::PRINCIPAL`]: the agent keeps clients apart by it. What a client says there, or in [`head::PATH`],
//! is replaced. What of its answer reaches the client is in [`passed`].

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

use super::{
    Edge,
    body::{self, ClientBody, Drain, EdgeBody, Ends, Held},
    conn::Client,
    cors,
    front::{self, Door},
    passed,
    respond::{Refusal, or_slowed},
    screen, upgrade,
};
use crate::{
    authz::{NoToken, Token, bearer},
    link::{self, Link, Payload, Reply, stats::InFlight},
    mcp::head,
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
        Ok(Admitted::Own(entry)) => front::serve(&client, entry, request).await,
        Ok(Admitted::Preflight) => {
            discard(&client, request).await;
            Ok(cors::preflight())
        }
        Ok(Admitted::Screen(id, at)) => screen::serve(&client, id, at, request).await,
        Ok(Admitted::Instance(link, token, at)) => {
            held.link = Some(InFlight::begin(Arc::clone(link.counters())));
            let answer = proxy(&client, (&link, at), &token, request, &mut sent).await;
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
    Own(front::Entry),
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
    if !front::method_served(door, request.method()) {
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
    Ok(Admitted::Own(front::Entry {
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

fn check_origin(edge: &Edge, headers: &HeaderMap, authority: &str) -> Result<(), Refusal> {
    for origin in headers.get_all(header::ORIGIN) {
        if !origin.to_str().is_ok_and(|o| cors::may_call(edge, o, authority)) {
            return Err(Refusal::Origin);
        }
    }
    Ok(())
}

/// The token of a request, where its principal may do this.
fn authenticate(
    edge: &Edge,
    headers: &HeaderMap,
    verb: Verb,
    target: policy::Target<'_>,
) -> Result<Arc<Token>, Refusal> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = given.next() else {
        return Err(Refusal::NoToken);
    };
    if given.next().is_some() {
        return Err(Refusal::BadToken);
    }
    let token = bearer(value.as_bytes()).ok_or(Refusal::BadToken)?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = now.as_secs().cast_signed();
    let token = edge.tokens.authenticate(token, now).map_err(|e| match e {
        NoToken::Unknown => Refusal::BadToken,
        NoToken::Expired => Refusal::ExpiredToken,
    })?;
    if !policy::may(token.principal(), verb, target).is_allowed() {
        return Err(Refusal::WrongSubject);
    }
    token.used(now);
    Ok(token)
}

async fn proxy(
    client: &Arc<Client>,
    (link, at): (&Arc<Link>, &str),
    token: &Arc<Token>,
    mut request: Request<Incoming>,
    sent: &mut Bytes,
) -> Result<Response<EdgeBody>, Refusal> {
    let edge = &client.permit.edge;
    let mut cut = Box::pin(token.cut().fired());
    if token.cut().is_cut() {
        return Err(Refusal::RevokedToken);
    }
    let switching = upgrade::asked(&request).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, incoming) = request.into_parts();
    let incoming = ClientBody::new(client, &parts.headers, incoming);
    let principal = HeaderValue::from_str(token.id().as_str()).map_err(|_| Refusal::BadToken)?;
    parts.headers.insert(PRINCIPAL, principal);
    match HeaderValue::from_str(parts.uri.path()) {
        Ok(path) if parts.method == Method::GET => drop(parts.headers.insert(PATH, path)),
        _ => drop(parts.headers.remove(PATH)),
    }
    let target = match parts.uri.query() {
        None => std::borrow::Cow::Borrowed(at),
        Some(query) => format!("{at}?{query}").into(),
    };
    let named = named_by_connection(&parts.headers);
    let outgoing = link::Request {
        method: &parts.method,
        target: &target,
        headers: &parts.headers,
        skip: &|name| stays_here(name) || named.contains(name),
        upgrade: switching.as_ref().and(parts.headers.get(header::UPGRADE)),
    };
    let limits = &edge.config.limits;
    let exchange = async {
        let sends = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
        let payload = incoming
            .payload(sends, limits.body_bytes, limits.client_timeout)
            .await?;
        if let Payload::Whole(bytes) = &payload {
            *sent = bytes.clone();
        }
        // Streams that clients listen on have no call's time.
        let first_byte = match parts.method {
            Method::POST => link.patience().of(limits.first_byte_timeout),
            _ => limits.first_byte_timeout,
        };
        let reply = link.call(&outgoing, payload, first_byte).await;
        reply.map_err(|e| match e {
            // The links are the next supervisor's by now.
            link::CallError::Closed if edge.drain.is_cut() => Refusal::Busy,
            e => Refusal::from(e),
        })
    };
    let reply = tokio::select! {
        biased;
        reply = exchange => reply?,
        () = &mut cut => return Err(Refusal::RevokedToken),
    };
    let resumable = parts.method == Method::GET || names(&parts.headers, "mcp-method", b"subscriptions/listen");
    let expiry = token.expires_at().map(|at| Box::pin(tokio::time::sleep(until(at))));
    let drain = (resumable || is_event_stream(&reply.headers)).then(|| Drain::new(&edge.drain, resumable));
    let ends = Ends { cut, expiry, drain };
    if let (Some(switched), Some(upgraded)) = (reply.switched, switching) {
        let response = switching_response(reply.status, reply.headers);
        tokio::spawn(upgrade::relay(Arc::clone(client), upgraded, switched, ends));
        return Ok(response);
    }
    let reply = Reply {
        switched: None,
        ..reply
    };
    answer(client, reply, ends, parts.version == Version::HTTP_2)
}

fn answer(client: &Client, mut reply: Reply, ends: Ends, http2: bool) -> Result<Response<EdgeBody>, Refusal> {
    let whole = reply.body.whole().map_err(|_| Refusal::Garbled)?;
    let body = match whole {
        Some(bytes) => EdgeBody::full(bytes),
        None => {
            let (body, progress) = EdgeBody::stream(body::Source::Link(reply.body), ends, client.clock);
            if http2 {
                client.watch(&progress);
            }
            body
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    passed::clean(reply.status, &mut reply.headers);
    *response.headers_mut() = reply.headers;
    Ok(response)
}

fn switching_response(status: StatusCode, mut headers: HeaderMap) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::full(bytes::Bytes::new()));
    *response.status_mut() = status;
    passed::clean(status, &mut headers);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    *response.headers_mut() = headers;
    response
}

const PRINCIPAL: HeaderName = HeaderName::from_static(head::PRINCIPAL);
const PATH: HeaderName = HeaderName::from_static(head::PATH);

fn stays_here(name: &HeaderName) -> bool {
    *name == header::AUTHORIZATION
        || *name == header::COOKIE
        || *name == header::ORIGIN
        || *name == header::FORWARDED
        || *name == header::EXPECT
        || name.as_str().starts_with("x-forwarded-")
        || name.as_str() == "x-real-ip"
}

/// Fields that `Connection` declares to be of this hop only.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let options = lines.flat_map(|line| line.as_bytes().split(|b| *b == b','));
    let names = options.filter_map(|o| HeaderName::from_bytes(o.trim_ascii()).ok());
    names
        .filter(|n| n.as_str() != "keep-alive" && *n != header::UPGRADE && *n != PRINCIPAL && *n != PATH)
        .collect()
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    kind.get(..17)
        .is_some_and(|k| k.eq_ignore_ascii_case(b"text/event-stream"))
}

fn names(headers: &HeaderMap, field: &str, value: &[u8]) -> bool {
    headers.get(field).is_some_and(|v| v.as_bytes() == value)
}

pub(super) fn until(unix: i64) -> Duration {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or(0));
    end.duration_since(SystemTime::now()).unwrap_or_default()
}
