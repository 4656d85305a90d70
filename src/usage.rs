//! F2: metering: what was used of the box by day, instance and person, summed up from the rows of the audit as they are
//! written, and from what containers use of CPU and memory. A file a day, kept for [`KEPT_DAYS`]; never more than
//! [`MOST`] sums a day.
//!
//! Each row is counted once: a day's file says up to which row it has counted, and counting goes on there after a restart.
//! What containers used is sampled; a supervisor that is killed loses the samples since the files were last written.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{civil::Date, tz::TimeZone};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    audit::Audit,
    model::{AuditKind, AuditOutcome, AuditRow, UsageBy, UsageRow},
    replace::{self, Durable},
};

/// So many days are kept.
pub const KEPT_DAYS: i32 = 400;
/// Sums of one day; what comes later is added to one that names nobody.
const MOST: usize = 5000;
/// How often sums go to the disk.
const SAVE: Duration = Duration::from_secs(60);
/// How long somebody waits for the newest rows to be counted.
const CAUGHT_UP: Duration = Duration::from_secs(5);
/// When a reading of the audit has ended, the next one begins so much later.
const AGAIN: Duration = Duration::from_secs(1);

/// Why usage cannot be metered.
#[derive(Debug, thiserror::Error)]
#[error("usage in {dir} cannot be {what}: {source}")]
pub struct UsageError {
    dir: PathBuf,
    what: &'static str,
    source: io::Error,
}

/// What is summed up of one day.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    workspace: Option<String>,
    instance: Option<String>,
    member: Option<String>,
}

#[derive(Debug, Default)]
struct Day {
    /// Rows up to this one are counted in its file.
    upto: u64,
    sums: HashMap<Key, UsageRow>,
    changed: bool,
}

/// A day, as its file has it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    upto: u64,
    sums: Vec<UsageRow>,
}

struct Days {
    loaded: BTreeMap<Date, Day>,
    /// The newest row that was counted.
    upto: u64,
}

/// The way to what was used. Cheap to clone.
#[derive(Clone)]
pub struct Usage(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    audit: Audit,
    days: Mutex<Days>,
    counted: watch::Sender<u64>,
}

/// Whether whoever asks may know of a sum.
pub type Sees<'a> = &'a (dyn Fn(&UsageRow) -> bool + Send + Sync);

