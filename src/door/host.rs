//! Hosts as requests name them (RFC 9110 section 4.2.3, RFC 9112 section 3.2). They compare without regard to case, port and
//! one trailing dot (RFC 1034 section 3.1).

/// Why a request's host cannot be told (HTTP 400).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// RFC 9112 section 3.2: a request without `Host` is answered 400.
    #[error("the request names no host")]
    Missing,
    /// RFC 9112 section 3.2: so is one with several.
    #[error("the request names more than one host")]
    Several,
    /// RFC 9113 section 8.3.1: `Host` and `:authority` must not differ.
    #[error("Host and the request target name different hosts")]
    Mismatch,
    /// Not a `host[:port]`.
    #[error("the host is not valid")]
    Malformed,
}

/// Whether a host is a name that has no owner on the internet: below `local` or `home.arpa`, one label or more.
pub fn is_private(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    ["local", "home.arpa"].iter().any(|zone| {
        let name = host.strip_suffix(zone).and_then(|h| h.strip_suffix('.'));
        name.is_some_and(|n| n.split('.').all(|label| !label.is_empty()))
    })
}

/// The one host that a request names, from its target (`:authority` in HTTP/2, absolute form in HTTP/1.1) and its
/// `Host` header lines.
///
/// # Errors
/// [`HostError`]: none, several, different ones, or not text.
pub fn authority<'a>(
    target: Option<&'a str>,
    mut host_lines: impl Iterator<Item = &'a [u8]>,
) -> Result<&'a str, HostError> {
    let line = match host_lines.next() {
        None => None,
        Some(l) => Some(std::str::from_utf8(l).map_err(|_| HostError::Malformed)?.trim()),
    };
    if host_lines.next().is_some() {
        return Err(HostError::Several);
    }
    let named = match (target, line) {
        (Some(t), Some(l)) if !t.eq_ignore_ascii_case(l) => return Err(HostError::Mismatch),
        (Some(t), _) => t,
        (None, Some(l)) => l,
        (None, None) => return Err(HostError::Missing),
    };
    split_port(named).map(|_| named).ok_or(HostError::Malformed)
}

/// `host[:port]` -> host (without one trailing dot; an IPv6 literal keeps its brackets) and port.
pub(super) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if authority.starts_with('[') {
        let end = authority.find(']')? + 1;
        let (host, rest) = authority.split_at(end);
        (
            host,
            if rest.is_empty() {
                None
            } else {
                Some(rest.strip_prefix(':')?)
            },
        )
    } else {
        match authority.split_once(':') {
            Some((h, p)) => (h, Some(p)),
            None => (authority, None),
        }
    };
    let port = match port {
        None | Some("") => None,
        Some(p) if p.bytes().all(|b| b.is_ascii_digit()) => Some(p.parse().ok()?),
        Some(_) => return None,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    let ok = if host.starts_with('[') {
        host.len() > 2 && host.bytes().all(|b| plain(b) || matches!(b, b'[' | b']' | b':'))
    } else {
        !host.is_empty() && host.len() <= 253 && host.bytes().all(plain)
    };
    ok.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_only() {
        let a = |t, lines: &[&'static str]| authority(t, lines.iter().map(|l| l.as_bytes()));
        assert_eq!(a(None, &["a.b"]), Ok("a.b"));
        assert_eq!(a(Some("a.b"), &["A.b"]), Ok("a.b"));
        assert_eq!(a(Some("a.b"), &[]), Ok("a.b"));
        assert_eq!(a(Some("a.b"), &["c.d"]), Err(HostError::Mismatch));
        assert_eq!(a(None, &["a", "a"]), Err(HostError::Several));
        assert_eq!(a(None, &[]), Err(HostError::Missing));
        assert_eq!(a(None, &["a b"]), Err(HostError::Malformed));
    }
}
