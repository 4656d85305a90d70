//! Everything that is tested from outside, in one program, so that it is linked once: the agent and the edge as they are
//! built, and whole supervisors on the real engine, with the official clients.
//!
//! `cargo test --test engine NAME` runs what has NAME in its path, `lifecycle::` for instance. Tests share the engine and
//! nothing else: each has a box, folders and ports of its own.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "tests; and each module uses its part of the rigs"
)]

mod rig;
mod support;
mod workbench;

mod admin_requests;
mod agent;
mod audit;
mod bridge;
mod canary;
mod catalog;
mod clients;
mod conformance;
mod console;
mod contracts;
mod credentials;
mod desktop;
mod docker;
mod documents;
mod edge;
mod eras;
mod events;
mod faults;
mod forward;
mod generic;
mod hijack;
mod http_services;
mod images;
mod import;
mod installs;
mod lifecycle;
mod limits;
mod load;
mod modern;
mod nameless;
mod networks;
mod old_transport;
mod openapi;
mod ownership;
mod people;
mod policy;
mod promises;
mod reconcile;
mod remote;
mod restart;
mod screen;
mod service;
mod terminal;
mod terminal_output;
mod writes;
