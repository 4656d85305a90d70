//! What a box can hold its workspaces and volumes to. Pure: what was asked for and the box's measures in, limits out.

use std::{collections::BTreeMap, path::Path};

pub use crate::model::WorkspaceLimits;
use crate::{model::WorkspaceName, record::WorkspaceRecord};

/// What all containers of one workspace may use together; the kernel holds it (`cgroup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceQuota {
    /// CPU time per wall time, in billionths of a CPU.
    pub nano_cpus: i64,
    /// Memory in bytes, page cache included; no swap beyond it.
    pub memory: i64,
    /// Processes and threads.
    pub pids: i64,
    /// Nothing of it was asked for (but for how many instances may run): it is what the box allows.
    pub by_default: bool,
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
            by_default: self.nano_cpus.is_none() && self.memory.is_none() && self.pids.is_none(),
        }
    }
}

/// The workspaces of a box.
#[derive(Debug, Clone, Default)]
pub struct Workspaces {
    pub records: BTreeMap<WorkspaceName, WorkspaceRecord>,
    /// For records without a quota of their own: the configuration's `[workspace]`.
    pub configured: WorkspaceLimits,
}

impl Workspaces {
    /// What a workspace may use on a box of so many CPUs and so much memory. One without a record gets no more than
    /// others do.
    pub fn quota(&self, name: &WorkspaceName, cpus: i64, memory: i64) -> WorkspaceQuota {
        let record = self.records.get(name);
        let limits = record.map_or(self.configured, |r| r.limits(&self.configured));
        limits.on(cpus, memory)
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
            ..WorkspaceLimits::default()
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
    fn a_workspaces_own_quota_counts_and_the_configurations_otherwise() {
        let limits = |pids| WorkspaceLimits {
            pids: Some(pids),
            ..WorkspaceLimits::default()
        };
        let named = |name: &str| WorkspaceName::parse(name).unwrap();
        let record = |name: &str, quota| {
            let record = WorkspaceRecord {
                name: named(name),
                created_at: jiff::Timestamp::UNIX_EPOCH,
                quota,
                allow: crate::model::Allowlist::default(),
                edited: None,
            };
            (record.name.clone(), record)
        };
        let own = WorkspaceLimits {
            memory: Some(1 << 30),
            ..WorkspaceLimits::default()
        };
        let all = Workspaces {
            records: [
                record("default", None),
                record("small", Some(limits(9))),
                record("w", Some(own)),
            ]
            .into(),
            configured: limits(500),
        };
        let pids = |name: &str| all.quota(&named(name), 4, 10 << 30).pids;
        assert_eq!(
            (pids("default"), pids("small"), pids("w")),
            (500, 9, 500),
            "limit by limit"
        );
        assert_eq!(pids("unknown"), 500);
        assert_eq!(all.quota(&named("w"), 4, 10 << 30).memory, 1 << 30);
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
