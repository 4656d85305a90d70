//! The tables of people: records by their keys, with what is looked up often by something else kept beside them. Each index is
//! changed with the record, so that neither is ever without the other. Pure.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    ops::Deref,
    sync::{Arc, LazyLock},
};

use super::{GrantKey, GrantRecord, MemberRecord, Table, TeamRecord, TokenRecord};
use crate::model::{Grantee, InstanceId, MemberName, Subject, TeamId, TokenId, WorkspaceName, WorkspaceRole};

/// Adds to or takes from a sorted list; a key without any has no row.
fn list<K: Ord + Clone, T: Ord + Clone>(lists: &mut Table<K, [T]>, key: &K, one: &T, there: bool) {
    let mut list = lists.get(key).unwrap_or_default().to_vec();
    match (list.binary_search(one), there) {
        (Err(at), true) => list.insert(at, one.clone()),
        (Ok(at), false) => drop(list.remove(at)),
        _ => return,
    }
    match list.is_empty() {
        true => drop(lists.remove(key)),
        false => drop(lists.insert(key.clone(), list)),
    }
}

/// Tokens, by their ids and by whose they are.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    rows: Table<TokenId, TokenRecord>,
    of: Table<Subject, [TokenId]>,
    names: Arc<BTreeSet<Arc<str>>>,
}

/// So many names of tokens are kept once for all that have them: most are called alike.
const NAMES: usize = 64;

impl Deref for Tokens {
    type Target = Table<TokenId, TokenRecord>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl Tokens {
    /// Puts one in, in place of the one that has its id.
    pub fn put(&mut self, mut token: TokenRecord) {
        match self.names.get(&token.name) {
            Some(name) => token.name = Arc::clone(name),
            None if self.names.len() < NAMES => drop(Arc::make_mut(&mut self.names).insert(Arc::clone(&token.name))),
            None => {}
        }
        let (id, subject) = (token.id.clone(), token.subject.clone());
        let before = self.rows.insert(id.clone(), token);
        match before {
            Some(before) if before.subject == subject => return,
            Some(before) => list(&mut self.of, &before.subject, &id, false),
            None => {}
        }
        list(&mut self.of, &subject, &id, true);
    }

    /// Takes one out; whether it was there.
    pub fn remove(&mut self, id: &TokenId) -> bool {
        let Some(before) = self.rows.remove(id) else {
            return false;
        };
        list(&mut self.of, &before.subject, id, false);
        true
    }

    /// Those of an instance or a member, in the order of their ids.
    pub fn of<'a>(&'a self, subject: &Subject) -> impl Iterator<Item = &'a TokenRecord> + use<'a> {
        let ids = self.of.get(subject).unwrap_or_default();
        ids.iter().filter_map(|id| self.rows.get(id))
    }

    /// Those of a member.
    pub fn of_member<'a>(&'a self, name: &MemberName) -> impl Iterator<Item = &'a TokenRecord> + use<'a> {
        self.of(&Subject::Member(name.clone()))
    }
}

impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
    }
}

impl Eq for Tokens {}

impl FromIterator<(TokenId, TokenRecord)> for Tokens {
    fn from_iter<T: IntoIterator<Item = (TokenId, TokenRecord)>>(all: T) -> Self {
        let mut tokens = Self::default();
        all.into_iter().for_each(|(_, token)| tokens.put(token));
        tokens
    }
}

/// Members, with those who are let in as owners, those who administer a workspace, and how many there are in each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    rows: Table<MemberName, MemberRecord>,
    owners: Arc<BTreeSet<MemberName>>,
    admins: Arc<BTreeSet<MemberName>>,
    counts: Table<WorkspaceName, usize>,
}

