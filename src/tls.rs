//! F2: the certificates that the edge shows: made by a CA of our own ([`local`]), or read from PEM files and read
//! again when they change ([`files`]). A renewal or reload touches no connection: new handshakes see the new
//! certificate, and a broken new file leaves the old one in place. Private keys never leave this module but into
//! their own 0600 files and rustls.

mod files;
mod local;
mod trust;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::config;

pub use trust::{add_bundle, machine_bundle};

/// How often [`Certificates::keep`] looks at files and clock.
const POLL: Duration = Duration::from_secs(2);

/// Why certificates could not be had. Names the operation and the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot {what} {path}: {source}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} holds no usable {what}: {why}")]
    Content {
        what: &'static str,
        path: PathBuf,
        why: String,
    },
    #[error("cannot make {what}: {source}")]
    Make { what: &'static str, source: rcgen::Error },
    #[error("cannot set up TLS to {what}: {source}")]
    Rustls { what: &'static str, source: rustls::Error },
}

/// What certificates are for.
#[derive(Debug, Clone)]
pub struct Names {
    /// The domain; `*.{domain}` comes with it. Without one, the certificate is for `localhost` and the addresses.
    pub domain: Option<String>,
    /// Also `localhost`, `127.0.0.1` and `::1`: the domain is `localhost`, or the edge listens on loopback.
    pub loopback: bool,
    /// What the CA is called where there is no domain.
    pub title: String,
    /// The addresses of the box, as they are now. A certificate can be for those of private networks.
    pub addresses: fn() -> Vec<IpAddr>,
}

#[derive(Debug)]
enum Source {
    Local(Box<local::LocalCa>),
    Files(files::PemFiles),
}

#[derive(Debug)]
struct Inner {
    source: Source,
    /// What handshakes see.
    current: ArcSwap<CertifiedKey>,
}

/// The certificates of one edge. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Inner>);

impl Certificates {
    /// Opens what the configuration names; with `local-ca` makes what is missing in `{state_dir}/tls`. Blocks on
    /// files.
    ///
    /// # Errors
    /// [`TlsError`]; at start a broken file is fatal, later it is not.
    pub fn open(tls: &config::Tls, state_dir: &Path, names: Names, now: SystemTime) -> Result<Self, TlsError> {
        let (source, first) = match tls {
            config::Tls::LocalCa => {
                let ca = local::LocalCa::open(&state_dir.join("tls"), names, now)?;
                let leaf = ca.leaf(now)?;
                (Source::Local(Box::new(ca)), leaf)
            }
            config::Tls::Files { cert, key } => {
                let files = files::PemFiles::new(cert.clone(), key.clone());
                let first = files.load()?;
                (Source::Files(files), first)
            }
        };
        Ok(Certificates(Arc::new(Inner {
            source,
            current: ArcSwap::new(first),
        })))
    }

    /// TLS 1.2 and 1.3, ALPN `h2` and `http/1.1`, resumption by tickets (RFC 5077, RFC 8446 section 4.6.1).
    ///
    /// # Errors
    /// [`TlsError::Rustls`] when the random source fails.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let fail = |what| move |source| TlsError::Rustls { what, source };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(fail("choose versions"))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(fail("make ticket keys"))?;
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }

    /// Looks at files and clock now (also on SIGHUP) and swaps the certificate if there is a newer one; whether it
    /// did. Blocks on files for a moment.
    ///
    /// # Errors
    /// [`TlsError`]: the old certificate stays.
    pub fn refresh(&self, now: SystemTime) -> Result<bool, TlsError> {
        let new = match &self.0.source {
            Source::Local(ca) => ca.renewal(now)?,
            Source::Files(files) => files.changed()?,
        };
        let swapped = new.is_some();
        if let Some(key) = new {
            self.0.current.store(key);
        }
        Ok(swapped)
    }

    /// A task: calls [`Certificates::refresh`] every 2 s, for ever. A broken file is logged once per change.
    pub async fn keep(self) {
        let mut tick = tokio::time::interval(POLL);
        loop {
            tick.tick().await;
            let this = self.clone();
            match tokio::task::spawn_blocking(move || this.refresh(SystemTime::now())).await {
                Ok(Ok(true)) => log::info!("the edge shows a new certificate"),
                Ok(Ok(false)) => {}
                Ok(Err(e)) => log::error!("the certificate in use stays: {e}"),
                Err(e) => log::error!("looking for a new certificate failed: {e}"),
            }
        }
    }

    /// The certificate of our CA in PEM, which clients must trust; none where the certificate comes from files.
    pub fn ca_pem(&self) -> Option<&str> {
        match &self.0.source {
            Source::Local(ca) => Some(ca.pem()),
            Source::Files(_) => None,
        }
    }

    /// Where [`Certificates::ca_pem`] lies.
    pub fn ca_file(&self) -> Option<&Path> {
        match &self.0.source {
            Source::Local(ca) => Some(ca.file()),
            Source::Files(_) => None,
        }
    }

    /// SHA-256 of the certificate that handshakes see now, in colon-separated upper-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        use sha2::Digest;
        let key = self.0.current.load();
        let der = key.cert.first().map_or(&[][..], |c| c.as_ref());
        colons(&sha2::Sha256::digest(der))
    }

    /// SHA-256 of what a person compares: of the CA's certificate where it is ours, else of the one in use.
    pub fn anchor(&self) -> [u8; 32] {
        use sha2::Digest;
        let ca = self.ca_pem().and_then(|pem| {
            use rustls_pki_types::{CertificateDer, pem::PemObject};
            CertificateDer::from_pem_slice(pem.as_bytes()).ok()
        });
        let key = self.0.current.load();
        let shown = || key.cert.first().map_or(&[][..], |c| c.as_ref());
        sha2::Sha256::digest(ca.as_deref().unwrap_or_else(shown)).into()
    }

    /// When the certificate in use ends, in Unix seconds.
    pub fn not_after(&self) -> Option<i64> {
        let key = self.0.current.load();
        let (_, cert) = x509_parser::parse_x509_certificate(key.cert.first()?).ok()?;
        Some(cert.validity().not_after.timestamp())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Source::Local(ca) = &self.0.source else {
            return Some(self.0.current.load_full());
        };
        // Who connects to an address names no server (RFC 6066 section 3).
        let key = hello
            .server_name()
            .map_or_else(|| ca.for_addresses(), |name| ca.for_name(name));
        Some(key.unwrap_or_else(|| self.0.current.load_full()))
    }
}

/// Upper-case hexadecimal with colons, as certificates' fingerprints are written.
pub fn colons(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02X}")).collect();
    hex.join(":")
}
