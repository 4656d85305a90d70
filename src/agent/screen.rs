//! The display's RFB, carried between the supervisor and loopback as it comes. Judges nothing: what a viewer may send
//! is decided before it gets here.

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Dials the display and switches the connection over to it.
pub(super) async fn pass(
    port: Option<u16>,
    mut req: Request<Incoming>,
) -> Result<HeaderMap, (StatusCode, &'static str)> {
    let port = port.ok_or((StatusCode::NOT_FOUND, "this instance has no screen"))?;
    if req.headers().get(UPGRADE).is_none_or(|u| u != "rfb") {
        return Err((StatusCode::UPGRADE_REQUIRED, "this path speaks RFB"));
    }
    let display = TcpStream::connect(("127.0.0.1", port)).await;
    let mut display = display.map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "the display is down"))?;
    let _ = display.set_nodelay(true);
    let upgraded = hyper::upgrade::on(&mut req);
    tokio::task::spawn_local(async move {
        if let Ok(upgraded) = upgraded.await {
            // Ends with either side; both are told by their closed connection.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut display).await;
        }
    });
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("rfb"));
    Ok(headers)
}
