//! Fuzzes a viewer's half of RFB: see `checks/rfb.rs`.
#![no_main]

#[path = "../checks/rfb.rs"]
mod rfb;

libfuzzer_sys::fuzz_target!(|data: &[u8]| rfb::check(data));
