//! F0: the vocabulary of the HTTP API: which routes there are, what is sent and answered, and which errors there are. Who
//! may take a route is `policy`'s, what it answers `admin`'s.

mod claim;
mod codes;
mod events;
mod openapi;
mod problem;
mod query;
mod routes;
mod views;

pub use claim::{Claiming, Hello};
pub use codes::{CODES, Code};
pub use events::{Event, EventChange, EventKind, EventRecord, Reset, ResetCause};
pub use openapi::document;
pub use problem::{Error, PROBLEM, Problem, RequestError};
pub use query::{MAX_PAGE, MAX_WAIT, Value, escaped, unescaped, unescaped_path};
pub use routes::{Body, Form, Route, Row};
pub use views::{BoxStatus, DiskView, Doctored, ImageView, ScreenLink, ScreenRequest, Status, TypeView, Whoami};
