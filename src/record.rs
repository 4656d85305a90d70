//! F1: what the supervisor remembers of instances, workspaces, members, teams, grants and tokens, as values. The store keeps
//! them (in stored types of its own), admission and planning read them. Holds no value that could be read: environment
//! values are sealed, tokens are hashes.

mod roles;
mod table;
pub mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use crate::{
    catalog::InstanceType,
    model::{
        Allowlist, Desired, Grantee, InstanceId, InstanceName, Level, MemberName, Network, PassphraseHash, Processes,
        Resolved, Role, SignIn, Size, Source, Subject, TeamId, TokenId, TokenScope, TypeName, WorkspaceLimits,
        WorkspaceName, WorkspaceRole,
    },
};

pub use roles::Roles;
pub use table::{Differing, Table};

/// The last change of a record's settings that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Counts the changes; its making is the first.
    pub revision: u64,
    pub at: jiff::Timestamp,
    /// Who asked for it, as the log names them.
    pub by: Arc<str>,
}

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
    /// The last change of its settings; none where nobody has changed them since that is noted.
    pub edited: Option<Edit>,
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

    /// The version of what it runs: of its package or image, or else the tag of its type's image.
    pub fn version(&self) -> Option<&str> {
        match self.sourced.as_ref() {
            Some(sourced) => sourced.resolved.as_ref().map(|r| r.version.as_str()),
            None => self.spec.image.reference.rsplit_once(':').map(|(_, tag)| tag),
        }
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
    /// What may be run in it, of what the configuration allows.
    pub allow: Allowlist,
    /// The last change of its settings; none where nobody has changed them since that is noted.
    pub edited: Option<Edit>,
}

impl WorkspaceRecord {
    /// What it may use: each limit its own, or that of the configuration's `[workspace]`, which is `configured`.
    pub fn limits(&self, configured: &WorkspaceLimits) -> WorkspaceLimits {
        let own = self.quota.unwrap_or_default();
        WorkspaceLimits {
            nano_cpus: own.nano_cpus.or(configured.nano_cpus),
            memory: own.memory.or(configured.memory),
            pids: own.pids.or(configured.pids),
            disk: own.disk.or(configured.disk),
            instances: own.instances.or(configured.instances),
            calls_per_second: own.calls_per_second.or(configured.calls_per_second),
            calls_at_once: own.calls_at_once.or(configured.calls_at_once),
        }
    }
}

/// A person of the box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    pub name: MemberName,
    /// Of the box, and so of all workspaces.
    pub owner: bool,
    /// What they are in each workspace that they are in.
    pub workspaces: Roles,
    pub created_at: jiff::Timestamp,
    /// Since when they are let in nowhere.
    pub disabled_at: Option<jiff::Timestamp>,
    /// The last change of its settings; none where nobody has changed them since that is noted.
    pub edited: Option<Edit>,
}

impl MemberRecord {
    /// An owner, made at that time.
    pub fn owner(name: MemberName, created_at: jiff::Timestamp) -> Self {
        Self {
            name,
            owner: true,
            workspaces: Roles::default(),
            created_at,
            disabled_at: None,
            edited: None,
        }
    }

    /// Whether they are let in as an owner.
    pub fn is_owner(&self) -> bool {
        self.owner && self.disabled_at.is_none()
    }

    /// Whether they are an admin of a workspace; an owner is asked for elsewhere.
    pub fn administers(&self, workspace: &WorkspaceName) -> bool {
        self.workspaces.get(workspace) == Some(WorkspaceRole::Admin)
    }

    /// `owner`, or the highest that they are in a workspace.
    pub fn role(&self) -> Role {
        let highest = self.workspaces.highest();
        match self.owner {
            true => Role::Owner,
            false => highest.map_or(Role::Member, Role::from),
        }
    }
}

/// How a member signs in with a browser. Whoever has none cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInRecord {
    pub member: MemberName,
    /// When that member was made: somebody who gets the name later has nothing of it.
    pub since: jiff::Timestamp,
    /// Rises with each passphrase and each reset: what was shown of an earlier one counts for nothing.
    pub epoch: u64,
    pub passphrase: Option<PassphraseHash>,
    pub totp: Option<TotpRecord>,
    /// SHA-256 of the recovery codes that were not used.
    pub recovery: BTreeSet<[u8; 32]>,
    pub link: Option<LinkRecord>,
}

impl SignInRecord {
    /// Of a member who has nothing yet.
    pub fn none(member: &MemberRecord) -> Self {
        Self {
            member: member.name.clone(),
            since: member.created_at,
            epoch: 0,
            passphrase: None,
            totp: None,
            recovery: BTreeSet::new(),
            link: None,
        }
    }

    /// As it is shown.
    pub fn state(&self, now: jiff::Timestamp) -> SignIn {
        match (&self.passphrase, &self.totp, &self.link) {
            (Some(_), Some(_), _) => SignIn::TwoSteps,
            (Some(_), None, _) => SignIn::Passphrase,
            (None, _, Some(link)) if link.expires_at > now => SignIn::Invited,
            (None, ..) => SignIn::None,
        }
    }
}

/// The second step of a sign-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TotpRecord {
    pub secret: Sealed,
    /// The step of the last code that was used; none up to it is taken.
    pub last: u64,
}

/// A link that sets a passphrase. The secret is not here, only its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRecord {
    pub hash: [u8; 32],
    pub expires_at: jiff::Timestamp,
}

/// A group of members of one workspace, who are granted things together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamRecord {
    pub id: TeamId,
    pub members: BTreeSet<MemberName>,
    pub created_at: jiff::Timestamp,
    /// The last change of its settings; none where nobody has changed them since that is noted.
    pub edited: Option<Edit>,
}

/// Who is granted which instance: there is one grant of each such pair.
pub type GrantKey = (Grantee, InstanceId);

/// What a member or a team was granted of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRecord {
    pub key: GrantKey,
    pub level: Level,
    /// From then on it opens nothing.
    pub until: Option<jiff::Timestamp>,
    pub created_at: jiff::Timestamp,
    /// Who made it.
    pub by: Arc<str>,
    /// As last flushed.
    pub last_used_at: Option<jiff::Timestamp>,
    /// The last change of its settings; none where nobody has changed them since that is noted.
    pub edited: Option<Edit>,
}

/// The hash of an idempotency key and of whose it is.
pub type AnswerId = [u8; 32];

/// What a write with an idempotency key came to and was answered, sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRecord {
    pub id: AnswerId,
    /// Whose key it is.
    pub who: String,
    /// When the write was done.
    pub at: jiff::Timestamp,
    pub sealed: Sealed,
}

/// A token, of an instance or of a member. The secret is not here, only its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: TokenId,
    pub hash: [u8; 32],
    pub subject: Subject,
    pub name: Arc<str>,
    pub created_at: jiff::Timestamp,
    pub expires_at: Option<jiff::Timestamp>,
    /// As last flushed; the live value is in the token table.
    pub last_used_at: Option<jiff::Timestamp>,
    /// The address that it was last used from, flushed with it.
    pub last_used_from: Option<IpAddr>,
    /// How far it reaches; of an instance's token always [`TokenScope::All`].
    pub scope: TokenScope,
    /// Who made it, and so has seen it; none where an older berth did not note it.
    pub by: Option<Arc<str>>,
    /// The last change of its settings; none where nobody has changed them since that is noted.
    pub edited: Option<Edit>,
}
