//! F2: forwards the rows of the audit as they are written: to a receiver of syslog over TLS (`syslog`), and to a file
//! (`file`). Never keeps a call waiting, never holds more than a few pieces in memory.
//!
//! The audit's own files are the spool for when a receiver is away: bounded by `[audit] max_bytes`, and they survive what the
//! box survives. A cursor says up to which row a receiver has everything. What may not have arrived is sent again, so that a
//! row may come twice, and never not at all, as long as the box keeps it; `seq` tells.

mod cursor;
mod end;
mod file;
mod message;
mod syslog;

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{audit::Audit, config, model::ForwardStatus};

use cursor::Cursor;
use end::{End, Stop};

/// What cannot be reached is tried again so soon, and at last so seldom.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// At the end, receivers get so long to take what is left.
const DRAIN: Duration = Duration::from_secs(3);

/// Where rows are forwarded to.
pub struct Settings {
    /// The folder of cursors.
    pub dir: PathBuf,
    /// What this box is called there: a name without spaces.
    pub host: String,
    pub syslog: Option<config::Syslog>,
    pub file: Option<PathBuf>,
}

enum Way {
    Syslog(syslog::Receiver),
    File(file::Receiver),
}

/// The receivers. Cheap to clone.
#[derive(Clone)]
pub struct Forwards {
    ends: Arc<[(Arc<End>, Way)]>,
    stop: watch::Sender<bool>,
    /// How many have ended.
    ended: watch::Sender<usize>,
}

impl Forwards {
    /// Reads the cursors. A receiver that is new begins with the next row.
    ///
    /// # Errors
    /// The folder of cursors cannot be made or read.
    pub fn open(settings: Settings, audit: &Audit) -> io::Result<Forwards> {
        let Settings {
            dir,
            host,
            syslog,
            file,
        } = settings;
        let mut ends = Vec::new();
        if syslog.is_some() || file.is_some() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        }
        let newest = audit.status().head.seq;
        let end = |name: &str, to: String| {
            let cursor = Cursor::open(dir.join(name), newest)?;
            io::Result::Ok(Arc::new(End {
                to,
                audit: audit.clone(),
                sent: cursor.at().into(),
                cursor,
                lost: 0.into(),
                trouble: Mutex::default(),
            }))
        };
        if let Some(to) = syslog {
            let receiver = syslog::Receiver::new(to, host);
            ends.push((end("syslog", receiver.to_string())?, Way::Syslog(receiver)));
        }
        if let Some(path) = file {
            let to = format!("file {}", path.display());
            ends.push((end("file", to)?, Way::File(file::Receiver::new(path))));
        }
        Ok(Forwards {
            ends: ends.into(),
            stop: watch::Sender::new(false),
            ended: watch::Sender::new(0),
        })
    }

    /// Forwards to all of them; never ends.
    pub async fn run(self) {
        let mut running = tokio::task::JoinSet::new();
        for n in 0..self.ends.len() {
            let all = self.clone();
            running.spawn(async move {
                let (end, way) = &all.ends[n];
                keep(end, way, all.stop.subscribe()).await;
                all.ended.send_modify(|ended| *ended += 1);
            });
        }
        while running.join_next().await.is_some() {}
        std::future::pending().await
    }

    /// How each of them is.
    pub fn status(&self) -> Vec<ForwardStatus> {
        let of = |end: &End| {
            let newest = end.audit.status().head.seq;
            let sent = end.sent.load(Relaxed);
            ForwardStatus {
                to: end.to.clone(),
                sent,
                behind: newest.saturating_sub(sent),
                lost: end.lost.load(Relaxed),
                trouble: end.trouble().clone(),
            }
        };
        self.ends.iter().map(|(end, _)| of(end)).collect()
    }

    /// Sends what is on the disk, to receivers that can be reached and in bounded time, and keeps the cursors. Before the audit
    /// is given up.
    pub async fn drain(&self) {
        let mut ended = self.ended.subscribe();
        self.stop.send_replace(true);
        let all = ended.wait_for(|n| *n == self.ends.len());
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            log::warn!("not all rows of the audit were forwarded: the rest is, after the next start");
        }
    }
}

/// Forwards to one receiver, again and again, until the end.
async fn keep(end: &Arc<End>, way: &Way, mut stop: Stop) {
    let mut pause = AGAIN.0;
    while !*stop.borrow_and_update() {
        let began = Instant::now();
        let done = match way {
            Way::Syslog(receiver) => receiver.forward(end, stop.clone()).await,
            Way::File(receiver) => receiver.forward(end, stop.clone()).await,
        };
        let Err(why) = done else { return };
        end.fails(&why);
        pause = match began.elapsed() > AGAIN.1 {
            true => AGAIN.0,
            false => (pause * 2).min(AGAIN.1),
        };
        let _ = tokio::time::timeout(pause, stop.changed()).await;
    }
}

#[cfg(test)]
mod tests;
