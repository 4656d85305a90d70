//! One stdio server process: its pipes, its end, and what it said last.
//!
//! ```text
//! running ──stop──► stdin closed ──2 s──► SIGTERM ──2 s──► SIGKILL ──► ended
//!    └──────────────────────────ends by itself─────────────────────────┘
//! ```
//!
//! Never lets a process outlive its handle, nor anything in its group outlive the process (see `reap`).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::hub::Hub;
use super::journal::{self, LastWords};
use super::reap::{Ended, Exit};
use super::spawn::{self, Environment};
use crate::mcp::bridge::ProcId;
use crate::mcp::frame::Splitter;

/// Comes before what a process said last.
pub(super) const LAST_WORDS: &str = "its last words: ";
/// How long a process has to end after its stdin was closed, and again after SIGTERM.
const STEP: Duration = Duration::from_secs(2);
/// How long the end of a process waits for the rest of its stderr.
const REST: Duration = Duration::from_millis(200);
/// A write buffer larger than this is given back when it is empty.
const RETAIN: usize = 64 * 1024;

/// What the hub holds of a process.
#[derive(Debug)]
pub(super) struct Handle {
    pid: i32,
    born: Instant,
    exit: Rc<Exit>,
    /// Its stdin has lines to write.
    pub(super) input: Notify,
    stopping: Cell<bool>,
    stopped: Notify,
    /// The agent itself sent SIGKILL.
    killed: Cell<bool>,
}

impl Handle {
    /// The process, which leads its session.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn born(&self) -> Instant {
        self.born
    }

    /// Sees to its end; returns at once.
    pub(super) fn stop(self: &Rc<Self>) {
        if self.stopping.replace(true) {
            return;
        }
        self.stopped.notify_one();
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if timeout(STEP, this.exit.wait()).await.is_ok() {
                return;
            }
            let group = Pid::from_raw(this.pid);
            let _ = killpg(group, Signal::SIGTERM);
            if timeout(STEP, this.exit.wait()).await.is_err() {
                this.killed.set(true);
                let _ = killpg(group, Signal::SIGKILL);
            }
        });
    }
}

/// Starts a server process and the tasks that serve its pipes.
pub(super) fn start(hub: &Rc<Hub>, id: ProcId) -> Result<Rc<Handle>, String> {
    let recipe = &hub.recipe;
    let environment = Environment {
        own: &recipe.env,
        order: &recipe.order,
    };
    let child = spawn::spawn(&hub.reaper, &recipe.command, &environment, true)?;
    let handle = Rc::new(Handle {
        pid: child.pid,
        born: Instant::now(),
        exit: child.exit,
        input: Notify::new(),
        stopping: Cell::new(false),
        stopped: Notify::new(),
        killed: Cell::new(false),
    });
    let words = Rc::new(LastWords::default());
    *hub.words.borrow_mut() = Rc::clone(&words);
    journal::drain(
        "server".into(),
        child.stderr,
        Arc::clone(&recipe.secrets),
        Rc::clone(&words),
    );
    if let Some(stdin) = child.stdin {
        tokio::task::spawn_local(feed(Rc::clone(hub), id, Rc::clone(&handle), stdin));
    }
    let (hub, handle2) = (Rc::clone(hub), Rc::clone(&handle));
    tokio::task::spawn_local(async move {
        let ended = read(&hub, id, &handle2, &child.stdout).await;
        let unasked = !handle2.killed.get();
        let ended = match unasked.then(|| hub.kills.account(ended)).flatten() {
            Some(why) => {
                journal::say("server", &format!("process {} {why}", handle2.pid));
                why
            }
            None => ended.to_string(),
        };
        let _ = timeout(REST, words.ended()).await;
        let said = words.text();
        let why = if said.is_empty() {
            format!("the server {ended} and wrote nothing to stderr (if it has an option for its log, turn that on)")
        } else {
            format!("the server {ended}; {LAST_WORDS}{said}")
        };
        handle2.stopping.set(true);
        handle2.stopped.notify_one();
        hub.ended(id, &why);
    });
    Ok(handle)
}

/// Writes what the bridge has for the process, as much at once as there is.
async fn feed(hub: Rc<Hub>, id: ProcId, handle: Rc<Handle>, mut stdin: pipe::Sender) {
    let mut buffer = Vec::new();
    loop {
        hub.take_input(id, &mut buffer);
        if buffer.is_empty() {
            if buffer.capacity() > RETAIN {
                buffer = Vec::new();
            }
            if handle.stopping.get() {
                return;
            }
            tokio::select! {
                () = handle.input.notified() => {}
                () = handle.stopped.notified() => return,
            }
            continue;
        }
        tokio::select! {
            written = stdin.write_all(&buffer) => {
                if written.is_err() {
                    // It has closed its stdin; its end, or its silence, is noticed elsewhere.
                    handle.stopped.notified().await;
                    return;
                }
            }
            () = handle.stopped.notified() => return,
        }
    }
}

/// Reads its stdout until it ends, and returns how it ended.
async fn read(hub: &Rc<Hub>, id: ProcId, handle: &Rc<Handle>, stdout: &pipe::Receiver) -> Ended {
    let mut splitter = Splitter::new(hub.recipe.max_message);
    loop {
        tokio::select! {
            biased;
            readable = stdout.readable() => {
                if readable.is_err() || !pump(hub, id, stdout, &mut splitter) {
                    break;
                }
            }
            ended = handle.exit.wait() => {
                // What it wrote before it ended is still in the pipe; a child of its own may hold the pipe open.
                while pump(hub, id, stdout, &mut splitter) && pending(stdout).await {}
                return ended;
            }
        }
    }
    // It closed its stdout: nothing can be answered any more.
    handle.stop();
    handle.exit.wait().await
}

async fn pending(stdout: &pipe::Receiver) -> bool {
    timeout(Duration::from_millis(1), stdout.readable()).await.is_ok()
}

/// Reads once; `false` at the end of the stream.
fn pump(hub: &Rc<Hub>, id: ProcId, stdout: &pipe::Receiver, splitter: &mut Splitter) -> bool {
    let mut scratch = hub.scratch.borrow_mut();
    match stdout.try_read(&mut scratch) {
        Ok(0) => false,
        Ok(n) => {
            hub.with(|bridge, now| splitter.feed(&scratch[..n], |line| bridge.line(now, id, &line)));
            true
        }
        Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
    }
}
