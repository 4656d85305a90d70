//! Berth hosts MCP servers on one box: each instance in a hardened container, at an address of its own, behind
//! an authenticating HTTPS edge.
//!
//! Floors (imports run downward only; `tests/structure.rs` checks it):
//!
//! | floor | modules | may do |
//! | --- | --- | --- |
//! | F0 | [`model`], [`api`] | plain types: no I/O, no async |
//! | F1 | [`strict_toml`], [`config`], [`catalog`], [`claim`], [`record`], [`versions`], [`policy`], [`plan`], [`door`], [`mcp`], [`hardening`], [`site`], [`tty`], [`session`], [`sign_in`], [`screen`], [`clients`], [`import`], [`escape`] | decisions: text or values in, values out |
//! | F2 | [`store`], [`audit`], [`usage`], [`forward`], [`replace`], [`authz`], [`deploy_log`], [`docker`], [`link`], [`load`], [`secret`], [`tls`], [`cgroup`], [`coredump`], [`rights`], [`sched`], [`metrics`], [`systemd`], [`machine`], [`resolve`], [`remote`], [`output`], [`firewall`], [`budget`], [`translator`], [`events`], [`writes`] | one outside system each, or one table that tasks share |
//! | F3 | [`ledger`], [`reconcile`], [`edge`], [`admin`], [`console`], [`packages`] | one task family each; they meet by channels and handles only |
//! | F3 | [`agent`] | process 1 in a container; uses [`model`], [`mcp`], [`sched`], [`coredump`], [`rights`], [`budget`] and [`translator`] only |
//! | F3 | [`shell`] | an MCP server of ours, in a container; uses nothing else here |
//! | F4 | [`supervise`], [`cli`] | assembly |

pub mod admin;
pub mod agent;
pub mod api;
pub mod audit;
pub mod authz;
pub mod budget;
pub mod catalog;
pub mod cgroup;
pub mod claim;
pub mod cli;
pub mod clients;
pub mod config;
pub mod console;
pub mod coredump;
pub mod deploy_log;
pub mod docker;
pub mod door;
pub mod edge;
pub mod escape;
pub mod events;
pub mod firewall;
pub mod forward;
pub mod hardening;
pub mod import;
pub mod ledger;
pub mod link;
pub mod load;
pub mod machine;
pub mod mcp;
pub mod metrics;
pub mod model;
pub mod output;
pub mod packages;
pub mod plan;
pub mod policy;
pub mod reconcile;
pub mod record;
pub mod remote;
pub mod replace;
pub mod resolve;
pub mod rights;
pub mod sched;
pub mod screen;
pub mod secret;
pub mod session;
pub mod shell;
pub mod sign_in;
pub mod site;
pub mod store;
pub mod strict_toml;
pub mod supervise;
pub mod systemd;
pub mod tls;
pub mod translator;
pub mod tty;
pub mod usage;
pub mod versions;
pub mod writes;
