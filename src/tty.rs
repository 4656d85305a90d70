//! F1: the status screen's words: what a console shows of the box, and the dialogue behind its few commands. Pure: it
//! takes facts and typed lines and gives text and [`Request`]s. It offers no way to run anything else.

mod dialog;
mod page;

use serde::{Deserialize, Serialize};

pub use dialog::{Dialog, Reply};
pub use page::{lines, page};

use crate::plan::room;

/// What is known of the box at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub version: String,
    pub supervisor: Supervisor,
    /// `192.0.2.7/24 enp0s2`.
    pub addresses: Vec<String>,
    /// The names of the wired ports.
    pub ports: Vec<String>,
    pub url: Option<String>,
    /// Of the CA certificate: SHA-256 with colons.
    pub fingerprint: Option<String>,
    pub claim: Claim,
    /// The newest row of the audit: its number and its hash.
    pub audit: Option<(u64, String)>,
    pub running: usize,
    pub failed: usize,
    /// Neither running nor failed.
    pub other: usize,
    /// What is to be said of its memory.
    pub memory: Option<String>,
    /// How full the data partition is.
    pub space: Option<Space>,
    /// `encrypted: …` or `plain: …`.
    pub disk: Option<String>,
    /// `none`, `credential`, `esp` or `seed`.
    pub site: String,
    /// Each with its file and line.
    pub site_problems: Vec<String>,
    /// Disks that the box could be installed on: only where it runs from a removable one.
    pub disks: Vec<String>,
}

/// How the supervisor does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Supervisor {
    /// It did not answer yet.
    #[default]
    Starting,
    Ready,
    /// It answered before, and does not now; or its engine fails.
    Stopped(String),
}

/// How full a disk is, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub size: u64,
    pub free: u64,
}

impl Space {
    /// In hundredths.
    pub fn used(&self) -> u64 {
        room::used(self.size, self.free)
    }
}

/// Whose the box is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Claim {
    /// The supervisor does not say.
    #[default]
    Unknown,
    /// Nobody's: the single-use code that makes it somebody's.
    Code(String),
    /// Nobody's, and only the holder of the site file's key can claim it.
    Key,
    Done,
}

/// What somebody at the console asked for, after every question was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    Restart,
    /// The administrator's access ends; a new claim code appears.
    ResetAdmin,
    /// Everything below `/var` goes at the next start, which follows at once.
    FactoryReset,
    /// `[[network]]` tables; empty: what the site file says counts again.
    Network {
        text: String,
    },
    /// Onto a disk, such as `/dev/sda`.
    Install {
        disk: String,
        erase: bool,
    },
}

#[cfg(test)]
mod tests;
