//! Table `members`: who is let in as an owner, by name; all of the people that a berth knows which has no table `people`.

use serde::{Deserialize, Serialize};

use super::{
    table::{Broken, Table},
    words::{role, role_word, text},
};
use crate::model::{MemberName, Role};

/// An owner, as that table has them.
pub(super) struct Member {
    pub(super) name: MemberName,
    pub(super) role: Role,
    pub(super) created_at: jiff::Timestamp,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Row {
    role: String,
    created_at: jiff::Timestamp,
}

pub(super) struct Members;

impl Table for Members {
    const NAME: &'static str = "members";
    const MAX_ROW: usize = 4 << 10;
    type Key = MemberName;
    type Record = Member;
    type Row = Row;

    fn key(r: &Member) -> &MemberName {
        &r.name
    }

    fn key_text(name: &MemberName) -> std::borrow::Cow<'_, str> {
        name.as_str().into()
    }

    fn encode(r: &Member) -> Row {
        Row {
            role: role_word(r.role),
            created_at: r.created_at,
        }
    }

    fn decode(name: &str, row: Row) -> Result<Member, Broken> {
        Ok(Member {
            name: MemberName::parse(name).map_err(text)?,
            role: role(&row.role)?,
            created_at: row.created_at,
        })
    }
}
