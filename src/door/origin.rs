//! Origins of browser pages (RFC 6454, section 6.2) that an administrator may allow, and those of a person's own machine.

use super::host::split_port;

/// A web origin as browsers send it in `Origin`: scheme and host in lower case, no port where it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// As it stands in an `Origin` header.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} {why}")]
pub struct OriginError {
    given: String,
    why: &'static str,
}

impl std::str::FromStr for Origin {
    type Err = OriginError;

    /// `https://host[:port]` or `http://host[:port]`, and nothing else; the error says what is wrong with it.
    fn from_str(text: &str) -> Result<Self, OriginError> {
        let wrong = |why| {
            let given = text.to_owned();
            Err(OriginError { given, why })
        };
        let lower = text.to_ascii_lowercase();
        let (scheme, own_port, rest) = match lower.split_once("://") {
            Some(("https", rest)) => ("https", 443, rest),
            Some(("http", rest)) => ("http", 80, rest),
            _ => return wrong("does not begin with https:// or http://"),
        };
        if rest.contains('*') {
            return wrong("has a *: name each origin");
        }
        if rest.contains(['/', '?', '#']) {
            return wrong("has a path: end it after the host or the port");
        }
        if rest.contains('@') {
            return wrong("has a user name in it");
        }
        if !rest.is_ascii() {
            return wrong("has a host that is not ASCII: write its xn-- form, as browsers send it");
        }
        match split_port(rest) {
            Some((_, Some(0))) | None => wrong("has no valid host and port"),
            Some((host, Some(port))) if port != own_port => Ok(Origin(format!("{scheme}://{host}:{port}"))),
            Some((host, _)) => Ok(Origin(format!("{scheme}://{host}"))),
        }
    }
}

/// Whether a page of this origin was served by the very machine that its browser runs on. No other site's name can stand
/// in such an origin, so no DNS answer makes a foreign page one of these.
pub fn is_loopback(origin: &str) -> bool {
    let rest = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    rest.and_then(split_port)
        .is_some_and(|(host, _)| host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_send_them() {
        for (text, want) in [
            ("https://inspector.example.org", "https://inspector.example.org"),
            ("HTTPS://Inspector.Example.org:443", "https://inspector.example.org"),
            ("http://tools.example.org:80", "http://tools.example.org"),
            ("https://tools.example.org:8443", "https://tools.example.org:8443"),
            ("https://[2001:db8::1]:444", "https://[2001:db8::1]:444"),
        ] {
            assert_eq!(text.parse::<Origin>().expect(text).as_str(), want);
        }
        for (text, said) in [
            ("*", "does not begin with"),
            ("null", "does not begin with"),
            ("inspector.example.org", "does not begin with"),
            ("ftp://example.org", "does not begin with"),
            ("https://*.example.org", "has a *"),
            ("https://example.org/", "has a path"),
            ("https://example.org/app", "has a path"),
            ("https://example.org?x", "has a path"),
            ("https://a@example.org", "has a user name"),
            ("https://bücher.example", "xn--"),
            ("https://", "no valid host"),
            ("https://exa mple.org", "no valid host"),
            ("https://example.org:99999", "no valid host"),
            ("https://example.org:0", "no valid host"),
        ] {
            let e = text.parse::<Origin>().expect_err(text);
            assert!(e.to_string().contains(said), "{text}: {e}");
        }
    }

    #[test]
    fn loopback_is_ones_own_machine_alone() {
        for own in [
            "http://localhost:6274",
            "http://127.0.0.1:6274",
            "http://[::1]:6274",
            "https://localhost",
        ] {
            assert!(is_loopback(own), "{own}");
        }
        for other in [
            "http://localhost.evil.org",
            "http://evil.org",
            "http://127.0.0.1.evil.org",
            "http://127.0.0.2:80",
            "http://localhost:80:80",
            "http://a@localhost",
            "ftp://localhost",
            "localhost",
            "null",
            "",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
