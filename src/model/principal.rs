//! Who asks. A principal is made once, at the door that somebody came in by, and goes with everything that they ask for:
//! `policy` judges it, the log names it. Nothing in it is the client's own word.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{InstanceId, MemberName, TokenId, TokenScope};

/// Who asks, by which door, with which token, and how far that reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    who: Who,
    via: Via,
    token: Option<TokenId>,
    scope: Scope,
    address: Option<IpAddr>,
}

/// Who somebody is, as their door vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Nobody who has shown anything.
    Nobody,
    /// The supervisor itself, as when it ends a trial.
    Berth,
    /// Root on the box, or the supervisor's own user.
    Root,
    /// Another user of the box, of the admin socket's group; the user id.
    User(u32),
    /// What they may, the box's books say at that moment.
    Member(MemberName),
    /// Whoever holds a token of this instance.
    Instance(InstanceId),
}

/// The door that somebody came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// None: inside the supervisor.
    Internal,
    /// The admin socket.
    Socket,
    /// What the box shows everybody.
    Page,
    /// The console.
    Console,
    /// `/api/claim`. Who comes through has shown the code or the key of the claim, or changes nothing.
    Claim,
    /// Below `/api/`.
    Api,
    /// An instance's MCP endpoint.
    Endpoint,
    /// An instance's screen.
    Screen,
}

impl Via {
    /// As the log names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Via::Internal => "internal",
            Via::Socket => "socket",
            Via::Page => "page",
            Via::Console => "console",
            Via::Claim => "claim",
            Via::Api => "api",
            Via::Endpoint => "endpoint",
            Via::Screen => "screen",
        }
    }
}

/// How far a principal reaches at most, whatever their role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// As far as the role.
    Whole,
    /// The admin API, and no instance's endpoint.
    Api,
    /// The MCP endpoint of one instance.
    Endpoint(InstanceId),
    /// The MCP endpoints of these instances.
    Endpoints(Arc<BTreeSet<InstanceId>>),
    /// The screen of one instance; to look at only, or with its controls.
    Screen { instance: InstanceId, control: bool },
}

impl Principal {
    fn new(who: Who, via: Via, scope: Scope) -> Self {
        Self {
            who,
            via,
            token: None,
            scope,
            address: None,
        }
    }

    /// Somebody who has shown nothing.
    pub fn nobody(via: Via) -> Self {
        Self::new(Who::Nobody, via, Scope::Whole)
    }

    /// The supervisor itself.
    pub fn berth() -> Self {
        Self::new(Who::Berth, Via::Internal, Scope::Whole)
    }

    /// Root on the box, by the admin socket.
    pub fn root() -> Self {
        Self::new(Who::Root, Via::Socket, Scope::Whole)
    }

    /// Another user of the box, by the admin socket.
    pub fn user(uid: u32) -> Self {
        Self::new(Who::User(uid), Via::Socket, Scope::Whole)
    }

    /// A member, with a token of theirs that reaches so far.
    pub fn member(name: MemberName, token: TokenId, scope: &TokenScope) -> Self {
        let scope = match scope {
            TokenScope::All => Scope::Whole,
            TokenScope::Api => Scope::Api,
            TokenScope::Instances(ids) => Scope::Endpoints(Arc::clone(ids)),
        };
        Self::of_token(Who::Member(name), token, scope)
    }

    /// Whoever holds this token, which is of them and reaches so far.
    pub fn of_token(who: Who, token: TokenId, scope: Scope) -> Self {
        let via = match who {
            Who::Member(_) => Via::Api,
            _ => Via::Endpoint,
        };
        Self {
            token: Some(token),
            ..Self::new(who, via, scope)
        }
    }

    /// A member who has signed in to the console.
    pub fn signed_in(name: MemberName) -> Self {
        Self::new(Who::Member(name), Via::Console, Scope::Whole)
    }

    /// Whoever holds this token of an instance.
    pub fn instance(id: InstanceId, token: TokenId) -> Self {
        Self::of_token(Who::Instance(id.clone()), token, Scope::Endpoint(id))
    }

    /// The same at another door; how far they reach stays.
    pub fn at(self, via: Via) -> Self {
        Self { via, ..self }
    }

    /// The same on the screen of one instance, which they were let to: it reaches no further.
    pub fn on_screen(self, instance: InstanceId, control: bool) -> Self {
        Self {
            via: Via::Screen,
            scope: Scope::Screen { instance, control },
            ..self
        }
    }

    /// The same, who asked from there.
    #[must_use]
    pub fn seen_at(self, address: IpAddr) -> Self {
        Self {
            address: Some(address),
            ..self
        }
    }

    /// Where they asked from, where it was over the network.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    pub fn who(&self) -> &Who {
        &self.who
    }

    pub fn via(&self) -> Via {
        self.via
    }

    /// The public id of the token that they showed.
    pub fn token(&self) -> Option<&TokenId> {
        self.token.as_ref()
    }

    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The name that people and logs know them by; the same for one person at every door.
    pub fn name(&self) -> String {
        match &self.who {
            Who::Nobody => "nobody".to_owned(),
            Who::Berth => "berth".to_owned(),
            Who::Root => "root".to_owned(),
            Who::User(uid) => format!("uid {uid}"),
            Who::Member(name) => name.to_string(),
            Who::Instance(id) => format!("instance {id}"),
        }
    }
}

/// For the log: the name, and by what they came.
impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by {}", self.name(), self.via.as_str())?;
        match &self.token {
            Some(token) => write!(f, " with token {token}"),
            None => Ok(()),
        }
    }
}
