//! Mends what a power cut does to Docker's own files, before Docker starts.
//!
//! Docker (28) writes almost all of its state so that a cut leaves the old or the new of it. The options of a volume are
//! an exception: `volumes/NAME/opts.json` is written without a flush, XFS may leave it empty after a cut, and an engine
//! that finds one it cannot read does not start at all. And a container that was being made or removed may leave its
//! folder without the file that says what it is: no engine lists it, so that nobody would ever remove it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{MachineError, failed};

/// Where the image has the engine's data; below it a folder for each remapping of users, or the data themselves.
pub const DATA: &str = "/var/lib/docker";

/// Removes options of volumes that are no JSON, and the folders of containers that no engine can read, and gives the
/// paths. The volume and what is in it stay, and so does its bound: the file system keeps a project's quota by itself.
/// Volumes as such, and containers that the engine lists, are the reconciler's: one without an owner goes.
///
/// # Errors
/// [`MachineError::Io`] with the path that could not be read or removed.
pub fn mend(data: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let mut mended = Vec::new();
    let mut roots = vec![data.to_owned()];
    roots.extend(entries(data)?);
    for root in roots {
        for volume in entries(&root.join("volumes"))? {
            let options = volume.join("opts.json");
            if json(&options)?.unwrap_or(true) {
                continue;
            }
            fs::remove_file(&options).map_err(failed("remove", &options))?;
            flush(&volume)?;
            mended.push(options);
        }
        let containers = root.join("containers");
        for container in entries(&containers)? {
            if !is_containers(&container) || json(&container.join("config.v2.json"))?.unwrap_or(false) {
                continue;
            }
            fs::remove_dir_all(&container).map_err(failed("remove", &container))?;
            flush(&containers)?;
            mended.push(container);
        }
    }
    Ok(mended)
}

/// The folder, in the supervisor's runtime folder, that names the volumes of instances which were removed.
pub const REMOVED: &str = "removed";

/// Notes that the volume is of an instance that was removed, or that there is no such volume any more.
///
/// # Errors
/// [`MachineError::Io`].
pub fn note_removed(folder: &Path, volume: &str, removed: bool) -> Result<(), MachineError> {
    let note = folder.join(volume);
    if removed {
        fs::create_dir_all(folder).map_err(failed("make", folder))?;
        return fs::write(&note, "").map_err(failed("write", &note));
    }
    match fs::remove_file(&note) {
        Err(e) if !is_absent(&e) => Err(failed("remove", &note)(e)),
        _ => Ok(()),
    }
}

/// Empties the volumes of instances that were removed, and gives the paths: an engine that does not start for want of space
/// could not do it. The volume itself is the engine's to remove.
///
/// # Errors
/// [`MachineError::Io`] with the path that could not be read or removed.
pub fn empty(data: &Path, removed: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let mut emptied = Vec::new();
    let mut roots = vec![data.to_owned()];
    roots.extend(entries(data)?);
    for note in entries(removed)? {
        let Some(volume) = note.file_name() else { continue };
        for root in &roots {
            let folder = root.join("volumes").join(volume).join("_data");
            let content = entries(&folder)?;
            for path in &content {
                let gone = match path.is_dir() && !path.is_symlink() {
                    true => fs::remove_dir_all(path),
                    false => fs::remove_file(path),
                };
                gone.map_err(failed("remove", path))?;
            }
            if !content.is_empty() {
                emptied.push(folder);
            }
        }
    }
    Ok(emptied)
}

/// Whether a file is JSON; none where there is no such file.
fn json(path: &Path) -> Result<Option<bool>, MachineError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok())),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// Whether a folder has a container's name: its id, or that with what Docker adds before it empties the folder.
fn is_containers(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let id = name.strip_suffix("-removing").unwrap_or(name);
    id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

fn flush(folder: &Path) -> Result<(), MachineError> {
    let flushed = File::open(folder).and_then(|f| f.sync_all());
    flushed.map_err(failed("flush", folder))
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

    #[test]
    fn containers_that_no_engine_can_read_go() {
        let dir = tempfile::tempdir().unwrap();
        let containers = dir.path().join("231072.231072/containers");
        let [whole, empty, without] = ["a", "b", "c"].map(|d| containers.join(d.repeat(64)));
        let removing = containers.join(format!("{}-removing", "d".repeat(64)));
        for folder in [&whole, &empty, &without, &removing] {
            fs::create_dir_all(folder.join("mounts")).unwrap();
            fs::write(folder.join("hostname"), "x").unwrap();
        }
        fs::write(whole.join("config.v2.json"), "{}").unwrap();
        fs::write(empty.join("config.v2.json"), "").unwrap();
        fs::create_dir_all(containers.join("somebodys")).unwrap();
        let mut gone = mend(dir.path()).unwrap();
        gone.sort();
        assert_eq!(gone, [empty, without, removing]);
        assert!(whole.join("hostname").exists() && containers.join("somebodys").exists());
        assert!(mend(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn volumes_of_removed_instances_are_emptied_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let removed = dir.path().join("run/removed");
        let data = dir.path().join("docker");
        let volumes = data.join("231072.231072/volumes");
        for name in ["berth-one", "berth-two"] {
            let folder = volumes.join(name).join("_data/deep/er");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("notes"), "x").unwrap();
            fs::write(volumes.join(name).join("opts.json"), "{}").unwrap();
        }
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, volumes.join("berth-one/_data/link")).unwrap();
        assert!(empty(&data, &removed).unwrap().is_empty(), "nothing was noted");
        note_removed(&removed, "berth-one", true).unwrap();
        note_removed(&removed, "berth-gone", true).unwrap();
        assert_eq!(empty(&data, &removed).unwrap(), [volumes.join("berth-one/_data")]);
        assert_eq!(fs::read_dir(volumes.join("berth-one/_data")).unwrap().count(), 0);
        assert!(volumes.join("berth-one/opts.json").exists());
        assert!(volumes.join("berth-two/_data/deep/er/notes").exists());
        assert!(
            outside.join("kept").exists(),
            "what a link points at is not the volume's"
        );
        for name in ["berth-one", "berth-gone", "berth-gone"] {
            note_removed(&removed, name, false).unwrap();
        }
        assert_eq!(fs::read_dir(&removed).unwrap().count(), 0);
    }
}
