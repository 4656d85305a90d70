//! F1: who may do what. One pure function, [`may`], judges every action, every read and every call; the doors make
//! principals, and everybody else asks here. Its answers for all of today's principals are a file,
//! `tests/cases/policy/answers.txt`.
//!
//! ```text
//! door ──► Principal ──► may(principal, verb, target) ──► Allow ──► Signed<Action>, or the read
//!                                                    └──► Deny(why)
//! ```
//!
//! An action reaches the ledger as [`Signed`] only, and nothing but [`sign`] makes one.

mod access;
mod reading;
mod verb;

pub use access::{Access, Basis};
pub use reading::Reading;
pub use verb::{About, Verb, asked};

use crate::{
    model::{
        Action, Grantee, InstanceId, Level, MemberName, Principal, Refusal, Scope, Subject, TeamName, TokenId, Via,
        Who, WorkspaceName,
    },
    record::MemberRecord,
};

/// What a verb is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The box as a whole, or what does not exist yet.
    Box,
    Instance(&'a InstanceId),
    Member(&'a MemberName),
    Token(&'a TokenId),
    Workspace(&'a WorkspaceName),
    /// What a member is in a workspace.
    Membership(&'a MemberName, &'a WorkspaceName),
    Team(&'a WorkspaceName, &'a TeamName),
    /// What somebody is granted of an instance.
    Grant(&'a Grantee, &'a InstanceId),
}

/// What an answer depends on beside who asks for what.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    pub access: &'a Access,
    /// Grants end at a time.
    pub now: jiff::Timestamp,
}

/// Why something may not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Only on the box itself, whoever asks.
    #[error("only on the box itself")]
    OnTheBoxOnly,
    /// Not with what was shown. Whether the target exists is not told.
    #[error("not permitted")]
    NotPermitted,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny(Denial),
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::OnTheBoxOnly => Refusal::OnTheBoxOnly,
            Denial::NotPermitted => Refusal::NotPermitted,
        }
    }
}

impl Decision {
    fn of(allowed: bool) -> Decision {
        if allowed {
            Decision::Allow
        } else {
            Decision::Deny(Denial::NotPermitted)
        }
    }

    /// Whether it is [`Decision::Allow`].
    pub fn is_allowed(self) -> bool {
        self == Decision::Allow
    }
}

/// Whether this principal may do this to that.
pub fn may(known: Known<'_>, principal: &Principal, verb: Verb, target: Target<'_>) -> Decision {
    // Its door is open to everybody.
    if matches!(verb, Verb::SeePage | Verb::SeeClaim) {
        return Decision::Allow;
    }
    match principal.scope() {
        Scope::Whole => {}
        Scope::Api if verb == Verb::Call => return Decision::Deny(Denial::NotPermitted),
        Scope::Api => {}
        Scope::Endpoint(id) => return Decision::of(verb == Verb::Call && target == Target::Instance(id)),
        Scope::Endpoints(ids) => {
            let named = matches!(target, Target::Instance(id) if ids.contains(id));
            if verb != Verb::Call || !named {
                return Decision::Deny(Denial::NotPermitted);
            }
        }
        Scope::Screen { instance, control } => {
            let covered = match verb {
                Verb::ViewScreen => true,
                Verb::ControlScreen | Verb::Recreate => *control,
                _ => false,
            };
            if !covered || target != Target::Instance(instance) {
                return Decision::Deny(Denial::NotPermitted);
            }
        }
    }
    match principal.who() {
        // The code or the key of the claim was shown at that door.
        Who::Nobody => Decision::of(verb == Verb::Claim && principal.via() == Via::Claim),
        // It ends trials by itself.
        Who::Berth => Decision::of(verb == Verb::Remove),
        // An endpoint opens by a token.
        Who::Root => Decision::of(verb != Verb::Call),
        Who::User(_) if verb == Verb::ResetAdmin => Decision::Deny(Denial::OnTheBoxOnly),
        Who::User(_) => Decision::of(verb != Verb::Call),
        Who::Member(name) => match known.access.member(name) {
            None => Decision::Deny(Denial::NotPermitted),
            Some(owner) if owner.owner => match verb {
                Verb::ResetAdmin | Verb::ReadClaimCode => Decision::Deny(Denial::OnTheBoxOnly),
                _ => Decision::Allow,
            },
            Some(member) => Decision::of(member_may(known, member, verb, target)),
        },
        // Only within its scope, which was looked at.
        Who::Instance(_) => Decision::Deny(Denial::NotPermitted),
    }
}

