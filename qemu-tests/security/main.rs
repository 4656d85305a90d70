//! What the box withstands, on virtual machines: `cargo test --test qemu_security`.
#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod bombs;
mod engine;
mod hardening;
mod isolation;
mod power;
mod probe;
mod supervisor;
mod verity;
