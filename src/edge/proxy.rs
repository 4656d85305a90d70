//! What clients ask of an instance, and its answers.
//!
//! What does not reach the instance: `Authorization` and `Cookie` (the client's secrets), hop-by-hop fields and those
//! that `Connection` names (RFC 9110 section 7.6.1), `Forwarded` and `X-Forwarded-*` (the client could lie in them),
//! and `Origin` (validated here; the server inside knows no outside name). In place of `Authorization` goes the token's
//! public id, as [`head::PRINCIPAL`]: the agent keeps clients apart by it. What a client says there, or in [`head::PATH`],
//! is replaced. What of its answer reaches the client is in [`passed`].

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;

use super::{
    body::{self, Drain, EdgeBody, Ends, Over, until},
    calls::{self, listens},
    conn::Client,
    passed,
    respond::Refusal,
    sent::ClientBody,
    state::Edge,
    trail::Trail,
    upgrade,
};
use crate::{
    authz::{CallPlace, Pass},
    link::{self, Link, Payload, Reply},
    mcp::head,
    model::{InstanceId, State},
};

/// The link to an instance that is serving.
pub(super) fn link(edge: &Edge, id: &InstanceId) -> Result<Arc<Link>, Refusal> {
    let Some(link) = edge.registry.get(id.as_str()) else {
        return Err(match (edge.states)(id) {
            Some(state @ (State::Stopped | State::Failed | State::Removing)) => Refusal::NotReady(state, None),
            // Not reached yet: the supervisor has only just started, or the instance has.
            state => Refusal::NotReady(state.unwrap_or(State::Pending), Some(1)),
        });
    };
    match link.state() {
        State::Running => Ok(link),
        State::Pending | State::Preparing | State::Starting => {
            Err(Refusal::NotReady(link.state(), Some(link.retry_after().unwrap_or(1))))
        }
        state => Err(Refusal::NotReady(state, None)),
    }
}

/// Passes a request on, and its answer back. `sent` gets what the client sent, where that is small.
pub(super) async fn serve(
    client: &Arc<Client>,
    (link, at): (&Arc<Link>, &str),
    (pass, place): (&Pass, CallPlace),
    mut request: Request<Incoming>,
    (sent, trail): (&mut Bytes, &mut Option<Box<Trail>>),
) -> Result<Response<EdgeBody>, Refusal> {
    let edge = &client.permit.edge;
    let token = pass.token();
    let mut cut = Over::of(pass).ok_or(Refusal::RevokedToken)?;
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
        let mut payload = incoming
            .payload(sends, limits.body_bytes as u64, limits.client_timeout)
            .await?;
        if let Payload::Whole(bytes) = &payload {
            *sent = bytes.clone();
            calls::enter_batch(edge, &place, bytes)?;
        }
        if let Some(trail) = trail.as_mut() {
            match &mut payload {
                Payload::None => {}
                Payload::Whole(bytes) => trail.sends(bytes),
                Payload::Stream { source, length } => source.watched_by(trail.sends_on(*length)),
            }
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
    let further = trail.as_mut().map_or(0, |t| t.further());
    if further > 0 {
        place.had_more(&edge.gates, further);
    }
    let resumable = listens(&parts.method, &parts.headers);
    let expiry = token.expires_at().map(|at| Box::pin(tokio::time::sleep(until(at))));
    let drain = (resumable || head::is_event_stream(&reply.headers)).then(|| Drain::new(&edge.drain, resumable));
    let place = Some(place);
    let ends = Ends {
        cut,
        expiry,
        drain,
        place,
    };
    if let (Some(switched), Some(upgraded)) = (reply.switched, switching) {
        let response = switching_response(reply.status, reply.headers);
        let mut trail = trail.take();
        if let Some(trail) = &mut trail {
            trail.switches(response.status());
        }
        tokio::spawn(upgrade::relay(Arc::clone(client), upgraded, switched, (ends, trail)));
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
