//! What anybody may ask of the supervisor, as one closed enum: the admin API, the CLI and later the console all
//! end here. Admission answers at once, with a typed refusal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    InstanceId, InstanceName, InstanceView, MemberName, Network, Processes, Secret, Size, Source, Subject, TokenId,
    TypeName, WorkspaceName,
};

/// A request that changes something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    Run(RunRequest),
    Stop {
        id: InstanceId,
    },
    Start {
        id: InstanceId,
    },
    Recreate {
        id: InstanceId,
    },
    Remove {
        id: InstanceId,
    },
    CreateToken {
        #[serde(flatten)]
        subject: Subject,
        name: Option<String>,
        expires_at: Option<jiff::Timestamp>,
    },
    RevokeToken {
        id: TokenId,
    },
    /// Makes the administrator, and the first token of theirs. Whoever asks has shown that they may.
    Claim {
        /// What the token is for.
        name: Option<String>,
    },
    /// Removes every member with all their tokens: the box is unclaimed then. Only on the box itself.
    ResetAdmin,
    /// Keeps the version of an instance of `npx` or `uvx` (or lets it go again).
    Pin {
        id: InstanceId,
        pinned: bool,
    },
    /// Runs another version of such an instance beside it, for a short while, with the same variables: to see what it
    /// would change. Answers the trial, which is an instance like any other.
    Try {
        id: InstanceId,
        /// The newest where none is given.
        version: Option<String>,
    },
    /// Gives such an instance what its trial was installed with.
    Upgrade {
        id: InstanceId,
        trial: InstanceId,
    },
}

/// What `berth run` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    #[serde(rename = "type")]
    pub type_name: TypeName,
    /// Default: the type's name, with a number where that is taken.
    #[serde(default)]
    pub name: Option<InstanceName>,
    /// Default: `default`.
    #[serde(default)]
    pub workspace: Option<WorkspaceName>,
    /// Default: the type's own.
    #[serde(default)]
    pub size: Option<Size>,
    /// Added to the server's environment; sealed at rest.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
    /// What a generic type (`npx`, `uvx`, `image`, `remote`) is to run; for no other type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The bearer token, or the value of the header, that a remote server wants; sealed at rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_secret: Option<Secret>,
    /// For generic types only; the type's own otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// For generic types only: where a volume of the instance's own is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// For generic types only: a server process for each session, or one for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Processes>,
}

impl RunRequest {
    /// Runs a type with everything else as the type has it.
    pub fn of(type_name: TypeName) -> Self {
        Self {
            type_name,
            name: None,
            workspace: None,
            size: None,
            env: BTreeMap::new(),
            source: None,
            remote_secret: None,
            network: None,
            volume: None,
            processes: None,
        }
    }
}

/// What an accepted action came to. It is durable when this is returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// The instance as it stands now; with its token after `Run`.
    Instance(Box<InstanceView>),
    Token(TokenCreated),
    /// Nothing to show (removal accepted, token revoked).
    Done,
}

/// A token, the one time that its secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    #[serde(flatten)]
    pub view: TokenView,
    pub token: Secret,
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    pub id: TokenId,
    #[serde(flatten)]
    pub subject: Subject,
    pub name: String,
    pub created_at: jiff::Timestamp,
    pub last_used_at: Option<jiff::Timestamp>,
    pub expires_at: Option<jiff::Timestamp>,
}

/// Why an action was not accepted. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no instance {0}; `berth list` shows what there is")]
    NoInstance(String),
    #[error("there is no token {0}; `berth token list` shows what there is")]
    NoToken(String),
    #[error("there is no member {0}; a claimed box has one, `admin`")]
    NoMember(MemberName),
    #[error(
        "this box has no administrator yet: claim it with `berth login` and the code that `berth status` shows on the box"
    )]
    Unclaimed,
    #[error("this box is claimed already; log in with a token of its administrator: `berth login URL --token -`")]
    Claimed,
    #[error("only on the box itself: its administrator is reset on its screen, or by root over its admin socket")]
    OnTheBoxOnly,
    #[error("there is no instance type {name:?}; known types: {known}")]
    NoType { name: String, known: String },
    #[error(
        "the name {name:?} is taken in workspace {workspace:?} by {by}; choose another with --name, or remove that one with `berth rm {by}`"
    )]
    NameTaken {
        name: String,
        workspace: String,
        by: InstanceId,
    },
    #[error("instance {0} is being removed; wait until `berth list` no longer shows it")]
    Removing(InstanceId),
    /// The configuration does not allow it.
    #[error("{0}")]
    NotAllowed(String),
    #[error("the box is full: {limit} {what} at most; remove some first")]
    Full { what: &'static str, limit: usize },
    #[error("{0}")]
    Invalid(String),
    #[error("the supervisor is shutting down; try again when it is back")]
    Stopping,
    #[error("the store could not keep the change ({0}); nothing was changed. Check the disk with `berth doctor`")]
    Store(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_one_field_of_its_action() {
        for (text, member) in [
            (
                r#"{"action":"create_token","instance":"abcdefghij","name":null,"expires_at":null}"#,
                false,
            ),
            (
                r#"{"action":"create_token","member":"admin","name":"laptop","expires_at":null}"#,
                true,
            ),
        ] {
            let action: Action = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&action).unwrap(), text);
            assert!(matches!(action, Action::CreateToken { subject, .. } if subject.is_member() == member));
        }
        for bad in [
            r#"{"action":"create_token","name":null}"#,
            r#"{"action":"create_token","member":"Not A Name"}"#,
            r#"{"action":"create_token","instance":"../../etc"}"#,
        ] {
            assert!(serde_json::from_str::<Action>(bad).is_err(), "{bad}");
        }
    }
}
