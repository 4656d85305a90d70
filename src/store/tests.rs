//! What an acknowledged change survives, what the store refuses, and that older schemas stay readable.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use redb::{TableDefinition, WriteTransaction};

use super::{members::Members, table::Table, *};
use crate::{catalog, model, record::Sealed};

fn meta_table(txn: &WriteTransaction) -> redb::Table<'_, &'static str, &'static str> {
    txn.open_table(TableDefinition::new("meta")).unwrap()
}

/// Puts a row as it is, as some other berth may have written it.
pub(super) fn put_raw(txn: &WriteTransaction, table: &str, key: &str, row: &[u8]) {
    let table: TableDefinition<&str, &[u8]> = TableDefinition::new(table);
    txn.open_table(table).unwrap().insert(key, row).unwrap();
}

pub(super) fn instance(c: char) -> InstanceRecord {
    let image = catalog::ImageRef {
        reference: "berth/mcp-everything:2026.8.31".into(),
        digest: None,
    };
    let mcp = catalog::Mcp {
        max_sessions: 32,
        ..catalog::Mcp::of(catalog::Transport::Stdio {
            command: vec!["node".into(), "server.js".into()],
            env: BTreeMap::new(),
            processes: model::Processes::Session,
        })
    };
    let spec = catalog::InstanceType {
        title: "Everything".into(),
        description: "All of it".into(),
        services: vec![catalog::Service {
            name: "db".into(),
            command: vec!["/bin/db".into(), "--quiet".into()],
            env: [("A".to_owned(), "b".to_owned())].into(),
            ready: model::Ready::Port {
                port: 5432,
                timeout_ms: 5000,
            },
            restart: model::RestartPolicy::OnFailure,
        }],
        health: catalog::HealthContract {
            interval: Duration::from_secs(30),
            ..catalog::HealthContract::default()
        },
        size: model::Size::Small,
        volume: Some("/data".into()),
        ..catalog::InstanceType::of(model::TypeName::parse("everything").unwrap(), image, mcp)
    };
    InstanceRecord {
        id: InstanceId::parse(&c.to_string().repeat(10)).unwrap(),
        name: model::InstanceName::parse("everything").unwrap(),
        workspace: model::WorkspaceName::parse("default").unwrap(),
        size: model::Size::Medium,
        desired: model::Desired::Running,
        generation: 3,
        spec_hash: "5f".repeat(32),
        created_at: jiff::Timestamp::from_second(1_790_000_000).unwrap(),
        env: [("API_KEY".to_owned(), Sealed(vec![1, 2, 0xff]))].into(),
        marks: crate::record::Marks::default(),
        spec: Arc::new(spec),
        failure: Some("exited with status 1".into()),
        sourced: None,
        edited: None,
    }
}

pub(super) fn token(c: char, of: &InstanceRecord) -> TokenRecord {
    TokenRecord {
        id: TokenId::parse(&c.to_string().repeat(12)).unwrap(),
        hash: [0xab; 32],
        subject: model::Subject::Instance(of.id.clone()),
        name: "first".into(),
        created_at: of.created_at,
        expires_at: None,
        last_used_at: Some(of.created_at),
        last_used_from: None,
        by: None,
        scope: model::TokenScope::All,
        edited: None,
    }
}

pub(super) fn box_id() -> BoxId {
    BoxId::from_random([7; 8])
}

