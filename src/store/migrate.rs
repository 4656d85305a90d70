//! Versions of the store, and how an older one is brought up to this berth's.
//!
//! A store has a schema and a revision, `2.1` in short. The promise between neighbours, N-1 and N: N reads what N-1 wrote
//! and writes what N-1 reads, so that an update can be taken back until it is final.
//!
//! - The **revision** counts additions: a table, an index, a field that may be missing. Whoever knows the schema opens
//!   every revision of it, ignores what it does not know, and leaves it in place, but for the fields of rows that it
//!   writes (see `table`). What can be derived from tables that an older berth knows, it did not keep up: that is checked
//!   and made good at every opening (`complete` of a table), not only when the revision rises.
//! - The **schema** rises by a change that the berth before could not read: a field that goes or means something else, a
//!   new word, a restriction. A berth of a lower schema refuses such a store and leaves it as it is. Therefore N may
//!   only learn to read the new form; N+1 is the first that writes it, and the one that raises the number.
//!
//! Schemas are steps in frozen files of their own: a `vN.rs` that was released is never edited. All steps of one opening
//! are one transaction, and the file is copied before (`copies`).
//!
//! | version | what it brought |
//! | --- | --- |
//! | 1.0 | `meta`, `instances`, `tokens` |
//! | 2.0 | `members`; tokens have a subject |
//! | 2.1 | `tokens_by_subject`; unknown fields of rows are ignored |
//! | 2.2 | `workspaces` |
//! | 2.3 | `people`, `teams`, `grants`, `scoped_tokens`, `allowlists` |
//! | 2.4 | `answers`; records have their last change |
//! | 2.5 | `sign_ins` |

mod v1;
mod v2;

use redb::WriteTransaction;

use super::{
    StoreError,
    meta::{self, Version},
};
use crate::model::BoxId;

/// The version that this berth writes. It opens every one of this schema, and those of lower schemas.
pub(super) const CURRENT: Version = Version { schema: 2, revision: 5 };

/// Brings a store of this version (0.0: an empty file) to [`CURRENT`]; whether there was anything to do.
pub(super) fn run(txn: &WriteTransaction, from: Version, fresh_box: &BoxId) -> Result<bool, StoreError> {
    if from >= CURRENT {
        return Ok(false);
    }
    if from.schema < 1 {
        v1::apply(txn, fresh_box)?;
    }
    if from.schema < 2 {
        v2::apply(txn)?;
    }
    meta::put_revision(txn, CURRENT.revision)?;
    Ok(true)
}

/// A store of schema 1, for the test that migrates one.
#[cfg(test)]
pub(super) fn v1_for_tests(txn: &WriteTransaction, box_id: &BoxId) -> Result<(), StoreError> {
    v1::apply(txn, box_id)
}
