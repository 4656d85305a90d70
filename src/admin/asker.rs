//! Whoever asks, and what of the box they see.

use crate::{
    model::{MemberView, Principal, Refusal, Role, Subject, TokenView, Who},
    policy::{self, Decision, Known, Target, Verb},
};

/// Who asks, and at which `host[:port]`; by what they are judged.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) by: &'a Principal,
    pub(super) at: Option<&'a str>,
    pub(super) known: Known<'a>,
    /// Hears what was denied.
    pub(super) denials: &'a (dyn Fn(&Principal, Verb, Target<'_>) + Send + Sync),
}

impl Asker<'_> {
    pub(super) fn may(&self, verb: Verb, target: Target<'_>) -> Result<(), Refusal> {
        match policy::may(self.known, self.by, verb, target) {
            Decision::Allow => Ok(()),
            Decision::Deny(why) => Err(self.denied(verb, target, why)),
        }
    }

    /// What a denial is to whoever asked. Log and audit name them.
    pub(super) fn denied(&self, verb: Verb, target: Target<'_>, why: policy::Denial) -> Refusal {
        log::warn!(by = self.by.name().as_str(), via = self.by.via().as_str(), verb = verb.as_str(); "denied: {why}");
        (self.denials)(self.by, verb, target);
        why.into()
    }

    /// Whether they may, where it is no offence to ask.
    pub(super) fn sees(&self, verb: Verb, target: Target<'_>) -> bool {
        policy::may(self.known, self.by, verb, target).is_allowed()
    }

    /// Whether they may know of a token.
    pub(super) fn sees_token(&self, token: &TokenView) -> bool {
        let target = match &token.subject {
            Subject::Instance(id) => Target::Instance(id),
            Subject::Member(name) => Target::Member(name),
        };
        self.sees(Verb::ReadToken, target)
    }

    /// A member without the workspaces and teams that the asker may not know of.
    pub(super) fn shown(&self, mut member: MemberView) -> MemberView {
        if *self.by.who() == Who::Member(member.name.clone()) {
            return member;
        }
        member
            .workspaces
            .retain(|name, _| self.sees(Verb::ReadWorkspace, Target::Workspace(name)));
        member
            .teams
            .retain(|t| self.sees(Verb::ReadTeam, Target::Team(&t.workspace, &t.name)));
        if member.role != Role::Owner {
            let highest = member.workspaces.values().max().copied();
            member.role = highest.map_or(Role::Member, Role::from);
        }
        member
    }
}
