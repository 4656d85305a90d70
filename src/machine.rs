//! F2: the machine that the host image runs on: where its site file lies, its disks and ports, what its console asked
//! for. Every path is read from the kernel's own files or from `/dev/berth`, which udev fills with the partitions of
//! the disk that the root came from, so that a second disk with the same labels is never taken for it.

mod apply;
pub mod disk;
pub mod engine;
mod gpt;
pub mod images;
pub mod install;
pub mod look;
pub mod memory;
mod ports;
mod requests;
pub mod room;
mod sources;
mod storage;

use std::path::PathBuf;

pub use apply::{Report, apply, report};
pub use ports::{addresses, wired};
pub use requests::{answer, apply_request, ask, factory_reset_is_done, factory_reset_is_due};
pub use storage::storage;

/// What the box says of itself to its own programs; below `/run`.
pub const OWN: &str = "/run/berth-site";
/// Where the console puts what was asked for, and reads the answer.
pub const CONSOLE: &str = "/run/berth-console";

/// Something about the machine that did not work, with its path.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("cannot {what} {path}: {source}")]
    Io {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

/// For `map_err`: which step failed on which path.
fn failed(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> MachineError {
    let path = path.into();
    move |source| MachineError::Io { what, path, source }
}
