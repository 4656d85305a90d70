//! F2: seals environment values, and answers that are kept, at rest with the box's own key (AES-256-GCM, `ring`). A sealed value opens only for
//! the instance and the variable it was sealed for: both are authenticated with it. Never logs a value, never
//! writes one down in the clear, never replaces a key that is there.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    signature::{Ed25519KeyPair, KeyPair},
};

use crate::{
    model::{InstanceId, MemberName, Refusal, Secret},
    record::{AnswerId, Sealed},
    replace::{self, Durable},
};

const KEY_LEN: usize = 32;
/// The credential that systemd passes the key as (systemd.exec(5), `LoadCredentialEncrypted=`), and where it lies sealed.
const PASSED: &str = "berth-box-key";
const SEALED: &str = "/var/lib/berth-key/box.cred";
const FILE: &str = "key file keys/box.key in the state folder, readable by root only";

/// What went wrong with the key or a value. Never holds either.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot {what} {path}: {source}")]
    Key {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{path} holds {found} bytes where a key has {KEY_LEN}: it is damaged; put the box's own key back from its backup (a new one cannot open what the old one sealed)"
    )]
    KeySize { path: PathBuf, found: usize },
    #[error(
        "{file} and the systemd credential {credential} hold different keys: what one sealed the other cannot open; remove the one that is not this box's"
    )]
    TwoKeys { file: PathBuf, credential: PathBuf },
    #[error("the operating system gave no random bytes")]
    Random,
    #[error("no key to sign with could be derived from the box's key")]
    Signing,
    #[error("cannot seal {0:?}")]
    Seal(String),
    #[error(
        "the sealed value of {0:?} cannot be opened: it was sealed with another box's key, for another instance, or is damaged; remove the instance and run it again with its values"
    )]
    Open(String),
}

/// Random bytes of the operating system, for ids and secrets; without them, what whoever asks is told.
///
/// # Errors
/// [`Refusal::Fault`] where it gives none.
pub fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Refusal::fault("the operating system gives no random bytes"))?;
    Ok(bytes)
}

/// The box's sealing key.
pub struct BoxKey {
    key: LessSafeKey,
    signing: Ed25519KeyPair,
    kept: &'static str,
}

impl std::fmt::Debug for BoxKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoxKey(…)")
    }
}