#[test]
fn what_is_written_is_read_and_removal_takes_the_tokens_along() {
    let dir = tempfile::tempdir().unwrap();
    let (a, mut b) = (instance('a'), instance('b'));
    b.sourced = Some(Box::new(crate::record::Sourced {
        source: model::Source::Remote(model::RemoteSource {
            url: "https://a/".into(),
            auth: model::RemoteAuth::None,
        }),
        resolved: None,
        network: None,
        volume: None,
        processes: None,
        call_timeout: Some(Duration::from_secs(1200)),
        pinned: false,
        trial_of: None,
    }));
    let mut store = Store::open(dir.path(), &box_id()).unwrap();
    let put = |r: &InstanceRecord| Change::PutInstance(Box::new(r.clone()));
    store
        .commit(&[
            put(&a),
            put(&b),
            Change::PutToken(token('c', &a)),
            Change::PutToken(token('d', &b)),
        ])
        .unwrap();
    drop(store);
    let mut store = Store::open(dir.path(), &BoxId::from_random([9; 8])).unwrap();
    assert_eq!(*store.box_id(), box_id(), "the box id is made once");
    let loaded = store.load().unwrap();
    assert_eq!((&loaded.instances[&a.id], &loaded.instances[&b.id]), (&a, &b));
    assert_eq!(loaded.tokens.len(), 2);
    store.commit(&[Change::RemoveInstance(a.id.clone())]).unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded.instances.keys().collect::<Vec<_>>(), [&b.id]);
    assert!(loaded.tokens.values().all(|t| t.subject.is_instance(&b.id)) && loaded.tokens.len() == 1);
    let mode = fs::metadata(dir.path().join("berth.redb"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_second_supervisor_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Store::open(dir.path(), &box_id()).unwrap();
    let error = Store::open(dir.path(), &box_id()).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
}

/// A child that was forked while the store was open shares its locks until it executes its program.
#[test]
fn children_that_just_start_do_not_count_as_supervisors() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["berth.lock", "berth.redb"] {
        drop(Store::open(dir.path(), &box_id()).unwrap());
        let child = std::fs::File::open(dir.path().join(file)).unwrap();
        child.lock().unwrap();
        std::thread::scope(|s| {
            s.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(100));
                drop(child);
            });
            let opened = Store::open(dir.path(), &box_id());
            assert!(opened.is_ok(), "{file}: {opened:?}");
        });
    }
}

#[test]
fn a_newer_store_is_refused_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.redb");
    drop(Store::open(dir.path(), &box_id()).unwrap());
    let db = Database::create(&path).unwrap();
    let txn = db.begin_write().unwrap();
    meta_table(&txn).insert("schema", "999").unwrap();
    txn.commit().unwrap();
    drop(db);
    let before = fs::read(&path).unwrap();
    let error = Store::open(dir.path(), &box_id()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 999, .. }), "{error}");
    assert!(fs::read(&path).unwrap() == before, "not one byte changed");
}

#[test]
fn a_damaged_store_is_told_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.redb");
    drop(Store::open(dir.path(), &box_id()).unwrap());
    let whole = fs::read(&path).unwrap();
    let mut bent = whole.clone();
    bent[..4096].fill(0x55);
    for bad in [&bent[..], &whole[..whole.len() / 3], b"not a database"] {
        fs::write(&path, bad).unwrap();
        let error = Store::open(dir.path(), &box_id()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(fs::read(&path).unwrap() == bad);
    }
}

/// A store as schema 1 left it: its own step makes the tables, the rows are those that it wrote. Never edit the files
/// of rows: a berth that cannot read them cannot read its customers' stores.
#[test]
fn a_store_of_schema_1_is_migrated() {
    let mut rows = include_str!("../../tests/cases/store/schema1.jsonl").lines();
    let disk = Disk::default();
    let db = (disk.opener())().unwrap();
    let txn = db.begin_write().unwrap();
    migrate::v1_for_tests(&txn, &box_id()).unwrap();
    for (table, key) in [("instances", "aaaaaaaaaa"), ("tokens", "cccccccccccc")] {
        put_raw(&txn, table, key, rows.next().unwrap().as_bytes());
    }
    txn.commit().unwrap();
    drop(db);
    for _ in 0..2 {
        let mut store = Store::open_with(disk.opener(), &BoxId::from_random([9; 8])).unwrap();
        assert_eq!(*store.box_id(), box_id(), "the same box");
        let loaded = store.load().unwrap();
        let a = instance('a');
        assert_eq!(loaded.tokens.into_values().collect::<Vec<_>>(), [token('c', &a)]);
        assert_eq!(loaded.instances.into_values().collect::<Vec<_>>(), [a]);
        assert!(loaded.members.is_empty(), "nobody has claimed it");
    }
}

pub(super) fn read<T: Table>(key: &str, row: &str) -> T::Record {
    T::decode(key, serde_json::from_str(row).unwrap()).unwrap()
}

pub(super) fn written<T: Table>(record: &T::Record) -> String {
    serde_json::to_string(&T::encode(record)).unwrap()
}

/// Rows as schema 2 writes them.
#[test]
fn schema_2_stays_readable() {
    let file = include_str!("../../tests/cases/store/schema2.jsonl");
    let mut rows = file.lines();
    let mut next = || rows.next().unwrap();
    let a = read::<Instances>("aaaaaaaaaa", next());
    assert_eq!(a, instance('a'));
    let of_instance = read::<Tokens>("cccccccccccc", next());
    assert_eq!(of_instance, token('c', &a));
    let of_member = read::<Tokens>("dddddddddddd", next());
    assert_eq!(of_member, member_token());
    let admin = read::<Members>("admin", next());
    assert_eq!((&admin.name, admin.created_at), (&member().name, member().created_at));
    let written = [
        written::<Instances>(&a),
        written::<Tokens>(&of_instance),
        written::<Tokens>(&of_member),
        written::<Members>(&admin),
    ];
    assert_eq!(written.join("\n") + "\n", file);
}

