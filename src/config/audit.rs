//! The section `[audit]`: how long rows are kept, and what calls do when the disk is full.

use super::check::Bytes;
use crate::strict_toml::Section;

/// The checked section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Rows that are older are removed, in days.
    pub retain_days: u32,
    /// Rows are kept in so many bytes at most.
    pub max_bytes: u64,
    /// Calls are refused while the disk takes no rows; else they go on, and rows wait and may be lost.
    pub refuse_when_full: bool,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            retain_days: 90,
            max_bytes: 2 << 30,
            refuse_when_full: false,
        }
    }
}

pub(super) fn read(s: &mut Section<'_>, audit: &mut Audit) {
    if let Some(days) = s.integer("retain_days", 1, 3650) {
        audit.retain_days = u32::try_from(days.value).unwrap_or(u32::MAX);
    }
    if let Some(n) = s.parsed::<Bytes>(
        "max_bytes",
        "an amount with its unit (MiB, GiB or TiB), such as \"2GiB\", from 64MiB",
    ) {
        audit.max_bytes = n.value.0.unsigned_abs();
    }
    if let Some(word) = s.string("when_full") {
        match word.value.as_str() {
            "continue" => audit.refuse_when_full = false,
            "refuse" => audit.refuse_when_full = true,
            _ => s.wrong(&word, "audit.when_full: write \"continue\" or \"refuse\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn what_is_written_is_what_is_kept() {
        assert_eq!(parse("b.toml", "").unwrap().audit, Audit::default());
        let good = "[audit]\nretain_days = 30\nmax_bytes = \"1GiB\"\nwhen_full = \"refuse\"\n";
        let audit = parse("b.toml", good).unwrap().audit;
        assert_eq!(
            (audit.retain_days, audit.max_bytes, audit.refuse_when_full),
            (30, 1 << 30, true)
        );
        for (line, said) in [
            ("retain_days = 0", "is outside"),
            ("max_bytes = \"1KiB\"", "an amount with its unit"),
            (
                "when_full = \"stop\"",
                "audit.when_full: write \"continue\" or \"refuse\"",
            ),
        ] {
            let all = parse("b.toml", &format!("[audit]\n{line}\n"))
                .expect_err(line)
                .to_string();
            assert!(all.contains(said), "{line}: {all}");
        }
    }
}
