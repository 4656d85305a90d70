//! Whose signature makes the certificate of another server good: bundles of certificate authorities.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, pem::PemObject};

use super::TlsError;

/// Bundles of certificate authorities, where distributions keep them.
const BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// The bundle that this machine trusts: of the variable `SSL_CERT_FILE` (the host image sets it where its site file has
/// authorities of its own), or of the distribution.
pub fn machine_bundle() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named
        .filter(|p| p.exists())
        .or_else(|| BUNDLES.iter().map(PathBuf::from).find(|p| p.exists()))
}

/// Adds the authorities of a PEM file.
///
/// # Errors
/// [`TlsError`]: it cannot be read, or holds no certificate.
pub fn add_bundle(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let pem = super::files::read(path)?;
    let mut n = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
        // A bundle may hold some that no library takes.
        n += usize::from(roots.add(certificate).is_ok());
    }
    match n {
        0 => Err(TlsError::Content {
            what: "certificate",
            path: path.to_owned(),
            why: "it has no CERTIFICATE section".to_owned(),
        }),
        _ => Ok(()),
    }
}
