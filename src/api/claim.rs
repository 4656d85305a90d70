//! Claiming a box: what a stranger is told, and what they send.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::Secret;

/// What a box says to a stranger: enough to check its certificate and to claim it, and not which version it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    pub domain: String,
    pub claimed: bool,
    /// The CA that its certificate comes from, in PEM, where that is its own.
    pub ca: Option<String>,
    /// Whether an administrator's key may claim it.
    pub key: bool,
    /// For that key to sign; in base64.
    pub nonce: String,
}

/// How a box is claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "by", deny_unknown_fields)]
pub enum Claiming {
    Code {
        code: Secret,
        /// What the token is called.
        #[serde(default)]
        name: Option<String>,
    },
    Key {
        /// As [`Hello`] gave it.
        nonce: String,
        /// Ed25519, over `berth claim v1`, a NUL byte, the SHA-256 of the certificate of the CA (32 bytes), and the bytes of the
        /// nonce; in base64.
        signature: String,
        #[serde(default)]
        name: Option<String>,
    },
}