impl BoxKey {
    /// The key that systemd passed in `credentials` (its `$CREDENTIALS_DIRECTORY`), else the one of the key file in `dir`,
    /// which is made where there is neither.
    ///
    /// # Errors
    /// As [`BoxKey::load_or_create`]; and [`SecretError::TwoKeys`] when both are there and differ.
    pub fn find(dir: &Path, credentials: Option<&Path>) -> Result<Self, SecretError> {
        let Some(path) = credentials.map(|c| c.join(PASSED)) else {
            return Self::load_or_create(dir);
        };
        let mut bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Self::load_or_create(dir),
            Err(source) => {
                let what = "read";
                return Err(SecretError::Key { what, path, source });
            }
        };
        let file = dir.join("box.key");
        if let Ok(mut other) = fs::read(&file) {
            let same = other == bytes;
            wipe(&mut other);
            if !same {
                wipe(&mut bytes);
                return Err(SecretError::TwoKeys { file, credential: path });
            }
        }
        Self::from_bytes(bytes, &path, sealed_with(Path::new(SEALED)))
    }

    /// What the key is kept with, in words.
    pub fn kept(&self) -> &'static str {
        self.kept
    }

    /// Reads `{dir}/box.key`, or makes it (0600, whole or not at all) where there is none.
    ///
    /// # Errors
    /// [`SecretError`] when the key cannot be read or made, or has another size than a key.
    pub fn load_or_create(dir: &Path) -> Result<Self, SecretError> {
        let path = dir.join("box.key");
        let fail = |what| {
            let path = path.clone();
            move |source| SecretError::Key { what, path, source }
        };
        match fs::read(&path) {
            Ok(bytes) => return Self::from_bytes(bytes, &path, FILE),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(fail("read")(e)),
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(fail("make the folder of"))?;
        let mut bytes = vec![0; KEY_LEN];
        getrandom::fill(&mut bytes).map_err(|_| SecretError::Random)?;
        replace::file(&path, &bytes, 0o600, Durable::Now).map_err(fail("write"))?;
        Self::from_bytes(bytes, &path, FILE)
    }

    fn from_bytes(mut bytes: Vec<u8>, path: &Path, kept: &'static str) -> Result<Self, SecretError> {
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SecretError::KeySize {
            path: path.to_owned(),
            found: bytes.len(),
        });
        let signing = signing_key(&bytes);
        wipe(&mut bytes);
        Ok(Self {
            key: LessSafeKey::new(key?),
            signing: signing?,
            kept,
        })
    }

    /// Signs bytes as this box: Ed25519 (RFC 8032), 64 bytes.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.signing.sign(bytes).as_ref().to_vec()
    }

    /// The public key that [`BoxKey::sign`]'s signatures are by, 32 bytes.
    pub fn public_key(&self) -> &[u8] {
        self.signing.public_key().as_ref()
    }

    /// Seals the value of variable `name` for instance `id`.
    ///
    /// # Errors
    /// [`SecretError::Random`] or [`SecretError::Seal`].
    pub fn seal(&self, id: &InstanceId, name: &str, value: &Secret) -> Result<Sealed, SecretError> {
        self.seal_with(aad(id, name), name, value)
    }

    /// Seals what is kept of a write with an idempotency key.
    ///
    /// # Errors
    /// As [`BoxKey::seal`].
    pub fn seal_answer(&self, id: &AnswerId, value: &Secret) -> Result<Sealed, SecretError> {
        self.seal_with(answer_aad(id), ANSWER, value)
    }

    /// Opens what [`BoxKey::seal_answer`] sealed for the same key.
    ///
    /// # Errors
    /// [`SecretError::Open`] for anything else.
    pub fn open_answer(&self, id: &AnswerId, sealed: &Sealed) -> Result<Secret, SecretError> {
        self.open_with(answer_aad(id), ANSWER, sealed)
    }

    /// Seals the secret of a member's second step.
    ///
    /// # Errors
    /// As [`BoxKey::seal`].
    pub fn seal_totp(&self, member: &MemberName, value: &Secret) -> Result<Sealed, SecretError> {
        self.seal_with(member_aad(TOTP, member), TOTP, value)
    }

    /// Opens what [`BoxKey::seal_totp`] sealed for the same member.
    ///
    /// # Errors
    /// [`SecretError::Open`] for anything else.
    pub fn open_totp(&self, member: &MemberName, sealed: &Sealed) -> Result<Secret, SecretError> {
        self.open_with(member_aad(TOTP, member), TOTP, sealed)
    }

    /// Seals what a browser shows that a member has signed in with.
    ///
    /// # Errors
    /// As [`BoxKey::seal`].
    pub fn seal_device(&self, member: &MemberName, value: &Secret) -> Result<Sealed, SecretError> {
        self.seal_with(member_aad(DEVICE, member), DEVICE, value)
    }

    /// Opens what [`BoxKey::seal_device`] sealed for the same member.
    ///
    /// # Errors
    /// [`SecretError::Open`] for anything else.
    pub fn open_device(&self, member: &MemberName, sealed: &Sealed) -> Result<Secret, SecretError> {
        self.open_with(member_aad(DEVICE, member), DEVICE, sealed)
    }

    fn seal_with(&self, aad: Aad<Vec<u8>>, name: &str, value: &Secret) -> Result<Sealed, SecretError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SecretError::Random)?;
        let mut buffer = value.expose().as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut buffer)
            .map_err(|_| SecretError::Seal(name.to_owned()))?;
        let mut out = nonce.to_vec();
        out.append(&mut buffer);
        Ok(Sealed(out))
    }

    /// Opens what [`BoxKey::seal`] sealed for the same instance and variable.
    ///
    /// # Errors
    /// [`SecretError::Open`] for anything else.
    pub fn open(&self, id: &InstanceId, name: &str, sealed: &Sealed) -> Result<Secret, SecretError> {
        self.open_with(aad(id, name), name, sealed)
    }

    fn open_with(&self, aad: Aad<Vec<u8>>, name: &str, sealed: &Sealed) -> Result<Secret, SecretError> {
        let refused = || SecretError::Open(name.to_owned());
        let (nonce, rest) = sealed.0.split_first_chunk::<NONCE_LEN>().ok_or_else(refused)?;
        let mut buffer = rest.to_vec();
        let plain = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut buffer)
            .map_err(|_| refused())?;
        let value = String::from_utf8(plain.to_vec())
            .map(Secret::new)
            .map_err(|_| refused());
        wipe(&mut buffer);
        value
    }
}

