//! A service that speaks Streamable HTTP itself: requests are passed to it on loopback as they are, streaming both
//! ways, protocol switches included. Never buffers a body.
//!
//! Many services redirect their endpoint to one with a slash at its end. No client could follow that, to an address on the
//! container's own loopback, and no body is kept to follow it here. So the probe follows it, before the instance is ready
//! ([`Place`]), and requests go to where it ended.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, LOCATION, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::switch::{self, Switches};
use crate::mcp::head;

/// The request that tells a live MCP endpoint: whatever it answers, it is there.
const PING: &str = r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;
/// Not for servers: see [`head::PRINCIPAL`].
const PRINCIPAL: HeaderName = HeaderName::from_static(head::PRINCIPAL);
const PATH: HeaderName = HeaderName::from_static(head::PATH);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Redirects that are followed one after the other.
const MAX_REDIRECTS: usize = 5;
/// Of where a service redirects to, so many characters go into words.
const SHOWN: usize = 200;

/// Where a service's MCP endpoint is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) port: u16,
    /// As the order says, or where that redirects to.
    path: RefCell<Rc<str>>,
    /// The endpoint has answered there.
    found: Cell<bool>,
}

impl Place {
    pub(super) fn new(port: u16, path: &str) -> Rc<Self> {
        Rc::new(Self {
            port,
            path: RefCell::new(path.into()),
            found: Cell::new(false),
        })
    }

    fn path(&self) -> Rc<str> {
        Rc::clone(&self.path.borrow())
    }

    /// Whether the endpoint has answered.
    pub(super) fn is_found(&self) -> bool {
        self.found.get()
    }

    /// An MCP request: fine when the endpoint answers at all, with anything but a server error. Redirects that keep method
    /// and body (RFC 9110 sections 15.4.8 and 15.4.9) are followed within the service, and remembered.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn probe(&self) -> Result<(), Trouble> {
        let port = self.port;
        let mut path = self.path();
        for _ in 0..=MAX_REDIRECTS {
            let (status, headers) = match ask(port, Method::POST, &path, PING).await {
                Ok(answer) => answer,
                Err(why) => return Err(Trouble::Fault(format!("the MCP endpoint on port {port}: {why}"))),
            };
            if status.is_server_error() {
                return Err(Trouble::Fault(format!(
                    "the MCP endpoint on port {port} answers {status}"
                )));
            }
            match redirected(port, &path, status, &headers) {
                None => {
                    *self.path.borrow_mut() = path;
                    self.found.set(true);
                    return Ok(());
                }
                Some(Redirect::Here(next)) if keeps_method(status) => path = next.into(),
                Some(redirect) => return Err(Trouble::Moved(moved(port, &path, status, &redirect))),
            }
        }
        Err(Trouble::Moved(format!(
            "the MCP endpoint on port {port} redirects more than {MAX_REDIRECTS} times: name the path that it is at"
        )))
    }
}

/// What a probe of an endpoint finds wrong.
pub(super) enum Trouble {
    /// It redirects where nobody can follow.
    Moved(String),
    Fault(String),
}

/// Where a service redirects to.
#[derive(Debug, PartialEq, Eq)]
enum Redirect {
    /// Another path of its own.
    Here(String),
    /// Anywhere else, or nowhere.
    Away(String),
}

fn keeps_method(status: StatusCode) -> bool {
    matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT)
}

/// What an answer redirects to, if it does.
fn redirected(port: u16, path: &str, status: StatusCode, headers: &HeaderMap) -> Option<Redirect> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = headers.get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
    Some(resolve(port, path, location))
}

/// A `Location` (RFC 3986 section 5) as the service on this port means it. Its query is not part of the endpoint.
fn resolve(port: u16, path: &str, location: &str) -> Redirect {
    let away = || Redirect::Away(location.chars().take(SHOWN).collect());
    let bare = location.split(['?', '#']).next().unwrap_or_default();
    let after = bare.strip_prefix("//").or_else(|| match bare.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => Some(rest),
        _ => None,
    });
    let target = match after {
        Some(rest) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let (host, own_port) = match rest[..end].rsplit_once(':') {
                Some((host, p)) if !p.ends_with(']') => (host, p.parse().ok()),
                _ => (&rest[..end], Some(80)),
            };
            let own = matches!(host, "127.0.0.1" | "[::1]" | "0.0.0.0") || host.eq_ignore_ascii_case("localhost");
            if !own || own_port != Some(port) {
                return away();
            }
            if end == rest.len() { "/" } else { &rest[end..] }.to_owned()
        }
        None if bare.contains("://") || bare.is_empty() => return away(),
        None if bare.starts_with('/') => bare.to_owned(),
        // Relative to the path's folder.
        None => format!("{}{bare}", &path[..path.rfind('/').map_or(0, |at| at + 1)]),
    };
    match Uri::try_from(&*target) {
        Ok(uri) if uri.authority().is_none() && target.starts_with('/') => Redirect::Here(target),
        _ => away(),
    }
}

