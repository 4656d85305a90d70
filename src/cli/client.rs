//! A small client of the admin API over its Unix socket.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::model::{Action, Outcome};

/// An answer may be this long, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// The supervisor behind a socket.
#[derive(Debug, Clone)]
pub(super) struct Supervisor {
    socket: PathBuf,
}

impl Supervisor {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Incoming)> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "berth")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let answer = sender
            .send_request(request)
            .await
            .context("the supervisor closed the connection; `berth doctor` may say why")?;
        let (parts, body) = answer.into_parts();
        Ok((parts.status, body))
    }

    fn unreachable(&self, e: &std::io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                anyhow!("{socket} is for root and its group only: run this with sudo, or join the group `berth`")
            }
            _ => anyhow!(
                "no supervisor answers on {socket} ({e}): start it with `berth serve`, or name its socket with --socket or BERTH_SOCKET"
            ),
        }
    }

    /// Collects an answer; an error status becomes the error that the supervisor wrote.
    async fn whole(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
        let (status, body) = self.send(method, path, body).await?;
        let bytes = http_body_util::Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| anyhow!("the supervisor's answer broke off: {e}"))?
            .to_bytes();
        if !status.is_success() {
            bail!(said(&bytes));
        }
        Ok((status, bytes))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (_, bytes) = self.whole(Method::GET, path, Vec::new()).await?;
        serde_json::from_slice(&bytes).context("the supervisor's answer is not understood; is it of another version?")
    }

    /// `None` on 204.
    pub(super) async fn get_if_any<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let (status, bytes) = self.whole(Method::GET, path, Vec::new()).await?;
        if status == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&bytes)?))
    }

    pub(super) async fn text(&self, path: &str) -> Result<String> {
        let (_, bytes) = self.whole(Method::GET, path, Vec::new()).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) async fn act(&self, action: &Action) -> Result<Outcome> {
        let (_, bytes) = self
            .whole(Method::POST, "/v1/actions", serde_json::to_vec(action)?)
            .await?;
        serde_json::from_slice(&bytes).context("the supervisor's answer is not understood; is it of another version?")
    }

    /// Hands out a body piece by piece as it comes.
    pub(super) async fn stream(&self, path: &str, mut each: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<()> {
        let (status, mut body) = self.send(Method::GET, path, Vec::new()).await?;
        if !status.is_success() {
            let bytes = body.collect().await?.to_bytes();
            bail!(said(&bytes));
        }
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                each(&data)?;
            }
        }
        Ok(())
    }
}

fn said(bytes: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(bytes)
        .ok()
        .and_then(|v| v.get("error").and_then(|e| e.as_str()).map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned())
}
