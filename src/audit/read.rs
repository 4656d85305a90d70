//! Reads rows: from the first that a query names, or the last so many, and those that come. Never reads a row that is being
//! written, never holds more than one piece of a file and what matches of it.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    chain,
    segments::{self, Segment},
    shared::{AuditError, Shared},
};
use crate::model::AuditRow;

/// Pieces that wait for a slow reader.
const QUEUE: usize = 8;
/// So many of the last rows at most.
pub const MAX_TAIL: usize = 10_000;
/// So much of a file is read at a time.
const PIECE: usize = 256 << 10;
/// A reader that takes nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which rows, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Those whose columns ([`AuditRow::COLUMNS`]) have these values. `by` is a member's name as well.
    pub columns: Vec<(String, String)>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Those with a higher number.
    pub after: Option<u64>,
    /// The last so many.
    pub tail: Option<usize>,
    /// Not more than so many, from the first on.
    pub limit: Option<usize>,
    /// Those that come as well, until whoever reads goes.
    pub follow: bool,
}

/// Whether whoever asks may see a row.
pub type Sees = Arc<dyn Fn(&AuditRow<'_>) -> bool + Send + Sync>;

/// Lines of rows as they lie on disk, in pieces; an error ends them.
pub type Reading = mpsc::Receiver<Result<Bytes, AuditError>>;

/// `sees`: none where whoever reads may see all.
pub(super) fn start(shared: Arc<Shared>, query: Query, sees: Option<Sees>) -> Reading {
    let (send, reading) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        // What was appended before somebody asks is found.
        shared.flush().await;
        let mut progress = shared.progress.subscribe();
        let follow = query.follow;
        let mut reader = Some(Reader::new(shared, query, sees));
        loop {
            let Some(mut one) = reader.take() else { return };
            progress.mark_unchanged();
            let done = tokio::task::spawn_blocking(move || {
                let piece = one.piece();
                (one, piece)
            });
            let Ok((one, piece)) = done.await else { return };
            let (piece, more) = match piece {
                Ok(Piece { lines, more }) => (Ok(lines), more),
                Err(source) => {
                    let dir = one.shared.settings.dir.clone();
                    (Err(AuditError { dir, source }), false)
                }
            };
            let (failed, over) = (piece.is_err(), one.is_over());
            reader = Some(one);
            let empty = piece.as_ref().is_ok_and(Vec::is_empty);
            if !empty {
                let sent = tokio::time::timeout(PATIENCE, send.send(piece.map(Bytes::from))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            if failed || over || !more && !follow {
                return;
            }
            if !more {
                tokio::select! {
                    changed = progress.changed() => if changed.is_err() { return },
                    () = send.closed() => return,
                }
            }
        }
    });
    reading
}

struct Piece {
    lines: Vec<u8>,
    /// There are rows that were not looked at.
    more: bool,
}

struct Reader {
    shared: Arc<Shared>,
    query: Query,
    sees: Option<Sees>,
    /// The file, and how far in it, once it is known where to begin.
    at: Option<(u64, u64)>,
    /// The newest row that was looked at.
    seen: u64,
    taken: usize,
}

impl Reader {
    fn new(shared: Arc<Shared>, query: Query, sees: Option<Sees>) -> Self {
        Self {
            seen: query.after.unwrap_or(0),
            shared,
            query,
            sees,
            at: None,
            taken: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.query.limit.is_some_and(|limit| self.taken >= limit)
    }

    /// What matches of the next piece.
    fn piece(&mut self) -> io::Result<Piece> {
        let dir = self.shared.settings.dir.clone();
        // Before the newest row is looked at: a file that begins later is not gone on to.
        let files = segments::list(&dir)?;
        let newest = self.shared.progress.borrow().head.seq;
        if let Some(tail) = self.query.tail.take() {
            let lines = self.last(tail.min(MAX_TAIL), newest)?;
            return Ok(Piece { lines, more: false });
        }
        let (first, offset) = match self.at {
            Some(at) => at,
            None => match self.begin(files.as_slices().0) {
                Some(segment) => (segment.first, 0),
                None => {
                    return Ok(Piece {
                        lines: Vec::new(),
                        more: false,
                    });
                }
            },
        };
        let next = files.iter().find(|s| s.first > first).map(|s| s.first);
        let mut bytes = Vec::with_capacity(PIECE);
        let length = match fs::File::open(segments::path(&dir, first)) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(offset))?;
                let mut length = 0;
                // A row is as long as it is.
                while length % PIECE == 0 && memchr::memchr(b'\n', &bytes).is_none() {
                    let more = file.by_ref().take(PIECE as u64).read_to_end(&mut bytes)?;
                    length += more;
                    if more == 0 {
                        break;
                    }
                }
                length
            }
            // Removed by age.
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e),
        };
        let (mut lines, mut used, mut stopped) = (Vec::new(), 0, false);
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            let Some(row) = line.strip_suffix(b"\n") else { break };
            let seq = chain::seq(row).unwrap_or(0);
            if seq > newest || self.is_over() {
                stopped = true;
                break;
            }
            used += line.len();
            if seq > self.seen {
                self.seen = seq;
                if self.matches(row) {
                    self.taken += 1;
                    lines.extend_from_slice(line);
                }
            }
        }
        let ended = !stopped && (used == length && length < PIECE || used == 0);
        self.at = match next.filter(|_| ended) {
            Some(next) => Some((next, 0)),
            None => Some((first, offset + used as u64)),
        };
        let more = self.seen < newest && (used > 0 || next.is_some());
        Ok(Piece { lines, more })
    }

    /// The file to begin with.
    fn begin(&self, files: &[Segment]) -> Option<Segment> {
        let by_number = files.partition_point(|s| s.first <= self.seen + 1).saturating_sub(1);
        let dir = &self.shared.settings.dir;
        let older = |s: &Segment| {
            let since = self.query.since?;
            let mut line = Vec::new();
            let file = fs::File::open(segments::path(dir, s.first)).ok()?;
            io::BufRead::read_until(&mut io::BufReader::new(file), b'\n', &mut line).ok()?;
            Some(segments::time(line.trim_ascii_end())? < since)
        };
        let by_time = files.partition_point(|s| older(s) == Some(true)).saturating_sub(1);
        files.get(by_number.max(by_time)).copied()
    }

    /// The last so many that match, and nothing of what follows them.
    fn last(&mut self, most: usize, newest: u64) -> io::Result<Vec<u8>> {
        let dir = &self.shared.settings.dir;
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut end = None;
        'files: for segment in segments::list(dir)?.iter().rev() {
            let bytes = match fs::read(segments::path(dir, segment.first)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                bytes => bytes?,
            };
            // What is being written ends with no line's end.
            let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |at| at + 1);
            let mut upto = whole;
            while upto > 0 && found.len() < most {
                let begin = memchr::memrchr(b'\n', &bytes[..upto - 1]).map_or(0, |at| at + 1);
                let row = &bytes[begin..upto - 1];
                let seq = chain::seq(row).unwrap_or(0);
                if seq <= newest {
                    end.get_or_insert((segment.first, upto as u64));
                    if seq <= self.query.after.unwrap_or(0) || self.before(row) {
                        break 'files;
                    }
                    if self.matches(row) {
                        found.push(bytes[begin..upto].to_vec());
                    }
                }
                upto = begin;
            }
            if found.len() >= most {
                break;
            }
        }
        self.at = end;
        self.seen = newest;
        found.reverse();
        Ok(found.concat())
    }

    /// Whether a row, and so all before it, is too old.
    fn before(&self, row: &[u8]) -> bool {
        self.query
            .since
            .is_some_and(|since| segments::time(row).is_some_and(|at| at < since - jiff::SignedDuration::from_hours(1)))
    }

    fn matches(&self, line: &[u8]) -> bool {
        let Query {
            columns, since, until, ..
        } = &self.query;
        if columns.is_empty() && since.is_none() && until.is_none() && self.sees.is_none() {
            return true;
        }
        // What has to be in the text of a row is looked for before the row is read.
        let there = |(_, value): &(String, String)| {
            !value.bytes().all(|b| b.is_ascii_alphanumeric()) || memchr::memmem::find(line, value.as_bytes()).is_some()
        };
        if !columns.iter().all(there) {
            return false;
        }
        let Ok(row) = serde_json::from_slice::<AuditRow<'_>>(line) else {
            return false;
        };
        let is = |(name, value): &(String, String)| {
            let column = |name: &str| row.column(name).is_some_and(|v| v == value.as_str());
            column(name) || name == "by" && column("member")
        };
        since.is_none_or(|since| row.time >= since)
            && until.is_none_or(|until| row.time < until)
            && columns.iter().all(is)
            && self.sees.as_ref().is_none_or(|sees| sees(&row))
    }
}
