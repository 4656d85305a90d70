//! Parameters of queries: what one may be, and those of the routes that have many.

use super::events::EventKind;
use crate::model::{AuditKind, AuditOutcome, date, date_time};

/// The items of a page, at most.
pub const MAX_PAGE: u32 = 1000;

/// A wait lasts so many milliseconds at most.
pub const MAX_WAIT: u32 = 300_000;

/// The characters of a cursor, at most.
pub(super) const MAX_CURSOR: usize = 1024;

/// The characters of a text, at most.
pub(super) const MAX_TEXT: usize = 200;

/// What a parameter of a query may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// `0` or `1`.
    Flag,
    /// An unsigned number below 2^32.
    Number,
    /// An unsigned number up to that one.
    UpTo(u32),
    /// How many items a page has at most: 1 to [`MAX_PAGE`].
    Limit,
    /// Where a page begins, as the page before told it: a text in the alphabet of base64url.
    Cursor,
    /// An unsigned number below 2^63.
    Long,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Some of these words, with commas between.
    Words(&'static [&'static str]),
    /// A time, as RFC 3339 writes one.
    Time,
    /// A date: `2027-01-31`.
    Date,
    /// A text, percent-encoded where it has to be (RFC 3986 section 2.1).
    Text,
}

impl Value {
    /// What is to be written, in words; none where that needs none.
    pub fn choices(self) -> Vec<String> {
        match self {
            Value::OneOf(words) | Value::Words(words) => words.iter().map(|w| (*w).to_owned()).collect(),
            Value::UpTo(most) => vec![format!("a number from 0 to {most}")],
            Value::Limit => vec![format!("a number from 1 to {MAX_PAGE}")],
            Value::Time => vec!["a time as RFC 3339 has it, such as 2027-01-31T10:00:00Z".to_owned()],
            Value::Date => vec!["a date such as 2027-01-31".to_owned()],
            Value::Flag | Value::Number | Value::Cursor | Value::Long | Value::Text => Vec::new(),
        }
    }

    /// Whether a text is one.
    pub fn fits(self, text: &str) -> bool {
        let number = || {
            Some(text)
                .filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?
                .parse::<u32>()
                .ok()
        };
        match self {
            Value::Flag => matches!(text, "0" | "1"),
            Value::Number => number().is_some(),
            Value::UpTo(most) => number().is_some_and(|n| n <= most),
            Value::Long => text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<i64>().is_ok(),
            Value::Limit => number().is_some_and(|n| (1..=MAX_PAGE).contains(&n)),
            Value::Cursor => {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
                (1..=MAX_CURSOR).contains(&text.len()) && text.bytes().all(allowed)
            }
            Value::OneOf(words) => words.contains(&text),
            Value::Words(words) => unescaped(text).is_some_and(|t| t.split(',').all(|word| words.contains(&word))),
            Value::Time => unescaped(text).is_some_and(|t| date_time(&t).is_some()),
            Value::Date => date(text).is_some(),
            Value::Text => unescaped(text).is_some_and(|t| (1..=MAX_TEXT).contains(&t.chars().count())),
        }
    }
}

/// A part of a query without its percent-encoding; none where that is malformed, or is no text.
pub fn unescaped(text: &str) -> Option<String> {
    decoded(text, b' ')
}

/// The same of a part of a path (RFC 3986 section 2.1), in which a plus is a plus.
pub fn unescaped_path(text: &str) -> Option<String> {
    decoded(text, b'+')
}

fn decoded(text: &str, plus: u8) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok().filter(|d| !d.starts_with('+'))?;
                u8::from_str_radix(digits, 16).ok()?
            }
            b'+' => plus,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A text as [`unescaped`] reads it.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What is followed, and from where.
pub(super) const EVENTS: &[(&str, Value)] = &[
    ("kind", Value::Words(EventKind::WORDS)),
    ("instance", Value::Text),
    ("last_event_id", Value::Text),
    ("follow", Value::Flag),
];

/// What names rows of the audit: which of them, and by each of their columns.
pub(super) const AUDIT: &[(&str, Value)] = &[
    ("follow", Value::Flag),
    ("tail", Value::Number),
    ("limit", Value::Number),
    ("after", Value::Long),
    ("since", Value::Time),
    ("until", Value::Time),
    ("kind", Value::OneOf(AuditKind::WORDS)),
    ("outcome", Value::OneOf(AuditOutcome::WORDS)),
    ("member", Value::Text),
    ("by", Value::Text),
    ("token", Value::Text),
    ("via", Value::Text),
    ("address", Value::Text),
    ("client", Value::Text),
    ("workspace", Value::Text),
    ("gateway", Value::Text),
    ("instance", Value::Text),
    ("server", Value::Text),
    ("version", Value::Text),
    ("method", Value::Text),
    ("tool", Value::Text),
    ("action", Value::Text),
    ("on", Value::Text),
    ("code", Value::Text),
    ("era", Value::Text),
    ("grant", Value::Text),
    ("trace", Value::Text),
    ("note", Value::Text),
    ("status", Value::Number),
    ("latency_us", Value::Long),
    ("bytes_in", Value::Long),
    ("bytes_out", Value::Long),
    ("of", Value::Long),
    ("omitted", Value::Long),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_a_query_is_escaped() {
        for text in ["a b", "é+%", "2026-12-01T00:00:00+01:00", ""] {
            assert_eq!(unescaped(&escaped(text)).as_deref(), Some(text));
        }
        assert_eq!(unescaped("a+b%20c").as_deref(), Some("a b c"));
        assert_eq!(unescaped_path("a+b%2Fc%20%c3%a9").as_deref(), Some("a+b/c é"));
        for bad in ["%", "%2", "%zz", "%ff", "%+1", "%C3", "a%c3%28"] {
            assert_eq!((unescaped(bad), unescaped_path(bad)), (None, None), "{bad}");
        }
    }
}
