//! F0: the vocabulary of the HTTP API: which routes there are, what is sent and answered. Who may take a route is
//! `policy`'s, what it answers `admin`'s.

mod claim;
mod routes;
mod views;

pub use claim::{Claiming, Hello};
pub use routes::{Route, Row, Value};
pub use views::{BoxStatus, DiskView, Doctored, ImageView, ScreenLink, ScreenRequest, Status, TypeView};
