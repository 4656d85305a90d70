//! Answers of the admin API: JSON, text, problems. Errors become problems here only.

use std::{collections::BTreeMap, convert::Infallible};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use serde::Serialize;

use crate::{
    api::{Error, PROBLEM, Problem},
    model::Refusal,
};

/// An answer of the admin API.
pub type AdminResponse = Response<BoxBody<Bytes, Infallible>>;

/// The parameters of a query.
pub(super) fn pairs(query: &str) -> BTreeMap<&str, &str> {
    query.split('&').filter_map(|p| p.split_once('=')).collect()
}

/// An error as a problem of RFC 9457.
pub(super) fn failed(e: impl Into<Error>) -> AdminResponse {
    let problem = Problem::from(&e.into());
    let mut answer = json(problem.status(), &problem);
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    if problem.code == Refusal::KeyInUse.code() {
        let soon = HeaderValue::from_static("1");
        answer.headers_mut().insert(header::RETRY_AFTER, soon);
    }
    answer
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> AdminResponse {
    match serde_json::to_string(value) {
        Ok(s) => text(status, "application/json", s),
        Err(e) => failed(Refusal::fault(e)),
    }
}

/// Nothing, and that is all right.
pub(super) fn empty() -> AdminResponse {
    let mut answer = Response::new(Full::default().boxed());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

pub(super) fn text(status: StatusCode, kind: &'static str, s: String) -> AdminResponse {
    plain(status, kind, Full::new(Bytes::from(s)).boxed())
}

pub(super) fn plain(status: StatusCode, kind: &'static str, body: BoxBody<Bytes, Infallible>) -> AdminResponse {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
