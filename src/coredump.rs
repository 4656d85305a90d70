//! F2: the kernel's core dumps. A process that holds secrets must leave none of its memory in a file, nor show it to
//! others of its user. Changes the calling process, and what it starts later.

use nix::sys::{
    prctl::set_dumpable,
    resource::{Resource, getrlimit, setrlimit},
};

/// A dump of one byte: too short for a file (one page at least), and the kernel's own word for "none" where dumps are
/// piped to a program, which zero is not.
const NONE: u64 = 1;

/// Forbids dumps of this process and, by the limit that they inherit, of its children; and keeps others of its user from
/// its memory and environment (prctl(2), `PR_SET_DUMPABLE`; a child has that back when it runs a program).
///
/// # Errors
/// As the kernel refused it.
pub fn forbid() -> std::io::Result<()> {
    set_dumpable(false)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    // A limit that is lower already cannot be raised without a right to it, and need not be.
    if soft > NONE || hard > NONE {
        setrlimit(Resource::RLIMIT_CORE, hard.min(NONE), hard.min(NONE))?;
    }
    Ok(())
}
