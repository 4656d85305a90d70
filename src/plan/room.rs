//! How much the instances of a box may write, all together. The kernel holds each volume to its size; that their sum fits
//! the disk, with room for the engine, the store, the journal and an update beside them, is settled here, when an
//! instance is admitted. Pure.

use super::admit::Book;
use crate::{
    model::{Desired, Refusal, Source},
    record::InstanceRecord,
};

const MIB: u64 = 1 << 20;
/// What an instance has on the disk besides its volume: its log (`plan::spec`), and what the engine notes of it.
const BESIDE: u64 = 16 * MIB;

/// The disk that the volumes lie on, where it holds volumes to a size. In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Disk {
    pub size: u64,
    pub free: u64,
    /// What is in the volumes of this box by now.
    pub volumes: u64,
}

/// So many bytes of a disk are for the box itself: a tenth of it, 1 GiB at least, 8 at most, and never more than a quarter.
pub fn reserve(size: u64) -> u64 {
    (size / 10).clamp(1024 * MIB, 8192 * MIB).min(size / 4)
}

/// From so many hundredths on it is said that a disk fills up, and from so many on it is urgent.
pub const SAID: u64 = 80;
pub const URGENT: u64 = 90;

/// How full a disk is, in hundredths.
pub fn used(size: u64, free: u64) -> u64 {
    size.saturating_sub(free).saturating_mul(100) / size.max(1)
}

impl Disk {
    /// What all instances may have on it together: what is free or in their volumes, without the reserve.
    pub fn room(&self) -> u64 {
        self.free
            .saturating_add(self.volumes)
            .saturating_sub(reserve(self.size))
    }
}

/// What an instance may come to have on the disk. Its package counts with all that an installation may write, until it is
/// installed: from then on it is part of what is there. `install` is that bound.
pub fn promised(record: &InstanceRecord, install: u64) -> u64 {
    let to_install = match record.sourced.as_ref().map(|g| &g.source) {
        // No container is made.
        Some(Source::Remote(_)) => return 0,
        Some(Source::Npx(_) | Source::Uvx(_)) => {
            record.unprepared() && record.desired == Desired::Running && record.failure.is_none()
        }
        Some(Source::Image(_)) | None => false,
    };
    let volume = record.spec.volume.as_ref().map_or(0, |_| record.size.limits().volume);
    let package = if to_install { install } else { 0 };
    u64::try_from(volume).unwrap_or(0) + package + BESIDE
}

/// What all instances were promised, those included that are stopped or not removed yet.
pub fn promised_to<'a>(records: impl Iterator<Item = &'a InstanceRecord>, install: u64) -> u64 {
    records.map(|r| promised(r, install)).sum()
}

/// Whether the disk and the quota of its workspace have room for this record, in place of the one with its id. Less than before
/// is always well.
///
/// # Errors
/// [`Refusal::NoRoom`] and [`Refusal::WorkspaceDisk`], with the numbers.
pub(super) fn check(book: &Book<'_>, record: &InstanceRecord) -> Result<(), Refusal> {
    let wanted = promised(record, book.install_bytes);
    let before = book.instances.get(&record.id);
    let had = before.map_or(0, |r| promised(r, book.install_bytes));
    if wanted <= had {
        return Ok(());
    }
    let others = || book.instances.values().map(|r| &**r).filter(|r| r.id != record.id);
    let quota = book.workspaces.get(&record.workspace);
    let quota = quota.and_then(|w| w.limits(book.configured).disk);
    if let Some(limit) = quota.map(i64::unsigned_abs) {
        let there = others().filter(|r| r.workspace == record.workspace);
        let there = promised_to(there, book.install_bytes);
        if there.saturating_add(wanted) > limit {
            return Err(Refusal::WorkspaceDisk {
                workspace: record.workspace.clone(),
                wanted: wanted.div_ceil(MIB),
                promised: there.div_ceil(MIB),
                limit: limit / MIB,
            });
        }
    }
    let Some(disk) = &book.disk else { return Ok(()) };
    let others = promised_to(others(), book.install_bytes);
    let room = disk.room();
    if others.saturating_add(wanted) <= room {
        return Ok(());
    }
    Err(Refusal::NoRoom {
        wanted: wanted.div_ceil(MIB),
        promised: others.div_ceil(MIB),
        room: room / MIB,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_of_every_disk_is_the_boxs_own() {
        let gib = |n: u64| n << 30;
        assert_eq!(reserve(gib(11)), gib(11) / 10);
        assert_eq!(reserve(gib(4)), gib(1));
        assert_eq!(reserve(gib(2)), gib(1) / 2);
        assert_eq!(reserve(gib(1000)), gib(8));
        let disk = Disk {
            size: gib(11),
            free: gib(6),
            volumes: gib(2),
        };
        assert_eq!(disk.room(), gib(8) - gib(11) / 10);
        let full = Disk {
            free: 0,
            volumes: gib(1),
            ..disk
        };
        assert_eq!(full.room(), 0, "the reserve itself is used up");
    }
}
