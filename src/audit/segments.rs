//! The rows on disk: files of JSON Lines in one folder, named by their first row. They are only ever appended to; the oldest
//! are removed whole.

use std::{
    collections::VecDeque,
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::{
    chain::{Broken, Head},
    notes::{Note, Read},
};
use crate::{model::BoxId, secret::BoxKey};

/// A file takes no more rows from this size on, in bytes, or from this age on.
const FULL: u64 = 16 << 20;
const OLD: SignedDuration = SignedDuration::from_hours(24);
/// Where what a power cut left of a row is put.
const TORN: &str = "torn";

/// A file of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its first row.
    pub(super) first: u64,
    pub(super) bytes: u64,
}

/// Its file.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016}.jsonl"))
}

/// The files there are, oldest first.
pub(super) fn list(dir: &Path) -> io::Result<VecDeque<Segment>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(first) = name.to_str().and_then(|n| n.strip_suffix(".jsonl")) else {
            continue;
        };
        if let Ok(first) = first.parse() {
            let bytes = entry.metadata()?.len();
            all.push(Segment { first, bytes });
        }
    }
    all.sort_by_key(|s| s.first);
    Ok(all.into())
}

/// When a row was written, by its line: its time is when it began.
pub(super) fn time(line: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Row {
        time: Timestamp,
        #[serde(default)]
        latency_us: u64,
    }
    let row = serde_json::from_slice::<Row>(line).ok()?;
    let took = SignedDuration::from_micros(i64::try_from(row.latency_us).ok()?);
    row.time.checked_add(took).ok()
}

/// Whether a row is there, with that hash; or is not kept any more, `base` being the last that is not.
fn is_there(dir: &Path, row: &Head, base: &Head) -> io::Result<bool> {
    if row.seq <= base.seq {
        return Ok(row.seq < base.seq || row.hash == base.hash);
    }
    let files = list(dir)?;
    let Some(file) = files.iter().rev().find(|s| s.first <= row.seq) else {
        return Ok(false);
    };
    let bytes = fs::read(path(dir, file.first))?;
    let mut lines = bytes.split(|b| *b == b'\n').filter_map(Head::of_line);
    Ok(lines.any(|line| line == *row))
}

/// The rows of this box, and where the next one goes.
pub(super) struct Segments {
    dir: PathBuf,
    box_id: BoxId,
    head: Head,
    past: VecDeque<Segment>,
    current: Option<Current>,
    /// Whoever holds it appends, and nobody else.
    lock: fs::File,
}

/// A supervisor that ends gives the folder up in this time, or something is wrong with it.
const PATIENCE: Duration = Duration::from_secs(15);

struct Current {
    file: fs::File,
    segment: Segment,
    /// When its first row was written.
    since: Timestamp,
}

/// What was found at the opening that must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A power cut left a part of a row, of so many bytes.
    Torn(usize),
    /// The newest rows are missing: the note of the newest one says that there were so many more.
    Missing(u64),
    /// The newest row that was noted down is another one.
    Changed(u64),
    /// The note of the newest row is not the box's, or not there although there are rows.
    NoHead,
}

