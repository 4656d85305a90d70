//! F3: the MCP server of the type `linux-command-line`: runs commands, jobs and file accesses for an assistant, as a
//! user without rights, in the container that it shares with the agent. One process serves all sessions, so that jobs
//! outlive the session that started them. Everything is bounded: output, time, jobs, file sizes; and nothing that a
//! command does reaches the agent or this server ([`guard`]).
//!
//! The display's terminal belongs to people: it runs a shell for whoever takes control, and shows what the assistant
//! runs as it happens ([`terminal`]).
//!
//! | task | ends |
//! | --- | --- |
//! | the MCP session on stdin and stdout | with stdin, and with it the server |
//! | reaper | never |
//! | a command or job: its output and its end | with it |
//! | the terminal, started again when it ends | never |

mod files;
mod guard;
mod jobs;
mod output;
mod process;
mod terminal;
mod tools;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use nix::sys::signal::{SigHandler, Signal, signal};
use rmcp::ServiceExt;
use tokio::net::unix::pipe;

/// Where commands start: the volume, which lasts.
const HOME: &str = "/data";

/// Serves MCP on stdin and stdout until stdin ends.
pub fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(serve()),
        Err(e) => Err(e.to_string()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cannot serve: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), String> {
    #[allow(unsafe_code)] // nix marks it unsafe for handlers that run code; this one does not
    // SAFETY: SIG_IGN is no handler.
    unsafe {
        signal(Signal::SIGPIPE, SigHandler::SigIgn).map_err(|e| e.to_string())?;
    }
    let processes = process::Processes::start().map_err(|e| e.to_string())?;
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from(HOME), PathBuf::from);
    let terminal = terminal::Terminal::start(&processes, &home);
    let jobs = Arc::new(jobs::Jobs::new(processes, terminal, home));
    let (stdin, stdout) = pipes().map_err(|e| format!("stdin and stdout are no pipes: {e}"))?;
    let session = tools::Tools::new(jobs)
        .serve((stdin, stdout))
        .await
        .map_err(|e| e.to_string())?;
    session.waiting().await.map(|_| ()).map_err(|e| e.to_string())
}

/// The agent's pipes, without the threads that other files would take.
fn pipes() -> std::io::Result<(pipe::Receiver, pipe::Sender)> {
    use std::os::fd::AsFd;
    let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    Ok((
        pipe::Receiver::from_owned_fd(stdin)?,
        pipe::Sender::from_owned_fd(stdout)?,
    ))
}
