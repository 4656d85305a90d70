//! Everything that can be asked of a box, and which of it an action is. A new action has a verb here, or nothing compiles.

use super::Target;
use crate::model::{Action, Level, Role, Subject, WorkspaceName};

/// What a verb is about, where nothing narrower is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The box as a whole.
    Box,
    Instance,
    Workspace,
    Member,
    /// What a member is in a workspace.
    Membership,
    Team,
    Grant,
    /// One of an instance or of a member.
    Token,
}

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $text:literal $about:ident,)*) => {
        /// What somebody wants to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Verb { $($(#[$doc])* $name,)* }

        impl Verb {
            /// All of them.
            pub const ALL: &[Verb] = &[$(Verb::$name,)*];

            /// As logs and tables name it.
            pub fn as_str(self) -> &'static str {
                match self { $(Verb::$name => $text,)* }
            }

            /// What it is about.
            pub fn about(self) -> About {
                match self { $(Verb::$name => About::$about,)* }
            }
        }
    };
}

verbs! {
    /// The page at `/`.
    SeePage = "see-page" Box,
    /// What a stranger is told who wants to claim the box.
    SeeClaim = "see-claim" Box,
    Claim = "claim" Box,
    /// To come in at all by the admin API.
    UseApi = "use-api" Box,
    ReadStatus = "read-status" Box,
    ReadClaimCode = "read-claim-code" Box,
    ReadMetrics = "read-metrics" Box,
    /// Rows of the audit: all, those of a workspace, or one's own.
    ReadAudit = "read-audit" Box,
    ReadCa = "read-ca" Box,
    RunDoctor = "run-doctor" Box,
    ResetAdmin = "reset-admin" Box,
    ReadTypes = "read-types" Box,
    ReadImages = "read-images" Box,
    LoadImages = "load-images" Box,
    /// That a token exists, and when it was used.
    ReadToken = "read-token" Instance,
    CreateToken = "create-token" Instance,
    RevokeToken = "revoke-token" Token,
    RotateToken = "rotate-token" Token,
    /// That an instance exists, and how it is.
    ReadInstance = "read-instance" Instance,
    /// Which variables it has; never a value.
    ReadCredentials = "read-credentials" Instance,
    ReadLogs = "read-logs" Instance,
    ReadDeployLog = "read-deploy-log" Instance,
    ReadTools = "read-tools" Instance,
    /// An MCP message to its server.
    Call = "call" Instance,
    /// To look at its screen, or to take a picture of it.
    ViewScreen = "view-screen" Instance,
    ControlScreen = "control-screen" Instance,
    Run = "run" Workspace,
    Stop = "stop" Instance,
    Start = "start" Instance,
    Recreate = "recreate" Instance,
    Remove = "remove" Instance,
    Pin = "pin" Instance,
    Try = "try" Instance,
    Upgrade = "upgrade" Instance,
    SetCredential = "set-credential" Instance,
    UnsetCredential = "unset-credential" Instance,
    /// That a workspace exists, and what it may use.
    ReadWorkspace = "read-workspace" Workspace,
    AddWorkspace = "add-workspace" Box,
    SetQuota = "set-quota" Workspace,
    SetAllowlist = "set-allowlist" Workspace,
    RemoveWorkspace = "remove-workspace" Workspace,
    /// That a member exists, and what they are.
    ReadMember = "read-member" Member,
    AddMember = "add-member" Workspace,
    MakeOwner = "make-owner" Box,
    SetRole = "set-role" Membership,
    LeaveWorkspace = "leave-workspace" Membership,
    DisableMember = "disable-member" Member,
    EnableMember = "enable-member" Member,
    RemoveMember = "remove-member" Member,
    /// To make a link by which somebody sets their first passphrase.
    InviteMember = "invite-member" Member,
    /// To take somebody's passphrase away, and make such a link.
    ResetSignIn = "reset-sign-in" Member,
    /// One's own passphrase, second step and sessions.
    ChangeSignIn = "change-sign-in" Member,
    ReadTeam = "read-team" Team,
    AddTeam = "add-team" Team,
    RemoveTeam = "remove-team" Team,
    JoinTeam = "join-team" Team,
    LeaveTeam = "leave-team" Team,
    ReadGrant = "read-grant" Grant,
    AddGrant = "add-grant" Grant,
    RemoveGrant = "remove-grant" Grant,
}