impl Segments {
    /// Opens the folder, and makes it where there is none.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn open(dir: &Path, box_id: &BoxId, key: &BoxKey) -> io::Result<(Self, Vec<Found>)> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(opened) = Self::open_if_free(dir, box_id, key)? {
                return Ok(opened);
            }
            if Instant::now() > until {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another supervisor writes to it",
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The same; none where another supervisor has it.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn open_if_free(dir: &Path, box_id: &BoxId, key: &BoxKey) -> io::Result<Option<(Self, Vec<Found>)>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut options = fs::OpenOptions::new();
        let lock = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(e)) => return Err(e),
        }
        let mut past = list(dir)?;
        let mut found = Vec::new();
        let base = match Note::Checkpoint.read(dir, box_id, key.public_key())? {
            Read::Is(head) => head,
            // Verification tells of a wrong one.
            Read::None | Read::Wrong => Head::empty(box_id),
        };
        let mut head = base;
        let mut current = None;
        while let Some(mut segment) = past.pop_back() {
            let at = path(dir, segment.first);
            let bytes = fs::read(&at)?;
            let (kept, newest) = whole(&bytes);
            if kept < bytes.len() {
                found.push(Found::Torn(bytes.len() - kept));
                // For whoever wants to see it; a full disk is no reason not to start.
                let _ = fs::write(dir.join(TORN), &bytes[kept..]);
                fs::OpenOptions::new().write(true).open(&at)?.set_len(kept as u64)?;
                segment.bytes = kept as u64;
            }
            let Some(newest) = newest else {
                // The first row of a new file, of which nothing came to the disk.
                fs::remove_file(&at)?;
                continue;
            };
            head = newest;
            let first = bytes.split(|b| *b == b'\n').next();
            current = Some(Current {
                file: fs::OpenOptions::new().append(true).open(&at)?,
                segment,
                since: first.and_then(time).unwrap_or(Timestamp::UNIX_EPOCH),
            });
            break;
        }
        match Note::Head.read(dir, box_id, key.public_key())? {
            // The next row gets the number that it would have had: what is missing is missed for good.
            Read::Is(noted) if noted.seq > head.seq => {
                found.push(Found::Missing(noted.seq - head.seq));
                head = noted;
            }
            Read::Is(noted) if !is_there(dir, &noted, &base)? => found.push(Found::Changed(noted.seq)),
            Read::Is(_) => {}
            Read::None if head == base => {}
            Read::None | Read::Wrong => found.push(Found::NoHead),
        }
        let opened = Self {
            dir: dir.to_owned(),
            box_id: box_id.clone(),
            head,
            past,
            current,
            lock,
        };
        Ok(Some((opened, found)))
    }

    /// Gives the folder up.
    pub(super) fn unlock(&self) {
        let _ = self.lock.unlock();
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// Bytes of all rows.
    pub(super) fn bytes(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |c| c.segment.bytes);
        self.past.iter().map(|s| s.bytes).sum::<u64>() + current
    }

    /// Chains rows (lines without numbers and hashes) and appends them; they are on the disk when this returns. Their lines.
    ///
    /// # Errors
    /// The operating system's; no row is there then.
    pub(super) fn append(&mut self, rows: &[u8], now: Timestamp) -> io::Result<Vec<u8>> {
        let mut head = self.head;
        let mut lines = Vec::with_capacity(rows.len() + rows.len() / 4);
        for row in rows.split(|b| *b == b'\n').filter(|r| r.len() > 2) {
            head.chain(row, &mut lines);
        }
        if lines.is_empty() {
            return Ok(lines);
        }
        let current = match self.current.take_if(|c| c.is_over(now)) {
            Some(over) => {
                self.past.push_back(over.segment);
                None
            }
            None => self.current.as_mut(),
        };
        let current = match current {
            Some(current) => current,
            None => {
                let made = Current::make(&self.dir, self.head.seq + 1, now)?;
                self.current.insert(made)
            }
        };
        let before = current.segment.bytes;
        let written = current.file.write_all(&lines).and_then(|()| current.file.sync_data());
        if let Err(e) = written {
            // A part of it may be there.
            current.file.set_len(before)?;
            return Err(e);
        }
        current.segment.bytes += lines.len() as u64;
        self.head = head;
        Ok(lines)
    }

    /// Notes down which row is the newest.
    pub(super) fn note_head(&self, key: &BoxKey) -> io::Result<()> {
        Note::Head.write(&self.dir, &self.box_id, key, &self.head, false)
    }

    /// Removes the oldest files: whose rows are all older than `retain`, and until no more than `most` bytes are left. A
    /// signed checkpoint says where the rows begin from then on. How many rows were removed.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn prune(
        &mut self,
        key: &BoxKey,
        (retain, most): (SignedDuration, u64),
        now: Timestamp,
    ) -> io::Result<u64> {
        let mut removed = 0;
        while let Some(oldest) = self.past.front().copied() {
            let next = self.past.get(1).or(self.current.as_ref().map(|c| &c.segment));
            let Some(next) = next.map(|s| s.first) else { break };
            let too_much = self.bytes() > most;
            if !too_much && self.began(next).is_none_or(|at| now.duration_since(at) <= retain) {
                break;
            }
            let bytes = fs::read(path(&self.dir, oldest.first))?;
            let last = bytes.rsplit(|b| *b == b'\n').find(|l| !l.is_empty());
            if let Some(last) = last.and_then(Head::of_line) {
                Note::Checkpoint.write(&self.dir, &self.box_id, key, &last, true)?;
            }
            fs::remove_file(path(&self.dir, oldest.first))?;
            self.past.pop_front();
            removed += next - oldest.first;
        }
        Ok(removed)
    }

    /// When the first row of a file was written.
    fn began(&self, first: u64) -> Option<Timestamp> {
        if let Some(current) = self.current.as_ref().filter(|c| c.segment.first == first) {
            return Some(current.since);
        }
        let file = fs::File::open(path(&self.dir, first)).ok()?;
        let mut line = Vec::new();
        io::BufRead::read_until(&mut io::BufReader::new(file), b'\n', &mut line).ok()?;
        time(line.trim_ascii_end())
    }
}

