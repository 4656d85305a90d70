//! A variable of an instance gets another value, or none: sealed, committed, and then handed to the agent by a new order
//! of the reconciler's. What is shown of values is when they were set and by whom.

use super::{
    Came,
    decide::{Decided, Then},
    task::Task,
};
use crate::{
    model::{CredentialKind, CredentialView, REMOTE_SECRET, Refusal, Secret},
    record::InstanceRecord,
    store::Change,
};

impl Task {
    pub(super) fn credential(
        &self,
        mut record: InstanceRecord,
        value: Option<(String, Secret)>,
    ) -> Result<Decided, Refusal> {
        if let Some((key, value)) = value {
            let sealed = self.key.seal(&record.id, &key, &value);
            let sealed = sealed.map_err(Refusal::fault)?;
            record.env.insert(key, sealed);
        }
        let id = record.id.clone();
        let revision = record.marks.revision;
        Ok(Decided {
            changes: vec![Change::PutInstance(Box::new(record))],
            then: vec![Then::Changed(id.clone(), revision)],
            came: Came::Instance(id, None),
        })
    }
}

/// What the type asks for, in its order, then what was given beside it.
pub(super) fn views(record: &InstanceRecord) -> Vec<CredentialView> {
    let asked = &record.spec.credentials;
    let mut views: Vec<CredentialView> = asked
        .iter()
        .map(|c| CredentialView {
            key: c.key.clone(),
            label: c.label.clone(),
            kind: c.kind,
            help: c.help.clone(),
            required: c.required,
            ..plain(record, &c.key)
        })
        .collect();
    let others = record
        .env
        .keys()
        .filter(|k| *k != REMOTE_SECRET && !asked.iter().any(|c| c.key == **k));
    views.extend(others.map(|k| plain(record, k)));
    views
}

/// What is known of any variable.
fn plain(record: &InstanceRecord, key: &str) -> CredentialView {
    let set = record.env.contains_key(key);
    let mark = record.marks.set.get(key).filter(|_| set);
    CredentialView {
        key: key.to_owned(),
        label: String::new(),
        kind: CredentialKind::Password,
        help: String::new(),
        required: false,
        set,
        // Before marks were kept, values came with the run alone.
        set_at: set.then(|| mark.map_or(record.created_at, |m| m.at)),
        set_by: mark.map(|m| m.by.clone()),
    }
}
