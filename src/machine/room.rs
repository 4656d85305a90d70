//! Keeps room on the data partition for the box itself: for the engine, the store, the journal and an update. All that
//! instances write belongs to one user of the host, whose quota (quotactl(2)) holds them together to what is left; and a
//! ballast is given up while the disk is full, so that the engine and the supervisor can start and remove something.

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::{
        quota::{Dqblk, QuotaType, QuotaValidFlags, quotactl_get, quotactl_set},
        statvfs::statvfs,
    },
};

use super::{MachineError, failed};
use crate::{
    model::{SERVER_USER, User},
    plan::room::reserve,
};

/// The data partition, and the device that it is mounted from.
const DATA: &str = "/var";
const DEVICE: &str = "/dev/berth/data";
/// Lies there for nothing but its size.
const BALLAST: &str = "/var/lib/berth-ballast";
/// In bytes.
const BALLAST_SIZE: u64 = 256 << 20;
/// Where the engine's remapped users begin (subuid(5)).
const REMAPPED: &str = "/etc/subuid";
const REMAPPED_NAME: &str = "dockremap";
/// So many bytes of the disk for each file that instances may have: the file system does not count what a file without
/// content takes.
const BYTES_A_FILE: u64 = 32 << 10;

/// What the disk holds, in bytes, and whether the ballast lies there.
#[derive(Debug, Clone, Copy)]
struct Seen {
    size: u64,
    free: u64,
    ballast: bool,
    /// What instances have, in bytes and in files.
    used: u64,
    files: u64,
}

/// What instances may have, all together, and whether the ballast shall lie there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settled {
    bytes: u64,
    files: u64,
    ballast: bool,
}

fn settle(seen: Seen) -> Settled {
    let ours = reserve(seen.size);
    let held = if seen.ballast { BALLAST_SIZE } else { 0 };
    let left = seen.free.saturating_add(held);
    Settled {
        // Never nothing: the kernel takes that for no limit.
        bytes: seen.used.saturating_add(left.saturating_sub(ours)).max(1 << 20),
        files: (seen.size / BYTES_A_FILE).max(seen.files).max(1),
        ballast: match seen.ballast {
            true => seen.free >= BALLAST_SIZE / 4,
            false => left >= ours / 2 + BALLAST_SIZE,
        },
    }
}

/// Sets the quota by what is free now, and gives up or takes back the ballast. To be done before the engine starts, and
/// again and again.
///
/// # Errors
/// [`MachineError`] with what could not be read or set.
pub fn keep() -> Result<(), MachineError> {
    let (data, device, ballast) = (Path::new(DATA), Path::new(DEVICE), Path::new(BALLAST));
    let user = SERVER_USER.on_host(remapped()?).uid;
    let user = i32::try_from(user).map_err(|_| MachineError::Refused(format!("{user} is no user's number")))?;
    let disk = statvfs(data).map_err(|e| failed("measure", data)(e.into()))?;
    let has = match quotactl_get(QuotaType::USRQUOTA, device, user) {
        Ok(has) => has,
        // Nothing is counted for it yet.
        Err(Errno::ENOENT | Errno::ESRCH) => Dqblk::default(),
        Err(e) => return Err(failed("read the quota on", device)(e.into())),
    };
    let seen = Seen {
        size: disk.blocks().saturating_mul(disk.fragment_size()),
        free: disk.blocks_available().saturating_mul(disk.fragment_size()),
        ballast: ballast.exists(),
        used: has.occupied_space().unwrap_or(0),
        files: has.allocated_inodes().unwrap_or(0),
    };
    let settled = settle(seen);
    let mut limits = Dqblk::default();
    limits.set_blocks_hard_limit(settled.bytes / 1024);
    limits.set_inodes_hard_limit(settled.files);
    let which = QuotaValidFlags::QIF_BLIMITS | QuotaValidFlags::QIF_ILIMITS;
    quotactl_set(QuotaType::USRQUOTA, device, user, &limits, which)
        .map_err(|e| failed("set the quota on", device)(e.into()))?;
    match (seen.ballast, settled.ballast) {
        (true, false) => {
            fs::remove_file(ballast).map_err(failed("remove", ballast))?;
            log::warn!("the data partition is full: {BALLAST} was given up so that instances can be removed");
        }
        (false, true) => lay(ballast)?,
        _ => {}
    }
    Ok(())
}

fn lay(ballast: &Path) -> Result<(), MachineError> {
    let laid = || -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(ballast)?;
        fallocate(&file, FallocateFlags::empty(), 0, BALLAST_SIZE as i64)?;
        file.sync_all()
    };
    laid().map_err(|e| {
        let _ = fs::remove_file(ballast);
        failed("lay", ballast)(e)
    })
}

/// Where the users of containers begin on this host.
fn remapped() -> Result<User, MachineError> {
    let path = Path::new(REMAPPED);
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    begins(&text).ok_or_else(|| MachineError::Refused(format!("{REMAPPED} has no line for {REMAPPED_NAME}")))
}

fn begins(subuid: &str) -> Option<User> {
    let mut lines = subuid.lines().map(|l| l.split(':'));
    let mut line = lines.find_map(|mut l| (l.next() == Some(REMAPPED_NAME)).then_some(l))?;
    let uid = line.next()?.parse().ok()?;
    Some(User { uid, gid: uid })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn instances_never_get_what_is_the_boxs_own() {
        let seen = |free: u64, used: u64, ballast: bool| Seen {
            size: 20 * GIB,
            free,
            ballast,
            used,
            files: 0,
        };
        // Two of twenty are the box's own.
        let empty = settle(seen(18 * GIB, 0, false));
        assert_eq!((empty.bytes, empty.ballast), (16 * GIB, true));
        let same = settle(seen(18 * GIB - BALLAST_SIZE, 0, true));
        assert_eq!(same, empty, "the ballast changes nothing for instances");
        // All that they may have: exactly that, and no more.
        let at_the_bound = settle(seen(2 * GIB - BALLAST_SIZE, 16 * GIB, true));
        assert_eq!((at_the_bound.bytes, at_the_bound.ballast), (16 * GIB, true));
        // Something else filled the rest: instances may write nothing, and the ballast goes.
        let full = settle(seen(0, 16 * GIB, true));
        assert_eq!((full.bytes, full.ballast), (16 * GIB, false));
        let given_up = settle(seen(BALLAST_SIZE, 16 * GIB, false));
        assert_eq!(
            (given_up.bytes, given_up.ballast),
            (16 * GIB, false),
            "it stays given up"
        );
        // Something was removed: it comes back before instances may write again.
        let better = settle(seen(3 * GIB / 2, 15 * GIB, false));
        assert_eq!((better.bytes, better.ballast), (15 * GIB, true));
        let nothing = settle(Seen {
            size: 0,
            ..seen(0, 0, false)
        });
        assert!(nothing.bytes > 0 && nothing.files > 0, "none would be no limit");
        assert!(!nothing.ballast);
    }

    #[test]
    fn remapped_users_are_read() {
        let user = |uid| Some(User { uid, gid: uid });
        assert_eq!(begins("other:1:2\ndockremap:231072:65536\n"), user(231_072));
        assert_eq!(begins("dockremapped:1:2\n"), None);
        assert_eq!(begins(""), None);
    }
}
