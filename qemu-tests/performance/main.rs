//! What booting takes, told as a table: `cargo test --test qemu_performance`. Nothing here asserts a time.
#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod boot;
