//! Calls by browser pages to MCP endpoints (WHATWG Fetch, "CORS protocol"). A page of an origin that may call is told so in
//! every answer, errors included: a browser shows it no answer without that. Its preflight is answered without a token,
//! which browsers never send with one. Cookies are not part of it: there is no `Access-Control-Allow-Credentials`, so
//! what a page may do is what the token that it holds may do.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::{body::EdgeBody, state::Edge};
use crate::door::origin;

/// What pages read of an answer besides its body and the fields that Fetch lets everybody read.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("Mcp-Session-Id, Mcp-Protocol-Version, WWW-Authenticate, Retry-After");
/// What pages may send. `*` stands for everything but `Authorization` (Fetch, "CORS non-wildcard request-header name"):
/// the names of `Mcp-Param-*` (2026-07-28) are the tools' own.
const ALLOWED: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Accept, Mcp-Session-Id, Mcp-Protocol-Version, Last-Event-ID, Mcp-Method, Mcp-Name, *",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
/// For how long a browser need not ask again, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// Whether a page of this origin may call MCP endpoints: ours, those of the person's own machine, those that the
/// configuration names.
pub(super) fn may_call(edge: &Edge, origin: &str, authority: &str) -> bool {
    edge.router.origin_is_ours(origin, authority)
        || origin::is_loopback(origin)
        || edge.config.allowed_origins.iter().any(|a| a == origin)
}

/// The origin that the answer to this request has to name. None where it is no page's, or of one that may not call.
pub(super) fn caller(edge: &Edge, headers: &HeaderMap, authority: &str) -> Option<HeaderValue> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (origin, None) = (origins.next()?, origins.next()) else {
        return None;
    };
    may_call(edge, origin.to_str().ok()?, authority).then(|| origin.clone())
}

/// Whether a browser asks beforehand if a page may send its request (Fetch, "CORS-preflight request").
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to that; who may call is said by [`tell`].
pub(super) fn preflight() -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::full(bytes::Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ] {
        response.headers_mut().insert(name, value);
    }
    response
}

/// Lets a page of this origin read an answer.
pub(super) fn tell(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(header::VARY, ORIGIN);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_is_no_other_options_request() {
        let mut headers = HeaderMap::new();
        assert!(!is_preflight(&Method::OPTIONS, &headers));
        headers.insert(header::ORIGIN, HeaderValue::from_static("http://localhost:6274"));
        assert!(!is_preflight(&Method::OPTIONS, &headers));
        headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        assert!(is_preflight(&Method::OPTIONS, &headers));
        assert!(!is_preflight(&Method::POST, &headers));
    }

    #[test]
    fn what_the_instance_says_of_caches_stays() {
        let mut answer = preflight();
        let headers = answer.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        tell(headers, HeaderValue::from_static("https://tools.example.org"));
        let vary: Vec<&HeaderValue> = headers.get_all(header::VARY).iter().collect();
        assert_eq!(vary, ["Accept", "Origin"]);
        assert_eq!(
            headers[header::ACCESS_CONTROL_ALLOW_ORIGIN],
            "https://tools.example.org"
        );
        assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }
}
