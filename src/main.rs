//! The one binary: see `berth::cli`.
fn main() {}
