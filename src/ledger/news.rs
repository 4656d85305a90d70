//! What a step from one commit to a later one changes in the lists that people read: which records come, change and go, as
//! they are shown, and for whom what they may see changes with it.
//!
//! A member's rights are their own record, their teams, and the grants to them and to their teams. Where one of these changes,
//! they read their lists again; and where another member's coming into a workspace or leaving it, or the end of what a trial is
//! of, shows or hides something for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use jiff::Timestamp;

use super::{Handle, credentials, views};
use crate::{
    api::{Event, EventChange, EventKind, EventRecord},
    events::{Concerned, News},
    model::{CredentialView, InstanceId, MemberName, MemberView, Subject, TeamId, WorkspaceName},
    plan::people::holders,
    policy::{Access, Reading},
    record::{Differing, GrantKey, GrantRecord, InstanceRecord, MemberRecord, TeamRecord, TokenRecord},
};

/// What a step changes.
#[derive(Debug, Default)]
pub struct Step {
    /// What is added before what stands on it, what is removed behind it.
    pub news: Vec<News>,
    pub concerned: Concerned,
    /// Instances that are no more, and who could see each, beside owners. They are shown for a moment still.
    pub gone: Vec<(InstanceId, BTreeSet<MemberName>)>,
}

/// Where two small tables differ, in the order of their keys.
fn differing<'a, K: Ord, R: PartialEq>(
    before: &'a BTreeMap<K, R>,
    after: &'a BTreeMap<K, R>,
) -> Vec<Differing<'a, K, R>> {
    let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let both = keys.into_iter().map(|key| (key, before.get(key), after.get(key)));
    both.filter(|(_, was, is)| was != is).collect()
}

/// Of records that were put in anew, those that a list shows otherwise.
fn unlike<'a, K, R>(
    all: Vec<Differing<'a, K, R>>,
    same: impl Fn(&R, &R) -> bool,
) -> impl Iterator<Item = Differing<'a, K, R>> {
    let differ = move |was: Option<&R>, is: Option<&R>| !was.zip(is).is_some_and(|(was, is)| same(was, is));
    all.into_iter().filter(move |(_, was, is)| differ(*was, *is))
}

/// Whether a list shows both alike, but for when it was last used.
fn same_token(one: &TokenRecord, other: &TokenRecord) -> bool {
    let TokenRecord {
        id: _,
        hash: _,
        subject,
        name,
        created_at,
        expires_at,
        last_used_at: _,
        last_used_from: _,
        scope,
        by,
        edited,
    } = one;
    (subject, name, created_at, edited) == (&other.subject, &other.name, &other.created_at, &other.edited)
        && (expires_at, scope, by) == (&other.expires_at, &other.scope, &other.by)
}

/// The same of grants.
fn same_grant(one: &GrantRecord, other: &GrantRecord) -> bool {
    let GrantRecord {
        key: _,
        level,
        until,
        created_at,
        by,
        last_used_at: _,
        edited,
    } = one;
    (level, until, created_at) == (&other.level, &other.until, &other.created_at)
        && (by, edited) == (&other.by, &other.edited)
}

fn change<R>(was: Option<R>, is: bool) -> EventChange {
    match (was, is) {
        (_, false) => EventChange::Removed,
        (None, true) => EventChange::Added,
        (Some(_), true) => EventChange::Changed,
    }
}

/// What stands in one table and not in the other.
fn either<'a, T: Ord>(one: &'a BTreeSet<T>, other: &'a BTreeSet<T>) -> impl Iterator<Item = &'a T> {
    one.symmetric_difference(other)
}

/// When the next grant ends, of those that were not there before and of what `next` says of the others.
pub fn next_end(before: &Access, after: &Access, next: Option<Timestamp>) -> Option<Timestamp> {
    let new = before.grants.differing(&after.grants).into_iter();
    new.filter_map(|(_, _, is)| is?.until).chain(next).min()
}

