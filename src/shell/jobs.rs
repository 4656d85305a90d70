//! Commands with an end in sight, and jobs that go on in the background. Each has its output, bounded, and its end.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::{
    net::unix::pipe,
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    output::{Output, Paint},
    process::{Child, Ended, Processes},
    terminal::Terminal,
};

/// Jobs that run, and jobs that are remembered.
const MAX_RUNNING: usize = 16;
const MAX_KNOWN: usize = 64;
/// How long output is waited for when its command has ended: what it left behind holds no pipe any more by then.
const REST: Duration = Duration::from_millis(500);
/// How long a job has to end after SIGTERM.
const TERM: Duration = Duration::from_secs(3);

/// A command that runs, or has run.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) command: String,
    child: Child,
    output: Mutex<Output>,
    began: Instant,
    /// How it ended, and after how long; set when its output is through.
    done: watch::Sender<Option<(Ended, Duration)>>,
    /// Rings whenever output came.
    came: watch::Sender<u64>,
}

/// All commands and jobs.
#[derive(Debug)]
pub(super) struct Jobs {
    processes: Arc<Processes>,
    terminal: Arc<Terminal>,
    home: PathBuf,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    jobs: BTreeMap<u64, Arc<Job>>,
}

impl Jobs {
    pub(super) fn new(processes: Arc<Processes>, terminal: Arc<Terminal>, home: PathBuf) -> Self {
        Self {
            processes,
            terminal,
            home,
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A path as the assistant names it: from home, where it is not absolute.
    pub(super) fn path(&self, named: &str) -> PathBuf {
        match named.strip_prefix("~/") {
            Some(rest) => self.home.join(rest),
            None if named == "~" => self.home.clone(),
            None => self.home.join(named),
        }
    }

    /// Starts `bash -c command`, which is not remembered as a job.
    pub(super) fn start(&self, command: &str, cwd: Option<&str>) -> Result<Arc<Job>, String> {
        let cwd = self.path(cwd.unwrap_or(""));
        if !cwd.is_dir() {
            return Err(format!("there is no folder {}", cwd.display()));
        }
        let mut c = Command::new("bash");
        c.args(["-c", command]).env("HOME", &self.home).env("PWD", &cwd);
        // Programs that ask a person, page or draw have nobody here.
        for (key, value) in [
            ("TERM", "dumb"),
            ("PAGER", "cat"),
            ("GIT_PAGER", "cat"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("DEBIAN_FRONTEND", "noninteractive"),
        ] {
            c.env(key, value);
        }
        let (child, reader) = self
            .processes
            .run(c, &cwd)
            .map_err(|e| format!("the command cannot be started: {e}"))?;
        let number = {
            let mut table = self.table();
            table.next += 1;
            table.next
        };
        let job = Arc::new(Job {
            number,
            command: command.to_owned(),
            child,
            output: Mutex::default(),
            began: Instant::now(),
            done: watch::channel(None).0,
            came: watch::channel(0).0,
        });
        self.terminal.begins(command, &cwd, &self.home);
        tokio::spawn(follow(Arc::clone(&job), reader, Arc::clone(&self.terminal)));
        Ok(job)
    }

    /// Starts a job that is remembered.
    pub(super) fn start_job(&self, command: &str, cwd: Option<&str>) -> Result<Arc<Job>, String> {
        {
            let mut table = self.table();
            let running = table.jobs.values().filter(|j| j.ended().is_none()).count();
            if running >= MAX_RUNNING {
                return Err(format!("{MAX_RUNNING} jobs run already; stop one first"));
            }
            while table.jobs.len() >= MAX_KNOWN {
                // There is an ended one: fewer run than are known.
                let Some(oldest) = table.jobs.values().find(|j| j.ended().is_some()).map(|j| j.number) else {
                    break;
                };
                table.jobs.remove(&oldest);
            }
        }
        let job = self.start(command, cwd)?;
        self.table().jobs.insert(job.number, Arc::clone(&job));
        Ok(job)
    }

    pub(super) fn job(&self, number: u64) -> Result<Arc<Job>, String> {
        let found = self.table().jobs.get(&number).cloned();
        found.ok_or_else(|| format!("there is no job {number}; list_jobs shows what there is"))
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.table().jobs.values().cloned().collect()
    }
}

impl Job {
    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it ended and after how long, if it has.
    pub(super) fn ended(&self) -> Option<(Ended, Duration)> {
        *self.done.borrow()
    }

    pub(super) fn age(&self) -> Duration {
        self.ended().map_or_else(|| self.began.elapsed(), |(_, took)| took)
    }

    /// All of its output that is kept, and how many bytes are not.
    pub(super) fn text(&self) -> (String, u64) {
        let output = self.output();
        (output.text(), output.dropped())
    }

    /// Its output after the first `from` bytes, and how many there are by now.
    pub(super) fn since(&self, from: u64) -> (String, u64) {
        let output = self.output();
        (output.since(from), output.total())
    }

    /// Rings whenever output came.
    pub(super) fn bell(&self) -> watch::Receiver<u64> {
        self.came.subscribe()
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) -> (Ended, Duration) {
        let mut done = self.done.subscribe();
        let ended = done.wait_for(Option::is_some).await.ok().and_then(|d| *d);
        ended.unwrap_or((Ended::Status(-1), self.began.elapsed()))
    }

    /// Ends it and everything that came of it, at once.
    pub(super) fn kill(&self) {
        self.child.kill();
    }

    /// Asks it to end, and ends it if it does not.
    pub(super) async fn stop(&self) -> (Ended, Duration) {
        self.child.signal(Signal::SIGTERM);
        if timeout(TERM, self.child.wait()).await.is_err() {
            self.child.kill();
        }
        self.wait().await
    }
}

/// Reads a command's output until it has ended.
async fn follow(job: Arc<Job>, reader: pipe::Receiver, terminal: Arc<Terminal>) {
    let mut paint = Paint::default();
    let mut buf = vec![0; 16 * 1024];
    let mut last = b'\n';
    let mut ended = None;
    let mut patience = None;
    loop {
        tokio::select! {
            biased;
            ready = reader.readable() => {
                if ready.is_err() {
                    break;
                }
                match reader.try_read(&mut buf) {
                    Ok(0) => break,
                    Ok(n) => {
                        job.output().push(&buf[..n]);
                        job.came.send_modify(|c| *c += 1);
                        terminal.prints(&mut paint, &buf[..n]);
                        last = buf[n - 1];
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
                // A flood must not keep others waiting.
                tokio::task::yield_now().await;
            }
            end = job.child.wait(), if ended.is_none() => {
                ended = Some(end);
                patience = Some(Instant::now() + REST);
            }
            () = tokio::time::sleep_until(patience.unwrap_or_else(Instant::now)), if patience.is_some() => break,
        }
    }
    let ended = match ended {
        Some(ended) => ended,
        None => job.child.wait().await,
    };
    let said = (ended != Ended::Status(0)).then(|| ended.to_string());
    terminal.ends(said.as_deref(), last == b'\n');
    job.done.send_replace(Some((ended, job.began.elapsed())));
}
