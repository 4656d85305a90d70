//! Starts a child: the server's user, own session and process group, killed with the agent, nothing inherited but what
//! it is given.
//!
//! Never hands on a descriptor of the agent (all are close-on-exec), a capability, nor a `BERTH_*` variable.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;

use super::reap::{Exit, Reaper};
use crate::model::{SERVER_USER, Secret, unsealed};
use crate::rights;

/// Mode of a child's pipes: they are the agent's, and the child is of another user, which may open its own standard
/// streams by name (`/dev/stderr`). Nobody else has a name for them.
const PIPE_MODE: libc::mode_t = 0o666;

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
    let value = |key: &str| environment.order.get(key).map(Secret::expose);
    let arguments = arguments
        .iter()
        .map(|argument| unsealed(argument, value))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let mut c = Command::new(program);
    c.args(arguments).env_clear().envs(inherited());
    c.envs(environment.own)
        .envs(environment.order.iter().map(|(k, v)| (k, v.expose())));
    c.stdin(if stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (parent, as_server) = (nix::unistd::getpid(), is_init());
    #[allow(unsafe_code)] // pre_exec is the only way to do this in the child
    // SAFETY: between fork and exec the closure makes system calls and touches no memory but its own copy of what it
    // captured; none of them allocates or takes a lock.
    unsafe {
        c.pre_exec(move || {
            nix::unistd::setsid()?;
            if as_server {
                for stream in i32::from(!stdin)..=2 {
                    libc::fchmod(stream, PIPE_MODE);
                }
                rights::become_server()?;
            }
            // After the change of user, which would undo it.
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

/// Whether this is the container's process 1.
pub(super) fn is_init() -> bool {
    std::process::id() == 1
}

/// The container's environment without what is the agent's own, with the server's home.
fn inherited() -> Vec<(OsString, OsString)> {
    static HOMES: OnceLock<(String, String)> = OnceLock::new();
    let own = std::env::vars_os().filter(|(k, _)| !k.as_encoded_bytes().starts_with(b"BERTH_"));
    if !is_init() {
        return own.collect();
    }
    let (root, server) = HOMES.get_or_init(|| {
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        (home(&users, 0), home(&users, SERVER_USER.uid))
    });
    // What the engine set for the user that the container was started as.
    let homed = |(k, v): (OsString, OsString)| match k == "HOME" && v == *root.as_str() {
        true => (k, server.into()),
        false => (k, v),
    };
    own.map(homed).collect()
}

/// A user's home by the text of `/etc/passwd`, or the root folder, as the engine has it.
fn home(users: &str, uid: u32) -> String {
    let lines = users.lines().map(|l| l.split(':').collect::<Vec<_>>());
    let mut homes = lines.filter(|f| f.get(2).is_some_and(|n| *n == uid.to_string()));
    let home = homes.next().and_then(|f| f.get(5).copied());
    home.filter(|h| !h.is_empty()).unwrap_or("/").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_or_the_root() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534\nmcp:x:10001:10001:MCP server:/tmp:/usr/sbin/nologin\n";
        let check = |uid, is: &str| assert_eq!(home(users, uid), is, "{uid}");
        check(0, "/root");
        check(10_001, "/tmp");
        check(65_534, "/");
        check(5, "/");
    }
}