impl Usage {
    /// Opens the folder of sums, and makes it where there is none.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn open(dir: PathBuf, audit: Audit) -> Result<Usage, UsageError> {
        let upto = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .and_then(|()| read_number(&dir.join("upto")))
            .map_err(|source| UsageError {
                dir: dir.clone(),
                what: "opened",
                source,
            })?;
        Ok(Usage(Arc::new(Shared {
            dir,
            audit,
            days: Mutex::new(Days {
                loaded: BTreeMap::new(),
                upto,
            }),
            counted: watch::Sender::new(upto),
        })))
    }

    /// Counts rows as they are written, and saves what was counted; never ends.
    pub async fn run(self) {
        let mut save = tokio::time::interval(SAVE);
        loop {
            let upto = self.days().upto;
            let mut reading = self.0.audit.follow(upto);
            loop {
                tokio::select! {
                    piece = reading.recv() => match piece {
                        Some(Ok(lines)) => self.count(&lines),
                        Some(Err(why)) => log::warn!("usage is not counted: {why}"),
                        None => break,
                    },
                    _ = save.tick() => self.save().await,
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What a container used in a while: CPU time in microseconds, and memory in bytes for so long.
    pub fn used(&self, (workspace, instance): (&str, &str), cpu_usec: u64, (memory, time): (u64, Duration)) {
        let key = Key {
            workspace: Some(workspace.to_owned()),
            instance: Some(instance.to_owned()),
            member: None,
        };
        #[allow(clippy::cast_precision_loss, reason = "sums of hours, not of bytes")]
        let more = UsageRow {
            cpu_seconds: cpu_usec as f64 / 1e6,
            memory_gib_hours: memory as f64 / f64::from(1 << 30) * time.as_secs_f64() / 3600.0,
            ..UsageRow::default()
        };
        let today = date(jiff::Timestamp::now());
        let dir = &self.0.dir;
        self.days().day(dir, today).add(key, &more);
    }

    /// What was used on days from `since` to `until` (both included), of what whoever asks sees, summed up.
    ///
    /// # Errors
    /// [`UsageError`].
    pub async fn rows(
        &self,
        (since, until): (Option<Date>, Option<Date>),
        by: UsageBy,
        sees: Sees<'_>,
    ) -> Result<Vec<UsageRow>, UsageError> {
        self.0.audit.flush().await;
        let newest = self.0.audit.status().head.seq;
        let mut counted = self.0.counted.subscribe();
        let _ = tokio::time::timeout(CAUGHT_UP, counted.wait_for(|n| *n >= newest)).await;
        let usage = self.clone();
        let days = tokio::task::spawn_blocking(move || usage.between(since, until)).await;
        let days = days.unwrap_or_else(|e| Err(io::Error::other(e)));
        let days = days.map_err(|source| self.error("read", source))?;
        let mut sums: Vec<UsageRow> = Vec::new();
        let mut places: HashMap<(Option<Date>, Key), usize> = HashMap::new();
        for row in days.iter().filter(|r| sees(r)) {
            let named = by.named(row);
            let key = Key {
                workspace: named.workspace.clone(),
                instance: named.instance.clone(),
                member: named.member.clone(),
            };
            let at = *places.entry((named.day, key)).or_insert_with(|| {
                sums.push(named);
                sums.len() - 1
            });
            sums[at].add(row);
        }
        sums.sort_by(|a, b| {
            let names = |r: &UsageRow| (r.day, r.workspace.clone(), r.instance.clone(), r.member.clone());
            names(a).cmp(&names(b))
        });
        Ok(sums)
    }

    /// Brings what was counted to the disk.
    pub async fn save(&self) {
        let usage = self.clone();
        let saved = tokio::task::spawn_blocking(move || usage.write()).await;
        if let Ok(Err(e)) = saved {
            log::warn!("{}", self.error("saved", e));
        }
    }

    fn error(&self, what: &'static str, source: io::Error) -> UsageError {
        UsageError {
            dir: self.0.dir.clone(),
            what,
            source,
        }
    }

    fn days(&self) -> MutexGuard<'_, Days> {
        // Whatever is locked here is whole between any two of its statements.
        self.0.days.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, lines: &[u8]) {
        let mut days = self.days();
        for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let Ok(row) = serde_json::from_slice::<AuditRow<'_>>(line) else {
                continue;
            };
            let Some(seq) = row.seq else { continue };
            days.upto = days.upto.max(seq);
            if row.kind != AuditKind::Call {
                continue;
            }
            let text = |column: &Option<std::borrow::Cow<'_, str>>| column.as_deref().map(str::to_owned);
            let key = Key {
                workspace: text(&row.workspace),
                instance: text(&row.instance),
                member: text(&row.member).or_else(|| text(&row.by)),
            };
            let more = UsageRow {
                calls: 1,
                errors: u64::from(row.outcome != AuditOutcome::Ok),
                bytes_in: row.bytes_in.unwrap_or(0),
                bytes_out: row.bytes_out.unwrap_or(0),
                ..UsageRow::default()
            };
            let day = days.day(&self.0.dir, date(row.time));
            if seq > day.upto {
                day.add(key, &more);
            }
        }
        let upto = days.upto;
        drop(days);
        self.0.counted.send_replace(upto);
    }

    fn write(&self) -> io::Result<()> {
        // Days are written one after the other, and last up to where they have counted.
        let (changed, upto) = {
            let mut days = self.days();
            let upto = days.upto;
            let changed = days.loaded.iter_mut().filter(|(_, day)| day.changed);
            let changed: Vec<_> = changed
                .map(|(date, day)| {
                    day.changed = false;
                    let sums = day.sums.values().cloned().collect();
                    (*date, Kept { upto, sums })
                })
                .collect();
            (changed, upto)
        };
        let mut written = Ok(());
        for (date, kept) in &changed {
            if written.is_ok() {
                written = serde_json::to_vec(kept)
                    .map_err(io::Error::other)
                    .and_then(|bytes| replace::file(&path(&self.0.dir, *date), &bytes, 0o600, Durable::Now));
            }
            // The first that fails is not written, nor what comes after it: it is tried again.
            if let Some(day) = self.days().loaded.get_mut(date) {
                match &written {
                    Ok(()) => day.upto = kept.upto,
                    Err(_) => day.changed = true,
                }
            }
        }
        written?;
        if !changed.is_empty() {
            replace::file(
                &self.0.dir.join("upto"),
                upto.to_string().as_bytes(),
                0o600,
                Durable::Now,
            )?;
        }
        let today = date(jiff::Timestamp::now());
        // Yesterday's last rows may still come.
        self.days()
            .loaded
            .retain(|date, day| day.changed || age(*date, today) < 2);
        for (date, path) in files(&self.0.dir)? {
            if age(date, today) > KEPT_DAYS {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn between(&self, since: Option<Date>, until: Option<Date>) -> io::Result<Vec<UsageRow>> {
        let within = |d: &Date| since.is_none_or(|s| *d >= s) && until.is_none_or(|u| *d <= u);
        let mut rows = Vec::new();
        let mut in_memory = Vec::new();
        for (date, day) in self.days().loaded.iter().filter(|(d, _)| within(d)) {
            in_memory.push(*date);
            rows.extend(day.sums.values().map(|r| UsageRow {
                day: Some(*date),
                ..r.clone()
            }));
        }
        for (date, path) in files(&self.0.dir)? {
            if within(&date) && !in_memory.contains(&date) {
                let kept = read_day(&path)?;
                rows.extend(kept.sums.into_iter().map(|r| UsageRow { day: Some(date), ..r }));
            }
        }
        Ok(rows)
    }
}

impl Days {
    /// A day, read from its file where it is not in memory. One whose file cannot be read begins anew beside it.
    fn day(&mut self, dir: &Path, date: Date) -> &mut Day {
        match self.loaded.entry(date) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let path = path(dir, date);
                let kept = read_day(&path).unwrap_or_else(|e| {
                    log::error!("{} cannot be read: {e}; the day is counted anew", path.display());
                    let _ = fs::rename(&path, path.with_extension("unreadable"));
                    Kept::default()
                });
                let mut day = Day {
                    upto: kept.upto,
                    ..Day::default()
                };
                for row in kept.sums {
                    let key = Key {
                        workspace: row.workspace.clone(),
                        instance: row.instance.clone(),
                        member: row.member.clone(),
                    };
                    day.sums.insert(key, row);
                }
                place.insert(day)
            }
        }
    }
}

impl Day {
    fn add(&mut self, mut key: Key, more: &UsageRow) {
        if self.sums.len() >= MOST && !self.sums.contains_key(&key) {
            key = Key {
                workspace: key.workspace,
                instance: Some("others".to_owned()),
                member: None,
            };
        }
        self.changed = true;
        let sum = self.sums.entry(key).or_insert_with_key(|key| UsageRow {
            workspace: key.workspace.clone(),
            instance: key.instance.clone(),
            member: key.member.clone(),
            ..UsageRow::default()
        });
        sum.add(more);
    }
}

fn date(at: jiff::Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

/// How many days a date is before another one.
fn age(date: Date, today: Date) -> i32 {
    today.since(date).map_or(0, |span| span.get_days())
}

fn path(dir: &Path, date: Date) -> PathBuf {
    dir.join(format!("{date}.json"))
}

/// The files of days.
fn files(dir: &Path) -> io::Result<Vec<(Date, PathBuf)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".json"));
        if let Some(date) = name.and_then(|n| n.parse().ok()) {
            all.push((date, path));
        }
    }
    Ok(all)
}

fn read_day(path: &Path) -> io::Result<Kept> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
        Err(e) => Err(e),
    }
}

fn read_number(path: &Path) -> io::Result<u64> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(io::Error::other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
