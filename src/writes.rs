//! F2: what a write says beside what it asks for: which version of a record it is for, and a key by which it is done once,
//! however often it is asked for. The table of keys is shared by whoever takes requests and the ledger, which keeps answers
//! together with what they answer.

mod kept;
mod keys;

pub use kept::{Answers, IN_ALL, KEPT_FOR, Kept, LONGEST, PER_PRINCIPAL, expired, of_member, over};
pub use keys::{Begun, Keyed, Keys};

use crate::{
    model::{Action, EntityTags},
    policy::Signed,
};

/// A write as it reaches the ledger.
#[derive(Debug)]
pub struct Write {
    pub action: Signed<Action>,
    /// The versions of its record that it is for; none: any, or one that is not there.
    pub if_match: Option<EntityTags>,
    /// Its key, which nobody else uses meanwhile.
    pub key: Option<Keyed>,
}

impl From<Signed<Action>> for Write {
    fn from(action: Signed<Action>) -> Self {
        Self {
            action,
            if_match: None,
            key: None,
        }
    }
}
