//! What `GET /v1/events` tells: one record that was added, changed or removed; and that lists are to be read again.

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{
    CredentialView, GrantView, InstanceId, InstanceView, MemberView, TeamView, TokenView, WorkspaceName, WorkspaceView,
};

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Its settings, and how it is: state, health, restarts.
    Instance,
    Workspace,
    Member,
    Team,
    Grant,
    Token,
    /// A variable of an instance, without its value.
    Credential,
}

impl EventKind {
    /// All, as events name them.
    pub const WORDS: &[&str] = &[
        "instance",
        "workspace",
        "member",
        "team",
        "grant",
        "token",
        "credential",
    ];

    /// As events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Workspace => "workspace",
            Self::Member => "member",
            Self::Team => "team",
            Self::Grant => "grant",
            Self::Token => "token",
            Self::Credential => "credential",
        }
    }
}

/// What happened to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventChange {
    Added,
    Changed,
    Removed,
}

impl EventChange {
    /// As events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// A record as the list of its kind shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EventRecord {
    Instance(Box<InstanceView>),
    Workspace(Box<WorkspaceView>),
    Member(Box<MemberView>),
    Team(Box<TeamView>),
    Grant(Box<GrantView>),
    Token(Box<TokenView>),
    Credential(Box<CredentialView>),
}

/// The data of an event: what happened to one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Event {
    pub kind: EventKind,
    pub change: EventChange,
    /// Its id; of a workspace and a member the name, of a team `WORKSPACE/NAME`, of a grant who has it and the id of the
    /// instance (`anna abcdefghij`, `team:default/eng abcdefghij`), of a credential the id of the instance and the variable
    /// (`abcdefghij API_KEY`).
    pub id: String,
    /// What people call it. Of a grant: who has it; of a credential: the variable.
    pub name: String,
    /// The workspace that it is in; none of what is in no single one.
    pub workspace: Option<WorkspaceName>,
    /// The instance that it is or belongs to.
    pub instance: Option<InstanceId>,
    /// When the box noticed.
    pub at: jiff::Timestamp,
    /// As the list of its kind shows it to whoever asks; none where it was removed.
    pub record: Option<EventRecord>,
}

/// Why lists are to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResetCause {
    /// What whoever asks may see has changed.
    Rights,
    /// The event to go on from is too old: what followed it is not kept any more.
    TooOld,
    /// Events were not taken as fast as they came.
    TooSlow,
    /// The id to go on from is of another run of the supervisor, or none.
    UnknownId,
}

/// The data of an event `reset`: events may be missing before it, and lists are to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Reset {
    pub why: ResetCause,
}
