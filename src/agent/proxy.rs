//! A service that speaks Streamable HTTP itself: requests are passed to it on loopback as they are, streaming both
//! ways. Never buffers a body.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The request that tells a live MCP endpoint: whatever it answers, it is there.
const PING: &str = r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#;
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Passes one request on.
pub(super) async fn pass(port: u16, path: &str, mut req: Request<Incoming>) -> Result<Response<Incoming>, String> {
    let query = req.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    *req.uri_mut() = Uri::try_from(format!("{path}{query}")).map_err(|e| e.to_string())?;
    for name in [CONNECTION, UPGRADE, TRANSFER_ENCODING, KEEP_ALIVE] {
        req.headers_mut().remove(name);
    }
    let host = HeaderValue::try_from(format!("127.0.0.1:{port}")).map_err(|e| e.to_string())?;
    req.headers_mut().insert(HOST, host);
    let mut answer = send(port, req).await?;
    for name in [CONNECTION, TRANSFER_ENCODING, KEEP_ALIVE] {
        answer.headers_mut().remove(name);
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
        let _ = connection.await;
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
