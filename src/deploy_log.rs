//! F2: the deploy log of each instance: what was done for it and what its server said, from the request to run until
//! it is healthy, has failed or is stopped. Kept in a file of the state folder, followed live. Bounded; the log of the
//! latest deploy only. Lines come redacted: this module looks at none of them.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use crate::model::InstanceId;

/// A deploy's log has so many bytes at most; then only its end is noted.
const MAX: usize = 256 * 1024;
/// One line, in characters.
const LINE: usize = 2000;

/// The logs of all deploys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Deploys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    open: Mutex<HashMap<InstanceId, Open>>,
}

/// A deploy that goes on, or has ended in this supervisor's time.
#[derive(Debug)]
struct Open {
    text: Vec<u8>,
    began: Instant,
    full: bool,
    /// How many bytes there are, and whether it has ended.
    progress: watch::Sender<(usize, bool)>,
}

impl Deploys {
    /// Logs in `dir`, which is made when the first is written.
    pub fn new(dir: PathBuf) -> Deploys {
        Deploys(Arc::new(Inner {
            dir,
            open: Mutex::default(),
        }))
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, id: &InstanceId) -> PathBuf {
        self.0.dir.join(format!("{id}.log"))
    }

    /// A new deploy: the log of the one before goes.
    pub fn begin(&self, id: &InstanceId, what: &str) {
        let fresh = Open {
            text: Vec::new(),
            began: Instant::now(),
            full: false,
            progress: watch::Sender::new((0, false)),
        };
        if let Some(before) = self.open().insert(id.clone(), fresh) {
            before.progress.send_modify(|p| p.1 = true);
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0.dir);
        let made = made.and_then(|()| {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(self.file(id)).map(drop)
        });
        if let Err(e) = made {
            log::warn!(instance = id.as_str(); "the deploy log is not kept: {e}");
        }
        self.note(id, what);
    }

    /// Adds a line, if a deploy goes on.
    pub fn note(&self, id: &InstanceId, line: &str) {
        self.write(id, line, false);
    }

    /// The deploy's last line.
    pub fn end(&self, id: &InstanceId, line: &str) {
        self.write(id, line, true);
    }

    fn write(&self, id: &InstanceId, line: &str, last: bool) {
        let mut open = self.open();
        let Some(log) = open.get_mut(id).filter(|l| !l.progress.borrow().1) else {
            return;
        };
        let line: String = line
            .chars()
            .take(LINE)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let seconds = log.began.elapsed().as_secs_f32();
        let text = if log.full && !last {
            String::new()
        } else if log.text.len() + line.len() > MAX && !last {
            log.full = true;
            "          … there was more than is kept\n".to_owned()
        } else {
            format!("{seconds:>8.2}s {line}\n")
        };
        if !text.is_empty() {
            log.text.extend_from_slice(text.as_bytes());
            let kept = fs::OpenOptions::new().append(true).open(self.file(id));
            if let Ok(mut file) = kept {
                let _ = file.write_all(text.as_bytes());
            }
        }
        let length = log.text.len();
        log.progress.send_modify(|p| *p = (length, last));
    }

    /// Whether a deploy of it goes on.
    pub fn goes_on(&self, id: &InstanceId) -> bool {
        self.open().get(id).is_some_and(|l| !l.progress.borrow().1)
    }

    /// The instance is gone, and its log with it.
    pub fn remove(&self, id: &InstanceId) {
        if let Some(log) = self.open().remove(id) {
            log.progress.send_modify(|p| p.1 = true);
        }
        let _ = fs::remove_file(self.file(id));
    }

    /// The log so far; with `follow`, and what is added until the deploy ends.
    pub fn read(&self, id: &InstanceId, follow: bool) -> BoxStream<'static, Bytes> {
        let progress = self.open().get(id).map(|l| l.progress.subscribe());
        let Some(progress) = progress else {
            let kept = fs::read(self.file(id)).unwrap_or_default();
            return stream::iter([Bytes::from(kept)]).boxed();
        };
        stream::unfold(Some((self.clone(), id.clone(), progress, 0)), move |state| async move {
            let (logs, id, mut progress, sent) = state?;
            if follow {
                // Ends with the deploy; a sender that is gone has ended it as well.
                let _ = progress.wait_for(|(n, ended)| *n > sent || *ended).await;
            }
            let (length, ended) = *progress.borrow_and_update();
            let piece = logs.piece(&id, sent);
            let next = (follow && !ended).then_some((logs, id, progress, length.max(sent)));
            Some((piece, next))
        })
        .boxed()
    }

    fn piece(&self, id: &InstanceId, from: usize) -> Bytes {
        let open = self.open();
        let text = open.get(id).and_then(|l| l.text.get(from..));
        text.map(Bytes::copy_from_slice).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn followed_kept_bounded_and_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let logs = Deploys::new(dir.path().join("deploys"));
        let id = InstanceId::from_random([1; 10]);
        logs.note(&id, "nobody asked");
        assert_eq!(logs.read(&id, true).collect::<Vec<_>>().await.concat(), b"");
        logs.begin(&id, "first");
        let follower = tokio::spawn(logs.read(&id, true).collect::<Vec<_>>());
        logs.note(&id, "second\nsecret\x1b[31m");
        logs.end(&id, "healthy");
        logs.note(&id, "too late");
        let text = String::from_utf8(follower.await.expect("joined").concat()).expect("utf-8");
        let lines: Vec<&str> = text.lines().map(|l| l.split_once("s ").expect("time").1).collect();
        assert_eq!(lines, ["first", "second secret [31m", "healthy"]);
        let again = Deploys::new(dir.path().join("deploys"));
        assert_eq!(
            again.read(&id, true).collect::<Vec<_>>().await.concat(),
            text.as_bytes(),
            "kept"
        );

        logs.begin(&id, "again");
        for _ in 0..2000 {
            logs.note(&id, &"x".repeat(1000));
        }
        logs.end(&id, "failed");
        let text = String::from_utf8(logs.read(&id, false).collect::<Vec<_>>().await.concat()).expect("utf-8");
        assert!(text.len() < MAX + 3 * LINE && text.contains("more than is kept") && text.ends_with("failed\n"));
        assert!(!text.contains("second"), "the latest only");
        logs.remove(&id);
        assert_eq!(fs::read_dir(dir.path().join("deploys")).expect("dir").count(), 0);
    }
}
