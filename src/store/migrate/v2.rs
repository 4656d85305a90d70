//! Schema 2, frozen: members. Table `members` (name to JSON: `role`, `created_at`); a token's `instance` becomes its
//! `subject`, `{"instance": ID}`, since a member has tokens too.

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde_json::{Map, Value};

use crate::store::{StoreError, failed, row};

const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
const TOKENS: TableDefinition<&str, &[u8]> = TableDefinition::new("tokens");
const MEMBERS: TableDefinition<&str, &[u8]> = TableDefinition::new("members");

pub(super) fn apply(txn: &WriteTransaction) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META).map_err(failed("open meta"))?;
    meta.insert("schema", "2").map_err(failed("write the schema version"))?;
    txn.open_table(MEMBERS).map_err(failed("make table members"))?;
    let mut tokens = txn.open_table(TOKENS).map_err(failed("open tokens"))?;
    let mut changed = Vec::new();
    for entry in tokens.iter().map_err(failed("read tokens"))? {
        let (key, value) = entry.map_err(failed("read a token"))?;
        let broken = |why: &dyn std::fmt::Display| row("tokens", key.value(), why);
        let mut token: Map<String, Value> = serde_json::from_slice(value.value()).map_err(|e| broken(&e))?;
        let instance = token
            .remove("instance")
            .ok_or_else(|| broken(&"it names no instance"))?;
        token.insert("subject".to_owned(), serde_json::json!({ "instance": instance }));
        let bytes = serde_json::to_vec(&token).map_err(|e| broken(&e))?;
        changed.push((key.value().to_owned(), bytes));
    }
    for (key, value) in changed {
        tokens
            .insert(key.as_str(), value.as_slice())
            .map_err(failed("write a token"))?;
    }
    Ok(())
}
