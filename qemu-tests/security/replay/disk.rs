//! The disk as a power cut leaves it, from what was recorded: the base, all that was flushed before the cut, and of what
//! was written after the last flush as much as the drive happened to write out.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{
    Dice,
    journal::{Entry, Journal},
    nbd::{PHYSICAL, SECTOR},
};

/// What of the unflushed writes stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    Nothing,
    /// The drive wrote in order and came some way.
    Some(u64),
    /// Each physical sector of each write by itself, by the dice with this seed.
    Each(u64),
}

/// Sectors that were unflushed at a cut.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unflushed {
    pub(super) kept: usize,
    pub(super) lost: usize,
}

/// One partition, cut at later and later places of its journal.
pub(super) struct Disk<'a> {
    journal: &'a Journal,
    /// Where the partition begins on the recorded disk, and its length.
    start: u64,
    length: u64,
    /// All that is durable at the place reached.
    path: PathBuf,
    durable: File,
    /// By sector: where the bytes of its unflushed writes are in the journal, the last one last, with the entry of each.
    volatile: BTreeMap<u64, Vec<(usize, u64)>>,
    /// The entries before this one have happened.
    reached: usize,
}

impl<'a> Disk<'a> {
    /// Begins with the file of the partition as it was when the recording began, which it changes.
    pub(super) fn new(journal: &'a Journal, (start, length): (u64, u64), file: &Path) -> Self {
        Self {
            journal,
            start,
            length,
            path: file.to_owned(),
            durable: File::options().read(true).write(true).open(file).unwrap(),
            volatile: BTreeMap::new(),
            reached: 0,
        }
    }

    /// Lets happen what stands before this place in the journal.
    fn reach(&mut self, cut: usize) {
        assert!(cut >= self.reached, "cuts come in order");
        for n in self.reached..cut {
            match self.journal.entries[n] {
                Entry::Flush => self.flush(),
                Entry::Write {
                    offset,
                    length,
                    at,
                    through,
                } => self.write(n, offset, length, at, through),
            }
        }
        self.reached = cut;
    }

    fn write(&mut self, entry: usize, offset: u64, length: u64, at: u64, through: bool) {
        let size = SECTOR as u64;
        for n in 0..length / size {
            let place = offset + n * size;
            if place < self.start || place >= self.start + self.length {
                continue;
            }
            let (sector, bytes) = ((place - self.start) / size, at + n * size);
            if through {
                self.volatile.remove(&sector);
                self.put(&self.durable, sector, bytes);
            } else {
                self.volatile.entry(sector).or_default().push((entry, bytes));
            }
        }
    }

    fn flush(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.volatile) {
            if let Some((_, bytes)) = versions.last() {
                self.put(&self.durable, sector, *bytes);
            }
        }
    }

    fn put(&self, file: &File, sector: u64, bytes: u64) {
        let mut data = [0; SECTOR];
        self.journal.read(bytes, &mut data);
        file.write_all_at(&data, sector * SECTOR as u64).unwrap();
    }

    /// Makes the file `into`: what the partition holds after a cut before this entry of the journal.
    pub(super) fn cut(&mut self, cut: usize, keep: Keep, into: &Path) -> Unflushed {
        self.reach(cut);
        let done = Command::new("cp")
            .arg("--reflink=always")
            .arg(&self.path)
            .arg(into)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "the partition cannot be copied: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        let file = File::options().write(true).open(into).unwrap();
        let first = self.volatile.values().flatten().map(|(n, _)| *n).min().unwrap_or(cut);
        let mut dice = Dice::new(match keep {
            Keep::Each(seed) | Keep::Some(seed) => seed,
            Keep::All | Keep::Nothing => 0,
        });
        let come = dice.between(first as u64, cut as u64) as usize;
        let mut fates = HashMap::new();
        let mut count = Unflushed::default();
        for (sector, versions) in &self.volatile {
            let physical = (self.start / SECTOR as u64 + sector) / PHYSICAL;
            let mut stays = |n: usize| match keep {
                Keep::All => true,
                Keep::Nothing => false,
                Keep::Some(_) => n < come,
                Keep::Each(_) => *fates.entry((n, physical)).or_insert_with(|| dice.roll() >> 63 == 1),
            };
            // A sector that was written twice may be left with the first of the two.
            let mut kept = None;
            for (n, bytes) in versions {
                if stays(*n) {
                    kept = Some(*bytes);
                }
            }
            match kept {
                Some(bytes) => {
                    self.put(&file, *sector, bytes);
                    count.kept += 1;
                }
                None => count.lost += 1,
            }
        }
        count
    }
}
