//! Whether a call may begin, by how fast others came before it and how many are under way ([`crate::authz::Gates`]).

use http::{HeaderMap, HeaderValue, Method, Request};
use hyper::body::Incoming;

use super::{respond::Refusal, state::Edge};
use crate::{
    authz::{CallPlace, Limited, Pass, Use},
    mcp::glance,
    model::InstanceId,
};

/// Whether a client asks to listen: it has no call, and the stream is open for as long as it likes.
pub(super) fn listens(method: &Method, headers: &HeaderMap) -> bool {
    let asked = headers.get("mcp-method").map(HeaderValue::as_bytes);
    *method == Method::GET || asked == Some(b"subscriptions/listen")
}

/// A place for a request to an instance, or (`None`) to the API.
pub(super) fn enter(
    edge: &Edge,
    pass: &Pass,
    to: Option<&InstanceId>,
    request: &Request<Incoming>,
) -> Result<CallPlace, Refusal> {
    let what = match listens(request.method(), request.headers()) {
        true => Use::Stream,
        false => Use::Call,
    };
    let workspace = || edge.config.access.load().workspace_of(to?).cloned();
    pass.enter(&edge.gates, to, workspace, what).map_err(refused)
}

/// A request that was let in is a batch, whole: each of its messages counts as a call.
pub(super) fn enter_batch(edge: &Edge, place: &CallPlace, body: &[u8]) -> Result<(), Refusal> {
    match glance::further(body) {
        0 => Ok(()),
        calls => place.more(&edge.gates, calls).map_err(refused),
    }
}

fn refused(limited: Limited) -> Refusal {
    match limited {
        Limited::TooFast(whose, wait) => Refusal::TooFast(whose, wait),
        Limited::TooMany(whose) => Refusal::TooManyAtOnce(whose),
    }
}
