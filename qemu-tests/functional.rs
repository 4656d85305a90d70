//! What the box does for its users.

mod first_boot;
mod network;
mod reboot;
