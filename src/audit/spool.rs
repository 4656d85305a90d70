//! Rows that are not on the disk yet, in files of a folder that outlives the process but not the machine (a tmpfs): written
//! before the answer leaves, and never waiting for a disk. A supervisor that was killed leaves them to the next one.
//!
//! Each process has two files and a lock on both: rows are written to one while those of the other are on their way to the
//! disk. The files are mapped: a row is there once it is copied, without a system call on the way of a call.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{Ordering, compiler_fence},
};

use memmap2::{MmapMut, MmapOptions};
use nix::fcntl::{FallocateFlags, fallocate, posix_fallocate};
use serde::Deserialize;

use super::segments;

/// Rows that the disk takes none of wait in so many bytes at most.
pub const WAITING: usize = 32 << 20;

/// What a file begins with: how many bytes of rows follow (8 bytes, little-endian), zeros, and a line's end. Earlier versions
/// wrote none of it, and read over it.
const HEAD: usize = 16;
/// A file grows by so many bytes, and keeps so many when it is cleared.
const STEP: usize = 1 << 20;
/// No file has more bytes: all rows that may wait, and one row of the longest.
const MOST: usize = WAITING + 2 * STEP;

/// The files of this process.
pub(super) struct Spool {
    files: [Mapped; 2],
    current: usize,
}

/// A file of rows.
struct Mapped {
    file: fs::File,
    path: PathBuf,
    map: MmapMut,
    /// Bytes of rows.
    len: usize,
    /// So many bytes of the file are there: what is mapped behind them must not be touched.
    there: usize,
}

impl Mapped {
    fn make(path: PathBuf) -> io::Result<Mapped> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path)?;
        file.lock()?;
        // SAFETY: the file is this process's own, and locked. Others read it when this process is gone, or by the system calls
        // of `left`; nobody shortens it but `clear`, which knows what is touched.
        #[allow(unsafe_code)]
        let map = unsafe { MmapOptions::new().len(MOST).map_mut(&file)? };
        let mut mapped = Self {
            file,
            path,
            map,
            len: 0,
            there: 0,
        };
        mapped.grow(HEAD)?;
        mapped.map[HEAD - 1] = b'\n';
        Ok(mapped)
    }

    /// Makes sure that so many bytes of the file are there. Where there is no room for them, an access would be the end of this
    /// process; so they are taken before.
    fn grow(&mut self, bytes: usize) -> io::Result<()> {
        if bytes > MOST {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        if bytes > self.there {
            let there = bytes.next_multiple_of(STEP).min(MOST);
            posix_fallocate(&self.file, 0, there as libc::off_t)?;
            self.there = there;
        }
        Ok(())
    }

    fn write(&mut self, row: &[u8]) -> io::Result<()> {
        let (from, to) = (HEAD + self.len, HEAD + self.len + row.len());
        self.grow(to)?;
        self.map[from..to].copy_from_slice(row);
        self.is_long(self.len + row.len());
        Ok(())
    }

    /// What comes before this in the program is in the file before: whoever reads it after a kill finds whole rows.
    fn is_long(&mut self, len: usize) {
        self.len = len;
        compiler_fence(Ordering::Release);
        self.map[..8].copy_from_slice(&(len as u64).to_le_bytes());
        compiler_fence(Ordering::Release);
    }

    /// Its rows are on the disk. The memory stays, for those that come, but for what a burst took.
    fn clear(&mut self) -> io::Result<()> {
        let written = HEAD..(HEAD + self.len).min(STEP);
        self.is_long(0);
        self.map[written].fill(0);
        if self.there > STEP {
            let behind = (self.there - STEP) as libc::off_t;
            self.there = STEP;
            let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(&self.file, hole, STEP as libc::off_t, behind)?;
        }
        Ok(())
    }
}

