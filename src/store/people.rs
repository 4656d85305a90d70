//! Table `people`: the members of the box, by name, with what an older berth does not know of them: their workspaces, and
//! since when they are let in nowhere. Whoever is let in as an owner stands in `members` too, which is all that an older berth
//! knows: to it the others are nobody, so that it opens nothing to them. [`complete`] takes over what it changed there.

use std::collections::{BTreeMap, BTreeSet};

use redb::WriteTransaction;
use serde::{Deserialize, Serialize};

use super::{
    StoreError,
    grants::Grants,
    members::{Member, Members},
    table::{Broken, Rows, Table},
    teams::Teams,
    tokens::TokenRows,
    words::{Edit, edit, edit_row, text, workspace_role, workspace_role_word},
    workspaces::Workspaces,
};
use crate::{
    model::{Grantee, MemberName, Role, WorkspaceName},
    record::MemberRecord,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Person {
    #[serde(default)]
    owner: bool,
    /// Workspace to `admin` or `member`.
    #[serde(default)]
    workspaces: BTreeMap<String, String>,
    created_at: jiff::Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disabled_at: Option<jiff::Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited: Option<Edit>,
}

pub(super) struct People;

impl Table for People {
    const NAME: &'static str = "people";
    /// A member may be in every workspace.
    const MAX_ROW: usize = 128 << 10;
    type Key = MemberName;
    type Record = MemberRecord;
    type Row = Person;

    fn key(r: &MemberRecord) -> &MemberName {
        &r.name
    }

    fn key_text(name: &MemberName) -> std::borrow::Cow<'_, str> {
        name.as_str().into()
    }

    fn encode(r: &MemberRecord) -> Person {
        let workspaces = r.workspaces.iter();
        Person {
            owner: r.owner,
            workspaces: workspaces
                .map(|(w, role)| (w.to_string(), workspace_role_word(role)))
                .collect(),
            created_at: r.created_at,
            disabled_at: r.disabled_at,
            edited: edit_row(r.edited.as_ref()),
        }
    }

    fn decode(name: &str, row: Person) -> Result<MemberRecord, Broken> {
        let one = |(w, role): (String, String)| -> Result<_, Broken> {
            Ok((WorkspaceName::parse(&w).map_err(text)?, workspace_role(&role)?))
        };
        Ok(MemberRecord {
            name: MemberName::parse(name).map_err(text)?,
            owner: row.owner,
            workspaces: row.workspaces.into_iter().map(one).collect::<Result<_, _>>()?,
            created_at: row.created_at,
            disabled_at: row.disabled_at,
            edited: edit(row.edited),
        })
    }
}

/// The two tables within a commit.
pub(super) struct PeopleRows<'t> {
    people: Rows<'t, People>,
    members: Rows<'t, Members>,
}

impl<'t> PeopleRows<'t> {
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            people: Rows::open(txn)?,
            members: Rows::open(txn)?,
        })
    }

    pub(super) fn put(&mut self, member: &MemberRecord) -> Result<(), StoreError> {
        self.people.put(member)?;
        if !member.is_owner() {
            return self.members.delete(&member.name).map(drop);
        }
        self.members.put(&Member {
            name: member.name.clone(),
            role: Role::Owner,
            created_at: member.created_at,
        })
    }

    pub(super) fn delete(&mut self, name: &MemberName) -> Result<(), StoreError> {
        self.people.delete(name)?;
        self.members.delete(name).map(drop)
    }
}

/// Takes over what an older berth did to the owners; whether there was anything. One that it made is an owner, whatever they
/// were before; one that it removed is gone. What such a one was granted goes with them, and what was granted of an instance
/// that is gone.
pub(super) fn complete(txn: &WriteTransaction) -> Result<bool, StoreError> {
    let mut rows = PeopleRows::open(txn)?;
    let (owners, people) = (rows.members.scan()?, rows.people.scan()?);
    let (mut changed, mut anew) = (false, BTreeSet::new());
    for (name, owner) in &owners {
        let known = people
            .get(name)
            .is_some_and(|p| p.is_owner() && p.created_at == owner.created_at);
        if !known {
            changed = true;
            anew.insert(name.clone());
            rows.put(&MemberRecord::owner(name.clone(), owner.created_at))?;
        }
    }
    for person in people
        .values()
        .filter(|p| p.is_owner() && !owners.contains_key(&p.name))
    {
        changed = true;
        rows.delete(&person.name)?;
    }
    let workspaces = Rows::<Workspaces>::open(txn)?.scan()?;
    for mut person in rows.people.scan()?.into_values() {
        let before = person.workspaces.len();
        person.workspaces.retain(|name| workspaces.contains_key(name));
        if person.workspaces.len() != before {
            changed = true;
            rows.put(&person)?;
        }
    }
    let people = rows.people.scan()?;
    {
        // Tokens of somebody who went while an older berth was here open nothing; nor do those from before of somebody whom it
        // made anew: it knows none that have a scope.
        let mut tokens = TokenRows::open(txn)?;
        for token in tokens.all()?.into_values() {
            let Some(name) = token.subject.member() else { continue };
            if !people.contains_key(name) || (anew.contains(name) && !token.scope.is_all()) {
                changed = true;
                tokens.delete(&token.id)?;
            }
        }
    }
    let mut teams = Rows::<Teams>::open(txn)?;
    for mut team in teams.scan()?.into_values() {
        if !workspaces.contains_key(&team.id.workspace) {
            changed = true;
            teams.delete(&team.id)?;
            continue;
        }
        let before = team.members.len();
        team.members.retain(|name| people.contains_key(name));
        if team.members.len() != before {
            changed = true;
            teams.put(&team)?;
        }
    }
    let teams = teams.scan()?;
    let instances = Rows::<super::Instances>::open(txn)?.scan()?;
    let mut grants = Rows::<Grants>::open(txn)?;
    for grant in grants.scan()?.into_values() {
        let (to, instance) = &grant.key;
        let there = match to {
            Grantee::Member(name) => people.contains_key(name),
            Grantee::Team(team) => teams.contains_key(team),
        };
        if !there || !instances.contains_key(instance) {
            changed = true;
            grants.delete(&grant.key)?;
        }
    }
    Ok(changed)
}
