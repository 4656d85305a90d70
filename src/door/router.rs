//! The names and addresses of this box, and which door a request goes to.

use std::net::IpAddr;

use super::{
    host::{is_private, split_port},
    table::{self, Host, Place},
};
use crate::model::{Endpoint, Endpoints, InstanceId};

/// Why a request goes to no door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nowhere {
    /// Not a host of ours.
    Host,
    /// One of our hosts, but no such path.
    Path,
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

    /// The door at a `host[:port]` (as [`super::authority`] returns it) and a path without its query.
    ///
    /// # Errors
    /// [`Nowhere`].
    pub fn find(&self, authority: &str, path: &str) -> Result<Place, Nowhere> {
        let (host, _) = split_port(authority).ok_or(Nowhere::Host)?;
        if let Some((host, id)) = self.instance_of(host) {
            let place = table::find(host, path).ok_or(Nowhere::Path)?;
            return Ok(Place {
                instance: Some(id),
                ..place
            });
        }
        if let Some(place) = table::find(Host::Any, path) {
            return Ok(place);
        }
        if !self.is_front(host) {
            return Err(Nowhere::Host);
        }
        table::find(Host::Own, path).ok_or(Nowhere::Path)
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
        self.is_own(host) || self.instance_of(host).is_some()
    }

    /// What stands before `.{domain}`.
    fn prefix_of<'a>(&self, host: &'a str) -> Option<&'a str> {
        let domain = self.domain.as_deref()?;
        let cut = host.len().checked_sub(domain.len())?;
        let (head, tail) = (host.get(..cut)?, host.get(cut..)?);
        let head = head.strip_suffix('.')?;
        tail.eq_ignore_ascii_case(domain).then_some(head)
    }

    /// Whose host it is, where it is an instance's.
    fn instance_of(&self, host: &str) -> Option<(Host, InstanceId)> {
        self.prefix_of(host).and_then(Host::of_instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::{Door, authority};
    use proptest::prelude::*;

    const ID: &str = "abcdefghij";

    type Found = Result<Place, Nowhere>;

    fn of_instance(door: Door, leads: usize) -> Found {
        Ok(Place {
            door,
            instance: Some(InstanceId::parse(ID).unwrap()),
            leads,
        })
    }

    fn mcp() -> Found {
        of_instance(Door::Mcp, 0)
    }

    fn sse() -> Found {
        of_instance(Door::Sse, 0)
    }

    fn screen(leads: usize) -> Found {
        of_instance(Door::Screen, leads)
    }

    fn own(door: Door) -> Found {
        Ok(Place {
            door,
            instance: None,
            leads: 0,
        })
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
            ("mcp-abcdefghij.example.org", "/mcp//", Err(Nowhere::Path)),
            ("mcp-abcdefghij.example.org", "/", Err(Nowhere::Path)),
            ("mcp-abcdefghij.example.org", "/.berth/start", Err(Nowhere::Path)),
            ("mcp-abcdefghij.example.org", "/MCP", Err(Nowhere::Path)),
            ("example.org", "/mcp/abcdefghij", mcp()),
            ("app.example.org", "/mcp/abcdefghij", mcp()),
            ("example.org", "/mcp/ABCDEFGHIJ", Err(Nowhere::Path)),
            ("example.org", "/mcp/abcdefghij/", mcp()),
            ("example.org", "/abcdefghij/mcp", mcp()),
            ("example.org", "/abcdefghij/mcp/", mcp()),
            ("example.org", "/mcp/abcdefghij//", Err(Nowhere::Path)),
            ("mcp-abcdefghij.example.org", "/sse", sse()),
            ("mcp-abcdefghij.example.org", "/sse/", sse()),
            ("example.org", "/abcdefghij/sse", sse()),
            ("192.0.2.7", "/abcdefghij/sse/", sse()),
            ("example.org", "/abcdefghij/sse/x", Err(Nowhere::Path)),
            ("example.org", "/sse", Err(Nowhere::Path)),
            ("example.org", "/sse/abcdefghij", Err(Nowhere::Path)),
            ("example.org", "/mcp/abcdefghij/mcp", Err(Nowhere::Path)),
            ("example.org", "/x/abcdefghij/mcp", Err(Nowhere::Path)),
            ("example.org", "/mcp/mcp", Err(Nowhere::Path)),
            ("example.org", "/mcp/../.berth", Err(Nowhere::Path)),
            ("example.org", "/mcp", Err(Nowhere::Path)),
            ("example.org", "/", own(Door::Console)),
            ("vnc-abcdefghij.example.org", "/any/thing", screen(0)),
            ("Vnc-Abcdefghij.example.org:8443", "/", screen(0)),
            ("example.org", "/vnc/abcdefghij/", screen(15)),
            ("example.org", "/vnc/abcdefghij/a/b", screen(15)),
            ("example.org", "/vnc/abcdefghij", screen(15)),
            ("example.org", "/vnc/abc/", Err(Nowhere::Path)),
            ("example.org", "/vnc", Err(Nowhere::Path)),
            ("mcp-abcdefghij.example.org", "/vnc/abcdefghij/", Err(Nowhere::Path)),
            ("vnc-abc.example.org", "/x", Err(Nowhere::Host)),
            ("mcp-abc.example.org", "/mcp", Err(Nowhere::Host)),
            ("mcp-abcdefghij.evil.org", "/mcp", Err(Nowhere::Host)),
            ("evilexample.org", "/mcp", Err(Nowhere::Host)),
            ("x.mcp-abcdefghij.example.org", "/mcp", Err(Nowhere::Host)),
            ("192.0.2.7", "/mcp/abcdefghij", mcp()),
            ("[2001:db8::7]:8443", "/mcp/abcdefghij", mcp()),
            ("192.0.2.7", "/mcp", Err(Nowhere::Path)),
            ("192.0.2.7.evil.org", "/mcp/abcdefghij", Err(Nowhere::Host)),
            ("example.org", "/api/claim", own(Door::Claim)),
            ("app.example.org", "/api/v1/status", own(Door::Api)),
            ("192.0.2.7:8443", "/api/v1/status", own(Door::Api)),
            ("box.lan", "/", own(Door::Console)),
            ("box.lan", "/api/v1/status", own(Door::Api)),
            ("box.lan", "/mcp/abcdefghij", Err(Nowhere::Host)),
            ("mcp-abcdefghij.example.org", "/api/claim", Err(Nowhere::Path)),
            ("mcp-abcdefghij.example.org", "/api/v1/status", Err(Nowhere::Path)),
            ("example.org", "/api", Err(Nowhere::Path)),
            ("user@example.org", "/", Err(Nowhere::Host)),
            ("example.org:x", "/", Err(Nowhere::Host)),
            ("", "/", Err(Nowhere::Host)),
            (".", "/", Err(Nowhere::Host)),
        ] {
            assert_eq!(r.find(host, path), want, "{host} {path}");
        }
        let r = Router::new(Some("localhost"), 443);
        assert_eq!(r.find("127.0.0.1:8443", "/mcp/abcdefghij"), mcp());
        assert_eq!(r.find("[::1]:8443", "/mcp/abcdefghij"), mcp());
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
            ("[fd00::9]", "/vnc/abcdefghij/", screen(15)),
            ("box.local", "/mcp/abcdefghij", mcp()),
            ("Mcp.Box.Home.Arpa.", "/mcp/abcdefghij", mcp()),
            ("localhost:8443", "/mcp/abcdefghij", mcp()),
            ("local", "/mcp/abcdefghij", Err(Nowhere::Host)),
            (".local", "/mcp/abcdefghij", Err(Nowhere::Host)),
            ("boxlocal", "/mcp/abcdefghij", Err(Nowhere::Host)),
            ("box.lan", "/mcp/abcdefghij", Err(Nowhere::Host)),
            ("mcp-abcdefghij.box.local", "/mcp", Err(Nowhere::Path)),
            ("box.lan", "/", own(Door::Console)),
        ] {
            assert_eq!(r.find(host, path), want, "{host} {path}");
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
            let _ = r.find(&host, &path);
            r.origin_is_ours(&host, &path);
            let _ = authority(Some(&host), std::iter::once(path.as_bytes()));
        }

        #[test]
        fn every_address_given_out_routes_back(bytes: [u8; 10], port: u16, domain in "[a-z]{1,9}(\\.[a-z]{2,5}){0,2}") {
            let r = Router::new(Some(&domain), port);
            let id = InstanceId::from_random(bytes);
            let e = r.endpoints(&id, "");
            let of = |door, leads| Ok(Place { door, instance: Some(id.clone()), leads });
            let route = |url: &str| {
                let rest = url.strip_prefix("https://").unwrap();
                let slash = rest.find('/').unwrap();
                r.find(&rest[..slash], &rest[slash..])
            };
            for url in [e.mcp.url, e.mcp.path_url] {
                prop_assert_eq!(route(&url), of(Door::Mcp, 0));
            }
            let e = e.screen.unwrap();
            prop_assert_eq!(route(&e.url), of(Door::Screen, 0));
            prop_assert_eq!(route(&e.path_url), of(Door::Screen, 15));
        }

        #[test]
        fn only_our_hosts_are_known(host in "[a-z0-9.-]{1,40}") {
            let r = Router::new(Some("example.org"), 443);
            prop_assert_eq!(r.find(&host, "/mcp") == Err(Nowhere::Host), !r.knows(&host));
            let address = host.trim_end_matches('.').parse::<IpAddr>().is_ok();
            let private = host.trim_end_matches('.').ends_with(".local") || host.trim_end_matches('.').ends_with(".home.arpa");
            if r.knows(&host) { prop_assert!(address || private || host.trim_end_matches('.').ends_with("example.org")); }
        }
    }
}
