//! A CA of our own: made once, kept in `{state_dir}/tls` as `ca.key` (0600) and `ca.pem`, name-constrained (RFC 5280
//! section 4.2.1.10) to this box's domain, so that trusting it says nothing about any other site. Leaves live in
//! memory only and are renewed at two thirds of their life.
//!
//! A box may start with its clock at 1970. Therefore the CA's `not_before` is a fixed date in the past, and while the
//! clock is not plausible leaves last as long as the CA; they are made anew when the clock is set.
//!
//! `*.localhost` matches nothing in OpenSSL, Node and webpki, which want two labels after the star: below a
//! single-label domain each host name gets a leaf of its own when a client asks for it.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use rustls::{crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Names, TlsError, as_ip};

const DAY: u64 = 86_400;
/// 2026-01-01T00:00:00Z: a clock before this is not set.
const PLAUSIBLE: u64 = 1_767_225_600;
/// 2020-01-01T00:00:00Z
const CA_FROM: u64 = 1_577_836_800;
const CA_LIFE: u64 = 3652 * DAY;
const LEAF_LIFE: u64 = 90 * DAY;
/// Leaves by host name kept at most; hosts past it get the plain leaf.
const NAMED: usize = 2048;

struct Leaf {
    /// Unix seconds.
    made_at: u64,
    until: u64,
}

pub(super) struct LocalCa {
    file: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    ca_until: u64,
    names: Names,
    leaf_key: KeyPair,
    leaf: Mutex<Leaf>,
    named: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl std::fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCa")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl LocalCa {
    /// Loads the CA, or makes what is missing or unreadable: a key without a certificate signs a new one of the same
    /// name (clients that trust the old file still do); a certificate without its key is worthless.
    pub(super) fn open(dir: &Path, names: Names, now: SystemTime) -> Result<LocalCa, TlsError> {
        fs::create_dir_all(dir).map_err(file("make", dir))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).map_err(file("set the mode of", dir))?;
        let (key_file, pem_file) = (dir.join("ca.key"), dir.join("ca.pem"));
        let key = load_key(&key_file)?;
        let subject = subject(&names.domain);
        let kept = key
            .as_ref()
            .and_then(|key| load_cert(&pem_file, key, &subject, unix(now)));
        let (key, pem, ca_until) = match (key, kept) {
            (Some(key), Some((pem, until))) => (key, pem, until),
            (key, _) => {
                let key = match key {
                    Some(key) if domain_of_old(&pem_file).is_none_or(|cn| cn == subject) => key,
                    _ => {
                        let key = KeyPair::generate().map_err(make("a CA key"))?;
                        write_atomic(&key_file, key.serialize_pem().as_bytes(), 0o600)?;
                        key
                    }
                };
                let (pem, until) = new_ca(&key, &names, now)?;
                write_atomic(&pem_file, pem.as_bytes(), 0o644)?;
                log::info!("made a new CA for {}: {}", names.domain, pem_file.display());
                (key, pem, until)
            }
        };
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(make("an issuer of the CA"))?;
        Ok(LocalCa {
            file: pem_file,
            pem,
            issuer,
            ca_until,
            names,
            leaf_key: KeyPair::generate().map_err(make("a key"))?,
            leaf: Mutex::new(Leaf { made_at: 0, until: 0 }),
            named: Mutex::new(HashMap::new()),
        })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// A new leaf for all our names, now.
    pub(super) fn leaf(&self, now: SystemTime) -> Result<Arc<CertifiedKey>, TlsError> {
        let made_at = unix(now);
        let until = if made_at < PLAUSIBLE {
            self.ca_until
        } else {
            (made_at + LEAF_LIFE).min(self.ca_until)
        };
        *self.leaf.lock().unwrap_or_else(PoisonError::into_inner) = Leaf { made_at, until };
        self.named.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let mut sans = match as_ip(&self.names.domain) {
            Some(ip) => vec![SanType::IpAddress(ip)],
            // With a single label below it a wildcard is not only useless: webpki rejects the whole certificate.
            None if single_label(&self.names.domain) => vec![dns(&self.names.domain)?],
            None => vec![dns(&self.names.domain)?, dns(&format!("*.{}", self.names.domain))?],
        };
        if self.names.loopback {
            if self.names.domain != "localhost" {
                sans.push(dns("localhost")?);
            }
            sans.extend(loopback().map(SanType::IpAddress));
        }
        self.sign(sans)
    }