impl Current {
    fn make(dir: &Path, first: u64, now: Timestamp) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path(dir, first))?;
        // One that a disk took no row into may be there.
        file.set_len(0)?;
        fs::File::open(dir)?.sync_all()?;
        Ok(Self {
            file,
            segment: Segment { first, bytes: 0 },
            since: now,
        })
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.segment.bytes >= FULL || now.duration_since(self.since) > OLD
    }
}

/// How many bytes at the beginning of a file are whole rows, and the last of them. What was changed by hand counts as whole:
/// a power cut leaves nothing that looks like a row behind one that does not.
fn whole(bytes: &[u8]) -> (usize, Option<Head>) {
    let (mut kept, mut newest) = (0, None);
    let mut at = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        at += line.len();
        if let Some(head) = line.strip_suffix(b"\n").and_then(Head::of_line) {
            (kept, newest) = (at, Some(head));
        }
    }
    (kept, newest)
}

/// How rows are.
pub(super) struct Checked {
    /// What the first kept row follows on.
    pub(super) base: Head,
    /// The last row that is as it was written.
    pub(super) head: Head,
    /// The first that is not.
    pub(super) wrong: Option<(u64, Wrong)>,
}

/// Verifies rows from the first kept one on; `newest` is the newest that there must be.
///
/// # Errors
/// The operating system's.
pub(super) fn verify(dir: &Path, box_id: &BoxId, key: &[u8], newest: Option<Head>) -> io::Result<Checked> {
    let base = match Note::Checkpoint.read(dir, box_id, key)? {
        Read::None => Head::empty(box_id),
        Read::Is(head) => head,
        Read::Wrong => {
            let first = list(dir)?.front().map_or(1, |s| s.first);
            let head = Head::empty(box_id);
            let wrong = Some((first, Wrong::Checkpoint));
            return Ok(Checked {
                base: head,
                head,
                wrong,
            });
        }
    };
    let mut head = base;
    let fault = |head: &Head, wrong| Some((head.seq + 1, wrong));
    for segment in list(dir)? {
        // Left over by a prune that was interrupted.
        if segment.first <= base.seq {
            continue;
        }
        let bytes = match fs::read(path(dir, segment.first)) {
            Ok(bytes) => bytes,
            // Pruned meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound && head == base => continue,
            Err(e) => return Err(e),
        };
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            // What is being written.
            if newest.is_some_and(|n| head.seq >= n.seq) {
                break;
            }
            let followed = line
                .strip_suffix(b"\n")
                .map_or(Err(Broken::Changed), |l| head.follow(l));
            if let Err(why) = followed {
                let wrong = match why {
                    Broken::Changed => Wrong::Changed,
                    Broken::Missing => Wrong::Missing,
                };
                let wrong = fault(&head, wrong);
                return Ok(Checked { base, head, wrong });
            }
        }
    }
    let end = match newest {
        Some(newest) => Read::Is(newest),
        None => Note::Head.read(dir, box_id, key)?,
    };
    let wrong = match end {
        Read::Is(newest) if newest.seq > head.seq => fault(&head, Wrong::Truncated),
        Read::Is(newest) if newest.seq == head.seq && newest.hash != head.hash => Some((head.seq, Wrong::Changed)),
        Read::Is(_) => None,
        Read::None if head.seq == 0 => None,
        Read::None | Read::Wrong => Some((head.seq, Wrong::Head)),
    };
    Ok(Checked { base, head, wrong })
}

/// What is wrong with a row, as [`crate::model::AuditFaultKind`] names it.
pub(super) type Wrong = crate::model::AuditFaultKind;
