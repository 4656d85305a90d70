//! Members, teams and grants: what is made, changed and removed, with all that goes with it. Pure.

use std::collections::BTreeSet;

use super::admit::{Book, live};
use crate::{
    model::{
        Counted, Grantee, InstanceId, Level, MemberName, Principal, Refusal, Role, TeamId, TeamName, TokenId, Who,
        WorkspaceName, WorkspaceRole,
    },
    record::{GrantKey, GrantRecord, MemberRecord, TeamRecord, TokenRecord, tables::Teams},
};

/// Members of one box.
pub const MAX_MEMBERS: usize = 20_000;
/// Teams of one box.
pub const MAX_TEAMS: usize = 2_000;
/// Members of one team.
pub const MAX_TEAM: usize = 10_000;
/// Grants of one box.
pub const MAX_GRANTS: usize = 50_000;

/// What the log and the marks of credentials call others than members. `admin` is whoever claims the box.
const RESERVED: [&str; 3] = ["root", "berth", "nobody"];

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    Member(MemberName),
    Team(TeamId),
    Grant(GrantKey),
    Done,
}

/// What an action on people comes to; all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct People {
    pub members: Vec<MemberRecord>,
    pub gone_members: Vec<MemberName>,
    pub teams: Vec<TeamRecord>,
    pub gone_teams: Vec<TeamId>,
    pub grants: Vec<GrantRecord>,
    pub gone_grants: Vec<GrantKey>,
    /// Tokens that are revoked with it.
    pub gone_tokens: Vec<TokenId>,
    /// Who may do less than before: what they have open is looked at again.
    pub narrowed: BTreeSet<MemberName>,
    pub came: Came,
}

impl People {
    fn new(came: Came) -> Self {
        Self {
            members: Vec::new(),
            gone_members: Vec::new(),
            teams: Vec::new(),
            gone_teams: Vec::new(),
            grants: Vec::new(),
            gone_grants: Vec::new(),
            gone_tokens: Vec::new(),
            narrowed: BTreeSet::new(),
            came,
        }
    }

    fn member(record: MemberRecord) -> Self {
        Self {
            members: vec![record.clone()],
            ..Self::new(Came::Member(record.name))
        }
    }
}

pub(super) fn add(
    book: &Book<'_>,
    name: MemberName,
    role: Role,
    workspace: Option<WorkspaceName>,
) -> Result<People, Refusal> {
    if name == MemberName::admin() && role != Role::Owner {
        return Err(Refusal::ReservedName { member: name });
    }
    check_new(book, &name)?;
    let mut record = MemberRecord {
        owner: false,
        ..MemberRecord::owner(name, book.now)
    };
    give(book, &mut record, role, workspace)?;
    Ok(People::member(record))
}

/// Whether somebody who is new may be called so.
pub(super) fn check_new(book: &Book<'_>, name: &MemberName) -> Result<(), Refusal> {
    let member = || name.clone();
    if RESERVED.contains(&name.as_str()) {
        return Err(Refusal::ReservedName { member: member() });
    }
    if book.members.contains_key(name) {
        return Err(Refusal::MemberExists { member: member() });
    }
    room(book.members.len(), Counted::Members, MAX_MEMBERS)
}

pub(super) fn set_role(
    book: &Book<'_>,
    name: &MemberName,
    role: Role,
    workspace: Option<WorkspaceName>,
) -> Result<People, Refusal> {
    let before = member(book, name)?;
    let mut record = before.clone();
    give(book, &mut record, role, workspace)?;
    if before.owner && !record.owner {
        another_owner(book, name)?;
    }
    // Whoever made them a token while they were less may have kept it.
    let rises = record.owner && !before.owner
        || record
            .workspaces
            .iter()
            .any(|(w, r)| before.workspaces.get(w).is_none_or(|b| b < r));
    let mut people = People::member(record);
    if rises {
        people.gone_tokens = tokens_of(book, name, |t| made_by_another(book, t, name));
    }
    people.narrowed.insert(name.clone());
    Ok(people)
}

