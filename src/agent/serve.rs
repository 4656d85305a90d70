//! The paths that the agent serves to the supervisor (see `model::order`), as HTTP.
//!
//! Knows no protocol: `/mcp` goes to the bridge or the proxy, `/sse` to the bridge, the rest to the orders and the board.

use std::rc::Rc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::hub::Hub;
use super::orders::{Endpoint, Orders, Taken};
use super::slot::{Body, Head, Keep, Marked, OnDrop, Served, Slot};
use super::{proxy, screen};
use crate::budget::{Refused as NoRoom, collect};
use crate::mcp::bridge::SSE;
use crate::mcp::{codes, message};
use crate::model::{Forget, Forgotten, StartOrder};

/// A start order may have so many bytes.
const MAX_ORDER: usize = 1024 * 1024;
const MCP: &str = "/mcp";

/// Answers one request; `mark` lives until the answer is sent.
pub(super) async fn serve(orders: Rc<Orders>, req: Request<Incoming>, mark: Keep) -> Served {
    let (status, headers, body) = match (req.method(), req.uri().path()) {
        (_, MCP | SSE) => match mcp(&orders, req).await {
            Ok((head, body)) => (head.status, head.headers, body),
            Err((status, code, text)) => failure(status, code, &text),
        },
        (&Method::POST, "/.berth/start") => start(&orders, req).await,
        (&Method::POST, "/.berth/forget") => forget(&orders, req).await,
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
    let body = match collect(req.into_body(), MAX_ORDER, &orders.budget).await {
        Ok((body, _)) => body,
        Err(why) => return failure(why.status(), why.code(), &why.to_string()),
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

/// Ends what principals have here: their public ids in (`Forget`), how many sessions there were out (`Forgotten`).
async fn forget(orders: &Rc<Orders>, req: Request<Incoming>) -> Parts {
    let body = match collect(req.into_body(), MAX_ORDER, &orders.budget).await {
        Ok((body, _)) => body,
        Err(why) => return failure(why.status(), why.code(), &why.to_string()),
    };
    let Ok(Forget { principals }) = serde_json::from_slice(&body) else {
        return failure(StatusCode::BAD_REQUEST, codes::INVALID_REQUEST, "no list of principals");
    };
    let one = |principal: &String| match orders.endpoint() {
        Some(Endpoint::Bridge(hub)) => {
            let mut ended = 0;
            hub.with(|b, now| ended = b.forget(now, principal, Forget::WHY));
            ended
        }
        Some(Endpoint::Proxy(place)) => place.translator.forget(principal, Forget::WHY),
        None => 0,
    };
    let sessions = principals.iter().map(one).sum();
    let text = serde_json::to_vec(&Forgotten { sessions }).unwrap_or_default();
    typed(StatusCode::OK, "application/json", text.into())
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
        Endpoint::Proxy(place) => proxied(orders, &place, req).await,
    }
}

/// A service that speaks HTTP itself.
async fn proxied(orders: &Orders, place: &proxy::Place, req: Request<Incoming>) -> Result<(Head, Body), Refused> {
    let split = |parts: http::response::Parts| Head {
        status: parts.status,
        headers: parts.headers,
        body: None,
    };
    if place.translator.takes(&req).await {
        let (parts, body) = place.translator.serve(req).await.into_parts();
        return Ok((split(parts), Body::Translated(body)));
    }
    if req.uri().path() == SSE {
        let text = "this server speaks HTTP itself: its endpoint is /mcp".to_owned();
        return Err((StatusCode::NOT_FOUND, codes::NOT_FOUND, text));
    }
    match proxy::pass(place, &orders.switches, req).await {
        Ok(answer) => {
            let (parts, body) = answer.into_parts();
            Ok((split(parts), Body::Proxied(body)))
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
    }
}

async fn bridge(orders: &Orders, hub: &Rc<Hub>, req: Request<Incoming>) -> Result<(Head, Body), Refused> {
    let (parts, body) = req.into_parts();
    let (body, charge) = match parts.method {
        Method::POST => collect(body, orders.max_message(), &orders.budget)
            .await
            .map_err(unread)?,
        _ => (Bytes::new(), None),
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
    hub.with(|b, now| b.request_of(now, wire, &parts, &body));
    drop((parts, body, charge));
    let mut head = Slot::wait_head(&slot).await;
    let body = match head.body.take() {
        Some(bytes) => Body::Full((!bytes.is_empty()).then_some(bytes)),
        None => Body::Stream(slot, Box::new(at_end)),
    };
    Ok((head, body))
}

/// What is wrong with a body, as it is told.
fn unread(why: NoRoom) -> Refused {
    (why.status(), why.code(), why.to_string())
}
