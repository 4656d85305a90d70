//! What shall be, in memory: what the store holds, and nothing else. A commit's changes are made to a copy, which takes
//! the place of the original when they are durable. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{Desired, InstanceId, MemberName, Principal, Subject, TokenId, WorkspaceName},
    plan::exchange::DesiredState,
    policy::Access,
    record::{
        Edit, GrantKey, InstanceRecord, SignInRecord, Table, TokenRecord, WorkspaceRecord,
        tables::{Grants, Members, Teams, Tokens},
    },
    store::{Change, Loaded},
    writes::Answers,
};

/// Cheap to clone, and cheap to change beside its copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Books {
    pub(super) instances: Arc<BTreeMap<InstanceId, Arc<InstanceRecord>>>,
    pub(super) tokens: Arc<Tokens>,
    pub(super) members: Arc<Members>,
    pub(super) workspaces: Arc<BTreeMap<WorkspaceName, WorkspaceRecord>>,
    pub(super) teams: Arc<Teams>,
    pub(super) grants: Arc<Grants>,
    pub(super) answers: Answers,
    pub(super) sign_ins: Arc<Table<MemberName, SignInRecord>>,
}

impl From<Loaded> for Books {
    fn from(loaded: Loaded) -> Self {
        let instances = loaded.instances.into_iter().map(|(id, r)| (id, Arc::new(r)));
        let answers = loaded.answers.into_iter().map(|(id, r)| (id, Arc::new(r)));
        let members: Members = loaded.members.into_iter().collect();
        let tokens = loaded.tokens.into_iter().map(|(id, mut token)| {
            share_token(&members, &mut token);
            (id, token)
        });
        Self {
            instances: Arc::new(instances.collect()),
            tokens: Arc::new(tokens.collect()),
            members: Arc::new(members),
            workspaces: Arc::new(loaded.workspaces),
            teams: Arc::new(loaded.teams.into_iter().collect()),
            grants: Arc::new(loaded.grants.into_iter().collect()),
            answers: Arc::new(answers.collect()),
            sign_ins: Arc::new(loaded.sign_ins.into_iter().collect()),
        }
    }
}

/// There are many tokens: what of one names a member is one text with that member's name.
fn share_token(members: &Members, token: &mut TokenRecord) {
    if let Subject::Member(name) = &token.subject
        && let Some((name, _)) = members.get_key_value(name)
    {
        token.subject = Subject::Member(name.clone());
    }
    token.by = token.by.as_ref().map(|by| members.shared(by));
    share_edit(members, &mut token.edited);
}

fn share_edit(members: &Members, edit: &mut Option<Edit>) {
    if let Some(edit) = edit {
        edit.by = members.shared(&edit.by);
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
                let of = self.tokens.of(&Subject::Instance(id.clone()));
                let gone: Vec<TokenId> = of.map(|t| t.id.clone()).collect();
                for token in gone {
                    Arc::make_mut(&mut self.tokens).remove(&token);
                }
                let gone: Vec<GrantKey> = self.grants.keys().filter(|(_, of)| of == id).cloned().collect();
                for grant in gone {
                    Arc::make_mut(&mut self.grants).remove(&grant);
                }
            }
            Change::PutToken(t) => {
                let mut token = t.clone();
                share_token(&self.members, &mut token);
                Arc::make_mut(&mut self.tokens).put(token);
            }
            Change::RemoveToken(id) => drop(Arc::make_mut(&mut self.tokens).remove(id)),
            Change::PutMember(m) => {
                let mut member = m.clone();
                share_edit(&self.members, &mut member.edited);
                Arc::make_mut(&mut self.members).put(member);
            }
            Change::RemoveMember(name) => {
                Arc::make_mut(&mut self.members).remove(name);
                if self.sign_ins.contains_key(name) {
                    Arc::make_mut(&mut self.sign_ins).remove(name);
                }
            }
            Change::PutWorkspace(w) => drop(Arc::make_mut(&mut self.workspaces).insert(w.name.clone(), w.clone())),
            Change::RemoveWorkspace(name) => drop(Arc::make_mut(&mut self.workspaces).remove(name)),
            Change::PutTeam(t) => Arc::make_mut(&mut self.teams).put(t.clone()),
            Change::RemoveTeam(id) => drop(Arc::make_mut(&mut self.teams).remove(id)),
            Change::PutGrant(g) => drop(Arc::make_mut(&mut self.grants).insert(g.key.clone(), g.clone())),
            Change::RemoveGrant(key) => drop(Arc::make_mut(&mut self.grants).remove(key)),
            Change::PutAnswer(r) => drop(Arc::make_mut(&mut self.answers).insert(r.id, Arc::clone(r))),
            Change::RemoveAnswer(id) => drop(Arc::make_mut(&mut self.answers).remove(id)),
            Change::PutSignIn(r) => drop(Arc::make_mut(&mut self.sign_ins).insert(r.member.clone(), (**r).clone())),
        }
    }

    /// What of it the reconciler needs.
    pub(super) fn desired(&self, version: u64) -> DesiredState {
        DesiredState {
            version,
            instances: self.instances.clone(),
            workspaces: self.workspaces.clone(),
            claimed: self.claimed(),
        }
    }

    fn claimed(&self) -> bool {
        !self.members.owners().is_empty()
    }

    /// Whether both show the reconciler the same.
    pub(super) fn same_desired(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.instances, &other.instances)
            && Arc::ptr_eq(&self.workspaces, &other.workspaces)
            && self.claimed() == other.claimed()
    }

    /// What policy looks at.
    pub(super) fn access(&self) -> Access {
        Access {
            instances: Arc::clone(&self.instances),
            tokens: Arc::clone(&self.tokens),
            members: Arc::clone(&self.members),
            teams: Arc::clone(&self.teams),
            grants: Arc::clone(&self.grants),
            workspaces: Arc::clone(&self.workspaces),
        }
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
