//! The thread that brings rows to the disk, and removes old ones.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    segments::Segments,
    shared::{OnFull, Progress, Ring, Settings, Shared, lock},
    spool,
};
use crate::model::{AuditKind, AuditOutcome, AuditRow};

/// Rows wait so long for others to go with them.
const LINGER: Duration = Duration::from_millis(250);
/// So many bytes of them do not wait.
const BATCH: usize = 1 << 20;
/// A disk that takes none is tried again so often.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked for rows that are too old, and for what others have left.
const TEND: Duration = Duration::from_secs(10);

/// Rows on their way to the disk.
struct Batch {
    rows: Vec<u8>,
    /// The file of the spool that has them, too.
    file: usize,
    /// The newest of them.
    n: u64,
    closing: bool,
}

pub(super) fn work(shared: &Arc<Shared>, mut segments: Segments) {
    let mut tend_at = Instant::now();
    loop {
        if Instant::now() >= tend_at {
            tend(shared, &mut segments);
            tend_at = Instant::now() + TEND;
        }
        let Some(batch) = shared.take(tend_at) else { continue };
        let closing = batch.closing;
        let kept = shared.keep(&mut segments, batch);
        if !kept || closing && shared.is_over() {
            shared.end(&segments);
            return;
        }
    }
}

impl Shared {
    /// What waits, once it is worth to go; none when it is time to tend.
    fn take(&self, until: Instant) -> Option<Batch> {
        let mut ring = lock(&self.ring);
        let mut since = None;
        loop {
            let now = Instant::now();
            if ring.closing {
                break;
            }
            let wake_at = if ring.batch.is_empty() && !ring.urgent {
                until
            } else if ring.urgent || ring.batch.len() >= BATCH {
                break;
            } else {
                *since.get_or_insert(now) + LINGER
            };
            if now >= wake_at {
                if since.is_some() {
                    break;
                }
                return None;
            }
            let waited = self.wake.wait_timeout(ring, wake_at - now);
            ring = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        let Ring {
            spool, batch, spare, ..
        } = &mut *ring;
        let (file, rows) = (spool.turn(), std::mem::replace(batch, std::mem::take(spare)));
        ring.urgent = false;
        ring.under_way = rows.len();
        Some(Batch {
            rows,
            file,
            n: ring.n,
            closing: ring.closing,
        })
    }

    /// Brings rows to the disk, however long it takes. Only who is to end gives up (`false`): the spool has them for the next
    /// one, and nothing that comes after them may go to the disk before.
    fn keep(&self, segments: &mut Segments, mut batch: Batch) -> bool {
        while let Err(e) = segments.append(&batch.rows, Timestamp::now()) {
            let said = format!("the disk takes no rows of the audit: {e}");
            if !self.stuck.swap(true, Relaxed) {
                log::error!("{said}; {}", self.what_calls_do());
            }
            *lock(&self.trouble) = Some(said);
            if lock(&self.ring).closing {
                return false;
            }
            self.prune(segments);
            std::thread::sleep(AGAIN);
        }
        if let Err(e) = segments.note_head(&self.settings.key) {
            log::warn!("the newest row of the audit is not noted down: {e}");
        }
        let lost = {
            let mut ring = lock(&self.ring);
            if let Err(e) = ring.spool.clear(batch.file) {
                log::warn!("the spool of the audit is not cleared: {e}");
            }
            ring.under_way = 0;
            if batch.rows.capacity() <= 2 * BATCH {
                batch.rows.clear();
                ring.spare = batch.rows;
            }
            self.waiting.store(ring.batch.len(), Relaxed);
            ring.lost.take()
        };
        if self.stuck.swap(false, Relaxed) {
            *lock(&self.trouble) = None;
            log::info!("the disk takes rows of the audit again");
        }
        if let Some((lost, since)) = lost {
            let mut row = AuditRow::new(Timestamp::now(), AuditKind::Box, AuditOutcome::Broken);
            row.by = Some("berth".into());
            row.action = Some("lost".into());
            row.omitted = Some(lost);
            row.note = Some(format!("the disk took no rows; the first was lost at {since}").into());
            self.append(&serde_json::to_vec(&row).unwrap_or_default(), true);
        }
        self.progress.send_modify(|p| {
            *p = Progress {
                head: segments.head(),
                done: batch.n,
                bytes: segments.bytes(),
                ..*p
            };
        });
        true
    }

    fn what_calls_do(&self) -> &'static str {
        match self.settings.on_full {
            OnFull::GoOn => "calls go on, and rows wait",
            OnFull::Refuse => "calls are refused until it does",
        }
    }

    /// Whether nothing waits any more, at the end. From then on rows go to the spool alone.
    fn is_over(&self) -> bool {
        let mut ring = lock(&self.ring);
        ring.closed = ring.batch.is_empty();
        ring.closed
    }

    /// Gives the folder up.
    fn end(&self, segments: &Segments) {
        lock(&self.ring).closed = true;
        segments.unlock();
        self.progress.send_modify(|p| {
            *p = Progress {
                head: segments.head(),
                closed: true,
                ..*p
            };
        });
    }

    fn prune(&self, segments: &mut Segments) -> u64 {
        let Ok(_whole) = self.whole.try_lock() else { return 0 };
        let Settings { key, retain, most, .. } = &self.settings;
        segments
            .prune(key, (*retain, *most), Timestamp::now())
            .unwrap_or_else(|e| {
                log::warn!("old rows of the audit are not removed: {e}");
                0
            })
    }
}

/// Removes what is too old, takes over what others have left, and tells what was not a row of its own.
fn tend(shared: &Arc<Shared>, segments: &mut Segments) {
    let removed = shared.prune(segments);
    if removed > 0 {
        let said = format!("{removed} rows were removed by age or size; the checkpoint says where they begin now");
        shared.note("prune", AuditOutcome::Ok, said);
    }
    if let Err(e) = adopt(shared, segments) {
        log::warn!("what an earlier supervisor has left of the audit is not taken over: {e}");
    }
    let omitted = {
        let ring = &mut *lock(&shared.ring);
        std::mem::take(&mut ring.strangers.omitted) + std::mem::take(&mut ring.known.omitted)
    };
    if omitted > 0 {
        let mut row = AuditRow::new(Timestamp::now(), AuditKind::Box, AuditOutcome::Refused);
        row.by = Some("nobody".into());
        row.action = Some("omit".into());
        row.note = Some("refusals that come too fast are counted only".into());
        row.omitted = Some(omitted);
        shared.append_row(&row);
    }
}

fn adopt(shared: &Shared, segments: &mut Segments) -> io::Result<()> {
    let Settings { dir, spool, .. } = &shared.settings;
    if let Some(left) = spool::left(spool, dir, None)? {
        segments.append(&left.rows, Timestamp::now())?;
        segments.note_head(&shared.settings.key)?;
        left.remove();
        shared.progress.send_modify(|p| p.head = segments.head());
    }
    Ok(())
}

/// What came after the end of the thread.
pub(super) fn finish(shared: &Shared) -> io::Result<()> {
    let Settings {
        dir,
        spool,
        box_id,
        key,
        ..
    } = &shared.settings;
    // Held until the end: what is written from here on is nobody's any more.
    let ring = lock(&shared.ring);
    let Some((mut segments, _)) = Segments::open_if_free(dir, box_id, key)? else {
        return Ok(());
    };
    if let Some(left) = spool::left(spool, dir, Some(&ring.spool))? {
        segments.append(&left.rows, Timestamp::now())?;
        segments.note_head(key)?;
        left.remove();
    }
    segments.unlock();
    Ok(())
}
