//! One receiver: which rows it has, and what keeps it from the others.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::cursor::Cursor;
use crate::{
    audit::{Audit, AuditError},
    model::{AuditKind, AuditOutcome, AuditRow},
    resolve::ResolveError,
    tls::TlsError,
};

/// A receiver that takes nothing for so long is given up, until the next try.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Why rows are not forwarded.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("{0}")]
    Resolve(#[from] ResolveError),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("{0}")]
    Certificates(#[from] TlsError),
    #[error(
        "it does not prove who it is: {0}; set ca_file in [audit.syslog] to the authority that signed its certificate"
    )]
    Identity(String),
    #[error("it closed the connection{0}")]
    Closed(String),
    #[error("it took nothing for {} s", PATIENCE.as_secs())]
    Slow,
    #[error("{0}")]
    File(io::Error),
    #[error("{0}")]
    Audit(#[from] AuditError),
    #[error("the audit is not read any further")]
    Ended,
}

/// One receiver.
pub(super) struct End {
    /// Which, for people: `syslog logs.example.org:6514`.
    pub(super) to: String,
    pub(super) audit: Audit,
    pub(super) cursor: Cursor,
    /// The newest row that was sent.
    pub(super) sent: AtomicU64,
    /// Rows that the box had removed before they were sent.
    pub(super) lost: AtomicU64,
    pub(super) trouble: Mutex<Option<String>>,
}

/// True when it is time to end.
pub(super) type Stop = watch::Receiver<bool>;

impl End {
    pub(super) fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fails(&self, why: &ForwardError) {
        let why = why.to_string();
        let before = self.trouble().replace(why.clone());
        if before.as_ref() != Some(&why) {
            log::warn!(
                "rows of the audit are not forwarded to {}: {why}; they wait on the disk",
                self.to
            );
        }
    }

    pub(super) fn goes_well(&self) {
        if self.trouble().take().is_some() {
            log::info!("rows of the audit are forwarded to {} again", self.to);
        }
    }

    /// Tells of rows that are sent after another one than the one before them.
    pub(super) fn goes_on_with(&self, seq: u64) {
        let sent = self.sent.swap(seq, Relaxed);
        let lost = seq.saturating_sub(sent + 1);
        if lost == 0 {
            return;
        }
        self.lost.fetch_add(lost, Relaxed);
        // They are not missed once more over the next connection.
        self.cursor.moves(seq - 1, false);
        let said = format!(
            "{lost} rows were removed by age or size before {} had taken them",
            self.to
        );
        log::error!("audit: {said}");
        let mut row = AuditRow::new(jiff::Timestamp::now(), AuditKind::Box, AuditOutcome::Broken);
        row.by = Some("berth".into());
        row.action = Some("forward".into());
        row.omitted = Some(lost);
        row.note = Some(said.into());
        self.audit.append(&row);
    }

    /// The receiver has all rows up to that one. Goes to the disk every now and then, or `now`.
    pub(super) async fn has(self: &Arc<Self>, seq: u64, now: bool) {
        if self.cursor.moves(seq, now) {
            let end = Arc::clone(self);
            let saved = tokio::task::spawn_blocking(move || end.cursor.save()).await;
            if let Ok(Err(e)) = saved {
                log::warn!("it is not noted down which rows of the audit {} has: {e}", self.to);
            }
        }
    }
}
