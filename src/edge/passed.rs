//! Which fields of an instance's answer reach the client. A list of what may: an instance speaks under the box's own
//! names, and whatever a browser or a client takes as said by the box (where to sign in, where to go next, what to keep,
//! who may read it, whom to report to, how to connect the next time) is not the instance's to say.

use http::{HeaderMap, HeaderName, StatusCode};

/// Whether a field passes.
fn passes(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "content-length"
            | "content-encoding"
            | "content-language"
            | "content-range"
            | "accept-ranges"
            | "cache-control"
            | "expires"
            | "age"
            | "vary"
            | "etag"
            | "last-modified"
            | "date"
            | "allow"
            | "accept-encoding"
            | "retry-after"
            // Ours is `nosniff` or nothing, and it can only forbid.
            | "x-content-type-options"
            // That what follows is a stream, for proxies on the way.
            | "x-accel-buffering"
            | "x-request-id"
            | "traceparent"
            | "tracestate"
            | "deprecation"
            | "sunset"
    ) || ["mcp-", "ratelimit", "x-ratelimit-"]
        .iter()
        .any(|p| name.starts_with(p))
}

/// The same for the answer that switches to another protocol.
fn passes_switching(name: &str) -> bool {
    passes(name) || name == "upgrade" || name.starts_with("sec-websocket-")
}

/// Takes out of an instance's answer what it may not say. As a rule that is nothing.
pub(super) fn clean(status: StatusCode, headers: &mut HeaderMap) {
    let passes = if status == StatusCode::SWITCHING_PROTOCOLS {
        passes_switching
    } else {
        passes
    };
    let gone: Vec<HeaderName> = headers.keys().filter(|n| !passes(n.as_str())).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_need_passes_and_what_browsers_obey_does_not() {
        let kept = "content-type mcp-session-id mcp-protocol-version cache-control retry-after etag x-accel-buffering \
                    allow accept-encoding x-ratelimit-remaining";
        let gone = "www-authenticate authentication-info location refresh set-cookie alt-svc strict-transport-security \
                    clear-site-data report-to reporting-endpoints nel service-worker-allowed link sourcemap x-sourcemap \
                    content-location content-disposition access-control-allow-origin access-control-allow-credentials \
                    access-control-expose-headers timing-allow-origin cross-origin-opener-policy origin-agent-cluster \
                    content-security-policy content-security-policy-report-only permissions-policy x-frame-options \
                    origin-trial accept-ch critical-ch no-vary-search speculation-rules public-key-pins expect-ct \
                    x-accel-redirect x-sendfile server via x-powered-by sec-websocket-accept upgrade x-anything";
        let mut headers = HeaderMap::new();
        for name in kept.split_whitespace().chain(gone.split_whitespace()) {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), "1".parse().unwrap());
        }
        let mut switching = headers.clone();
        clean(StatusCode::OK, &mut headers);
        let left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.len(), kept.split_whitespace().count(), "{left:?}");
        assert!(kept.split_whitespace().all(|k| headers.contains_key(k)));
        clean(StatusCode::SWITCHING_PROTOCOLS, &mut switching);
        assert!(switching.contains_key("sec-websocket-accept") && switching.contains_key("upgrade"));
        assert!(!switching.contains_key("set-cookie"));
    }
}
