//! Whether what a type requires was given, and what comes of a change. Never quotes a value.

use std::{collections::BTreeMap, sync::Arc};

use super::admit::{Book, Decision, check_env, env_key, live};
use crate::{
    catalog::{InstanceType, fits},
    model::{Credential, CredentialKind, Desired, InstanceId, Refusal, Secret},
    record::InstanceRecord,
};

/// The type with these variables as files: an instance may have a file that its type does not ask for.
pub(super) fn with_files(spec: Arc<InstanceType>, files: &[String]) -> Arc<InstanceType> {
    let is_file = |t: &InstanceType, key: &String| {
        let mut all = t.credentials.iter();
        all.any(|c| c.key == *key && c.kind == CredentialKind::File)
    };
    if files.iter().all(|key| is_file(&spec, key)) {
        return spec;
    }
    let mut spec = Arc::unwrap_or_clone(spec);
    for key in files {
        match spec.credentials.iter_mut().find(|c| c.key == *key) {
            Some(c) => c.kind = CredentialKind::File,
            None => spec.credentials.push(Credential {
                key: key.clone(),
                label: "a file".to_owned(),
                kind: CredentialKind::File,
                help: String::new(),
                required: false,
                pattern: None,
            }),
        }
    }
    Arc::new(spec)
}

/// The variables of an instance that are files.
pub(super) fn files_of(spec: &InstanceType) -> Vec<String> {
    let files = spec.credentials.iter().filter(|c| c.kind == CredentialKind::File);
    files.map(|c| c.key.clone()).collect()
}

/// What is about to be run has all that its type requires, in the form that it requires.
pub(super) fn given(spec: &InstanceType, env: &BTreeMap<String, Secret>) -> Result<(), Refusal> {
    let value = |c: &Credential| env.get(&c.key).map(Secret::expose).filter(|v| !v.is_empty());
    let pick = |f: &dyn Fn(&Credential) -> bool| spec.credentials.iter().filter(|c| f(c)).cloned().collect();
    let missing: Vec<_> = pick(&|c| c.required && value(c).is_none());
    let wrong: Vec<_> = pick(&|c| value(c).is_some_and(|v| !fits(c, v)));
    refuse_any(None, missing, wrong)
}

/// An instance has all that its type requires; values are sealed here, so their form is not looked at.
pub(super) fn kept(spec: &InstanceType, record: &InstanceRecord) -> Result<(), Refusal> {
    let lacks = |c: &&Credential| c.required && !record.env.contains_key(&c.key);
    let missing = spec.credentials.iter().filter(lacks).cloned().collect();
    refuse_any(Some(&record.id), missing, Vec::new())
}

fn refuse_any(of: Option<&InstanceId>, missing: Vec<Credential>, wrong: Vec<Credential>) -> Result<(), Refusal> {
    if missing.is_empty() && wrong.is_empty() {
        return Ok(());
    }
    Err(Refusal::Credentials {
        of: of.cloned(),
        missing,
        wrong,
    })
}

pub(super) fn set(
    book: &Book<'_>,
    id: &InstanceId,
    key: String,
    value: Secret,
    by: String,
) -> Result<Decision, Refusal> {
    let record = live(book, id)?;
    env_key(&key)?;
    if value.expose().is_empty() {
        return Err(Refusal::EmptyValue { key });
    }
    let declared = record.spec.credentials.iter().find(|c| c.key == key);
    if let Some(c) = declared.filter(|c| !fits(c, value.expose())) {
        return refuse_any(Some(id), Vec::new(), vec![c.clone()]).map(|()| Decision::Already(id.clone()));
    }
    let one = BTreeMap::from([(key, value)]);
    check_env(&one, record.env.keys())?;
    let mut record = changed(record);
    let Some((key, value)) = one.into_iter().next() else {
        return Ok(Decision::Already(id.clone()));
    };
    record
        .marks
        .set
        .insert(key.clone(), crate::record::Mark { at: book.now, by });
    Ok(Decision::Credential {
        record: Box::new(record),
        value: Some((key, value)),
    })
}

pub(super) fn unset(book: &Book<'_>, id: &InstanceId, key: &str) -> Result<Decision, Refusal> {
    let record = live(book, id)?;
    if !record.env.contains_key(key) {
        let (id, key) = (id.clone(), key.to_owned());
        return Err(Refusal::NoValue { id, key });
    }
    let required = record.spec.credentials.iter().any(|c| c.key == key && c.required);
    if required && record.desired == Desired::Running {
        let (id, key) = (id.clone(), key.to_owned());
        return Err(Refusal::ValueRequired { id, key });
    }
    let mut record = changed(record);
    record.env.remove(key);
    record.marks.set.remove(key);
    Ok(Decision::Credential {
        record: Box::new(record),
        value: None,
    })
}

/// The record with a change counted; one that was given up is tried again with it.
fn changed(record: &InstanceRecord) -> InstanceRecord {
    let mut record = record.clone();
    record.marks.revision += 1;
    if record.desired == Desired::Running && record.failure.take().is_some() {
        record.generation += 1;
    }
    record
}