impl Deref for Members {
    type Target = Table<MemberName, MemberRecord>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl Members {
    /// Puts one in, in place of the one that has their name.
    pub fn put(&mut self, mut member: MemberRecord) {
        if let Some((name, _)) = self.rows.get_key_value(&member.name) {
            // One text for all that name them.
            member.name = name.clone();
        }
        let counts = &self.counts;
        member
            .workspaces
            .share(|w| counts.get_key_value(w).map(|(w, _)| w.clone()));
        let (name, owner) = (member.name.clone(), member.is_owner());
        let admin = member.workspaces.highest() == Some(WorkspaceRole::Admin);
        let workspaces: Vec<WorkspaceName> = member.workspaces.keys().cloned().collect();
        let before = self.rows.insert(name.clone(), member);
        among(&mut self.owners, &name, owner);
        among(&mut self.admins, &name, admin);
        let had = |name: &WorkspaceName| before.as_ref().is_some_and(|b| b.workspaces.contains_key(name));
        workspaces
            .iter()
            .filter(|w| !had(w))
            .for_each(|w| count(&mut self.counts, w, true));
        let left = before.iter().flat_map(|b| b.workspaces.keys());
        left.filter(|w| !workspaces.contains(w))
            .for_each(|w| count(&mut self.counts, w, false));
    }

    /// Takes one out; whether they were there.
    pub fn remove(&mut self, name: &MemberName) -> bool {
        let Some(before) = self.rows.remove(name) else {
            return false;
        };
        among(&mut self.owners, name, false);
        among(&mut self.admins, name, false);
        before.workspaces.keys().for_each(|w| count(&mut self.counts, w, false));
        true
    }

    /// Who is let in as an owner.
    pub fn owners(&self) -> &BTreeSet<MemberName> {
        &self.owners
    }

    /// Who administers a workspace, let in or not.
    pub fn admins(&self) -> &BTreeSet<MemberName> {
        &self.admins
    }

    /// How many are in a workspace.
    pub fn count_in(&self, workspace: &WorkspaceName) -> usize {
        self.counts.get(workspace).copied().unwrap_or_default()
    }

    /// The same text once in memory, where it names a member, or root: records name who made them.
    pub fn shared(&self, text: &Arc<str>) -> Arc<str> {
        static ROOT: LazyLock<Arc<str>> = LazyLock::new(|| "root".into());
        match &**text {
            "root" => Arc::clone(&ROOT),
            name => match self.rows.get_key_value(name) {
                Some((name, _)) => name.shared(),
                None => Arc::clone(text),
            },
        }
    }
}

/// Puts a member among some, or takes them out.
fn among(some: &mut Arc<BTreeSet<MemberName>>, name: &MemberName, there: bool) {
    match (some.contains(name), there) {
        (false, true) => drop(Arc::make_mut(some).insert(name.clone())),
        (true, false) => drop(Arc::make_mut(some).remove(name)),
        _ => {}
    }
}

/// Counts a member in a workspace, or no more.
fn count(counts: &mut Table<WorkspaceName, usize>, workspace: &WorkspaceName, there: bool) {
    let n = counts.get(workspace).copied().unwrap_or_default();
    match if there { n + 1 } else { n.saturating_sub(1) } {
        0 => drop(counts.remove(workspace)),
        n => drop(counts.insert(workspace.clone(), n)),
    }
}

impl FromIterator<(MemberName, MemberRecord)> for Members {
    fn from_iter<T: IntoIterator<Item = (MemberName, MemberRecord)>>(all: T) -> Self {
        let mut members = Self::default();
        all.into_iter().for_each(|(_, member)| members.put(member));
        members
    }
}

/// Teams, with those that each member is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Teams {
    rows: Table<TeamId, TeamRecord>,
    of: Table<MemberName, [TeamId]>,
}

impl Deref for Teams {
    type Target = Table<TeamId, TeamRecord>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl Teams {
    /// Puts one in, in place of the one that has its id.
    pub fn put(&mut self, team: TeamRecord) {
        let id = team.id.clone();
        let before = self.rows.insert(id.clone(), team);
        let none = BTreeSet::new();
        let had = before.as_ref().map_or(&none, |b| &b.members);
        let has = self.rows.get(&id).map_or(&none, |t| &t.members);
        for name in had.symmetric_difference(has) {
            list(&mut self.of, name, &id, has.contains(name));
        }
    }

    /// Takes one out; whether it was there.
    pub fn remove(&mut self, id: &TeamId) -> bool {
        let Some(before) = self.rows.remove(id) else {
            return false;
        };
        before
            .members
            .iter()
            .for_each(|name| list(&mut self.of, name, id, false));
        true
    }

    /// Those that a member is in, in their order.
    pub fn of(&self, name: &MemberName) -> &[TeamId] {
        self.of.get(name).unwrap_or_default()
    }
}

impl FromIterator<(TeamId, TeamRecord)> for Teams {
    fn from_iter<T: IntoIterator<Item = (TeamId, TeamRecord)>>(all: T) -> Self {
        let mut teams = Self::default();
        all.into_iter().for_each(|(_, team)| teams.put(team));
        teams
    }
}

/// Grants; those to one member or team stand together.
pub type Grants = Table<GrantKey, GrantRecord>;

impl Grants {
    /// Those to a member or a team.
    pub fn to<'a>(&'a self, who: &'a Grantee) -> impl Iterator<Item = &'a GrantRecord> {
        let theirs = self.behind(move |(to, _)| to < who);
        theirs.take_while(move |((to, _), _)| to == who).map(|(_, grant)| grant)
    }

    /// What a member was granted of an instance themselves.
    pub fn to_member(&self, name: &MemberName, id: &InstanceId) -> Option<&GrantRecord> {
        self.find(|(to, of)| match to {
            Grantee::Member(to) => to.cmp(name).then_with(|| of.cmp(id)),
            Grantee::Team(_) => Ordering::Greater,
        })
    }

