//! Errors as they travel: problems of RFC 9457, with a `code` and the fields of the error beside it.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::codes::Code;
use crate::model::{InstanceId, Refusal, coded};

/// The media type of a problem.
pub const PROBLEM: &str = "application/problem+json";

coded! {
    /// Why a request came to nothing before anything was asked of the box.
    pub enum RequestError {
        #[error("there is no {method} {path} in the admin API")]
        "no-route" NoRoute { method: String, path: String },
        #[error("the method is not allowed there")]
        "bad-method" BadMethod,
        #[error("{path}: there is no parameter {parameter:?}; its parameters are: {}", listed(known))]
        "no-such-parameter" NoSuchParameter { path: String, parameter: String, known: Vec<String> },
        #[error("{path}: the parameter {parameter} cannot be {value:?}{}", choice(known))]
        "bad-parameter" BadParameter {
            path: String,
            parameter: String,
            value: String,
            /// What it may be: each of some words, or how it is written.
            known: Vec<String>,
        },
        #[error("the part of the path that stands for an instance is malformed: percent-encode it as UTF-8 (in {path})")]
        "bad-path" BadPath { path: String },
        #[error("{field} is no time as RFC 3339 has it: write one such as 2027-01-31T10:00:00Z")]
        "bad-time" BadTime { field: String },
        #[error("a request has one Idempotency-Key at most, of 1 to {longest} visible ASCII characters")]
        "bad-idempotency-key" BadIdempotencyKey { longest: usize },
        #[error("the header field {field} cannot be read: {reason}")]
        "bad-precondition" BadPrecondition { field: String, reason: String },
        #[error("the body cannot be read ({limit} bytes at most): {reason}")]
        "body-unread" BodyUnread { limit: usize, reason: String },
        #[error("the request has both {first} and {second}: give the one that is meant")]
        "both-of" BothOf { first: String, second: String },
        #[error("{of} has no field {field:?}; its fields are: {}", listed(known))]
        "unknown-field" UnknownField { of: String, field: String, known: Vec<String> },
        #[error("the body is not an action: {error} error at line {line}, column {column}")]
        "no-action" NoAction { error: String, line: usize, column: usize },
        #[error(r#"the body is not a claim: {{"by":"code","code":"…"}}"#)]
        "no-claim" NoClaim,
        #[error("the body does not ask for a screen: {reason}")]
        "no-screen-request" NoScreenRequest { reason: String },
        #[error("this box uses your own certificate files: trust their CA")]
        "no-ca" NoCa,
        #[error("{id} did not get there within {ms} ms")]
        "not-yet" NotYet { id: InstanceId, ms: u64 },
        #[error("{}", streams(whose, *limit))]
        "too-many-streams" TooManyStreams {
            /// `you`: they are all of whoever asks; `all`: of everybody together.
            whose: String,
            limit: usize,
        },
        #[error("the box is starting or stopping; try again")]
        "starting" Starting,
    }
}

fn streams(whose: &str, limit: usize) -> String {
    match whose {
        "you" => format!("you follow on {limit} streams already, which is the most for one person: end one of them"),
        _ => format!("the box has {limit} streams of events already, which is the most: try again later"),
    }
}

fn listed(all: &[String]) -> String {
    if all.is_empty() {
        "none".to_owned()
    } else {
        all.join(", ")
    }
}

fn choice(known: &[String]) -> String {
    match known {
        [] => String::new(),
        [one] => format!(": write {one}"),
        several => format!(": write one of {}", several.join(", ")),
    }
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Error {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl Error {
    /// A word for programs, which stays as it is whatever the sentence says.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Request(e) => e.code(),
            Error::Refused(e) => e.code(),
        }
    }
}

/// An error as it is sent (RFC 9457, section 3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:berth:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of its code.
    pub title: String,
    /// The status of the answer.
    pub status: u16,
    /// What went wrong this time, for people. It names no verb of the CLI.
    pub detail: String,
    /// What programs look at: a row of [`super::CODES`].
    pub code: String,
    /// The fields of the error.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Problem {
    /// A problem without fields.
    pub fn plain(code: &str, detail: impl Into<String>) -> Self {
        // A code without a row is a fault of ours; a test keeps it from being one.
        let (status, title) = Code::find(code).map_or((500, "A fault of the box"), |row| (row.status, row.title));
        Self {
            kind: format!("urn:berth:problem:{code}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            code: code.to_owned(),
            fields: Map::new(),
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<&Error> for Problem {
    fn from(e: &Error) -> Self {
        let mut problem = Problem::plain(e.code(), e.to_string());
        if let Ok(Value::Object(mut fields)) = serde_json::to_value(e) {
            fields.remove("code");
            problem.fields = fields;
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Counted, Credential, CredentialKind};

    fn sent(e: impl Into<Error>) -> Value {
        serde_json::to_value(Problem::from(&e.into())).unwrap()
    }

    #[test]
    fn a_problem_has_the_members_of_the_rfc_and_the_fields_of_its_error() {
        let full = Refusal::Full {
            what: Counted::Instances,
            limit: 3,
        };
        assert_eq!(
            sent(full),
            serde_json::json!({
                "type": "urn:berth:problem:full",
                "title": "The box is full",
                "status": 507,
                "detail": "the box is full: 3 instances at most; remove some first",
                "code": "full",
                "what": "instances",
                "limit": 3
            })
        );
        let problem = sent(Refusal::Claimed);
        assert_eq!(problem.as_object().unwrap().len(), 5, "{problem}");
    }

    #[test]
    fn an_error_is_the_same_on_the_other_side() {
        let key = Credential {
            key: "KEY".into(),
            label: "a key".into(),
            kind: CredentialKind::Password,
            help: "Ask.".into(),
            required: true,
            pattern: None,
        };
        let all: [Error; 4] = [
            Refusal::Claimed.into(),
            Refusal::Credentials {
                of: None,
                missing: vec![key],
                wrong: Vec::new(),
            }
            .into(),
            RequestError::Starting.into(),
            RequestError::NoAction {
                error: "Syntax".into(),
                line: 1,
                column: 2,
            }
            .into(),
        ];
        for e in all {
            let problem = sent(e.clone());
            assert_eq!(serde_json::from_value::<Error>(problem).unwrap(), e);
        }
        assert!(serde_json::from_value::<Error>(serde_json::json!({ "code": "of-tomorrow" })).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_request_is_4xx_and_faults_of_the_box_are_5xx() {
        let reason = || "why".to_owned();
        for (refusal, status, code) in [
            (Refusal::no_instance("x"), 404, "no-instance"),
            (Refusal::NotPermitted, 403, "not-permitted"),
            (Refusal::BadTokenName, 422, "bad-token-name"),
            (
                Refusal::Removing {
                    id: InstanceId::parse("aaaaaaaaaa").unwrap(),
                },
                409,
                "removing",
            ),
            (Refusal::fault("why"), 500, "fault"),
            (Refusal::Store { reason: reason() }, 500, "store"),
            (Refusal::unavailable("why"), 503, "unavailable"),
            (Refusal::NoDoctor { reason: reason() }, 503, "no-doctor"),
            (Refusal::NoTools { reason: reason() }, 502, "no-tools"),
            (Refusal::Stopping, 503, "stopping"),
        ] {
            let problem = Problem::from(&Error::from(refusal));
            assert_eq!((problem.status, problem.code.as_str()), (status, code));
        }
    }
}
