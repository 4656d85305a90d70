//! Credentials that are files: what the order has as a value is put into a file in memory, and the server's variable holds
//! its path. The folder is the agent's own and is made before any server runs; the server may read it, and nobody else is in
//! the container. `/tmp` is the server's, which may move the folder away: nothing is ever written into another one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::spawn::is_init;
use crate::model::{Secret, StartOrder};

/// In the container's `/tmp`, which is memory of its own.
const FOLDER: &str = "berth-files";

/// Writes the files of an order, and puts their paths in place of what they hold.
///
/// # Errors
/// Why one cannot be written; nothing of what it holds.
pub(super) fn place(order: &mut StartOrder) -> Result<(), String> {
    if order.files.is_empty() {
        return Ok(());
    }
    let folder = folder();
    let wrong = |e: io::Error| format!("{} cannot be written: {e}", folder.display());
    own_folder(&folder).map_err(wrong)?;
    for key in &order.files {
        let Some(value) = order.env.get_mut(key).filter(|v| !v.expose().is_empty()) else {
            // One that was taken away.
            let _ = fs::remove_file(folder.join(key));
            continue;
        };
        let path = write(&folder, key, value.expose().as_bytes()).map_err(wrong)?;
        *value = Secret::new(path.display().to_string());
    }
    Ok(())
}

/// Outside of a container (the tests of the agent), a folder of this process's.
fn folder() -> PathBuf {
    match is_init() {
        true => Path::new("/tmp").join(FOLDER),
        false => std::env::temp_dir().join(format!("{FOLDER}-{}", std::process::id())),
    }
}

fn own_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(folder) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => return other,
    }
    let found = fs::symlink_metadata(folder)?;
    match found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0 {
        true => Ok(()),
        false => Err(io::Error::other("something else stands there")),
    }
}

/// Whole or not at all: a server that reads an earlier one goes on reading that.
fn write(folder: &Path, key: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let (new, path) = (folder.join(".new"), folder.join(key));
    let _ = fs::remove_file(&new);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_anew_and_never_into_a_folder_of_somebody_else() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("files");
        own_folder(&folder).unwrap();
        own_folder(&folder).unwrap();
        for text in ["first, and longer", "second"] {
            let path = write(&folder, "KUBECONFIG", text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o444);
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(own_folder(&link).is_err());
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(own_folder(&open).is_err());
    }
}
