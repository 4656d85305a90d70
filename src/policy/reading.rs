//! What it takes to read one record of a list, or to hear of it: the same for both.

use super::{Access, Known, Target, Verb, may};
use crate::model::{
    GrantView, Grantee, InstanceId, InstanceView, MemberName, MemberView, Principal, Subject, TeamId, TeamView,
    TokenId, TokenScope, TokenView, WorkspaceName, WorkspaceView,
};

/// To read one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    Instance(InstanceId),
    Workspace(WorkspaceName),
    Member(MemberName),
    Team(TeamId),
    Grant(Grantee, InstanceId),
    Token(Subject),
    /// The variables of an instance, without their values.
    Credentials(InstanceId),
}

impl Reading {
    /// The verb of it.
    pub fn verb(&self) -> Verb {
        match self {
            Reading::Instance(_) => Verb::ReadInstance,
            Reading::Workspace(_) => Verb::ReadWorkspace,
            Reading::Member(_) => Verb::ReadMember,
            Reading::Team(_) => Verb::ReadTeam,
            Reading::Grant(..) => Verb::ReadGrant,
            Reading::Token(_) => Verb::ReadToken,
            Reading::Credentials(_) => Verb::ReadCredentials,
        }
    }

    /// What it is of.
    pub fn target(&self) -> Target<'_> {
        match self {
            Reading::Instance(id) | Reading::Token(Subject::Instance(id)) | Reading::Credentials(id) => {
                Target::Instance(id)
            }
            Reading::Member(name) | Reading::Token(Subject::Member(name)) => Target::Member(name),
            Reading::Workspace(name) => Target::Workspace(name),
            Reading::Team(team) => Target::Team(&team.workspace, &team.name),
            Reading::Grant(to, id) => Target::Grant(to, id),
        }
    }

    /// Whether this principal may.
    pub fn is_open(&self, known: Known<'_>, by: &Principal) -> bool {
        may(known, by, self.verb(), self.target()).is_allowed()
    }

    /// The members who may, beside owners: for what is about to be gone, of which nobody can be asked then.
    pub fn members(&self, access: &Access, now: jiff::Timestamp) -> std::collections::BTreeSet<MemberName> {
        let known = Known { access, now };
        // Which of their tokens they show changes nothing of what they may read.
        let token = TokenId::from_random([0; 12]);
        let may = |name: &&MemberName| {
            let by = Principal::member((*name).clone(), token.clone(), &TokenScope::All);
            self.is_open(known, &by)
        };
        match self {
            // Of what is a member's, they themselves and admins alone may.
            Reading::Member(name)
            | Reading::Token(Subject::Member(name))
            | Reading::Grant(Grantee::Member(name), _) => {
                let others = access.members.admins().iter().chain([name]);
                let owner = |name: &MemberName| access.members.get(name).is_none_or(|m| m.owner);
                others.filter(|name| !owner(name)).filter(may).cloned().collect()
            }
            _ => {
                let others = access.members.values().filter(|m| !m.owner).map(|m| &m.name);
                others.filter(may).cloned().collect()
            }
        }
    }
}

impl From<&InstanceView> for Reading {
    fn from(view: &InstanceView) -> Reading {
        Reading::Instance(view.id.clone())
    }
}

impl From<&WorkspaceView> for Reading {
    fn from(view: &WorkspaceView) -> Reading {
        Reading::Workspace(view.name.clone())
    }
}

impl From<&MemberView> for Reading {
    fn from(view: &MemberView) -> Reading {
        Reading::Member(view.name.clone())
    }
}

impl From<&TeamView> for Reading {
    fn from(view: &TeamView) -> Reading {
        Reading::Team(TeamId {
            workspace: view.workspace.clone(),
            name: view.name.clone(),
        })
    }
}

impl From<&GrantView> for Reading {
    fn from(view: &GrantView) -> Reading {
        Reading::Grant(view.to.clone(), view.instance.clone())
    }
}

impl From<&TokenView> for Reading {
    fn from(view: &TokenView) -> Reading {
        Reading::Token(view.subject.clone())
    }
}