/// Whether a token of a member was made by another one, who is no owner.
fn made_by_another(book: &Book<'_>, token: &TokenRecord, name: &MemberName) -> bool {
    let maker = token.by.as_deref().and_then(|by| MemberName::parse(by).ok());
    maker.is_some_and(|by| {
        by != *name && book.members.get(&by).is_none_or(|m| !m.owner) && !RESERVED.contains(&by.as_str())
    })
}

/// Gives somebody a role of the box or of a workspace.
fn give(
    book: &Book<'_>,
    record: &mut MemberRecord,
    role: Role,
    workspace: Option<WorkspaceName>,
) -> Result<(), Refusal> {
    let role = match role {
        Role::Owner if workspace.is_some() => return Err(Refusal::OwnerOfAll),
        Role::Owner => {
            record.owner = true;
            return Ok(());
        }
        Role::Admin => WorkspaceRole::Admin,
        Role::Member => WorkspaceRole::Member,
    };
    let workspace = workspace.unwrap_or_default();
    super::workspace::find(book, &workspace)?;
    record.owner = false;
    record.workspaces.insert(workspace, role);
    Ok(())
}

pub(super) fn leave_workspace(
    book: &Book<'_>,
    name: &MemberName,
    workspace: &WorkspaceName,
) -> Result<People, Refusal> {
    let mut record = member(book, name)?.clone();
    if record.workspaces.remove(workspace).is_none() {
        return Err(not_in(name, workspace));
    }
    let mut people = People::member(record);
    let here = |id: &InstanceId| book.instances.get(id).is_some_and(|r| r.workspace == *workspace);
    people.gone_grants = granted_to(book, &Grantee::Member(name.clone()), here);
    people.teams = without(book, &[name.clone()].into(), |team| team.id.workspace == *workspace);
    people.narrowed.insert(name.clone());
    Ok(people)
}

/// Ends every token of theirs. Again is no error: what was made meanwhile goes as well.
pub(super) fn disable(book: &Book<'_>, name: &MemberName) -> Result<People, Refusal> {
    let before = member(book, name)?;
    if before.is_owner() {
        another_owner(book, name)?;
    }
    let mut people = People::member(MemberRecord {
        disabled_at: before.disabled_at.or(Some(book.now)),
        ..before.clone()
    });
    people.gone_tokens = tokens_of(book, name, |_| true);
    people.narrowed.insert(name.clone());
    Ok(people)
}

pub(super) fn enable(book: &Book<'_>, name: &MemberName) -> Result<People, Refusal> {
    Ok(People::member(MemberRecord {
        disabled_at: None,
        ..member(book, name)?.clone()
    }))
}

pub(super) fn remove(book: &Book<'_>, name: &MemberName) -> Result<People, Refusal> {
    if member(book, name)?.is_owner() {
        another_owner(book, name)?;
    }
    Ok(gone(book, &[name.clone()].into()))
}

/// The owners go, with all that they had; whoever is something else stays.
pub(super) fn reset(book: &Book<'_>) -> People {
    // Those as well who are let in no more.
    let owners = book.members.values().filter(|m| m.owner);
    gone(book, &owners.map(|m| m.name.clone()).collect())
}

/// Members with their tokens, grants and places in teams.
pub(super) fn gone(book: &Book<'_>, names: &BTreeSet<MemberName>) -> People {
    let grants = |name: &MemberName| granted_to(book, &Grantee::Member(name.clone()), |_| true);
    let tokens = |name: &MemberName| tokens_of(book, name, |_| true);
    let mut people = People::new(Came::Done);
    people.gone_members = names.iter().cloned().collect();
    people.gone_grants = names.iter().flat_map(grants).collect();
    people.teams = without(book, names, |_| true);
    people.gone_tokens = names.iter().flat_map(tokens).collect();
    people.narrowed.clone_from(names);
    people
}

pub(super) fn add_team(book: &Book<'_>, workspace: WorkspaceName, name: TeamName) -> Result<People, Refusal> {
    super::workspace::find(book, &workspace)?;
    let id = TeamId { workspace, name };
    if book.teams.contains_key(&id) {
        return Err(Refusal::TeamExists { team: id });
    }
    room(book.teams.len(), Counted::Teams, MAX_TEAMS)?;
    let record = TeamRecord {
        id: id.clone(),
        members: BTreeSet::new(),
        created_at: book.now,
        edited: None,
    };
    Ok(People {
        teams: vec![record],
        ..People::new(Came::Team(id))
    })
}

