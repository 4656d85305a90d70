//! Schema versions, each in a frozen file of its own: a `vN.rs` that was released is never edited, a change of the
//! schema adds `vN+1.rs` and a line here. All steps of one opening are one transaction.

mod v1;
mod v2;

use redb::WriteTransaction;

use super::StoreError;
use crate::model::BoxId;

/// The schema that this berth reads and writes.
pub(super) const SCHEMA: u32 = 2;

/// Brings a store from schema `from` (0: an empty file) to [`SCHEMA`].
pub(super) fn run(txn: &WriteTransaction, from: u32, fresh_box: &BoxId) -> Result<(), StoreError> {
    if from < 1 {
        v1::apply(txn, fresh_box)?;
    }
    if from < 2 {
        v2::apply(txn)?;
    }
    Ok(())
}

/// A store of schema 1, for the test that migrates one.
#[cfg(test)]
pub(super) fn v1_for_tests(txn: &WriteTransaction, box_id: &BoxId) -> Result<(), StoreError> {
    v1::apply(txn, box_id)
}
