//! A service that speaks HTTP itself: requests are passed to it on loopback as they are, streaming both ways, protocol
//! switches included. Never buffers a body. Clients that have no protocol era in common with it, and all clients of one
//! that has the transport of 2024-11-05 alone, are translated (`translator`).
//!
//! Many services redirect their endpoint to one with a slash at its end. No client could follow that, to an address on the
//! container's own loopback, and no body is kept to follow it here. So the probe follows it, before the instance is ready
//! ([`Place`]), and requests go to where it ended. Whether an MCP server is there, [`greet`] finds out.
//!
//! [`greet`]: super::greet

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, LOCATION, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::greet::{Greeting, PING};
use super::journal;
use super::redact::Patterns;
use super::switch::{self, Switches};
use crate::budget::Budget;
use crate::mcp::bridge::Config;
use crate::mcp::client_side::{Outgoing, Target};
use crate::mcp::head;
use crate::translator::{self, Sent, Server, Translator, Unanswered};

/// Not for servers: see [`head::PRINCIPAL`].
const PRINCIPAL: HeaderName = HeaderName::from_static(head::PRINCIPAL);
const PATH: HeaderName = HeaderName::from_static(head::PATH);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Redirects that are followed one after the other.
const MAX_REDIRECTS: usize = 5;
/// Of where a service redirects to, and of what it says, so many characters go into words.
const SHOWN: usize = 200;

/// Where a service's MCP endpoint is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) port: u16,
    path: Path,
    /// The endpoint has answered there.
    found: Cell<bool>,
    /// What is known of the server there.
    pub(super) greeting: Greeting,
    /// For clients that cannot be passed on.
    pub(super) translator: Translator,
}

/// The endpoint's path: as the order says, or where that redirects to.
#[derive(Debug, Clone)]
struct Path(Arc<Mutex<Arc<str>>>);

impl Path {
    fn get(&self) -> Arc<str> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, path: Arc<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }
}

/// The service as the translator reaches it.
struct Loopback {
    port: u16,
    path: Path,
    secrets: Arc<Patterns>,
}

impl Server for Loopback {
    fn send(&self, out: Outgoing) -> Sent {
        let (port, path, secrets) = (self.port, self.path.get(), self.secrets.clone());
        let target = match out.target {
            Target::Endpoint => path.to_string(),
            Target::Path(path) => path,
        };
        Box::pin(async move {
            let answer = ask(port, &out.method, &target, &out.headers, &out.body).await;
            let answer = answer.map_err(Unanswered)?;
            match redirected(port, &path, answer.status(), answer.headers()) {
                Some(redirect) => Err(Unanswered(secrets.redact(&moved(
                    port,
                    &path,
                    answer.status(),
                    &redirect,
                )))),
                None => Ok(answer),
            }
        })
    }

    fn path(&self) -> String {
        self.path.get().to_string()
    }

    fn log(&self, text: &str) {
        journal::say("translator", &self.secrets.redact(text));
    }
}

impl Place {
    pub(super) fn new(port: u16, path: &str, secrets: Arc<Patterns>, config: Config, budget: Budget) -> Rc<Self> {
        let path = Path(Arc::new(Mutex::new(path.into())));
        let server = Loopback {
            port,
            path: path.clone(),
            secrets,
        };
        Rc::new(Self {
            port,
            path,
            found: Cell::new(false),
            greeting: Greeting::default(),
            translator: Translator::new(Arc::new(server), config, budget),
        })
    }

    fn path(&self) -> Arc<str> {
        self.path.get()
    }

    /// Whether the endpoint has answered.
    pub(super) fn is_found(&self) -> bool {
        self.found.get()
    }

    /// The endpoint, in words.
    pub(super) fn name(&self) -> String {
        format!("{} on port {}", self.path(), self.port)
    }

