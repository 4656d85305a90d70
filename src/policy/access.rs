//! What policy looks at: who there is, who belongs where, who was granted what. A value, made anew by whoever owns these
//! facts when they change; what is asked of it takes hardly more time with many members or tokens than with few.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{Grantee, InstanceId, Level, MemberName, Principal, TeamId, Who, WorkspaceName},
    record::{
        GrantKey, GrantRecord, InstanceRecord, MemberRecord, WorkspaceRecord,
        tables::{Grants, Members, Teams, Tokens},
    },
};

/// What lets somebody in who may call an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis<'a> {
    /// They own the box.
    Owner,
    /// They administer its workspace.
    Admin,
    /// A grant of their own.
    Member,
    /// One of a team's.
    Team(&'a TeamId),
    /// The token that they showed, by itself.
    Token,
}

/// Records by their keys, which several share.
type Shared<K, R> = Arc<BTreeMap<K, R>>;

/// The facts, as of one commit. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub instances: Shared<InstanceId, Arc<InstanceRecord>>,
    pub tokens: Arc<Tokens>,
    pub members: Arc<Members>,
    pub teams: Arc<Teams>,
    pub grants: Arc<Grants>,
    pub workspaces: Shared<WorkspaceName, WorkspaceRecord>,
}

/// How much a grant opens then.
fn opens(grant: &GrantRecord, now: jiff::Timestamp) -> Option<Level> {
    grant.until.is_none_or(|until| now < until).then_some(grant.level)
}

impl Access {
    /// A member who is let in.
    pub fn member(&self, name: &MemberName) -> Option<&MemberRecord> {
        self.members.get(name).filter(|m| m.disabled_at.is_none())
    }

    /// The workspace of an instance.
    pub fn workspace_of(&self, id: &InstanceId) -> Option<&WorkspaceName> {
        self.instances.get(id).map(|r| &r.workspace)
    }

    /// Since when a workspace is there.
    pub fn workspace_since(&self, name: &WorkspaceName) -> Option<jiff::Timestamp> {
        self.workspaces.get(name).map(|w| w.created_at)
    }

    /// The teams of a member.
    pub fn teams_of(&self, name: &MemberName) -> &[TeamId] {
        self.teams.of(name)
    }

    /// Whether a member administers all that another one belongs to, and so may do to them what ends their access.
    pub(super) fn governs(&self, member: &MemberRecord, other: &MemberName) -> bool {
        let Some(other) = self.members.get(other).filter(|o| !o.owner) else {
            return false;
        };
        other.name != member.name
            && !other.workspaces.is_empty()
            && other.workspaces.keys().all(|w| member.administers(w))
    }

    /// How much of an instance is open to a member who is no owner, by their role or by the widest of their grants.
    pub(super) fn level(&self, member: &MemberRecord, id: &InstanceId, now: jiff::Timestamp) -> Option<Level> {
        let record = self.instances.get(id)?;
        let workspace = &record.workspace;
        if member.administers(workspace) {
            return Some(Level::Manage);
        }
        // A trial is open to whoever may manage what it is a trial of, and to nobody by a grant of its own.
        if let Some(of) = record.sourced.as_ref().and_then(|s| s.trial_of.as_ref()) {
            let original = self
                .instances
                .get(of)
                .filter(|o| o.sourced.as_ref().is_none_or(|s| s.trial_of.is_none()));
            let level = original.and_then(|o| self.level(member, &o.id, now));
            return level.filter(|l| *l == Level::Manage);
        }
        if !member.workspaces.contains_key(workspace) {
            return None;
        }
        let own = self.grants.to_member(&member.name, id);
        let teams = self.teams_of(&member.name).iter();
        let by_teams = teams.filter_map(|team| self.grants.to_team(team, id));
        own.into_iter().chain(by_teams).filter_map(|g| opens(g, now)).max()
    }

    /// What lets a principal in who may call an instance: the first of these that there is.
    pub fn basis(&self, by: &Principal, id: &InstanceId, now: jiff::Timestamp) -> Basis<'_> {
        let Who::Member(name) = by.who() else {
            return Basis::Token;
        };
        let Some(member) = self.members.get(name) else {
            return Basis::Token;
        };
        if member.owner {
            return Basis::Owner;
        }
        if self.workspace_of(id).is_some_and(|w| member.administers(w)) {
            return Basis::Admin;
        }
        let open = |grant: Option<&GrantRecord>| grant.and_then(|g| opens(g, now));
        let own = open(self.grants.to_member(name, id));
        let team = || {
            let mut teams = self.teams_of(name).iter();
            teams.find(|t| open(self.grants.to_team(t, id)).is_some())
        };
        match own {
            Some(_) => Basis::Member,
            None => team().map_or(Basis::Member, Basis::Team),
        }
    }

    /// The grants of an instance that a member has, as keys: their own and those of their teams, ended ones as well.
    pub fn grants_of(&self, name: &MemberName, id: &InstanceId) -> Vec<GrantKey> {
        let teams = self.teams_of(name).iter().cloned().map(Grantee::Team);
        let all = [Grantee::Member(name.clone())].into_iter().chain(teams);
        let keys = all.map(|to| (to, id.clone()));
        keys.filter(|key| self.grants.contains_key(key)).collect()
    }
}
