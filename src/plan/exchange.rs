//! What the ledger and the reconciler tell each other, as values. Pure.
//!
//! ```text
//! ledger  --DesiredState-->  reconciler      what shall be; published after its commit, never before
//! ledger  <-----Shown------  reconciler      what is, and of which version of the above: answers wait for it
//! ledger  <-----Report-----  reconciler      what was found out and is to be kept
//! ```

use std::{collections::BTreeMap, sync::Arc};

use super::room::Disk;
use crate::{
    model::{Desired, InstanceId, InstanceView, Resolved, Source, WorkspaceName},
    record::{InstanceRecord, WorkspaceRecord},
};

/// What shall be. All of it is durable. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DesiredState {
    /// Rises with every commit that changed something here; 1 is what the store held at the start.
    pub version: u64,
    pub instances: Arc<BTreeMap<InstanceId, Arc<InstanceRecord>>>,
    pub workspaces: Arc<BTreeMap<WorkspaceName, WorkspaceRecord>>,
    /// Whether the box has an administrator.
    pub claimed: bool,
}

/// What is, as far as answers and admission need it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The views are of this version of the desired state, or of a later one; 0 before there are any.
    pub version: u64,
    pub views: Arc<BTreeMap<InstanceId, InstanceView>>,
    /// The volumes' disk, where it holds them to a size and was looked at.
    pub disk: Option<Disk>,
    /// The box cannot set what the kernel holds a workspace to.
    pub fixed_quotas: bool,
}

/// What was found out about an instance, and is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// What its package or image came to, in place of what it had come to before. Of no interest where it is to run something
    /// else by now, or has been given something newer.
    Prepared {
        id: InstanceId,
        source: Source,
        before: Option<Box<Resolved>>,
        resolved: Box<Resolved>,
    },
    /// It is given up, until somebody asks anew. Of no interest where somebody has.
    GivenUp { id: InstanceId, asked: Asked, why: String },
    /// Nothing of a removed instance is left.
    Gone { id: InstanceId },
}

impl Report {
    /// Whom it is about.
    pub fn id(&self) -> &InstanceId {
        match self {
            Report::Prepared { id, .. } | Report::GivenUp { id, .. } | Report::Gone { id } => id,
        }
    }
}

/// What of a record somebody asked for. Where it differs, somebody asked anew: what was found out before is of an earlier
/// run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub desired: Desired,
    pub generation: u64,
    /// Of its credentials.
    pub revision: u64,
}

impl Asked {
    pub fn of(record: &InstanceRecord) -> Self {
        Self {
            desired: record.desired,
            generation: record.generation,
            revision: record.marks.revision,
        }
    }
}