/// The grants that end after `since` and by `now`, by whom they are of; and when the next one ends.
pub fn ended(access: &Access, since: Timestamp, now: Timestamp) -> (Concerned, Option<Timestamp>) {
    let (mut concerned, mut next) = (Concerned::default(), None::<Timestamp>);
    for grant in access.grants.values() {
        match grant.until {
            Some(until) if until > now => next = Some(next.map_or(until, |next| next.min(until))),
            Some(until) if until > since => {
                let whose = holders(&access.teams, &grant.key.0);
                whose.iter().for_each(|name| concerned.member(name));
            }
            _ => {}
        }
    }
    (concerned, next)
}

/// A step while it is looked through.
struct Looking<'a> {
    before: &'a Access,
    after: &'a Access,
    at: Timestamp,
    step: Step,
    /// Of these, what is shown may have changed.
    workspaces: BTreeSet<WorkspaceName>,
    members: BTreeSet<MemberName>,
    /// Of these members, how many tokens they have.
    counted: BTreeSet<MemberName>,
    grants: BTreeSet<GrantKey>,
}

/// What a record is called, and where it is.
struct Named {
    id: String,
    name: String,
    workspace: Option<WorkspaceName>,
    instance: Option<InstanceId>,
}

impl Looking<'_> {
    fn tell(
        &mut self,
        (kind, change): (EventKind, EventChange),
        named: Named,
        reading: Reading,
        record: Option<EventRecord>,
    ) {
        let gone_for = match change {
            EventChange::Removed => reading.members(self.before, self.at),
            EventChange::Added | EventChange::Changed => BTreeSet::new(),
        };
        let Named {
            id,
            name,
            workspace,
            instance,
        } = named;
        self.step.news.push(News {
            event: Event {
                kind,
                change,
                id,
                name,
                workspace,
                instance,
                at: self.at,
                record,
            },
            reading,
            gone_for,
            was: None,
        });
    }

    fn record_of(&self, id: &InstanceId) -> Option<&InstanceRecord> {
        let found = self.after.instances.get(id).or_else(|| self.before.instances.get(id));
        found.map(|r| &**r)
    }

    /// Whoever may read that since the step, or may no more, reads their lists again.
    fn seen_by_others(&mut self, reading: &Reading) {
        let [old, new] = [self.before, self.after].map(|access| reading.members(access, self.at));
        either(&old, &new).for_each(|name| self.step.concerned.member(name));
    }

    /// An instance's variables, and what its coming and going changes elsewhere. What is shown of itself the reconciler says.
    fn instance(&mut self, id: &InstanceId, was: Option<&InstanceRecord>, is: Option<&InstanceRecord>) {
        if was.map(|r| r.desired) != is.map(|r| r.desired) {
            self.workspaces.extend(was.or(is).map(|r| r.workspace.clone()));
        }
        if is.is_none() {
            let readers = Reading::Instance(id.clone()).members(self.before, self.at);
            self.step.gone.push((id.clone(), readers));
            let is_trial = |r: &InstanceRecord| r.sourced.as_ref().is_some_and(|s| s.trial_of.as_ref() == Some(id));
            let all = self.after.instances.values();
            let trials: Vec<InstanceId> = all.filter(|r| is_trial(r)).map(|r| r.id.clone()).collect();
            trials
                .into_iter()
                .for_each(|trial| self.seen_by_others(&Reading::Instance(trial)));
        }
        let views = |r: Option<&InstanceRecord>| -> BTreeMap<String, CredentialView> {
            let views = r.map(credentials::views).unwrap_or_default();
            views.into_iter().map(|v| (v.key.clone(), v)).collect()
        };
        let (old, new) = (views(was), views(is));
        for (key, was, is) in differing(&old, &new) {
            let named = Named {
                id: format!("{id} {key}"),
                name: key.clone(),
                workspace: self.record_of(id).map(|r| r.workspace.clone()),
                instance: Some(id.clone()),
            };
            let what = (EventKind::Credential, change(was, is.is_some()));
            let record = is.map(|v| EventRecord::Credential(Box::new(v.clone())));
            self.tell(what, named, Reading::Credentials(id.clone()), record);
        }
    }

    fn member(&mut self, name: &MemberName, was: Option<&MemberRecord>, is: Option<&MemberRecord>) {
        let workspaces = |m: Option<&MemberRecord>| -> BTreeSet<WorkspaceName> {
            m.map(|m| m.workspaces.keys().cloned().collect()).unwrap_or_default()
        };
        let (old, new) = (workspaces(was), workspaces(is));
        self.workspaces.extend(either(&old, &new).cloned());
        match (was, is) {
            (_, None) => {
                let named = Named {
                    id: name.to_string(),
                    name: name.to_string(),
                    workspace: None,
                    instance: None,
                };
                let what = (EventKind::Member, EventChange::Removed);
                self.tell(what, named, Reading::Member(name.clone()), None);
            }
            (was, Some(is)) => {
                self.members.insert(name.clone());
                let rights = |m: &MemberRecord| (m.owner, m.disabled_at.is_some(), m.workspaces.clone());
                if was.map(rights) != Some(rights(is)) {
                    self.step.concerned.member(name);
                }
                let moved = was.is_some_and(|was| was.owner != is.owner) || was.is_some() && old != new;
                if moved {
                    // They, and their tokens, are seen by others from now on.
                    self.seen_by_others(&Reading::Member(name.clone()));
                    self.seen_by_others(&Reading::Token(Subject::Member(name.clone())));
                }
            }
        }
    }

    fn team(&mut self, id: &TeamId, was: Option<&TeamRecord>, is: Option<&TeamRecord>) {
        let members = |t: Option<&TeamRecord>| t.map(|t| t.members.clone()).unwrap_or_default();
        for name in either(&members(was), &members(is)) {
            self.step.concerned.member(name);
            self.members.insert(name.clone());
        }
        let named = Named {
            id: id.to_string(),
            name: id.name.to_string(),
            workspace: Some(id.workspace.clone()),
            instance: None,
        };
        let record = is.map(|t| EventRecord::Team(Box::new(views::team(t))));
        let what = (EventKind::Team, change(was, is.is_some()));
        self.tell(what, named, Reading::Team(id.clone()), record);
    }

    fn grant(&mut self, key: &GrantKey, is: Option<&GrantRecord>) {
        let (to, instance) = key;
        // Of one that goes with its instance nothing else is lost.
        if self.after.instances.contains_key(instance) {
            for access in [self.before, self.after] {
                let whose = holders(&access.teams, to);
                whose.iter().for_each(|name| self.step.concerned.member(name));
            }
        }
        match is {
            Some(_) => drop(self.grants.insert(key.clone())),
            None => self.tell_grant(key, EventChange::Removed, None),
        }
    }

    fn tell_grant(&mut self, key: &GrantKey, change: EventChange, record: Option<EventRecord>) {
        let (to, instance) = key;
        let named = Named {
            id: format!("{to} {instance}"),
            name: to.to_string(),
            workspace: self.record_of(instance).map(|r| r.workspace.clone()),
            instance: Some(instance.clone()),
        };
        let reading = Reading::Grant(to.clone(), instance.clone());
        self.tell((EventKind::Grant, change), named, reading, record);
    }

    fn tell_grants(&mut self, handle: &Handle) {
        // One that is about to go with its instance is not shown.
        for (key, view) in mem::take(&mut self.grants).into_iter().filter_map(|key| {
            let view = handle.grant(&key).ok()?;
            Some((key, view))
        }) {
            let change = change(self.before.grants.get(&key), true);
            self.tell_grant(&key, change, Some(EventRecord::Grant(Box::new(view))));
        }
    }

    fn token(&mut self, was: Option<&TokenRecord>, is: Option<&TokenRecord>, handle: &Handle) {
        let Some(either) = is.or(was) else { return };
        if let Subject::Member(name) = &either.subject
            && self.after.members.contains_key(name)
        {
            self.members.insert(name.clone());
            self.counted.insert(name.clone());
        }
        let instance = either.subject.instance().cloned();
        let named = Named {
            id: either.id.to_string(),
            name: either.name.to_string(),
            workspace: instance
                .as_ref()
                .and_then(|id| self.record_of(id))
                .map(|r| r.workspace.clone()),
            instance,
        };
        let record = is.map(|t| EventRecord::Token(Box::new(views::token(t, &*handle.tokens))));
        let what = (EventKind::Token, change(was, is.is_some()));
        self.tell(what, named, Reading::Token(either.subject.clone()), record);
    }

    /// The workspaces that were gone before, and those whose view may have changed.
    fn tell_workspaces(&mut self, handle: &Handle) {
        let named = |name: &WorkspaceName| Named {
            id: name.to_string(),
            name: name.to_string(),
            workspace: Some(name.clone()),
            instance: None,
        };
        for name in self.before.workspaces.keys() {
            if !self.after.workspaces.contains_key(name) {
                let what = (EventKind::Workspace, EventChange::Removed);
                self.tell(what, named(name), Reading::Workspace(name.clone()), None);
            }
        }
        let changed = mem::take(&mut self.workspaces).into_iter();
        for view in changed.filter_map(|name| handle.workspace(&name)) {
            let change = change(self.before.workspaces.get(&view.name), true);
            let named = named(&view.name);
            let reading = Reading::from(&view);
            let record = EventRecord::Workspace(Box::new(view));
            self.tell((EventKind::Workspace, change), named, reading, Some(record));
        }
    }

    /// A member as they were before, where nothing else than their workspaces, teams or role is another.
    fn as_before(&self, view: &MemberView) -> Option<Box<MemberView>> {
        let was = self.before.members.get(&view.name)?;
        if was.disabled_at != view.disabled_at || self.counted.contains(&view.name) {
            return None;
        }
        Some(Box::new(MemberView {
            role: was.role(),
            workspaces: was.workspaces.to_map(),
            teams: self.before.teams_of(&view.name).iter().cloned().collect(),
            ..view.clone()
        }))
    }

    fn tell_members(&mut self, handle: &Handle) {
        let changed = mem::take(&mut self.members).into_iter();
        for view in changed.filter_map(|name| handle.member(&name).ok()) {
            let change = change(self.before.members.get(&view.name), true);
            let named = Named {
                id: view.name.to_string(),
                name: view.name.to_string(),
                workspace: None,
                instance: None,
            };
            let reading = Reading::from(&view);
            let was = self.as_before(&view);
            let record = EventRecord::Member(Box::new(view));
            self.tell((EventKind::Member, change), named, reading, Some(record));
            if let Some(news) = self.step.news.last_mut() {
                news.was = was;
            }
        }
    }
}

