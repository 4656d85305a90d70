//! Rows in a file, as JSON Lines, for a collector that reads files. It may be rotated by renaming it or by emptying it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use serde::Deserialize;

use super::end::{End, ForwardError, Stop};

/// The last row of a file is looked for in so many bytes.
const LAST: u64 = 1 << 20;

pub(super) struct Receiver {
    path: PathBuf,
}

/// The file that is written to now.
struct Open {
    path: PathBuf,
    file: File,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

impl Receiver {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Appends rows as they are written. Returns when it is to stop and nothing is left.
    pub(super) async fn forward(&self, end: &Arc<End>, mut stop: Stop) -> Result<(), ForwardError> {
        let path = self.path.clone();
        let newest = end.audit.status().head.seq;
        let (open, last) = blocking(move || Open::begin(&path)).await?;
        // A supervisor that was killed may have appended more than its cursor says.
        end.cursor.moves(last.filter(|n| *n <= newest).unwrap_or(0), false);
        let open = Arc::new(Mutex::new(open));
        end.goes_well();
        let after = end.cursor.at();
        end.sent.store(after, Relaxed);
        let mut reading = end.audit.follow(after);
        let mut leaving = None;
        while leaving.is_none_or(|newest| end.sent.load(Relaxed) < newest) {
            tokio::select! {
                piece = reading.recv() => {
                    let lines = piece.ok_or(ForwardError::Ended)??;
                    for line in lines.split(|b| *b == b'\n') {
                        if let Ok(row) = serde_json::from_slice::<Numbered>(line) {
                            end.goes_on_with(row.seq);
                        }
                    }
                    let open = Arc::clone(&open);
                    blocking(move || {
                        open.lock().unwrap_or_else(PoisonError::into_inner).append(&lines)
                    })
                    .await?;
                    // At once: after a rotation, the file itself does not say what was written.
                    end.has(end.sent.load(Relaxed), true).await;
                }
                _ = stop.changed(), if leaving.is_none() => {
                    leaving = Some(end.audit.status().head.seq);
                }
            }
        }
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, ForwardError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(io::Error::other(e)))
        .map_err(ForwardError::File)
}

impl Open {
    /// Opens it, without what a power cut left of a row. The number of its last row.
    fn begin(path: &Path) -> io::Result<(Open, Option<u64>)> {
        let mut open = Open {
            file: open(path)?,
            path: path.to_owned(),
        };
        let length = open.file.metadata()?.len();
        let from = length.saturating_sub(LAST);
        open.file.seek(SeekFrom::Start(from))?;
        let mut end = Vec::new();
        Read::by_ref(&mut open.file).take(LAST).read_to_end(&mut end)?;
        let whole = memchr::memrchr(b'\n', &end).map_or(0, |at| at + 1);
        if whole < end.len() && (whole > 0 || from == 0) {
            open.file.set_len(from + whole as u64)?;
        }
        let before = end[..whole.saturating_sub(1)].split(|b| *b == b'\n').next_back();
        let last = before.and_then(|line| serde_json::from_slice::<Numbered>(line).ok());
        Ok((open, last.map(|row| row.seq)))
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let now = self.file.metadata()?;
        // Renamed, or removed: a new one takes its place.
        if std::fs::metadata(&self.path)
            .ok()
            .is_none_or(|m| (m.dev(), m.ino()) != (now.dev(), now.ino()))
        {
            self.file = open(&self.path)?;
        }
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // All of them are written again.
            let _ = self.file.set_len(before);
        }
        written
    }
}

fn open(path: &Path) -> io::Result<File> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display()));
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    // What is no file must not be waited for.
    options.custom_flags(nix::libc::O_NONBLOCK);
    let file = options.open(path).map_err(named)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(named(io::Error::other("it is not a plain file"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_after_a_torn_row_and_after_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let (mut open, last) = Open::begin(&path).unwrap();
        assert_eq!(last, None);
        open.append(b"{\"seq\":1}\n{\"seq\":2}\n").unwrap();
        let text = || std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text() + "{\"seq\":3,\"to").unwrap();
        let (mut open, last) = Open::begin(&path).unwrap();
        assert_eq!(last, Some(2));
        assert_eq!(text(), "{\"seq\":1}\n{\"seq\":2}\n");
        std::fs::rename(&path, dir.path().join("audit.jsonl.1")).unwrap();
        open.append(b"{\"seq\":3}\n").unwrap();
        assert_eq!(text(), "{\"seq\":3}\n");
        // Copied and emptied.
        File::create(&path).unwrap();
        open.append(b"{\"seq\":4}\n").unwrap();
        assert_eq!(text(), "{\"seq\":4}\n");
        assert!(Open::begin(Path::new("/dev/null")).is_err());
        assert!(Open::begin(dir.path()).is_err());
    }
}
