//! Holds a workspace to its quota: writes the limits of its cgroup before a container starts in it. Where systemd
//! owns the tree, it is told by `systemctl`; else the files are written here. Doing it again changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    outside,
    systemd::{DROP_INS, SliceError, set_property},
};
use crate::plan::quota::WorkspaceQuota;

/// The period of the CPU quota, in microseconds (the kernel's default).
const PERIOD: i64 = 100_000;
/// The controllers that quotas need.
const CONTROLLERS: &str = "+cpu +memory +pids";

/// Limits of all slices whose name begins with `berth-` (systemd.unit(5)), as they are installed.
const INSTALLED: &str = "/usr/lib/systemd/system/berth-.slice.d";

/// Where systemd keeps what it was told of a unit until the machine restarts.
const TOLD: &str = "/run/systemd/system.control";

/// The slices of this box's workspaces.
#[derive(Debug)]
pub struct Slices {
    root: PathBuf,
    /// What systemd was told already; it keeps it.
    told: Mutex<BTreeMap<String, WorkspaceQuota>>,
}

impl Default for Slices {
    fn default() -> Self {
        Self::at(Path::new("/sys/fs/cgroup"))
    }
}

impl Slices {
    fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            told: Mutex::default(),
        }
    }

    /// Makes the cgroup `parent` where it is missing, and sets its limits. Blocks for a few file writes, or for a run
    /// of `systemctl`.
    ///
    /// # Errors
    /// [`SliceError`] names the file or the command that failed.
    pub fn hold(&self, parent: &str, quota: &WorkspaceQuota, systemd: bool) -> Result<(), SliceError> {
        if systemd {
            return self.hold_by_systemd(parent, quota);
        }
        let at = parent.trim_start_matches('/');
        if self.root.join("cgroup.controllers").exists() {
            self.hold_v2(at, quota)
        } else {
            self.hold_v1(at, quota)
        }
    }

    /// Removes the cgroup of a workspace without containers; one that is in use stays. systemd forgets its own.
    pub fn release(&self, parent: &str, systemd: bool) {
        if systemd {
            return;
        }
        let mut hierarchies = vec![self.root.clone()];
        if !self.root.join("cgroup.controllers").exists() {
            let entries = fs::read_dir(&self.root).into_iter().flatten();
            hierarchies = entries.flatten().map(|e| e.path()).collect();
        }
        let at = Path::new(parent.trim_start_matches('/'));
        // The workspace's, then the box's; never the one that boxes share.
        for part in [Some(at), at.parent()].into_iter().flatten() {
            if part.components().count() > 1 {
                for hierarchy in &hierarchies {
                    let _ = fs::remove_dir(hierarchy.join(part));
                }
            }
        }
    }

    fn hold_v1(&self, at: &str, quota: &WorkspaceQuota) -> Result<(), SliceError> {
        let dir = |controller: &str| make(self.root.join(controller).join(at));
        let cpu = dir("cpu")?;
        write(&cpu.join("cpu.cfs_period_us"), PERIOD)?;
        write(&cpu.join("cpu.cfs_quota_us"), micros(quota))?;
        // Memory last: less than is in use is refused.
        write(&dir("pids")?.join("pids.max"), quota.pids)?;
        let memory = dir("memory")?;
        let (bytes, with_swap) = (
            memory.join("memory.limit_in_bytes"),
            memory.join("memory.memsw.limit_in_bytes"),
        );
        // Memory and swap together may never be less than memory: which goes first depends on the way.
        let first = write(&bytes, quota.memory);
        if with_swap.exists() {
            write(&with_swap, quota.memory)?;
        }
        if first.is_err() {
            write(&bytes, quota.memory)?;
        }
        Ok(())
    }

    fn hold_v2(&self, at: &str, quota: &WorkspaceQuota) -> Result<(), SliceError> {
        let mut dir = self.root.clone();
        for part in Path::new(at) {
            write(&dir.join("cgroup.subtree_control"), CONTROLLERS)?;
            dir = make(dir.join(part))?;
        }
        write(&dir.join("cpu.max"), format!("{} {PERIOD}", micros(quota)))?;
        write(&dir.join("memory.max"), quota.memory)?;
        let swap = dir.join("memory.swap.max");
        if swap.exists() {
            write(&swap, 0)?;
        }
        write(&dir.join("pids.max"), quota.pids)
    }

    fn hold_by_systemd(&self, slice: &str, quota: &WorkspaceQuota) -> Result<(), SliceError> {
        let there = |dir: &str| fs::read_dir(dir).is_ok_and(|mut d| d.next().is_some());
        // Held until systemd has answered: what is noted is what it was told last.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let other = told.contains_key(slice) || there(&format!("{TOLD}/{slice}.d"));
        if quota.by_default && !other && (there(DROP_INS) || there(INSTALLED)) {
            return Ok(());
        }
        if told.get(slice) == Some(quota) {
            return Ok(());
        }
        match outside::there() {
            true => outside::ask(slice, quota)?,
            false => set_property(slice, quota)?,
        }
        told.insert(slice.to_owned(), *quota);
        Ok(())
    }
}

