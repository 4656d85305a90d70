//! F2: what a container uses, read from its cgroup's files: no call to the engine, a few small reads. Knows versions 1
//! and 2 and both drivers' paths. Writes only in `slice`, which holds workspaces to their quotas.

pub mod outside;
mod slice;
mod systemd;

use std::{
    fs,
    path::{Path, PathBuf},
};

pub use slice::Slices;
pub use systemd::SliceError;

/// Use of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time since it started, in microseconds.
    pub cpu_usec: u64,
    /// Memory in use, page cache included, in bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// Where cgroups are mounted on this host, and who makes them.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
    unified: bool,
    systemd: bool,
}

impl Cgroups {
    /// The host's own, with the driver that the engine names.
    pub fn host(systemd: bool) -> Self {
        Self::at(Path::new("/sys/fs/cgroup"), systemd)
    }

    fn at(root: &Path, systemd: bool) -> Self {
        Self {
            root: root.to_owned(),
            unified: root.join("cgroup.controllers").exists(),
            systemd,
        }
    }

    /// What the container uses now; None when it does not run.
    pub fn usage(&self, parent: &str, container: &str) -> Option<Usage> {
        let at = self.path(parent, container);
        let cpu = self.dir("cpuacct", &at);
        let memory = self.dir("memory", &at);
        let pids = self.dir("pids", &at);
        if self.unified {
            return Some(Usage {
                cpu_usec: keyed(&cpu.join("cpu.stat"), "usage_usec")?,
                memory_bytes: number(&memory.join("memory.current"))?,
                pids: number(&pids.join("pids.current"))?,
            });
        }
        Some(Usage {
            cpu_usec: number(&cpu.join("cpuacct.usage"))? / 1000,
            memory_bytes: number(&memory.join("memory.usage_in_bytes"))?,
            pids: number(&pids.join("pids.current"))?,
        })
    }

    fn dir(&self, controller: &str, at: &Path) -> PathBuf {
        if self.unified {
            return self.root.join(at);
        }
        self.root.join(controller).join(at)
    }

    /// The path below the hierarchy's root: `berth/{box}/{ws}/{id}`, or
    /// `berth.slice/berth-{box}.slice/berth-{box}-{ws}.slice/docker-{id}.scope`.
    fn path(&self, parent: &str, container: &str) -> PathBuf {
        if !self.systemd {
            return Path::new(parent.trim_start_matches('/')).join(container);
        }
        let mut path = PathBuf::new();
        let stem = parent.trim_end_matches(".slice");
        for (at, _) in stem.match_indices('-') {
            path.push(format!("{}.slice", &stem[..at]));
        }
        path.push(format!("{stem}.slice"));
        path.join(format!("docker-{container}.scope"))
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|l| l.split_once(' '));
    pairs.find(|(k, _)| *k == key)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    const USED: Usage = Usage {
        cpu_usec: 1234,
        memory_bytes: 4096,
        pids: 3,
    };

    #[test]
    fn version_2_under_systemd() {
        let dir = tempfile::tempdir().unwrap();
        let at = "berth.slice/berth-ab.slice/berth-ab-a_b.slice/docker-c0.scope";
        write(dir.path(), "cgroup.controllers", "cpu memory pids");
        write(dir.path(), &format!("{at}/cpu.stat"), "usage_usec 1234\nuser_usec 1\n");
        write(dir.path(), &format!("{at}/memory.current"), "4096\n");
        write(dir.path(), &format!("{at}/pids.current"), "3\n");
        let cgroups = Cgroups::at(dir.path(), true);
        assert_eq!(cgroups.usage("berth-ab-a_b.slice", "c0"), Some(USED));
        assert_eq!(cgroups.usage("berth-ab-a_b.slice", "c1"), None);
    }

    #[test]
    fn version_1_under_cgroupfs() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "cpuacct/berth/default/c0/cpuacct.usage", "1234567\n");
        write(dir.path(), "memory/berth/default/c0/memory.usage_in_bytes", "4096\n");
        write(dir.path(), "pids/berth/default/c0/pids.current", "3\n");
        let cgroups = Cgroups::at(dir.path(), false);
        assert_eq!(cgroups.usage("/berth/default", "c0"), Some(USED));
    }
}
