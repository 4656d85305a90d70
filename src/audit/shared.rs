//! What all parts of the audit share: the settings, the rows that wait, and how far the disk is.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::{
    chain::Head,
    segments::{self, Checked, Segments},
    spool::{Spool, WAITING},
};
use crate::{
    model::{AuditFault, AuditHead, AuditKind, AuditOutcome, AuditRow, AuditStatus, AuditVerified, BoxId, hex},
    secret::BoxKey,
};

/// How long somebody waits who wants all rows of before to be on the disk.
pub(super) const FLUSH: Duration = Duration::from_secs(5);
/// Refusals cost whoever causes them nothing, and must not push the rows of others out: so many rows a second for those of
/// who has shown no right token, and so many at once; and for those of everybody else together. The rest is counted.
const STRANGERS: (f64, f64) = (1.0, 200.0);
const KNOWN: (f64, f64) = (10.0, 1000.0);

/// What calls do when the disk takes no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// They go on; rows wait, and past [`WAITING`] they are lost and counted.
    GoOn,
    /// They are refused until it takes rows again.
    Refuse,
}

/// Where rows are kept, and for how long.
pub struct Settings {
    /// The folder of rows.
    pub dir: PathBuf,
    /// The folder of rows that are not on the disk yet; it should not be on one.
    pub spool: PathBuf,
    pub box_id: BoxId,
    /// Signs.
    pub key: Arc<BoxKey>,
    /// Rows that are older are removed.
    pub retain: SignedDuration,
    /// So many bytes are kept at most.
    pub most: u64,
    pub on_full: OnFull,
}

/// Why the audit cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the audit in {dir} cannot be used: {source}")]
pub struct AuditError {
    pub(super) dir: PathBuf,
    pub(super) source: io::Error,
}

/// How far the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) head: Head,
    /// All rows of this run up to that one are on the disk, or lost.
    pub(super) done: u64,
    pub(super) bytes: u64,
    pub(super) closed: bool,
}

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) run: String,
    pub(super) ring: Mutex<Ring>,
    /// Rows have come, or somebody is in a hurry.
    pub(super) wake: Condvar,
    pub(super) progress: watch::Sender<Progress>,
    /// The disk takes none.
    pub(super) stuck: AtomicBool,
    /// Bytes that wait for the disk.
    pub(super) waiting: AtomicUsize,
    pub(super) trouble: Mutex<Option<String>>,
    pub(super) lost: AtomicU64,
    /// Held while old rows are removed, and while all are verified.
    pub(super) whole: Mutex<()>,
}

/// What waits for the disk.
pub(super) struct Ring {
    pub(super) spool: Spool,
    /// Rows, lines without numbers and hashes.
    pub(super) batch: Vec<u8>,
    /// The memory of an earlier batch, for the next one.
    pub(super) spare: Vec<u8>,
    /// Bytes that are on their way to the disk.
    pub(super) under_way: usize,
    pub(super) n: u64,
    /// Rows that were lost and not told of yet, and since when.
    pub(super) lost: Option<(u64, Timestamp)>,
    pub(super) urgent: bool,
    pub(super) closing: bool,
    pub(super) closed: bool,
    pub(super) strangers: Bucket,
    pub(super) known: Bucket,
}

/// A bucket of rows for refusals.
pub(super) struct Bucket {
    pub(super) per_second: f64,
    pub(super) at_once: f64,
    pub(super) left: f64,
    pub(super) at: Instant,
    pub(super) omitted: u64,
}

impl Bucket {
    fn of((per_second, at_once): (f64, f64)) -> Self {
        Self {
            per_second,
            at_once,
            left: at_once,
            at: Instant::now(),
            omitted: 0,
        }
    }

