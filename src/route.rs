//! F1: where a request goes, by its host and path alone. Pure: looks nothing up, allocates one id at most, never
//! panics on hostile bytes. It never decides whether the instance exists or who may reach it.
//!
//! | host | path | target |
//! | --- | --- | --- |
//! | `mcp-{id}.{domain}` | `/mcp` | the instance's MCP endpoint |
//! | `{domain}`, `app.{domain}` | `/mcp/{id}`, `/{id}/mcp` | the same; some clients want a path that ends in `/mcp` |
//! | `mcp-{id}.{domain}` | `/sse` | the same for clients of the transport of 2024-11-05 |
//! | `{domain}`, `app.{domain}` | `/{id}/sse` | the same |
//! | `vnc-{id}.{domain}` | any | the instance's screen |
//! | `{domain}`, `app.{domain}` | `/vnc/{id}/…` | the same |
//! | `{domain}`, `app.{domain}` | `/` | the front page |
//! | the same | `/api/claim`, `/api/…` | claiming, the admin API |
//!
//! An address in the host's place stands for the domain: that is how a box without DNS is reached, and no page of
//! another site can claim that host. So does a name that only a network of one's own can have: below `local` (RFC 6762)
//! or `home.arpa` (RFC 8375). `/` and `/api` answer under any other name too, since a box cannot know what its network
//! calls it; they trust no name. Where the domain is `localhost`, `127.0.0.1` and `[::1]` are its own names. A box without
//! a domain gives out paths at the host that it was asked at. Hosts compare without regard to case, port and one trailing
//! dot (RFC 9110 section 4.2.3, RFC 1034 section 3.1); paths compare byte for byte.

pub mod origin;

use std::net::IpAddr;

use crate::model::{Endpoint, Endpoints, InstanceId};

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An instance's MCP endpoint. Whether the instance exists is not known here.
    Mcp { id: InstanceId },
    /// The same for clients of the transport of 2024-11-05 (HTTP with SSE).
    Sse { id: InstanceId },
    /// An instance's screen: its page, and what belongs to it.
    Screen { id: InstanceId, at: ScreenAt },
    /// `/` on the box's own host.
    Front,
    /// `/api/claim`.
    Claim,
    /// The admin API: below `/api/`.
    Api,
    /// One of our hosts, but no such path.
    UnknownPath,
    /// Not a host of ours.
    UnknownHost,
}

/// Under which of its two addresses a screen was asked for; what is asked of it is the path's rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScreenAt {
    /// `vnc-{id}.{domain}`: the path is the screen's own.
    Host,
    /// `/vnc/{id}`: so many bytes of the path are not the screen's own.
    Path(usize),
}

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

/// The names that this box answers to, and the addresses that it gives out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    domain: Option<String>,
    https_port: u16,
    local: bool,
    /// The one address that it listens on, where that is not all.
    only: Option<IpAddr>,
}

impl Router {
    /// `domain` in lower case without a trailing dot, as [`crate::config::Config`] holds it.
    pub fn new(domain: Option<&str>, https_port: u16) -> Router {
        Router {
            domain: domain.map(str::to_owned),
            https_port,
            local: domain == Some("localhost"),
            only: None,
        }
    }

    /// The same box, which listens at this address; the unspecified one is all of them.
    #[must_use]
    pub fn listening_at(mut self, address: IpAddr) -> Router {
        self.only = Some(address).filter(|a| !a.is_unspecified());
        self
    }

    /// The one address that the box can be reached at, where it listens on no other.
    pub fn only_address(&self) -> Option<IpAddr> {
        self.only
    }

    /// The domain; none where the box is known by its addresses.
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The port that outside addresses name.
    pub fn https_port(&self) -> u16 {
        self.https_port
    }