impl Handle {
    /// What the lists show otherwise after a step from one commit to a later one.
    pub fn step(&self, before: &Access, after: &Access, at: Timestamp) -> Step {
        let mut looking = Looking {
            before,
            after,
            at,
            step: Step::default(),
            workspaces: BTreeSet::new(),
            members: BTreeSet::new(),
            counted: BTreeSet::new(),
            grants: BTreeSet::new(),
        };
        if !Arc::ptr_eq(&before.instances, &after.instances) {
            for (id, was, is) in differing(&before.instances, &after.instances) {
                looking.instance(id, was.map(|r| &**r), is.map(|r| &**r));
            }
        }
        if !Arc::ptr_eq(&before.workspaces, &after.workspaces) {
            for (name, ..) in differing(&before.workspaces, &after.workspaces) {
                looking.workspaces.insert(name.clone());
            }
        }
        for (name, was, is) in unlike(before.members.differing(&after.members), MemberRecord::eq) {
            looking.member(name, was, is);
        }
        for (id, was, is) in unlike(before.teams.differing(&after.teams), TeamRecord::eq) {
            looking.team(id, was, is);
        }
        for (key, _, is) in unlike(before.grants.differing(&after.grants), same_grant) {
            looking.grant(key, is);
        }
        for (_, was, is) in unlike(before.tokens.differing(&after.tokens), same_token) {
            looking.token(was, is, self);
        }
        looking.tell_workspaces(self);
        looking.tell_members(self);
        looking.tell_grants(self);
        let mut step = looking.step;
        // Removed ones come last, in the other direction.
        step.news.sort_by(|a, b| {
            let gone = |n: &News| n.event.change == EventChange::Removed;
            let kinds = a.event.kind.cmp(&b.event.kind);
            gone(a)
                .cmp(&gone(b))
                .then(if gone(a) { kinds.reverse() } else { kinds })
        });
        step
    }
}
