//! A CA of our own: made once, kept in `{state_dir}/tls` as `ca.key` (0600) and `ca.pem`, name-constrained (RFC 5280
//! section 4.2.1.10) to this box's domain and to names and addresses that nobody owns on the internet, so that trusting
//! it says nothing about any other site. Leaves live in memory only, are renewed at two thirds of their life, and follow
//! the box's addresses.
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
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
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

use super::{Names, TlsError};
use crate::{config::Cidr, door::is_private};

const DAY: u64 = 86_400;
/// 2026-01-01T00:00:00Z: a clock before this is not set.
const PLAUSIBLE: u64 = 1_767_225_600;
/// 2020-01-01T00:00:00Z
const CA_FROM: u64 = 1_577_836_800;
const CA_LIFE: u64 = 3652 * DAY;
const LEAF_LIFE: u64 = 90 * DAY;
/// Leaves by host name kept at most; hosts past it get the plain leaf.
const NAMED: usize = 2048;

#[derive(Default)]
struct Leaf {
    /// Unix seconds.
    made_at: u64,
    until: u64,
    /// What the box had then.
    addresses: Vec<IpAddr>,
}

pub(super) struct LocalCa {
    file: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    ca_until: u64,
    names: Names,
    leaf_key: KeyPair,
    leaf: Mutex<Leaf>,
    /// By host name; the one for the addresses by the empty one.
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
        let subject = subject(&names);
        let kept = key
            .as_ref()
            .and_then(|key| load_cert(&pem_file, key, &names, unix(now)));
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
                log::info!("made a new {subject}: {}", pem_file.display());
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
            leaf: Mutex::default(),
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
        *self.leaf.lock().unwrap_or_else(PoisonError::into_inner) = Leaf {
            made_at,
            until,
            addresses: self.addresses(),
        };
        self.named.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let Some(domain) = &self.names.domain else {
            return self.sign(self.address_names()?);
        };
        // With a single label below it a wildcard is not only useless: webpki rejects the whole certificate.
        let mut sans = vec![dns(domain)?];
        if !single_label(domain) {
            sans.push(dns(&format!("*.{domain}"))?);
        }
        if self.names.loopback {
            if domain != "localhost" {
                sans.push(dns("localhost")?);
            }
            sans.extend(loopback().map(SanType::IpAddress));
        }
        self.sign(sans)
    }

    /// The box's addresses that the CA may speak for.
    fn addresses(&self) -> Vec<IpAddr> {
        let mut found = (self.names.addresses)();
        found.retain(|a| private(*a));
        found
    }

    fn address_names(&self) -> Result<Vec<SanType>, TlsError> {
        let addresses = self
            .leaf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .addresses
            .clone();
        let all = loopback().chain(addresses).map(SanType::IpAddress);
        Ok(std::iter::once(dns("localhost")?).chain(all).collect())
    }

    /// A new leaf, if the one in use is past two thirds of its life or was made under another clock.
    pub(super) fn renewal(&self, now: SystemTime) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
        let now_s = unix(now);
        let due = {
            let leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
            let clock_was_set = (leaf.made_at < PLAUSIBLE) != (now_s < PLAUSIBLE);
            let third = leaf.until.saturating_sub(leaf.made_at) / 3;
            // A clock that was set back by more than a day leaves a leaf from the future.
            let moved = self.addresses() != leaf.addresses;
            clock_was_set || moved || now_s + third >= leaf.until || now_s + DAY < leaf.made_at
        };
        if due { self.leaf(now).map(Some) } else { Ok(None) }
    }

    /// A leaf for one host name below a single-label domain or of a private network; none where the plain leaf serves.
    pub(super) fn for_name(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let below = |domain: &str| {
            let label = name.strip_suffix(domain).and_then(|n| n.strip_suffix('.'));
            single_label(domain) && label.is_some_and(|l| !l.is_empty() && !l.contains('.'))
        };
        let ours = self.names.domain.as_deref().is_some_and(|d| {
            // The plain leaf is for these.
            name == d || (name.strip_suffix(d).is_some_and(|n| n.ends_with('.')) && !single_label(d))
        });
        let named = self.names.domain.as_deref().is_some_and(below) || is_private(&name);
        if ours || !named || name.contains('*') {
            return None;
        }
        let sans = vec![dns(&name).ok()?];
        self.kept(name, sans)
    }

    /// A leaf for the box's addresses.
    pub(super) fn for_addresses(&self) -> Option<Arc<CertifiedKey>> {
        self.kept(String::new(), self.address_names().ok()?)
    }

    fn kept(&self, name: String, sans: Vec<SanType>) -> Option<Arc<CertifiedKey>> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = named.get(&name) {
            return Some(Arc::clone(key));
        }
        if named.len() >= NAMED {
            named.clear();
        }
        let key = self.sign(sans).ok()?;
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
    !domain.contains('.')
}

