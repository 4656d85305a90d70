//! Pinning and upgrading what `npx` and `uvx` instances run. Pure.
//!
//! ```text
//! instance --Try--> a trial of another version beside it, for a short while --Upgrade--> the instance runs what the
//!                          |                                                             trial was installed with
//!                          +--> removed, by who asked or by time
//! ```

use std::collections::BTreeMap;

use super::{
    admit::{Book, Decision, free_name, live, respecify},
    order,
};
use crate::{
    model::{Counted, Desired, InstanceId, Refusal, Runs, Source, TypeName},
    record::{InstanceRecord, Sourced},
};

/// A trial goes after so many seconds, whether who asked for it is still there or not.
pub const TRIAL_SECONDS: i64 = 900;

fn package(record: &InstanceRecord) -> Result<&Sourced, Refusal> {
    let runs = match record.sourced.as_deref() {
        None => Runs::Fixed,
        Some(g) if g.trial_of.is_some() => Runs::Trial,
        Some(g) => match g.source {
            Source::Npx(_) | Source::Uvx(_) => return Ok(g),
            Source::Image(_) => Runs::Image,
            Source::Remote(_) => Runs::Remote,
        },
    };
    Err(Refusal::NoPackage {
        id: record.id.clone(),
        type_name: record.type_name().to_string(),
        runs,
    })
}

/// Keeps the version, or lets it go.
///
/// # Errors
/// [`Refusal::NoPackage`].
pub(super) fn pin(book: &Book<'_>, id: &InstanceId, pinned: bool) -> Result<Decision, Refusal> {
    let record = live(book, id)?;
    if package(record)?.pinned == pinned {
        return Ok(Decision::Already(id.clone()));
    }
    let mut record = record.clone();
    if let Some(g) = &mut record.sourced {
        g.pinned = pinned;
    }
    Ok(Decision::Update(Box::new(record)))
}

/// A trial of another version.
///
/// # Errors
/// A [`Refusal`]; [`Refusal::Pinned`] for one that is pinned.
pub(super) fn begin(
    book: &Book<'_>,
    id: &InstanceId,
    version: Option<String>,
    fresh: InstanceId,
) -> Result<Decision, Refusal> {
    let original = live(book, id)?;
    let g = package(original)?;
    if g.pinned {
        return Err(Refusal::Pinned {
            id: id.clone(),
            version: g.resolved.as_ref().map(|r| r.version.clone()),
        });
    }
    if book.instances.len() >= book.max_instances {
        return Err(Refusal::Full {
            what: Counted::Instances,
            limit: book.max_instances,
        });
    }
    let mut record = original.clone();
    record.id = fresh;
    record.sourced = Some(Box::new(Sourced {
        source: g.source.at_version(version),
        resolved: None,
        trial_of: Some(id.clone()),
        ..g.clone()
    }));
    respecify(book, &mut record)?;
    let trial = TypeName::parse("trial").map_err(Refusal::fault)?;
    record.name = free_name(book, &record.workspace, &trial)?;
    record.desired = Desired::Running;
    record.generation = 1;
    record.created_at = book.now;
    record.failure = None;
    record.env = BTreeMap::new();
    record.spec_hash = order::spec_hash_of(&record);
    Ok(Decision::Run {
        record: Box::new(record),
        env: BTreeMap::new(),
        env_of: Some(id.clone()),
    })
}

/// The instance gets what its trial was installed with.
///
/// # Errors
/// A [`Refusal`] where the trial is none of it, or not installed.
pub(super) fn upgrade(book: &Book<'_>, id: &InstanceId, trial: &InstanceId) -> Result<Decision, Refusal> {
    let mut record = live(book, id)?.clone();
    // What it is else is nothing that whoever asks need know.
    let tried = book.instances.get(trial).filter(|r| r.desired != Desired::Removed);
    let theirs = tried
        .and_then(|t| t.sourced.as_deref())
        .filter(|g| g.trial_of.as_ref() == Some(id));
    let Some((theirs, resolved)) = theirs.and_then(|g| Some((g, g.resolved.clone()?))) else {
        let (id, trial) = (id.clone(), trial.clone());
        return Err(Refusal::NoTrial { id, trial });
    };
    let pinned = package(&record)?.pinned;
    if pinned {
        return Err(Refusal::Pinned {
            id: id.clone(),
            version: None,
        });
    }
    if let Some(g) = &mut record.sourced {
        g.source = theirs.source.clone();
        g.resolved = Some(resolved);
    }
    respecify(book, &mut record)?;
    record.failure = None;
    record.generation += 1;
    record.spec_hash = order::spec_hash_of(&record);
    Ok(Decision::Update(Box::new(record)))
}