    /// A new leaf, if the one in use is past two thirds of its life or was made under another clock.
    pub(super) fn renewal(&self, now: SystemTime) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
        let now_s = unix(now);
        let due = {
            let leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
            let clock_was_set = (leaf.made_at < PLAUSIBLE) != (now_s < PLAUSIBLE);
            let third = leaf.until.saturating_sub(leaf.made_at) / 3;
            // A clock that was set back by more than a day leaves a leaf from the future.
            clock_was_set || now_s + third >= leaf.until || now_s + DAY < leaf.made_at
        };
        if due { self.leaf(now).map(Some) } else { Ok(None) }
    }

    /// A leaf for one host name below a single-label domain; none where the wildcard serves.
    pub(super) fn for_name(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        if !single_label(&self.names.domain) {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let label = name.strip_suffix(&self.names.domain)?.strip_suffix('.')?;
        if label.is_empty() || label.contains('.') || label.contains('*') {
            return None;
        }
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = named.get(&name) {
            return Some(Arc::clone(key));
        }
        if named.len() >= NAMED {
            named.clear();
        }
        let key = self.sign(vec![dns(&name).ok()?]).ok()?;
        named.insert(name, Arc::clone(&key));
        Some(key)
    }

    fn sign(&self, sans: Vec<SanType>) -> Result<Arc<CertifiedKey>, TlsError> {
        let (made_at, until) = {
            let leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
            (leaf.made_at, leaf.until)
        };
        let mut params = CertificateParams::default();
        params.not_before = time_at(if made_at < PLAUSIBLE { CA_FROM } else { made_at - DAY });
        params.not_after = time_at(until);
        params.serial_number = Some(serial()?);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Berth");
        params.subject_alt_names = sans;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let cert = params
            .signed_by(&self.leaf_key, &self.issuer)
            .map_err(make("a certificate"))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let key =
            CertifiedKey::from_der(vec![cert.der().clone()], key, &ring::default_provider()).map_err(|source| {
                TlsError::Rustls {
                    what: "use the new certificate",
                    source,
                }
            })?;
        Ok(Arc::new(key))
    }
}

fn single_label(domain: &str) -> bool {
    !domain.contains('.') && as_ip(domain).is_none()
}

fn subject(domain: &str) -> String {
    format!("Berth CA of {domain}")
}

fn new_ca(key: &KeyPair, names: &Names, now: SystemTime) -> Result<(String, u64), TlsError> {
    let until = unix(now).max(PLAUSIBLE) + CA_LIFE;
    let mut permitted: Vec<GeneralSubtree> = vec![GeneralSubtree::DnsName("localhost".into())];
    permitted.extend(loopback().map(whole));
    match as_ip(&names.domain) {
        Some(ip) => permitted.push(whole(ip)),
        None if names.domain != "localhost" => permitted.push(GeneralSubtree::DnsName(names.domain.clone())),
        None => {}
    }
    let mut params = CertificateParams::default();
    params.not_before = time_at(CA_FROM);
    params.not_after = time_at(until);
    params.serial_number = Some(serial()?);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, subject(&names.domain));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted,
        excluded_subtrees: vec![],
    });
    let cert = params.self_signed(key).map_err(make("a CA certificate"))?;
    Ok((cert.pem(), until))
}

fn whole(ip: IpAddr) -> GeneralSubtree {
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, bits))
}

fn loopback() -> impl Iterator<Item = IpAddr> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].into_iter()
}

fn dns(name: &str) -> Result<SanType, TlsError> {
    let name = name.try_into().map_err(make("a certificate for this domain"))?;
    Ok(SanType::DnsName(name))
}

fn serial() -> Result<SerialNumber, TlsError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|_| TlsError::Make {
        what: "a serial number",
        source: rcgen::Error::RingUnspecified,
    })?;
    // RFC 5280 section 4.1.2.2: positive.
    bytes[0] = bytes[0] & 0x7f | 1;
    Ok(SerialNumber::from_slice(&bytes))
}

/// The CA's key; `None` when there is none, or when what is there is not a key (it is kept aside).
fn load_key(path: &Path) -> Result<Option<KeyPair>, TlsError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(file("read", path)(e)),
    };
    match KeyPair::from_pem(&text) {
        Ok(key) => Ok(Some(key)),
        Err(e) => {
            let aside = path.with_extension("key.unreadable");
            log::error!("{} is not a key ({e}); kept as {}", path.display(), aside.display());
            fs::rename(path, &aside).map_err(file("set aside", path))?;
            Ok(None)
        }
    }
}

/// The CA certificate and its end, if it is good: of this key and subject, and valid for another month.
fn load_cert(path: &Path, key: &KeyPair, subject: &str, now: u64) -> Option<(String, u64)> {
    let pem = fs::read_to_string(path).ok()?;
    let (cn, public, until) = read_cert(&pem)?;
    let fresh = until > now.max(PLAUSIBLE) + 30 * DAY;
    (cn == subject && public == key.public_key_raw() && fresh).then_some((pem, until))
}

