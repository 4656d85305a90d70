//! Everything that can be asked of a box, and which of it an action is. A new action has a verb here, or nothing compiles.

use super::Target;
use crate::model::{Action, Subject};

macro_rules! verbs {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
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
        }
    };
}

verbs! {
    /// The page at `/`.
    SeePage = "see-page",
    /// What a stranger is told who wants to claim the box.
    SeeClaim = "see-claim",
    Claim = "claim",
    /// To come in at all by the admin API.
    UseApi = "use-api",
    ReadStatus = "read-status",
    ReadClaimCode = "read-claim-code",
    ReadMetrics = "read-metrics",
    ReadCa = "read-ca",
    RunDoctor = "run-doctor",
    ResetAdmin = "reset-admin",
    ReadTypes = "read-types",
    ReadImages = "read-images",
    LoadImages = "load-images",
    /// That a token exists, and when it was used.
    ReadToken = "read-token",
    CreateToken = "create-token",
    RevokeToken = "revoke-token",
    /// That an instance exists, and how it is.
    ReadInstance = "read-instance",
    /// Which variables it has; never a value.
    ReadCredentials = "read-credentials",
    ReadLogs = "read-logs",
    ReadDeployLog = "read-deploy-log",
    ReadTools = "read-tools",
    /// An MCP message to its server.
    Call = "call",
    /// To look at its screen, or to take a picture of it.
    ViewScreen = "view-screen",
    ControlScreen = "control-screen",
    Run = "run",
    Stop = "stop",
    Start = "start",
    Recreate = "recreate",
    Remove = "remove",
    Pin = "pin",
    Try = "try",
    Upgrade = "upgrade",
    SetCredential = "set-credential",
    UnsetCredential = "unset-credential",
}

/// What an action asks for.
pub fn asked(action: &Action) -> (Verb, Target<'_>) {
    let on = Target::Instance;
    match action {
        Action::Run(_) => (Verb::Run, Target::Box),
        Action::Stop { id } => (Verb::Stop, on(id)),
        Action::Start { id } => (Verb::Start, on(id)),
        Action::Recreate { id } => (Verb::Recreate, on(id)),
        Action::Remove { id } => (Verb::Remove, on(id)),
        Action::CreateToken { subject, .. } => match subject {
            Subject::Instance(id) => (Verb::CreateToken, on(id)),
            Subject::Member(name) => (Verb::CreateToken, Target::Member(name)),
        },
        Action::RevokeToken { id } => (Verb::RevokeToken, Target::Token(id)),
        Action::Claim { .. } => (Verb::Claim, Target::Box),
        Action::ResetAdmin => (Verb::ResetAdmin, Target::Box),
        Action::Pin { id, .. } => (Verb::Pin, on(id)),
        Action::Try { id, .. } => (Verb::Try, on(id)),
        Action::Upgrade { id, .. } => (Verb::Upgrade, on(id)),
        Action::SetCredential { id, .. } => (Verb::SetCredential, on(id)),
        Action::UnsetCredential { id, .. } => (Verb::UnsetCredential, on(id)),
    }
}