    /// Routes a `host[:port]` (as [`authority`] returns it) and a path without its query.
    pub fn route(&self, authority: &str, path: &str) -> Target {
        let Some((host, _)) = split_port(authority) else {
            return Target::UnknownHost;
        };
        if let Some(id) = self.instance_of(host, "mcp-") {
            return match path {
                "/mcp" | "/mcp/" => Target::Mcp { id },
                "/sse" | "/sse/" => Target::Sse { id },
                _ => Target::UnknownPath,
            };
        }
        if let Some(id) = self.instance_of(host, "vnc-") {
            return Target::Screen { id, at: ScreenAt::Host };
        }
        match path {
            "/" => Target::Front,
            "/api/claim" => Target::Claim,
            _ if path.starts_with("/api/") => Target::Api,
            _ if !self.is_front(host) => Target::UnknownHost,
            _ => endpoint_by_path(path)
                .or_else(|| screen_by_path(path))
                .unwrap_or(Target::UnknownPath),
        }
    }

    /// Whether a page of this origin is a screen's own, and no other page of the box: of the very host that the
    /// request names, over https and on our port.
    pub fn origin_is_the_hosts(&self, origin: &str, authority: &str) -> bool {
        let host_of = |a| split_port(a).map(|(host, _)| host);
        let Some((host, port)) = origin.strip_prefix("https://").and_then(split_port) else {
            return false;
        };
        port.unwrap_or(443) == self.https_port && host_of(authority).is_some_and(|h| h.eq_ignore_ascii_case(host))
    }

    /// Whether a browser page of this origin may call (MCP 2026-07-28, Streamable HTTP, "Security & Endpoint"): it is
    /// of the host that the request names, or of the box's own front page, over https and on our port. On a
    /// `localhost` box any local page may.
    pub fn origin_is_ours(&self, origin: &str, authority: &str) -> bool {
        let Some((scheme, rest)) = origin.split_once("://") else {
            return false;
        };
        let Some((host, port)) = split_port(rest) else {
            return false;
        };
        if self.local && self.is_local(host) {
            return scheme == "https" || scheme == "http";
        }
        // A name that is not ours may have been pointed here by the page's own site.
        let same_host = split_port(authority).is_some_and(|(h, _)| h.eq_ignore_ascii_case(host)) && self.knows(host);
        scheme == "https" && port.unwrap_or(443) == self.https_port && (same_host || self.is_own(host))
    }

    /// The addresses of an instance, with that of the screen that it may have; port 443 is not written. `at` is the
    /// `host[:port]` that a box without a domain is asked at; one with a domain has that.
    pub fn endpoints(&self, id: &InstanceId, at: &str) -> Endpoints {
        let Some(domain) = &self.domain else {
            let by_path = |path: String| Endpoint {
                url: path.clone(),
                path_url: path,
            };
            return Endpoints {
                mcp: by_path(format!("https://{at}/mcp/{id}")),
                screen: Some(by_path(format!("https://{at}/vnc/{id}/"))),
            };
        };
        let port = self.port_suffix();
        Endpoints {
            mcp: Endpoint {
                url: format!("https://mcp-{id}.{domain}{port}/mcp"),
                path_url: format!("https://{domain}{port}/mcp/{id}"),
            },
            screen: Some(Endpoint {
                url: format!("https://vnc-{id}.{domain}{port}/"),
                path_url: format!("https://{domain}{port}/vnc/{id}/"),
            }),
        }
    }

    /// `""` for 443, else `:port`.
    pub fn port_suffix(&self) -> String {
        if self.https_port == 443 {
            String::new()
        } else {
            format!(":{}", self.https_port)
        }
    }

    /// Whether this box answers to the host at all.
    pub fn knows(&self, authority: &str) -> bool {
        split_port(authority).is_some_and(|(host, _)| self.is_front(host) || self.is_local(host))
    }

    /// The host by which to answer, without a port, where that is the box's own: a name of its, or the address that
    /// the connection came to. By any other address (a translated one, perhaps) it is the domain, where that is a
    /// name that others can resolve.
    pub fn own_host<'a>(&'a self, authority: &'a str, local: IpAddr) -> Option<&'a str> {
        let (host, _) = split_port(authority)?;
        if self.is_local(host) || self.is_anybodys_own(host) {
            return Some(host);
        }
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let address = bare.parse::<IpAddr>().ok()?;
        if address.to_canonical() == local.to_canonical() {
            return Some(host);
        }
        self.domain.as_deref().filter(|_| !self.local)
    }

