//! Workspaces: what is made, changed and removed, and how many instances of one may run. Pure.

use super::{
    admit::{Book, Decision},
    people,
};
use crate::{
    model::{Counted, Desired, Refusal, WorkspaceLimits, WorkspaceName},
    record::{InstanceRecord, WorkspaceRecord},
};

/// Workspaces of one box; each that runs something is a cgroup.
pub const MAX_WORKSPACES: usize = 1000;

pub(super) fn add(book: &Book<'_>, name: WorkspaceName, quota: Option<WorkspaceLimits>) -> Result<Decision, Refusal> {
    if book.workspaces.contains_key(&name) {
        return Err(Refusal::WorkspaceExists { name });
    }
    if book.workspaces.len() >= MAX_WORKSPACES {
        return Err(Refusal::Full {
            what: Counted::Workspaces,
            limit: MAX_WORKSPACES,
        });
    }
    checked(book, quota)?;
    Ok(Decision::Workspace(WorkspaceRecord {
        name,
        created_at: book.now,
        quota,
    }))
}

pub(super) fn set(book: &Book<'_>, name: &WorkspaceName, quota: Option<WorkspaceLimits>) -> Result<Decision, Refusal> {
    let record = find(book, name)?;
    checked(book, quota)?;
    Ok(Decision::Workspace(WorkspaceRecord {
        quota,
        ..record.clone()
    }))
}

pub(super) fn remove(book: &Book<'_>, name: WorkspaceName) -> Result<Decision, Refusal> {
    find(book, &name)?;
    if name == WorkspaceName::default() {
        return Err(Refusal::WorkspaceStays { name });
    }
    let of = book.instances.values().filter(|r| r.workspace == name);
    let instances: Vec<_> = of.map(|r| r.id.clone()).collect();
    if !instances.is_empty() {
        return Err(Refusal::WorkspaceInUse { name, instances });
    }
    let people = people::of_gone_workspace(book, &name);
    Ok(Decision::RemoveWorkspace(name, Box::new(people)))
}

pub(super) fn find<'a>(book: &Book<'a>, name: &WorkspaceName) -> Result<&'a WorkspaceRecord, Refusal> {
    book.workspaces.get(name).ok_or_else(|| Refusal::NoWorkspace {
        name: name.to_string(),
        known: book.workspaces.keys().map(WorkspaceName::to_string).collect(),
    })
}

/// Whether an instance counts for what may run in its workspace. A trial, which lasts a short while, does not.
pub fn counts(record: &InstanceRecord) -> bool {
    let trial = record.sourced.as_ref().is_some_and(|s| s.trial_of.is_some());
    record.desired == Desired::Running && record.failure.is_none() && !trial
}

/// Whether this record, in place of the one with its id, lets no more run than its workspace may. What ran before may go on,
/// whatever the quota is by now.
///
/// # Errors
/// [`Refusal::WorkspaceFull`], with the numbers.
pub(super) fn check(book: &Book<'_>, record: &InstanceRecord) -> Result<(), Refusal> {
    let Some(workspace) = book.workspaces.get(&record.workspace) else {
        return Ok(());
    };
    let Some(limit) = workspace.limits(book.configured).instances else {
        return Ok(());
    };
    if !counts(record) || book.instances.get(&record.id).is_some_and(|before| counts(before)) {
        return Ok(());
    }
    let running = book.instances.values().filter(|r| r.workspace == record.workspace);
    let running = running.filter(|r| counts(r)).count();
    if usize::try_from(limit).is_ok_and(|limit| running < limit) {
        return Ok(());
    }
    Err(Refusal::WorkspaceFull {
        workspace: record.workspace.clone(),
        running,
        limit,
    })
}

fn checked(book: &Book<'_>, quota: Option<WorkspaceLimits>) -> Result<(), Refusal> {
    let Some(quota) = quota else { return Ok(()) };
    let cpus = |nano: &i64| WorkspaceLimits::cpus(*nano);
    let plain = |n: &i64| n.to_string();
    for (what, given, allowed, written) in [
        (
            "cpus",
            quota.nano_cpus,
            WorkspaceLimits::NANO_CPUS,
            &cpus as &dyn Fn(&i64) -> String,
        ),
        ("memory_bytes", quota.memory, WorkspaceLimits::MEMORY, &plain),
        ("processes", quota.pids, WorkspaceLimits::PIDS, &plain),
    ] {
        if given.is_some_and(|given| !allowed.contains(&given)) {
            return Err(Refusal::BadQuota {
                what: what.to_owned(),
                least: written(allowed.start()),
                most: written(allowed.end()),
            });
        }
    }
    let held_by_kernel = quota.nano_cpus.is_some() || quota.memory.is_some() || quota.pids.is_some();
    if held_by_kernel && book.fixed_quotas {
        return Err(Refusal::QuotaOfTheBox);
    }
    Ok(())
}
