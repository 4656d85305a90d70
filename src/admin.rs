//! F3: the admin API: HTTP/1.1 on a Unix socket, for root and the socket's group, checked by peer credentials; and the
//! same routes for what the edge lets through below `/api`, which are members.
//!
//! | method, path | answer |
//! | --- | --- |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/types` | array of [`TypeView`] |
//! | `GET /v1/instances` | array of [`InstanceView`] |
//! | `GET /v1/instances/{id or name}` | [`InstanceView`] |
//! | `GET /v1/instances/{id}/wait?for=settled\|stopped\|gone&ms=N` | [`InstanceView`], or 204 once it is gone, or 408 |
//! | `GET /v1/instances/{id}/logs?follow=1&tail=N` | `text/plain`, streamed |
//! | `POST /v1/instances/{id}/screen` | [`ScreenRequest`] in, [`ScreenLink`] out |
//! | `GET /v1/instances/{id}/screen.png` | `image/png` |
//! | `GET /v1/instances/{id}/deploy?follow=1` | `text/plain`: the log of its latest deploy, streamed |
//! | `GET /v1/instances/{id}/tools` | what its server lists as tools now, as MCP gives them |
//! | `GET /v1/instances/{id or name}/credentials` | array of [`CredentialView`], never a value |
//! | `POST /v1/actions` | [`Action`] in, [`Outcome`] out |
//! | `GET /v1/images` | array of [`ImageView`] |
//! | `POST /v1/images` | an archive of images (`docker save`) in, array of the names that were loaded out |
//! | `GET /v1/tokens` | array of [`TokenView`] |
//! | `GET /v1/ca` | PEM |
//! | `GET /v1/doctor?json=1&hardening=1` | [`Doctored`] |
//! | `GET /metrics` | Prometheus text |
//!
//! Over the network alone, for everybody: `GET /` (a page), `GET /api/claim` ([`Hello`]), `POST /api/claim`
//! ([`Claiming`] in, [`Outcome`] out). On the box alone: the claim code in [`Status`], and [`Action::ResetAdmin`].
//!
//! Errors are `{"error": "what went wrong and what to do", "code": "a word that stays"}` ([`Refusal::code`]; requests that are
//! none have no code); where credentials are missing or of the wrong form, arrays `missing` and `wrong` of [`Credential`]
//! beside it. What is wrong with a request is 4xx, faults of the box and of what it stands on are 5xx. This module decides nothing: a [`Backend`] does.

mod claim;
mod listen;
mod page;
mod routes;

use std::{collections::BTreeMap, future::Future, net::IpAddr, sync::Arc};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub use claim::{ClaimError, Claiming, Hello};
pub use listen::{AdminError, bind, serve};
pub use page::PageFacts;
pub use routes::Answer;

use http::Request;

use crate::{
    catalog::ImportRules,
    model::{
        Action, Credential, CredentialView, Endpoints, InstanceId, InstanceView, Outcome, Principal, Refusal, RoomView,
        Secret, TokenView,
    },
    policy::Signed,
};

/// A request's body may be this long, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// What the supervisor says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub box_id: String,
    /// None where the box is known by its addresses.
    pub domain: Option<String>,
    /// The box's own address, as whoever asks can use it.
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
    /// The disks that the box's data lie on, each once.
    #[serde(default)]
    pub disks: Vec<DiskView>,
    /// What instances may write, where the disk holds them to it.
    #[serde(default)]
    pub room: Option<RoomView>,
    /// On a box of ours, how its data lies on its disk: `encrypted: …` or `plain: …`.
    #[serde(default)]
    pub disk: Option<String>,
    #[serde(rename = "box")]
    pub own: BoxStatus,
}

/// How full a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// What lies on it, in words.
    pub holds: String,
    pub size_bytes: u64,
    /// What anybody but root may still use.
    pub free_bytes: u64,
}

/// What the box's own screen shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxStatus {
    pub version: String,
    /// Whether it has an administrator.
    pub claimed: bool,
    /// Whether it serves nothing over the network before it has.
    pub claim_required: bool,
    /// Only on the box itself, and only while it is not claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_code: Option<Secret>,
    /// SHA-256 of the CA certificate, or of the certificate itself where the CA is not Berth's own; in hexadecimal with
    /// colons.
    pub ca_fingerprint: String,
    /// Its addresses on its networks.
    pub addresses: Vec<IpAddr>,
    /// As [`Status::sealing`].
    pub sealed_by: String,
}

/// What `berth doctor` said on the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctored {
    /// Its exit status.
    pub status: u8,
    /// What it printed.
    pub output: String,
}

/// A type as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeView {
    pub name: String,
    pub title: String,
    pub description: String,
    pub homepage: Option<String>,
    /// `fixed`, or the kind of a generic type: `npx`, `uvx`, `image`, `remote`.
    pub kind: String,
    /// Why the configuration does not allow it, where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    pub image: String,
    /// Images that it needs, that are not on this box and cannot be fetched: it cannot run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
    /// Images that it needs and that this box is loading: instances of it wait for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loading: Vec<String>,
    pub transport: String,
    /// `session` or `shared` for stdio servers.
    pub processes: Option<String>,
    pub size: String,
    pub network: String,
    pub volume: Option<String>,
    /// Whether people can watch it.
    pub screen: bool,
    /// Which packages it stands in for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportRules>,
    /// What has to be given before it runs.
    #[serde(default)]
    pub credentials: Vec<Credential>,
}

