//! The plain-HTTP listener: sends everybody to the same address by https, and serves nothing. Only to names of this box:
//! an address in `Host` is one only where the connection came to that very address.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use http::{HeaderValue, Request, Response, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;

use super::{
    body::EdgeBody,
    conn::{Client, Permit, Tracked, drive},
    respond::{self, Refusal},
    state::Edge,
};
use crate::door;

pub(super) async fn serve(stream: tokio::net::TcpStream, permit: Permit) {
    let edge = Arc::clone(&permit.edge);
    let Ok(local) = stream.local_addr() else { return };
    let client = Client::new(permit);
    let io = TokioIo::new(Tracked::new(stream, Arc::clone(&client), false));
    let served = Arc::clone(&client);
    let service = service_fn(move |request: Request<Incoming>| {
        // Held only while the answer is made: it has no body to wait for.
        let _busy = served.begin();
        let answer = redirect(&edge, &request, local.ip());
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let conn = http1::Builder::new()
        .header_read_timeout(None)
        .keep_alive(false)
        .max_headers(64)
        .max_buf_size(16 * 1024)
        .serve_connection(io, service)
        .with_upgrades();
    drive(&client, conn, false, |c| c.graceful_shutdown()).await;
}

fn redirect(edge: &Edge, request: &Request<Incoming>, local: IpAddr) -> Response<EdgeBody> {
    let lines = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(HeaderValue::as_bytes);
    let authority = match door::authority(request.uri().authority().map(|a| a.as_str()), lines) {
        Ok(a) => a,
        Err(e) => return Refusal::Host(e).response(b""),
    };
    let Some(host) = edge.router.own_host(authority, local) else {
        return Refusal::UnknownHost.response(b"");
    };
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let location = format!("https://{host}{}{path}", edge.router.port_suffix());
    HeaderValue::from_str(&location).map_or_else(|_| Refusal::UnknownPath.response(b""), respond::moved)
}
