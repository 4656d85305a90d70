//! What the box does for its users, on virtual machines: `cargo test --test qemu_functional`.

#[path = "../harness/mod.rs"]
mod harness;

mod first_boot;
mod network;
mod reboot;
