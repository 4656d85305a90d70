//! Disks as the kernel tells of them below `/sys`: which one the root came from, which others there are.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The kernel's name of the disk that the running root came from, such as `sda`; looks through dm-verity.
pub fn root_disk() -> Option<String> {
    let device = fs::metadata("/").ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let mut place = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A mapped device names what it stands on; verity's two partitions lie on one disk.
    for _ in 0..4 {
        let Some(below) = fs::read_dir(place.join("slaves")).ok().and_then(|mut d| d.next()?.ok()) else {
            break;
        };
        place = fs::canonicalize(below.path()).ok()?;
    }
    parent(&place)
}

/// The disk of a partition's (or disk's) folder below `/sys`.
fn parent(place: &Path) -> Option<String> {
    let disk = if place.join("partition").exists() {
        place.parent()?
    } else {
        place
    };
    Some(disk.file_name()?.to_string_lossy().into_owned())
}

/// Whether partition `name`, such as `sda3`, lies on the disk that the root came from.
pub fn beside_root(name: &str) -> bool {
    let place = fs::canonicalize(Path::new("/sys/class/block").join(name)).ok();
    let disk = place.and_then(|p| parent(&p));
    disk.is_some() && disk == root_disk()
}

/// Whether the disk that the box runs from is one that people carry.
pub fn on_removable() -> bool {
    root_disk().is_some_and(|d| {
        let place = Path::new("/sys/class/block").join(&d);
        let usb = fs::canonicalize(&place).is_ok_and(|p| p.to_string_lossy().contains("/usb"));
        usb || read(&place.join("removable")) == "1"
    })
}

/// A disk that is not the one the box runs from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    pub bytes: u64,
    pub model: String,
}

/// Every other disk that could be written to.
pub fn others() -> Vec<Disk> {
    let root = root_disk();
    let mut found: Vec<Disk> = fs::read_dir("/sys/class/block")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            let place = e.path();
            let real = place.join("device").exists() && !place.join("partition").exists();
            let bytes = read(&place.join("size")).parse::<u64>().ok()? * 512;
            let usable = real && bytes > 0 && read(&place.join("ro")) == "0" && Some(&name) != root.as_ref();
            usable.then(|| Disk {
                path: Path::new("/dev").join(&name),
                bytes,
                model: read(&place.join("device/model")),
            })
        })
        // Drives for discs and floppies have devices too.
        .filter(|d| {
            !d.path.to_string_lossy().starts_with("/dev/sr") && !d.path.to_string_lossy().starts_with("/dev/fd")
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
