//! Values on disk: words for what the domain has as enumerations, bytes as hexadecimal, durations as milliseconds, the last
//! change of a record. A word that was written once is read for ever.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::table::Broken;
use crate::{catalog, model, record};

/// The last change of a record's settings. An older berth drops it from the rows that it writes.
#[derive(Serialize, Deserialize)]
pub(super) struct Edit {
    revision: u64,
    at: jiff::Timestamp,
    by: String,
}

pub(super) fn edit_row(edit: Option<&record::Edit>) -> Option<Edit> {
    edit.map(|e| Edit {
        revision: e.revision,
        at: e.at,
        by: e.by.to_string(),
    })
}

pub(super) fn edit(row: Option<Edit>) -> Option<record::Edit> {
    row.map(|e| record::Edit {
        revision: e.revision,
        at: e.at,
        by: e.by.into(),
    })
}

/// Pairs of a domain value and its word on disk, read in both directions.
macro_rules! words {
    ($to:ident, $from:ident, $t:ty, $what:literal, { $($v:path => $w:literal),+ $(,)? }) => {
        pub(super) fn $to(v: $t) -> String {
            match v { $($v => $w,)+ }.to_owned()
        }
        pub(super) fn $from(s: &str) -> Result<$t, Broken> {
            match s { $($w => Ok($v),)+ other => Err(format!(concat!($what, " {:?} is unknown"), other)) }
        }
    };
}
words!(role_word, role, model::Role, "role", {
    model::Role::Owner => "owner", model::Role::Admin => "admin", model::Role::Member => "member" });
words!(workspace_role_word, workspace_role, model::WorkspaceRole, "role in a workspace", {
    model::WorkspaceRole::Admin => "admin", model::WorkspaceRole::Member => "member" });
words!(level_word, level, model::Level, "level of a grant", {
    model::Level::Use => "use", model::Level::Manage => "manage" });
words!(desired_word, desired, model::Desired, "desired state", {
    model::Desired::Running => "running", model::Desired::Stopped => "stopped", model::Desired::Removed => "removed" });
words!(size_word, size, model::Size, "size", {
    model::Size::Small => "small", model::Size::Medium => "medium", model::Size::Large => "large", model::Size::Xlarge => "xlarge" });
words!(restart_word, restart, model::RestartPolicy, "restart policy", {
    model::RestartPolicy::Always => "always", model::RestartPolicy::OnFailure => "on-failure", model::RestartPolicy::Never => "never" });
words!(processes_word, processes, model::Processes, "process mode", {
    model::Processes::Session => "session", model::Processes::Shared => "shared" });
words!(kind_word, kind, catalog::Kind, "kind of type", {
    catalog::Kind::Fixed => "fixed", catalog::Kind::Npx => "npx", catalog::Kind::Uvx => "uvx",
    catalog::Kind::Image => "image", catalog::Kind::Remote => "remote" });
words!(credential_word, credential_kind, model::CredentialKind, "kind of credential", {
    model::CredentialKind::Text => "text", model::CredentialKind::Password => "password",
    model::CredentialKind::File => "file" });
words!(egress_word, egress, catalog::Egress, "egress", {
    catalog::Egress::None => "none", catalog::Egress::Internet => "internet" });
words!(seccomp_word, seccomp, catalog::Seccomp, "seccomp profile", {
    catalog::Seccomp::Default => "default", catalog::Seccomp::Browser => "browser" });

pub(super) fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn unhex(s: &str) -> Result<Vec<u8>, Broken> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = s.as_bytes().chunks(2);
    pairs
        .map(|p| match p {
            [a, b] => digit(*a).zip(digit(*b)).map(|(a, b)| a << 4 | b),
            _ => None,
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "a value is not hexadecimal".to_owned())
}

pub(super) fn text(e: impl std::fmt::Display) -> Broken {
    e.to_string()
}
