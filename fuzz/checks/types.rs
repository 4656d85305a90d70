//! Configuration and type files: no text makes the readers panic, and every refusal names a line.
/// Both readers get the whole input.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(problems) = berth::catalog::parse("f.toml", "f", text) {
        assert!(!problems.0.is_empty() && problems.0.iter().all(|p| p.line > 0));
    }
    if let Err(problems) = berth::config::parse("b.toml", text) {
        assert!(!problems.0.is_empty() && problems.0.iter().all(|p| p.line > 0));
    }
}
