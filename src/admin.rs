//! F3: the admin API: HTTP/1.1 on a Unix socket, for root and the socket's group, checked by peer credentials.
//!
//! | method, path | answer |
//! | --- | --- |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/types` | array of [`TypeView`] |
//! | `GET /v1/instances` | array of [`InstanceView`] |
//! | `GET /v1/instances/{id or name}` | [`InstanceView`] |
//! | `GET /v1/instances/{id}/wait?for=settled\|stopped\|gone&ms=N` | [`InstanceView`], or 204 once it is gone, or 408 |
//! | `GET /v1/instances/{id}/logs?follow=1&tail=N` | `text/plain`, streamed |
//! | `POST /v1/actions` | [`Action`] in, [`Outcome`] out |
//! | `GET /v1/tokens` | array of [`TokenView`] |
//! | `GET /v1/ca` | PEM |
//! | `GET /metrics` | Prometheus text |
//!
//! Errors are `{"error": "what went wrong and what to do"}`. This module decides nothing: a [`Backend`] does.

mod listen;
mod routes;

use std::{collections::BTreeMap, future::Future, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub use listen::{AdminError, bind, serve};

use crate::model::{Action, InstanceId, InstanceView, Outcome, Refusal, TokenView};

/// A request's body may be this long, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// What the supervisor says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub box_id: String,
    pub domain: String,
    pub https: String,
    pub started_at: jiff::Timestamp,
    /// `ok`, or why the engine cannot be used.
    pub engine: String,
    pub instances: BTreeMap<String, usize>,
    /// SHA-256 of the certificate that the edge shows, in hexadecimal with colons.
    pub certificate_sha256: String,
    /// Where the CA certificate lies, when it is Berth's own.
    pub ca_file: Option<String>,
    /// What does not hold on this box although it should, in words.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What the key is kept with that seals values at rest.
    pub sealing: String,
}

/// A type as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeView {
    pub name: String,
    pub title: String,
    pub description: String,
    pub homepage: Option<String>,
    pub image: String,
    pub transport: String,
    /// `session` or `shared` for stdio servers.
    pub processes: Option<String>,
    pub size: String,
    pub network: String,
    pub volume: Option<String>,
}

/// Which log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    pub follow: bool,
    /// The last so many lines; all when `None`.
    pub tail: Option<u32>,
}

/// What stands behind the API; the assembly implements it.
pub trait Backend: Send + Sync + 'static {
    /// Admits an action; durable when it answers.
    fn submit(&self, action: Action) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
    /// All instances, as of now.
    fn views(&self) -> Arc<BTreeMap<InstanceId, InstanceView>>;
    /// Ticks whenever [`Backend::views`] changed.
    fn changed(&self) -> watch::Receiver<u64>;
    /// All tokens.
    fn tokens(&self) -> impl Future<Output = Result<Vec<TokenView>, Refusal>> + Send;
    /// An instance's log; the channel ends with it.
    fn logs(
        &self,
        id: InstanceId,
        query: LogQuery,
    ) -> impl Future<Output = Result<mpsc::Receiver<Result<Bytes, String>>, Refusal>> + Send;
    /// All types.
    fn types(&self) -> Vec<TypeView>;
    fn status(&self) -> impl Future<Output = Status> + Send;
    /// The CA certificate, when Berth has one of its own.
    fn ca_pem(&self) -> Option<String>;
    /// Prometheus text format 0.0.4.
    fn metrics(&self) -> impl Future<Output = String> + Send;
}
