//! Schema 1, frozen: the first. Tables `meta` (text to text: `schema`, `box`), `instances` and `tokens` (id to JSON).

use redb::{TableDefinition, WriteTransaction};

use crate::{
    model::BoxId,
    store::{StoreError, failed},
};

const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
const INSTANCES: TableDefinition<&str, &[u8]> = TableDefinition::new("instances");
const TOKENS: TableDefinition<&str, &[u8]> = TableDefinition::new("tokens");

pub(super) fn apply(txn: &WriteTransaction, fresh_box: &BoxId) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META).map_err(failed("make table meta"))?;
    meta.insert("schema", "1").map_err(failed("write the schema version"))?;
    meta.insert("box", fresh_box.as_str())
        .map_err(failed("write the box id"))?;
    txn.open_table(INSTANCES).map_err(failed("make table instances"))?;
    txn.open_table(TOKENS).map_err(failed("make table tokens"))?;
    Ok(())
}
