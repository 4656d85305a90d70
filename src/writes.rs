//! F2: what a write says beside what it asks for: which version of a record it is for.

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
}

impl From<Signed<Action>> for Write {
    fn from(action: Signed<Action>) -> Self {
        Self { action, if_match: None }
    }
}
