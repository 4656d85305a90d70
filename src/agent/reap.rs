//! Waits for children: the only place that collects exit statuses, so that nobody steals another's, and orphans that
//! process 1 inherits never stay behind as zombies.
//!
//! A child of ours leads its own session and process group. When it has ended, its group is killed *before* its status
//! is collected: until then its number cannot be given to anybody else.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Status(i32),
    Signal(Signal),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(code) => write!(f, "exited with status {code}"),
            Self::Signal(s) => write!(f, "was killed by {s}"),
        }
    }
}

/// The end of one child, to be waited for.
#[derive(Debug, Default)]
pub(super) struct Exit {
    ended: Cell<Option<Ended>>,
    notify: Notify,
}

impl Exit {
    /// Waits for the end.
    pub(super) async fn wait(&self) -> Ended {
        loop {
            if let Some(ended) = self.ended.get() {
                return ended;
            }
            self.notify.notified().await;
        }
    }
}

/// The table of children.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    table: RefCell<HashMap<i32, Rc<Exit>>>,
    empty: Notify,
}

impl Reaper {
    /// Starts the task.
    pub(super) fn start() -> std::io::Result<Rc<Self>> {
        let reaper = Rc::new(Self::default());
        let mut child = signal(SignalKind::child())?;
        let this = Rc::clone(&reaper);
        tokio::task::spawn_local(async move {
            loop {
                this.collect();
                child.recv().await;
            }
        });
        Ok(reaper)
    }

    /// Registers a child right after it was started, before anything else can run on this thread.
    pub(super) fn register(&self, pid: i32) -> Rc<Exit> {
        let exit = Rc::new(Exit::default());
        self.table.borrow_mut().insert(pid, Rc::clone(&exit));
        exit
    }

    /// Children that run.
    pub(super) fn count(&self) -> usize {
        self.table.borrow().len()
    }

    /// Waits until no child runs.
    pub(super) async fn none_left(&self) {
        while self.count() > 0 {
            self.empty.notified().await;
        }
    }

    /// Sends a signal to every child's group.
    pub(super) fn signal_all(&self, sig: Signal) {
        for pid in self.table.borrow().keys() {
            // It may have ended a moment ago.
            let _ = killpg(Pid::from_raw(*pid), sig);
        }
    }

    /// Kills every child's group.
    pub(super) fn kill_all(&self) {
        self.signal_all(Signal::SIGKILL);
    }

    fn collect(&self) {
        loop {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let (pid, ended) = match waitid(Id::All, flags) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ended::Status(code)),
                Ok(WaitStatus::Signaled(pid, sig, _)) => (pid, Ended::Signal(sig)),
                _ => return,
            };
            let exit = self.table.borrow_mut().remove(&pid.as_raw());
            if exit.is_some() {
                let _ = killpg(pid, Signal::SIGKILL);
            }
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            if let Some(exit) = exit {
                exit.ended.set(Some(ended));
                exit.notify.notify_waiters();
            }
            if self.count() == 0 {
                self.empty.notify_waiters();
            }
        }
    }
}