fn domain_of_old(path: &Path) -> Option<String> {
    read_cert(&fs::read_to_string(path).ok()?).map(|(cn, ..)| cn)
}

fn read_cert(pem: &str) -> Option<(String, Vec<u8>, u64)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let cert = pem.parse_x509().ok()?;
    let cn = cert.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let public = cert.public_key().subject_public_key.data.to_vec();
    let until = u64::try_from(cert.validity().not_after.timestamp()).ok()?;
    Some((cn, public, until))
}

/// Writes beside, syncs, renames, syncs the folder: after a crash the file is the old one or the new one.
fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let aside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut f = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&aside)?;
        f.write_all(bytes)?;
        f.sync_all()?;
        fs::rename(&aside, path)?;
        match path.parent() {
            Some(dir) => fs::File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(file("write", path))
}

fn unix(t: SystemTime) -> u64 {
    t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// As rcgen takes it.
fn time_at(unix: u64) -> time::OffsetDateTime {
    rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix)
}

fn file(what: &'static str, path: &Path) -> impl Fn(std::io::Error) -> TlsError {
    let path = path.to_owned();
    move |source| TlsError::File {
        what,
        path: path.clone(),
        source,
    }
}

fn make(what: &'static str) -> impl Fn(rcgen::Error) -> TlsError {
    move |source| TlsError::Make { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            domain: "box.test".into(),
            loopback: true,
        }
    }

    fn at(unix: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(unix)
    }

    const NOW: u64 = PLAUSIBLE + 100 * DAY;

    #[test]
    fn the_ca_survives_restarts_and_lost_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let first = LocalCa::open(dir.path(), names(), at(NOW)).unwrap();
        let mode = fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = LocalCa::open(dir.path(), names(), at(NOW + DAY)).unwrap();
        assert_eq!(first.pem(), again.pem());
        fs::write(dir.path().join("ca.pem"), "").unwrap();
        let resigned = LocalCa::open(dir.path(), names(), at(NOW)).unwrap();
        assert_eq!(
            read_cert(first.pem()).unwrap().1,
            read_cert(resigned.pem()).unwrap().1,
            "same key"
        );
        fs::write(dir.path().join("ca.key"), "half").unwrap();
        let new = LocalCa::open(dir.path(), names(), at(NOW)).unwrap();
        assert_ne!(read_cert(new.pem()).unwrap().1, read_cert(first.pem()).unwrap().1);
        let moved = Names {
            domain: "other.test".into(),
            loopback: false,
        };
        let moved = LocalCa::open(dir.path(), moved, at(NOW)).unwrap();
        assert_ne!(
            read_cert(new.pem()).unwrap().1,
            read_cert(moved.pem()).unwrap().1,
            "a new domain, a new CA"
        );
    }

    #[test]
    fn leaves_renew_at_two_thirds() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open(dir.path(), names(), at(NOW)).unwrap();
        ca.leaf(at(NOW)).unwrap();
        assert!(ca.renewal(at(NOW + 59 * DAY)).unwrap().is_none());
        assert!(ca.renewal(at(NOW + 60 * DAY)).unwrap().is_some());
        assert!(ca.renewal(at(NOW + 60 * DAY)).unwrap().is_none());
    }

    #[test]
    fn a_clock_at_1970_gives_a_certificate_that_is_good_today() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open(dir.path(), names(), at(5)).unwrap();
        let leaf = ca.leaf(at(5)).unwrap();
        let (_, cert) = x509_parser::parse_x509_certificate(&leaf.cert[0]).unwrap();
        let v = cert.validity();
        assert!(
            v.not_before.timestamp() < PLAUSIBLE as i64 && v.not_after.timestamp() > (PLAUSIBLE + 9 * 365 * DAY) as i64
        );
        assert!(ca.renewal(at(6)).unwrap().is_none());
        assert!(ca.renewal(at(NOW)).unwrap().is_some(), "the clock was set");
    }

    #[test]
    fn single_label_domains_get_a_leaf_per_host() {
        let dir = tempfile::tempdir().unwrap();
        let local = Names {
            domain: "localhost".into(),
            loopback: true,
        };
        let ca = LocalCa::open(dir.path(), local, at(NOW)).unwrap();
        ca.leaf(at(NOW)).unwrap();
        assert!(ca.for_name("mcp-abcdefghij.localhost").is_some());
        for none in ["localhost", "a.b.localhost", "evillocalhost", "x.org", ".localhost"] {
            assert!(ca.for_name(none).is_none(), "{none}");
        }
    }
}
