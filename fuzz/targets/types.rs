//! Configuration and type files: no text makes the readers panic, and every refusal names a line.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(problems) = berth::catalog::parse("f.toml", "f", text) {
        assert!(!problems.0.is_empty() && problems.0.iter().all(|p| p.line > 0));
    }
    if let Err(problems) = berth::config::parse("b.toml", text) {
        assert!(!problems.0.is_empty() && problems.0.iter().all(|p| p.line > 0));
    }
});
