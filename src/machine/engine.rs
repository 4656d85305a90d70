//! Mends what a power cut does to Docker's own files, before Docker starts.
//!
//! Docker (28) writes almost all of its state so that a cut leaves the old or the new of it. The options of a volume are
//! an exception: `volumes/NAME/opts.json` is written without a flush, XFS may leave it empty after a cut, and an engine
//! that finds one it cannot read does not start at all.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{MachineError, failed};

/// Where the image has the engine's data; below it a folder for each remapping of users, or the data themselves.
pub const DATA: &str = "/var/lib/docker";

/// Removes options of volumes that are no JSON, and gives the paths. The volume and what is in it stay, and so does its
/// bound: the file system keeps a project's quota by itself. Volumes as such are the reconciler's: one without an owner
/// goes.
///
/// # Errors
/// [`MachineError::Io`] with the path that could not be read or removed.
pub fn mend(data: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let mut mended = Vec::new();
    let mut roots = vec![data.join("volumes")];
    roots.extend(entries(data)?.into_iter().map(|e| e.join("volumes")));
    for root in roots {
        for volume in entries(&root)? {
            let options = volume.join("opts.json");
            let whole = match fs::read(&options) {
                Ok(bytes) => serde_json::from_slice::<serde_json::Value>(&bytes).is_ok(),
                Err(e) if is_absent(&e) => true,
                Err(e) => return Err(failed("read", options)(e)),
            };
            if whole {
                continue;
            }
            fs::remove_file(&options).map_err(failed("remove", &options))?;
            File::open(&volume)
                .and_then(|f| f.sync_all())
                .map_err(failed("flush", &volume))?;
            mended.push(options);
        }
    }
    Ok(mended)
}

/// Not there, or below something that is no folder.
fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What is in a folder; nothing where there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let all = match fs::read_dir(folder) {
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        found => found.map_err(failed("list", folder))?,
    };
    all.map(|e| Ok(e.map_err(failed("list", folder))?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_options_that_no_engine_can_read_go() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let whole = r#"{"MountType":"","Quota":{"Size":1073741824}}"#;
        put("231072.231072/volumes/whole/opts.json", whole);
        put("231072.231072/volumes/empty/opts.json", "");
        put("231072.231072/volumes/empty/_data/notes", "kept");
        put("231072.231072/volumes/without/_data/notes", "kept");
        put("231072.231072/volumes/metadata.db", "");
        put("volumes/zeros/opts.json", "\0\0\0");
        put("engine-id", "one");
        let gone: Vec<String> = mend(dir.path())
            .unwrap()
            .into_iter()
            .map(|p| p.strip_prefix(dir.path()).unwrap().display().to_string())
            .collect();
        assert_eq!(
            gone,
            ["volumes/zeros/opts.json", "231072.231072/volumes/empty/opts.json"]
        );
        let volumes = dir.path().join("231072.231072/volumes");
        assert_eq!(fs::read_to_string(volumes.join("whole/opts.json")).unwrap(), whole);
        assert!(!volumes.join("empty/opts.json").exists());
        assert_eq!(fs::read_to_string(volumes.join("empty/_data/notes")).unwrap(), "kept");
        assert!(mend(dir.path()).unwrap().is_empty());
        assert!(mend(&dir.path().join("absent")).unwrap().is_empty());
    }
}