fn moved(port: u16, path: &str, status: StatusCode, redirect: &Redirect) -> String {
    match redirect {
        Redirect::Here(to) => {
            let to: String = to.chars().take(SHOWN).collect();
            format!(
                "{path} on port {port} redirects ({}) to {to}: name that path, as in --http {port}{to}",
                status.as_u16()
            )
        }
        Redirect::Away(to) => format!(
            "{path} on port {port} redirects ({}) to {to:?}, which is not the service itself: name the path of its MCP endpoint",
            status.as_u16()
        ),
    }
}

/// Why a request was not passed on.
pub(super) enum Fault {
    /// The service redirects all the same; what to do about it.
    Moved(String),
    /// The service does not answer.
    Away(String),
    /// There are as many switched connections as there may be.
    Full,
}

/// Passes one request on.
pub(super) async fn pass(
    place: &Place,
    switches: &Switches,
    mut req: Request<Incoming>,
) -> Result<Response<Incoming>, Fault> {
    let away = |e: &dyn std::fmt::Display| Fault::Away(e.to_string());
    let (port, path) = (place.port, place.path());
    let query = req.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    *req.uri_mut() = Uri::try_from(format!("{path}{query}")).map_err(|e| away(&e))?;
    let switch = match switch::offered(req.headers()) {
        Some(protocol) => {
            let permit = switches.enter().ok_or(Fault::Full)?;
            Some((protocol, hyper::upgrade::on(&mut req), permit))
        }
        None => None,
    };
    for name in [CONNECTION, UPGRADE, TRANSFER_ENCODING, KEEP_ALIVE, PRINCIPAL, PATH] {
        req.headers_mut().remove(name);
    }
    let host = HeaderValue::try_from(format!("127.0.0.1:{port}")).map_err(|e| away(&e))?;
    req.headers_mut().insert(HOST, host);
    if let Some((protocol, ..)) = &switch {
        switch::offer(req.headers_mut(), protocol.clone());
    }
    let mut answer = send(port, req).await.map_err(|e| away(&e))?;
    if let Some(redirect) = redirected(port, &path, answer.status(), answer.headers()) {
        return Err(Fault::Moved(moved(port, &path, answer.status(), &redirect)));
    }
    let agreed = switch::offered(answer.headers()).filter(|_| answer.status() == StatusCode::SWITCHING_PROTOCOLS);
    for name in [CONNECTION, TRANSFER_ENCODING, KEEP_ALIVE] {
        answer.headers_mut().remove(name);
    }
    match (agreed, switch) {
        (Some(protocol), Some((_, supervisor, permit))) => {
            let service = hyper::upgrade::on(&mut answer);
            switch::offer(answer.headers_mut(), protocol);
            tokio::task::spawn_local(switch::between(supervisor, service, permit));
        }
        _ if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
            return Err(away(&"it switched to a protocol that nobody asked for"));
        }
        _ => {}
    }
    Ok(answer)
}

async fn send<B>(port: u16, req: Request<B>) -> Result<Response<Incoming>, String>
where
    B: http_body::Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    // The connection ends with its one exchange, or when either side drops its half.
    tokio::task::spawn_local(async move {
        let _ = connection.with_upgrades().await;
    });
    sender.send_request(req).await.map_err(|e| e.to_string())
}

/// `GET` on loopback: `None` when it answers 2xx.
pub(super) async fn probe(port: u16, path: &str) -> Option<String> {
    match ask(port, Method::GET, path, "").await {
        Ok((status, _)) if status.is_success() => None,
        Ok((status, _)) => Some(format!("GET {path} on port {port} answers {status}")),
        Err(why) => Some(format!("GET {path} on port {port}: {why}")),
    }
}

async fn ask(port: u16, method: Method, path: &str, body: &'static str) -> Result<(StatusCode, HeaderMap), String> {
    let req = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, format!("127.0.0.1:{port}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .map_err(|e| e.to_string())?;
    let answer = send(port, req).await?;
    let (parts, body) = answer.into_parts();
    // A stream need not end; the head is all that was asked for.
    drop(body.into_data_stream());
    Ok((parts.status, parts.headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_within_the_service_are_told_from_others() {
        let here = |to: &str| Redirect::Here(to.to_owned());
        for (location, want) in [
            ("http://127.0.0.1:8080/mcp/", here("/mcp/")),
            ("HTTP://LocalHost:8080/mcp/?x=1#y", here("/mcp/")),
            ("//[::1]:8080/mcp/", here("/mcp/")),
            ("http://127.0.0.1:8080", here("/")),
            ("/a/b", here("/a/b")),
            ("mcp/", here("/v1/mcp/")),
        ] {
            assert_eq!(resolve(8080, "/v1/mcp", location), want, "{location}");
        }
        for location in [
            "",
            "?x=1",
            "http://127.0.0.1:9090/mcp/",
            "http://127.0.0.1/mcp/",
            "https://127.0.0.1:8080/mcp/",
            "http://example.org:8080/mcp/",
            "http://127.0.0.1:8080@example.org/",
            "http://127.0.0.1:8080.example.org/",
            "//example.org/",
            "/a b",
        ] {
            let got = resolve(8080, "/mcp", location);
            assert_eq!(got, Redirect::Away(location.to_owned()), "{location}");
        }
    }
}
