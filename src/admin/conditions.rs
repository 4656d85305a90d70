//! Which version of a record a request is for: `If-Match` of writes, `If-None-Match` of reads (RFC 9110, section 13.1).

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use super::answers::{AdminResponse, empty, json};
use crate::{
    api::RequestError,
    model::{EntityTags, Etag, Record},
};

/// Which versions a write is for.
pub(super) fn of_write(headers: &HeaderMap) -> Result<Option<EntityTags>, RequestError> {
    if headers.contains_key(header::IF_NONE_MATCH) {
        let reason = "it is for reading; what is written takes If-Match";
        return Err(bad(&header::IF_NONE_MATCH, reason));
    }
    tags(headers, &header::IF_MATCH)
}

/// Which versions whoever reads has already.
pub(super) fn of_read(headers: &HeaderMap) -> Result<Option<EntityTags>, RequestError> {
    tags(headers, &header::IF_NONE_MATCH)
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<EntityTags>, RequestError> {
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let lines: Option<Vec<&str>> = lines.into_iter().map(|line| line.to_str().ok()).collect();
    let read = lines.and_then(|lines| EntityTags::parse(&lines.join(",")));
    let reason =
        r#"it is * or a list of ETags, each in double quotes as an answer or a list has it: "0123456789abcdef""#;
    read.map(Some).ok_or_else(|| bad(name, reason))
}

fn bad(name: &HeaderName, reason: &str) -> RequestError {
    let field = match *name {
        header::IF_MATCH => "If-Match",
        _ => "If-None-Match",
    };
    RequestError::BadPrecondition {
        field: field.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A record with its tag; the tag alone for whoever has that version.
pub(super) fn tagged(record: &impl Serialize, etag: &Etag, had: Option<&EntityTags>) -> AdminResponse {
    let mut answer = match had {
        Some(had) if had.has_weakly(etag) => {
            let mut same = empty();
            *same.status_mut() = StatusCode::NOT_MODIFIED;
            same
        }
        _ => json(StatusCode::OK, record),
    };
    if let Ok(etag) = HeaderValue::from_str(&etag.to_string()) {
        answer.headers_mut().insert(header::ETAG, etag);
    }
    answer
}

/// The same of a record of any kind, as its list shows it.
pub(super) fn record(record: &Record, had: Option<&EntityTags>) -> AdminResponse {
    match record {
        Record::Instance(view) => tagged(view, &view.etag, had),
        Record::Workspace(view) => tagged(view, &view.etag, had),
        Record::Member(view) => tagged(view, &view.etag, had),
        Record::Team(view) => tagged(view, &view.etag, had),
        Record::Grant(view) => tagged(view, &view.etag, had),
        Record::Token(view) => tagged(view, &view.etag, had),
    }
}