impl Spool {
    /// Makes them.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn make(dir: &Path, run: &str) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let make = |name: &str| Mapped::make(dir.join(format!("{run}-{name}")));
        Ok(Self {
            files: [make("a")?, make("b")?],
            current: 0,
        })
    }

    /// Writes a row with its line's end.
    pub(super) fn write(&mut self, row: &[u8]) -> io::Result<()> {
        self.files[self.current].write(row)
    }

    /// The next rows go to the other file. What was written so far is in the one that is returned.
    pub(super) fn turn(&mut self) -> usize {
        let full = self.current;
        self.current = 1 - full;
        full
    }

    /// Its rows are on the disk.
    pub(super) fn clear(&mut self, file: usize) -> io::Result<()> {
        self.files[file].clear()
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
        let is_own = own.is_some_and(|own| own.files.iter().any(|f| f.path == path));
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
    for (file, _) in &files {
        let bytes = rows_of(file)?;
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

/// The rows of a file, as text.
fn rows_of(mut file: &fs::File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.take(HEAD as u64).read_to_end(&mut head)?;
    let mut bytes = Vec::new();
    match head.first_chunk::<8>().map(|len| u64::from_le_bytes(*len)) {
        // The beginning of a line of text is a far greater number.
        Some(len) if len <= MOST as u64 => file.take(len).read_to_end(&mut bytes)?,
        _ => {
            bytes = head;
            file.read_to_end(&mut bytes)?
        }
    };
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &[u8] = br#"{"run":"aa","n":1,"time":"2026-11-29T00:00:00Z"}"#;

    fn line(n: u64, more: usize) -> Vec<u8> {
        let text = "x".repeat(more);
        format!("{{\"run\":\"aa\",\"n\":{n},\"text\":\"{text}\"}}\n").into_bytes()
    }

    /// What is found once the process is gone: its files, locked by nobody.
    fn found(spool: &Path) -> Vec<u8> {
        let gone = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(spool).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), gone.path().join(entry.file_name())).unwrap();
        }
        let audit = tempfile::tempdir().unwrap();
        left(gone.path(), audit.path(), None)
            .unwrap()
            .map_or_else(Vec::new, |left| left.rows)
    }

    #[test]
    fn each_row_is_in_a_file_until_it_is_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::make(dir.path(), "aa").unwrap();
        assert_eq!(found(dir.path()), b"");
        let (one, two, three) = (line(1, 0), line(2, 3 * STEP), line(3, 10));
        spool.write(&one).unwrap();
        spool.write(&two).unwrap();
        let full = spool.turn();
        spool.write(&three).unwrap();
        assert_eq!(found(dir.path()), [&one[..], &two, &three].concat());
        spool.clear(full).unwrap();
        assert_eq!(found(dir.path()), three);
        // What was in a cleared file before stays in none.
        let four = line(4, 0);
        spool.turn();
        spool.write(&four).unwrap();
        assert_eq!(found(dir.path()), [&three[..], &four].concat());
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::make(dir.path(), "aa").unwrap();
        let taken = || fs::metadata(dir.path().join("aa-a")).unwrap().blocks() * 512;
        let long = line(1, STEP);
        while spool.write(&long).is_ok() {}
        assert!(taken() > WAITING as u64, "all rows that may wait fit");
        spool.clear(0).unwrap();
        assert!(taken() <= 2 * STEP as u64, "{} bytes", taken());
        spool.write(&line(2, 2 * STEP)).unwrap();
        assert_eq!(found(dir.path()), line(2, 2 * STEP));
    }

    /// They had rows alone, as lines.
    #[test]
    fn files_of_earlier_versions_are_read_too() {
        let dir = tempfile::tempdir().unwrap();
        let whole = [FIRST, b"\n"].concat();
        fs::write(
            dir.path().join("aa-a"),
            [&whole[..], br#"{"run":"aa","n":2,"ti"#].concat(),
        )
        .unwrap();
        fs::write(dir.path().join("aa-b"), "").unwrap();
        assert_eq!(found(dir.path()), whole);
    }
}
