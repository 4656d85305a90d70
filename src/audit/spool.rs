//! Rows that are not on the disk yet, in files of a folder that outlives the process but not the machine (a tmpfs): written
//! before the answer leaves, and never waiting for a disk. A supervisor that was killed leaves them to the next one.
//!
//! Each process has two files and a lock on both: rows are written to one while those of the other are on their way to the
//! disk.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::segments;

/// The files of this process.
pub(super) struct Spool {
    files: [(fs::File, PathBuf); 2],
    current: usize,
}

impl Spool {
    /// Makes them.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn make(dir: &Path, run: &str) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let make = |name: &str| {
            let path = dir.join(format!("{run}-{name}"));
            let mut options = fs::OpenOptions::new();
            let file = options.append(true).create_new(true).mode(0o600).open(&path)?;
            file.lock()?;
            io::Result::Ok((file, path))
        };
        Ok(Self {
            files: [make("a")?, make("b")?],
            current: 0,
        })
    }

    /// Writes a row with its line's end.
    pub(super) fn write(&mut self, row: &[u8]) -> io::Result<()> {
        self.files[self.current].0.write_all(row)
    }

    /// The next rows go to the other file. What was written so far is in the one that is returned.
    pub(super) fn turn(&mut self) -> usize {
        let full = self.current;
        self.current = 1 - full;
        full
    }

    /// Its rows are on the disk.
    pub(super) fn clear(&self, file: usize) -> io::Result<()> {
        self.files[file].0.set_len(0)
    }
}

/// What a process that is gone has left.
pub(super) struct Left {
    /// Rows that are on no disk, lines without numbers and hashes.
    pub(super) rows: Vec<u8>,
    files: Vec<(fs::File, PathBuf)>,
}

impl Left {
    /// Its rows are on the disk now.
    pub(super) fn remove(self) {
        for (_, path) in &self.files {
            if let Err(e) = fs::remove_file(path) {
                log::warn!("rows of the audit that are kept already lie in {}: {e}", path.display());
            }
        }
    }
}

#[derive(Deserialize)]
struct Numbered {
    run: String,
    n: u64,
}

/// What processes that are gone have left there, and what is in one's own files, but for what is on the disk already; none
/// where there is nothing.
///
/// # Errors
/// The operating system's.
pub(super) fn left(spool: &Path, audit: &Path, own: Option<&Spool>) -> io::Result<Option<Left>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(spool)? {
        let path = entry?.path();
        let file = match fs::OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let is_own = own.is_some_and(|own| own.files.iter().any(|(_, p)| *p == path));
        // Whoever lives holds it.
        if is_own || file.try_lock().is_ok() {
            files.push((file, path));
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    // In the order of their numbers: which of the two was written first is not known.
    let mut rows: BTreeMap<(String, u64), Vec<u8>> = BTreeMap::new();
    for (_, path) in &files {
        let bytes = fs::read(path)?;
        for line in bytes.split_inclusive(|b| *b == b'\n').filter(|l| l.ends_with(b"\n")) {
            if let Ok(Numbered { run, n }) = serde_json::from_slice(line) {
                rows.insert((run, n), line.to_vec());
            }
        }
    }
    for row in kept(audit, &rows)? {
        rows.remove(&row);
    }
    let rows = rows.into_values().flatten().collect();
    Ok(Some(Left { rows, files }))
}

/// Which of these rows are on the disk.
fn kept(audit: &Path, rows: &BTreeMap<(String, u64), Vec<u8>>) -> io::Result<Vec<(String, u64)>> {
    let mut kept = Vec::new();
    if rows.is_empty() {
        return Ok(kept);
    }
    // No more than that is ever under way.
    for segment in segments::list(audit)?.iter().rev().take(4) {
        let bytes = fs::read(segments::path(audit, segment.first))?;
        for line in bytes.split(|b| *b == b'\n') {
            if let Ok(Numbered { run, n }) = serde_json::from_slice(line) {
                kept.extend(Some((run, n)).filter(|row| rows.contains_key(row)));
            }
        }
    }
    Ok(kept)
}
