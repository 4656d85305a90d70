//! Up to which row a receiver has everything, in a file.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::replace::{self, Durable};

/// How often it goes to the disk, where nobody is in a hurry.
const SAVE: Duration = Duration::from_secs(5);

pub(super) struct Cursor {
    path: PathBuf,
    place: Mutex<Place>,
}

struct Place {
    at: u64,
    saved: u64,
    saved_at: Instant,
}

impl Cursor {
    /// Reads it; where there is none, the receiver has everything up to `newest`.
    pub(super) fn open(path: PathBuf, newest: u64) -> io::Result<Cursor> {
        let (at, saved) = match fs::read_to_string(&path) {
            Ok(text) => match text.trim().parse() {
                // The audit was put back to an older one.
                Ok(at) if at > newest => (newest, at),
                Ok(at) => (at, at),
                Err(_) => {
                    log::error!("{} says no row: all rows are forwarded again", path.display());
                    (0, 0)
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => (newest, u64::MAX),
            Err(e) => return Err(e),
        };
        let place = Mutex::new(Place {
            at,
            saved,
            saved_at: Instant::now(),
        });
        let cursor = Cursor { path, place };
        cursor.save()?;
        Ok(cursor)
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn at(&self) -> u64 {
        self.place().at
    }

    /// Moves on. Whether it is to be saved.
    pub(super) fn moves(&self, seq: u64, now: bool) -> bool {
        let mut place = self.place();
        place.at = place.at.max(seq);
        place.at != place.saved && (now || place.saved_at.elapsed() >= SAVE)
    }

    /// Writes it; blocks.
    pub(super) fn save(&self) -> io::Result<()> {
        let mut place = self.place();
        if place.at != place.saved {
            replace::file(&self.path, format!("{}\n", place.at).as_bytes(), 0o600, Durable::Now)?;
            place.saved = place.at;
        }
        place.saved_at = Instant::now();
        Ok(())
    }
}
