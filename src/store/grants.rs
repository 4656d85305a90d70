//! Table `grants`: what members and teams were granted, by `NAME ID` or `team:WORKSPACE/NAME ID`. An older berth ignores it,
//! and lets none of those in whom grants are for.

use serde::{Deserialize, Serialize};

use super::{
    table::{Broken, Table},
    words::{Edit, edit, edit_row, level, level_word, text},
};
use crate::{
    model::InstanceId,
    record::{GrantKey, GrantRecord},
};

#[derive(Serialize, Deserialize)]
pub(super) struct Grant {
    level: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<jiff::Timestamp>,
    created_at: jiff::Timestamp,
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used_at: Option<jiff::Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited: Option<Edit>,
}

pub(super) struct Grants;

impl Table for Grants {
    const NAME: &'static str = "grants";
    const MAX_ROW: usize = 4 << 10;
    type Key = GrantKey;
    type Record = GrantRecord;
    type Row = Grant;

    fn key(r: &GrantRecord) -> &GrantKey {
        &r.key
    }

    fn key_text((to, instance): &GrantKey) -> std::borrow::Cow<'_, str> {
        format!("{to} {instance}").into()
    }

    fn encode(r: &GrantRecord) -> Grant {
        Grant {
            level: level_word(r.level),
            until: r.until,
            created_at: r.created_at,
            by: r.by.to_string(),
            last_used_at: r.last_used_at,
            edited: edit_row(r.edited.as_ref()),
        }
    }

    fn decode(key: &str, row: Grant) -> Result<GrantRecord, Broken> {
        let (to, instance) = key.split_once(' ').ok_or("the key names no instance")?;
        Ok(GrantRecord {
            key: (to.parse().map_err(text)?, InstanceId::parse(instance).map_err(text)?),
            level: level(&row.level)?,
            until: row.until,
            created_at: row.created_at,
            by: row.by.into(),
            last_used_at: row.last_used_at,
            edited: edit(row.edited),
        })
    }
}
