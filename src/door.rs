//! F1: the doors: what the box serves over the network, at which hosts and paths, and what each door asks of whoever comes.
//! One table ([`Door::row`]): a new door is a row in it, and what answers there. Pure: looks nothing up, allocates one id at
//! most, never panics on hostile bytes. It never decides whether an instance exists or who may reach it.
//!
//! ```text
//! host, path ──► Place { door, instance } ──► Row { methods, origins, auth, verb, bounds, errors, handler }
//! ```
//!
//! | host | path | door |
//! | --- | --- | --- |
//! | `mcp-{id}.{domain}` | `/mcp` | the instance's MCP endpoint |
//! | `{domain}`, `app.{domain}` | `/mcp/{id}`, `/{id}/mcp` | the same; some clients want a path that ends in `/mcp` |
//! | `mcp-{id}.{domain}` | `/sse` | the same for clients of the transport of 2024-11-05 |
//! | `{domain}`, `app.{domain}` | `/{id}/sse` | the same |
//! | `vnc-{id}.{domain}` | any | the instance's screen |
//! | `{domain}`, `app.{domain}` | `/vnc/{id}/…` | the same |
//! | any other | `/`, `/sign-in`, `/account`, … | the console |
//! | the same | `/assets/…`, `/csp-reports` | what its pages are made of, and what browsers report of them |
//! | the same | `/api/claim`, `/api/…` | claiming, the HTTP API |
//!
//! An address in the host's place stands for the domain: that is how a box without DNS is reached, and no page of
//! another site can claim that host. So does a name that only a network of one's own can have: below `local` (RFC 6762)
//! or `home.arpa` (RFC 8375). Where the domain is `localhost`, `127.0.0.1` and `[::1]` are its own names. A box without
//! a domain gives out paths at the host that it was asked at.

mod host;
pub mod origin;
mod router;
mod table;

pub use host::{HostError, authority, is_private};
pub use router::{Nowhere, Router};
pub use table::{
    API, Auth, Bounds, CONSOLE_COOKIE, Door, Errors, Handler, Host, Methods, Most, Origins, Path, Place, Row,
    SCREEN_COOKIE, errors_at,
};
