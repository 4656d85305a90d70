//! F2: what was asked for, kept in one redb file: instances, members, their tokens, and the box's id. A commit that returned is
//! on disk (fsync); one that failed has changed nothing. Never writes to a file of a newer schema, never repairs by
//! guessing, never holds a secret in the clear. Calls block for as long as the disk does: call them from a thread
//! that may.

mod generic;
mod migrate;
mod revoked;
mod stored;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    backends::InMemoryBackend,
};

use crate::{
    model::{BoxId, InstanceId, MemberName, TokenId},
    record::{InstanceRecord, MemberRecord, TokenRecord},
};
use revoked::Revoked;

const META: TableDefinition<&str, &str> = TableDefinition::new("meta");
const INSTANCES: TableDefinition<&str, &[u8]> = TableDefinition::new("instances");
const TOKENS: TableDefinition<&str, &[u8]> = TableDefinition::new("tokens");
const MEMBERS: TableDefinition<&str, &[u8]> = TableDefinition::new("members");
/// redb's page cache; the whole store of a full box fits.
const CACHE: usize = 4 << 20;

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "another supervisor uses {0}; stop it first (`systemctl stop berth`), or give this one a state_dir of its own"
    )]
    InUse(PathBuf),
    #[error(
        "{path} was written by a newer berth (schema {found}; this one knows up to {}); it was not touched. Install the newer berth again, or put back a backup from before",
        migrate::SCHEMA
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("{path} is damaged ({why}); it was not touched. Put back a backup of it, or move it away to begin anew")]
    Damaged { path: PathBuf, why: String },
    #[error("cannot {what} {path}: {source}")]
    File {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot {what}: {source}")]
    Database {
        what: &'static str,
        source: Box<redb::Error>,
    },
    #[error("{table} holds a value for {key} that this berth cannot read: {why}")]
    Row {
        table: &'static str,
        key: String,
        why: String,
    },
}

fn failed<E: Into<redb::Error>>(what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |e| StoreError::Database {
        what,
        source: Box::new(e.into()),
    }
}

/// One change; several are committed together or not at all.
#[derive(Debug, Clone)]
pub enum Change {
    PutInstance(Box<InstanceRecord>),
    /// The instance and every token of it.
    RemoveInstance(InstanceId),
    PutToken(TokenRecord),
    RemoveToken(TokenId),
    PutMember(MemberRecord),
    /// The member alone: their tokens are changes of their own.
    RemoveMember(MemberName),
}

/// Everything that the store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    pub instances: BTreeMap<InstanceId, InstanceRecord>,
    pub tokens: BTreeMap<TokenId, TokenRecord>,
    pub members: BTreeMap<MemberName, MemberRecord>,
}

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// An open store. It holds the lock on its folder until it is dropped.
pub struct Store {
    /// None after a failed commit: redb wants the file opened anew then.
    db: Option<Database>,
    opener: Opener,
    box_id: BoxId,
    /// None where the store is in memory.
    revoked: Option<Revoked>,
    _lock: Option<fs::File>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.box_id)
    }
}

