//! F1: what the supervisor remembers of instances, workspaces, members and tokens, as values. The store keeps them (in stored types
//! of its own), admission and planning read them. Holds no value that could be read: environment values are sealed,
//! tokens are hashes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    catalog::InstanceType,
    model::{
        Desired, InstanceId, InstanceName, MemberName, Network, Processes, Resolved, Role, Size, Source, Subject,
        TokenId, TypeName, WorkspaceLimits, WorkspaceName,
    },
};

/// An environment value as it rests on disk: nonce, ciphertext and tag. Only `secret.rs` can open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed(pub Vec<u8>);

/// What is told of sealed values: when each was set and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Counts the changes since the instance was run.
    pub revision: u64,
    pub set: BTreeMap<String, Mark>,
}

/// When one value was set, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub at: jiff::Timestamp,
    pub by: String,
}

/// An instance, as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRecord {
    pub id: InstanceId,
    pub name: InstanceName,
    pub workspace: WorkspaceName,
    pub size: Size,
    pub desired: Desired,
    /// Counts every `start` and `recreate`: what was true of an earlier run does not hold for this one.
    pub generation: u64,
    /// Hash of what the container is made of, computed when it was last resolved (run, recreate); the label
    /// `berth.spec` holds the same. Never recomputed, so that a newer berth does not interrupt what runs.
    pub spec_hash: String,
    pub created_at: jiff::Timestamp,
    pub env: BTreeMap<String, Sealed>,
    pub marks: Marks,
    /// The type as it was when the instance was run or recreated: changing or deleting a type file breaks nothing.
    pub spec: Arc<InstanceType>,
    /// Why the supervisor gave up, if it did; cleared by `start` and `recreate`.
    pub failure: Option<String>,
    /// For instances of generic types: what they run.
    pub sourced: Option<Box<Sourced>>,
}

/// What an instance of a generic type was asked to run, and what that came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    pub source: Source,
    /// None until it was installed or fetched; from then on every start runs exactly this.
    pub resolved: Option<Resolved>,
    /// Where the instance departs from its type.
    pub network: Option<Network>,
    pub volume: Option<String>,
    pub processes: Option<Processes>,
    pub call_timeout: Option<Duration>,
    /// Not to be upgraded.
    pub pinned: bool,
    /// The instance that this is a trial of; a trial goes by itself.
    pub trial_of: Option<InstanceId>,
}

impl InstanceRecord {
    /// Whether something must be installed or fetched before a container can be made.
    pub fn unprepared(&self) -> bool {
        self.sourced
            .as_ref()
            .is_some_and(|g| g.resolved.is_none() && !matches!(g.source, Source::Remote(_)))
    }

    /// The image that was built for it alone, or for it and others that run the same package.
    pub fn built_image(&self) -> Option<&str> {
        let sourced = self.sourced.as_ref()?;
        sourced.source.package()?;
        Some(&sourced.resolved.as_ref()?.image)
    }

    /// The name of its type.
    pub fn type_name(&self) -> &TypeName {
        &self.spec.name
    }
}

/// A workspace: a tenant of the box. Names of instances are unique within one, and what runs in it shares one quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceRecord {
    pub name: WorkspaceName,
    pub created_at: jiff::Timestamp,
    /// None: the one that the configuration says, whatever that is today.
    pub quota: Option<WorkspaceLimits>,
}

impl WorkspaceRecord {
    /// What it may use: each limit its own, or that of the configuration's `[workspace]`, which is `configured`.
    pub fn limits(&self, configured: &WorkspaceLimits) -> WorkspaceLimits {
        let own = self.quota.unwrap_or_default();
        WorkspaceLimits {
            nano_cpus: own.nano_cpus.or(configured.nano_cpus),
            memory: own.memory.or(configured.memory),
            pids: own.pids.or(configured.pids),
            instances: own.instances.or(configured.instances),
        }
    }
}

/// A person of the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    pub name: MemberName,
    pub role: Role,
    pub created_at: jiff::Timestamp,
}

/// A token, of an instance or of a member. The secret is not here, only its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: TokenId,
    pub hash: [u8; 32],
    pub subject: Subject,
    pub name: String,
    pub created_at: jiff::Timestamp,
    pub expires_at: Option<jiff::Timestamp>,
    /// As last flushed; the live value is in the token table.
    pub last_used_at: Option<jiff::Timestamp>,
}
