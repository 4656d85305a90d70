//! What the box does for its users, on virtual machines: `cargo test --test qemu_functional`.
#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod first_boot;
mod network;
mod reboot;