fn subject(names: &Names) -> String {
    format!("Berth CA of {}", names.domain.as_deref().unwrap_or(&names.title))
}

/// Networks whose addresses nobody owns on the internet: RFC 1918, RFC 6598, link-local, RFC 4193.
const PRIVATE: [(IpAddr, u8); 7] = [
    (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
];

fn private(address: IpAddr) -> bool {
    let within = |(address, bits): (IpAddr, u8)| Cidr { address, bits };
    PRIVATE.into_iter().any(|n| within(n).holds(address))
}

/// What the CA may speak for.
fn permitted(names: &Names) -> Vec<GeneralSubtree> {
    let mut permitted: Vec<GeneralSubtree> = ["localhost", "local", "home.arpa"]
        .map(|n| GeneralSubtree::DnsName(n.into()))
        .into();
    permitted.extend(
        names
            .domain
            .clone()
            .filter(|d| d != "localhost")
            .map(GeneralSubtree::DnsName),
    );
    let loopback = loopback().map(|ip| (ip, if ip.is_ipv4() { 32 } else { 128 }));
    let networks = loopback.chain(PRIVATE);
    permitted.extend(networks.map(|(ip, bits)| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(ip, bits))));
    permitted
}

fn new_ca(key: &KeyPair, names: &Names, now: SystemTime) -> Result<(String, u64), TlsError> {
    let until = unix(now).max(PLAUSIBLE) + CA_LIFE;
    let mut params = CertificateParams::default();
    params.not_before = time_at(CA_FROM);
    params.not_after = time_at(until);
    params.serial_number = Some(serial()?);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject(names));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: permitted(names),
        excluded_subtrees: vec![],
    });
    let cert = params.self_signed(key).map_err(make("a CA certificate"))?;
    Ok((cert.pem(), until))
}