impl Verb {
    /// How much of an instance it takes; none where no grant opens it.
    pub(super) fn level(self) -> Option<Level> {
        match self {
            Verb::ReadInstance | Verb::Call | Verb::ReadTools | Verb::ViewScreen | Verb::ControlScreen => {
                Some(Level::Use)
            }
            Verb::ReadCredentials
            | Verb::ReadLogs
            | Verb::ReadDeployLog
            | Verb::ReadToken
            | Verb::CreateToken
            | Verb::RevokeToken
            | Verb::RotateToken
            | Verb::Stop
            | Verb::Start
            | Verb::Recreate
            | Verb::Remove
            | Verb::Pin
            | Verb::Try
            | Verb::Upgrade
            | Verb::SetCredential
            | Verb::UnsetCredential => Some(Level::Manage),
            _ => None,
        }
    }
}

/// What an action asks for.
pub fn asked(action: &Action) -> (Verb, Target<'_>) {
    let on = Target::Instance;
    match action {
        Action::Run(request) => (Verb::Run, Target::Workspace(named(request.workspace.as_ref()))),
        Action::Stop { id } => (Verb::Stop, on(id)),
        Action::Start { id } => (Verb::Start, on(id)),
        Action::Recreate { id } => (Verb::Recreate, on(id)),
        Action::Remove { id } => (Verb::Remove, on(id)),
        Action::CreateToken { subject, .. } => match subject {
            Subject::Instance(id) => (Verb::CreateToken, on(id)),
            Subject::Member(name) => (Verb::CreateToken, Target::Member(name)),
        },
        Action::RevokeToken { id } => (Verb::RevokeToken, Target::Token(id)),
        Action::RotateToken { id, .. } => (Verb::RotateToken, Target::Token(id)),
        Action::Claim { .. } => (Verb::Claim, Target::Box),
        Action::ResetAdmin => (Verb::ResetAdmin, Target::Box),
        Action::Pin { id, .. } => (Verb::Pin, on(id)),
        Action::Try { id, .. } => (Verb::Try, on(id)),
        Action::Upgrade { id, .. } => (Verb::Upgrade, on(id)),
        Action::SetCredential { id, .. } => (Verb::SetCredential, on(id)),
        Action::UnsetCredential { id, .. } => (Verb::UnsetCredential, on(id)),
        Action::AddWorkspace { .. } => (Verb::AddWorkspace, Target::Box),
        Action::SetQuota { workspace, .. } => (Verb::SetQuota, Target::Workspace(workspace)),
        Action::SetAllowlist { workspace, .. } => (Verb::SetAllowlist, Target::Workspace(workspace)),
        Action::RemoveWorkspace { name } => (Verb::RemoveWorkspace, Target::Workspace(name)),
        Action::AddMember { role: Role::Owner, .. } | Action::SetRole { role: Role::Owner, .. } => {
            (Verb::MakeOwner, Target::Box)
        }
        Action::AddMember { workspace, .. } => (Verb::AddMember, Target::Workspace(named(workspace.as_ref()))),
        Action::SetRole { member, workspace, .. } => {
            (Verb::SetRole, Target::Membership(member, named(workspace.as_ref())))
        }
        Action::LeaveWorkspace { member, workspace } => (Verb::LeaveWorkspace, Target::Membership(member, workspace)),
        Action::DisableMember { name } => (Verb::DisableMember, Target::Member(name)),
        Action::EnableMember { name } => (Verb::EnableMember, Target::Member(name)),
        Action::RemoveMember { name } => (Verb::RemoveMember, Target::Member(name)),
        Action::InviteMember { name } => (Verb::InviteMember, Target::Member(name)),
        Action::ResetSignIn { name } => (Verb::ResetSignIn, Target::Member(name)),
        Action::AddTeam { workspace, name } => (Verb::AddTeam, Target::Team(workspace, name)),
        Action::RemoveTeam { workspace, name } => (Verb::RemoveTeam, Target::Team(workspace, name)),
        Action::JoinTeam { workspace, name, .. } => (Verb::JoinTeam, Target::Team(workspace, name)),
        Action::LeaveTeam { workspace, name, .. } => (Verb::LeaveTeam, Target::Team(workspace, name)),
        Action::AddGrant { to, instance, .. } => (Verb::AddGrant, Target::Grant(to, instance)),
        Action::RemoveGrant { to, instance } => (Verb::RemoveGrant, Target::Grant(to, instance)),
    }
}

fn named(workspace: Option<&WorkspaceName>) -> &WorkspaceName {
    workspace.unwrap_or_else(|| WorkspaceName::meant())
}
