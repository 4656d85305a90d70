//! The paths that the agent serves to the supervisor (see `model::order`), as HTTP.
//!
//! Knows no protocol: `/mcp` goes to the bridge or the proxy, `/sse` to the bridge, the rest to the orders and the board.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::budget::{Budget, Charge, SMALL};
use super::hub::Hub;
use super::orders::{Endpoint, Orders, Taken};
use super::slot::{Body, Head, Keep, Marked, OnDrop, Served, Slot};
use super::{proxy, screen};
use crate::mcp::bridge::{asks_for_one, named};
use crate::mcp::{codes, head, message};
use crate::model::StartOrder;

/// A start order may have so many bytes.
const MAX_ORDER: usize = 1024 * 1024;
const MCP: &str = "/mcp";
/// The endpoint of the transport of 2024-11-05.
const SSE: &str = "/sse";

/// Answers one request; `mark` lives until the answer is sent.
pub(super) async fn serve(orders: Rc<Orders>, req: Request<Incoming>, mark: Keep) -> Served {
    let (status, headers, body) = match (req.method(), req.uri().path()) {
        (_, MCP | SSE) => match mcp(&orders, req).await {
            Ok((head, body)) => (head.status, head.headers, body),
            Err((status, code, text)) => failure(status, code, &text),
        },
        (&Method::POST, "/.berth/start") => start(&orders, req).await,
        (&Method::GET, "/.berth/screen") => match screen::pass(orders.screen(), req).await {
            Ok(headers) => (StatusCode::SWITCHING_PROTOCOLS, headers, Body::Full(None)),
            Err((status, why)) => failure(status, codes::NOT_READY, why),
        },
        (&Method::GET, "/.berth/events") => events(&orders),
        (&Method::GET, "/.berth/status") => {
            let text = serde_json::to_vec(&orders.board.status()).unwrap_or_default();
            typed(StatusCode::OK, "application/json", text.into())
        }
        (&Method::GET, "/.berth/health") => match orders.health().await {
            None => (StatusCode::NO_CONTENT, http::HeaderMap::new(), Body::Full(None)),
            Some(why) => typed(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", why.into()),
        },
        _ => failure(StatusCode::NOT_FOUND, codes::NOT_FOUND, "no such path"),
    };
    let body = match body {
        Body::Full(Some(bytes)) => Body::Full(Some(orders.budget.hold(bytes))),
        other => other,
    };
    let mut response = Response::new(Marked(body, mark));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

type Parts = (StatusCode, http::HeaderMap, Body);
type Refused = (StatusCode, i64, String);

fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Parts {
    let mut headers = http::HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    (status, headers, Body::Full(Some(body)))
}

fn failure(status: StatusCode, code: i64, text: &str) -> Parts {
    let mut parts = typed(status, "application/json", message::error("", code, text, None).into());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        parts.1.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    parts
}

async fn start(orders: &Rc<Orders>, req: Request<Incoming>) -> Parts {
    let body = match collect(req, MAX_ORDER, &orders.budget).await {
        Ok((_, body, _)) => body,
        Err((status, code, text)) => return failure(status, code, &text),
    };
    // The parser's own text could quote a credential: say where, not what.
    let order: StartOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(e) => {
            let text = format!(
                "the start order is not valid at line {}, column {}",
                e.line(),
                e.column()
            );
            return failure(StatusCode::BAD_REQUEST, codes::INVALID_REQUEST, &text);
        }
    };
    match orders.take(order) {
        Taken::Yes => (StatusCode::NO_CONTENT, http::HeaderMap::new(), Body::Full(None)),
        Taken::Other => failure(
            StatusCode::CONFLICT,
            codes::INVALID_REQUEST,
            "another spec runs here already",
        ),
    }
}

fn events(orders: &Rc<Orders>) -> Parts {
    let slot = orders.board.listen();
    let end = Rc::clone(&slot);
    let keep: Keep = Box::new(OnDrop(Some(move || end.dead.set(true))));
    let mut parts = typed(StatusCode::OK, "application/x-ndjson", Bytes::new());
    parts.2 = Body::Stream(slot, keep);
    parts
}

async fn mcp(orders: &Rc<Orders>, req: Request<Incoming>) -> Result<(Head, Body), Refused> {
    let unready = || {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            codes::NOT_READY,
            "the server is not ready".to_owned(),
        )
    };
    if orders.stopping() {
        return Err(unready());
    }
    match orders.endpoint().ok_or_else(unready)? {
        Endpoint::Bridge(hub) => bridge(orders, &hub, req).await,
        Endpoint::Proxy(_) if req.uri().path() == SSE => {
            let text = "this server speaks HTTP itself: its endpoint is /mcp".to_owned();
            Err((StatusCode::NOT_FOUND, codes::NOT_FOUND, text))
        }
        Endpoint::Proxy(place) => match proxy::pass(&place, &orders.switches, req).await {
            Ok(answer) => {
                let (parts, body) = answer.into_parts();
                Ok((
                    Head {
                        status: parts.status,
                        headers: parts.headers,
                        body: None,
                    },
                    Body::Proxied(body),
                ))
            }
            Err(proxy::Fault::Away(why)) => {
                let text = format!("the server does not answer on its port: {why}");
                Err((StatusCode::BAD_GATEWAY, codes::SERVER_GONE, text))
            }
            Err(proxy::Fault::Moved(why)) => {
                let text = orders.secrets().redact(&why);
                Err((StatusCode::BAD_GATEWAY, codes::SERVER_GONE, text))
            }
            Err(proxy::Fault::Full) => {
                let text = "as many connections as there may be speak another protocol, try again".to_owned();
                Err((StatusCode::SERVICE_UNAVAILABLE, codes::BUSY, text))
            }
        },
    }
}