fn loopback() -> impl Iterator<Item = IpAddr> {
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

/// The CA certificate and its end, if it is good: of this key, subject and constraints, and valid for another month.
fn load_cert(path: &Path, key: &KeyPair, names: &Names, now: u64) -> Option<(String, u64)> {
    let pem = fs::read_to_string(path).ok()?;
    let (cn, public, until) = read_cert(&pem)?;
    let fresh = until > now.max(PLAUSIBLE) + 30 * DAY;
    let (wanted, _) = new_ca(key, names, SystemTime::UNIX_EPOCH).ok()?;
    let same = constraints(&pem)? == constraints(&wanted)?;
    (cn == subject(names) && public == key.public_key_raw() && fresh && same).then_some((pem, until))
}

/// The name constraints (RFC 5280 section 4.2.1.10), as they are encoded.
fn constraints(pem: &str) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let cert = pem.parse_x509().ok()?;
    let found = cert
        .get_extension_unique(&x509_parser::oid_registry::OID_X509_EXT_NAME_CONSTRAINTS)
        .ok()??;
    Some(found.value.to_vec())
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
            domain: Some("box.test".into()),
            loopback: true,
            title: "box 0a1b2c3d".into(),
            addresses: || vec![],
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
            domain: Some("other.test".into()),
            loopback: false,
            ..names()
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

    /// Whether a client that trusts the CA takes the certificate for a name or an address.
    fn taken(ca: &LocalCa, key: &CertifiedKey, name: &str) -> bool {
        use rustls::client::{WebPkiServerVerifier, danger::ServerCertVerifier};
        use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let name = ServerName::try_from(name).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        verifier.verify_server_cert(&key.cert[0], &[], &name, &[], now).is_ok()
    }

    #[test]
    fn without_a_domain_it_speaks_for_addresses_and_names_of_private_networks() {
        let addresses = || {
            let all = ["192.168.1.9", "fd00::9", "203.0.113.9"];
            all.map(|a| a.parse().unwrap()).into()
        };
        let dir = tempfile::tempdir().unwrap();
        let names = Names {
            domain: None,
            loopback: false,
            addresses,
            ..names()
        };
        let ca = LocalCa::open(dir.path(), names.clone(), at(NOW)).unwrap();
        let leaf = ca.leaf(at(NOW)).unwrap();
        for key in [&leaf, &ca.for_addresses().unwrap()] {
            for name in ["192.168.1.9", "fd00::9", "127.0.0.1", "localhost"] {
                assert!(taken(&ca, key, name), "{name}");
            }
            for name in ["203.0.113.9", "192.168.1.10", "box.local"] {
                assert!(!taken(&ca, key, name), "{name}");
            }
        }
        for name in ["box.local", "a.box.home.arpa"] {
            assert!(taken(&ca, &ca.for_name(name).unwrap(), name), "{name}");
        }
        for none in ["box.test", "local", ".local", "a..local", "*.local", "box.localx"] {
            assert!(ca.for_name(none).is_none(), "{none}");
        }
        // It got another address: a new certificate is due, once.
        assert!(ca.renewal(at(NOW)).unwrap().is_none());
        let moved = Names {
            addresses: || vec!["10.0.0.4".parse().unwrap()],
            ..names
        };
        let mut ca = ca;
        ca.names = moved;
        assert!(taken(&ca, &ca.renewal(at(NOW)).unwrap().unwrap(), "10.0.0.4"));
        assert!(ca.renewal(at(NOW)).unwrap().is_none());
    }

    #[test]
    fn with_a_domain_its_certificate_is_for_nothing_else_and_addresses_have_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names {
            loopback: false,
            addresses: || vec!["10.0.0.4".parse().unwrap()],
            ..names()
        };
        let ca = LocalCa::open(dir.path(), names, at(NOW)).unwrap();
        let leaf = ca.leaf(at(NOW)).unwrap();
        assert!(taken(&ca, &leaf, "box.test") && taken(&ca, &leaf, "mcp-a.box.test") && !taken(&ca, &leaf, "10.0.0.4"));
        assert!(
            ca.for_name("box.test").is_none() && ca.for_name("mcp-a.box.test").is_none(),
            "the plain one serves"
        );
        assert!(taken(&ca, &ca.for_addresses().unwrap(), "10.0.0.4"));
    }

    #[test]
    fn a_ca_of_other_constraints_is_signed_anew_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let first = LocalCa::open(dir.path(), names(), at(NOW)).unwrap();
        let key = KeyPair::from_pem(&fs::read_to_string(dir.path().join("ca.key")).unwrap()).unwrap();
        // As an earlier version made it: for the domain alone.
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "Berth CA of box.test");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.not_after = time_at(NOW + CA_LIFE);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("box.test".into())],
            excluded_subtrees: vec![],
        });
        let old = params.self_signed(&key).unwrap().pem();
        fs::write(dir.path().join("ca.pem"), &old).unwrap();
        let again = LocalCa::open(dir.path(), names(), at(NOW)).unwrap();
        assert_ne!(again.pem(), old);
        assert_eq!(read_cert(again.pem()).unwrap().1, read_cert(first.pem()).unwrap().1);
        assert_eq!(constraints(again.pem()), constraints(first.pem()));
    }

    #[test]
    fn single_label_domains_get_a_leaf_per_host() {
        let dir = tempfile::tempdir().unwrap();
        let local = Names {
            domain: Some("localhost".into()),
            ..names()
        };
        let ca = LocalCa::open(dir.path(), local, at(NOW)).unwrap();
        ca.leaf(at(NOW)).unwrap();
        assert!(ca.for_name("mcp-abcdefghij.localhost").is_some());
        for none in ["localhost", "a.b.localhost", "evillocalhost", "x.org", ".localhost"] {
            assert!(ca.for_name(none).is_none(), "{none}");
        }
    }
}
