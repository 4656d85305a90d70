//! How a member signs in with a browser: what is kept of a passphrase, and the link by which somebody sets one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MemberName, Secret};

/// A link by which somebody sets a passphrase opens nothing after so many days.
pub const SIGN_IN_LINK_DAYS: i64 = 3;

/// What is kept of a passphrase: its Argon2id hash (RFC 9106), with what that was made by. It never says the passphrase.
#[derive(Clone, PartialEq, Eq)]
pub struct PassphraseHash {
    /// Memory in KiB.
    pub memory: u32,
    pub passes: u32,
    pub lanes: u32,
    pub salt: [u8; 16],
    pub hash: [u8; 32],
}

impl std::fmt::Debug for PassphraseHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PassphraseHash(…)")
    }
}

/// How a member signs in to the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignIn {
    /// Not at all: nobody has invited them.
    #[default]
    None,
    /// Not yet: there is a link that nobody has used.
    Invited,
    /// With a passphrase.
    Passphrase,
    /// With a passphrase and a code that an app makes (TOTP).
    TwoSteps,
}

impl SignIn {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            SignIn::None => "none",
            SignIn::Invited => "invited",
            SignIn::Passphrase => "passphrase",
            SignIn::TwoSteps => "two steps",
        }
    }
}

/// A link by which a member sets a passphrase, the one time that it is shown. It works once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SignInLink {
    pub member: MemberName,
    /// Where to open it. The secret is behind the `#`, which no browser sends to a server.
    pub url: Secret,
    pub expires_at: jiff::Timestamp,
}

/// The account of whoever claims a box with a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccount {
    pub member: MemberName,
    pub passphrase: PassphraseHash,
}
