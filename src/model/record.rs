//! The records of a box, by what they are: which of them an action changes, and each as it is shown.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Action, Etag, GrantView, Grantee, InstanceId, InstanceView, MemberName, MemberView, TeamId, TeamView, TokenId,
    TokenView, WorkspaceName, WorkspaceView,
};

/// Which record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordId {
    Instance(InstanceId),
    Workspace(WorkspaceName),
    Member(MemberName),
    Team(TeamId),
    Grant(Grantee, InstanceId),
    Token(TokenId),
}

impl Action {
    /// The record that it changes, whatever else changes with it; none where it makes one, or changes no single one.
    pub fn record(&self) -> Option<RecordId> {
        let team = |workspace: &WorkspaceName, name: &super::TeamName| {
            RecordId::Team(TeamId {
                workspace: workspace.clone(),
                name: name.clone(),
            })
        };
        Some(match self {
            Action::Stop { id }
            | Action::Start { id }
            | Action::Recreate { id }
            | Action::Remove { id }
            | Action::Pin { id, .. }
            | Action::Upgrade { id, .. }
            | Action::SetCredential { id, .. }
            | Action::UnsetCredential { id, .. } => RecordId::Instance(id.clone()),
            Action::RevokeToken { id } | Action::RotateToken { id, .. } => RecordId::Token(id.clone()),
            Action::SetQuota { workspace: name, .. }
            | Action::SetAllowlist { workspace: name, .. }
            | Action::RemoveWorkspace { name } => RecordId::Workspace(name.clone()),
            Action::SetRole { member: name, .. }
            | Action::LeaveWorkspace { member: name, .. }
            | Action::DisableMember { name }
            | Action::EnableMember { name }
            | Action::RemoveMember { name } => RecordId::Member(name.clone()),
            Action::RemoveTeam { workspace, name }
            | Action::JoinTeam { workspace, name, .. }
            | Action::LeaveTeam { workspace, name, .. } => team(workspace, name),
            Action::AddGrant { to, instance, .. } | Action::RemoveGrant { to, instance } => {
                RecordId::Grant(to.clone(), instance.clone())
            }
            // A trial is an instance of its own; a new token, and how somebody signs in, changes nothing of their record.
            Action::Run(_)
            | Action::Try { .. }
            | Action::CreateToken { .. }
            | Action::Claim { .. }
            | Action::InviteMember { .. }
            | Action::ResetSignIn { .. }
            | Action::ResetAdmin
            | Action::AddWorkspace { .. }
            | Action::AddMember { .. }
            | Action::AddTeam { .. } => return None,
        })
    }
}

/// A record as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Record {
    Instance(InstanceView),
    Workspace(WorkspaceView),
    Member(MemberView),
    Team(TeamView),
    Grant(GrantView),
    Token(TokenView),
}

impl Record {
    /// Its tag.
    pub fn etag(&self) -> &Etag {
        match self {
            Record::Instance(view) => &view.etag,
            Record::Workspace(view) => &view.etag,
            Record::Member(view) => &view.etag,
            Record::Team(view) => &view.etag,
            Record::Grant(view) => &view.etag,
            Record::Token(view) => &view.etag,
        }
    }
}
