//! What the box serves of its own, besides instances: the page at `/`, claiming, and the admin API for members. The edge
//! guards these doors (hosts, `Origin`, tokens, limits, time) and knows nothing of what is behind: a [`Front`] answers,
//! which the assembly hands over.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{future::BoxFuture, stream::BoxStream};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;

use crate::{door::Door, model::Principal};

/// An answer's body.
pub type FrontBody = BoxBody<Bytes, Infallible>;

/// A request at one of the box's own doors.
#[derive(Debug)]
pub struct Asked {
    pub door: Door,
    /// The host, and the port where it was named, that the client used.
    pub authority: String,
    pub by: Principal,
    /// Its body is empty where it is an upload.
    pub request: Request<Bytes>,
    pub upload: Option<Upload>,
}

/// A body that is too long to be held, as it comes.
pub struct Upload(pub BoxStream<'static, std::io::Result<Bytes>>);

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upload")
    }
}

/// What is behind the doors.
pub trait Front: Send + Sync + 'static {
    /// Whether the box serves nothing yet but the page and claiming.
    fn locked(&self) -> bool;
    /// Answers. 401 means that a claim was wrong, and counts against the client's address.
    fn answer<'a>(&'a self, asked: Asked) -> BoxFuture<'a, Response<FrontBody>>;
}
