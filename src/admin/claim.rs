//! Claiming over the network: what a stranger is told, and what they may send. Everything here answers somebody who has
//! shown nothing yet.

use bytes::Bytes;
use http::{Method, Request, StatusCode};

use super::{
    Backend,
    routes::{Answer, error, json, refused},
};
use crate::{
    api::Claiming,
    model::{Outcome, Principal, Refusal},
};

/// Why a claim came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("the claim code is wrong; the box's screen and `berth status` on it show the right one")]
    WrongCode,
    #[error("the signature is not by the key that may claim this box, or came too late; try again")]
    WrongKey,
    #[error("this box was given no key that may claim it: use the code on its screen")]
    NoKey,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// `GET` says hello, `POST` claims.
pub(super) async fn answer<B: Backend>(backend: &B, request: Request<Bytes>, by: Principal) -> Answer {
    if request.method() == Method::GET {
        return match backend.hello() {
            Ok(hello) => json(StatusCode::OK, &hello),
            Err(e) => refused(&e),
        };
    }
    // What was sent may be a secret: it is not quoted.
    let Ok(claiming) = serde_json::from_slice::<Claiming>(request.body()) else {
        return error(
            StatusCode::BAD_REQUEST,
            r#"the body is not a claim: {"by":"code","code":"…"}"#,
        );
    };
    match backend.claim(claiming, by).await {
        Ok(outcome @ Outcome::Token(_)) => json(StatusCode::OK, &outcome),
        Ok(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the claim made no token"),
        Err(ClaimError::Refused(r)) => refused(&r),
        Err(e @ ClaimError::NoKey) => error(StatusCode::FORBIDDEN, &e.to_string()),
        Err(e) => error(StatusCode::UNAUTHORIZED, &e.to_string()),
    }
}
