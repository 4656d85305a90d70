//! What was used of the box: by day, workspace, instance and person.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was used, of what its first fields name; those that it is the sum over are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageRow {
    /// The day in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<jiff::civil::Date>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The member who called, or `instance …` where an instance's own token was shown. What an instance uses by itself is
    /// nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Requests at instances' addresses that have ended: as many as the audit has rows of the kind `call`.
    pub calls: u64,
    /// Of these, those that did not end well.
    pub errors: u64,
    /// Bytes that were sent to instances, where that was known, and bytes that they answered.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// CPU time of the containers, in seconds.
    pub cpu_seconds: f64,
    /// Memory of the containers over time, in GiB times hours.
    pub memory_gib_hours: f64,
}

impl UsageRow {
    /// Adds what another one counts; the names stay.
    pub fn add(&mut self, other: &UsageRow) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.cpu_seconds += other.cpu_seconds;
        self.memory_gib_hours += other.memory_gib_hours;
    }
}

/// What usage is summed up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageBy {
    /// Day, workspace, instance and person.
    All,
    Day,
    Workspace,
    Instance,
    Member,
}

impl UsageBy {
    /// All, as they are written.
    pub const WORDS: &[&str] = &["all", "day", "workspace", "instance", "member"];

    /// By its word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "all" => Self::All,
            "day" => Self::Day,
            "workspace" => Self::Workspace,
            "instance" => Self::Instance,
            "member" => Self::Member,
            _ => return None,
        })
    }

    /// A row without what it is summed up over.
    #[must_use]
    pub fn named(self, row: &UsageRow) -> UsageRow {
        let none = UsageRow::default();
        match self {
            Self::All => UsageRow {
                day: row.day,
                workspace: row.workspace.clone(),
                instance: row.instance.clone(),
                member: row.member.clone(),
                ..none
            },
            Self::Day => UsageRow { day: row.day, ..none },
            Self::Workspace => UsageRow {
                workspace: row.workspace.clone(),
                ..none
            },
            // An instance is of one workspace.
            Self::Instance => UsageRow {
                workspace: row.workspace.clone(),
                instance: row.instance.clone(),
                ..none
            },
            Self::Member => UsageRow {
                member: row.member.clone(),
                ..none
            },
        }
    }
}