    /// What a team was granted of an instance.
    pub fn to_team(&self, team: &TeamId, id: &InstanceId) -> Option<&GrantRecord> {
        self.find(|(to, of)| match to {
            Grantee::Member(_) => Ordering::Less,
            Grantee::Team(to) => to.cmp(team).then_with(|| of.cmp(id)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Level, TokenScope};

    fn name(n: u8) -> MemberName {
        format!("m{n}").parse().unwrap()
    }

    fn workspace(n: u8) -> WorkspaceName {
        format!("w{n}").parse().unwrap()
    }

    fn team(n: u8) -> TeamId {
        format!("w{}/t{n}", n % 2).parse().unwrap()
    }

    fn instance(n: u8) -> InstanceId {
        InstanceId::from_random([n; 10])
    }

    fn subject(n: u8) -> Subject {
        match n % 2 {
            0 => Subject::Member(name(n)),
            _ => Subject::Instance(instance(n)),
        }
    }

    fn token(n: u8, of: u8) -> TokenRecord {
        TokenRecord {
            id: TokenId::from_random([n; 12]),
            hash: [n; 32],
            subject: subject(of),
            name: "t".into(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            expires_at: None,
            last_used_at: None,
            last_used_from: None,
            scope: TokenScope::All,
            by: None,
            edited: None,
        }
    }

    proptest! {
        /// Whatever is put in and taken out: the index says what a look at all of them says.
        #[test]
        fn tokens_are_found_by_whose_they_are(all in proptest::collection::vec((0u8..30, proptest::option::weighted(0.7, 0u8..6)), 0..120)) {
            let mut tokens = Tokens::default();
            for (n, of) in all {
                match of {
                    Some(of) => tokens.put(token(n, of)),
                    None => drop(tokens.remove(&TokenId::from_random([n; 12]))),
                }
                for of in 0..6 {
                    let counted = tokens.values().filter(|t| t.subject == subject(of));
                    prop_assert!(tokens.of(&subject(of)).eq(counted));
                }
            }
            prop_assert!(tokens.of.values().all(|ids| !ids.is_empty()));
        }

        #[test]
        fn owners_and_who_is_in_a_workspace_are_counted(
            all in proptest::collection::vec((0u8..10, any::<Option<(bool, bool, u8)>>()), 0..80),
        ) {
            let mut members = Members::default();
            for (n, what) in all {
                match what {
                    Some((owner, disabled, places)) => {
                        let mut member = MemberRecord::owner(name(n), jiff::Timestamp::UNIX_EPOCH);
                        (member.owner, member.disabled_at) = (owner, disabled.then_some(jiff::Timestamp::UNIX_EPOCH));
                        let places = (0..3).filter(|w| places >> w & 1 == 1);
                        let role = |w: u8| if disabled == (w == 0) { WorkspaceRole::Admin } else { WorkspaceRole::Member };
                        member.workspaces = places.map(|w| (workspace(w), role(w))).collect();
                        members.put(member);
                    }
                    None => drop(members.remove(&name(n))),
                }
                let owners = members.values().filter(|m| m.is_owner()).map(|m| &m.name);
                prop_assert!(members.owners().iter().eq(owners));
                let admins = members.values().filter(|m| (0..3).any(|w| m.administers(&workspace(w))));
                prop_assert!(members.admins().iter().eq(admins.map(|m| &m.name)));
                for w in 0..3 {
                    let there = members.values().filter(|m| m.workspaces.contains_key(&workspace(w)));
                    prop_assert_eq!(members.count_in(&workspace(w)), there.count());
                }
            }
        }

        #[test]
        fn the_teams_of_a_member_are_those_that_name_them(
            all in proptest::collection::vec((0u8..6, proptest::option::of(any::<u8>())), 0..60),
        ) {
            let mut teams = Teams::default();
            for (n, who) in all {
                match who {
                    Some(who) => teams.put(TeamRecord {
                        id: team(n),
                        members: (0..8).filter(|m| who >> m & 1 == 1).map(name).collect(),
                        created_at: jiff::Timestamp::UNIX_EPOCH,
                        edited: None,
                    }),
                    None => drop(teams.remove(&team(n))),
                }
                for m in 0..8 {
                    let theirs = teams.values().filter(|t| t.members.contains(&name(m))).map(|t| &t.id);
                    prop_assert!(teams.of(&name(m)).iter().eq(theirs));
                }
            }
        }

        #[test]
        fn grants_are_found_by_whose_they_are(all in proptest::collection::btree_set((0u8..6, 0u8..4), 0..20)) {
            let who = |n: u8| match n % 2 {
                0 => Grantee::Member(name(n)),
                _ => Grantee::Team(team(n)),
            };
            let one = |(n, of): (u8, u8)| {
                let key = (who(n), instance(of));
                let grant = GrantRecord {
                    key: key.clone(),
                    level: Level::Use,
                    until: None,
                    created_at: jiff::Timestamp::UNIX_EPOCH,
                    by: "root".into(),
                    last_used_at: None,
                    edited: None,
                };
                (key, grant)
            };
            let model: BTreeMap<GrantKey, GrantRecord> = all.into_iter().map(one).collect();
            let grants: Grants = model.clone().into_iter().collect();
            for n in 0..6 {
                prop_assert!(grants.to(&who(n)).eq(model.values().filter(|g| g.key.0 == who(n))));
                for of in 0..4 {
                    let key = (who(n), instance(of));
                    prop_assert_eq!(grants.to_member(&name(n), &key.1), model.get(&key).filter(|_| n % 2 == 0));
                    prop_assert_eq!(grants.to_team(&team(n), &key.1), model.get(&key).filter(|_| n % 2 == 1));
                }
            }
        }
    }
}
