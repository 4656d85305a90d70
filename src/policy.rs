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

mod verb;

pub use verb::{About, Verb, asked};

use crate::model::{Action, InstanceId, MemberName, Principal, Refusal, Role, Scope, TokenId, Via, Who, WorkspaceName};

/// What a verb is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The box as a whole, or what does not exist yet.
    Box,
    Instance(&'a InstanceId),
    Member(&'a MemberName),
    Token(&'a TokenId),
    Workspace(&'a WorkspaceName),
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
pub fn may(principal: &Principal, verb: Verb, target: Target<'_>) -> Decision {
    // Its door is open to everybody.
    if matches!(verb, Verb::SeePage | Verb::SeeClaim) {
        return Decision::Allow;
    }
    match principal.scope() {
        Scope::Whole => {}
        Scope::Api if verb == Verb::Call => return Decision::Deny(Denial::NotPermitted),
        Scope::Api => {}
        Scope::Endpoint(id) => return Decision::of(verb == Verb::Call && target == Target::Instance(id)),
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
        Who::Member(_, Role::Owner) if matches!(verb, Verb::ResetAdmin | Verb::ReadClaimCode) => {
            Decision::Deny(Denial::OnTheBoxOnly)
        }
        Who::Member(_, Role::Owner) => Decision::of(verb != Verb::Call),
        // Only within its scope, which was looked at.
        Who::Instance(_) => Decision::Deny(Denial::NotPermitted),
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

/// Signs an action, for whoever may ask for it.
///
/// # Errors
/// [`Denial`].
pub fn sign(by: Principal, what: Action) -> Result<Signed<Action>, Denial> {
    let (verb, target) = asked(&what);
    match may(&by, verb, target) {
        Decision::Allow => Ok(Signed { by, what }),
        Decision::Deny(why) => Err(why),
    }
}

#[cfg(test)]
mod tests;
