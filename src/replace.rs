//! F2: writes a file in place of another: whoever opens its path finds the one or the other, whole, also after a power cut.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// When the new file is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// Some time later; a power cut leaves the old file, the new one, or an empty one.
    Later,
    /// When [`file`] returns.
    Now,
}

/// Writes `bytes` to `path` in place of what is there, with the permissions `mode`. It is made beside it as `PATH.new` first,
/// which only one writer may do at a time.
///
/// # Errors
/// What the file system says; the old file is as it was.
pub fn file(path: &Path, bytes: &[u8], mode: u32, durable: Durable) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)?;
    // One that a power cut left may have others, and the mask takes some away.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    if durable == Durable::Now {
        file.sync_all()?;
    }
    fs::rename(&fresh, path)?;
    if durable == Durable::Now
        && let Some(dir) = path.parent()
    {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_or_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.json");
        for (text, mode, durable) in [("one", 0o644, Durable::Later), ("two", 0o600, Durable::Now)] {
            file(&path, text.as_bytes(), mode, durable).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        // Its place is taken: the old one stays.
        fs::create_dir(dir.path().join("note.json.new")).unwrap();
        assert!(file(&path, b"three", 0o600, Durable::Now).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    }
}
