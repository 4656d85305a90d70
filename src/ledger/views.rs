//! How tokens, members, teams, grants and workspaces are shown: by the books of the newest commit, and when the token table saw
//! them used. Nobody waits for a commit to read.

use std::collections::BTreeMap;

use super::{Handle, ports::Tokens};
use crate::{
    model::{
        CredentialView, GrantView, InstanceId, MemberName, MemberView, Refusal, TeamId, TeamView, TokenView,
        WorkspaceView,
    },
    plan::{room::promised_to, workspace::counts},
    policy::Access,
    record::{GrantKey, GrantRecord, MemberRecord, TeamRecord, TokenRecord, WorkspaceRecord},
    versions::Versioned,
};

/// A token, with its last use as the table has it.
pub(super) fn token(t: &TokenRecord, table: &dyn Tokens) -> TokenView {
    let live = table.last_use(&t.id);
    let at = live.and_then(|l| jiff::Timestamp::from_second(l.at).ok());
    let newer = at > t.last_used_at;
    TokenView {
        id: t.id.clone(),
        subject: t.subject.clone(),
        name: t.name.clone(),
        created_at: t.created_at,
        last_used_at: at.max(t.last_used_at),
        last_used_from: live.filter(|_| newer).and_then(|l| l.from).or(t.last_used_from),
        expires_at: t.expires_at,
        scope: t.scope.clone(),
        by: t.by.clone(),
        etag: t.etag(),
    }
}

pub(super) fn team(t: &TeamRecord) -> TeamView {
    TeamView {
        workspace: t.id.workspace.clone(),
        name: t.id.name.clone(),
        members: t.members.clone(),
        created_at: t.created_at,
        etag: t.etag(),
    }
}

/// When grants were last used, as far as the table knows: by whomever each opens its instance to, since it was made.
pub(super) fn uses(access: &Access, table: &dyn Tokens) -> BTreeMap<GrantKey, jiff::Timestamp> {
    let mut all = BTreeMap::new();
    for one in table.uses() {
        let of = access.tokens.get(&one.token).and_then(|t| t.subject.member());
        let Some((member, at)) = of.zip(jiff::Timestamp::from_second(one.at).ok()) else {
            continue;
        };
        for key in access.grants_of(member, &one.instance) {
            let since = access.grants.get(&key).map(|g| g.created_at.as_second());
            if since.is_some_and(|since| since <= one.at) {
                let last = all.entry(key).or_insert(at);
                *last = at.max(*last);
            }
        }
    }
    all
}

impl Handle {
    /// All tokens, with when they were last used.
    pub fn tokens(&self) -> Vec<TokenView> {
        let access = self.access.load();
        access.tokens.values().map(|t| token(t, &*self.tokens)).collect()
    }

    /// All members.
    pub fn members(&self) -> Vec<MemberView> {
        self.members_where(|_| true)
    }

    pub(super) fn members_where(&self, wanted: impl Fn(&MemberName) -> bool) -> Vec<MemberView> {
        let access = self.access.load();
        let now = jiff::Timestamp::now();
        let mut tokens: BTreeMap<&MemberName, (usize, Option<jiff::Timestamp>)> = BTreeMap::new();
        for record in access.tokens.values() {
            let Some(name) = record.subject.member().filter(|n| wanted(n)) else {
                continue;
            };
            let seen = tokens.entry(name).or_default();
            seen.0 += usize::from(record.expires_at.is_none_or(|at| at > now));
            seen.1 = seen.1.max(token(record, &*self.tokens).last_used_at);
        }
        let view = |m: &MemberRecord| {
            let (tokens, last_used_at) = tokens.get(&m.name).copied().unwrap_or_default();
            MemberView {
                name: m.name.clone(),
                role: m.role(),
                workspaces: m.workspaces.clone(),
                teams: access.teams_of(&m.name).iter().cloned().collect(),
                created_at: m.created_at,
                etag: m.etag(),
                disabled_at: m.disabled_at,
                tokens,
                last_used_at,
            }
        };
        let all = access.members.values().filter(|m| wanted(&m.name));
        all.map(view).collect()
    }

    /// All teams.
    pub fn teams(&self) -> Vec<TeamView> {
        self.access.load().teams.values().map(team).collect()
    }

    /// All grants, with when they were last used.
    pub fn grants(&self) -> Vec<GrantView> {
        self.grants_where(|_| true)
    }

    pub(super) fn grants_where(&self, wanted: impl Fn(&GrantKey) -> bool) -> Vec<GrantView> {
        let access = self.access.load();
        let uses = uses(&access, &*self.tokens);
        let view = |g: &GrantRecord| {
            let (to, instance) = &g.key;
            // What is about to go with its instance is not shown.
            let of = access.instances.get(instance)?;
            Some(GrantView {
                to: to.clone(),
                instance: instance.clone(),
                instance_name: of.name.clone(),
                workspace: of.workspace.clone(),
                level: g.level,
                until: g.until,
                created_at: g.created_at,
                by: g.by.clone(),
                etag: g.etag(),
                last_used_at: uses.get(&g.key).copied().max(g.last_used_at),
            })
        };
        let all = access.grants.values().filter(|g| wanted(&g.key));
        all.filter_map(view).collect()
    }

    /// All workspaces.
    pub fn workspaces(&self) -> Vec<WorkspaceView> {
        let access = self.access.load();
        let view = |record: &WorkspaceRecord| {
            let of = || access.instances.values().filter(|r| r.workspace == record.name);
            let in_it = |m: &&MemberRecord| m.workspaces.contains_key(&record.name);
            WorkspaceView {
                name: record.name.clone(),
                created_at: record.created_at,
                etag: record.etag(),
                quota: record.quota,
                limits: record.limits(&self.workspace),
                instances: of().count(),
                running: of().filter(|r| counts(r)).count(),
                promised_bytes: promised_to(of().map(|r| &**r), self.install_bytes),
                members: access.members.values().filter(in_it).count(),
                allow: record.allow.clone(),
            }
        };
        access.workspaces.values().map(view).collect()
    }

    /// The variables of an instance, without their values.
    ///
    /// # Errors
    /// [`Refusal::NoInstance`].
    pub fn credentials(&self, id: &InstanceId) -> Result<Vec<CredentialView>, Refusal> {
        let access = self.access.load();
        let record = access.instances.get(id).ok_or_else(|| Refusal::no_instance(id))?;
        Ok(super::credentials::views(record))
    }

    pub(super) fn member(&self, name: &MemberName) -> Result<MemberView, Refusal> {
        let found = self.members_where(|n| n == name).pop();
        found.ok_or_else(|| Refusal::NoMember { member: name.clone() })
    }

    pub(super) fn team(&self, id: &TeamId) -> Result<TeamView, Refusal> {
        let found = self.access.load().teams.get(id).map(team);
        found.ok_or_else(|| Refusal::NoTeam { team: id.clone() })
    }

    pub(super) fn grant(&self, (to, instance): &GrantKey) -> Result<GrantView, Refusal> {
        let found = self
            .grants()
            .into_iter()
            .find(|g| g.to == *to && g.instance == *instance);
        found.ok_or_else(|| Refusal::NoGrant {
            to: to.to_string(),
            of: instance.clone(),
        })
    }
}
