//! Workspaces: what is made, changed and removed, what may be run in one, and how many instances of it may run. Pure.

use super::{
    admit::{Book, Decision},
    image, people, sourced,
};
use crate::{
    model::{
        Allowed, Allowlist, CallLimit, Counted, Desired, Refusal, Source, TypeName, WorkspaceLimits, WorkspaceName,
    },
    record::{InstanceRecord, WorkspaceRecord},
};

/// Workspaces of one box; each that runs something is a cgroup.
pub const MAX_WORKSPACES: usize = 1000;

pub(super) fn add(
    book: &Book<'_>,
    name: WorkspaceName,
    quota: Option<WorkspaceLimits>,
    allow: Allowlist,
) -> Result<Decision, Refusal> {
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
    check_patterns(&allow)?;
    Ok(Decision::Workspace(WorkspaceRecord {
        name,
        created_at: book.now,
        quota,
        allow,
        edited: None,
    }))
}

pub(super) fn set_allowlist(book: &Book<'_>, name: &WorkspaceName, allow: Allowlist) -> Result<Decision, Refusal> {
    let record = find(book, name)?;
    check_patterns(&allow)?;
    Ok(Decision::Workspace(WorkspaceRecord {
        allow,
        ..record.clone()
    }))
}

fn check_patterns(allow: &Allowlist) -> Result<(), Refusal> {
    let right =
        |p: &String| (1..=Allowlist::MAX_PATTERN).contains(&p.chars().count()) && !p.chars().any(char::is_control);
    match allow
        .lists()
        .all(|l| l.len() <= Allowlist::MAX_PATTERNS && l.iter().all(right))
    {
        true => Ok(()),
        false => Err(Refusal::BadPattern {
            count: Allowlist::MAX_PATTERNS,
            length: Allowlist::MAX_PATTERN,
        }),
    }
}

/// Whether a workspace may run a type. The configuration has been asked.
pub(super) fn check_type(book: &Book<'_>, workspace: &WorkspaceName, name: &TypeName) -> Result<(), Refusal> {
    check_allowed(book, workspace, Allowed::Type, &[name.as_str()])
}

/// Whether a workspace may run what a generic type is to run.
pub(super) fn check_source(book: &Book<'_>, workspace: &WorkspaceName, source: &Source) -> Result<(), Refusal> {
    let (what, name) = sourced::named(source);
    let long = format!("{}:{name}", source.kind());
    check_allowed(book, workspace, what, &[name, &long])
}

/// `names`: as it may be written in a list, the first as it is told.
fn check_allowed(book: &Book<'_>, workspace: &WorkspaceName, what: Allowed, names: &[&str]) -> Result<(), Refusal> {
    let Some(patterns) = book.workspaces.get(workspace).and_then(|w| w.allow.of(what)) else {
        return Ok(());
    };
    if names.iter().any(|name| image::allowed(name, patterns)) {
        return Ok(());
    }
    Err(Refusal::NotAllowedThere {
        workspace: workspace.clone(),
        what,
        name: names.first().copied().unwrap_or_default().to_owned(),
        allowed: patterns.clone(),
    })
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
    let calls = 0..=i64::from(CallLimit::MOST);
    for (what, given, allowed, written) in [
        (
            "cpus",
            quota.nano_cpus,
            WorkspaceLimits::NANO_CPUS,
            &cpus as &dyn Fn(&i64) -> String,
        ),
        ("memory_bytes", quota.memory, WorkspaceLimits::MEMORY, &plain),
        ("processes", quota.pids, WorkspaceLimits::PIDS, &plain),
        ("disk_bytes", quota.disk, WorkspaceLimits::MEMORY, &plain),
        (
            "calls_per_second",
            quota.calls_per_second.map(i64::from),
            calls.clone(),
            &plain,
        ),
        ("calls_at_once", quota.calls_at_once.map(i64::from), calls, &plain),
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
