//! What the screen's page is made of: our own files beside this one, and noVNC's, which `build.rs` fetched. All of it
//! is in the binary. Assets stand under an address that changes with them, so that browsers keep them for good.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use sha2::{Digest, Sha256};

use super::super::body::EdgeBody;
use crate::door::Router;

include!(concat!(env!("OUT_DIR"), "/novnc.rs"));

const INDEX: &str = include_str!("page/index.html");
const CLOSED: &str = include_str!("page/closed.html");
const OWN: [(&str, &str); 3] = [
    ("screen.css", include_str!("page/screen.css")),
    ("screen.js", include_str!("page/screen.js")),
    ("icon.svg", include_str!("page/icon.svg")),
];

/// Names all assets as they are in this binary.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for (name, text) in OWN
        .iter()
        .map(|(n, t)| (n, t.as_bytes()))
        .chain(NOVNC.iter().map(|(n, b)| (n, *b)))
    {
        hash.update(name.as_bytes());
        hash.update(text);
    }
    crate::model::hex(&hash.finalize()[..8])
});

/// The page itself.
pub(super) fn page(router: &Router, id: &str) -> Response<EdgeBody> {
    let text = INDEX.replace("{version}", &VERSION).replace("{id}", id);
    let mut response = html(StatusCode::OK, text);
    let port = router.port_suffix();
    let frames = router
        .domain()
        .map(|d| format!(" https://{d}{port} https://app.{d}{port}"));
    let frames = frames.unwrap_or_default();
    // May stand in a frame of the console, and of nobody else.
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; \
         frame-ancestors 'self'{frames}; base-uri 'none'; form-action 'none'"
    );
    guard(&mut response, &policy);
    response
}

/// For somebody without a session: how to get one. Says nothing of the instance.
pub(super) fn no_session() -> Response<EdgeBody> {
    let mut response = html(StatusCode::FORBIDDEN, CLOSED);
    guard_closed(&mut response);
    response
}

/// After a ticket: sets the cookie and moves on to the page.
pub(super) fn opened(path: &str, cookie: &str) -> Response<EdgeBody> {
    let text = format!("<!doctype html><meta charset=utf-8><title>Berth</title><a href=\"{path}\">Open the screen</a>");
    let mut response = html(StatusCode::OK, text);
    guard_closed(&mut response);
    let headers = response.headers_mut();
    // The path is of our own making: ASCII.
    if let Ok(value) = HeaderValue::from_str(&format!("0; url={path}")) {
        headers.insert(header::REFRESH, value);
    }
    if let Ok(value) = HeaderValue::from_str(cookie) {
        headers.insert(header::SET_COOKIE, value);
    }
    response
}

/// To the same address with its slash.
pub(super) fn redirect(to: &str) -> Response<EdgeBody> {
    let mut response = html(StatusCode::PERMANENT_REDIRECT, "");
    if let Ok(value) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// `{version}/{name}`; of another version there is none.
pub(super) fn asset(path: &str) -> Option<Response<EdgeBody>> {
    let name = path.strip_prefix(VERSION.as_str())?.strip_prefix('/')?;
    let own = OWN.iter().find(|(n, _)| *n == name).map(|(_, t)| t.as_bytes());
    let novnc = || {
        let name = name.strip_prefix("novnc/")?;
        NOVNC.iter().find(|(n, _)| *n == name).map(|(_, b)| *b)
    };
    let bytes = own.or_else(novnc)?;
    let kind = match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    };
    let mut response = Response::new(EdgeBody::full(Bytes::from_static(bytes)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("public, max-age=31536000, immutable"),
    );
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Some(response)
}

/// An answer that is never kept.
fn html(status: StatusCode, body: impl Into<Bytes>) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::full(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn guard_closed(response: &mut Response<EdgeBody>) {
    let hash = CLOSED
        .split_once("<style>")
        .and_then(|(_, rest)| rest.split_once("</style>"))
        .map_or_else(String::new, |(style, _)| {
            use base64::{Engine, engine::general_purpose::STANDARD};
            STANDARD.encode(Sha256::digest(style.as_bytes()))
        });
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
    );
    guard(response, &policy);
}

fn guard(response: &mut Response<EdgeBody>, policy: &str) {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, value);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_the_page_names_is_there() {
        let page = page(&Router::new(Some("example.org"), 8443), "abcdefghij");
        let text = String::from_utf8(page.body().whole().unwrap().to_vec()).unwrap();
        let mut seen = 0;
        for part in text.split("assets/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(asset(name).is_some(), "{name}");
            seen += 1;
        }
        assert!(seen >= 3);
        assert!(
            !text.contains("{version}") && !text.contains(" style=") && !text.contains("<style"),
            "{text}"
        );
        let version = &*VERSION;
        for name in [
            "novnc/core/rfb.js",
            "novnc/vendor/pako/lib/zlib/inflate.js",
            "novnc/LICENSE.txt",
        ] {
            assert!(asset(&format!("{version}/{name}")).is_some(), "{name}");
        }
        for name in ["novnc/../screen.js", "novnc/package.json", ""] {
            assert!(asset(&format!("{version}/{name}")).is_none(), "{name}");
        }
        let policy = page.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("frame-ancestors 'self' https://example.org:8443 https://app.example.org:8443"));
        assert!(!policy.contains("unsafe"));
    }

    #[test]
    fn every_module_that_novnc_imports_is_embedded() {
        for (name, bytes) in NOVNC.iter().filter(|(n, _)| n.ends_with(".js")) {
            let text = std::str::from_utf8(bytes).unwrap();
            let folder = name.rsplit_once('/').unwrap().0;
            for from in text
                .lines()
                .filter(|l| l.starts_with("import "))
                .filter_map(|l| l.split('"').nth(1).or(l.split('\'').nth(1)))
            {
                let mut at: Vec<&str> = folder.split('/').collect();
                for part in from.split('/') {
                    match part {
                        "." => {}
                        ".." => drop(at.pop()),
                        part => at.push(part),
                    }
                }
                let want = at.join("/");
                assert!(NOVNC.iter().any(|(n, _)| *n == want), "{name} imports {from}");
            }
        }
    }
}
