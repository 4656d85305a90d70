//! How tokens, members, teams, grants and workspaces are shown: by the books of the newest commit, and when the token table saw
//! them used. Nobody waits for a commit to read.

use std::{collections::BTreeMap, net::IpAddr};

use super::{Handle, SignIns, ports::Tokens};
use crate::{
    model::{
        CredentialView, GrantView, InstanceId, MemberName, MemberView, Refusal, SignIn, TeamId, TeamView, TokenId,
        TokenView, WorkspaceName, WorkspaceView,
    },
    plan::{people::holders, room::promised_to, sign_in, workspace::counts},
    policy::Access,
    record::{GrantKey, GrantRecord, MemberRecord, TeamRecord, TokenRecord, WorkspaceRecord},
    versions::Versioned,
};

/// When a token was last used, and from where, as the table has it.
fn last_use(t: &TokenRecord, table: &dyn Tokens) -> (Option<jiff::Timestamp>, Option<IpAddr>) {
    let live = table.last_use(&t.id);
    let at = live.and_then(|l| jiff::Timestamp::from_second(l.at).ok());
    let newer = at > t.last_used_at;
    let from = live.filter(|_| newer).and_then(|l| l.from);
    (at.max(t.last_used_at), from.or(t.last_used_from))
}

/// A token, with its last use as the table has it.
pub(super) fn token(t: &TokenRecord, table: &dyn Tokens) -> TokenView {
    let (last_used_at, last_used_from) = last_use(t, table);
    TokenView {
        id: t.id.clone(),
        subject: t.subject.clone(),
        name: t.name.to_string(),
        created_at: t.created_at,
        last_used_at,
        last_used_from,
        expires_at: t.expires_at,
        scope: t.scope.clone(),
        by: t.by.as_deref().map(str::to_owned),
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

/// A member, with their tokens that are valid then.
fn member(
    access: &Access,
    m: &MemberRecord,
    (table, sign_ins): (&dyn Tokens, &SignIns),
    now: jiff::Timestamp,
) -> MemberView {
    let (mut tokens, mut last_used_at) = (0, None);
    for record in access.tokens.of_member(&m.name) {
        tokens += usize::from(record.expires_at.is_none_or(|at| at > now));
        last_used_at = last_used_at.max(last_use(record, table).0);
    }
    MemberView {
        name: m.name.clone(),
        role: m.role(),
        workspaces: m.workspaces.to_map(),
        teams: access.teams_of(&m.name).iter().cloned().collect(),
        created_at: m.created_at,
        etag: m.etag(),
        disabled_at: m.disabled_at,
        sign_in: sign_in::known(sign_ins, m).map_or(SignIn::None, |r| r.state(now)),
        tokens,
        last_used_at,
    }
}

/// A grant, used last as the table knows; none of what is about to go with its instance.
fn grant(access: &Access, g: &GrantRecord, used: Option<jiff::Timestamp>) -> Option<GrantView> {
    let (to, instance) = &g.key;
    let of = access.instances.get(instance)?;
    Some(GrantView {
        to: to.clone(),
        instance: instance.clone(),
        instance_name: of.name.clone(),
        workspace: of.workspace.clone(),
        level: g.level,
        until: g.until,
        created_at: g.created_at,
        by: g.by.to_string(),
        etag: g.etag(),
        last_used_at: used.max(g.last_used_at),
    })
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

/// When one grant was last used, as far as the table knows: by whomever it opens its instance to, since it was made.
fn used(access: &Access, g: &GrantRecord, table: &dyn Tokens) -> Option<jiff::Timestamp> {
    let (to, instance) = &g.key;
    let whose = holders(&access.teams, to);
    let tokens = whose.iter().flat_map(|name| access.tokens.of_member(name));
    let at = tokens.filter_map(|t| table.used(&t.id, instance)).max()?;
    jiff::Timestamp::from_second(at)
        .ok()
        .filter(|_| g.created_at.as_second() <= at)
}

impl Handle {
    /// All tokens, with when they were last used.
    pub fn tokens(&self) -> Vec<TokenView> {
        let access = self.access.load();
        access.tokens.values().map(|t| token(t, &*self.tokens)).collect()
    }

    /// One of them.
    pub fn token(&self, id: &TokenId) -> Option<TokenView> {
        self.access.load().tokens.get(id).map(|t| token(t, &*self.tokens))
    }

    /// All teams.
    pub fn teams(&self) -> Vec<TeamView> {
        self.access.load().teams.values().map(team).collect()
    }

    /// All grants, with when they were last used.
    pub fn grants(&self) -> Vec<GrantView> {
        let access = self.access.load();
        let uses = uses(&access, &*self.tokens);
        let all = access.grants.values();
        all.filter_map(|g| grant(&access, g, uses.get(&g.key).copied()))
            .collect()
    }

    /// All workspaces.
    pub fn workspaces(&self) -> Vec<WorkspaceView> {
        let access = self.access.load();
        access.workspaces.values().map(|w| self.view(&access, w)).collect()
    }

    /// One of them.
    pub fn workspace(&self, name: &WorkspaceName) -> Option<WorkspaceView> {
        let access = self.access.load();
        access.workspaces.get(name).map(|w| self.view(&access, w))
    }

    fn view(&self, access: &Access, record: &WorkspaceRecord) -> WorkspaceView {
        let of = || access.instances.values().filter(|r| r.workspace == record.name);
        WorkspaceView {
            name: record.name.clone(),
            created_at: record.created_at,
            etag: record.etag(),
            quota: record.quota,
            limits: record.limits(&self.workspace),
            instances: of().count(),
            running: of().filter(|r| counts(r)).count(),
            promised_bytes: promised_to(of().map(|r| &**r), self.install_bytes),
            members: access.members.count_in(&record.name),
            allow: record.allow.clone(),
        }
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

    /// One member.
    ///
    /// # Errors
    /// [`Refusal::NoMember`].
    pub fn member(&self, name: &MemberName) -> Result<MemberView, Refusal> {
        let (access, now) = (self.access.load(), jiff::Timestamp::now());
        let found = access.members.get(name);
        let view = found.map(|m| member(&access, m, (&*self.tokens, &self.sign_ins()), now));
        view.ok_or_else(|| Refusal::NoMember { member: name.clone() })
    }

    /// One team.
    ///
    /// # Errors
    /// [`Refusal::NoTeam`].
    pub fn team(&self, id: &TeamId) -> Result<TeamView, Refusal> {
        let found = self.access.load().teams.get(id).map(team);
        found.ok_or_else(|| Refusal::NoTeam { team: id.clone() })
    }

    /// One grant.
    ///
    /// # Errors
    /// [`Refusal::NoGrant`].
    pub fn grant(&self, key: &GrantKey) -> Result<GrantView, Refusal> {
        let access = self.access.load();
        let found = access.grants.get(key);
        let view = found.and_then(|g| grant(&access, g, used(&access, g, &*self.tokens)));
        view.ok_or_else(|| Refusal::NoGrant {
            to: key.0.to_string(),
            of: key.1.clone(),
        })
    }
}
