//! A row as a message of syslog (RFC 5424), framed by its length (RFC 5425 section 4.3). The message's text is the row as the
//! box keeps it, JSON with its hash, so that the chain can be verified from what was received.

use serde::Deserialize;

use crate::model::{AuditKind, AuditOutcome};

/// `log audit`, RFC 5424 section 6.2.1.
const FACILITY: u8 = 13;
/// A message is not longer; of a longer row it is said that something is left out.
pub(super) const MOST: usize = 60 << 10;
/// The highest `sequenceId`, RFC 5424 section 7.3.1.
const LAST_ID: u64 = 2_147_483_647;

#[derive(Deserialize)]
struct Head<'a> {
    seq: u64,
    #[serde(borrow)]
    time: &'a str,
    kind: AuditKind,
    outcome: AuditOutcome,
}

/// Appends a row's message to `out`. The row's number; none where it is no row.
pub(super) fn append(row: &[u8], host: &str, out: &mut Vec<u8>) -> Option<u64> {
    let Head {
        seq,
        time,
        kind,
        outcome,
    } = serde_json::from_slice(row).ok()?;
    let shorter;
    let text = match row.len() > MOST {
        true => {
            shorter = shorten(row)?;
            &shorter
        }
        false => row,
    };
    let head = format!(
        "<{}>1 {time} {host} berth - {} [meta sequenceId=\"{}\"][origin software=\"berth\" swVersion=\"{}\"] ",
        FACILITY * 8 + severity(kind, outcome),
        kind.as_str(),
        (seq.max(1) - 1) % LAST_ID + 1,
        env!("CARGO_PKG_VERSION"),
    );
    out.extend_from_slice((head.len() + text.len()).to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(text);
    Some(seq)
}

/// A row without the list of what changed, which is its only long part; the box has it.
fn shorten(row: &[u8]) -> Option<Vec<u8>> {
    let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(row).ok()?;
    let changes = row.remove("changes")?;
    let n = changes.as_array().map_or(0, Vec::len);
    row.insert("note".into(), format!("{n} changes are in the audit of the box").into());
    serde_json::to_vec(&row).ok().filter(|text| text.len() <= MOST)
}

/// RFC 5424 section 6.2.1, table 2.
fn severity(kind: AuditKind, outcome: AuditOutcome) -> u8 {
    match outcome {
        AuditOutcome::Failed | AuditOutcome::Broken => 3,
        AuditOutcome::Refused => 4,
        AuditOutcome::Error | AuditOutcome::ToolError | AuditOutcome::Cut => 5,
        AuditOutcome::Ok | AuditOutcome::ClientGone | AuditOutcome::Begun => match kind {
            AuditKind::Call | AuditKind::Stream => 6,
            _ => 5,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framed_by_its_length() {
        let row = br#"{"seq":7,"run":"a","n":1,"time":"2026-12-01T10:00:00.000001Z","kind":"sign-in","outcome":"refused","note":"\u00e9","hash":"h"}"#;
        let mut out = Vec::new();
        assert_eq!(append(row, "box.example.org", &mut out), Some(7));
        let text = String::from_utf8(out).unwrap();
        let (length, message) = text.split_once(' ').unwrap();
        assert_eq!(length.parse(), Ok(message.len()));
        let version = env!("CARGO_PKG_VERSION");
        let head = format!(
            "<108>1 2026-12-01T10:00:00.000001Z box.example.org berth - sign-in [meta sequenceId=\"7\"]\
             [origin software=\"berth\" swVersion=\"{version}\"] "
        );
        assert_eq!(message.strip_prefix(&head).map(str::as_bytes), Some(&row[..]));
        assert_eq!(append(b"no row", "box", &mut Vec::new()), None);
    }

    #[test]
    fn a_row_that_is_too_long_says_what_is_left_out() {
        let change = format!(r#"{{"of":"member ada","to":"{}"}}"#, "x".repeat(1000));
        let row = format!(
            r#"{{"seq":7,"time":"2026-12-01T10:00:00Z","kind":"act","outcome":"ok","action":"member-rm","changes":[{}],"hash":"h"}}"#,
            vec![change; 100].join(",")
        );
        let mut out = Vec::new();
        assert_eq!(append(row.as_bytes(), "box", &mut out), Some(7));
        let text = String::from_utf8(out).unwrap();
        assert!(text.len() < 1000 && text.contains("member-rm"), "{text}");
        assert!(text.contains("100 changes are in the audit of the box"), "{text}");
    }
}
