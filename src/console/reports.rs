//! What browsers report against the policies of pages: counted, and told in the log within bounds. Anybody may send one.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use serde_json::Value;

/// A report may be this long, in bytes.
pub(super) const MAX: usize = 8 * 1024;
/// So many are told in the log within so many seconds.
const TOLD: u32 = 10;
const WITHIN: u64 = 60;
/// Bytes of a word of one.
const WORD: usize = 200;

#[derive(Default)]
pub(super) struct Reports {
    count: AtomicU64,
    /// How many were told since when.
    told: Mutex<(u32, u64)>,
}

impl Reports {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(super) fn hear(&self, sent: &[u8], now: u64) {
        self.count.fetch_add(1, Relaxed);
        if self.may_tell(now) {
            let (what, blocked, page) = read(sent);
            log::warn!(what = what.as_str(), blocked = blocked.as_str(), page = page.as_str(); "a browser reports that a page was not allowed something");
        }
    }

    fn may_tell(&self, now: u64) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(told.1) >= WITHIN {
            *told = (0, now);
        }
        told.0 = told.0.saturating_add(1);
        told.0 <= TOLD
    }
}

/// The directive, what was blocked, and the page: of a report in either form (CSP level 2, and the Reporting API).
fn read(sent: &[u8]) -> (String, String, String) {
    let value: Value = serde_json::from_slice(sent).unwrap_or_default();
    let old = value.get("csp-report");
    let body = old.or_else(|| value.get(0)?.get("body")).unwrap_or(&Value::Null);
    let word = |names: [&str; 2]| {
        let text = names.iter().find_map(|n| body.get(*n)?.as_str()).unwrap_or_default();
        crate::escape::line(text).chars().take(WORD).collect::<String>()
    };
    (
        word(["effective-directive", "effectiveDirective"]),
        word(["blocked-uri", "blockedURL"]),
        word(["document-uri", "documentURL"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nothing_else_is_believed() {
        let old = br#"{"csp-report":{"effective-directive":"script-src","blocked-uri":"inline","document-uri":"https://box/"}}"#;
        let new = br#"[{"type":"csp-violation","body":{"effectiveDirective":"script-src","blockedURL":"inline","documentURL":"https://box/"}}]"#;
        for sent in [&old[..], new] {
            assert_eq!(
                read(sent),
                ("script-src".into(), "inline".into(), "https://box/".into())
            );
        }
        for sent in [&b""[..], b"[]", b"{}", b"[[[[", b"\xff"] {
            assert_eq!(read(sent), (String::new(), String::new(), String::new()));
        }
        let long = format!(r#"{{"csp-report":{{"blocked-uri":"{}\u001b[31m"}}}}"#, "x".repeat(4000));
        assert!(read(long.as_bytes()).1.len() <= WORD);
    }

    #[test]
    fn all_are_counted_and_few_are_told() {
        let reports = Reports::default();
        assert_eq!((0..100).filter(|_| reports.may_tell(5)).count(), TOLD as usize);
        assert!(reports.may_tell(5 + WITHIN));
        (0..3).for_each(|_| reports.hear(b"", 5));
        assert_eq!(reports.count(), 3);
    }
}
