//! The section `[audit]`: how long rows are kept, what calls do when the disk is full, and where rows are forwarded to.

use std::path::PathBuf;

use super::check::{Bytes, domain, file};
use crate::strict_toml::Section;

/// The checked section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Rows that are older are removed, in days.
    pub retain_days: u32,
    /// Rows are kept in so many bytes at most.
    pub max_bytes: u64,
    /// Calls are refused while the disk takes no rows; else they go on, and rows wait and may be lost.
    pub refuse_when_full: bool,
    /// A receiver of syslog over TLS that rows are sent to.
    pub syslog: Option<Syslog>,
    /// A file that rows are appended to.
    pub file: Option<PathBuf>,
}

/// A receiver of syslog over TLS (RFC 5425).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syslog {
    /// A name, or an address without brackets; its certificate has to be for it.
    pub host: String,
    pub port: u16,
    /// PEM: who may have signed its certificate. Default: what this machine trusts.
    pub ca_file: Option<PathBuf>,
    /// PEM files that this box shows to the receiver: a certificate with its chain, and its private key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Syslog {
    /// RFC 5425 section 4.1.
    pub const PORT: u16 = 6514;
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            retain_days: 90,
            max_bytes: 2 << 30,
            refuse_when_full: false,
            syslog: None,
            file: None,
        }
    }
}

pub(super) fn read(s: &mut Section<'_>, audit: &mut Audit) {
    if let Some(days) = s.integer("retain_days", 1, 3650) {
        audit.retain_days = u32::try_from(days.value).unwrap_or(u32::MAX);
    }
    if let Some(n) = s.parsed::<Bytes>(
        "max_bytes",
        "an amount with its unit (MiB, GiB or TiB), such as \"2GiB\", from 64MiB",
    ) {
        audit.max_bytes = n.value.0.unsigned_abs();
    }
    if let Some(word) = s.string("when_full") {
        match word.value.as_str() {
            "continue" => audit.refuse_when_full = false,
            "refuse" => audit.refuse_when_full = true,
            _ => s.wrong(&word, "audit.when_full: write \"continue\" or \"refuse\""),
        }
    }
    if let Some(mut to) = s.section("syslog") {
        audit.syslog = syslog(&mut to);
        to.finish();
    }
    if let Some(mut to) = s.section("file") {
        audit.file = file(&mut to, "path");
        if audit.file.is_none() {
            to.missing("path", "the absolute path of the file that rows are appended to");
        }
        to.finish();
    }
}

fn syslog(s: &mut Section<'_>) -> Option<Syslog> {
    let ca_file = file(s, "ca_file");
    let client = match (file(s, "client_cert"), file(s, "client_key")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            s.wrong_here("audit.syslog: client_cert and client_key need each other");
            None
        }
    };
    let Some(address) = s.string("address") else {
        s.missing("address", "the receiver, such as \"logs.example.org:6514\"");
        return None;
    };
    let Some((host, port)) = receiver(&address.value) else {
        s.wrong(
            &address,
            format!(
                "audit.syslog.address: write a host and a port, such as \"logs.example.org:6514\"; {:?} is not one",
                address.value
            ),
        );
        return None;
    };
    Some(Syslog {
        host,
        port,
        ca_file,
        client,
    })
}

/// `host`, `host:port`, `address`, `address:port` or `[address]:port`.
pub(crate) fn receiver(text: &str) -> Option<(String, u16)> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Some((text.to_owned(), Syslog::PORT));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|p| *p > 0)?),
        _ => (text, Syslog::PORT),
    };
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let address: std::net::Ipv6Addr = inner.parse().ok()?;
        return Some((address.to_string(), port));
    }
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some((host.to_owned(), port));
    }
    Some((domain(host)?, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn what_is_written_is_what_is_kept() {
        assert_eq!(parse("b.toml", "").unwrap().audit, Audit::default());
        let good = "[audit]\nretain_days = 30\nmax_bytes = \"1GiB\"\nwhen_full = \"refuse\"\n";
        let audit = parse("b.toml", good).unwrap().audit;
        assert_eq!(
            (audit.retain_days, audit.max_bytes, audit.refuse_when_full),
            (30, 1 << 30, true)
        );
        for (line, said) in [
            ("retain_days = 0", "is outside"),
            ("max_bytes = \"1KiB\"", "an amount with its unit"),
            (
                "when_full = \"stop\"",
                "audit.when_full: write \"continue\" or \"refuse\"",
            ),
            ("[audit.syslog]", "the receiver, such as"),
            ("[audit.syslog]\naddress = \"a b:1\"", "write a host and a port"),
            (
                "[audit.syslog]\naddress = \"logs.example.org:0\"",
                "write a host and a port",
            ),
            (
                "[audit.syslog]\naddress = \"logs.example.org\"\nclient_key = \"/k\"",
                "need each other",
            ),
            ("[audit.syslog]\naddress = \"logs.example.org\"\ntls = false", "tls"),
            ("[audit.file]", "the absolute path of the file"),
            ("[audit.file]\npath = \"audit.jsonl\"", "an absolute path"),
        ] {
            let all = parse("b.toml", &format!("[audit]\n{line}\n"))
                .expect_err(line)
                .to_string();
            assert!(all.contains(said), "{line}: {all}");
        }
    }

    #[test]
    fn receivers() {
        let text = "[audit.syslog]\naddress = \"Logs.Example.org\"\nca_file = \"/ca.pem\"\nclient_cert = \"/c.pem\"\n\
                    client_key = \"/k.pem\"\n[audit.file]\npath = \"/var/log/audit.jsonl\"\n";
        let audit = parse("b.toml", text).unwrap().audit;
        assert_eq!(
            audit.syslog,
            Some(Syslog {
                host: "logs.example.org".into(),
                port: 6514,
                ca_file: Some("/ca.pem".into()),
                client: Some(("/c.pem".into(), "/k.pem".into())),
            })
        );
        assert_eq!(audit.file, Some("/var/log/audit.jsonl".into()));
        for (text, host, port) in [
            ("logs.example.org:1514", "logs.example.org", 1514),
            ("192.0.2.1", "192.0.2.1", 6514),
            ("192.0.2.1:99", "192.0.2.1", 99),
            ("2001:db8::1", "2001:db8::1", 6514),
            ("[2001:db8::1]", "2001:db8::1", 6514),
            ("[2001:db8::1]:99", "2001:db8::1", 99),
            ("localhost:6514", "localhost", 6514),
        ] {
            assert_eq!(receiver(text), Some((host.to_owned(), port)), "{text}");
        }
        for wrong in [
            "",
            ":6514",
            "a:b",
            "a:65536",
            "[::1",
            "[x]:1",
            "192.0.2.1.5:1",
            "https://a",
        ] {
            assert_eq!(receiver(wrong), None, "{wrong}");
        }
    }
}
