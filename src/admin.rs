//! F3: the admin API: HTTP/1.1 on a Unix socket, for root and the socket's group, checked by peer credentials; and the
//! same routes for what the edge lets through below `/api`, which are members.
//!
//! The routes are a table, [`crate::api::Route`].
//!
//! Over the network alone, for everybody: `GET /api/claim` ([`Hello`]), `POST /api/claim`
//! ([`Claiming`] in, [`Outcome`] out). On the box alone: the claim code in [`Status`], and [`crate::model::Action::ResetAdmin`].
//!
//! Errors are problems of RFC 9457 ([`crate::api::Problem`]), with a row in [`crate::api::CODES`] each. This module decides
//! nothing: a [`Backend`] does.

mod answers;
mod asker;
mod audit;
mod claim;
mod conditions;
mod events;
mod idempotent;
mod listen;
mod paging;
mod records;
mod routes;

use std::{collections::BTreeMap, error::Error, future::Future, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::Request;
use hyper::body::Body;
use jiff::civil::Date;
use tokio::sync::{mpsc, watch};

pub use answers::AdminResponse;
pub use asker::Addresses;
pub use listen::{AdminError, bind, serve};
pub use routes::verb;

use crate::{
    api::{Claiming, Doctored, Hello, ImageView, RequestError, ScreenLink, ScreenRequest, Status, TypeView, Whoami},
    audit::{Query, Reading, Sees},
    docker::EngineError,
    events::Events,
    model::{
        AuditVerified, CredentialView, GrantView, IdempotencyKey, InstanceId, InstanceView, Outcome, Principal, Record,
        RecordId, Refusal, Secret, TeamView, UsageBy, UsageRow, WorkspaceView,
    },
    policy::{Access, Target, Verb},
    usage,
    writes::{Begun, Kept, Keyed, Write},
};

/// A request's body may be this long, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// An archive as it comes.
pub type Archive = BoxStream<'static, std::io::Result<Bytes>>;

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
    fn submit(&self, write: Write) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
    /// Begins a request with an idempotency key of whoever asks.
    fn begin(&self, by: &Principal, key: &IdempotencyKey) -> Result<Begun, Refusal>;
    /// What a write came to that had a key, and was never answered.
    fn outcome(&self, kept: &Kept) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
    /// Keeps the answer to a request with a key; durable when it returns, where the disk takes it.
    fn keep(&self, keyed: Keyed, answer: Secret) -> impl Future<Output = ()> + Send;
    /// Hears that somebody asked again with the same key.
    fn answered_again(&self, by: &Principal, verb: Verb, target: Target<'_>);
    /// All instances, as of now.
    fn views(&self) -> Arc<BTreeMap<InstanceId, InstanceView>>;
    /// Ticks whenever [`Backend::views`] changed.
    fn changed(&self) -> watch::Receiver<u64>;
    /// What policy looks at, as of now.
    fn access(&self) -> Arc<Access>;
    /// Who asks, and which box this is.
    fn whoami(&self, by: &Principal) -> Whoami;
    /// Somebody did something with an instance: their grants of it are in use.
    fn uses(&self, by: &Principal, id: &InstanceId);
    /// A single record of people's, as everybody may see it who may; none where it is not there.
    fn record(&self, id: &RecordId) -> Option<Record>;
    /// All workspaces.
    fn workspaces(&self) -> Vec<WorkspaceView>;
    /// All teams.
    fn teams(&self) -> Vec<TeamView>;
    /// All grants.
    fn grants(&self) -> Vec<GrantView>;
    /// The variables of an instance, without their values.
    fn credentials(&self, id: &InstanceId) -> Result<Vec<CredentialView>, Refusal>;
    /// An instance's log; the channel ends with it.
    fn logs(
        &self,
        id: InstanceId,
        query: LogQuery,
    ) -> impl Future<Output = Result<mpsc::Receiver<Result<Bytes, EngineError>>, Refusal>> + Send;
    /// A link that opens the instance's screen for whoever asks.
    fn screen_link(&self, view: &InstanceView, request: ScreenRequest, by: &Principal) -> Result<ScreenLink, Refusal>;
    /// The instance's screen as PNG; who asked for it stands in the log.
    fn screenshot(&self, view: &InstanceView, by: &Principal) -> impl Future<Output = Result<Vec<u8>, Refusal>> + Send;
    /// The log of the latest deploy; with `follow`, until it ends.
    fn deploy_log(&self, id: &InstanceId, follow: bool) -> mpsc::Receiver<Bytes>;
    /// The tools that the instance's server lists, as MCP gives them.
    fn tools(&self, id: InstanceId) -> impl Future<Output = Result<serde_json::Value, Refusal>> + Send;
    /// All types.
    fn types(&self) -> impl Future<Output = Vec<TypeView>> + Send;
    /// The addresses of instances for somebody who asked at this `host[:port]`; none where everybody has the same, which
    /// views have.
    fn addresses(&self, at: Option<&str>) -> Option<Addresses>;
    /// The box's `host[:port]` for somebody who asked at this one.
    fn host(&self, at: Option<&str>) -> String;
    /// What changes on the box.
    fn events(&self) -> &Events;
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
    /// What policy looks at, as it changes.
    fn live_access(&self) -> Arc<ArcSwap<Access>>;
    /// Rows of the audit that a query names, of those that whoever asks sees; that they were read is a row as well.
    fn audit(&self, query: Query, sees: Sees, by: &Principal) -> Reading;
    /// What was used on these days, of what whoever asks sees, summed up.
    fn usage(
        &self,
        days: (Option<Date>, Option<Date>),
        by: UsageBy,
        sees: usage::Sees<'_>,
    ) -> impl Future<Output = Result<Vec<UsageRow>, Refusal>> + Send;
    /// Looks whether every row is as it was written.
    fn verify_audit(&self) -> impl Future<Output = Result<AuditVerified, Refusal>> + Send;
    /// Hears that somebody was denied something.
    fn denied(&self, by: &Principal, verb: Verb, target: Target<'_>);
    /// The CA certificate, when Berth has one of its own.
    fn ca_pem(&self) -> Option<String>;
    /// Prometheus text format 0.0.4.
    fn metrics(&self) -> impl Future<Output = String> + Send;
    /// Runs `berth doctor` on the box.
    fn doctor(&self, json: bool, hardening: bool) -> impl Future<Output = Result<Doctored, Refusal>> + Send;
    /// What a stranger is told.
    fn hello(&self) -> Result<Hello, Refusal>;
    /// Claims the box for whoever asks, if they may.
    fn claim(&self, claiming: Claiming, by: Principal) -> impl Future<Output = Result<Outcome, Refusal>> + Send;
}

/// Answers a member's request that came over the network; `path` as on the admin socket.
pub async fn network<B: Backend, R>(
    backend: &B,
    request: Request<R>,
    (authority, path): (&str, &str),
    by: Principal,
) -> AdminResponse
where
    R: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let asked = routes::Asked {
        at: Some(authority.to_owned()),
        method: parts.method,
        path: path.to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        by,
    };
    routes::answer(backend, asked, body).await
}

/// Answers anybody at `/api/claim`.
pub async fn claiming<B: Backend, R>(backend: &B, request: Request<R>, by: Principal) -> AdminResponse
where
    R: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
{
    claim::answer(backend, request, by).await
}

/// What is answered while nothing stands behind the API.
pub fn starting() -> AdminResponse {
    answers::failed(RequestError::Starting)
}
