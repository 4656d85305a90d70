//! F2: the kernel's credentials (credentials(7), capabilities(7)). Process 1 of a container begins as root with few
//! capabilities ([`AGENT_CAPABILITIES`](crate::model::AGENT_CAPABILITIES)) and becomes a user of its own, which keeps
//! what it takes to start and end processes of another user. What it starts has no capability, and can get none.
//! Changes the calling process only. Makes system calls and nothing else, so that it may be used between fork and exec.

use std::io;

use nix::sys::prctl::{set_dumpable, set_keepcaps, set_no_new_privs};

use crate::model::{AGENT_USER, SERVER_USER, User};

/// `_LINUX_CAPABILITY_VERSION_3` (capget(2)): sets of 64 bits, in two halves.
const VERSION: u32 = 0x2008_0522;
/// `CAP_KILL`, `CAP_SETGID`, `CAP_SETUID` (linux/capability.h), as bits of the lower half.
const KEPT: u32 = 1 << 5 | 1 << 6 | 1 << 7;
/// Capabilities have numbers below this one.
const NUMBERS: libc::c_long = 64;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Whether this process may administer the system (CAP_SYS_ADMIN of capabilities(7), which is number 21).
pub fn may_administer() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << 21) != 0)
}

/// From root to the agent's user, with what it keeps. Nothing that it starts can have more than nothing: the bounding
/// set is emptied.
///
/// # Errors
/// As the kernel refused it: it was not started as root with the capabilities that it needs. The process must not go on.
pub fn become_agent() -> io::Result<()> {
    empty_bounds()?;
    set_keepcaps(true)?;
    become_user(AGENT_USER)?;
    set_keepcaps(false)?;
    set_capabilities(KEPT)?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_long)?;
    set_no_new_privs()?;
    // Of another user than the rest, and still nobody's to trace or read.
    set_dumpable(false)?;
    Ok(())
}

/// From the agent's user to the server's, without any capability. Until it runs another program, nobody of that user
/// can read what is left of the agent's memory in it.
///
/// # Errors
/// As the kernel refused it. The process must not go on.
pub fn become_server() -> io::Result<()> {
    become_user(SERVER_USER)?;
    set_dumpable(false)?;
    set_capabilities(0)
}

/// With its own group as the only further one, as engines have it. The calls themselves: the C library's would tell other
/// threads, of which a child has none.
fn become_user(user: User) -> io::Result<()> {
    let (uid, gid) = (libc::c_long::from(user.uid), libc::c_long::from(user.gid));
    #[allow(unsafe_code)] // raw system calls
    // SAFETY: numbers, and a list of one group, which lives until the call returns.
    let done = unsafe {
        libc::syscall(libc::SYS_setgroups, 1 as libc::c_long, &raw const user.gid) == 0
            && libc::syscall(libc::SYS_setresgid, gid, gid, gid) == 0
            && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the permitted and the effective set, and empties the inheritable one.
fn set_capabilities(lower: u32) -> io::Result<()> {
    let header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |bits| Half {
        effective: bits,
        permitted: bits,
        inheritable: 0,
    };
    let sets = [half(lower), half(0)];
    #[allow(unsafe_code)] // no safe interface
    // SAFETY: both have the layout of linux/capability.h for this version, and live until the call returns.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn empty_bounds() -> io::Result<()> {
    for number in 0..NUMBERS {
        match prctl(libc::PR_CAPBSET_DROP, number) {
            // There are no more.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

fn prctl(option: libc::c_int, argument: libc::c_long) -> io::Result<()> {
    let none = 0 as libc::c_long;
    #[allow(unsafe_code)] // nix has neither of the two options
    // SAFETY: both options take numbers.
    let done = unsafe { libc::prctl(option, argument, none, none, none) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, os::unix::process::CommandExt, process::Command};

    /// `/proc/self/status` of a program that was started after this; None where the tests have no rights to lose.
    fn after(change: fn() -> io::Result<()>) -> Option<BTreeMap<String, String>> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let mut c = Command::new("cat");
        c.arg("/proc/self/status");
        #[allow(unsafe_code)]
        // SAFETY: system calls alone.
        unsafe {
            c.pre_exec(change);
        }
        let out = c.output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let text = String::from_utf8(out.stdout).unwrap();
        let fields = text.lines().filter_map(|l| l.split_once(':'));
        Some(fields.map(|(k, v)| (k.to_owned(), v.trim().to_owned())).collect())
    }

    #[test]
    fn what_the_agent_starts_has_no_right_and_can_get_none() {
        let both = || {
            become_agent()?;
            become_server()
        };
        for (change, uid) in [(both as fn() -> io::Result<()>, "10001"), (become_agent, "10000")] {
            let Some(status) = after(change) else { return };
            for kind in ["Uid", "Gid"] {
                assert_eq!(status[kind], [uid; 4].join("\t"), "{kind}");
            }
            assert_eq!(status["Groups"], uid);
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(status[set], "0000000000000000", "{set}");
            }
            assert_eq!(status["NoNewPrivs"], "1");
        }
    }

    #[test]
    fn without_rights_to_change_it_is_an_error() {
        let nobody = || {
            become_user(SERVER_USER)?;
            assert!(become_agent().is_err() && become_server().is_err());
            Ok(())
        };
        if let Some(status) = after(nobody) {
            assert_eq!(status["Uid"], ["10001"; 4].join("\t"));
        }
    }
}
