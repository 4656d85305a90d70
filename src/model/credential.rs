//! What a type asks of whoever deploys it, and what is told of a value that was given: never the value.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a value is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    /// May be seen while it is typed: an address, a user's name.
    Text,
    /// Not shown while it is typed.
    Password,
    /// What a file holds (a kubeconfig, a service account): the server finds a file in memory, and its path in the variable.
    File,
}

impl CredentialKind {
    /// All, as type files name them.
    pub const ALL: [(&'static str, CredentialKind); 3] = [
        ("text", CredentialKind::Text),
        ("password", CredentialKind::Password),
        ("file", CredentialKind::File),
    ];

    /// As type files name it.
    pub fn as_str(self) -> &'static str {
        match self {
            CredentialKind::Text => "text",
            CredentialKind::Password => "password",
            CredentialKind::File => "file",
        }
    }
}

/// One `[[credential]]` of a type: a variable of the server's environment that people give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Credential {
    /// The variable's name.
    pub key: String,
    /// What people call it.
    pub label: String,
    pub kind: CredentialKind,
    /// Where to get it.
    pub help: String,
    /// Nothing runs without it.
    pub required: bool,
    /// A regular expression that the whole value must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// A variable of one instance as it is listed. There is no field for its value: nobody can read one back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CredentialView {
    pub key: String,
    /// Empty where the type does not ask for it.
    pub label: String,
    pub kind: CredentialKind,
    pub help: String,
    pub required: bool,
    /// Whether it has a value.
    pub set: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_at: Option<jiff::Timestamp>,
    /// Who gave it: `root`, `uid 1000`, a member's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_by: Option<String>,
}