/// The key that signs, derived from the box's key: HKDF-SHA256 (RFC 5869) without a salt. Whoever has the public half knows
/// nothing of the other.
fn signing_key(bytes: &[u8]) -> Result<Ed25519KeyPair, SecretError> {
    let derived = Salt::new(HKDF_SHA256, &[]).extract(bytes);
    let mut seed = [0; KEY_LEN];
    let filled = derived.expand(&[b"berth signing key 1"], HKDF_SHA256);
    let filled = filled.and_then(|okm| okm.fill(&mut seed));
    let pair = filled
        .ok()
        .and_then(|()| Ed25519KeyPair::from_seed_unchecked(&seed).ok());
    wipe(&mut seed);
    pair.ok_or(SecretError::Signing)
}

/// What systemd sealed a credential with: the id that it begins with says so (systemd's creds-util.h).
fn sealed_with(file: &Path) -> &'static str {
    use base64::Engine;
    const TPM: [u128; 6] = [
        0x0c7c_c07b_1176_4591_9c4b_0bea_08bc_20fe,
        0xfaf7_eb93_41e3_412c_a1a4_36f9_5a29_362f,
        0x93a8_9409_4874_4490_90ca_f2fc_93ca_b553,
        0xef4a_c136_79a9_480e_a7db_6889_7f9f_165d,
        0xaf49_50a8_4913_4eb1_a738_4630_4ff3_0c05,
        0xadbc_4ca3_efb6_4201_ba88_1b6f_2e40_95ea,
    ];
    const HOST: [u128; 2] = [
        0x5a1c_6a86_df9d_4096_b1d5_a65e_0862_f19a,
        0x55b9_ed1d_3859_4d43_a831_9d2e_bb33_2ac6,
    ];
    let head = fs::read(file).unwrap_or_default();
    let head = head.get(..24).unwrap_or_default();
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(head)
        .unwrap_or_default();
    let id = decoded.first_chunk::<16>().map(|id| u128::from_be_bytes(*id));
    match id {
        Some(id) if TPM.contains(&id) => "systemd credential, sealed to this machine's TPM",
        Some(id) if HOST.contains(&id) => "systemd credential, sealed with this host's own key (it has no TPM)",
        _ => "systemd credential",
    }
}

fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(&bytes);
}

fn aad(id: &InstanceId, name: &str) -> Aad<Vec<u8>> {
    // An id has a fixed length, so that the pair is unambiguous.
    Aad::from([b"berth env 1\0", id.as_str().as_bytes(), b"\0", name.as_bytes()].concat())
}

/// What errors call it.
const ANSWER: &str = "an answer";

fn answer_aad(id: &AnswerId) -> Aad<Vec<u8>> {
    Aad::from([b"berth answer 1\0".as_slice(), id].concat())
}

/// What of a member is sealed, as errors call it.
const TOTP: &str = "a second step";
const DEVICE: &str = "a known browser";

