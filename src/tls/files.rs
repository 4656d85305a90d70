//! A certificate chain and its key from PEM files, read again when either file changes. Never replaces a good
//! certificate by a broken one.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::TlsError;

/// What tells one content of a file from another without reading it: inode, size, modification time in ns.
type Stamp = (u64, u64, i64, i64);

#[derive(Debug)]
pub(super) struct PemFiles {
    cert: PathBuf,
    key: PathBuf,
    seen: Mutex<Option<(Stamp, Stamp)>>,
}

impl PemFiles {
    pub(super) fn new(cert: PathBuf, key: PathBuf) -> PemFiles {
        PemFiles {
            cert,
            key,
            seen: Mutex::new(None),
        }
    }

    /// Reads both files and checks that they belong together.
    pub(super) fn load(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        let stamps = self.stamps()?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamps);
        let bad = |what, path: &Path, why: String| TlsError::Content {
            what,
            path: path.to_owned(),
            why,
        };
        let chain = CertificateDer::pem_slice_iter(&read(&self.cert)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| bad("certificate", &self.cert, e.to_string()))?;
        if chain.is_empty() {
            let why = "it has no CERTIFICATE section".to_owned();
            return Err(bad("certificate", &self.cert, why));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|e| bad("private key", &self.key, e.to_string()))?;
        let pair = CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|e| bad("key for its certificate", &self.key, e.to_string()))?;
        Ok(Arc::new(pair))
    }

    /// The new content, if the files changed since they were last read. A broken one errs once, then waits for the
    /// next change.
    pub(super) fn changed(&self) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
        let stamps = self.stamps()?;
        if *self.seen.lock().unwrap_or_else(PoisonError::into_inner) == Some(stamps) {
            return Ok(None);
        }
        self.load().map(Some)
    }

    fn stamps(&self) -> Result<(Stamp, Stamp), TlsError> {
        Ok((stamp(&self.cert)?, stamp(&self.key)?))
    }
}

fn stamp(path: &Path) -> Result<Stamp, TlsError> {
    let m = std::fs::metadata(path).map_err(|source| TlsError::File {
        what: "look at",
        path: path.to_owned(),
        source,
    })?;
    Ok((m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File {
        what: "read",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pair(dir: &Path) {
        let pair = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        std::fs::write(dir.join("c.pem"), pair.cert.pem()).unwrap();
        std::fs::write(dir.join("k.pem"), pair.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_broken_file_keeps_the_old_certificate() {
        let dir = tempfile::tempdir().unwrap();
        write_pair(dir.path());
        let files = PemFiles::new(dir.path().join("c.pem"), dir.path().join("k.pem"));
        let first = files.load().unwrap();
        assert!(files.changed().unwrap().is_none());
        std::fs::write(dir.path().join("c.pem"), "-----BEGIN CERT").unwrap();
        let e = files.changed().unwrap_err().to_string();
        assert!(e.contains("c.pem"), "{e}");
        assert!(files.changed().unwrap().is_none(), "logged once");
        write_pair(dir.path());
        let second = files.changed().unwrap().unwrap();
        assert_ne!(first.cert, second.cert);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write_pair(dir.path());
        let other = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("k.pem"), other.serialize_pem()).unwrap();
        let files = PemFiles::new(dir.path().join("c.pem"), dir.path().join("k.pem"));
        assert!(files.load().unwrap_err().to_string().contains("k.pem"));
    }
}
