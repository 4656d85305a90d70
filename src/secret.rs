//! F2: seals environment values at rest with the box's own key (AES-256-GCM, `ring`). A sealed value opens only for
//! the instance and the variable it was sealed for: both are authenticated with it. Never logs a value, never
//! writes one down in the clear, never replaces a key that is there.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::{
    model::{InstanceId, Secret},
    record::Sealed,
};

const KEY_LEN: usize = 32;
/// The key among the unit's credentials, on a box that seals it.
const CREDENTIAL: &str = "berth-box-key";

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
    #[error("the operating system gave no random bytes")]
    Random,
    #[error("cannot seal {0:?}")]
    Seal(String),
    #[error(
        "the sealed value of {0:?} does not open: it was sealed with another box's key, for another instance, or is damaged; remove the instance and run it again with its values"
    )]
    Open(String),
}

/// The box's sealing key.
pub struct BoxKey(LessSafeKey);

impl std::fmt::Debug for BoxKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoxKey(…)")
    }
}

impl BoxKey {
    /// Takes the key that systemd unsealed for this unit, where it did. Else reads `{dir}/box.key`, or makes it (0600,
    /// whole or not at all) where there is none.
    ///
    /// # Errors
    /// [`SecretError`] when the key cannot be read or made, or has another size than a key.
    pub fn load_or_create(dir: &Path) -> Result<Self, SecretError> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self::open_or_create(credentials.as_deref(), dir)
    }

    fn open_or_create(credentials: Option<&Path>, dir: &Path) -> Result<Self, SecretError> {
        if let Some(credentials) = credentials {
            let path = credentials.join(CREDENTIAL);
            if path.exists() {
                let bytes = fs::read(&path).map_err(|source| SecretError::Key {
                    what: "read",
                    path: path.clone(),
                    source,
                })?;
                return Self::from_bytes(bytes, &path);
            }
        }
        let path = dir.join("box.key");
        let fail = |what| {
            let path = path.clone();
            move |source| SecretError::Key { what, path, source }
        };
        match fs::read(&path) {
            Ok(bytes) => return Self::from_bytes(bytes, &path),
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
        let fresh = dir.join("box.key.new");
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            fs::File::open(dir)?.sync_all()
        };
        write().map_err(fail("write"))?;
        Self::from_bytes(bytes, &path)
    }

    fn from_bytes(mut bytes: Vec<u8>, path: &Path) -> Result<Self, SecretError> {
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SecretError::KeySize {
            path: path.to_owned(),
            found: bytes.len(),
        });
        bytes.fill(0);
        std::hint::black_box(&bytes);
        Ok(Self(LessSafeKey::new(key?)))
    }

    /// Seals the value of variable `name` for instance `id`.
    ///
    /// # Errors
    /// [`SecretError::Random`] or [`SecretError::Seal`].
    pub fn seal(&self, id: &InstanceId, name: &str, value: &Secret) -> Result<Sealed, SecretError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SecretError::Random)?;
        let mut buffer = value.expose().as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(id, name), &mut buffer)
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
        let refused = || SecretError::Open(name.to_owned());
        let (nonce, rest) = sealed.0.split_first_chunk::<NONCE_LEN>().ok_or_else(refused)?;
        let mut buffer = rest.to_vec();
        let plain = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad(id, name), &mut buffer)
            .map_err(|_| refused())?;
        let value = String::from_utf8(plain.to_vec())
            .map(Secret::new)
            .map_err(|_| refused());
        buffer.fill(0);
        std::hint::black_box(&buffer);
        value
    }
}

fn aad(id: &InstanceId, name: &str) -> Aad<Vec<u8>> {
    // An id has a fixed length, so that the pair is unambiguous.
    Aad::from([b"berth env 1\0", id.as_str().as_bytes(), b"\0", name.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_key_that_systemd_unsealed_comes_first_and_no_file_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let (credentials, keys) = (dir.path().join("credentials"), dir.path().join("keys"));
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join(CREDENTIAL), [7; KEY_LEN]).unwrap();
        let open = || BoxKey::open_or_create(Some(&credentials), &keys);
        let sealed = open().unwrap().seal(&id('a'), "K", &Secret::new("v")).unwrap();
        assert_eq!(open().unwrap().open(&id('a'), "K", &sealed).unwrap().expose(), "v");
        assert!(!keys.exists());
        fs::write(credentials.join(CREDENTIAL), [7; 31]).unwrap();
        assert!(open().is_err(), "a short key is no reason to make another");
        fs::remove_file(credentials.join(CREDENTIAL)).unwrap();
        assert!(open().unwrap().open(&id('a'), "K", &sealed).is_err());
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
