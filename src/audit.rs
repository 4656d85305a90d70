//! F2: the audit: who asked what of the box, and what came of it. Rows are appended, never changed; each is chained to the
//! one before by its hash. Never holds what was sent or answered, never waits for a disk on the way of a call.
//!
//! ```text
//! edge, ledger, admin ── append ──► spool (a tmpfs) ── 250 ms ──► thread `audit`: chain, write, fsync ──► segments
//!                                   kill -9 loses none                                                     │
//!                                 berth audit, metering ◄──────────────────────────────────────────────────┘
//! ```
//!
//! A row that was appended is with the kernel when [`Audit::append`] returns, so that the supervisor can be killed, and on
//! the disk within a second, so that a power cut loses that second at most; `n` of the rows, and that a start follows on no
//! stop, show it. When the disk takes none, rows wait in memory and in the spool, up to [`WAITING`] bytes.
//!
//! The folder `audit` of the state holds `{first row}.jsonl`, `head` (the newest row, signed) and `checkpoint` (the newest
//! row that was removed for its age, signed).

mod chain;
mod notes;
mod read;
mod segments;
mod shared;
mod spool;
mod writer;

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use crate::model::{AuditOutcome, AuditRow, AuditStatus, AuditVerified};

use segments::{Found, Segments};
use shared::{FLUSH, Shared, lock};

pub use read::{MAX_TAIL, Query, Reading, Sees};
pub use shared::{AuditError, OnFull, Settings};
pub use spool::WAITING;

/// The way to the audit, for everybody. Cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Shared>);

impl Audit {
    /// Opens the audit, takes over what a supervisor that was killed has left, and starts the thread that writes.
    ///
    /// # Errors
    /// [`AuditError`]: the folder cannot be read, or the spool not be made.
    pub fn open(settings: Settings) -> Result<Audit, AuditError> {
        let dir = settings.dir.clone();
        Self::start(settings).map_err(|source| AuditError { dir, source })
    }

    fn start(settings: Settings) -> io::Result<Audit> {
        let (segments, found) = Segments::open(&settings.dir, &settings.box_id, &settings.key)?;
        let audit = Audit(Arc::new(Shared::new(settings, &segments)?));
        for found in found {
            let said = match found {
                Found::Torn(bytes) => format!("a power cut left {bytes} bytes of a row that was being written"),
                Found::Missing(rows) => format!("the newest {rows} rows are missing"),
                Found::Changed(row) => format!("row {row}, the newest that was noted down, is another one now"),
                Found::NoHead => "the note of the newest row is missing, or not signed by this box's key".to_owned(),
            };
            log::error!("audit: {said}");
            audit.note("found", AuditOutcome::Broken, said);
        }
        let shared = Arc::clone(&audit.0);
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer::work(&shared, segments))?;
        Ok(audit)
    }

    /// Appends a row; it is with the kernel when this returns. Its number in this run.
    pub fn append(&self, row: &AuditRow<'_>) -> u64 {
        self.0.append_row(row)
    }

    /// Appends a row about the box itself.
    pub fn note(&self, action: &str, outcome: AuditOutcome, said: String) {
        self.0.note(action, outcome, said);
    }

    /// How it is.
    pub fn status(&self) -> AuditStatus {
        self.0.status()
    }

    /// Waits until all rows of before are on the disk. False: it takes none, or takes too long.
    pub async fn flush(&self) -> bool {
        self.0.flush().await
    }

    /// The same for a refusal at a door. Past a bound they are counted only: `known` says whether a right token was shown.
    pub fn append_refusal(&self, mut row: AuditRow<'_>, known: bool) {
        let omitted = {
            let ring = &mut *lock(&self.0.ring);
            let bucket = match known {
                true => &mut ring.known,
                false => &mut ring.strangers,
            };
            if !bucket.may(Instant::now()) {
                bucket.omitted += 1;
                return;
            }
            std::mem::take(&mut bucket.omitted)
        };
        row.omitted = Some(omitted).filter(|n| *n > 0);
        self.append(&row);
    }

    /// Whether calls are to be refused: the disk takes no rows, and the settings say so.
    pub fn refuses(&self) -> bool {
        let full = || self.0.waiting.load(Relaxed) > WAITING / 2;
        self.0.settings.on_full == OnFull::Refuse && (self.0.stuck.load(Relaxed) || full())
    }

    /// Reads rows that a query names, of those that whoever asks `sees`.
    pub fn read(&self, query: Query, sees: Sees) -> Reading {
        read::start(Arc::clone(&self.0), query, Some(sees))
    }

    /// Reads all rows after that one, and those that come.
    pub fn follow(&self, after: u64) -> Reading {
        let query = Query {
            after: Some(after),
            follow: true,
            ..Query::default()
        };
        read::start(Arc::clone(&self.0), query, None)
    }

    /// Verifies every row that is kept. Takes about a second for a million rows.
    ///
    /// # Errors
    /// [`AuditError`]: the rows cannot be read.
    pub async fn verify(&self) -> Result<AuditVerified, AuditError> {
        let shared = Arc::clone(&self.0);
        let verified = tokio::task::spawn_blocking(move || shared.verify()).await;
        let verified = verified.unwrap_or_else(|e| Err(io::Error::other(e)));
        verified.map_err(|source| AuditError {
            dir: self.0.settings.dir.clone(),
            source,
        })
    }

    /// Brings what waits to the disk and gives the folder up to the next supervisor. Rows that come later are left to it in
    /// the spool.
    pub async fn close(&self) {
        let mut progress = self.0.progress.subscribe();
        lock(&self.0.ring).closing = true;
        self.0.wake.notify_all();
        if tokio::time::timeout(FLUSH, progress.wait_for(|p| p.closed))
            .await
            .is_err()
        {
            log::error!(
                "the disk does not take the newest rows of the audit: they wait in the spool for the next start"
            );
        }
    }
}

impl Audit {
    /// Brings rows that came after [`Audit::close`] to the disk, where no other supervisor has taken the folder over: that one
    /// finds them in the spool. The last thing that a supervisor does.
    pub async fn finish(&self) {
        let shared = Arc::clone(&self.0);
        let finished = tokio::task::spawn_blocking(move || writer::finish(&shared)).await;
        if let Ok(Err(e)) = finished {
            log::error!("the last rows of the audit wait in the spool for the next start: {e}");
        }
    }
}

#[cfg(test)]
mod tests;
