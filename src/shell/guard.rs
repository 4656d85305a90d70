//! What stands between a command and the two processes that must survive it: the agent (process 1) and this server.
//! The agent is of another user. Commands and this server are of the same, who may signal himself, so every command starts behind a filter of system calls
//! (seccomp(2)) that refuses to signal those two, by number, by group or by "everybody"; to change their limits; and
//! to hold a handle of a process that no filter can look through. Neither can be traced or read: they are not
//! dumpable (prctl(2), `PR_SET_DUMPABLE`). A filter is inherited and can never be taken off.

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    sock_filter, sock_fprog,
};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;
/// System calls of x86-64's other ABI start here; there are none elsewhere.
const X32: u32 = 0x4000_0000;

/// Calls whose first argument names a process: signals, its limits, its scheduling, a handle of it.
const NAMES_A_PROCESS: [libc::c_long; 10] = [
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_prlimit64,
    libc::SYS_pidfd_open,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
];
/// Calls that reach a process by a handle that may have come from anywhere.
const BY_HANDLE: [libc::c_long; 2] = [libc::SYS_pidfd_send_signal, libc::SYS_process_madvise];

/// Offsets in `struct seccomp_data`: the call's number, the architecture, the lower half of the first argument.
const NR: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST: u32 = 16;

/// A filter for the commands of the server that runs as process `server`.
#[derive(Debug, Clone)]
pub(super) struct Guard(Vec<sock_filter>);

fn load(offset: u32) -> sock_filter {
    step(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset)
}

fn step(code: u32, jt: usize, jf: usize, k: u32) -> sock_filter {
    // Offsets are within one short program.
    sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    }
}

impl Guard {
    /// Protects process 1 and `server`, which leads a group of its own number.
    pub(super) fn new(server: i32) -> Guard {
        // As the kernel sees a pid_t in the lower half of a register.
        let protected = [1, -1, server, -server].map(i32::cast_unsigned);
        let jump = BPF_JMP | BPF_JEQ | BPF_K;
        let refuse = SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
        let mut f = vec![
            load(ARCHITECTURE),
            step(jump, 1, 0, ARCH),
            step(BPF_RET | BPF_K, 0, 0, refuse),
            load(NR),
            step(BPF_JMP | BPF_JGE | BPF_K, 0, 1, X32),
            step(BPF_RET | BPF_K, 0, 0, refuse),
        ];
        for call in BY_HANDLE {
            f.push(step(jump, 0, 1, call as u32));
            f.push(step(BPF_RET | BPF_K, 0, 0, refuse));
        }
        // A call that names a process goes on to its argument, the rest is allowed.
        for (at, call) in NAMES_A_PROCESS.iter().enumerate() {
            f.push(step(jump, NAMES_A_PROCESS.len() - at, 0, *call as u32));
        }
        f.push(step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW));
        f.push(load(FIRST));
        for (at, pid) in protected.iter().enumerate() {
            f.push(step(jump, protected.len() - at, 0, *pid));
        }
        f.push(step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW));
        f.push(step(BPF_RET | BPF_K, 0, 0, refuse));
        Guard(f)
    }

    /// Puts this process, and all that come of it, behind the filter. Allocates nothing: for use between fork and exec.
    pub(super) fn close(&self) -> std::io::Result<()> {
        let program = sock_fprog {
            len: self.0.len() as u16,
            filter: self.0.as_ptr().cast_mut(),
        };
        nix::sys::prctl::set_no_new_privs()?;
        #[allow(unsafe_code)] // seccomp has no safe interface
        // SAFETY: `program` and the steps it points at live until the call returns; the kernel copies them.
        let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
        if done == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    /// Runs a shell command behind a guard of this very process.
    fn behind(script: &str) -> (bool, String) {
        let guard = Guard::new(std::process::id().cast_signed());
        let mut c = Command::new("sh");
        c.args(["-c", script]);
        #[allow(unsafe_code)]
        // SAFETY: `close` makes two system calls and allocates nothing.
        unsafe {
            c.pre_exec(move || guard.close());
        }
        let out = c.output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    #[test]
    fn the_protected_cannot_be_signalled_and_others_can() {
        let me = std::process::id();
        for target in [me.to_string(), "1".into(), "-1".into(), format!("-{me}")] {
            let (ok, said) = behind(&format!("kill -s CONT -- {target}"));
            assert!(!ok && said.to_lowercase().contains("not permitted"), "{target}: {said}");
        }
        let (ok, said) = behind("sleep 60 & kill -9 $!");
        assert!(ok, "{said}");
        let (ok, said) = behind("sh -c 'sleep 60 & kill -9 $!; ulimit -n 100; exec true'");
        assert!(ok, "limits of its own may change: {said}");
    }
}