impl Store {
    /// Opens `{dir}/berth.redb`, making it with id `fresh_box` where there is none, and migrates an older schema.
    ///
    /// # Errors
    /// [`StoreError`]: in use, newer, damaged, or the operating system's own words.
    pub fn open(dir: &Path, fresh_box: &BoxId) -> Result<Self, StoreError> {
        let path = dir.join("berth.redb");
        let file_error = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::File { what, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(file_error("make folder", dir))?;
        let lock = lock(&dir.join("berth.lock"), &path)?;
        match peek(&path)? {
            Some(found) if found > migrate::SCHEMA => return Err(StoreError::Newer { path, found }),
            _ => {}
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(file_error("open", &path))?;
        file.set_permissions(fs::Permissions::from_mode(0o600))
            .map_err(file_error("protect", &path))?;
        drop(file);
        let opened = path.clone();
        let opener: Opener = Box::new(move || Database::builder().set_cache_size(CACHE).create(&opened));
        let mut store = Self::open_with(opener, fresh_box).map_err(|e| damaged(e, &path))?;
        store._lock = Some(lock);
        store.revoked = Some(Revoked::open(dir).map_err(file_error("open", &dir.join("revoked-tokens")))?);
        // The file's name must be as durable as its content.
        fs::File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(file_error("sync folder", dir))?;
        Ok(store)
    }

    fn open_with(opener: Opener, fresh_box: &BoxId) -> Result<Self, StoreError> {
        let db = opener().map_err(failed("open the store"))?;
        let from = schema_of(&db)?.unwrap_or(0);
        if from < migrate::SCHEMA {
            let mut txn = db.begin_write().map_err(failed("begin the migration"))?;
            txn.set_durability(Durability::Immediate)
                .map_err(failed("begin the migration"))?;
            migrate::run(&txn, from, fresh_box)?;
            txn.commit().map_err(failed("commit the migration"))?;
        }
        let box_id = read_meta(&db, "box")?.ok_or_else(|| row("meta", "box", "it is missing"))?;
        let box_id = BoxId::parse(&box_id).map_err(|e| row("meta", "box", e))?;
        Ok(Self {
            db: Some(db),
            opener,
            box_id,
            revoked: None,
            _lock: None,
        })
    }

    /// Which box this is: made when the store was.
    pub fn box_id(&self) -> &BoxId {
        &self.box_id
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`StoreError`]; a single unreadable row is an error, so that nothing is quietly forgotten.
    pub fn load(&mut self) -> Result<Loaded, StoreError> {
        let txn = self.db()?.begin_read().map_err(failed("read the store"))?;
        let mut loaded = Loaded::default();
        let table = txn.open_table(INSTANCES).map_err(failed("read instances"))?;
        for entry in table.iter().map_err(failed("read instances"))? {
            let (key, value) = entry.map_err(failed("read an instance"))?;
            let broken = |e: String| row("instances", key.value(), e);
            let stored: stored::Instance = serde_json::from_slice(value.value()).map_err(|e| broken(e.to_string()))?;
            let record = stored.into_record(key.value()).map_err(broken)?;
            loaded.instances.insert(record.id.clone(), record);
        }
        let table = txn.open_table(TOKENS).map_err(failed("read tokens"))?;
        for entry in table.iter().map_err(failed("read tokens"))? {
            let (key, value) = entry.map_err(failed("read a token"))?;
            let broken = |e: String| row("tokens", key.value(), e);
            let stored: stored::Token = serde_json::from_slice(value.value()).map_err(|e| broken(e.to_string()))?;
            let record = stored.into_record(key.value()).map_err(broken)?;
            loaded.tokens.insert(record.id.clone(), record);
        }
        let table = txn.open_table(MEMBERS).map_err(failed("read members"))?;
        for entry in table.iter().map_err(failed("read members"))? {
            let (key, value) = entry.map_err(failed("read a member"))?;
            let broken = |e: String| row("members", key.value(), e);
            let stored: stored::Member = serde_json::from_slice(value.value()).map_err(|e| broken(e.to_string()))?;
            let record = stored.into_record(key.value()).map_err(broken)?;
            loaded.members.insert(record.name.clone(), record);
        }
        self.without_revoked(&mut loaded)?;
        Ok(loaded)
    }

    /// Takes out tokens that were revoked after this copy of the store was made.
    fn without_revoked(&self, loaded: &mut Loaded) -> Result<(), StoreError> {
        let Some(revoked) = &self.revoked else { return Ok(()) };
        let ids = revoked.ids().map_err(|source| StoreError::File {
            what: "read",
            path: revoked.path().to_owned(),
            source,
        })?;
        let before = loaded.tokens.len();
        loaded.tokens.retain(|id, _| !ids.contains(id.as_str()));
        let n = before - loaded.tokens.len();
        if n > 0 {
            log::warn!(
                "{n} tokens in the store were revoked since it was written: an older copy was put back. They stay revoked"
            );
        }
        Ok(())
    }

    /// Makes all of the changes, durably, or none.
    ///
    /// # Errors
    /// [`StoreError`], after which the next call opens the file anew: a disk that was full may have room again.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let revoked = self.revoked.take();
        let result = self.db().and_then(|db| write(db, changes, revoked.as_ref()));
        self.revoked = revoked;
        if result.is_err() {
            self.db = None;
        }
        result
    }

    fn db(&mut self) -> Result<&Database, StoreError> {
        let db = match self.db.take() {
            Some(db) => db,
            None => (self.opener)().map_err(failed("open the store again"))?,
        };
        Ok(self.db.insert(db))
    }
}

fn write(db: &Database, changes: &[Change], revoked: Option<&Revoked>) -> Result<(), StoreError> {
    let mut gone = Vec::new();
    let mut txn = db.begin_write().map_err(failed("begin a commit"))?;
    txn.set_durability(Durability::Immediate)
        .map_err(failed("begin a commit"))?;
    {
        let mut instances = txn.open_table(INSTANCES).map_err(failed("open instances"))?;
        let mut tokens = txn.open_table(TOKENS).map_err(failed("open tokens"))?;
        let mut members = txn.open_table(MEMBERS).map_err(failed("open members"))?;
        for change in changes {
            match change {
                Change::PutInstance(r) => {
                    let value = json(&stored::Instance::from_record(r), "instances", r.id.as_str())?;
                    instances
                        .insert(r.id.as_str(), value.as_slice())
                        .map_err(failed("write an instance"))?;
                }
                Change::RemoveInstance(id) => {
                    instances.remove(id.as_str()).map_err(failed("remove an instance"))?;
                    let mut owned = Vec::new();
                    for entry in tokens.iter().map_err(failed("read tokens"))? {
                        let (key, value) = entry.map_err(failed("read a token"))?;
                        let stored: stored::Token =
                            serde_json::from_slice(value.value()).map_err(|e| row("tokens", key.value(), e))?;
                        let record = stored
                            .into_record(key.value())
                            .map_err(|e| row("tokens", key.value(), e))?;
                        if record.subject.is_instance(id) {
                            owned.push(record.id);
                        }
                    }
                    for token in owned {
                        tokens.remove(token.as_str()).map_err(failed("remove a token"))?;
                        gone.push(token.to_string());
                    }
                }
                Change::PutToken(r) => {
                    let value = json(&stored::Token::from_record(r), "tokens", r.id.as_str())?;
                    tokens
                        .insert(r.id.as_str(), value.as_slice())
                        .map_err(failed("write a token"))?;
                }
                Change::RemoveToken(id) => {
                    tokens.remove(id.as_str()).map_err(failed("remove a token"))?;
                    gone.push(id.to_string());
                }
                Change::PutMember(r) => {
                    let value = json(&stored::Member::from_record(r), "members", r.name.as_str())?;
                    members
                        .insert(r.name.as_str(), value.as_slice())
                        .map_err(failed("write a member"))?;
                }
                Change::RemoveMember(name) => {
                    members.remove(name.as_str()).map_err(failed("remove a member"))?;
                }
            }
        }
    }
    if let Some(revoked) = revoked {
        revoked.add(&gone).map_err(|source| StoreError::File {
            what: "write",
            path: revoked.path().to_owned(),
            source,
        })?;
    }
    txn.commit().map_err(failed("commit"))
}

fn json(value: &impl serde::Serialize, table: &'static str, key: &str) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|e| row(table, key, e))
}

fn row(table: &'static str, key: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Row {
        table,
        key: key.to_owned(),
        why: why.to_string(),
    }
}

