//! A service that speaks Streamable HTTP itself: requests are passed to it on loopback as they are, streaming both
//! ways, protocol switches included. Never buffers a body.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
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

/// Why a request was not passed on.
pub(super) enum Fault {
    /// The service does not answer.
    Away(String),
    /// There are as many switched connections as there may be.
    Full,
}

/// Passes one request on.
pub(super) async fn pass(
    port: u16,
    path: &str,
    switches: &Switches,
    mut req: Request<Incoming>,
) -> Result<Response<Incoming>, Fault> {
    let away = |e: &dyn std::fmt::Display| Fault::Away(e.to_string());
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
        Ok(status) if status.is_success() => None,
        Ok(status) => Some(format!("GET {path} on port {port} answers {status}")),
        Err(why) => Some(format!("GET {path} on port {port}: {why}")),
    }
}

/// An MCP request on loopback: `None` when the endpoint answers at all, with anything but a server error.
pub(super) async fn probe_mcp(port: u16, path: &str) -> Option<String> {
    match ask(port, Method::POST, path, PING).await {
        Ok(status) if !status.is_server_error() => None,
        Ok(status) => Some(format!("the MCP endpoint on port {port} answers {status}")),
        Err(why) => Some(format!("the MCP endpoint on port {port}: {why}")),
    }
}

async fn ask(port: u16, method: Method, path: &str, body: &'static str) -> Result<StatusCode, String> {
    let req = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, format!("127.0.0.1:{port}"))
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .map_err(|e| e.to_string())?;
    let answer = send(port, req).await?;
    let status = answer.status();
    // A stream need not end; the status is all that was asked for.
    drop(answer.into_body().into_data_stream());
    Ok(status)
}
