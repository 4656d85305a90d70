//! F2: what was asked for, kept in one redb file: instances, workspaces, members, their tokens, and the box's id. A commit that returned is
//! on disk (fsync); one that failed has changed nothing. Never writes to a file of a newer schema, never repairs by
//! guessing, never holds a secret in the clear. Calls block for as long as the disk does: call them from a thread
//! that may.
//!
//! A table is a file here (`instances`, `tokens`, `people`, `members`, `workspaces`, `allowlists`, `teams`, `grants`, `answers`, `sign_ins`), which says how its rows lie on disk; `table` has what all of
//! them do alike, `migrate` the rule by which older and newer berths share a file.

mod allowlists;
mod answers;
mod copies;
mod grants;
mod instances;
mod members;
mod meta;
mod migrate;
mod people;
mod revoked;
mod sign_ins;
mod sourced;
mod table;
mod teams;
mod tokens;
mod words;
mod workspaces;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use redb::{Database, DatabaseError, Durability, ReadableDatabase, StorageBackend, backends::InMemoryBackend};

use crate::{
    model::{BoxId, InstanceId, MemberName, Subject, TeamId, TokenId, WorkspaceName},
    record::{
        AnswerId, AnswerRecord, GrantKey, GrantRecord, InstanceRecord, MemberRecord, SignInRecord, TeamRecord,
        TokenRecord, WorkspaceRecord,
    },
};
use allowlists::Allowlists;
use answers::Answers;
use grants::Grants;
use instances::Instances;
use meta::Version;
use people::{People, PeopleRows};
use revoked::Revoked;
use sign_ins::SignIns;
use table::Rows;
use teams::Teams;
use tokens::{ScopedTokens, TokenRows, Tokens};
use workspaces::{WorkspaceRows, Workspaces};

/// redb's page cache: the paths to what is changed. The kernel has the rest.
const CACHE: usize = 2 << 20;
/// How long a lock may be held by nobody who keeps it: a lock goes with the open file (flock(2)), which each child of
/// the process that had it shares until it has executed its own program.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another supervisor uses {0}; stop it first (`systemctl stop berth`), or give this one another state_dir")]
    InUse(PathBuf),
    #[error(
        "{path} was written by a newer berth (schema {found}; this one knows up to {}); it was not touched. Install the newer berth again, or put back a backup from before",
        migrate::CURRENT.schema
    )]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "cannot copy the store to {path} before it is brought up to date: {source}. The store was not changed. Where the disk is full, make room for a second store, then start Berth again"
    )]
    Copy { path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is damaged ({why}); it was not changed. Restore a backup, or move it away to start with an empty store"
    )]
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
    #[error("cannot {what} the table {table}: {source}")]
    Table {
        what: &'static str,
        table: &'static str,
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
    /// The instance, every token of it, and what was granted of it.
    RemoveInstance(InstanceId),
    PutToken(TokenRecord),
    RemoveToken(TokenId),
    PutMember(MemberRecord),
    /// The member, and how they sign in: their tokens are changes of their own.
    RemoveMember(MemberName),
    PutWorkspace(WorkspaceRecord),
    RemoveWorkspace(WorkspaceName),
    PutTeam(TeamRecord),
    /// The team alone: what it was granted are changes of their own.
    RemoveTeam(TeamId),
    PutGrant(GrantRecord),
    RemoveGrant(GrantKey),
    PutAnswer(Arc<AnswerRecord>),
    RemoveAnswer(AnswerId),
    PutSignIn(Box<SignInRecord>),
}