pub(super) fn member() -> MemberRecord {
    let created_at = jiff::Timestamp::from_second(1_790_000_000).unwrap();
    MemberRecord::owner(MemberName::admin(), created_at)
}

pub(super) fn member_token() -> TokenRecord {
    TokenRecord {
        id: TokenId::parse("dddddddddddd").unwrap(),
        subject: model::Subject::Member(MemberName::admin()),
        ..token('d', &instance('a'))
    }
}

#[test]
fn members_and_their_tokens_come_and_go() {
    let disk = Disk::default();
    let mut store = Store::open_with(disk.opener(), &box_id()).unwrap();
    store
        .commit(&[Change::PutMember(member()), Change::PutToken(member_token())])
        .unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded.members[&MemberName::admin()], member());
    assert_eq!(loaded.tokens.len(), 1);
    let gone = [
        Change::RemoveMember(MemberName::admin()),
        Change::RemoveToken(member_token().id),
    ];
    store.commit(&gone).unwrap();
    let left = store.load().unwrap();
    assert!(left.members.is_empty() && left.tokens.is_empty());
}

/// A disk that loses everything that was not synced, at a chosen write.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<DiskState>>);

#[derive(Debug, Default)]
struct DiskState {
    durable: Vec<u8>,
    cached: Vec<u8>,
    writes_left: Option<usize>,
    dead: bool,
}

impl Disk {
    pub(super) fn power_cycle(&self) -> Disk {
        Disk::holding(self.0.lock().unwrap().durable.clone())
    }

    pub(super) fn holding(durable: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(DiskState {
            cached: durable.clone(),
            durable,
            ..DiskState::default()
        })))
    }

    /// Power goes after so many writes.
    pub(super) fn with_writes(self, left: usize) -> Disk {
        self.0.lock().unwrap().writes_left = Some(left);
        self
    }

    pub(super) fn opener(&self) -> Opener {
        let disk = self.clone();
        Box::new(move || Database::builder().create_with_backend(disk.clone()))
    }
}

