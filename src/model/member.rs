//! Who a token speaks for: a member of the box, or one instance.

use serde::{Deserialize, Serialize};

use super::{InstanceId, MemberName};

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything: the box's administrator.
    Owner,
}

/// Whom a token speaks for. As JSON one field: `"instance": ID` or `"member": NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Opens this instance's endpoints, and nothing else.
    Instance(InstanceId),
    /// Opens the admin API as this member, and no instance.
    Member(MemberName),
}

impl Subject {
    /// The instance, where it is one.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Subject::Instance(id) => Some(id),
            Subject::Member(_) => None,
        }
    }

    /// Whether it is this instance.
    pub fn is_instance(&self, id: &InstanceId) -> bool {
        self.instance() == Some(id)
    }

    /// Whether it is a member.
    pub fn is_member(&self) -> bool {
        matches!(self, Subject::Member(_))
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Subject::Instance(id) => f.write_str(id.as_str()),
            Subject::Member(name) => f.write_str(name.as_str()),
        }
    }
}
