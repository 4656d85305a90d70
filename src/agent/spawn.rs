//! Starts a child: own session and process group, killed with the agent, nothing inherited but what it is given.
//!
//! Never hands on a descriptor of the agent (all are close-on-exec) nor a `BERTH_*` variable.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::rc::Rc;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;

use super::reap::{Exit, Reaper};
use crate::model::Secret;

/// A child that runs, with the near ends of its pipes.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: i32,
    pub(super) exit: Rc<Exit>,
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

/// What a child's environment is made of; later parts win.
#[derive(Debug, Clone)]
pub(super) struct Environment<'a> {
    pub(super) own: &'a BTreeMap<String, String>,
    pub(super) order: &'a BTreeMap<String, Secret>,
}

/// Starts `command`; without `stdin` the child reads `/dev/null`.
///
/// # Errors
/// Says what is wrong with the command, and nothing of its environment.
pub(super) fn spawn(
    reaper: &Reaper,
    command: &[String],
    environment: &Environment<'_>,
    stdin: bool,
) -> Result<Child, String> {
    let Some((program, arguments)) = command.split_first() else {
        return Err("the command is empty".to_owned());
    };
    let mut c = Command::new(program);
    c.args(arguments).env_clear().envs(inherited());
    c.envs(environment.own)
        .envs(environment.order.iter().map(|(k, v)| (k, v.expose())));
    c.stdin(if stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let parent = nix::unistd::getpid();
    #[allow(unsafe_code)] // pre_exec is the only way to have setsid and PR_SET_PDEATHSIG in the child
    // SAFETY: between fork and exec the closure makes three system calls and touches no memory but its own copy of
    // `parent`; none of them allocates or takes a lock.
    unsafe {
        c.pre_exec(move || {
            nix::unistd::setsid()?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid() != parent {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
    let mut child = c.spawn().map_err(|e| format!("{program} cannot be started: {e}"))?;
    let pid = child.id().cast_signed();
    let exit = reaper.register(pid);
    let pipes = || -> std::io::Result<_> {
        let stdin = child
            .stdin
            .take()
            .map(|p| pipe::Sender::from_owned_fd(p.into()))
            .transpose()?;
        let missing = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let stdout = pipe::Receiver::from_owned_fd(child.stdout.take().ok_or_else(missing)?.into())?;
        let stderr = pipe::Receiver::from_owned_fd(child.stderr.take().ok_or_else(missing)?.into())?;
        Ok((stdin, stdout, stderr))
    };
    let (stdin, stdout, stderr) = pipes_or_kill(pid, pipes)?;
    Ok(Child {
        pid,
        exit,
        stdin,
        stdout,
        stderr,
    })
}

fn pipes_or_kill<T>(pid: i32, pipes: impl FnOnce() -> std::io::Result<T>) -> Result<T, String> {
    pipes().map_err(|e| {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        format!("its pipes cannot be used: {e}")
    })
}

/// The container's environment without what is the agent's own.
fn inherited() -> Vec<(OsString, OsString)> {
    std::env::vars_os()
        .filter(|(k, _)| !k.as_encoded_bytes().starts_with(b"BERTH_"))
        .collect()
}
