//! What somebody is in each workspace that they are in. Most are in one or two: a sorted list takes a fraction of a map. Pure.

use std::{collections::BTreeMap, fmt};

use crate::model::{WorkspaceName, WorkspaceRole};

/// Roles by workspaces, in their order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Roles(Box<[(WorkspaceName, WorkspaceRole)]>);

impl Roles {
    fn at(&self, workspace: &WorkspaceName) -> Result<usize, usize> {
        self.0.binary_search_by(|(name, _)| name.cmp(workspace))
    }

    pub fn get(&self, workspace: &WorkspaceName) -> Option<WorkspaceRole> {
        self.at(workspace).ok().map(|at| self.0[at].1)
    }

    pub fn contains_key(&self, workspace: &WorkspaceName) -> bool {
        self.at(workspace).is_ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&WorkspaceName, WorkspaceRole)> {
        self.0.iter().map(|(name, role)| (name, *role))
    }

    pub fn keys(&self) -> impl Iterator<Item = &WorkspaceName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// The highest that they are in one.
    pub fn highest(&self) -> Option<WorkspaceRole> {
        self.0.iter().map(|(_, role)| *role).max()
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<(WorkspaceName, WorkspaceRole)>)) {
        let mut list = std::mem::take(&mut self.0).into_vec();
        change(&mut list);
        self.0 = list.into();
    }

    /// Gives them a role; the one that they had there.
    pub fn insert(&mut self, workspace: WorkspaceName, role: WorkspaceRole) -> Option<WorkspaceRole> {
        match self.at(&workspace) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, role)),
            Err(at) => {
                self.change(|list| list.insert(at, (workspace, role)));
                None
            }
        }
    }

    /// Takes their role there; the one that they had.
    pub fn remove(&mut self, workspace: &WorkspaceName) -> Option<WorkspaceRole> {
        let (at, role) = (self.at(workspace).ok()?, self.get(workspace));
        self.change(|list| drop(list.remove(at)));
        role
    }

    /// Leaves those workspaces of which `stays` says so.
    pub fn retain(&mut self, stays: impl Fn(&WorkspaceName) -> bool) {
        self.change(|list| list.retain(|(name, _)| stays(name)));
    }

    /// Gives each workspace the name that `shared` says, which is the same: one text in memory for many members.
    pub(super) fn share(&mut self, shared: impl Fn(&WorkspaceName) -> Option<WorkspaceName>) {
        for (name, _) in &mut self.0 {
            if let Some(shared) = shared(name) {
                *name = shared;
            }
        }
    }

    /// As they are shown.
    pub fn to_map(&self) -> BTreeMap<WorkspaceName, WorkspaceRole> {
        self.0.iter().cloned().collect()
    }
}

impl FromIterator<(WorkspaceName, WorkspaceRole)> for Roles {
    fn from_iter<T: IntoIterator<Item = (WorkspaceName, WorkspaceRole)>>(all: T) -> Self {
        // Each once, in their order.
        let all: BTreeMap<_, _> = all.into_iter().collect();
        Self(all.into_iter().collect())
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_a_map(all in proptest::collection::vec((0u8..6, proptest::option::of(any::<bool>())), 0..30), stays in any::<u8>()) {
            let (mut roles, mut model) = (Roles::default(), BTreeMap::new());
            let workspace = |n: u8| format!("w{n}").parse::<WorkspaceName>().unwrap();
            for (n, role) in all {
                let role = role.map(|admin| if admin { WorkspaceRole::Admin } else { WorkspaceRole::Member });
                match role {
                    Some(role) => prop_assert_eq!(roles.insert(workspace(n), role), model.insert(workspace(n), role)),
                    None => prop_assert_eq!(roles.remove(&workspace(n)), model.remove(&workspace(n))),
                }
                prop_assert_eq!(roles.to_map(), model.clone());
                prop_assert_eq!(format!("{roles:?}"), format!("{model:?}"));
                prop_assert_eq!(roles.highest(), model.values().max().copied());
                prop_assert_eq!((roles.len(), roles.is_empty()), (model.len(), model.is_empty()));
                for n in 0..6 {
                    prop_assert_eq!(roles.get(&workspace(n)), model.get(&workspace(n)).copied());
                    prop_assert_eq!(roles.contains_key(&workspace(n)), model.contains_key(&workspace(n)));
                }
                prop_assert_eq!(model.clone().into_iter().collect::<Roles>(), roles.clone());
            }
            let stay = |name: &WorkspaceName| (0..6).any(|n| workspace(n) == *name && stays >> n & 1 == 1);
            roles.retain(stay);
            model.retain(|name, _| stay(name));
            prop_assert_eq!(roles.to_map(), model);
        }
    }
}