async fn bridge(orders: &Orders, hub: &Rc<Hub>, req: Request<Incoming>) -> Result<(Head, Body), Refused> {
    let (parts, body, charge) = match *req.method() {
        Method::POST => collect(req, orders.max_message(), &orders.budget).await?,
        _ => (req.into_parts().0, Bytes::new(), None),
    };
    if hub.closed() {
        return Err((
            StatusCode::SERVICE_UNAVAILABLE,
            codes::NOT_READY,
            "the server is being restarted".to_owned(),
        ));
    }
    let (wire, slot) = hub.wire();
    let at_end = {
        let hub = Rc::clone(hub);
        OnDrop(Some(move || hub.drop_wire(wire)))
    };
    hub.with(|b, now| {
        let (headers, old) = (&parts.headers, parts.uri.path() == SSE);
        match (&parts.method, named(parts.uri.query())) {
            (&Method::POST, Some(channel)) => b.post_channel(now, wire, headers, channel, &body),
            (&Method::GET, _) if old || asks_for_one(headers) => {
                let path = head::text(headers, head::PATH).unwrap_or(parts.uri.path());
                b.open_channel(now, wire, headers, path);
            }
            _ if old => b.not_allowed(wire, "GET"),
            (&Method::POST, None) => b.post(now, wire, headers, &body),
            (&Method::GET, _) => b.get(now, wire, headers),
            (&Method::DELETE, _) => b.delete(now, wire, headers),
            _ => b.not_allowed(wire, "GET, POST, DELETE"),
        }
    });
    drop((parts, body, charge));
    let mut head = Slot::wait_head(&slot).await;
    let body = match head.body.take() {
        Some(bytes) => Body::Full((!bytes.is_empty()).then_some(bytes)),
        None => Body::Stream(slot, Box::new(at_end)),
    };
    Ok((head, body))
}

type Collected = (http::request::Parts, Bytes, Option<Charge>);

/// Reads a whole body, `limit` bytes at most and within the budget. The usual case, one small piece, is neither copied
/// nor counted. What there is no room for is read all the same, and forgotten: a client that is still sending when it is
/// refused may lose the answer with the connection.
async fn collect(req: Request<Incoming>, limit: usize, budget: &Budget) -> Result<Collected, Refused> {
    let limit = limit.min(budget.limit());
    let too_long = || {
        let text = format!("the body may have {limit} bytes at most");
        (StatusCode::PAYLOAD_TOO_LARGE, codes::LIMIT, text)
    };
    let (parts, mut body) = req.into_parts();
    let declared = parts
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    if declared > limit {
        return Err(too_long());
    }
    let mut charge = match declared {
        0..=SMALL => None,
        more => match budget.take(more) {
            Some(charge) => Some(charge),
            None => return Err(no_room(body, limit).await),
        },
    };
    let mut counted = declared.max(SMALL);
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let broken = |e: hyper::Error| (StatusCode::BAD_REQUEST, codes::INVALID_REQUEST, e.to_string());
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        let length = first.len() + rest.len() + data.len();
        if length > limit {
            return Err(too_long());
        }
        if length > counted {
            if !charge.get_or_insert_with(|| budget.force(0)).grow(length - counted) {
                drop((first, rest, charge));
                return Err(no_room(body, limit - length).await);
            }
            counted = length;
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(declared.max(length));
            }
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    Ok((parts, if rest.is_empty() { first } else { rest.freeze() }, charge))
}

/// Reads the rest of a body, `left` bytes at most, for nothing but the manners.
async fn no_room(mut body: Incoming, mut left: usize) -> Refused {
    while let Some(Ok(frame)) = body.frame().await {
        match frame.data_ref().map_or(0, Bytes::len) {
            n if n > left => break,
            n => left -= n,
        }
    }
    let text = "messages on their way take all the memory that they may, try again".to_owned();
    (StatusCode::SERVICE_UNAVAILABLE, codes::BUSY, text)
}
