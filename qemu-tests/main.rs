//! Tests on virtual machines that boot the host image: `qemu-tests/run`, after `make image`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod harness;

mod functional;
mod performance;
mod security;
