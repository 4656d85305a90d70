//! What shall be, in memory: what the store holds, and nothing else. A commit's changes are made to a copy, which takes
//! the place of the original when they are durable. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{Desired, InstanceId, MemberName, Principal, Subject, TeamId, TokenId, WorkspaceName},
    plan::exchange::DesiredState,
    policy::Access,
    record::{GrantKey, GrantRecord, InstanceRecord, MemberRecord, TeamRecord, TokenRecord, WorkspaceRecord},
    store::{Change, Loaded},
    writes::Answers,
};

/// Cheap to clone; a table is copied only when a change is made to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Books {
    pub(super) instances: Arc<BTreeMap<InstanceId, Arc<InstanceRecord>>>,
    pub(super) tokens: Arc<BTreeMap<TokenId, TokenRecord>>,
    pub(super) members: Arc<BTreeMap<MemberName, MemberRecord>>,
    pub(super) workspaces: Arc<BTreeMap<WorkspaceName, WorkspaceRecord>>,
    pub(super) teams: Arc<BTreeMap<TeamId, TeamRecord>>,
    pub(super) grants: Arc<BTreeMap<GrantKey, GrantRecord>>,
    pub(super) answers: Answers,
}

impl From<Loaded> for Books {
    fn from(loaded: Loaded) -> Self {
        let instances = loaded.instances.into_iter().map(|(id, r)| (id, Arc::new(r)));
        let answers = loaded.answers.into_iter().map(|(id, r)| (id, Arc::new(r)));
        Self {
            instances: Arc::new(instances.collect()),
            tokens: Arc::new(loaded.tokens),
            members: Arc::new(loaded.members),
            workspaces: Arc::new(loaded.workspaces),
            teams: Arc::new(loaded.teams),
            grants: Arc::new(loaded.grants),
            answers: Arc::new(answers.collect()),
        }
    }
}

impl Books {
    /// Makes a change, as the store makes it.
    pub(super) fn make(&mut self, change: &Change) {
        match change {
            Change::PutInstance(r) => {
                Arc::make_mut(&mut self.instances).insert(r.id.clone(), Arc::new((**r).clone()));
            }
            Change::RemoveInstance(id) => {
                Arc::make_mut(&mut self.instances).remove(id);
                Arc::make_mut(&mut self.tokens).retain(|_, t| !t.subject.is_instance(id));
                if self.grants.keys().any(|(_, of)| of == id) {
                    Arc::make_mut(&mut self.grants).retain(|(_, of), _| of != id);
                }
            }
            Change::PutToken(t) => drop(Arc::make_mut(&mut self.tokens).insert(t.id.clone(), t.clone())),
            Change::RemoveToken(id) => drop(Arc::make_mut(&mut self.tokens).remove(id)),
            Change::PutMember(m) => drop(Arc::make_mut(&mut self.members).insert(m.name.clone(), m.clone())),
            Change::RemoveMember(name) => drop(Arc::make_mut(&mut self.members).remove(name)),
            Change::PutWorkspace(w) => drop(Arc::make_mut(&mut self.workspaces).insert(w.name.clone(), w.clone())),
            Change::RemoveWorkspace(name) => drop(Arc::make_mut(&mut self.workspaces).remove(name)),
            Change::PutTeam(t) => drop(Arc::make_mut(&mut self.teams).insert(t.id.clone(), t.clone())),
            Change::RemoveTeam(id) => drop(Arc::make_mut(&mut self.teams).remove(id)),
            Change::PutGrant(g) => drop(Arc::make_mut(&mut self.grants).insert(g.key.clone(), g.clone())),
            Change::RemoveGrant(key) => drop(Arc::make_mut(&mut self.grants).remove(key)),
            Change::PutAnswer(r) => drop(Arc::make_mut(&mut self.answers).insert(r.id, Arc::clone(r))),
            Change::RemoveAnswer(id) => drop(Arc::make_mut(&mut self.answers).remove(id)),
        }
    }

    /// What of it the reconciler needs.
    pub(super) fn desired(&self, version: u64) -> DesiredState {
        DesiredState {
            version,
            instances: self.instances.clone(),
            workspaces: self.workspaces.clone(),
            claimed: self.members.values().any(MemberRecord::is_owner),
        }
    }

    /// Whether both show the reconciler the same.
    pub(super) fn same_desired(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.instances, &other.instances)
            && Arc::ptr_eq(&self.workspaces, &other.workspaces)
            && Arc::ptr_eq(&self.members, &other.members)
    }

    /// What policy looks at.
    pub(super) fn access(&self, before: &Access) -> Access {
        let Books {
            instances,
            tokens,
            members,
            teams,
            grants,
            workspaces,
            answers: _,
        } = self;
        Access::of(before, instances, tokens, members, teams, grants, workspaces)
    }

    /// Whether policy would look at the same.
    pub(super) fn same_access(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.instances, &other.instances)
            && Arc::ptr_eq(&self.tokens, &other.tokens)
            && Arc::ptr_eq(&self.members, &other.members)
            && Arc::ptr_eq(&self.teams, &other.teams)
            && Arc::ptr_eq(&self.grants, &other.grants)
            && Arc::ptr_eq(&self.workspaces, &other.workspaces)
    }

    /// Whoever shows a token; none where its member is not there, or is let in nowhere.
    pub(super) fn principal_of(&self, token: &TokenRecord) -> Option<Principal> {
        Some(match &token.subject {
            Subject::Instance(id) => Principal::instance(id.clone(), token.id.clone()),
            Subject::Member(name) => {
                let member = self.members.get(name).filter(|m| m.disabled_at.is_none())?;
                Principal::member(member.name.clone(), token.id.clone(), &token.scope)
            }
        })
    }

    /// Whether a token's owner is there to stay: what cannot be told is denied.
    pub(super) fn owner_stays(&self, token: &TokenRecord) -> bool {
        let stays = |id| self.instances.get(id).is_some_and(|r| r.desired != Desired::Removed);
        token.subject.instance().is_none_or(stays)
    }
}
