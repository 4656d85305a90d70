//! Claiming over the network: what a stranger is told, and what they may send. Everything here answers somebody who has
//! shown nothing yet.

use bytes::Bytes;
use http::{Method, Request, StatusCode};

use super::{
    Backend,
    routes::{Answer, failed, json},
};
use crate::{
    api::{Claiming, RequestError},
    model::{Outcome, Principal, Refusal},
};

/// `GET` says hello, `POST` claims.
pub(super) async fn answer<B: Backend>(backend: &B, request: Request<Bytes>, by: Principal) -> Answer {
    if request.method() == Method::GET {
        return match backend.hello() {
            Ok(hello) => json(StatusCode::OK, &hello),
            Err(e) => failed(e),
        };
    }
    // What was sent may be a secret: it is not quoted.
    let Ok(claiming) = serde_json::from_slice::<Claiming>(request.body()) else {
        return failed(RequestError::NoClaim);
    };
    match backend.claim(claiming, by).await {
        Ok(outcome @ Outcome::Token(_)) => json(StatusCode::OK, &outcome),
        Ok(_) => failed(Refusal::fault("the claim made no token")),
        Err(e) => failed(e),
    }
}