/// An image that is on the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    pub name: String,
    /// In bytes; layers that images share are counted for each.
    pub size: u64,
    /// The types that need it.
    pub types: Vec<String>,
}

/// An archive as it comes.
pub type Archive = BoxStream<'static, std::io::Result<Bytes>>;

/// Where archives of images go, below the API's root; the edge passes their bodies on as they come.
pub const IMAGES: &str = "/v1/images";

/// Asks for a link to a screen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScreenRequest {
    /// For looking only.
    #[serde(default)]
    pub view_only: bool,
}

/// A link to a screen. It opens it once, and holds a secret until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScreenLink {
    pub url: Secret,
    /// The same by path, for networks without wildcard DNS.
    pub path_url: Secret,
    pub expires_at: jiff::Timestamp,
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
    fn submit(&self, action: Signed<Action>) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
    /// All instances, as of now.
    fn views(&self) -> Arc<BTreeMap<InstanceId, InstanceView>>;
    /// Ticks whenever [`Backend::views`] changed.
    fn changed(&self) -> watch::Receiver<u64>;
    /// All tokens.
    fn tokens(&self) -> impl Future<Output = Result<Vec<TokenView>, Refusal>> + Send;
    /// The variables of an instance, without their values.
    fn credentials(&self, id: InstanceId) -> impl Future<Output = Result<Vec<CredentialView>, Refusal>> + Send;
    /// An instance's log; the channel ends with it.
    fn logs(
        &self,
        id: InstanceId,
        query: LogQuery,
    ) -> impl Future<Output = Result<mpsc::Receiver<Result<Bytes, String>>, Refusal>> + Send;
    /// A link that opens the instance's screen for whoever asks.
    fn screen_link(&self, view: &InstanceView, request: ScreenRequest, by: &Principal) -> Result<ScreenLink, Refusal>;
    /// The instance's screen as PNG; who asked for it stands in the log.
    fn screenshot(&self, view: &InstanceView, by: &Principal) -> impl Future<Output = Result<Vec<u8>, Refusal>> + Send;
    /// The log of the latest deploy; with `follow`, until it ends.
    fn deploy_log(&self, id: &InstanceId, follow: bool) -> mpsc::Receiver<Bytes>;
    /// The tools that the instance's server lists, as MCP gives them.
    fn tools(&self, id: InstanceId) -> impl Future<Output = Result<serde_json::Value, String>> + Send;
    /// All types.
    fn types(&self) -> impl Future<Output = Vec<TypeView>> + Send;
    /// The addresses of an instance for somebody who asked at this `host[:port]`; none where everybody has the same, which
    /// its view has.
    fn endpoints(&self, id: &InstanceId, at: Option<&str>) -> Option<Endpoints>;
    /// The images that are on the box.
    fn images(&self) -> impl Future<Output = Result<Vec<ImageView>, Refusal>> + Send;
    /// Loads an archive of images; the names of those in it. Who asked for it stands in the log.
    fn load_images(
        &self,
        archive: Archive,
        by: &Principal,
    ) -> impl Future<Output = Result<Vec<String>, Refusal>> + Send;
    /// For somebody who asked at this `host[:port]`.
    fn status(&self, at: Option<&str>) -> impl Future<Output = Status> + Send;
    /// The CA certificate, when Berth has one of its own.
    fn ca_pem(&self) -> Option<String>;
    /// Prometheus text format 0.0.4.
    fn metrics(&self) -> impl Future<Output = String> + Send;
    /// Runs `berth doctor` on the box.
    fn doctor(&self, json: bool, hardening: bool) -> impl Future<Output = Result<Doctored, Refusal>> + Send;
    /// What a stranger is told.
    fn hello(&self) -> Result<Hello, Refusal>;
    /// Claims the box for whoever asks, if they may.
    fn claim(&self, claiming: Claiming, by: Principal) -> impl Future<Output = Result<Outcome, ClaimError>> + Send;
    /// What the page shows.
    fn page(&self) -> PageFacts;
}

/// Answers a member's request that came over the network; `path` as on the admin socket.
pub async fn network<B: Backend>(
    backend: &B,
    request: Request<Bytes>,
    upload: Option<Archive>,
    (authority, path): (&str, &str),
    by: Principal,
) -> Answer {
    if let Some(archive) = upload {
        return routes::upload(backend, &by, archive).await;
    }
    let (parts, body) = request.into_parts();
    let asked = routes::Asked {
        at: Some(authority.to_owned()),
        method: parts.method,
        path: path.to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        by,
    };
    routes::answer(backend, asked, http_body_util::Full::new(body)).await
}

/// Answers anybody at `/api/claim`.
pub async fn claiming<B: Backend>(backend: &B, request: Request<Bytes>, by: Principal) -> Answer {
    claim::answer(backend, request, by).await
}

/// The page at `/`, for somebody who came by this `host[:port]`.
pub fn front_page<B: Backend>(backend: &B, authority: &str) -> Answer {
    page::answer(&backend.page(), authority)
}
