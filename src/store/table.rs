//! What all tables have in common. A table is a type that says how its rows are named and how they lie on disk
//! ([`Table`]); getting, putting, deleting and scanning stand here, once.
//!
//! A row is JSON. Fields that this berth does not know are ignored, since a newer one may have added them; it drops them
//! when it writes the row again, and the newer one reads such a row as one that never had them. So an addition is a
//! field that may be missing at any time: one that takes a right away is none, and neither is a new word in a field that
//! is there already, which an older berth cannot read (`migrate` says what happens with those).

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

use super::{StoreError, row};

/// Why a stored value is not a record.
pub(super) type Broken = String;

/// One table of the store: key to JSON.
pub(super) trait Table {
    /// Its name in the file; never changed.
    const NAME: &'static str;
    /// A row is refused that has more bytes. Far more than admission lets through, so that only a fault meets it.
    const MAX_ROW: usize;
    type Key: Ord + Clone;
    /// What the rest of Berth knows.
    type Record;
    /// How that lies on disk: fields of plain types, all of which later versions must be able to read.
    type Row: Serialize + DeserializeOwned;

    fn key(record: &Self::Record) -> &Self::Key;
    fn key_text(key: &Self::Key) -> Cow<'_, str>;
    fn encode(record: &Self::Record) -> Self::Row;
    /// # Errors
    /// What of the row cannot be read, without its key.
    fn decode(key: &str, row: Self::Row) -> Result<Self::Record, Broken>;
}

pub(super) const fn definition<T: Table>() -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(T::NAME)
}

/// An error of redb's, with what was done to which table.
pub(super) fn failed_in<E: Into<redb::Error>>(table: &'static str, what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |e| StoreError::Table {
        what,
        table,
        source: Box::new(e.into()),
    }
}

/// The rows of a table within a commit.
pub(super) struct Rows<'t, T> {
    table: redb::Table<'t, &'static str, &'static [u8]>,
    of: PhantomData<T>,
}

impl<'t, T: Table> Rows<'t, T> {
    /// Opens the table, and makes it where the file has none.
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self, StoreError> {
        let table = txn.open_table(definition::<T>()).map_err(failed_in(T::NAME, "open"))?;
        Ok(Self { table, of: PhantomData })
    }

    pub(super) fn get(&self, key: &T::Key) -> Result<Option<T::Record>, StoreError> {
        let key = T::key_text(key);
        let value = self.table.get(&*key).map_err(failed_in(T::NAME, "read"))?;
        value.map(|v| read::<T>(&key, v.value())).transpose()
    }

    /// Writes a record, in place of the one that has its key.
    pub(super) fn put(&mut self, record: &T::Record) -> Result<(), StoreError> {
        let key = T::key_text(T::key(record));
        let value = serde_json::to_vec(&T::encode(record)).map_err(|e| row(T::NAME, &key, e))?;
        if value.len() > T::MAX_ROW {
            let why = format!("it has {} bytes; {} at most", value.len(), T::MAX_ROW);
            return Err(row(T::NAME, &key, why));
        }
        let put = self.table.insert(&*key, value.as_slice());
        put.map(drop).map_err(failed_in(T::NAME, "write to"))
    }

    /// Removes what has this key; whether there was something.
    pub(super) fn delete(&mut self, key: &T::Key) -> Result<bool, StoreError> {
        let gone = self.table.remove(&*T::key_text(key));
        gone.map(|g| g.is_some()).map_err(failed_in(T::NAME, "remove from"))
    }

    pub(super) fn scan(&self) -> Result<BTreeMap<T::Key, T::Record>, StoreError> {
        scan::<T>(&self.table)
    }
}

/// All records of a table, outside of a commit.
pub(super) fn load<T: Table>(txn: &ReadTransaction) -> Result<BTreeMap<T::Key, T::Record>, StoreError> {
    scan::<T>(&txn.open_table(definition::<T>()).map_err(failed_in(T::NAME, "open"))?)
}

/// A single row that cannot be read is an error, so that nothing is quietly forgotten.
fn scan<T: Table>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<BTreeMap<T::Key, T::Record>, StoreError> {
    let mut all = BTreeMap::new();
    for entry in table.iter().map_err(failed_in(T::NAME, "read"))? {
        let (key, value) = entry.map_err(failed_in(T::NAME, "read"))?;
        let record = read::<T>(key.value(), value.value())?;
        all.insert(T::key(&record).clone(), record);
    }
    Ok(all)
}

fn read<T: Table>(key: &str, value: &[u8]) -> Result<T::Record, StoreError> {
    let stored = serde_json::from_slice(value).map_err(|e| row(T::NAME, key, e))?;
    T::decode(key, stored).map_err(|e| row(T::NAME, key, e))
}