    /// The box itself, by name or by address.
    fn is_front(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        self.is_own(host) || bare.parse::<IpAddr>().is_ok() || self.is_anybodys_own(host)
    }

    /// A name that is nobody's on the internet, by which this box answers as well.
    fn is_anybodys_own(&self, host: &str) -> bool {
        is_private(host) || (self.domain.is_none() && host.eq_ignore_ascii_case("localhost"))
    }

    /// The box itself, by a name that nobody else can have.
    fn is_own(&self, host: &str) -> bool {
        self.domain.as_deref().is_some_and(|d| host.eq_ignore_ascii_case(d))
            || self.prefix_of(host).is_some_and(|p| p.eq_ignore_ascii_case("app"))
            || (self.local && (host == "127.0.0.1" || host == "[::1]"))
    }

    fn is_local(&self, host: &str) -> bool {
        self.is_own(host) || self.instance_of(host, "mcp-").is_some() || self.instance_of(host, "vnc-").is_some()
    }

    /// What stands before `.{domain}`.
    fn prefix_of<'a>(&self, host: &'a str) -> Option<&'a str> {
        let domain = self.domain.as_deref()?;
        let cut = host.len().checked_sub(domain.len())?;
        let (head, tail) = (host.get(..cut)?, host.get(cut..)?);
        let head = head.strip_suffix('.')?;
        tail.eq_ignore_ascii_case(domain).then_some(head)
    }

    fn instance_of(&self, host: &str, kind: &str) -> Option<InstanceId> {
        let label = self.prefix_of(host)?;
        let id = label.get(4..).filter(|_| label[..4].eq_ignore_ascii_case(kind))?;
        if id.bytes().any(|b| b.is_ascii_uppercase()) {
            return InstanceId::parse(&id.to_ascii_lowercase()).ok();
        }
        InstanceId::parse(id).ok()
    }
}

/// Whether a host is a name that has no owner on the internet: below `local` or `home.arpa`, one label or more.
pub fn is_private(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    ["local", "home.arpa"].iter().any(|zone| {
        let name = host.strip_suffix(zone).and_then(|h| h.strip_suffix('.'));
        name.is_some_and(|n| n.split('.').all(|label| !label.is_empty()))
    })
}

/// `/mcp/{id}`, `/{id}/mcp` or `/{id}/sse`, with one slash at the end or without.
fn endpoint_by_path(path: &str) -> Option<Target> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let id = |text: &str| InstanceId::parse(text).ok();
    if let Some(rest) = path.strip_prefix("/mcp/") {
        return id(rest).map(|id| Target::Mcp { id });
    }
    let (first, last) = path.strip_prefix('/')?.split_once('/')?;
    match last {
        "mcp" => id(first).map(|id| Target::Mcp { id }),
        "sse" => id(first).map(|id| Target::Sse { id }),
        _ => None,
    }
}

