//! Commands: started behind the guard, in sessions of their own, and ended with everything that came of them. The one
//! place that collects exit statuses.
//!
//! A command is `bash -c`. When its shell has ended, or its time is over, its process group is killed; what had left
//! the group falls to this server, which is a subreaper (prctl(2), `PR_SET_CHILD_SUBREAPER`), and is killed too unless
//! its session is that of a command that still runs. So nothing outlives its command.

use std::{
    collections::HashMap,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    net::unix::pipe,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::guard::Guard;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Status(i32),
    Signal(Signal),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(code) => write!(f, "exit status {code}"),
            Self::Signal(s) => write!(f, "ended by {s}"),
        }
    }
}

/// A process that runs, or has run.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: i32,
    pub(super) ended: watch::Receiver<Option<Ended>>,
    processes: Arc<Processes>,
}

/// All that this server started.
#[derive(Debug)]
pub(super) struct Processes {
    guard: Guard,
    table: Mutex<HashMap<i32, watch::Sender<Option<Ended>>>>,
}

impl Processes {
    /// Starts the reaper. From here on everything that loses its parent below this process falls to it.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        nix::sys::prctl::set_child_subreaper(true)?;
        // Nobody traces or reads this process, nor what it holds open.
        nix::sys::prctl::set_dumpable(false)?;
        let this = Arc::new(Self {
            guard: Guard::new(nix::unistd::getpid().as_raw()),
            table: Mutex::default(),
        });
        let mut child = signal(SignalKind::child())?;
        let reaper = Arc::clone(&this);
        tokio::spawn(async move {
            loop {
                reaper.collect();
                if child.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(this)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<i32, watch::Sender<Option<Ended>>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a program, with its stdout and stderr as one stream, in the order in which they were written.
    pub(super) fn run(self: &Arc<Self>, mut command: Command, cwd: &Path) -> io::Result<(Child, pipe::Receiver)> {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let also: OwnedFd = writer.try_clone()?;
        command
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(also)
            .current_dir(cwd);
        let child = self.spawn(command)?;
        Ok((child, pipe::Receiver::from_owned_fd(reader)?))
    }

    /// Runs a program whose pipes the caller has set.
    pub(super) fn spawn(self: &Arc<Self>, mut command: Command) -> io::Result<Child> {
        let guard = self.guard.clone();
        #[allow(unsafe_code)] // pre_exec is the only way to do this in the child
        // SAFETY: between fork and exec the closure makes system calls on memory of its own copy; none of them allocates
        // or takes a lock.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::setsid()?;
                first_to_die();
                libc::setpriority(libc::PRIO_PROCESS as _, 0, NICE);
                guard.close()
            });
        }
        // The table is locked until the child is in it, so that the reaper cannot miss it.
        let mut table = self.table();
        let child = command.spawn()?;
        let pid = child.id().cast_signed();
        let (say, ended) = watch::channel(None);
        table.insert(pid, say);
        Ok(Child {
            pid,
            ended,
            processes: Arc::clone(self),
        })
    }

    fn collect(&self) {
        let mut orphans = true;
        while orphans {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            while let Some((pid, ended)) = match waitid(Id::All, flags) {
                Ok(WaitStatus::Exited(pid, code)) => Some((pid, Ended::Status(code))),
                Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid, Ended::Signal(signal))),
                _ => None,
            } {
                let known = self.table().remove(&pid.as_raw());
                if known.is_some() {
                    // Before its status is collected its number cannot be anybody else's.
                    let _ = killpg(pid, Signal::SIGKILL);
                }
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
                if let Some(say) = known {
                    let _ = say.send(Some(ended));
                }
            }
            orphans = self.kill_orphans();
        }
    }

    /// Kills what fell to this server from commands that have ended; whether there was anything.
    fn kill_orphans(&self) -> bool {
        let me = nix::unistd::getpid().as_raw();
        let table = self.table();
        let mut any = false;
        for p in processes() {
            let ours = table.contains_key(&p.pid);
            if p.parent == me && !ours && !table.contains_key(&p.session) && !p.dead {
                any |= kill_group(&p);
            }
        }
        any
    }
}

impl Child {
    /// Ends it and all that came of it: SIGKILL to its group and to every descendant's, until none is left.
    pub(super) fn kill(&self) {
        if self.ended.borrow().is_some() {
            return;
        }
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        // Those that made groups of their own; new groups may come between two looks. Bounded by the next looks of the
        // reaper, to which all of them fall.
        for _ in 0..50 {
            let all = processes();
            let mut tree = vec![self.pid];
            let mut at = 0;
            while let Some(&parent) = tree.get(at) {
                tree.extend(all.iter().filter(|p| p.parent == parent && !p.dead).map(|p| p.pid));
                at += 1;
            }
            let left = |p: &&Seen| !p.dead && p.pid != self.pid && (p.session == self.pid || tree.contains(&p.pid));
            let left: Vec<&Seen> = all.iter().filter(left).collect();
            if left.is_empty() {
                break;
            }
            for p in left {
                kill_group(p);
            }
        }
        self.processes.collect();
    }

    /// Sends a signal to its group.
    pub(super) fn signal(&self, signal: Signal) {
        if self.ended.borrow().is_none() {
            let _ = killpg(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) -> Ended {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|e| *e);
        end.unwrap_or(Ended::Status(-1))
    }
}

/// Commands get little of the processor when this server wants it.
const NICE: libc::c_int = 19;

/// Kills a process that came of a command, and its group at once: a fork bomb is quicker than whoever kills it process by
/// process, while in a group that the kernel kills no fork is left over. A command's descendants are never in this
/// server's own group, since each command has a session of its own. Whether there was anything to kill.
fn kill_group(p: &Seen) -> bool {
    if p.group > 1 && p.group != nix::unistd::getpgrp().as_raw() {
        killpg(Pid::from_raw(p.group), Signal::SIGKILL).is_ok()
    } else {
        kill(Pid::from_raw(p.pid), Signal::SIGKILL).is_ok()
    }
}

/// When memory runs out the kernel takes a command first. Called between fork and exec: allocates nothing.
#[allow(unsafe_code)] // std's own would allocate
fn first_to_die() {
    // SAFETY: a constant path, a constant buffer, and a descriptor that is closed again.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, c"1000".as_ptr().cast(), 4);
            libc::close(fd);
        }
    }
}

/// A process, as `/proc` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) pid: i32,
    pub(super) parent: i32,
    group: i32,
    pub(super) session: i32,
    /// The number of its terminal, 0: none.
    pub(super) terminal: i32,
    dead: bool,
}

/// Everything that runs in this container.
pub(super) fn processes() -> Vec<Seen> {
    let Ok(all) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = all
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| seen(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// Reads a line of `/proc/PID/stat` (proc(5)); the name in parentheses may hold anything.
fn seen(stat: &str) -> Option<Seen> {
    let (head, rest) = (stat.split(' ').next()?, stat.rsplit_once(") ")?.1);
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let terminal = fields.next()?.parse().ok()?;
    Some(Seen {
        pid: head.parse().ok()?,
        parent,
        group,
        session,
        terminal,
        dead: matches!(state, "Z" | "X"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc() {
        let line = "42 (a) Z (b) S 7 42 40 34817 42 4194304 1 2";
        let want = Seen {
            pid: 42,
            parent: 7,
            group: 42,
            session: 40,
            terminal: 34817,
            dead: false,
        };
        assert_eq!(seen(line), Some(want));
        assert!(processes().iter().any(|p| p.pid == std::process::id().cast_signed()));
    }
}
