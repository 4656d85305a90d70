//! Berth hosts MCP servers on one box: each instance in a hardened container, at an address of its own, behind
//! an authenticating HTTPS edge.
//!
//! Floors (imports run downward only; `tests/structure.rs` checks it):
//!
//! | floor | modules | may do |
//! | --- | --- | --- |
//! | F0 | [`model`] | plain types: no I/O, no async |
//! | F1 | [`strict`], [`config`], [`catalog`], [`claim`], [`record`], [`plan`], [`route`], [`authz`], [`mcp`] | decisions: text or values in, values out |
//! | F2 | [`store`], [`docker`], [`link`], [`secret`], [`tls`], [`cgroup`], [`coredump`], [`sched`], [`metrics`], [`systemd`] | one outside system each |
//! | F3 | [`reconcile`], [`edge`], [`admin`] | one task family each; they meet by channels and handles only |
//! | F3 | [`agent`] | process 1 in a container; uses [`model`], [`mcp`], [`sched`] and [`coredump`] only |
//! | F4 | [`supervise`], [`cli`] | assembly |

pub mod admin;
pub mod agent;
pub mod authz;
pub mod catalog;
pub mod cgroup;
pub mod claim;
pub mod cli;
pub mod config;
pub mod coredump;
pub mod docker;
pub mod edge;
pub mod link;
pub mod mcp;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod reconcile;
pub mod record;
pub mod route;
pub mod sched;
pub mod secret;
pub mod store;
pub mod strict;
pub mod supervise;
pub mod systemd;
pub mod tls;
