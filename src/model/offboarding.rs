//! What ends with a member's access: the report that a box makes when it disables one, and signs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BoxId, InstanceId, InstanceName, MemberName, MemberView, TokenId, WorkspaceName};

/// What was cut when a member was disabled, and what is left to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OffboardingReport {
    #[serde(rename = "box")]
    pub box_id: BoxId,
    pub member: MemberName,
    pub at: jiff::Timestamp,
    /// Who disabled them.
    pub by: String,
    /// Their tokens, which are revoked.
    pub tokens: Vec<EndedToken>,
    /// Tokens of instances that they made and have seen. These go on, since others may use them: rotate or revoke each.
    pub instance_tokens: Vec<KnownToken>,
    /// Requests and streams that were cut.
    pub cut: Vec<EndedWay>,
    /// MCP sessions that were ended in instances.
    pub mcp_sessions: Vec<EndedSessions>,
    /// Sessions at screens that were ended, and links to screens that open nothing any more.
    pub screen_sessions: usize,
    /// Credentials whose value they set last, and may know: give each another value.
    pub credentials: Vec<KnownCredential>,
}

/// A token that was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndedToken {
    pub id: TokenId,
    pub name: String,
    pub last_used_at: Option<jiff::Timestamp>,
}

/// A token of an instance that a member made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KnownToken {
    pub id: TokenId,
    pub instance: InstanceId,
    pub name: String,
}

/// What was open by one of the tokens at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndedWay {
    pub token: TokenId,
    /// None: the API.
    pub instance: Option<InstanceId>,
    /// Requests without an answer yet, and streams.
    pub open: usize,
}

/// The MCP sessions that were ended in one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndedSessions {
    pub instance: InstanceId,
    /// None: its agent did not say in time. Nobody reaches them any more, and they end by themselves.
    pub ended: Option<usize>,
}

/// A credential whose value a member set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KnownCredential {
    pub instance: InstanceId,
    pub instance_name: InstanceName,
    pub workspace: WorkspaceName,
    pub key: String,
    pub set_at: jiff::Timestamp,
}

/// A member who was disabled, and the report of it under the box's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Offboarded {
    #[serde(flatten)]
    pub member: MemberView,
    pub report: OffboardingReport,
    /// The report as JSON, byte for byte as it was signed.
    pub signed: String,
    /// Ed25519 (RFC 8032) over the bytes of `signed`, in base64.
    pub signature: String,
    /// The public key of the box, in base64; `box.signing_key` of its status.
    pub signing_key: String,
}
