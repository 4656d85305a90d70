//! What shall be, in memory: what the store holds, and nothing else. A commit's changes are made to a copy, which takes
//! the place of the original when they are durable. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{Desired, InstanceId, MemberName, Principal, Subject, TeamId, TokenId, WorkspaceName},
    plan::exchange::DesiredState,
    policy::Access,
    record::{GrantKey, GrantRecord, InstanceRecord, MemberRecord, Table, TeamRecord, TokenRecord, WorkspaceRecord},
    store::{Change, Loaded},
    writes::Answers,
};

/// Cheap to clone, and cheap to change beside its copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Books {
    pub(super) instances: Arc<BTreeMap<InstanceId, Arc<InstanceRecord>>>,
    pub(super) tokens: Arc<Table<TokenId, TokenRecord>>,
    pub(super) members: Arc<Table<MemberName, MemberRecord>>,
    pub(super) workspaces: Arc<BTreeMap<WorkspaceName, WorkspaceRecord>>,
    pub(super) teams: Arc<Table<TeamId, TeamRecord>>,
    pub(super) grants: Arc<Table<GrantKey, GrantRecord>>,
    pub(super) answers: Answers,
}

impl From<Loaded> for Books {
    fn from(loaded: Loaded) -> Self {
        let instances = loaded.instances.into_iter().map(|(id, r)| (id, Arc::new(r)));
        let answers = loaded.answers.into_iter().map(|(id, r)| (id, Arc::new(r)));
        Self {
            instances: Arc::new(instances.collect()),
            tokens: Arc::new(loaded.tokens.into_iter().collect()),
            members: Arc::new(loaded.members.into_iter().collect()),
            workspaces: Arc::new(loaded.workspaces),
            teams: Arc::new(loaded.teams.into_iter().collect()),
            grants: Arc::new(loaded.grants.into_iter().collect()),
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
                let of = |t: &&TokenRecord| t.subject.is_instance(id);
                let gone: Vec<TokenId> = self.tokens.values().filter(of).map(|t| t.id.clone()).collect();
                for token in gone {
                    Arc::make_mut(&mut self.tokens).remove_mut(&token);
                }
                let gone: Vec<GrantKey> = self.grants.keys().filter(|(_, of)| of == id).cloned().collect();
                for grant in gone {
                    Arc::make_mut(&mut self.grants).remove_mut(&grant);
                }
            }
            Change::PutToken(t) => Arc::make_mut(&mut self.tokens).insert_mut(t.id.clone(), t.clone()),
            Change::RemoveToken(id) => {
                Arc::make_mut(&mut self.tokens).remove_mut(id);
            }
            Change::PutMember(m) => Arc::make_mut(&mut self.members).insert_mut(m.name.clone(), m.clone()),
            Change::RemoveMember(name) => {
                Arc::make_mut(&mut self.members).remove_mut(name);
            }
            Change::PutWorkspace(w) => drop(Arc::make_mut(&mut self.workspaces).insert(w.name.clone(), w.clone())),
            Change::RemoveWorkspace(name) => drop(Arc::make_mut(&mut self.workspaces).remove(name)),
            Change::PutTeam(t) => Arc::make_mut(&mut self.teams).insert_mut(t.id.clone(), t.clone()),
            Change::RemoveTeam(id) => {
                Arc::make_mut(&mut self.teams).remove_mut(id);
            }
            Change::PutGrant(g) => Arc::make_mut(&mut self.grants).insert_mut(g.key.clone(), g.clone()),
            Change::RemoveGrant(key) => {
                Arc::make_mut(&mut self.grants).remove_mut(key);
            }
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
