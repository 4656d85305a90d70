//! The box's own doors, once a request may enter: its body as the door takes it, the [`Front`]'s answer, and when that ends.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    authenticate::Shown,
    body::{Drain, EdgeBody, Ends, Over, until},
    conn::Client,
    front::{Asked, Front, FrontBody, Upload},
    respond::{Refusal, protect},
    sent::ClientBody,
    state::Edge,
};
use crate::door::Door;

/// A wrong claim is answered so much later, at least.
const CLAIM_DELAY: Duration = Duration::from_millis(500);
/// A request that may enter: where, by which name, and as whom.
pub(super) struct Entry {
    pub(super) front: Arc<dyn Front>,
    pub(super) door: Door,
    pub(super) authority: String,
    pub(super) shown: Shown,
}

/// Answers.
pub(super) async fn serve(
    client: &Arc<Client>,
    entry: Entry,
    incoming: Request<Incoming>,
) -> Result<Response<EdgeBody>, Refusal> {
    let edge = &client.permit.edge;
    let limits = &edge.config.limits;
    let (parts, incoming) = incoming.into_parts();
    let resumable = parts.method == Method::GET;
    let bounds = entry.door.bounds(parts.method.as_str(), parts.uri.path());
    let limit = bounds.body.bytes(limits.body_bytes);
    let http2 = parts.version == http::Version::HTTP_2;
    let head_only = parts.method == Method::HEAD;
    let sent = ClientBody::new(client, &parts.headers, incoming);
    let by = entry.shown.principal();
    let exchange = async {
        let (body, upload, patience) = if let Some(patience) = bounds.answer {
            let pieces = sent.pieces(limit, limits.client_timeout)?;
            (Bytes::new(), Some(Upload(pieces)), patience)
        } else {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let body = sent.collect(limit, limits.client_timeout).await?;
            (body, None, limits.first_byte_timeout)
        };
        let asked = Asked {
            door: entry.door,
            authority: entry.authority,
            by,
            request: Request::from_parts(parts, body),
            upload,
        };
        let answer = tokio::time::timeout(patience, entry.front.answer(asked));
        answer.await.map_err(|_| Refusal::FirstByte)
    };
    let (mut cut, expires_at, over) = match &entry.shown {
        Shown::Nothing(_) => return whole(edge, client, exchange.await?, head_only).await,
        Shown::Token(token) => {
            let cut = Over::Token(Box::pin(token.cut().fired()));
            if token.cut().is_cut() {
                return Err(Refusal::RevokedToken);
            }
            (cut, token.expires_at(), Refusal::RevokedToken)
        }
        Shown::Session(session) => {
            let ended = edge.config.sessions.ended(session);
            (Over::Session(Box::pin(ended)), None, Refusal::SessionOver)
        }
    };
    let answer = tokio::select! {
        biased;
        answer = exchange => answer?,
        () = &mut cut => return Err(over),
    };
    let ends = Ends {
        cut,
        expiry: expires_at.map(|at| Box::pin(tokio::time::sleep(until(at)))),
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
