//! File systems in files, mounted where nobody else sees them: in a mount namespace of one thread. When the thread ends,
//! however it ends, its mounts go, and with each mount its loop device, which detaches itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::harness::{qemu, wait};

/// How long a loop device may take to let go of its file after the last mount.
const DETACHES: Duration = Duration::from_secs(30);

/// Runs this in a thread with mounts of its own, with an empty folder that goes afterwards.
pub(super) fn apart<T: Send>(folder: &Path, work: impl FnOnce(&Path) -> T + Send) -> T {
    fs::create_dir(folder).unwrap();
    let folder = Folder(folder.to_owned());
    let done = std::thread::scope(|s| {
        s.spawn(|| {
            let apart = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
                let none: Option<&str> = None;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            });
            apart.unwrap_or_else(|e| panic!("no mount namespace of the test's own ({e}): run this test as root"));
            work(&folder.0)
        })
        .join()
    });
    let left = wait(DETACHES, || attached(&folder.0).is_empty().then_some(()));
    if left.is_none() && done.is_ok() {
        panic!(
            "loop devices hold files below {}: {:?}",
            folder.0.display(),
            attached(&folder.0)
        );
    }
    done.unwrap_or_else(|e| std::panic::resume_unwind(e))
}

/// The loop devices with a file below this folder.
pub(super) fn attached(folder: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").unwrap().map(|e| e.unwrap().path());
    devices
        .filter(|d| {
            // Without a file there is no such entry.
            let file = fs::read_to_string(d.join("loop/backing_file")).unwrap_or_default();
            Path::new(file.trim()).starts_with(folder)
        })
        .collect()
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A mounted file; unmounted when it is dropped.
pub(super) struct Mounted(PathBuf);

impl Mounted {
    /// # Errors
    /// What `mount` said.
    pub(super) fn new(file: &Path, at: &Path, options: &str) -> Result<Self, String> {
        fs::create_dir_all(at).unwrap();
        let out = Command::new("mount")
            .args(["-t", "xfs", "-o", &format!("loop,nosuid,nodev,noatime{options}")])
            .args([file, at])
            .output()
            .map_err(|e| format!("no mount program: {e}"))?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned());
        }
        Ok(Self(at.to_owned()))
    }

    pub(super) fn at(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What is still busy goes with the thread.
        let _ = umount2(&self.0, MntFlags::empty()).or_else(|_| umount2(&self.0, MntFlags::MNT_DETACH));
    }
}

/// Makes an XFS of this size in a new file, with holes where nothing is.
pub(super) fn make(file: &Path, size: u64) {
    fs::File::create_new(file).unwrap().set_len(size).unwrap();
    qemu::run_tool(
        "mkfs.xfs",
        &["-q", "-K", "-m", "reflink=1", &file.display().to_string()],
    );
}

/// A file system where copies of files share their blocks, so that a copy of a partition costs nothing.
pub(super) fn scratch(folder: &Path, size: u64) -> Mounted {
    let file = folder.join("scratch.xfs");
    make(&file, size);
    Mounted::new(&file, &folder.join("scratch"), "").unwrap_or_else(|e| {
        panic!("this machine mounts no XFS from a file ({e}): the test needs root, loop devices and XFS in the kernel")
    })
}

/// Mounts a partition as the box does: with quotas of projects, where this kernel has quotas.
pub(super) fn as_the_box_does(file: &Path, at: &Path) -> Result<Mounted, String> {
    Mounted::new(file, at, ",prjquota").or_else(|first| Mounted::new(file, at, "").map_err(|e| format!("{first}; {e}")))
}
