//! A small client of the admin API: over its Unix socket, or over HTTPS to a box elsewhere.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::UnixStream,
};

use super::{
    remote::{self, Address, Trust},
    words,
};
use crate::{
    api::{Claiming, MAX_PAGE, Route},
    model::{Action, Outcome, Secret},
};

/// What goes to the supervisor.
type Sent = BoxBody<Bytes, std::io::Error>;

/// A file goes in pieces of so many bytes.
const PIECE: usize = 256 * 1024;

/// An answer may be this long, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A list may have so many items.
const MAX_ITEMS: usize = 1_000_000;

/// One request waits so long at most: a box answers nothing later than its own limit.
const ONE_WAIT: Duration = Duration::from_secs(60);

/// The supervisor behind a socket, or behind a box's edge.
#[derive(Debug, Clone)]
pub(super) struct Supervisor {
    way: Way,
}

#[derive(Debug, Clone)]
enum Way {
    Socket(PathBuf),
    Remote {
        context: String,
        address: Address,
        trust: Trust,
        token: Option<Secret>,
    },
}

impl Supervisor {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            way: Way::Socket(socket.to_owned()),
        }
    }

    pub(super) fn remote(context: &str, address: Address, trust: Trust, token: Option<Secret>) -> Self {
        let context = context.to_owned();
        Self {
            way: Way::Remote {
                context,
                address,
                trust,
                token,
            },
        }
    }

    /// The context's name, where it is one.
    pub(super) fn context(&self) -> Option<&str> {
        match &self.way {
            Way::Socket(_) => None,
            Way::Remote { context, .. } => Some(context),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Response<Incoming>> {
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed();
        self.send_as(method, path, "application/json", body).await
    }

    async fn send_as(&self, method: Method, path: &str, kind: &str, body: Sent) -> Result<Response<Incoming>> {
        let request = Request::builder().method(method).header(header::CONTENT_TYPE, kind);
        match &self.way {
            Way::Socket(socket) => {
                let stream = UnixStream::connect(socket)
                    .await
                    .map_err(|e| Self::unreachable(socket, &e))?;
                let request = request.uri(path).header(header::HOST, "berth");
                exchange(stream, request.body(body)?).await
            }
            Way::Remote {
                address, trust, token, ..
            } => {
                let stream = remote::connect(address, trust).await?;
                let mut request = request
                    .uri(format!("/api{path}"))
                    .header(header::HOST, address.authority());
                if let Some(token) = token {
                    let mut bearer = header::HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                        .map_err(|_| anyhow!("the token holds characters that no token has"))?;
                    bearer.set_sensitive(true);
                    request = request.header(header::AUTHORIZATION, bearer);
                }
                exchange(stream, request.body(body)?).await
            }
        }
    }

    /// What an error status says.
    fn refusal(&self, status: StatusCode, bytes: &[u8]) -> anyhow::Error {
        match &self.way {
            Way::Remote {
                context,
                address,
                token: Some(_),
                ..
            } if status == StatusCode::UNAUTHORIZED => anyhow!(
                "{address} does not take this token ({}). Get another, and log in again: `berth login {address} --name \
                 {context} --token -`",
                words::of_answer(status, bytes)
            ),
            _ => anyhow!(words::of_answer(status, bytes)),
        }
    }

    fn unreachable(socket: &Path, e: &std::io::Error) -> anyhow::Error {
        let socket = socket.display();
        match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                anyhow!("{socket} is for root and its group only: run this with sudo, or join the group `berth`")
            }
            _ => anyhow!(
                "no supervisor answers on {socket} ({e}): start it with `berth serve`, name its socket with --socket or BERTH_SOCKET, or log in to a box elsewhere with `berth login`"
            ),
        }
    }

    /// Collects an answer.
    async fn raw(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
        collected(self.send(method, path, body).await?).await
    }

    /// The same; an error status becomes the error that the supervisor wrote.
    async fn whole(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
        self.good(self.raw(method, path, body).await?)
    }

    fn good(&self, (status, bytes): (StatusCode, Bytes)) -> Result<(StatusCode, Bytes)> {
        if !status.is_success() {
            return Err(self.refusal(status, &bytes));
        }
        Ok((status, bytes))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (_, bytes) = self.whole(Method::GET, path, Vec::new()).await?;
        serde_json::from_slice(&bytes)
            .context("the answer of the supervisor was not understood; does it have another version?")
    }

    /// All of a list, page by page.
    pub(super) async fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let mut all = Vec::new();
        let mut page = Some(format!("{path}?limit={MAX_PAGE}"));
        while let Some(at) = page {
            let answer = self.send(Method::GET, &at, Vec::new()).await?;
            page = next(&answer);
            let (_, bytes) = self.good(collected(answer).await?)?;
            let items: Vec<T> = serde_json::from_slice(&bytes)
                .context("the answer of the supervisor was not understood; does it have another version?")?;
            // One that has no end would be asked for ever.
            page = page.filter(|_| !items.is_empty());
            all.extend(items);
            if all.len() > MAX_ITEMS {
                return Err(anyhow!("the list has more than {MAX_ITEMS} items"));
            }
        }
        Ok(all)
    }

    /// Asks a `wait` address until it answers or `total` is over; `None` on 204. `path` ends where `ms` goes.
    pub(super) async fn wait<T: DeserializeOwned>(&self, path: &str, total: Duration) -> Result<Option<T>> {
        let end = Instant::now() + total;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let ms = left.min(ONE_WAIT).as_millis();
            let (status, bytes) = self.raw(Method::GET, &format!("{path}{ms}"), Vec::new()).await?;
            match status {
                StatusCode::NO_CONTENT => return Ok(None),
                StatusCode::REQUEST_TIMEOUT if left > ONE_WAIT => {}
                status if !status.is_success() => return Err(self.refusal(status, &bytes)),
                _ => return Ok(Some(serde_json::from_slice(&bytes)?)),
            }
        }
    }

    pub(super) async fn text(&self, path: &str) -> Result<String> {
        let (_, bytes) = self.whole(Method::GET, path, Vec::new()).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) async fn bytes(&self, path: &str) -> Result<Bytes> {
        Ok(self.whole(Method::GET, path, Vec::new()).await?.1)
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T> {
        let (_, bytes) = self.whole(Method::POST, path, serde_json::to_vec(body)?).await?;
        serde_json::from_slice(&bytes)
            .context("the answer of the supervisor was not understood; does it have another version?")
    }

    pub(super) async fn act(&self, action: &Action) -> Result<Outcome> {
        let (_, bytes) = self
            .whole(Method::POST, Route::Act.path(), serde_json::to_vec(action)?)
            .await?;
        serde_json::from_slice(&bytes)
            .context("the answer of the supervisor was not understood; does it have another version?")
    }

    /// Sends what `from` holds, as it is read.
    pub(super) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        from: impl AsyncRead + Send + Sync + Unpin + 'static,
    ) -> Result<T> {
        let pieces = futures_util::stream::unfold(Some(from), |from| async move {
            let mut from = from?;
            let mut piece = BytesMut::with_capacity(PIECE);
            match from.read_buf(&mut piece).await {
                Ok(0) => None,
                Ok(_) => Some((Ok(Frame::data(piece.freeze())), Some(from))),
                Err(e) => Some((Err(e), None)),
            }
        });
        let body = BodyExt::boxed(StreamBody::new(pieces));
        let answer = self.send_as(Method::POST, path, "application/x-tar", body).await?;
        let (_, bytes) = self.good(collected(answer).await?)?;
        serde_json::from_slice(&bytes)
            .context("the answer of the supervisor was not understood; does it have another version?")
    }

    /// Claims a box.
    pub(super) async fn claim(&self, claiming: &Claiming) -> Result<Outcome> {
        let (_, bytes) = self
            .whole(Method::POST, "/claim", serde_json::to_vec(claiming)?)
            .await?;
        serde_json::from_slice(&bytes)
            .context("the answer of the box was not understood; does it have another version?")
    }

    /// Hands out a body piece by piece as it comes.
    pub(super) async fn stream(&self, path: &str, mut each: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<()> {
        let answer = self.send(Method::GET, path, Vec::new()).await?;
        let (status, mut body) = (answer.status(), answer.into_body());
        if !status.is_success() {
            let bytes = body.collect().await?.to_bytes();
            return Err(self.refusal(status, &bytes));
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| anyhow!("the supervisor's answer broke off: {}", plainly(&e)))?;
            if let Ok(data) = frame.into_data() {
                each(&data)?;
            }
        }
        Ok(())
    }
}

