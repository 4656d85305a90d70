//! Who asks: by the token of the request, and whether its page may.

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, header};

use super::{cors, respond::Refusal, state::Edge};
use crate::{
    authz::{NoToken, Token, bearer},
    policy::{self, Verb},
};

pub(super) fn check_origin(edge: &Edge, headers: &HeaderMap, authority: &str) -> Result<(), Refusal> {
    for origin in headers.get_all(header::ORIGIN) {
        if !origin.to_str().is_ok_and(|o| cors::may_call(edge, o, authority)) {
            return Err(Refusal::Origin);
        }
    }
    Ok(())
}

/// The token of a request, where its principal may do this.
pub(super) fn authenticate(
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
