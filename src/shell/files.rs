//! Reading and writing files, within bounds, as the container's user: what that user may not, is told in words.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// A file is read in pieces of so many bytes at most, and written whole up to as many.
pub(super) const MAX_READ: u64 = 256 * 1024;
pub(super) const MAX_WRITE: usize = 4 * 1024 * 1024;

/// A piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    /// Bytes of the whole file, and where this piece ends in it.
    pub(super) size: u64,
    pub(super) end: u64,
}

/// Reads at most `limit` bytes from `offset`. Only of a regular file: a pipe or a device could keep the server.
pub(super) fn read(path: &Path, offset: u64, limit: u64) -> Result<Piece, String> {
    let failed = |e: std::io::Error| format!("{} cannot be read: {e}", path.display());
    let mut file = open(OpenOptions::new().read(true), path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.is_dir() {
        return Err(format!(
            "{} is a folder; run_command with `ls` lists it",
            path.display()
        ));
    }
    if !meta.is_file() {
        return Err(format!("{} is no regular file", path.display()));
    }
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limit.clamp(1, MAX_READ))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Piece {
        end: offset + bytes.len() as u64,
        text: String::from_utf8_lossy(&bytes).into_owned(),
        size: meta.size(),
    })
}

/// Writes a file, and the folders above it where they are missing. Without `append` it is replaced as a whole: readers
/// see the old or the new, never half.
pub(super) fn write(path: &Path, content: &str, append: bool) -> Result<u64, String> {
    let failed = |e: std::io::Error| format!("{} cannot be written: {e}", path.display());
    if content.len() > MAX_WRITE {
        return Err(format!("{MAX_WRITE} bytes can be written at once; append the rest"));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let meta = fs::metadata(path).ok();
    if meta.as_ref().is_some_and(|m| !m.is_file()) {
        return Err(format!("{} is no regular file", path.display()));
    }
    if append {
        let mut file = open(OpenOptions::new().append(true).create(true), path).map_err(failed)?;
        file.write_all(content.as_bytes()).map_err(failed)?;
        return file.metadata().map(|m| m.size()).map_err(failed);
    }
    // A link is followed: what it names is replaced.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = real
        .file_name()
        .ok_or_else(|| format!("{} names no file", path.display()))?;
    let fresh = real.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let done = (|| {
        let mut file = open(OpenOptions::new().write(true).create(true).truncate(true), &fresh)?;
        file.write_all(content.as_bytes())?;
        if let Some(meta) = &meta {
            file.set_permissions(meta.permissions())?;
        }
        fs::rename(&fresh, &real)
    })();
    if done.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    done.map(|()| content.len() as u64).map_err(failed)
}

/// Never waits for the other end of a pipe.
fn open(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn written_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/notes.txt");
        assert_eq!(write(&path, "one\n", false), Ok(4));
        assert_eq!(write(&path, "two\n", true), Ok(8));
        let piece = read(&path, 4, 100).unwrap();
        assert_eq!((piece.text.as_str(), piece.size, piece.end), ("two\n", 8, 8));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        write(&path, "new", false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&pipe, 0, 10).unwrap_err().contains("no regular file"));
        assert!(write(&pipe, "x", false).unwrap_err().contains("no regular file"));
        assert!(read(dir.path(), 0, 10).unwrap_err().contains("folder"));
        assert!(
            read(Path::new("/dev/zero"), 0, 10)
                .unwrap_err()
                .contains("no regular file")
        );
        assert!(
            read(&dir.path().join("none"), 0, 10)
                .unwrap_err()
                .contains("cannot be read")
        );
        let long = "x".repeat(MAX_WRITE + 1);
        assert!(write(&dir.path().join("long"), &long, false).is_err());
    }
}