/// Microseconds of CPU in a period; the kernel takes no less than a thousand.
fn micros(quota: &WorkspaceQuota) -> i64 {
    (quota.nano_cpus / (1_000_000_000 / PERIOD)).max(1000)
}

fn make(dir: PathBuf) -> Result<PathBuf, SliceError> {
    match fs::create_dir_all(&dir) {
        Ok(()) => Ok(dir),
        Err(source) => Err(SliceError::File {
            what: "make",
            path: dir,
            source,
        }),
    }
}

fn write(path: &Path, value: impl ToString) -> Result<(), SliceError> {
    fs::write(path, value.to_string()).map_err(|source| SliceError::File {
        what: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: WorkspaceQuota = WorkspaceQuota {
        nano_cpus: 1_500_000_000,
        memory: 1 << 30,
        pids: 300,
        by_default: false,
    };

    fn text(root: &Path, path: &str) -> String {
        fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    #[test]
    fn version_1() {
        let dir = tempfile::tempdir().unwrap();
        Slices::at(dir.path()).hold("/berth/box/team", &QUOTA, false).unwrap();
        let at = |c: &str, f: &str| text(dir.path(), &format!("{c}/berth/box/team/{f}"));
        assert_eq!(at("cpu", "cpu.cfs_quota_us"), "150000");
        assert_eq!(at("cpu", "cpu.cfs_period_us"), "100000");
        assert_eq!(at("memory", "memory.limit_in_bytes"), "1073741824");
        assert_eq!(at("pids", "pids.max"), "300");
    }

    #[test]
    fn version_2() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
        Slices::at(dir.path()).hold("/berth/box/team", &QUOTA, false).unwrap();
        for above in ["", "berth/", "berth/box/"] {
            let given = text(dir.path(), &format!("{above}cgroup.subtree_control"));
            assert_eq!(given, "+cpu +memory +pids");
        }
        assert_eq!(text(dir.path(), "berth/box/team/cpu.max"), "150000 100000");
        assert_eq!(text(dir.path(), "berth/box/team/memory.max"), "1073741824");
        assert_eq!(text(dir.path(), "berth/box/team/pids.max"), "300");
    }

    #[test]
    fn a_quota_that_cannot_be_set_is_said() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cpu"), "no folder").unwrap();
        let said = Slices::at(dir.path()).hold("/berth/box/team", &QUOTA, false);
        assert!(said.unwrap_err().to_string().starts_with("cannot make "));
    }

    #[test]
    fn what_is_empty_goes_and_what_boxes_share_stays() {
        let dir = tempfile::tempdir().unwrap();
        for c in ["cpu", "memory"] {
            fs::create_dir_all(dir.path().join(c).join("berth/box/team")).unwrap();
        }
        fs::create_dir_all(dir.path().join("memory/berth/box/other")).unwrap();
        Slices::at(dir.path()).release("/berth/box/team", false);
        assert!(!dir.path().join("cpu/berth/box").exists() && dir.path().join("cpu/berth").exists());
        assert!(!dir.path().join("memory/berth/box/team").exists());
        assert!(dir.path().join("memory/berth/box/other").exists());
    }
}
