//! F3: process 1 in every container: dials home, receives its start order, runs the type's services and server
//! processes, bridges stdio to Streamable HTTP, and says how it is.
//!
//! One thread, one runtime, no locks of its own: tasks share state by `Rc` and never hold a borrow across a wait. Uses
//! `model`, `mcp`, `budget` and `translator` only, and a few words with the kernel (`sched`, `coredump`, `rights`). Never writes a credential anywhere but
//! into the environment of the processes it starts.
//!
//! As process 1 it leaves root behind before it does anything else, and everything that it starts is of another user than
//! itself (`rights`): nothing in the container can open its socket, read its memory or signal it. An agent that is
//! not process 1 (tests play with one) changes no user, and no supervisor would believe it.
//!
//! | task | module | ends |
//! | --- | --- | --- |
//! | pool of connections to the supervisor, one task each | [`link`] | never |
//! | reaper | [`reap`] | never |
//! | signals | this one | with the agent |
//! | ticks of the bridge | [`hub`] | never |
//! | a server process: its pipes and its end | [`process`] | with the process |
//! | a service | [`services`] | by its restart policy |
//! | the stderr of a child | [`journal`] | with the child |
//! | a greeting of an HTTP service | [`greet`] | with its answer, or after its time |
//! | a connection that speaks another protocol by now | [`switch`] | with either side |
//! | the tasks of a translator, and the connections to an HTTP service | `translator`, [`proxy`] | with the order; with their exchanges |

mod files;
mod greet;
mod hub;
mod journal;
mod link;
mod memory;
mod orders;
mod process;
mod proxy;
mod reap;
mod redact;
mod renew;
mod room;
mod screen;
mod serve;
mod services;
mod slot;
mod spawn;
mod status;
mod switch;

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// Where the supervisor listens, unless `BERTH_AGENT_SOCKET` says otherwise.
const SOCKET: &str = "/berth/run/agent.sock";
/// How long everything has to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(8);
/// How long the supervisor has to read why the agent failed.
const LAST_WORD: Duration = Duration::from_millis(700);

/// Runs the agent until it is told to stop (status 0) or cannot run (status 1).
pub fn main() -> ExitCode {
    if spawn::is_init()
        && let Err(e) = crate::rights::become_agent()
    {
        let why = "the container must start it as root with the capabilities that Berth gives; `berth recreate` makes a new one";
        journal::say("agent", &format!("cannot leave root behind: {e}; {why}"));
        return ExitCode::FAILURE;
    }
    crate::sched::batch();
    if let Err(e) = crate::coredump::forbid() {
        journal::say("agent", &format!("core dumps could not be forbidden: {e}"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            journal::say("agent", &format!("cannot start: {e}"));
            return ExitCode::FAILURE;
        }
    };
    let local = tokio::task::LocalSet::new();
    let code = local.block_on(&runtime, run());
    // Whatever is still running in other tasks ends with the process.
    std::process::exit(i32::from(code));
}

async fn run() -> u8 {
    let socket = std::env::var_os("BERTH_AGENT_SOCKET").unwrap_or_else(|| SOCKET.into());
    let reaper = match reap::Reaper::start() {
        Ok(reaper) => reaper,
        Err(e) => {
            journal::say("agent", &format!("cannot watch for ended processes: {e}"));
            return 1;
        }
    };
    let board = Rc::new(status::Board::new());
    let orders = Rc::new(orders::Orders::new(Rc::clone(&board), Rc::clone(&reaper)));
    link::start(socket.into(), Rc::clone(&orders));
    board.start_beat();
    let stopped = signals(&reaper);
    tokio::select! {
        r = stopped => {
            if let Err(e) = r {
                journal::say("agent", &format!("cannot listen for signals: {e}"));
                return 1;
            }
            orders.stop(DRAIN).await;
            0
        }
        reason = board.failed() => {
            journal::say("agent", &reason);
            tokio::time::sleep(LAST_WORD).await;
            reaper.kill_all();
            1
        }
    }
}

/// Passes SIGHUP, SIGUSR1 and SIGUSR2 on to every child's group; returns on SIGTERM or SIGINT.
async fn signals(reaper: &Rc<reap::Reaper>) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    let mut usr1 = signal(SignalKind::user_defined1())?;
    let mut usr2 = signal(SignalKind::user_defined2())?;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => reaper.signal_all(nix::sys::signal::Signal::SIGHUP),
            _ = usr1.recv() => reaper.signal_all(nix::sys::signal::Signal::SIGUSR1),
            _ = usr2.recv() => reaper.signal_all(nix::sys::signal::Signal::SIGUSR2),
        }
    }
}
