//! Records, as whoever asks may see them: by the names in a path, and by what an action changes.

use super::{
    Backend,
    asker::{Asker, addressed},
};
use crate::{
    api::{RequestError, Route, unescaped},
    model::{Grantee, InstanceId, InstanceView, MemberName, Record, RecordId, Refusal, TeamId, TokenId, WorkspaceName},
};

/// The record that the path of a route of records names.
pub(super) fn named(route: Route, parameters: &[&str], path: &str) -> Result<RecordId, RequestError> {
    let text = |n: usize| parameters.get(n).copied().unwrap_or_default();
    let bad = |parameter: &str, n: usize| RequestError::BadParameter {
        path: path.to_owned(),
        parameter: parameter.to_owned(),
        value: text(n).to_owned(),
        known: Vec::new(),
    };
    fn read<T: std::str::FromStr>(text: &str) -> Option<T> {
        unescaped(text)?.parse().ok()
    }
    let first = text(0);
    Ok(match route {
        Route::Token => RecordId::Token(read::<TokenId>(first).ok_or_else(|| bad("token", 0))?),
        Route::Workspace => RecordId::Workspace(read::<WorkspaceName>(first).ok_or_else(|| bad("workspace", 0))?),
        Route::Member => RecordId::Member(read::<MemberName>(first).ok_or_else(|| bad("member", 0))?),
        Route::Team => RecordId::Team(read::<TeamId>(first).ok_or_else(|| bad("team", 0))?),
        // Of a grant.
        _ => {
            let to = read::<Grantee>(first).ok_or_else(|| bad("grantee", 0))?;
            RecordId::Grant(to, read::<InstanceId>(text(1)).ok_or_else(|| bad("id", 1))?)
        }
    })
}

/// A record as whoever asks may see it; none where they may not, or it is not there.
pub(super) fn record<B: Backend>(backend: &B, asker: Asker<'_>, id: &RecordId) -> Option<Record> {
    match backend.record(id)? {
        Record::Instance(view) => asker
            .sees(&view)
            .then(|| Record::Instance(addressed(backend.addresses(asker.at).as_ref(), view))),
        Record::Member(view) => asker.sees(&view).then(|| Record::Member(asker.shown(view))),
        Record::Workspace(view) => asker.sees(&view).then_some(Record::Workspace(view)),
        Record::Team(view) => asker.sees(&view).then_some(Record::Team(view)),
        Record::Grant(view) => asker.sees(&view).then_some(Record::Grant(view)),
        Record::Token(view) => asker.sees(&view).then_some(Record::Token(view)),
    }
}

/// That a record is not there, or not for whoever asks.
pub(super) fn none<B: Backend>(backend: &B, asker: Asker<'_>, id: &RecordId) -> Refusal {
    match id {
        RecordId::Instance(id) => Refusal::no_instance(id),
        RecordId::Workspace(name) => {
            let seen = backend.workspaces().into_iter().filter(|w| asker.sees(w));
            Refusal::NoWorkspace {
                name: name.to_string(),
                known: seen.map(|w| w.name.to_string()).collect(),
            }
        }
        RecordId::Member(member) => Refusal::NoMember { member: member.clone() },
        RecordId::Team(team) => Refusal::NoTeam { team: team.clone() },
        RecordId::Grant(to, of) => Refusal::NoGrant {
            to: to.to_string(),
            of: of.clone(),
        },
        RecordId::Token(id) => Refusal::NoToken { id: id.to_string() },
    }
}

/// A refusal for whoever asked: of a record that was changed meanwhile they are shown what it is now.
pub(super) fn told<B: Backend>(backend: &B, asker: Asker<'_>, id: Option<&RecordId>, refusal: Refusal) -> Refusal {
    match (refusal, id) {
        (Refusal::Changed { etag, by, at, .. }, Some(id)) => {
            let current = record(backend, asker, id).map(Box::new);
            let shown = current.as_ref().map(|c| c.etag().clone());
            // It may have been changed once more.
            let same = shown == etag;
            Refusal::Changed {
                by: by.filter(|_| same),
                at: at.filter(|_| same),
                etag: shown.or(etag),
                current,
            }
        }
        (other, _) => other,
    }
}

/// An instance by id, by `WORKSPACE/NAME`, or by its name in the workspace `default`; of those alone that
/// the principal may see. A name never means an instance of another workspace: what removes one of `default` would remove the
/// other when it is asked twice.
pub(super) fn find<B: Backend>(backend: &B, asker: Asker<'_>, one: &str) -> Result<InstanceView, Refusal> {
    let views = backend.views();
    let seen = |v: &&InstanceView| asker.sees(*v);
    let by_id = InstanceId::parse(one).ok().and_then(|id| views.get(&id));
    if let Some(v) = by_id.filter(seen) {
        return Ok(v.clone());
    }
    let default = WorkspaceName::default();
    let (workspace, name) = one.split_once('/').unwrap_or((default.as_str(), one));
    let named = || views.values().filter(seen).filter(|v| v.name.as_str() == name);
    if let Some(view) = named().find(|v| v.workspace.as_str() == workspace) {
        return Ok(view.clone());
    }
    let elsewhere = named().map(|v| format!("{}/{}", v.workspace, v.name));
    let instances: Vec<String> = elsewhere.filter(|_| !one.contains('/')).collect();
    Err(match instances.is_empty() {
        true => Refusal::no_instance(one),
        false => Refusal::NameElsewhere {
            name: one.to_owned(),
            instances,
        },
    })
}
