//! Fuzzes configuration and type files: see `checks/types.rs`.
#![no_main]

#[path = "../checks/types.rs"]
mod types;

libfuzzer_sys::fuzz_target!(|data: &[u8]| types::check(data));
