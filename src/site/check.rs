//! Raw TOML -> checked [`Site`]; every problem with its file, its line and what to write instead.

use std::net::IpAddr;

use super::{Address, MAX_PORTS, Port, Proxy, Site, Which};
use crate::{
    claim::PublicKey,
    config,
    strict_toml::{Document, Problems, Section},
};

/// Checks the text of a site file. `file` is only for messages.
///
/// # Errors
/// All problems of the text at once.
pub fn parse(file: &str, text: &str) -> Result<Site, Problems> {
    let mut doc = Document::parse(file, text);
    let mut site = Site::default();
    let root = doc.root();
    if let Some(h) = root.string("hostname") {
        match label(&h.value) {
            true => site.hostname = Some(h.value.to_ascii_lowercase()),
            false => root.wrong(
                &h,
                format!(
                    "hostname: write one label of letters, digits and hyphens, such as \"berth-1\"; {:?} is not one",
                    h.value
                ),
            ),
        }
    }
    if let Some(d) = root.string("domain") {
        match config::domain(&d.value) {
            Some(ok) => site.domain = Some(ok),
            None => root.wrong(
                &d,
                format!(
                    "domain: write a host name such as \"mcp.example.org\"; {:?} is not one",
                    d.value
                ),
            ),
        }
    }
    site.time_servers = hosts(root, "time_servers");
    if let Some(mut s) = root.section("proxy") {
        proxy(&mut s, &mut site.proxy);
        s.finish();
    }
    if let Some(mut s) = root.section("trust") {
        trust(&mut s, &mut site);
        s.finish();
    }
    if let Some(mut s) = root.section("claim") {
        claim(&mut s, &mut site);
        s.finish();
    }
    if let Some(mut s) = root.section("audit") {
        audit(&mut s, &mut site);
        s.finish();
    }
    site.ports = ports(root);
    doc.finish().map(|()| site).map_err(Problems)
}

/// Checks a text that holds nothing but `[[network]]`: what was entered on the console.
///
/// # Errors
/// All problems of the text at once.
pub fn network(file: &str, text: &str) -> Result<Vec<Port>, Problems> {
    let mut doc = Document::parse(file, text);
    let found = ports(doc.root());
    doc.finish().map(|()| found).map_err(Problems)
}

/// One label of a host name.
pub(super) fn label(s: &str) -> bool {
    config::domain(s).is_some() && !s.contains('.')
}

/// A host name or an address.
fn host(s: &str) -> bool {
    s.parse::<IpAddr>().is_ok() || config::domain(s).is_some()
}

fn hosts(s: &mut Section<'_>, key: &'static str) -> Vec<String> {
    let Some(found) = s.strings(key) else { return Vec::new() };
    for bad in found.value.iter().filter(|h| !host(h)) {
        s.wrong(
            &found,
            format!("{key}: write host names or addresses; {bad:?} is neither"),
        );
    }
    found.value
}