impl DiskState {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.writes_left {
            _ if self.dead => {}
            Some(0) => self.dead = true,
            Some(n) => *n -= 1,
            None => {}
        }
        if self.dead {
            Err(io::Error::other("power is gone"))
        } else {
            Ok(())
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().cached.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let from = state.cached.get(start..start + out.len());
        out.copy_from_slice(from.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        state.cached.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        state.durable = state.cached.clone();
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        let start = usize::try_from(offset).unwrap();
        state.cached[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[test]
fn a_crash_at_any_write_loses_nothing_acknowledged() {
    let names: Vec<char> = ('a'..='h').collect();
    for writes in 0..400 {
        let disk = Disk::default();
        let mut store = Store::open_with(disk.opener(), &box_id()).unwrap();
        disk.0.lock().unwrap().writes_left = Some(writes);
        let mut acknowledged = Vec::new();
        for c in &names {
            let r = instance(*c);
            let batch = [
                Change::PutInstance(Box::new(r.clone())),
                Change::PutToken(token(*c, &r)),
            ];
            if store.commit(&batch).is_ok() {
                acknowledged.push(r.id);
            }
        }
        let finished = acknowledged.len() == names.len();
        let after = disk.power_cycle();
        drop(store);
        let loaded = Store::open_with(after.opener(), &box_id()).unwrap().load().unwrap();
        for id in &acknowledged {
            assert!(loaded.instances.contains_key(id), "{id} lost after {writes} writes");
        }
        // At most the one commit in flight may be there unacknowledged, and then whole.
        assert!(loaded.instances.len() <= acknowledged.len() + 1);
        assert_eq!(loaded.tokens.len(), loaded.instances.len(), "commits are whole");
        if finished {
            assert!(writes > 8);
            return;
        }
    }
    panic!("the crash never came after the last write");
}

#[test]
fn a_full_disk_refuses_and_then_serves_again() {
    let disk = Disk::default();
    let mut store = Store::open_with(disk.opener(), &box_id()).unwrap();
    store.commit(&[Change::PutInstance(Box::new(instance('a')))]).unwrap();
    disk.0.lock().unwrap().dead = true;
    assert!(store.commit(&[Change::PutInstance(Box::new(instance('b')))]).is_err());
    disk.0.lock().unwrap().dead = false;
    store.commit(&[Change::PutInstance(Box::new(instance('c')))]).unwrap();
    let ids: Vec<_> = store.load().unwrap().instances.into_keys().collect();
    assert_eq!(ids, [instance('a').id, instance('c').id]);
}

/// A small file system of its own, in memory; None, with a word, where none may be mounted: that takes root.
pub(super) struct Mount(tempfile::TempDir);

impl Mount {
    pub(super) fn of(size: &str) -> Option<Mount> {
        let at = Mount(tempfile::tempdir().unwrap());
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at.path())
            .stderr(std::process::Stdio::null())
            .status();
        if mount.is_ok_and(|s| s.success()) {
            return Some(at);
        }
        eprintln!("skipped: may not mount");
        None
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file until there is no room left.
    pub(super) fn fill(&self) -> PathBuf {
        let filler = self.path().join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        filler
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.path()).status();
    }
}

/// On a file system that is really full.
#[test]
fn a_real_full_disk_refuses_and_then_serves_again() {
    let Some(at) = Mount::of("4m") else { return };
    let mut store = Store::open(at.path(), &box_id()).unwrap();
    store.commit(&[Change::PutInstance(Box::new(instance('a')))]).unwrap();
    let filler = at.fill();
    let mut refused = 0;
    let mut kept = vec![instance('a').id];
    for c in 'b'..='y' {
        let mut big = instance(c);
        big.env.insert("BIG".into(), Sealed(vec![1; 100_000]));
        match store.commit(&[Change::PutInstance(Box::new(big.clone()))]) {
            Ok(()) => kept.push(big.id),
            Err(e) => {
                refused += 1;
                assert!(!e.to_string().is_empty());
            }
        }
    }
    assert!(refused > 0, "the disk was never full");
    fs::remove_file(&filler).unwrap();
    store.commit(&[Change::PutInstance(Box::new(instance('z')))]).unwrap();
    kept.push(instance('z').id);
    assert_eq!(store.load().unwrap().instances.into_keys().collect::<Vec<_>>(), kept);
    drop(store);
    let again = Store::open(at.path(), &box_id()).unwrap().load().unwrap();
    assert_eq!(again.instances.into_keys().collect::<Vec<_>>(), kept);
}

/// How somebody signs in stays with them, goes with them, and is nobody's whom an older berth made anew.
#[test]
fn how_members_sign_in_comes_and_goes_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let member = MemberRecord::owner(MemberName::admin(), jiff::Timestamp::UNIX_EPOCH);
    let record = SignInRecord {
        epoch: 3,
        passphrase: Some(model::PassphraseHash {
            memory: 19456,
            passes: 2,
            lanes: 1,
            salt: [1; 16],
            hash: [2; 32],
        }),
        totp: Some(crate::record::TotpRecord {
            secret: Sealed(vec![3; 40]),
            last: 7,
        }),
        recovery: [[4; 32], [5; 32]].into(),
        link: Some(crate::record::LinkRecord {
            hash: [6; 32],
            expires_at: jiff::Timestamp::UNIX_EPOCH,
        }),
        ..SignInRecord::none(&member)
    };
    let put = [
        Change::PutMember(member.clone()),
        Change::PutSignIn(Box::new(record.clone())),
    ];
    let open = || Store::open(dir.path(), &BoxId::from_random([1; 8])).unwrap();
    let mut store = open();
    store.commit(&put).unwrap();
    drop(store);
    let mut store = open();
    assert_eq!(store.load().unwrap().sign_ins[&member.name], record);
    store.commit(&[Change::RemoveMember(member.name.clone())]).unwrap();
    assert!(store.load().unwrap().sign_ins.is_empty());
    // As an older berth does it, which knows no such table.
    store.commit(&put).unwrap();
    let txn = store.db().unwrap().begin_write().unwrap();
    let anew = format!(
        r#"{{"owner":true,"created_at":"{}"}}"#,
        jiff::Timestamp::from_second(9).unwrap()
    );
    put_raw(&txn, "people", "admin", anew.as_bytes());
    let anew = format!(
        r#"{{"role":"owner","created_at":"{}"}}"#,
        jiff::Timestamp::from_second(9).unwrap()
    );
    put_raw(&txn, "members", "admin", anew.as_bytes());
    txn.commit().unwrap();
    drop(store);
    assert!(open().load().unwrap().sign_ins.is_empty());
}