/// Everything that the store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    pub instances: BTreeMap<InstanceId, InstanceRecord>,
    pub tokens: BTreeMap<TokenId, TokenRecord>,
    pub members: BTreeMap<MemberName, MemberRecord>,
    /// `default` and that of every instance are among them.
    pub workspaces: BTreeMap<WorkspaceName, WorkspaceRecord>,
    pub teams: BTreeMap<TeamId, TeamRecord>,
    pub grants: BTreeMap<GrantKey, GrantRecord>,
    pub answers: BTreeMap<AnswerId, AnswerRecord>,
    pub sign_ins: BTreeMap<MemberName, SignInRecord>,
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
            Some((Version { schema: found, .. }, _)) if found > migrate::CURRENT.schema => {
                return Err(StoreError::Newer { path, found });
            }
            Some((found, bytes)) if found < migrate::CURRENT && found != Version::NONE => {
                copies::make(&path, &bytes, found)?;
            }
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
        let create = move || Database::builder().set_cache_size(CACHE).create(&opened);
        let opener: Opener = Box::new(move || once_free(&create, |e| matches!(e, DatabaseError::DatabaseAlreadyOpen)));
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
        complete(&db, fresh_box)?;
        let box_id = meta::box_id(&db)?;
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
        let mut loaded = Loaded {
            instances: table::load::<Instances>(&txn)?,
            tokens: table::load::<Tokens>(&txn)?,
            members: table::load::<People>(&txn)?,
            workspaces: table::load::<Workspaces>(&txn)?,
            teams: table::load::<Teams>(&txn)?,
            grants: table::load::<Grants>(&txn)?,
            answers: table::load::<Answers>(&txn)?,
            sign_ins: table::load::<SignIns>(&txn)?,
        };
        loaded.tokens.extend(table::load::<ScopedTokens>(&txn)?);
        for (name, (_, allow)) in table::load::<Allowlists>(&txn)? {
            // One of a workspace that an older berth removed is of no use to anybody.
            if let Some(workspace) = loaded.workspaces.get_mut(&name) {
                workspace.allow = allow;
            }
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

/// Brings the store up to this berth's version, and makes good what an older berth did not keep up.
fn complete(db: &Database, fresh_box: &BoxId) -> Result<(), StoreError> {
    let from = meta::version(db)?;
    let mut txn = db.begin_write().map_err(failed("begin the migration"))?;
    txn.set_durability(Durability::Immediate)
        .map_err(failed("begin the migration"))?;
    let migrated = migrate::run(&txn, from, fresh_box)?;
    Rows::<Answers>::open(&txn)?;
    let tokens = TokenRows::open(&txn)?.complete()?;
    let workspaces = workspaces::complete(&txn)?;
    let people = people::complete(&txn)?;
    let completed = sign_ins::complete(&txn)? | people | tokens | workspaces;
    if !migrated && !completed {
        return txn.abort().map_err(failed("leave the store as it is"));
    }
    txn.commit().map_err(failed("commit the migration"))?;
    if from != Version::NONE {
        log::info!(
            "the store of version {from} was brought up to {}",
            migrate::CURRENT.max(from)
        );
    }
    Ok(())
}

fn write(db: &Database, changes: &[Change], revoked: Option<&Revoked>) -> Result<(), StoreError> {
    let mut txn = db.begin_write().map_err(failed("begin a commit"))?;
    txn.set_durability(Durability::Immediate)
        .map_err(failed("begin a commit"))?;
    let gone = apply(&txn, changes)?;
    if let Some(revoked) = revoked {
        revoked.add(&gone).map_err(|source| StoreError::File {
            what: "write",
            path: revoked.path().to_owned(),
            source,
        })?;
    }
    txn.commit().map_err(failed("commit"))
}

/// Makes the changes; the ids of the tokens that go with them.
fn apply(txn: &redb::WriteTransaction, changes: &[Change]) -> Result<Vec<String>, StoreError> {
    let mut gone = Vec::new();
    let mut instances = Rows::<Instances>::open(txn)?;
    let mut tokens = TokenRows::open(txn)?;
    let mut people = PeopleRows::open(txn)?;
    let mut workspaces = WorkspaceRows::open(txn)?;
    let mut teams = Rows::<Teams>::open(txn)?;
    let mut grants = Rows::<Grants>::open(txn)?;
    let mut answers = Rows::<Answers>::open(txn)?;
    let mut sign_ins = Rows::<SignIns>::open(txn)?;
    for change in changes {
        match change {
            Change::PutInstance(r) => instances.put(r)?,
            Change::RemoveInstance(id) => {
                instances.delete(id)?;
                let of = tokens.delete_of(&Subject::Instance(id.clone()))?;
                gone.extend(of.iter().map(ToString::to_string));
                for key in grants.scan()?.into_keys().filter(|(_, of)| of == id) {
                    grants.delete(&key)?;
                }
            }
            Change::PutToken(r) => tokens.put(r)?,
            Change::RemoveToken(id) => {
                tokens.delete(id)?;
                gone.push(id.to_string());
            }
            Change::PutMember(r) => people.put(r)?,
            Change::RemoveMember(name) => {
                people.delete(name)?;
                sign_ins.delete(name)?;
            }
            Change::PutWorkspace(r) => workspaces.put(r)?,
            Change::RemoveWorkspace(name) => workspaces.delete(name)?,
            Change::PutTeam(r) => teams.put(r)?,
            Change::RemoveTeam(id) => drop(teams.delete(id)?),
            Change::PutGrant(r) => grants.put(r)?,
            Change::RemoveGrant(key) => drop(grants.delete(key)?),
            Change::PutAnswer(r) => answers.put(r)?,
            Change::RemoveAnswer(id) => drop(answers.delete(id)?),
            Change::PutSignIn(r) => sign_ins.put(r)?,
        }
    }
    Ok(gone)
}

fn row(table: &'static str, key: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Row {
        table,
        key: key.to_owned(),
        why: why.to_string(),
    }
}

/// The version and the content of the file at `path`, read in a copy in memory: opening a redb file writes to it, and one
/// that is newer or damaged must stay as it is. None where there is no store yet.
fn peek(path: &Path) -> Result<Option<(Version, Vec<u8>)>, StoreError> {
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
    let read = std::panic::catch_unwind(|| -> Result<Version, StoreError> {
        let memory = InMemoryBackend::new();
        let copied = memory
            .set_len(bytes.len() as u64)
            .and_then(|()| memory.write(0, &bytes));
        copied.map_err(|e| failed("copy the store")(redb::StorageError::Io(e)))?;
        let db = Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(memory)
            .map_err(failed("open the store"))?;
        meta::version(&db)
    });
    let why = match read {
        Ok(Ok(version)) => return Ok(Some((version, bytes))),
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
        StoreError::Database { source, .. } | StoreError::Table { source, .. } => match **source {
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
    match once_free(|| file.try_lock(), |e| matches!(e, fs::TryLockError::WouldBlock)) {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse(store.to_owned())),
        Err(fs::TryLockError::Error(e)) => Err(fail(e)),
    }
}

/// What `take` answers, asked again for as long as `held` says that somebody holds the file, at most [`LOCK_WAIT`].
fn once_free<T, E>(mut take: impl FnMut() -> Result<T, E>, held: impl Fn(&E) -> bool) -> Result<T, E> {
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match take() {
            Err(e) if held(&e) && Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod version_tests;
