//! Which version each record is: counted with every change that somebody asked for, and looked at, when its turn comes, where
//! a write says which version it is for. So of two writes for one version the second is refused. Pure.

use super::{Came, books::Books, decide::Decided};
use crate::{
    model::{Action, EntityTags, Etag, Principal, RecordId, Refusal},
    record::Edit,
    store::Change,
    versions::Versioned,
};

/// Counts what an action changes.
pub(super) fn count(books: &Books, decided: &mut Decided, by: &Principal, now: jiff::Timestamp) {
    let Decided { changes, came, .. } = decided;
    for change in changes {
        match change {
            Change::PutInstance(r) => {
                let before = books.instances.get(&r.id);
                note(&mut **r, before.map(|b| &**b), by, now);
            }
            Change::PutToken(t) => {
                note(t, books.tokens.get(&t.id), by, now);
                // What is shown of it was made before.
                if let Came::Token(made) = came
                    && made.view.id == t.id
                {
                    made.view.etag = t.etag();
                }
            }
            Change::PutMember(m) => note(m, books.members.get(&m.name), by, now),
            Change::PutWorkspace(w) => note(w, books.workspaces.get(&w.name), by, now),
            Change::PutTeam(t) => note(t, books.teams.get(&t.id), by, now),
            Change::PutGrant(g) => note(g, books.grants.get(&g.key), by, now),
            Change::RemoveInstance(_)
            | Change::RemoveToken(_)
            | Change::RemoveMember(_)
            | Change::RemoveWorkspace(_)
            | Change::RemoveTeam(_)
            | Change::RemoveGrant(_)
            | Change::PutAnswer(_)
            | Change::RemoveAnswer(_)
            | Change::PutSignIn(_) => {}
        }
    }
}

/// One that is as before stays the version that it was.
fn note<R: Versioned>(record: &mut R, before: Option<&R>, by: &Principal, at: jiff::Timestamp) {
    let edit = match before {
        Some(before) if !record.differs(before) => before.edited().cloned(),
        before => {
            let count = before.and_then(Versioned::edited).map_or(0, |e| e.revision);
            Some(Edit {
                revision: count + 1,
                at,
                by: by.name().into(),
            })
        }
    };
    record.note_edit(edit);
}

/// Refuses an action that is for other versions of its record than the one that is there.
pub(super) fn check(books: &Books, action: &Action, wanted: Option<&EntityTags>) -> Result<(), Refusal> {
    let Some(wanted) = wanted else { return Ok(()) };
    let id = action.record().ok_or(Refusal::NoSingleRecord)?;
    let (etag, edit) = current(books, &id).unzip();
    if wanted.has(etag.as_ref()) {
        return Ok(());
    }
    let edit = edit.flatten();
    Err(Refusal::Changed {
        etag,
        at: edit.as_ref().map(|e| e.at),
        by: edit.map(|e| e.by.to_string()),
        current: None,
    })
}

/// A record's tag, and its last change; none where it is not there.
fn current(books: &Books, id: &RecordId) -> Option<(Etag, Option<Edit>)> {
    fn of<R: Versioned>(record: Option<&R>) -> Option<(Etag, Option<Edit>)> {
        record.map(|r| (r.etag(), r.edited().cloned()))
    }
    match id {
        RecordId::Instance(id) => of(books.instances.get(id).map(|r| &**r)),
        RecordId::Workspace(name) => of(books.workspaces.get(name)),
        RecordId::Member(name) => of(books.members.get(name)),
        RecordId::Team(id) => of(books.teams.get(id)),
        RecordId::Grant(to, id) => of(books.grants.get(&(to.clone(), id.clone()))),
        RecordId::Token(id) => of(books.tokens.get(id)),
    }
}
