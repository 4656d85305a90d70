//! What the API takes and answers beside the types of `model`: one type for server, CLI and tests.

use std::{collections::BTreeMap, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{
    AuditHead, AuditStatus, Credential, ForwardStatus, ImportRules, MemberName, RoomView, Secret, TokenId,
};

/// What the supervisor says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    pub version: String,
    pub box_id: String,
    /// None where the box is known by its addresses.
    pub domain: Option<String>,
    /// The box's own address, as whoever asks can use it.
    pub https: String,
    pub started_at: jiff::Timestamp,
    /// `ok`, or why the engine cannot be used.
    pub engine: String,
    pub instances: BTreeMap<String, usize>,
    /// SHA-256 of the certificate that the edge shows, in hexadecimal with colons.
    pub certificate_sha256: String,
    /// Where the CA certificate lies, when it is Berth's own.
    pub ca_file: Option<String>,
    /// What does not hold on this box although it should, in words.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What the key is kept with that seals values at rest.
    pub sealing: String,
    /// The disks that the box's data lie on, each once.
    #[serde(default)]
    pub disks: Vec<DiskView>,
    /// What instances may write, where the disk holds them to it.
    #[serde(default)]
    pub room: Option<RoomView>,
    /// On a box of ours, how its data lies on its disk: `encrypted: …` or `plain: …`.
    #[serde(default)]
    pub disk: Option<String>,
    /// How the audit is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditStatus>,
    /// How the forwarding of the audit is, for each receiver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<ForwardStatus>,
    #[serde(rename = "box")]
    pub own: BoxStatus,
}

/// How full a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskView {
    /// What lies on it, in words.
    pub holds: String,
    pub size_bytes: u64,
    /// What anybody but root may still use.
    pub free_bytes: u64,
}

/// Who asks, and which box it is: what everybody may know who is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Whoami {
    /// As the log names them.
    pub name: String,
    /// The member, where it is one.
    pub member: Option<MemberName>,
    /// Whether they are an owner, or root on the box.
    pub owner: bool,
    /// The token that they showed.
    pub token: Option<TokenId>,
    pub version: String,
    pub box_id: String,
    /// As [`Status::ca_file`].
    pub ca_file: Option<String>,
    /// As [`BoxStatus::signing_key`].
    pub signing_key: String,
}

/// What the box's own screen shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BoxStatus {
    pub version: String,
    /// Whether it has an administrator.
    pub claimed: bool,
    /// Whether it serves nothing over the network before it has.
    pub claim_required: bool,
    /// Only on the box itself, and only while it is not claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_code: Option<Secret>,
    /// SHA-256 of the CA certificate, or of the certificate itself where the CA is not Berth's own; in hexadecimal with
    /// colons.
    pub ca_fingerprint: String,
    /// Its addresses on its networks.
    pub addresses: Vec<IpAddr>,
    /// As [`Status::sealing`].
    pub sealed_by: String,
    /// The public half of the key that the box signs reports with (Ed25519), in base64.
    #[serde(default)]
    pub signing_key: String,
    /// The newest row of the audit: whoever notes it down can tell later whether anything before it was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_head: Option<AuditHead>,
}

/// What `berth doctor` said on the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Doctored {
    /// Its exit status.
    pub status: u8,
    /// What it printed.
    pub output: String,
}

/// A type as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TypeView {
    pub name: String,
    pub title: String,
    pub description: String,
    pub homepage: Option<String>,
    /// `fixed`, or the kind of a generic type: `npx`, `uvx`, `image`, `remote`.
    pub kind: String,
    /// Why the configuration does not allow it, where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    pub image: String,
    /// Images that it needs, that are not on this box and cannot be fetched: it cannot run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
    /// Images that it needs and that this box is loading: instances of it wait for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loading: Vec<String>,
    pub transport: String,
    /// `session` or `shared` for stdio servers.
    pub processes: Option<String>,
    pub size: String,
    pub network: String,
    pub volume: Option<String>,
    /// Whether people can watch it.
    pub screen: bool,
    /// Which packages it stands in for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportRules>,
    /// What has to be given before it runs.
    #[serde(default)]
    pub credentials: Vec<Credential>,
}

/// An image that is on the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageView {
    pub name: String,
    /// In bytes; layers that images share are counted for each.
    pub size: u64,
    /// The types that need it.
    pub types: Vec<String>,
}

/// Asks for a link to a screen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScreenRequest {
    /// For looking only.
    #[serde(default)]
    pub view_only: bool,
}

/// A link to a screen. It opens it once, and holds a secret until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScreenLink {
    pub url: Secret,
    /// The same by path, for networks without wildcard DNS.
    pub path_url: Secret,
    pub expires_at: jiff::Timestamp,
}
