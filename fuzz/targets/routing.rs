//! Fuzzes routing and answers of agents: see `checks/routing.rs`.
#![no_main]

#[path = "../checks/routing.rs"]
mod routing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| routing::check(data));