pub(super) fn remove_team(book: &Book<'_>, workspace: WorkspaceName, name: TeamName) -> Result<People, Refusal> {
    let id = TeamId { workspace, name };
    Ok(gone_team(book, team(book, &id)?))
}

fn gone_team(book: &Book<'_>, record: &TeamRecord) -> People {
    let id = &record.id;
    People {
        gone_teams: vec![id.clone()],
        gone_grants: granted_to(book, &Grantee::Team(id.clone()), |_| true),
        narrowed: record.members.clone(),
        ..People::new(Came::Done)
    }
}

/// What goes with a workspace: its teams, and what members were in it.
pub(super) fn of_gone_workspace(book: &Book<'_>, name: &WorkspaceName) -> People {
    let mut people = People::new(Came::Done);
    for record in book.teams.values().filter(|t| t.id.workspace == *name) {
        let gone = gone_team(book, record);
        people.gone_teams.extend(gone.gone_teams);
        people.gone_grants.extend(gone.gone_grants);
        people.narrowed.extend(gone.narrowed);
    }
    for member in book.members.values().filter(|m| m.workspaces.contains_key(name)) {
        let mut member = member.clone();
        member.workspaces.remove(name);
        people.narrowed.insert(member.name.clone());
        people.members.push(member);
    }
    people
}

pub(super) fn join(
    book: &Book<'_>,
    workspace: WorkspaceName,
    name: TeamName,
    who: MemberName,
    by: &Principal,
) -> Result<People, Refusal> {
    let id = TeamId { workspace, name };
    let mut record = team(book, &id)?.clone();
    belongs(book, by, &who, &id.workspace)?;
    if !record.members.contains(&who) {
        room(record.members.len(), Counted::TeamMembers, MAX_TEAM)?;
    }
    record.members.insert(who);
    Ok(People {
        teams: vec![record],
        ..People::new(Came::Team(id))
    })
}

pub(super) fn leave(
    book: &Book<'_>,
    workspace: WorkspaceName,
    name: TeamName,
    who: MemberName,
) -> Result<People, Refusal> {
    let id = TeamId { workspace, name };
    let mut record = team(book, &id)?.clone();
    if !record.members.remove(&who) {
        return Err(Refusal::NotInTeam { member: who, team: id });
    }
    Ok(People {
        teams: vec![record],
        narrowed: [who].into(),
        ..People::new(Came::Team(id))
    })
}

pub(super) fn grant(
    book: &Book<'_>,
    to: Grantee,
    instance: InstanceId,
    level: Level,
    until: Option<jiff::Timestamp>,
    by: &Principal,
) -> Result<People, Refusal> {
    let workspace = &live(book, &instance)?.workspace;
    let narrowed = match &to {
        Grantee::Member(name) => {
            belongs(book, by, name, workspace)?;
            BTreeSet::from([name.clone()])
        }
        Grantee::Team(id) => {
            let team = team(book, id)?;
            if team.id.workspace != *workspace && sees_all(book, by) {
                return Err(Refusal::TeamElsewhere {
                    team: id.clone(),
                    workspace: workspace.clone(),
                });
            }
            if team.id.workspace != *workspace {
                return Err(Refusal::NoTeam { team: id.clone() });
            }
            team.members.clone()
        }
    };
    if until.is_some_and(|at| at <= book.now) {
        return Err(Refusal::GrantOver);
    }
    let key = (to, instance);
    let before = book.grants.get(&key);
    if before.is_none() {
        room(book.grants.len(), Counted::Grants, MAX_GRANTS)?;
    }
    let record = GrantRecord {
        key: key.clone(),
        level,
        until,
        created_at: before.map_or(book.now, |g| g.created_at),
        by: by.name().into(),
        last_used_at: before.and_then(|g| g.last_used_at),
        edited: None,
    };
    Ok(People {
        grants: vec![record],
        // What is new takes nothing away; what stood there before may have been wider.
        narrowed: before.map(|_| narrowed).unwrap_or_default(),
        ..People::new(Came::Grant(key))
    })
}

