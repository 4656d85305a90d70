//! Claiming over the network: what a stranger is told, and what they may send. Everything here answers somebody who has
//! shown nothing yet.

use std::error::Error;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Collected, Limited};
use hyper::body::Body;

use super::{
    Backend, MAX_BODY,
    answers::{AdminResponse, failed, json},
};
use crate::{
    api::{Claiming, RequestError},
    model::{Outcome, Principal, Refusal},
};

/// `GET` says hello, `POST` claims.
pub(super) async fn answer<B: Backend, R>(backend: &B, request: Request<R>, by: Principal) -> AdminResponse
where
    R: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    if request.method() == Method::GET {
        return match backend.hello() {
            Ok(hello) => json(StatusCode::OK, &hello),
            Err(e) => failed(e),
        };
    }
    // What was sent may be a secret: it is not quoted.
    let sent = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let sent = sent.map(Collected::to_bytes).unwrap_or_default();
    // A list of its values would be taken as well.
    let object = serde_json::from_slice::<serde_json::Map<_, _>>(&sent);
    let Ok(claiming) = object.and_then(|o| serde_json::from_value::<Claiming>(o.into())) else {
        return failed(RequestError::NoClaim);
    };
    match backend.claim(claiming, by).await {
        Ok(outcome @ Outcome::Token(_)) => json(StatusCode::OK, &outcome),
        Ok(_) => failed(Refusal::fault("the claim made no token")),
        Err(e) => failed(e),
    }
}
