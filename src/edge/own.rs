//! The box's own doors, once a request may enter: its body as the door takes it, the [`Front`]'s answer, and when that ends.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    body::{Drain, EdgeBody, Ends, until},
    conn::Client,
    front::{Asked, Door, Front, FrontBody, Upload},
    respond::{Refusal, protect},
    sent::ClientBody,
    state::Edge,
};
use crate::{authz::Token, model::Principal};

/// What a claim may send, in bytes.
const CLAIM_BYTES: usize = 4096;
/// What an action may send, in bytes, where the edge's own limit is not lower.
const API_BYTES: usize = 1024 * 1024;
/// A wrong claim is answered so much later, at least.
const CLAIM_DELAY: Duration = Duration::from_millis(500);
/// Where uploads go; all other bodies are held until they are whole.
const UPLOADS: &str = "/api/v1/images";
/// An upload may be this long, in bytes, and take so long with what is done with it.
const UPLOAD_BYTES: u64 = 32 << 30;
const UPLOAD_TIME: Duration = Duration::from_secs(3600);

/// A request that may enter: where, by which name, and as whom.
pub(super) struct Entry {
    pub(super) front: Arc<dyn Front>,
    pub(super) door: Door,
    pub(super) authority: String,
    pub(super) by: Principal,
    /// A member's, for the API.
    pub(super) token: Option<Arc<Token>>,
}

/// Which methods a door knows.
pub(super) fn method_served(door: Door, method: &Method) -> bool {
    match door {
        Door::Page => matches!(*method, Method::GET | Method::HEAD),
        Door::Claim => matches!(*method, Method::GET | Method::POST),
        Door::Api => !matches!(*method, Method::CONNECT | Method::TRACE | Method::OPTIONS),
    }
}

pub(super) async fn serve(
    client: &Arc<Client>,
    entry: Entry,
    incoming: Request<Incoming>,
) -> Result<Response<EdgeBody>, Refusal> {
    let edge = &client.permit.edge;
    let limits = &edge.config.limits;
    let (parts, incoming) = incoming.into_parts();
    let resumable = parts.method == Method::GET;
    let limit = match entry.door {
        Door::Page => 0,
        Door::Claim => CLAIM_BYTES,
        Door::Api => API_BYTES.min(limits.body_bytes),
    };
    let http2 = parts.version == http::Version::HTTP_2;
    let head_only = parts.method == Method::HEAD;
    let uploads = entry.door == Door::Api && parts.method == Method::POST && parts.uri.path() == UPLOADS;
    let sent = ClientBody::new(client, &parts.headers, incoming);
    let exchange = async {
        let (body, upload, patience) = if uploads {
            let pieces = sent.pieces(UPLOAD_BYTES, limits.client_timeout)?;
            (Bytes::new(), Some(Upload(pieces)), UPLOAD_TIME)
        } else {
            let body = sent.collect(limit, limits.client_timeout).await?;
            (body, None, limits.first_byte_timeout)
        };
        let asked = Asked {
            door: entry.door,
            authority: entry.authority,
            by: entry.by,
            request: Request::from_parts(parts, body),
            upload,
        };
        let answer = tokio::time::timeout(patience, entry.front.answer(asked));
        answer.await.map_err(|_| Refusal::FirstByte)
    };
    let Some(token) = entry.token else {
        return whole(edge, client, exchange.await?, head_only).await;
    };
    let mut cut = Box::pin(token.cut().fired());
    if token.cut().is_cut() {
        return Err(Refusal::RevokedToken);
    }
    let answer = tokio::select! {
        biased;
        answer = exchange => answer?,
        () = &mut cut => return Err(Refusal::RevokedToken),
    };
    let ends = Ends {
        cut,
        expiry: token.expires_at().map(|at| Box::pin(tokio::time::sleep(until(at)))),
        drain: (resumable && !edge.drain.is_cut()).then(|| Drain::new(&edge.drain, true)),
    };
    let (mut parts, body) = answer.into_parts();
    protect(&mut parts.headers);
    let (body, progress) = EdgeBody::stream(body.into(), ends, client.clock);
    if http2 {
        client.watch(&progress);
    }
    Ok(Response::from_parts(parts, body))
}

/// An answer without a token's end to watch for: it is short. A wrong claim goes out late, and says 429 where the
/// client's address has made too many.
async fn whole(
    edge: &Edge,
    client: &Client,
    answer: Response<FrontBody>,
    head_only: bool,
) -> Result<Response<EdgeBody>, Refusal> {
    let (mut parts, body) = answer.into_parts();
    protect(&mut parts.headers);
    let bytes = match body.collect().await {
        Ok(all) => all.to_bytes(),
        Err(never) => match never {},
    };
    if parts.status == StatusCode::UNAUTHORIZED {
        let slowed = edge.failed(client.permit.from);
        edge.delay(slowed.delay.max(CLAIM_DELAY)).await;
        if let Some(wait) = slowed.wait {
            return Err(Refusal::TooManyFailures(wait));
        }
    }
    if !head_only {
        return Ok(Response::from_parts(parts, EdgeBody::full(bytes)));
    }
    parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    Ok(Response::from_parts(parts, EdgeBody::full(Bytes::new())))
}