fn member_aad(what: &str, member: &MemberName) -> Aad<Vec<u8>> {
    Aad::from([b"berth member 1\0", what.as_bytes(), b"\0", member.as_str().as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_box_signs_with_a_key_of_its_own_that_stays() {
        use ring::signature::{ED25519, UnparsedPublicKey};
        let dir = tempfile::tempdir().unwrap();
        let key = BoxKey::load_or_create(dir.path()).unwrap();
        let again = BoxKey::load_or_create(dir.path()).unwrap();
        let signature = key.sign(b"report");
        assert_eq!(
            (key.public_key(), &signature),
            (again.public_key(), &again.sign(b"report"))
        );
        let public = UnparsedPublicKey::new(&ED25519, key.public_key());
        public.verify(b"report", &signature).unwrap();
        public.verify(b"another", &signature).unwrap_err();
        let other = tempfile::tempdir().unwrap();
        assert_ne!(
            BoxKey::load_or_create(other.path()).unwrap().public_key(),
            key.public_key()
        );
    }

    fn id(c: char) -> InstanceId {
        InstanceId::parse(&c.to_string().repeat(10)).unwrap()
    }

    #[test]
    fn a_row_copied_to_another_instance_or_variable_does_not_open() {
        let dir = tempfile::tempdir().unwrap();
        let key = BoxKey::load_or_create(&dir.path().join("keys")).unwrap();
        let value = Secret::new("hunter2");
        let sealed = key.seal(&id('a'), "API_KEY", &value).unwrap();
        assert_eq!(key.open(&id('a'), "API_KEY", &sealed).unwrap(), value);
        assert!(key.open(&id('b'), "API_KEY", &sealed).is_err());
        assert!(key.open(&id('a'), "API_KEY2", &sealed).is_err());
        let mut bent = sealed.clone();
        bent.0[20] ^= 1;
        assert!(key.open(&id('a'), "API_KEY", &bent).is_err());
        assert!(key.open(&id('a'), "API_KEY", &Sealed(vec![1, 2])).is_err());
        assert_ne!(
            key.seal(&id('a'), "API_KEY", &value).unwrap(),
            sealed,
            "nonces are fresh"
        );
        assert!(!sealed.0.windows(7).any(|w| w == b"hunter2"));
    }

    #[test]
    fn a_key_that_systemd_passes_comes_first_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, passed) = (dir.path().join("keys"), dir.path().join("passed"));
        fs::create_dir(&passed).unwrap();
        assert_eq!(BoxKey::find(&keys, Some(&passed)).unwrap().kept(), FILE);
        fs::write(passed.join("berth-box-key"), [7; 32]).unwrap();
        let error = BoxKey::find(&keys, Some(&passed)).unwrap_err();
        assert!(matches!(error, SecretError::TwoKeys { .. }), "{error}");
        fs::remove_dir_all(&keys).unwrap();
        let key = BoxKey::find(&keys, Some(&passed)).unwrap();
        assert!(key.kept().contains("systemd credential"));
        assert!(!keys.exists(), "no file holds the key");
        let sealed = key.seal(&id('a'), "K", &Secret::new("v")).unwrap();
        let plain = BoxKey::load_or_create(&keys).unwrap();
        assert!(plain.open(&id('a'), "K", &sealed).is_err(), "another key opens nothing");
    }

    /// The first bytes of credentials as `systemd-creds encrypt --with-key=host` (252) and systemd.exec(5) show them.
    #[test]
    fn what_sealed_a_credential_is_told_from_its_head() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("box.cred");
        for (head, said) in [
            ("Whxqht+dQJax1aZeCGLxmiAAAAABAAAADAAAABAAAAC1", "no TPM"),
            (
                "k6iUCUh0RJCQyvL8k8q1UyAAAAABAAAADAAAABAAAAC1",
                "sealed to this machine's TPM",
            ),
            ("short", "systemd credential"),
        ] {
            fs::write(&file, head).unwrap();
            assert!(sealed_with(&file).contains(said), "{head}");
        }
        assert_eq!(sealed_with(&dir.path().join("absent")), "systemd credential");
    }

    #[test]
    fn the_key_is_made_once_and_for_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let sealed = BoxKey::load_or_create(&keys)
            .unwrap()
            .seal(&id('a'), "K", &Secret::new("v"))
            .unwrap();
        let again = BoxKey::load_or_create(&keys).unwrap();
        assert_eq!(again.open(&id('a'), "K", &sealed).unwrap().expose(), "v");
        let mode = fs::metadata(keys.join("box.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(keys.join("box.key"), [0; 31]).unwrap();
        let error = BoxKey::load_or_create(&keys).unwrap_err().to_string();
        assert!(error.contains("31 bytes"), "{error}");
        assert_eq!(
            fs::read(keys.join("box.key")).unwrap().len(),
            31,
            "a damaged key is left as it is"
        );
    }
}