async fn exchange<S>(stream: S, request: Request<Sent>) -> Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| {
        anyhow!(
            "the supervisor closed the connection ({}); `berth doctor` may say why",
            plainly(&e)
        )
    })
}

/// The next page that an answer tells, as a path of the API (RFC 8288).
fn next(answer: &Response<Incoming>) -> Option<String> {
    let links = answer.headers().get_all(header::LINK).iter();
    links.filter_map(|l| l.to_str().ok()).find_map(next_of)
}

fn next_of(link: &str) -> Option<String> {
    let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
    let is_next = parameters
        .split(';')
        .any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
    let path = target.strip_prefix(crate::door::API).unwrap_or(target);
    (is_next && path.starts_with('/')).then(|| path.to_owned())
}

async fn collected(answer: Response<Incoming>) -> Result<(StatusCode, Bytes)> {
    let status = answer.status();
    let whole = http_body_util::Limited::new(answer.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let whole = whole.map_err(|e| anyhow!("the supervisor's answer broke off: {}", plainly(e.as_ref())))?;
    Ok((status, whole.to_bytes()))
}

/// What went wrong with a connection, without a library's words on one that was cut.
fn plainly(e: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(e), |e| e.source());
    let kinds = causes
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    if kinds.into_iter().any(remote::is_cut) {
        "it was cut".to_owned()
    } else {
        e.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_what_the_link_says() {
        let page = Some("/v1/tokens?limit=2&after=YQ".to_owned());
        assert_eq!(next_of("</api/v1/tokens?limit=2&after=YQ>; rel=\"next\""), page);
        assert_eq!(next_of("</v1/tokens?limit=2&after=YQ>; rel=\"next\""), page);
        for other in [
            "</v1/tokens>; rel=\"prev\"",
            "</v1/tokens>",
            "<https://other/v1/x>; rel=\"next\"",
            "x",
        ] {
            assert_eq!(next_of(other), None, "{other}");
        }
    }
}
