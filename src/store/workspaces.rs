//! Table `workspaces`: the tenants of the box, by name. `default` is always there. An older berth kept none, and took any
//! name: [`complete`] makes a row of each name that an instance has.

use std::collections::BTreeSet;

use redb::WriteTransaction;
use serde::{Deserialize, Serialize};

use super::{
    StoreError,
    allowlists::Allowlists,
    instances::Instances,
    table::{Broken, Rows, Table},
    words::{Edit, edit, edit_row, text},
};
use crate::{
    model::{Allowlist, WorkspaceLimits, WorkspaceName},
    record::WorkspaceRecord,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Workspace {
    created_at: jiff::Timestamp,
    /// Absent: the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quota: Option<Quota>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited: Option<Edit>,
}

#[derive(Serialize, Deserialize)]
struct Quota {
    nano_cpus: Option<i64>,
    memory: Option<i64>,
    pids: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instances: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calls_per_second: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calls_at_once: Option<u32>,
}

pub(super) struct Workspaces;

impl Table for Workspaces {
    const NAME: &'static str = "workspaces";
    const MAX_ROW: usize = 4 << 10;
    type Key = WorkspaceName;
    type Record = WorkspaceRecord;
    type Row = Workspace;

    fn key(r: &WorkspaceRecord) -> &WorkspaceName {
        &r.name
    }

    fn key_text(name: &WorkspaceName) -> std::borrow::Cow<'_, str> {
        name.as_str().into()
    }

    fn encode(r: &WorkspaceRecord) -> Workspace {
        Workspace {
            created_at: r.created_at,
            quota: r.quota.map(|q| Quota {
                nano_cpus: q.nano_cpus,
                memory: q.memory,
                pids: q.pids,
                disk: q.disk,
                instances: q.instances,
                calls_per_second: q.calls_per_second,
                calls_at_once: q.calls_at_once,
            }),
            edited: edit_row(r.edited.as_ref()),
        }
    }

    fn decode(name: &str, row: Workspace) -> Result<WorkspaceRecord, Broken> {
        Ok(WorkspaceRecord {
            name: WorkspaceName::parse(name).map_err(text)?,
            created_at: row.created_at,
            quota: row.quota.map(|q| WorkspaceLimits {
                nano_cpus: q.nano_cpus,
                memory: q.memory,
                pids: q.pids,
                disk: q.disk,
                instances: q.instances,
                calls_per_second: q.calls_per_second,
                calls_at_once: q.calls_at_once,
            }),
            // In a table of its own.
            allow: Allowlist::default(),
            edited: edit(row.edited),
        })
    }
}

/// The workspaces and their allowlists within a commit.
pub(super) struct WorkspaceRows<'t> {
    rows: Rows<'t, Workspaces>,
    allowlists: Rows<'t, Allowlists>,
}

impl<'t> WorkspaceRows<'t> {
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            rows: Rows::open(txn)?,
            allowlists: Rows::open(txn)?,
        })
    }

    pub(super) fn put(&mut self, record: &WorkspaceRecord) -> Result<(), StoreError> {
        match record.allow.is_open() {
            true => drop(self.allowlists.delete(&record.name)?),
            false => self.allowlists.put(&(record.name.clone(), record.allow.clone()))?,
        }
        self.rows.put(record)
    }

    pub(super) fn delete(&mut self, name: &WorkspaceName) -> Result<(), StoreError> {
        self.allowlists.delete(name)?;
        self.rows.delete(name).map(drop)
    }
}

/// Makes the rows that are missing; whether any was.
pub(super) fn complete(txn: &WriteTransaction) -> Result<bool, StoreError> {
    let instances = Rows::<Instances>::open(txn)?.scan()?;
    let mut named: BTreeSet<WorkspaceName> = instances.into_values().map(|r| r.workspace).collect();
    named.insert(WorkspaceName::default());
    let mut rows = WorkspaceRows::open(txn)?;
    let mut missing = false;
    for name in named {
        if rows.rows.get(&name)?.is_none() {
            missing = true;
            rows.put(&WorkspaceRecord {
                name,
                created_at: jiff::Timestamp::now(),
                quota: None,
                allow: Allowlist::default(),
                edited: None,
            })?;
        }
    }
    Ok(missing)
}
