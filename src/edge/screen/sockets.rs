//! WebSockets (RFC 6455): the handshake's answer, and the bounds of what is read and written.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use ring::digest;
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};

use super::super::body::EdgeBody;

/// How long a client may take to switch.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A message of a viewer at most; pages send their longer clipboards in pieces.
const MAX_MESSAGE: usize = 64 * 1024;
/// What waits to be written at most.
const MAX_WRITE: usize = 256 * 1024;
/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// `Sec-WebSocket-Accept` for a request that asks for a WebSocket of version 13.
pub(super) fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let is = |name, want: &[u8]| {
        headers
            .get(name)
            .is_some_and(|v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(want))
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    if !is(header::UPGRADE, b"websocket") || !is(header::SEC_WEBSOCKET_VERSION, b"13") || key.len() != 24 {
        return None;
    }
    // SHA-1 is what the protocol asks for; it keeps no secret here.
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    HeaderValue::from_str(&STANDARD.encode(hash.finish())).ok()
}

/// The 101.
pub(super) fn switching(accept: HeaderValue) -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// The socket, once the 101 is out.
pub(super) async fn open(on_upgrade: OnUpgrade) -> Option<Socket> {
    let upgraded = timeout(HANDSHAKE, on_upgrade).await.ok()?.ok()?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        // Every message leaves at once.
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_WRITE);
    Some(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_the_rfc() {
        let mut h = HeaderMap::new();
        h.insert("upgrade", HeaderValue::from_static("websocket"));
        h.insert("sec-websocket-version", HeaderValue::from_static("13"));
        h.insert(
            "sec-websocket-key",
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
        // RFC 6455 section 1.3.
        assert_eq!(accept(&h).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        h.insert("sec-websocket-version", HeaderValue::from_static("8"));
        assert_eq!(accept(&h), None);
    }
}
