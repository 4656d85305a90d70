//! What a box can hold its workspaces and volumes to. Pure: the configuration and the box's measures in, limits out.

use std::path::Path;

/// What all containers of one workspace may use together; the kernel holds it (`cgroup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceQuota {
    /// CPU time per wall time, in billionths of a CPU.
    pub nano_cpus: i64,
    /// Memory in bytes, page cache included; no swap beyond it.
    pub memory: i64,
    /// Processes and threads.
    pub pids: i64,
    /// Nothing of it was asked for: it is what the box allows.
    pub by_default: bool,
}

/// The same as the configuration asks for it; None: as the box allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkspaceLimits {
    pub nano_cpus: Option<i64>,
    pub memory: Option<i64>,
    pub pids: Option<i64>,
}

/// Processes and threads of a workspace by default; a box has 32 768 and more.
const PIDS: i64 = 8192;

impl WorkspaceLimits {
    /// The limits on a box of so many CPUs and so much memory: by default all CPUs and nine tenths of the memory, so
    /// that the supervisor always has some.
    pub fn on(&self, cpus: i64, memory: i64) -> WorkspaceQuota {
        let all = cpus.max(1) * 1_000_000_000;
        WorkspaceQuota {
            nano_cpus: self.nano_cpus.unwrap_or(all).min(all),
            memory: self.memory.unwrap_or(memory / 10 * 9),
            pids: self.pids.unwrap_or(PIDS),
            by_default: *self == Self::default(),
        }
    }
}

/// Whether the file system at `path` holds project quotas, by the text of `/proc/self/mountinfo` (proc(5)). The engine
/// bounds volumes only on XFS that was mounted so.
pub fn holds_sizes(mountinfo: &str, path: &Path) -> bool {
    let mut best: Option<(usize, bool)> = None;
    for line in mountinfo.lines() {
        let Some((mount, source)) = line.split_once(" - ") else {
            continue;
        };
        let Some(at) = mount.split(' ').nth(4) else { continue };
        // Blanks stand as octal there; a data folder has none.
        if !path.starts_with(at) {
            continue;
        }
        let mut source = source.split(' ');
        let (kind, options) = (source.next().unwrap_or_default(), source.nth(1).unwrap_or_default());
        let quota = options.split(',').any(|o| o == "prjquota" || o == "pquota");
        // A later mount on the same folder covers the earlier.
        if best.is_none_or(|(len, _)| at.len() >= len) {
            best = Some((at.len(), kind == "xfs" && quota));
        }
    }
    best.is_some_and(|(_, holds)| holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_leaves_the_supervisor_some() {
        let box_of = |limits: WorkspaceLimits| limits.on(4, 10 << 30);
        let all = box_of(WorkspaceLimits::default());
        assert_eq!((all.nano_cpus, all.memory, all.pids), (4_000_000_000, 9 << 30, 8192));
        let asked = box_of(WorkspaceLimits {
            nano_cpus: Some(1_500_000_000),
            memory: Some(1 << 30),
            pids: Some(100),
        });
        assert_eq!(
            (asked.nano_cpus, asked.memory, asked.pids),
            (1_500_000_000, 1 << 30, 100)
        );
        let too_much = box_of(WorkspaceLimits {
            nano_cpus: Some(64_000_000_000),
            ..WorkspaceLimits::default()
        });
        assert_eq!(too_much.nano_cpus, 4_000_000_000);
    }

    #[test]
    fn sizes_hold_on_xfs_with_project_quotas_only() {
        let check = |mounts: &str, is| assert_eq!(holds_sizes(mounts, Path::new("/var/lib/docker")), is, "{mounts}");
        let root = "22 1 254:0 / / ro,relatime shared:1 - ext4 /dev/vda rw\n";
        let var = "30 22 254:1 / /var rw,nosuid shared:2 - xfs /dev/vdb rw,attr2,inode64,logbufs=8,prjquota\n";
        check("", false);
        check(root, false);
        check(&format!("{root}{var}"), true);
        check(&format!("{var}{root}"), true);
        check(&var.replace("prjquota", "noquota"), false);
        check(&var.replace(" xfs ", " ext4 "), false);
        check(&var.replace(" /var ", " /variable "), false);
        // Mounted without quotas, deeper or over it.
        check(
            &format!("{var}31 30 254:2 / /var/lib/docker rw - xfs /dev/vdc rw,noquota\n"),
            false,
        );
        check(
            &format!("{var}31 30 254:2 / /var rw - xfs /dev/vdc rw,noquota\n"),
            false,
        );
    }
}