/// `/vnc/{id}` and what follows.
fn screen_by_path(path: &str) -> Option<Target> {
    let rest = path.strip_prefix("/vnc/")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let id = InstanceId::parse(&rest[..end]).ok()?;
    let at = ScreenAt::Path(path.len() - rest.len() + end);
    Some(Target::Screen { id, at })
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
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
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
    use proptest::prelude::*;

    const ID: &str = "abcdefghij";

    fn mcp() -> Target {
        Target::Mcp {
            id: InstanceId::parse(ID).unwrap(),
        }
    }

    fn sse() -> Target {
        Target::Sse {
            id: InstanceId::parse(ID).unwrap(),
        }
    }

    fn screen(at: ScreenAt) -> Target {
        Target::Screen {
            id: InstanceId::parse(ID).unwrap(),
            at,
        }
    }

    #[test]
    fn a_screen_hears_its_own_pages_alone() {
        let r = Router::new(Some("localhost"), 8443);
        let h = "vnc-abcdefghij.localhost:8443";
        assert!(r.origin_is_the_hosts("https://vnc-abcdefghij.localhost:8443", h));
        assert!(r.origin_is_the_hosts("https://localhost:8443", "localhost:8443"));
        for bad in [
            "https://localhost:8443",
            "https://vnc-abcdefghij.localhost",
            "http://vnc-abcdefghij.localhost:8443",
            "https://vnc-bbbbbbbbbb.localhost:8443",
            "null",
            "",
        ] {
            assert!(!r.origin_is_the_hosts(bad, h), "{bad}");
        }
    }

    #[test]
    fn table() {
        let r = Router::new(Some("example.org"), 8443);
        for (host, path, want) in [
            ("mcp-abcdefghij.example.org", "/mcp", mcp()),
            ("mcp-abcdefghij.example.org:8443", "/mcp", mcp()),
            ("MCP-ABCDEFGHIJ.Example.ORG.", "/mcp", mcp()),
            ("mcp-abcdefghij.example.org", "/mcp/", mcp()),
            ("mcp-abcdefghij.example.org", "/mcp//", Target::UnknownPath),
            ("mcp-abcdefghij.example.org", "/", Target::UnknownPath),
            ("mcp-abcdefghij.example.org", "/.berth/start", Target::UnknownPath),
            ("mcp-abcdefghij.example.org", "/MCP", Target::UnknownPath),
            ("example.org", "/mcp/abcdefghij", mcp()),
            ("app.example.org", "/mcp/abcdefghij", mcp()),
            ("example.org", "/mcp/ABCDEFGHIJ", Target::UnknownPath),
            ("example.org", "/mcp/abcdefghij/", mcp()),
            ("example.org", "/abcdefghij/mcp", mcp()),
            ("example.org", "/abcdefghij/mcp/", mcp()),
            ("example.org", "/mcp/abcdefghij//", Target::UnknownPath),
            ("mcp-abcdefghij.example.org", "/sse", sse()),
            ("mcp-abcdefghij.example.org", "/sse/", sse()),
            ("example.org", "/abcdefghij/sse", sse()),
            ("192.0.2.7", "/abcdefghij/sse/", sse()),
            ("example.org", "/abcdefghij/sse/x", Target::UnknownPath),
            ("example.org", "/sse", Target::UnknownPath),
            ("example.org", "/sse/abcdefghij", Target::UnknownPath),
            ("example.org", "/mcp/abcdefghij/mcp", Target::UnknownPath),
            ("example.org", "/x/abcdefghij/mcp", Target::UnknownPath),
            ("example.org", "/mcp/mcp", Target::UnknownPath),
            ("example.org", "/mcp/../.berth", Target::UnknownPath),
            ("example.org", "/mcp", Target::UnknownPath),
            ("example.org", "/", Target::Front),
            ("vnc-abcdefghij.example.org", "/any/thing", screen(ScreenAt::Host)),
            ("Vnc-Abcdefghij.example.org:8443", "/", screen(ScreenAt::Host)),
            ("example.org", "/vnc/abcdefghij/", screen(ScreenAt::Path(15))),
            ("example.org", "/vnc/abcdefghij/a/b", screen(ScreenAt::Path(15))),
            ("example.org", "/vnc/abcdefghij", screen(ScreenAt::Path(15))),
            ("example.org", "/vnc/abc/", Target::UnknownPath),
            ("example.org", "/vnc", Target::UnknownPath),
            ("mcp-abcdefghij.example.org", "/vnc/abcdefghij/", Target::UnknownPath),
            ("vnc-abc.example.org", "/x", Target::UnknownHost),
            ("mcp-abc.example.org", "/mcp", Target::UnknownHost),
            ("mcp-abcdefghij.evil.org", "/mcp", Target::UnknownHost),
            ("evilexample.org", "/mcp", Target::UnknownHost),
            ("x.mcp-abcdefghij.example.org", "/mcp", Target::UnknownHost),
            ("192.0.2.7", "/mcp/abcdefghij", mcp()),
            ("[2001:db8::7]:8443", "/mcp/abcdefghij", mcp()),
            ("192.0.2.7", "/mcp", Target::UnknownPath),
            ("192.0.2.7.evil.org", "/mcp/abcdefghij", Target::UnknownHost),
            ("example.org", "/api/claim", Target::Claim),
            ("app.example.org", "/api/v1/status", Target::Api),
            ("192.0.2.7:8443", "/api/v1/status", Target::Api),
            ("box.lan", "/", Target::Front),
            ("box.lan", "/api/v1/status", Target::Api),
            ("box.lan", "/mcp/abcdefghij", Target::UnknownHost),
            ("mcp-abcdefghij.example.org", "/api/claim", Target::UnknownPath),
            ("mcp-abcdefghij.example.org", "/api/v1/status", Target::UnknownPath),
            ("example.org", "/api", Target::UnknownPath),
            ("user@example.org", "/", Target::UnknownHost),
            ("example.org:x", "/", Target::UnknownHost),
            ("", "/", Target::UnknownHost),
            (".", "/", Target::UnknownHost),
        ] {
            assert_eq!(r.route(host, path), want, "{host} {path}");
        }
        let r = Router::new(Some("localhost"), 443);
        assert_eq!(r.route("127.0.0.1:8443", "/mcp/abcdefghij"), mcp());
        assert_eq!(r.route("[::1]:8443", "/mcp/abcdefghij"), mcp());
        assert_eq!(
            r.endpoints(&InstanceId::parse(ID).unwrap(), "").mcp.path_url,
            "https://localhost/mcp/abcdefghij"
        );
    }

    #[test]
    fn a_box_without_a_domain_is_known_by_where_it_is_asked() {
        let r = Router::new(None, 443);
        for (host, path, want) in [
            ("192.0.2.7", "/mcp/abcdefghij", mcp()),
            ("192.168.1.9:8443", "/mcp/abcdefghij", mcp()),
            ("[fd00::9]", "/vnc/abcdefghij/", screen(ScreenAt::Path(15))),
            ("box.local", "/mcp/abcdefghij", mcp()),
            ("Mcp.Box.Home.Arpa.", "/mcp/abcdefghij", mcp()),
            ("localhost:8443", "/mcp/abcdefghij", mcp()),
            ("local", "/mcp/abcdefghij", Target::UnknownHost),
            (".local", "/mcp/abcdefghij", Target::UnknownHost),
            ("boxlocal", "/mcp/abcdefghij", Target::UnknownHost),
            ("box.lan", "/mcp/abcdefghij", Target::UnknownHost),
            ("mcp-abcdefghij.box.local", "/mcp", Target::UnknownPath),
            ("box.lan", "/", Target::Front),
        ] {
            assert_eq!(r.route(host, path), want, "{host} {path}");
        }
        let id = InstanceId::parse(ID).unwrap();
        for at in ["192.168.1.9", "box.local:8443", "[fd00::9]:444"] {
            let e = r.endpoints(&id, at);
            assert_eq!(e.mcp.url, format!("https://{at}/mcp/abcdefghij"));
            assert_eq!(e.mcp.path_url, e.mcp.url);
            assert_eq!(e.screen.unwrap().url, format!("https://{at}/vnc/abcdefghij/"));
        }
        assert!(r.origin_is_ours("https://box.local", "box.local"));
        assert!(!r.origin_is_ours("https://printer.local", "box.local"));
        assert!(!r.origin_is_ours("http://localhost:3000", "localhost"));
    }

    #[test]
    fn nobody_is_sent_to_an_address_that_is_not_ours() {
        let local: IpAddr = "192.0.2.7".parse().unwrap();
        let named = Router::new(Some("example.org"), 443);
        let bare = Router::new(Some("localhost"), 443);
        for (host, by_name, by_address) in [
            ("example.org:80", Some("example.org"), None),
            ("mcp-abcdefghij.example.org", Some("mcp-abcdefghij.example.org"), None),
            ("192.0.2.7", Some("192.0.2.7"), Some("192.0.2.7")),
            ("192.0.2.7:80", Some("192.0.2.7"), Some("192.0.2.7")),
            (
                "[::ffff:192.0.2.7]",
                Some("[::ffff:192.0.2.7]"),
                Some("[::ffff:192.0.2.7]"),
            ),
            ("203.0.113.66", Some("example.org"), None),
            ("[2001:db8::66]", Some("example.org"), None),
            ("evil.org", None, None),
            ("localhost", None, Some("localhost")),
        ] {
            assert_eq!(named.own_host(host, local), by_name, "{host}");
            assert_eq!(bare.own_host(host, local), by_address, "{host}");
        }
        let nameless = Router::new(None, 443);
        assert_eq!(nameless.own_host("192.0.2.7", local), Some("192.0.2.7"));
        assert_eq!(nameless.own_host("box.local", local), Some("box.local"));
        assert_eq!(nameless.own_host("localhost:8080", local), Some("localhost"));
        assert_eq!(nameless.own_host("203.0.113.66", local), None);
    }

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

    #[test]
    fn origins() {
        let r = Router::new(Some("example.org"), 443);
        let h = "mcp-abcdefghij.example.org";
        assert!(r.origin_is_ours("https://mcp-abcdefghij.example.org", h));
        assert!(r.origin_is_ours("https://app.example.org", h));
        for bad in [
            "http://example.org",
            "https://evil.org",
            "null",
            "https://example.org:8443",
            "",
            "https://mcp-bbbbbbbbbb.example.org",
        ] {
            assert!(!r.origin_is_ours(bad, h), "{bad}");
        }
        // By address, the page must come from that very address; by a name of somebody's, from nowhere.
        assert!(r.origin_is_ours("https://192.0.2.7", "192.0.2.7"));
        assert!(!r.origin_is_ours("https://192.0.2.8", "192.0.2.7"));
        assert!(!r.origin_is_ours("https://192.0.2.8", "example.org"));
        assert!(
            !r.origin_is_ours("https://evil.org", "evil.org"),
            "pointed here by evil.org's own DNS"
        );
        let r = Router::new(Some("localhost"), 8443);
        assert!(r.origin_is_ours("http://localhost:3000", "localhost:8443"));
        assert!(!r.origin_is_ours("http://evil.org", "localhost:8443"));
        assert!(!r.origin_is_ours("null", "localhost:8443"));
    }

    proptest! {
        #[test]
        fn never_panics(host in ".*", path in ".*", domain in "[a-z.]{0,20}") {
            let r = Router::new(Some(&domain), 1);
            r.route(&host, &path);
            r.origin_is_ours(&host, &path);
            let _ = authority(Some(&host), std::iter::once(path.as_bytes()));
        }

        #[test]
        fn every_address_given_out_routes_back(bytes: [u8; 10], port: u16, domain in "[a-z]{1,9}(\\.[a-z]{2,5}){0,2}") {
            let r = Router::new(Some(&domain), port);
            let id = InstanceId::from_random(bytes);
            let e = r.endpoints(&id, "");
            let route = |url: &str| {
                let rest = url.strip_prefix("https://").unwrap();
                let slash = rest.find('/').unwrap();
                r.route(&rest[..slash], &rest[slash..])
            };
            for url in [e.mcp.url, e.mcp.path_url] {
                prop_assert_eq!(route(&url), Target::Mcp { id: id.clone() });
            }
            let e = e.screen.unwrap();
            prop_assert_eq!(route(&e.url), Target::Screen { id: id.clone(), at: ScreenAt::Host });
            prop_assert_eq!(route(&e.path_url), Target::Screen { id, at: ScreenAt::Path(15) });
        }

        #[test]
        fn only_our_hosts_are_known(host in "[a-z0-9.-]{1,40}") {
            let r = Router::new(Some("example.org"), 443);
            prop_assert_eq!(r.route(&host, "/mcp") == Target::UnknownHost, !r.knows(&host));
            let address = host.trim_end_matches('.').parse::<IpAddr>().is_ok();
            let private = host.trim_end_matches('.').ends_with(".local") || host.trim_end_matches('.').ends_with(".home.arpa");
            if r.knows(&host) { prop_assert!(address || private || host.trim_end_matches('.').ends_with("example.org")); }
        }
    }
}
