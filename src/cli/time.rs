//! Times as people write them: so long from now, or a date.

use anyhow::{Result, anyhow};

use crate::model::{date, date_time};

/// So many seconds, as `30d`, `12h` or `45m`; ten years at most.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let (n, seconds) = [("m", 60), ("h", 3600), ("d", 86_400)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))?;
    let n: i64 = n.parse().ok().filter(|n| *n > 0)?;
    n.checked_mul(seconds).filter(|s| *s <= 3_650 * 86_400)
}

/// A moment that is to come: so long after `now`, a date (its beginning in UTC), or a time of RFC 3339.
pub(super) fn moment(text: &str, now: jiff::Timestamp) -> Option<jiff::Timestamp> {
    if let Some(seconds) = seconds(text) {
        return now.checked_add(jiff::SignedDuration::from_secs(seconds)).ok();
    }
    match date(text) {
        Some(date) => Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp()),
        None => date_time(text),
    }
}

/// The same for an option of this name.
pub(super) fn moment_of(option: &str, text: &str) -> Result<jiff::Timestamp> {
    moment(text, jiff::Timestamp::now()).ok_or_else(|| {
        anyhow!(
            "{option} {text:?}: write a number with its unit, such as 30d, 12h or 45m, a date such as 2027-01-31, or a time \
             such as 2027-01-31T10:00:00Z"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let now: jiff::Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        for (text, at) in [
            ("45m", "2026-11-30T12:45:00Z"),
            ("30d", "2026-12-30T12:00:00Z"),
            ("2027-01-31", "2027-01-31T00:00:00Z"),
            ("2027-01-31T10:00:00+02:00", "2027-01-31T08:00:00Z"),
        ] {
            assert_eq!(moment(text, now), at.parse().ok(), "{text}");
        }
        for bad in [
            "",
            "d",
            "0d",
            "-1d",
            "5",
            "5w",
            "99999999999d",
            "é",
            "2027-13-01",
            "2027-1-1",
            "never",
            "2027-01-31T10:00:00",
            "2027-01-31 10:00:00Z",
            "20270131T100000Z",
            "2027-01-31T10:00:00+01:00[Europe/Berlin]",
        ] {
            assert_eq!(moment(bad, now), None, "{bad}");
        }
    }
}
