//! Limits of slices, set from outside of the supervisor's sandbox: systemd takes them from a process with CAP_SYS_ADMIN only,
//! which the supervisor does not have on the host image. A unit (`berth-quota@.service`) gets a line and answers one; it
//! trusts nothing in it.

use std::{
    fmt,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    str::FromStr,
    time::Duration,
};

use super::systemd::{SliceError, set_property};
use crate::plan::quota::WorkspaceQuota;

/// Where the unit's socket is; on the host image alone.
const SOCKET: &str = "/run/berth-quota/socket";
/// A line may be this long, in bytes.
pub const MAX_LINE: u64 = 512;
/// An answer comes within this time.
const PATIENCE: Duration = Duration::from_secs(15);
/// The answer where the limits are set.
const DONE: &str = "ok";

/// Whether there is somebody to ask.
pub fn there() -> bool {
    Path::new(SOCKET).exists()
}

/// Limits for one slice of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    slice: String,
    quota: WorkspaceQuota,
}

/// A line asks for no limits that a workspace can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the line is no `berth-BOX-WORKSPACE.slice NANO_CPUS MEMORY PIDS`")]
pub struct AskedError;

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WorkspaceQuota {
            nano_cpus,
            memory,
            pids,
            ..
        } = self.quota;
        write!(f, "{} {nano_cpus} {memory} {pids}", self.slice)
    }
}

impl FromStr for Asked {
    type Err = AskedError;

    fn from_str(line: &str) -> Result<Self, AskedError> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [slice, numbers @ ..] = &words[..] else {
            return Err(AskedError);
        };
        let numbers: Option<Vec<i64>> = numbers.iter().map(|n| n.parse().ok().filter(|n| *n > 0)).collect();
        let Some([nano_cpus, memory, pids]) = numbers.as_deref() else {
            return Err(AskedError);
        };
        is_workspaces(slice).then_some(()).ok_or(AskedError)?;
        Ok(Self {
            slice: (*slice).to_owned(),
            quota: WorkspaceQuota {
                nano_cpus: *nano_cpus,
                memory: *memory,
                pids: *pids,
                by_default: false,
            },
        })
    }
}

/// `berth-{8 of hexadecimal}-{name}.slice`: no other unit of the machine is touched.
fn is_workspaces(slice: &str) -> bool {
    let inner = slice.strip_prefix("berth-").and_then(|s| s.strip_suffix(".slice"));
    inner.and_then(|s| s.split_once('-')).is_some_and(|(id, name)| {
        id.len() == 8
            && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && (1..=64).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'_'))
    })
}

/// Asks for limits; blocks until they are set.
pub(super) fn ask(slice: &str, quota: &WorkspaceQuota) -> Result<(), SliceError> {
    let asked = Asked {
        slice: slice.to_owned(),
        quota: *quota,
    };
    let answered = || -> io::Result<String> {
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{asked}\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = answered().map_err(|source| SliceError::File {
        what: "ask at",
        path: SOCKET.into(),
        source,
    })?;
    match answer.trim() {
        DONE => Ok(()),
        "" => Err(SliceError::Outside("no answer".to_owned())),
        why => Err(SliceError::Outside(why.to_owned())),
    }
}

/// Does what a line asks for, as the unit outside. What to answer.
pub fn answer(line: &str) -> String {
    let done = line
        .parse::<Asked>()
        .map_err(|e| e.to_string())
        .and_then(|asked| set_property(&asked.slice, &asked.quota).map_err(|e| e.to_string()));
    done.map_or_else(|why| why, |()| DONE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written_and_touch_nothing_else() {
        let asked = Asked {
            slice: "berth-0123abcd-a_b.slice".into(),
            quota: WorkspaceQuota {
                nano_cpus: 1_500_000_000,
                memory: 1 << 30,
                pids: 300,
                by_default: false,
            },
        };
        let line = format!("{asked}\n");
        assert!(line.len() as u64 <= MAX_LINE);
        assert_eq!(line.parse(), Ok(asked));
        for bad in [
            "",
            "berth-0123abcd-a.slice",
            "berth-0123abcd-a.slice 1 1",
            "berth-0123abcd-a.slice 1 1 1 1",
            "berth-0123abcd-a.slice 1 1 0",
            "berth-0123abcd-a.slice -1 1 1",
            "berth-0123abcd.slice 1 1 1",
            "berth-0123abcd-.slice 1 1 1",
            "berth-0123abcd-a.service 1 1 1",
            "berth-0123abcd-a-b.slice 1 1 1",
            "system.slice 1 1 1",
            "--force 1 1 1",
            "berth-0123abcd-../a.slice 1 1 1",
        ] {
            assert_eq!(bad.parse::<Asked>(), Err(AskedError), "{bad}");
        }
    }
}
