//! Table `members`: the people of the box, by name.

use serde::{Deserialize, Serialize};

use super::{
    table::{Broken, Table},
    words::{role, role_word, text},
};
use crate::{model::MemberName, record::MemberRecord};

#[derive(Serialize, Deserialize)]
pub(super) struct Member {
    role: String,
    created_at: jiff::Timestamp,
}

pub(super) struct Members;

impl Table for Members {
    const NAME: &'static str = "members";
    const MAX_ROW: usize = 4 << 10;
    type Key = MemberName;
    type Record = MemberRecord;
    type Row = Member;

    fn key(r: &MemberRecord) -> &MemberName {
        &r.name
    }

    fn key_text(name: &MemberName) -> &str {
        name.as_str()
    }

    fn encode(r: &MemberRecord) -> Member {
        Member {
            role: role_word(r.role),
            created_at: r.created_at,
        }
    }

    fn decode(name: &str, row: Member) -> Result<MemberRecord, Broken> {
        Ok(MemberRecord {
            name: MemberName::parse(name).map_err(text)?,
            role: role(&row.role)?,
            created_at: row.created_at,
        })
    }
}