fn read_meta(db: &Database, key: &str) -> Result<Option<String>, StoreError> {
    let txn = db.begin_read().map_err(failed("read the store"))?;
    let table = match txn.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(e) => return Err(failed("read meta")(e)),
    };
    let value = table.get(key).map_err(failed("read meta"))?;
    Ok(value.map(|v| v.value().to_owned()))
}

fn schema_of(db: &Database) -> Result<Option<u32>, StoreError> {
    read_meta(db, "schema")?
        .map(|s| s.parse().map_err(|e| row("meta", "schema", e)))
        .transpose()
}

/// The schema of the file at `path`, read from a copy in memory: opening a redb file writes to it, and one that is
/// newer or damaged must stay as it is.
fn peek(path: &Path) -> Result<Option<u32>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) if bytes.is_empty() => return Ok(None),
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(StoreError::File {
                what: "read",
                path: path.to_owned(),
                source,
            });
        }
    };
    // A damaged file may make redb panic rather than fail.
    let read = std::panic::catch_unwind(|| -> Result<Option<u32>, StoreError> {
        let memory = InMemoryBackend::new();
        let copied = memory
            .set_len(bytes.len() as u64)
            .and_then(|()| memory.write(0, &bytes));
        copied.map_err(|e| failed("copy the store")(redb::StorageError::Io(e)))?;
        let db = Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(memory)
            .map_err(failed("open the store"))?;
        schema_of(&db)
    });
    let why = match read {
        Ok(Ok(schema)) => return Ok(schema),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "it cannot be read as a database".to_owned(),
    };
    Err(StoreError::Damaged {
        path: path.to_owned(),
        why,
    })
}

fn damaged(error: StoreError, path: &Path) -> StoreError {
    match &error {
        StoreError::Database { source, .. } => match **source {
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
            redb::Error::Corrupted(_) => StoreError::Damaged {
                path: path.to_owned(),
                why: error.to_string(),
            },
            _ => error,
        },
        _ => error,
    }
}

fn lock(at: &Path, store: &Path) -> Result<fs::File, StoreError> {
    let fail = |source| StoreError::File {
        what: "lock",
        path: at.to_owned(),
        source,
    };
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(at)
        .map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse(store.to_owned())),
        Err(fs::TryLockError::Error(e)) => Err(fail(e)),
    }
}

#[cfg(test)]
mod tests;
