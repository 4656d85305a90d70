//! Limits of slices where systemd owns the tree: it is told by `systemctl`.

use std::{io, path::PathBuf, process::Command};

use crate::plan::quota::WorkspaceQuota;

/// Limits of all slices whose name begins with `berth-` (systemd.unit(5)): the default quota, as the administrator sets it.
pub(super) const DROP_INS: &str = "/etc/systemd/system/berth-.slice.d";

/// Why a quota is not held.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    #[error("cannot {what} {path}: {source}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot run systemctl: {0}")]
    Systemctl(io::Error),
    #[error(
        "systemctl set-property {slice} failed: {said}; a unit without CAP_SYS_ADMIN may not: leave [workspace] out and keep the limits in {DROP_INS}/*.conf"
    )]
    Refused { slice: String, said: String },
    #[error("the unit that sets limits from outside of the sandbox: {0}")]
    Outside(String),
}

/// Tells systemd; blocks.
pub(super) fn set_property(slice: &str, quota: &WorkspaceQuota) -> Result<(), SliceError> {
    let ran = Command::new("systemctl")
        .args(["set-property", "--runtime", slice])
        .args(properties(quota))
        .output()
        .map_err(SliceError::Systemctl)?;
    if !ran.status.success() {
        return Err(SliceError::Refused {
            slice: slice.to_owned(),
            said: String::from_utf8_lossy(&ran.stderr).trim().to_owned(),
        });
    }
    Ok(())
}

/// The quota as properties of a slice (systemd.resource-control(5)).
fn properties(quota: &WorkspaceQuota) -> [String; 4] {
    let hundredths = quota.nano_cpus / 100_000;
    [
        format!("CPUQuota={}.{:02}%", hundredths / 100, hundredths % 100),
        format!("MemoryMax={}", quota.memory),
        "MemorySwapMax=0".to_owned(),
        format!("TasksMax={}", quota.pids),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: WorkspaceQuota = WorkspaceQuota {
        nano_cpus: 1_500_000_000,
        memory: 1 << 30,
        pids: 300,
        by_default: false,
    };

    #[test]
    fn systemd_is_told_in_its_own_words() {
        let words = [
            "CPUQuota=150.00%",
            "MemoryMax=1073741824",
            "MemorySwapMax=0",
            "TasksMax=300",
        ];
        assert_eq!(properties(&QUOTA), words);
        let small = WorkspaceQuota {
            nano_cpus: 52_500_000,
            ..QUOTA
        };
        assert_eq!(properties(&small)[0], "CPUQuota=5.25%");
    }
}