pub(super) fn ungrant(book: &Book<'_>, to: Grantee, instance: InstanceId) -> Result<People, Refusal> {
    let key = (to, instance);
    if !book.grants.contains_key(&key) {
        let (to, instance) = key;
        return Err(Refusal::NoGrant {
            to: to.to_string(),
            of: instance,
        });
    }
    Ok(People {
        narrowed: holders(book.teams, &key.0),
        gone_grants: vec![key],
        ..People::new(Came::Done)
    })
}

/// Whom a grant to somebody opens something to.
pub fn holders(teams: &Teams, to: &Grantee) -> BTreeSet<MemberName> {
    match to {
        Grantee::Member(name) => BTreeSet::from([name.clone()]),
        Grantee::Team(id) => teams.get(id).map(|t| t.members.clone()).unwrap_or_default(),
    }
}

pub(super) fn member<'a>(book: &Book<'a>, name: &MemberName) -> Result<&'a MemberRecord, Refusal> {
    let none = || Refusal::NoMember { member: name.clone() };
    book.members.get(name).ok_or_else(none)
}

fn team<'a>(book: &Book<'a>, id: &TeamId) -> Result<&'a TeamRecord, Refusal> {
    book.teams.get(id).ok_or_else(|| Refusal::NoTeam { team: id.clone() })
}

/// Only who is in a workspace can be in its teams, or be granted what is in it. Whoever administers a workspace alone is not
/// told whether there is somebody elsewhere.
fn belongs(book: &Book<'_>, by: &Principal, name: &MemberName, workspace: &WorkspaceName) -> Result<(), Refusal> {
    let member = member(book, name)?;
    match member.workspaces.contains_key(workspace) {
        true => Ok(()),
        false if !sees_all(book, by) => Err(Refusal::NoMember { member: name.clone() }),
        false if member.owner => Err(Refusal::OwnerHasAll { member: name.clone() }),
        false => Err(not_in(name, workspace)),
    }
}

pub(super) fn sees_all(book: &Book<'_>, by: &Principal) -> bool {
    match by.who() {
        Who::Member(name) => book.members.get(name).is_some_and(MemberRecord::is_owner),
        _ => true,
    }
}

fn not_in(member: &MemberName, workspace: &WorkspaceName) -> Refusal {
    Refusal::NotInWorkspace {
        member: member.clone(),
        workspace: workspace.clone(),
    }
}

/// A box that is claimed keeps an owner who is let in.
fn another_owner(book: &Book<'_>, than: &MemberName) -> Result<(), Refusal> {
    match book.members.owners().iter().any(|owner| owner != than) {
        true => Ok(()),
        false => Err(Refusal::LastOwner { member: than.clone() }),
    }
}

fn room(count: usize, what: Counted, limit: usize) -> Result<(), Refusal> {
    match count >= limit {
        true => Err(Refusal::Full { what, limit }),
        false => Ok(()),
    }
}

fn granted_to(book: &Book<'_>, to: &Grantee, at: impl Fn(&InstanceId) -> bool) -> Vec<GrantKey> {
    let theirs = book.grants.to(to).filter(|g| at(&g.key.1));
    theirs.map(|g| g.key.clone()).collect()
}

fn tokens_of(book: &Book<'_>, name: &MemberName, of: impl Fn(&TokenRecord) -> bool) -> Vec<TokenId> {
    let theirs = book.tokens.of_member(name).filter(|t| of(t));
    theirs.map(|t| t.id.clone()).collect()
}

/// The teams that some of these are in, without them.
fn without(book: &Book<'_>, names: &BTreeSet<MemberName>, of: impl Fn(&TeamRecord) -> bool) -> Vec<TeamRecord> {
    let theirs: BTreeSet<&TeamId> = names.iter().flat_map(|name| book.teams.of(name)).collect();
    let less = |team: &TeamRecord| {
        let mut team = team.clone();
        team.members.retain(|name| !names.contains(name));
        team
    };
    let theirs = theirs.into_iter().filter_map(|id| book.teams.get(id));
    theirs.filter(|t| of(t)).map(less).collect()
}