    /// Finds out where the endpoint is: fine when it answers at all, with anything but a server error.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn find(&self) -> Result<(), Trouble> {
        let body = Bytes::from_static(PING.as_bytes());
        let status = self.reach(&Method::POST, &HeaderMap::new(), &body).await?.status();
        if status.is_server_error() {
            return Err(Trouble::Fault(format!("HTTP {} from {}", status.as_u16(), self.name())));
        }
        self.found.set(true);
        Ok(())
    }

    /// Sends a request to the endpoint. Redirects that keep method and body (RFC 9110 sections 15.4.8 and 15.4.9) are
    /// followed within the service, and remembered.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn reach(
        &self,
        method: &Method,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Incoming>, Trouble> {
        let port = self.port;
        let mut path = self.path();
        for _ in 0..=MAX_REDIRECTS {
            let answer = match ask(port, method, &path, headers, body).await {
                Ok(answer) => answer,
                Err(why) => return Err(Trouble::Fault(format!("the MCP endpoint on port {port}: {why}"))),
            };
            let status = answer.status();
            match redirected(port, &path, status, answer.headers()) {
                None => {
                    self.path.set(path);
                    return Ok(answer);
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
#[derive(Debug)]
pub(super) enum Trouble {
    /// It redirects where nobody can follow.
    Moved(String),
    Fault(String),
    /// What it does instead of answering as an MCP server, and how its answer begins.
    Said(String, Vec<u8>),
}

impl Trouble {
    /// In words. The service chose most of them: `clean` takes credentials out.
    pub(super) fn words(&self, clean: impl Fn(&str) -> String) -> String {
        match self {
            Self::Moved(why) | Self::Fault(why) => clean(why),
            Self::Said(what, said) => {
                let said = clean(&String::from_utf8_lossy(said));
                let words: Vec<&str> = said.split_whitespace().collect();
                let words = words.join(" ");
                let shown: String = words.chars().take(SHOWN).collect();
                let cut = if shown.len() < words.len() { " …" } else { "" };
                format!("{}: {shown:?}{cut}", clean(what))
            }
        }
    }
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
    let begins = translator::begins(req.method(), req.headers());
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
    let mut answer = send(port, req).await.map_err(|e| {
        place.translator.away();
        away(&e)
    })?;
    place.translator.passed(begins, answer.status());
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
    B: http_body::Body + Send + 'static,
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
    tokio::spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    sender.send_request(req).await.map_err(|e| e.to_string())
}

/// `GET` on loopback: `None` when it answers 2xx.
pub(super) async fn probe(port: u16, path: &str) -> Option<String> {
    match ask(port, &Method::GET, path, &HeaderMap::new(), &Bytes::new()).await {
        Ok(answer) if answer.status().is_success() => None,
        Ok(answer) => Some(format!("GET {path} on port {port} answers {}", answer.status())),
        Err(why) => Some(format!("GET {path} on port {port}: {why}")),
    }
}

/// Sends one request, with these headers beside or instead of the usual ones.
async fn ask(
    port: u16,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response<Incoming>, String> {
    let mut req = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, format!("127.0.0.1:{port}"))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, text/event-stream")
        .body(Full::new(body.clone()))
        .map_err(|e| e.to_string())?;
    for (name, value) in headers {
        req.headers_mut().insert(name, value.clone());
    }
    send(port, req).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_says_is_bounded_cleaned_and_harmless() {
        let said = |text: &str| {
            let trouble = Trouble::Said("HTTP 200 from /s3cret".to_owned(), text.as_bytes().to_vec());
            trouble.words(|t| t.replace("s3cret", "***"))
        };
        assert_eq!(
            said("<html>\n  <b>\u{1b}[31m\u{202e}\"s3cret\"</b>"),
            r#"HTTP 200 from /***: "<html> <b>\u{1b}[31m\u{202e}\"***\"</b>""#
        );
        assert_eq!(
            said(&"é".repeat(999)),
            format!("HTTP 200 from /***: {:?} …", "é".repeat(200))
        );
        assert_eq!(said(""), r#"HTTP 200 from /***: """#);
    }

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
