//! Table `meta`, text to text: which box this is, and which version of the store (`migrate` says what that means).

use std::fmt;

use redb::{Database, ReadableDatabase, TableDefinition, TableError, WriteTransaction};

use super::{StoreError, row, table::failed_in};
use crate::model::BoxId;

const META: TableDefinition<&str, &str> = TableDefinition::new(NAME);
const NAME: &str = "meta";

/// A version of the store: whoever knows the schema can read it, the revision counts what was added since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) schema: u32,
    pub(super) revision: u32,
}

impl Version {
    /// Of a file that holds nothing yet.
    pub(super) const NONE: Version = Version { schema: 0, revision: 0 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.revision)
    }
}

impl std::str::FromStr for Version {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        let (schema, revision) = s.split_once('.').ok_or(())?;
        let number = |n: &str| n.parse().map_err(|_| ());
        Ok(Self {
            schema: number(schema)?,
            revision: number(revision)?,
        })
    }
}

/// The version of an open store; schema 2 had no revision at first.
pub(super) fn version(db: &Database) -> Result<Version, StoreError> {
    let number = |key| {
        let text = read(db, key)?;
        text.map_or(Ok(0), |s| s.parse().map_err(|e| row(NAME, key, e)))
    };
    Ok(Version {
        schema: number("schema")?,
        revision: number("revision")?,
    })
}

pub(super) fn put_revision(txn: &WriteTransaction, revision: u32) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META).map_err(failed_in(NAME, "open"))?;
    let put = meta.insert("revision", revision.to_string().as_str());
    put.map(drop).map_err(failed_in(NAME, "write to"))
}

pub(super) fn box_id(db: &Database) -> Result<BoxId, StoreError> {
    let id = read(db, "box")?.ok_or_else(|| row(NAME, "box", "it is missing"))?;
    BoxId::parse(&id).map_err(|e| row(NAME, "box", e))
}

fn read(db: &Database, key: &str) -> Result<Option<String>, StoreError> {
    let txn = db.begin_read().map_err(failed_in(NAME, "read"))?;
    let table = match txn.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(e) => return Err(failed_in(NAME, "open")(e)),
    };
    let value = table.get(key).map_err(failed_in(NAME, "read"))?;
    Ok(value.map(|v| v.value().to_owned()))
}