fn proxy(s: &mut Section<'_>, proxy: &mut Proxy) {
    for (key, place) in [("http", &mut proxy.http), ("https", &mut proxy.https)] {
        let Some(url) = s.string(key) else { continue };
        if proxy_url(&url.value) {
            *place = Some(url.value);
        } else {
            // Not repeated: it may hold a password.
            s.wrong(
                &url,
                format!("proxy.{key}: write a URL such as \"http://proxy.example.org:3128\"; this is not one"),
            );
        }
    }
    if let Some(found) = s.strings("exclude") {
        let fine = |e: &String| !e.is_empty() && e.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:/*".contains(&b));
        for bad in found.value.iter().filter(|e| !fine(e)) {
            s.wrong(
                &found,
                format!("proxy.exclude: write hosts, domains or prefixes such as \".example.org\" or \"10.0.0.0/8\"; {bad:?} is none"),
            );
        }
        proxy.exclude = found.value;
    }
}

fn audit(s: &mut Section<'_>, site: &mut Site) {
    let Some(to) = s.string("syslog") else { return };
    if config::receiver(&to.value).is_some() {
        site.syslog = Some(to.value);
    } else {
        s.wrong(
            &to,
            format!(
                "audit.syslog: write a host and a port, such as \"logs.example.org:6514\"; {:?} is not one",
                to.value
            ),
        );
    }
}

/// `http://[user:password@]host[:port]`, with nothing in it that an environment file would read in another way.
fn proxy_url(s: &str) -> bool {
    let Some(rest) = s.strip_prefix("http://").or_else(|| s.strip_prefix("https://")) else {
        return false;
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let (name, port) = match place.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (place, None),
    };
    let name = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    host(name)
        && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0))
        && rest
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"\"'\\$`/#?".contains(&b))
}

fn trust(s: &mut Section<'_>, site: &mut Site) {
    const WANT: &str = "the certificates as PEM, between \"\"\" and \"\"\"";
    let Some(found) = s.string("ca") else {
        s.missing("ca", WANT);
        return;
    };
    match certificates(&found.value) {
        Ok(pem) => site.ca = Some(pem),
        Err(why) => s.wrong(&found, format!("trust.ca: write {WANT}; {why}")),
    }
}

/// The certificates of a PEM text, in its plainest form.
fn certificates(text: &str) -> Result<String, String> {
    let (mut out, mut count) = (String::new(), 0);
    for pem in x509_parser::pem::Pem::iter_from_buffer(text.as_bytes()) {
        count += 1;
        let pem = pem.map_err(|e| format!("number {count} is not PEM ({e})"))?;
        if pem.label != "CERTIFICATE" {
            return Err(format!(
                "number {count} is a {}: only certificates belong here",
                pem.label
            ));
        }
        let (_, certificate) = x509_parser::parse_x509_certificate(&pem.contents)
            .map_err(|e| format!("number {count} is not a certificate ({e})"))?;
        if !certificate.is_ca() {
            return Err(format!(
                "number {count} ({}) is not an authority's",
                certificate.subject()
            ));
        }
        use base64::Engine;
        let body = base64::engine::general_purpose::STANDARD.encode(&pem.contents);
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in body.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    if count == 0 {
        Err("there is none in it".into())
    } else {
        Ok(out)
    }
}

fn claim(s: &mut Section<'_>, site: &mut Site) {
    const WANT: &str = "the administrator's public key, as ssh-keygen -t ed25519 writes it: \"ssh-ed25519 AAAA…\"";
    let Some(found) = s.string("public_key") else {
        s.missing("public_key", WANT);
        return;
    };
    // As the supervisor reads it, which must not stumble over what was let through here.
    match PublicKey::parse(&found.value) {
        Ok(_) => {
            // The comment at its end is nobody's business but its owner's.
            let words: Vec<&str> = found.value.split_whitespace().take(2).collect();
            site.claim_key = Some(words.join(" "));
        }
        Err(e) => s.wrong(&found, format!("claim.public_key: write {WANT}; {e}")),
    }
}

fn ports(root: &mut Section<'_>) -> Vec<Port> {
    let mut found: Vec<Port> = Vec::new();
    for mut s in root.sections("network") {
        let port = port(&mut s);
        if found.iter().any(|p| p.which == port.which && p.vlan == port.vlan) {
            s.wrong_here("[[network]]: this port is described twice; put both into one table");
        } else if found.len() == MAX_PORTS {
            s.wrong_here(format!("[[network]]: {MAX_PORTS} are the most"));
        }
        if port.vlan.is_some() && found.iter().any(|p| p.vlan == port.vlan && p.which != port.which) {
            s.wrong_here("vlan: this VLAN is on another port already; name each VLAN once");
        }
        s.finish();
        found.push(port);
    }
    found
}

fn port(s: &mut Section<'_>) -> Port {
    let which = which(s);
    let vlan = s.integer("vlan", 1, 4094).and_then(|v| u16::try_from(v.value).ok());
    let mode = s.choice("mode", &[("dhcp", true), ("static", false)]);
    let addresses = each(s, "addresses", |a| a.parse::<Address>());
    let gateways = each(s, "gateways", ip);
    let dns = each(s, "dns", ip).unwrap_or_default();
    let search = hosts(s, "search");
    let given = addresses.is_some();
    let (addresses, gateways) = (addresses.unwrap_or_default(), gateways.unwrap_or_default());
    let dhcp = mode.as_ref().map_or(!given, |m| m.value);
    match &mode {
        Some(m) if dhcp && given => {
            s.wrong(
                m,
                "mode: with addresses of its own write \"static\", or take the addresses out",
            );
        }
        Some(_) if !dhcp && !given => s.missing("addresses", "one or more, such as [\"192.0.2.10/24\"]"),
        _ => {}
    }
    if dhcp && !gateways.is_empty() {
        s.wrong_here("gateways: by DHCP the gateway comes with the address; take gateways out, or add addresses");
    }
    for family in [IpAddr::is_ipv4 as fn(&IpAddr) -> bool, IpAddr::is_ipv6] {
        // An address that was refused is told of already.
        let addressed = addresses.iter().any(|a| family(&a.ip)) || (given && addresses.is_empty());
        match gateways.iter().filter(|g| family(g)).count() {
            0 => {}
            1 if addressed || dhcp => {}
            1 => s.wrong_here(
                "gateways: one is of a family in which the port has no address; add an address or take it out",
            ),
            _ => s.wrong_here("gateways: write at most one for IPv4 and one for IPv6"),
        }
    }
    Port {
        which,
        vlan,
        dhcp,
        addresses,
        gateways,
        dns,
        search,
    }
}

fn which(s: &mut Section<'_>) -> Which {
    let name = s.string("name");
    let mac = s.string("mac");
    match (name, mac) {
        (Some(_), Some(m)) => {
            s.wrong(&m, "mac: write name or mac, not both");
            Which::Any
        }
        (None, None) => Which::Any,
        (Some(n), None) => {
            if !port_name(&n.value) {
                s.wrong(
                    &n,
                    format!(
                        "name: write the port's name, such as \"enp1s0\"; {:?} is not one",
                        n.value
                    ),
                );
            }
            Which::Name(n.value)
        }
        (None, Some(m)) => mac_address(&m.value).map_or_else(
            || {
                s.wrong(
                    &m,
                    format!(
                        "mac: write a hardware address, such as \"52:54:00:12:34:56\"; {:?} is not one",
                        m.value
                    ),
                );
                Which::Any
            },
            Which::Mac,
        ),
    }
}

/// What the kernel takes as a port's name, and the two signs that networkd matches by.
pub(super) fn port_name(s: &str) -> bool {
    (1..=15).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.*?@".contains(&b))
}

/// Six pairs with colons or hyphens, as lower case with colons.
pub(super) fn mac_address(s: &str) -> Option<String> {
    let parts: Vec<&str> = s.split(['-', ':']).collect();
    let pair = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(pair)).then(|| parts.join(":").to_ascii_lowercase())
}

pub(super) fn ip(s: &str) -> Result<IpAddr, String> {
    s.parse()
        .map_err(|_| format!("{s:?}: write an address, such as \"192.0.2.1\" or \"fe80::1\""))
}

/// A list of texts, each read by `read`; `None` when there is none.
fn each<T, E: std::fmt::Display>(
    s: &mut Section<'_>,
    key: &'static str,
    read: impl Fn(&str) -> Result<T, E>,
) -> Option<Vec<T>> {
    let found = s.strings(key)?;
    if found.value.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    for one in &found.value {
        match read(one) {
            Ok(v) => out.push(v),
            Err(why) => s.wrong(&found, format!("{key}: {why}")),
        }
    }
    Some(out)
}

/// Nothing but what a proxy takes for granted.
impl Proxy {
    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.http.is_some() || self.https.is_some()
    }
}