/// Whether a member may who is no owner. What is not there is as closed as what is another's.
fn member_may(Known { access, now }: Known<'_>, member: &MemberRecord, verb: Verb, target: Target<'_>) -> bool {
    let administers = |workspace: &WorkspaceName| member.administers(workspace);
    let has = |id: &InstanceId, wanted: Option<Level>| wanted.is_some_and(|l| access.level(member, id, now) >= Some(l));
    match target {
        Target::Box => match verb {
            Verb::UseApi | Verb::ReadTypes | Verb::ReadCa => true,
            Verb::ReadImages => member.workspaces.keys().any(administers),
            _ => false,
        },
        Target::Instance(id) => has(id, verb.level()),
        Target::Workspace(name) => match verb {
            Verb::ReadWorkspace => member.workspaces.contains_key(name),
            Verb::Run | Verb::AddMember | Verb::ReadAudit => administers(name),
            _ => false,
        },
        Target::Membership(other, workspace) => {
            let there = |m: &MemberRecord| !m.owner && m.workspaces.contains_key(workspace);
            matches!(verb, Verb::SetRole | Verb::LeaveWorkspace)
                && administers(workspace)
                && access.members.get(other).is_some_and(there)
        }
        Target::Member(other) => match verb {
            Verb::ReadMember => {
                let theirs = access.members.get(other);
                *other == member.name || theirs.is_some_and(|o| o.workspaces.keys().any(administers))
            }
            Verb::ReadAudit => *other == member.name,
            Verb::ReadToken | Verb::CreateToken => *other == member.name || access.governs(member, other),
            Verb::ChangeSignIn => *other == member.name,
            Verb::DisableMember | Verb::EnableMember | Verb::RemoveMember | Verb::InviteMember | Verb::ResetSignIn => {
                access.governs(member, other)
            }
            _ => false,
        },
        Target::Token(id) => match access.tokens.get(id).map(|t| &t.subject) {
            Some(Subject::Member(of)) => *of == member.name || access.governs(member, of),
            Some(Subject::Instance(id)) => has(id, verb.level()),
            None => false,
        },
        Target::Team(workspace, name) => {
            let mut own = access.teams_of(&member.name).iter();
            administers(workspace)
                || verb == Verb::ReadTeam && own.any(|t| t.workspace == *workspace && t.name == *name)
        }
        Target::Grant(to, id) => {
            let own = match to {
                Grantee::Member(name) => *name == member.name,
                Grantee::Team(team) => access.teams_of(&member.name).contains(team),
            };
            access.workspace_of(id).is_some_and(administers) || verb == Verb::ReadGrant && own
        }
    }
}

/// What somebody asked for who may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    by: Principal,
    what: T,
}

impl<T> Signed<T> {
    /// Who asks.
    pub fn by(&self) -> &Principal {
        &self.by
    }

    /// What for.
    pub fn what(&self) -> &T {
        &self.what
    }

    /// Both.
    pub fn into_parts(self) -> (Principal, T) {
        (self.by, self.what)
    }
}

/// Signs an action, for whoever may ask for it now. Whether they still may when it is done, the ledger looks.
///
/// # Errors
/// [`Denial`].
pub fn sign(known: Known<'_>, by: Principal, what: Action) -> Result<Signed<Action>, Denial> {
    let (verb, target) = asked(&what);
    match may(known, &by, verb, target) {
        Decision::Allow => Ok(Signed { by, what }),
        Decision::Deny(why) => Err(why),
    }
}

/// Signed by root, who needs nobody to know them.
#[cfg(test)]
pub fn signed_by_root(what: Action) -> Signed<Action> {
    let known = Known {
        access: &Access::default(),
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    sign(known, Principal::root(), what).expect("root may")
}

#[cfg(test)]
mod tests;
