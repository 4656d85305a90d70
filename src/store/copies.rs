//! Copies of the store, made before a migration changes it: `berth.redb.2.0` is the store as version 2.0 left it. To go
//! back to the berth that wrote it, stop Berth and put the copy in the place of `berth.redb`; tokens that were revoked
//! since stay revoked (`revoked`). Nothing is migrated that could not be copied. A copy holds what the store holds, so it
//! is as closed, and few are kept.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{StoreError, meta::Version};

/// So many copies stay, those of the highest versions.
const KEPT: usize = 2;

/// Copies the store at `path`, of which `bytes` were read, durably. A copy of the same version is replaced.
///
/// # Errors
/// [`StoreError::Copy`]; there is no new copy then, and an earlier one is as it was.
pub(super) fn make(path: &Path, bytes: &[u8], version: Version) -> Result<(), StoreError> {
    let at = at(path, &version.to_string());
    let unfinished = self::at(path, "new");
    let made = write(&unfinished, bytes)
        .and_then(|()| fs::rename(&unfinished, &at))
        .and_then(|()| fs::File::open(at.parent().unwrap_or(Path::new("/")))?.sync_all());
    if let Err(source) = made {
        // What takes the room that is missing goes.
        let _ = fs::remove_file(&unfinished);
        return Err(StoreError::Copy { path: at, source });
    }
    log::info!(
        "the store of version {version} was copied to {} before it is migrated",
        at.display()
    );
    prune(path);
    Ok(())
}

fn at(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

fn write(to: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The copies of the store at `path`, oldest version first.
pub(super) fn list(path: &Path) -> io::Result<Vec<(Version, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        let other = entry?.path();
        let (Some(name), Some(ours)) = (other.file_name(), path.file_name()) else {
            continue;
        };
        let (name, ours) = (name.to_string_lossy(), ours.to_string_lossy());
        let end = name.strip_prefix(&*ours).and_then(|end| end.strip_prefix('.'));
        if let Some(version) = end.and_then(|end| end.parse().ok()) {
            found.push((version, other));
        }
    }
    found.sort();
    Ok(found)
}

/// One that cannot be removed does no harm but for its room.
fn prune(path: &Path) {
    let gone = list(path).and_then(|all| {
        let over = all.len().saturating_sub(KEPT);
        all.iter().take(over).try_for_each(|(_, copy)| fs::remove_file(copy))
    });
    if let Err(e) = gone {
        log::warn!("an old copy of the store stays beside {}: {e}", path.display());
    }
}
