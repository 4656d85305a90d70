//! Protocol versions and their two eras (MCP 2026-07-28, basic/versioning).
//!
//! Never guesses: a version that is not listed here is not supported.

/// The newest modern version.
pub const MODERN: &str = "2026-07-28";
/// The newest legacy version; what the bridge offers a server.
pub const NEWEST_LEGACY: &str = "2025-11-25";
/// Every version that the bridge serves, newest first.
pub const SUPPORTED: [&str; 5] = ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// How a version is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 2024-11-05 to 2025-11-25: `initialize`, sessions.
    Legacy,
    /// 2026-07-28 and later: stateless, everything in `_meta`.
    Modern,
}

/// The era of a supported version.
pub fn era(version: &str) -> Option<Era> {
    if version == MODERN {
        Some(Era::Modern)
    } else if SUPPORTED.contains(&version) {
        Some(Era::Legacy)
    } else {
        None
    }
}

/// What a client that asked for `asked` is told when the process behind it speaks `spoken`: its own version where
/// both know it and it is not newer, else the process's.
pub fn negotiate<'a>(asked: &'a str, spoken: &'a str) -> &'a str {
    if era(asked) == Some(Era::Legacy) && asked <= spoken {
        asked
    } else {
        spoken
    }
}

/// [`SUPPORTED`] as a JSON array.
pub fn supported_json() -> String {
    format!("[\"{}\"]", SUPPORTED.join("\",\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation_never_goes_above_what_the_server_speaks() {
        assert_eq!(negotiate("2025-03-26", "2025-11-25"), "2025-03-26");
        assert_eq!(negotiate("2025-11-25", "2025-06-18"), "2025-06-18");
        assert_eq!(negotiate("1999-01-01", "2025-06-18"), "2025-06-18");
        assert_eq!(negotiate(MODERN, "2025-06-18"), "2025-06-18");
        assert_eq!(era("2030-01-01"), None);
    }
}
