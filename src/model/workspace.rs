//! What a workspace may use.

/// What all containers of one workspace may use together, as it was asked for; None: as the box allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkspaceLimits {
    /// CPU time per wall time, in billionths of a CPU.
    pub nano_cpus: Option<i64>,
    /// Memory in bytes.
    pub memory: Option<i64>,
    /// Processes and threads.
    pub pids: Option<i64>,
}