    pub(super) fn may(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.at_once);
        self.at = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever is locked here is whole between any two of its statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// With nothing that waits, on what the disk has.
    pub(super) fn new(settings: Settings, segments: &Segments) -> io::Result<Shared> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let run = hex(&random);
        let spool = Spool::make(&settings.spool, &run)?;
        let progress = Progress {
            head: segments.head(),
            done: 0,
            bytes: segments.bytes(),
            closed: false,
        };
        Ok(Shared {
            settings,
            run,
            ring: Mutex::new(Ring {
                spool,
                batch: Vec::new(),
                spare: Vec::new(),
                under_way: 0,
                n: 0,
                lost: None,
                urgent: false,
                closing: false,
                closed: false,
                strangers: Bucket::of(STRANGERS),
                known: Bucket::of(KNOWN),
            }),
            wake: Condvar::new(),
            progress: watch::Sender::new(progress),
            stuck: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            trouble: Mutex::default(),
            lost: AtomicU64::new(0),
            whole: Mutex::default(),
        })
    }

    /// Appends a row; it is with the kernel when this returns. Its number in this run.
    pub(super) fn append_row(&self, row: &AuditRow<'_>) -> u64 {
        let mut text = Vec::with_capacity(1024);
        // Writing to memory does not fail, and no field of a row can be none of JSON.
        let _ = serde_json::to_writer(&mut text, row);
        self.append(&text, false)
    }

    /// Appends a row about the box itself.
    pub(super) fn note(&self, action: &str, outcome: AuditOutcome, said: String) {
        let mut row = AuditRow::new(Timestamp::now(), AuditKind::Box, outcome);
        row.by = Some("berth".into());
        row.action = Some(action.into());
        row.note = Some(said.into()).filter(|n: &std::borrow::Cow<'_, str>| !n.is_empty());
        self.append_row(&row);
    }

    /// How it is.
    pub(super) fn status(&self) -> AuditStatus {
        let progress = *self.progress.borrow();
        let n = lock(&self.ring).n;
        AuditStatus {
            head: progress.head.into(),
            bytes: progress.bytes,
            waiting: n.saturating_sub(progress.done),
            lost: self.lost.load(Relaxed),
            trouble: lock(&self.trouble).clone(),
        }
    }

    /// Waits until all rows of before are on the disk. False: it takes none, or takes too long.
    pub(super) async fn flush(&self) -> bool {
        let mut progress = self.progress.subscribe();
        let n = self.hurry();
        let done = tokio::time::timeout(FLUSH, progress.wait_for(|p| p.done >= n || p.closed)).await;
        matches!(done, Ok(Ok(p)) if p.done >= n)
    }

    /// `must`: also where too much waits already.
    pub(super) fn append(&self, text: &[u8], must: bool) -> u64 {
        let ring = &mut *lock(&self.ring);
        ring.n += 1;
        let n = ring.n;
        if !must && ring.batch.len() + ring.under_way + text.len() > WAITING {
            let (lost, _) = ring.lost.get_or_insert((0, Timestamp::now()));
            *lost += 1;
            self.lost.fetch_add(1, Relaxed);
            return n;
        }
        let begin = ring.batch.len();
        let batch = &mut ring.batch;
        batch.extend_from_slice(b"{\"run\":\"");
        batch.extend_from_slice(self.run.as_bytes());
        batch.extend_from_slice(b"\",\"n\":");
        batch.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
        batch.push(b',');
        batch.extend_from_slice(&text[1..]);
        batch.push(b'\n');
        if let Err(e) = ring.spool.write(&batch[begin..]) {
            // It is in memory, and on the disk within a second.
            log::error!("a row of the audit could not be written to its spool: {e}");
        }
        self.waiting.store(ring.batch.len() + ring.under_way, Relaxed);
        if ring.closed {
            ring.batch.clear();
        } else if begin == 0 {
            self.wake.notify_all();
        }
        n
    }

    /// What waits goes to the disk now. The number of the newest row.
    pub(super) fn hurry(&self) -> u64 {
        let mut ring = lock(&self.ring);
        ring.urgent = true;
        self.wake.notify_all();
        ring.n
    }

    pub(super) fn verify(&self) -> io::Result<AuditVerified> {
        // Nothing is removed meanwhile, and what is appended meanwhile is not looked at.
        let _whole = lock(&self.whole);
        let newest = self.progress.borrow().head;
        let Settings { dir, box_id, key, .. } = &self.settings;
        let checked = segments::verify(dir, box_id, key.public_key(), Some(newest))?;
        let Checked { base, head, wrong } = checked;
        Ok(AuditVerified {
            rows: head.seq - base.seq,
            first: base.seq + 1,
            head: head.into(),
            fault: wrong.map(|(row, what)| AuditFault { row, what }),
        })
    }
}

impl From<Head> for AuditHead {
    fn from(head: Head) -> Self {
        Self {
            seq: head.seq,
            hash: head.hash.to_string(),
        }
    }
}
