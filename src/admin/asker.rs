//! Who asks a route: by what they are judged, and how records are shown to them.

use http::HeaderMap;

use crate::{
    model::{Endpoints, InstanceId, InstanceView, MemberView, Principal, Refusal, Role, Who},
    policy::{self, Decision, Known, Reading, Target, Verb},
};

/// Who asks, and at which `host[:port]`; by what they are judged.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) by: &'a Principal,
    pub(super) at: Option<&'a str>,
    /// The header section of what they ask.
    pub(super) headers: &'a HeaderMap,
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

    /// Whether they may read it, where it is no offence to ask.
    pub(super) fn sees(&self, what: impl Into<Reading>) -> bool {
        what.into().is_open(self.known, self.by)
    }

    /// A member as they are shown.
    pub(super) fn shown(&self, member: MemberView) -> MemberView {
        shown(self.known, self.by, member)
    }
}

/// A member without the workspaces and teams that somebody may not know of.
pub(super) fn shown(known: Known<'_>, by: &Principal, mut member: MemberView) -> MemberView {
    if *by.who() == Who::Member(member.name.clone()) {
        return member;
    }
    let sees = |reading: Reading| reading.is_open(known, by);
    member
        .workspaces
        .retain(|name, _| sees(Reading::Workspace(name.clone())));
    member.teams.retain(|team| sees(Reading::Team(team.clone())));
    if member.role != Role::Owner {
        let highest = member.workspaces.values().max().copied();
        member.role = highest.map_or(Role::Member, Role::from);
    }
    member
}

/// Where instances are for somebody, by where they asked; none where everybody has the same addresses, which views have.
pub type Addresses = Box<dyn Fn(&InstanceId) -> Endpoints + Send + Sync>;

/// An instance as it is for whoever has these addresses.
pub(super) fn addressed(addresses: Option<&Addresses>, mut view: InstanceView) -> InstanceView {
    if let Some(addresses) = addresses {
        let endpoints = addresses(&view.id);
        let screen = endpoints.screen.filter(|_| view.endpoints.screen.is_some());
        view.endpoints = Endpoints { screen, ..endpoints };
    }
    view
}
