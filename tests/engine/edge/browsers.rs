//! What clients in browsers get: a browser asks before it sends a token (preflight), and shows a page no answer that does
//! not name its origin.

use super::rig::{Body, Rig, body_of, json_of};
use berth::model::State;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;

/// The request that a browser sends before a page's own.
fn preflight(rig: &Rig, host: &str, path: &str, origin: &str) -> Request<Body> {
    let mut request = rig.post(host, path, "");
    *request.method_mut() = http::Method::OPTIONS;
    let headers = request.headers_mut();
    headers.remove("authorization");
    headers.insert("origin", origin.parse().unwrap());
    headers.insert("access-control-request-method", "POST".parse().unwrap());
    headers.insert(
        "access-control-request-headers",
        "authorization,content-type,mcp-param-region".parse().unwrap(),
    );
    request
}

fn from_page(mut request: Request<Body>, origin: &str) -> Request<Body> {
    request.headers_mut().insert("origin", origin.parse().unwrap());
    request
}

/// Whether a browser lets a page of this origin read it (Fetch, "CORS check").
fn readable(response: &Response<Incoming>, origin: &str) -> bool {
    let headers = response.headers();
    let varies = headers.get_all("vary").iter().any(|v| v == "Origin");
    headers.get("access-control-allow-origin").is_some_and(|o| o == origin) && varies
}

/// Names in a field that is a list, in lower case.
fn list(headers: &HeaderMap, name: &str) -> Vec<String> {
    let text = headers.get(name).map_or("", |v| v.to_str().unwrap());
    text.split(',').map(|n| n.trim().to_ascii_lowercase()).collect()
}

const PAGES: [&str; 5] = [
    "https://inspector.test",
    "https://localhost",
    "http://localhost:6274",
    "http://127.0.0.1:6274",
    "http://[::1]:6274",
];

#[tokio::test]
async fn a_preflight_needs_no_token() {
    let rig = Rig::start().await;
    for http2 in [false, true] {
        for (host, path) in [
            (rig.host(), "/mcp".to_owned()),
            ("localhost".into(), format!("/mcp/{}", rig.id)),
            ("localhost".into(), format!("/{}/mcp", rig.id)),
            // Who has no token does not learn whether an instance exists.
            ("localhost".into(), "/mcp/abcdefghij".to_owned()),
        ] {
            let mut client = rig.client(&host, http2).await;
            for origin in PAGES {
                let response = client.send(preflight(&rig, &host, &path, origin)).await.unwrap();
                assert_eq!(response.status(), 204, "{host} {path} {origin}");
                assert!(readable(&response, origin), "{:?}", response.headers());
                let headers = response.headers();
                assert!(!headers.contains_key("access-control-allow-credentials"));
                let methods = list(headers, "access-control-allow-methods");
                assert!(
                    ["get", "post", "delete"]
                        .iter()
                        .all(|m| methods.contains(&(*m).to_owned()))
                );
                let fields = list(headers, "access-control-allow-headers");
                // `*` is never `Authorization`.
                for name in "authorization content-type accept mcp-session-id mcp-protocol-version last-event-id \
                             mcp-method mcp-name *"
                    .split_whitespace()
                {
                    assert!(fields.contains(&name.to_owned()), "{name} not in {fields:?}");
                }
                assert!(body_of(response).await.is_empty());
            }
            for origin in ["https://evil.org", "null", "https://inspector.test.evil.org"] {
                let response = client.send(preflight(&rig, &host, &path, origin)).await.unwrap();
                assert_eq!(response.status(), 403, "{origin}");
                assert!(!response.headers().contains_key("access-control-allow-origin"));
                body_of(response).await;
            }
        }
    }
    assert_eq!(rig.link.stats().requests, 0, "none of it reached the instance");
}

#[tokio::test]
async fn pages_read_answers_and_errors_alike() {
    let rig = Rig::start().await;
    let host = rig.host();
    let mut client = rig.client(&host, true).await;
    for origin in PAGES {
        let response = client
            .send(from_page(rig.post(&host, "/mcp", ""), origin))
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{origin}");
        assert!(readable(&response, origin), "{:?}", response.headers());
        let exposed = list(response.headers(), "access-control-expose-headers");
        for name in [
            "mcp-session-id",
            "mcp-protocol-version",
            "www-authenticate",
            "retry-after",
        ] {
            assert!(exposed.contains(&name.to_owned()), "{name} not in {exposed:?}");
        }
        // The instance hears nothing of it.
        assert!(json_of(response).await["headers"]["origin"].is_null());
    }
    let page = PAGES[0];
    // What the instance itself says about who may read is not what counts.
    let response = client
        .send(from_page(rig.with(&host, "headers", &rig.token), page))
        .await
        .unwrap();
    assert!(readable(&response, page));
    assert!(!response.headers().contains_key("access-control-allow-credentials"));
    body_of(response).await;
    let mut nobody = from_page(rig.post(&host, "/mcp", ""), page);
    nobody.headers_mut().remove("authorization");
    let response = client.send(nobody).await.unwrap();
    assert!(response.status() == 401 && readable(&response, page));
    assert!(response.headers().contains_key("www-authenticate"));
    body_of(response).await;
    let response = client
        .send(from_page(rig.with(&host, "echo", "wrong"), page))
        .await
        .unwrap();
    assert!(response.status() == 401 && readable(&response, page));
    body_of(response).await;
    rig.link.set_state(State::Starting, None);
    let response = client.send(from_page(rig.post(&host, "/mcp", ""), page)).await.unwrap();
    assert!(response.status() == 503 && readable(&response, page));
    body_of(response).await;
    rig.link.set_state(State::Running, None);
    let big = "x".repeat(super::rig::BODY_LIMIT + 1);
    let response = client
        .send(from_page(rig.post(&host, "/mcp", &big), page))
        .await
        .unwrap();
    assert!(response.status() == 413 && readable(&response, page));
    body_of(response).await;
    // Everybody else's answers are as they were.
    let mut client = rig.client(&host, false).await;
    let response = client.send(rig.post(&host, "/mcp", "")).await.unwrap();
    assert!(response.status() == 200 && !response.headers().contains_key("vary"));
    body_of(response).await;
    let evil = from_page(rig.post(&host, "/mcp", ""), "https://evil.org");
    let response = client.send(evil).await.unwrap();
    assert!(response.status() == 403 && !response.headers().contains_key("access-control-allow-origin"));
}
