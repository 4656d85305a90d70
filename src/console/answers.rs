//! Answers of the console: pages with their policy, redirects to paths of our own, cookies.

use std::convert::Infallible;

use askama::Template;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};

use crate::session::Cookie;

/// An answer of the console.
pub type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Where browsers report what a page was not allowed to do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'; report-uri /csp-reports; report-to csp";
const ENDPOINTS: (HeaderName, &str) = (HeaderName::from_static("reporting-endpoints"), "csp=\"/csp-reports\"");
/// A page tells no other site where somebody was, and its own forms say that they are its own.
const REFERRER: &str = "same-origin";
/// What pages may ask a browser for: nothing but to copy.
const PERMISSIONS: (HeaderName, &str) = (
    HeaderName::from_static("permissions-policy"),
    "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
);

/// A page.
pub(super) fn page(status: StatusCode, template: &impl Template) -> Answer {
    let Ok(text) = template.render() else {
        return plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain; charset=utf-8",
            "The page could not be made.",
        );
    };
    let mut answer = plain(status, "text/html; charset=utf-8", text);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static(REFERRER));
    for (name, value) in [ENDPOINTS, PERMISSIONS] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// To another page of the console, whose path is one of ours.
pub(super) fn redirect(to: &'static str) -> Answer {
    let mut answer = empty();
    *answer.status_mut() = StatusCode::SEE_OTHER;
    answer
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_static(to));
    answer
}

pub(super) fn plain(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed());
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// Nothing, and that is all right.
pub(super) fn empty() -> Answer {
    let mut answer = Response::new(Full::default().boxed());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// Gives a browser something to keep for so many seconds.
pub(super) fn keep(answer: &mut Answer, cookie: &Cookie, secret: &str, life: u64) {
    if let Ok(value) = HeaderValue::from_str(&cookie.set(secret, life)) {
        answer.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// Tells whoever guessed how long to wait.
pub(super) fn wait(mut answer: Answer, seconds: u64) -> Answer {
    *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    answer
}
