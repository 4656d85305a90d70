//! What policy looks at: who there is, who belongs where, who was granted what. A value, made anew by whoever owns these
//! facts when they change; what is asked of it takes no time that grows with the number of members or of tokens.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{Grantee, InstanceId, Level, MemberName, Principal, TeamId, TokenId, Who, WorkspaceName},
    record::{GrantKey, GrantRecord, InstanceRecord, MemberRecord, Table, TeamRecord, TokenRecord, WorkspaceRecord},
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
    pub tokens: Arc<Table<TokenId, TokenRecord>>,
    pub members: Arc<Table<MemberName, MemberRecord>>,
    pub teams: Arc<Table<TeamId, TeamRecord>>,
    pub grants: Arc<Table<GrantKey, GrantRecord>>,
    pub workspaces: Shared<WorkspaceName, WorkspaceRecord>,
    index: Arc<Index>,
}

/// The same by whatever it is looked up by.
#[derive(Debug, Default)]
struct Index {
    teams_of: BTreeMap<MemberName, Vec<TeamId>>,
    granted: BTreeMap<InstanceId, Granted>,
}

#[derive(Debug, Default)]
struct Granted {
    members: BTreeMap<MemberName, Given>,
    teams: BTreeMap<TeamId, Given>,
}

#[derive(Debug, Clone, Copy)]
struct Given {
    level: Level,
    until: Option<jiff::Timestamp>,
}

impl Given {
    fn at(&self, now: jiff::Timestamp) -> Option<Level> {
        self.until.is_none_or(|until| now < until).then_some(self.level)
    }
}

impl Access {
    /// These facts; what was derived of `before` is taken over where its facts are the same.
    pub fn of(
        before: &Access,
        instances: &Shared<InstanceId, Arc<InstanceRecord>>,
        tokens: &Arc<Table<TokenId, TokenRecord>>,
        members: &Arc<Table<MemberName, MemberRecord>>,
        teams: &Arc<Table<TeamId, TeamRecord>>,
        grants: &Arc<Table<GrantKey, GrantRecord>>,
        workspaces: &Shared<WorkspaceName, WorkspaceRecord>,
    ) -> Access {
        let same = Arc::ptr_eq(teams, &before.teams) && Arc::ptr_eq(grants, &before.grants);
        Access {
            instances: Arc::clone(instances),
            tokens: Arc::clone(tokens),
            members: Arc::clone(members),
            teams: Arc::clone(teams),
            grants: Arc::clone(grants),
            workspaces: Arc::clone(workspaces),
            index: match same {
                true => Arc::clone(&before.index),
                false => Arc::new(Index::of(teams, grants)),
            },
        }
    }

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
        self.index.teams_of.get(name).map_or(&[], Vec::as_slice)
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
        let granted = self.index.granted.get(id)?;
        let own = granted.members.get(&member.name);
        let teams = self.teams_of(&member.name).iter();
        let by_teams = teams.filter_map(|team| granted.teams.get(team));
        own.into_iter().chain(by_teams).filter_map(|g| g.at(now)).max()
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
        let granted = self.index.granted.get(id);
        let own = granted.and_then(|g| g.members.get(name)?.at(now));
        let team = || {
            let teams = self.teams_of(name).iter();
            let mut by_teams =
                teams.filter(|t| granted.is_some_and(|g| g.teams.get(*t).is_some_and(|g| g.at(now).is_some())));
            by_teams.next()
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

impl Index {
    fn of(teams: &Table<TeamId, TeamRecord>, grants: &Table<GrantKey, GrantRecord>) -> Index {
        let mut index = Index::default();
        for team in teams.values() {
            for member in &team.members {
                index.teams_of.entry(member.clone()).or_default().push(team.id.clone());
            }
        }
        for grant in grants.values() {
            let (to, instance) = &grant.key;
            let given = Given {
                level: grant.level,
                until: grant.until,
            };
            let granted = index.granted.entry(instance.clone()).or_default();
            match to {
                Grantee::Member(name) => drop(granted.members.insert(name.clone(), given)),
                Grantee::Team(team) => drop(granted.teams.insert(team.clone(), given)),
            }
        }
        index
    }
}
