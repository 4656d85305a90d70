//! Dates and times as RFC 3339 writes them, and no others: what a document of the API says is a `date` or a `date-time`.

use jiff::{Timestamp, civil::Date};

/// Whether each byte of a text is one of a form: `d` stands for a digit.
fn has_form(text: &[u8], form: &[u8]) -> bool {
    let fits = |(byte, form): (&u8, &u8)| match form {
        b'd' => byte.is_ascii_digit(),
        form => byte.eq_ignore_ascii_case(form),
    };
    text.len() == form.len() && text.iter().zip(form).all(fits)
}

/// A time, as `date-time` of RFC 3339 (section 5.6): `2027-01-31T10:00:00Z`, `2027-01-31t10:00:00.25+02:00`.
pub fn date_time(text: &str) -> Option<Timestamp> {
    let (seconds, rest) = text.as_bytes().split_at_checked(19)?;
    let digits = rest.strip_prefix(b".").map_or(0, |fraction| {
        let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        // A point alone is no fraction.
        if digits == 0 { rest.len() } else { digits + 1 }
    });
    let zone = rest.get(digits..)?;
    let is_zone = has_form(zone, b"z") || has_form(zone, b"+dd:dd") || has_form(zone, b"-dd:dd");
    if !has_form(seconds, b"dddd-dd-ddtdd:dd:dd") || !is_zone {
        return None;
    }
    text.to_ascii_uppercase().parse().ok()
}

/// A date, as `full-date` of RFC 3339: `2027-01-31`.
pub fn date(text: &str) -> Option<Date> {
    has_form(text.as_bytes(), b"dddd-dd-dd").then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_rfc_and_no_others() {
        for (text, same) in [
            ("2027-01-31T10:00:00Z", "2027-01-31T10:00:00Z"),
            ("2027-01-31t10:00:00z", "2027-01-31T10:00:00Z"),
            ("2027-01-31T10:00:00.250+02:00", "2027-01-31T08:00:00.25Z"),
            ("2027-01-31T10:00:00.123456789-00:00", "2027-01-31T10:00:00.123456789Z"),
            ("2028-02-29T23:59:60Z", "2028-02-29T23:59:59Z"),
        ] {
            assert_eq!(date_time(text), Some(same.parse().unwrap()), "{text}");
        }
        for bad in [
            "",
            "2027-01-31",
            "2027-01-31T10:00:00",
            "2027-01-31T10:00Z",
            "2027-01-31T10Z",
            "2027-01-31 10:00:00Z",
            "20270131T100000Z",
            "2027-01-31T10:00:00,5Z",
            "2027-01-31T10:00:00.Z",
            "2027-01-31T10:00:00+02",
            "2027-01-31T10:00:00+0200",
            "2027-01-31T10:00:00+02:00:00",
            "2027-01-31T10:00:00Z[Europe/Berlin]",
            "2027-01-31T10:00:00+01:00[Europe/Berlin]",
            "+002027-01-31T10:00:00Z",
            "2027-02-30T10:00:00Z",
            "2027-01-31T24:00:00Z",
            "2027-01-31T10:00:00Z ",
            "2027-01-31T10:00:00\u{ff3a}",
            "é027-01-31T10:00:00Z",
        ] {
            assert_eq!(date_time(bad), None, "{bad}");
        }
        assert_eq!(date("2027-01-31"), Some(jiff::civil::date(2027, 1, 31)));
        for bad in [
            "",
            "2027-1-31",
            "20270131",
            "2027-02-30",
            "2027-W05-1",
            "2027-01-31T",
            "2027-01-31T00:00:00Z",
        ] {
            assert_eq!(date(bad), None, "{bad}");
        }
    }
}
