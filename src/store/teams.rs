//! Table `teams`: groups of members, by `WORKSPACE/NAME`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    table::{Broken, Table},
    words::{Edit, edit, edit_row, text},
};
use crate::{
    model::{MemberName, TeamId},
    record::TeamRecord,
};

#[derive(Serialize, Deserialize)]
pub(super) struct Team {
    members: BTreeSet<String>,
    created_at: jiff::Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited: Option<Edit>,
}

pub(super) struct Teams;

impl Table for Teams {
    const NAME: &'static str = "teams";
    const MAX_ROW: usize = 1 << 20;
    type Key = TeamId;
    type Record = TeamRecord;
    type Row = Team;

    fn key(r: &TeamRecord) -> &TeamId {
        &r.id
    }

    fn key_text(id: &TeamId) -> std::borrow::Cow<'_, str> {
        id.to_string().into()
    }

    fn encode(r: &TeamRecord) -> Team {
        Team {
            members: r.members.iter().map(ToString::to_string).collect(),
            created_at: r.created_at,
            edited: edit_row(r.edited.as_ref()),
        }
    }

    fn decode(id: &str, row: Team) -> Result<TeamRecord, Broken> {
        let members = row.members.iter().map(|name| MemberName::parse(name).map_err(text));
        Ok(TeamRecord {
            id: id.parse().map_err(text)?,
            members: members.collect::<Result<_, _>>()?,
            created_at: row.created_at,
            edited: edit(row.edited),
        })
    }
}
