//! F1: the hardening list of `berth doctor --hardening`: what is known of a box in, one finding for each check out,
//! with the recommendation that it answers: CIS Docker (1.6.0), CIS Debian (Debian 12, 1.1.0), KSPP (the Kernel Self
//! Protection Project's recommended settings). A waiver stands beside its check with its reason, and waives only that
//! check's failure. Pure: it reads nothing itself; what could not be read fails its check.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

mod containers;
mod engine;
mod kernel;
mod system;

/// What was read of the box.
#[derive(Debug, Default)]
pub struct Facts {
    /// `/proc/cmdline`
    pub command_line: String,
    /// Every sysctl that [`sysctls`] names, as `/proc/sys` has it; absent where the kernel has none.
    pub sysctls: BTreeMap<String, String>,
    /// `/proc/self/mounts`, or process 1's
    pub mounts: String,
    /// `/proc/modules`
    pub modules: String,
    /// Modules that this kernel could load, by name.
    pub loadable: Vec<String>,
    /// `/sys/kernel/security/lsm`, and its `lockdown` and `apparmor/profiles`
    pub lsm: String,
    pub lockdown: String,
    pub profiles: String,
    /// `/etc/docker/daemon.json`
    pub daemon: Option<Value>,
    /// The engine's `/info`
    pub engine: Option<Value>,
    /// The engine's `inspect` of each container of this box.
    pub containers: Vec<Value>,
    /// Files and folders by path.
    pub files: BTreeMap<String, FileFacts>,
    /// Regular files with a set-uid or set-gid bit, on the root's file system.
    pub set_uid: Vec<String>,
    /// Files and folders of the root's file system that anybody may write, but for sticky folders and links.
    pub world_writable: Vec<String>,
    /// Files of the root's file system whose owner is no user, or whose group is none.
    pub unowned: Vec<String>,
    /// What listens: `tcp 0.0.0.0:443`, loopback too.
    pub listening: Vec<String>,
    /// Unit by name: whether it is active.
    pub units: BTreeMap<String, bool>,
    /// `nft list table inet berth`, where it could be asked.
    pub firewall: Option<String>,
    /// Contents of small files: `/etc/passwd`, `/etc/shadow`, journald's configuration.
    pub texts: BTreeMap<String, String>,
}

/// A file's owner and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fail,
    /// It fails, and that is intended.
    Waived,
}

/// One line of the list.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Which recommendation, such as `CIS Docker 2.15`.
    pub reference: &'static str,
    pub title: String,
    pub verdict: Verdict,
    pub found: String,
    /// Why a waiver is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// The findings as they are made.
#[derive(Debug, Default)]
struct List(Vec<Finding>);

impl List {
    /// A check that must hold.
    fn check(&mut self, reference: &'static str, title: impl Into<String>, holds: bool, found: impl Into<String>) {
        let verdict = if holds { Verdict::Pass } else { Verdict::Fail };
        self.push(reference, title.into(), verdict, found.into(), None);
    }

    /// A check whose failure is intended, for this reason; where it holds, no waiver is needed.
    fn waive(
        &mut self,
        reference: &'static str,
        title: impl Into<String>,
        holds: bool,
        found: impl Into<String>,
        reason: &'static str,
    ) {
        let verdict = if holds { Verdict::Pass } else { Verdict::Waived };
        let reason = (!holds).then_some(reason);
        self.push(reference, title.into(), verdict, found.into(), reason);
    }

    fn push(
        &mut self,
        reference: &'static str,
        title: String,
        verdict: Verdict,
        found: String,
        reason: Option<&'static str>,
    ) {
        let found = if found.is_empty() { "nothing".to_owned() } else { found };
        self.0.push(Finding {
            reference,
            title,
            verdict,
            found,
            reason,
        });
    }
}

/// The whole list.
#[must_use]
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut list = List::default();
    kernel::check(facts, &mut list);
    system::check(facts, &mut list);
    engine::check(facts, &mut list);
    containers::check(facts, &mut list);
    list.0
}

/// The sysctls that the list looks at.
pub fn sysctls() -> impl Iterator<Item = &'static str> {
    kernel::sysctls()
}

/// The files whose owner and mode it looks at.
pub use system::{FILES, TEXTS, UNITS, absent};

/// Words for a list, `none` when it is empty.
fn words(all: &[impl AsRef<str>]) -> String {
    if all.is_empty() {
        return "none".to_owned();
    }
    let all: Vec<&str> = all.iter().map(AsRef::as_ref).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests;
