//! The rule of versions, from both sides: this berth opens what the one before wrote, and the one before can read what
//! this one writes; what is newer than both is refused or left in place, and nothing is changed without a copy.
//!
//! The berth before is commit bc15ca3: it refused unknown fields, so that what it can read is exactly what it wrote.

use std::{os::unix::fs::MetadataExt, str::FromStr};

use proptest::prelude::*;
use redb::{ReadableTable, TableDefinition, TableHandle};

use super::{
    tests::{Disk, Mount, box_id, instance, member, member_token, put_raw, read as read_row, token, written},
    *,
};
use crate::model::{Allowlist, Grantee, Level, TokenScope, WorkspaceLimits, WorkspaceRole};

/// The store and its rows as text, as the berth before left them.
const BEFORE: &[u8] = include_bytes!("../../tests/cases/store/2.0/berth.redb");
const ROWS: &str = include_str!("../../tests/cases/store/2.0/rows.txt");
/// The tables that the berth before knows.
const KNOWN: [&str; 3] = ["instances", "members", "tokens"];

fn rows_of(table: &str) -> Vec<(&'static str, &'static str)> {
    let all = ROWS.lines().map(|l| l.splitn(3, ' ').collect::<Vec<_>>());
    all.filter(|l| l[0] == table).map(|l| (l[1], l[2])).collect()
}

fn folder_with_before() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("berth.redb"), BEFORE).unwrap();
    dir
}

fn database(dir: &Path) -> Database {
    Database::open(dir.join("berth.redb")).unwrap()
}

/// All that the berth before reads, as it finds it: its tables, of the types that it opens them with.
fn as_the_one_before_reads(db: &Database) -> String {
    let txn = db.begin_read().unwrap();
    let mut text = String::new();
    let meta: TableDefinition<&str, &str> = TableDefinition::new("meta");
    for key in ["box", "schema"] {
        let meta = txn.open_table(meta).unwrap();
        text += &format!("meta {key} {}\n", meta.get(key).unwrap().unwrap().value());
    }
    for name in KNOWN {
        let table: TableDefinition<&str, &[u8]> = TableDefinition::new(name);
        for entry in txn.open_table(table).unwrap().iter().unwrap() {
            let (key, value) = entry.unwrap();
            text += &format!(
                "{name} {} {}\n",
                key.value(),
                std::str::from_utf8(value.value()).unwrap()
            );
        }
    }
    text
}

fn set_meta(dir: &Path, key: &str, value: &str) {
    let db = database(dir);
    let txn = db.begin_write().unwrap();
    let meta: TableDefinition<&str, &str> = TableDefinition::new("meta");
    txn.open_table(meta).unwrap().insert(key, value).unwrap();
    txn.commit().unwrap();
}

/// Each entry of the index.
fn links(store: &mut Store) -> Vec<(String, String)> {
    let txn = store.db().unwrap().begin_write().unwrap();
    let links = TokenRows::open(&txn).unwrap().links().unwrap();
    txn.abort().unwrap();
    links.into_iter().collect()
}

fn links_of(loaded: &Loaded) -> Vec<(String, String)> {
    let mut all: Vec<_> = loaded
        .tokens
        .values()
        .map(|t| match &t.subject {
            Subject::Instance(id) => (format!("instance:{id}"), t.id.to_string()),
            Subject::Member(name) => (format!("member:{name}"), t.id.to_string()),
        })
        .collect();
    all.sort();
    all
}

/// How many instances a store has that opens.
fn instances_in(dir: &Path) -> usize {
    let mut store = Store::open(dir, &box_id()).unwrap();
    store.load().unwrap().instances.len()
}

#[test]
fn a_store_of_the_berth_before_opens_whole() {
    let dir = folder_with_before();
    let mut store = Store::open(dir.path(), &BoxId::from_random([9; 8])).unwrap();
    assert_eq!(*store.box_id(), box_id(), "the same box");
    let loaded = store.load().unwrap();
    assert_eq!(loaded.instances.len(), rows_of("instances").len());
    for (key, row) in rows_of("instances") {
        assert_eq!(written::<Instances>(&loaded.instances[key]), row);
    }
    assert_eq!(loaded.tokens.len(), rows_of("tokens").len());
    for (key, row) in rows_of("tokens") {
        assert_eq!(written::<Tokens>(&loaded.tokens[&TokenId::parse(key).unwrap()]), row);
    }
    assert_eq!(loaded.members.len(), rows_of("members").len());
    assert_eq!(links(&mut store), links_of(&loaded));
    let workspaces: Vec<_> = loaded.workspaces.values().map(|w| (w.name.as_str(), w.quota)).collect();
    assert_eq!(workspaces, [("default", None), ("team-a", None)], "of each name in use");
}

#[test]
fn the_berth_before_reads_what_this_one_writes() {
    let dir = folder_with_before();
    let mut store = Store::open(dir.path(), &box_id()).unwrap();
    let loaded = store.load().unwrap();
    // Every row written anew, and others come and gone.
    let mut changes: Vec<Change> = Vec::new();
    changes.extend(loaded.instances.into_values().map(|r| Change::PutInstance(Box::new(r))));
    changes.extend(loaded.tokens.into_values().map(Change::PutToken));
    changes.extend(loaded.members.into_values().map(Change::PutMember));
    let extra = instance('z');
    changes.push(Change::PutInstance(Box::new(extra.clone())));
    changes.push(Change::PutToken(token('z', &extra)));
    changes.push(Change::RemoveInstance(extra.id));
    store.commit(&changes).unwrap();
    drop(store);
    assert_eq!(as_the_one_before_reads(&database(dir.path())), ROWS);
}

#[test]
fn a_new_store_can_be_read_by_the_berth_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path(), &box_id()).unwrap();
    let a = instance('a');
    let changes = [
        Change::PutInstance(Box::new(a.clone())),
        Change::PutToken(token('c', &a)),
        Change::PutMember(member()),
    ];
    store.commit(&changes).unwrap();
    drop(store);
    let read = as_the_one_before_reads(&database(dir.path()));
    assert!(read.contains("\nmeta schema 2\n"), "{read}");
    assert!(copies::list(&dir.path().join("berth.redb")).unwrap().is_empty());
}

/// The berth before ran again for a while: it wrote and removed tokens without the index, and ran an instance in a
/// workspace of any name.
#[test]
fn what_the_berth_before_did_not_keep_up_is_made_good() {
    let dir = folder_with_before();
    drop(Store::open(dir.path(), &box_id()).unwrap());
    let a = instance('a');
    {
        let db = database(dir.path());
        let txn = db.begin_write().unwrap();
        put_raw(
            &txn,
            "tokens",
            &"z".repeat(12),
            written::<Tokens>(&token('z', &a)).as_bytes(),
        );
        let mut elsewhere = instance('x');
        elsewhere.workspace = WorkspaceName::parse("elsewhere").unwrap();
        let row = written::<Instances>(&elsewhere);
        put_raw(&txn, "instances", elsewhere.id.as_str(), row.as_bytes());
        let tokens: TableDefinition<&str, &[u8]> = TableDefinition::new("tokens");
        assert!(
            txn.open_table(tokens)
                .unwrap()
                .remove("cccccccccccc")
                .unwrap()
                .is_some()
        );
        txn.commit().unwrap();
    }
    let mut store = Store::open(dir.path(), &box_id()).unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(links(&mut store), links_of(&loaded));
    assert!(
        loaded
            .workspaces
            .contains_key(&WorkspaceName::parse("elsewhere").unwrap())
    );
    store.commit(&[Change::RemoveInstance(a.id.clone())]).unwrap();
    let left = store.load().unwrap();
    assert!(!left.tokens.values().any(|t| t.subject.is_instance(&a.id)));
    assert_eq!(left.tokens.len(), loaded.tokens.len() - 2);
}

/// What an older berth, which knows owners alone, did to them holds; and it has let nobody else in.
#[test]
fn what_an_older_berth_did_to_the_owners_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let at = |n: i64| jiff::Timestamp::from_second(1_790_000_000 + n).unwrap();
    let name = |text: &str| MemberName::parse(text).unwrap();
    let owner = |text: &str| MemberRecord::owner(name(text), at(0));
    let mut plain = owner("plain");
    plain.owner = false;
    plain.workspaces = [(WorkspaceName::default(), WorkspaceRole::Admin)].into_iter().collect();
    let mut away = owner("away");
    away.disabled_at = Some(at(1));
    let a = instance('a');
    let team = TeamRecord {
        id: "default/eng".parse().unwrap(),
        members: [name("gone"), name("plain")].into(),
        created_at: at(0),
        edited: None,
    };
    let grant = |to: Grantee| GrantRecord {
        key: (to, a.id.clone()),
        level: Level::Manage,
        until: Some(at(9)),
        created_at: at(0),
        by: "root".into(),
        last_used_at: None,
        edited: None,
    };
    let grants = [
        grant(Grantee::Member(name("gone"))),
        grant(Grantee::Member(name("plain"))),
        grant(Grantee::Team(team.id.clone())),
    ];
    let scoped = TokenRecord {
        scope: TokenScope::Instances(std::sync::Arc::new([a.id.clone()].into())),
        last_used_from: Some([192, 0, 2, 1].into()),
        by: Some("admin".into()),
        ..member_token()
    };
    let stale = ["gone", "away"].map(|of| TokenRecord {
        id: TokenId::parse(&of.repeat(3)).unwrap(),
        subject: Subject::Member(name(of)),
        scope: TokenScope::Api,
        ..member_token()
    });
    let mut store = Store::open(dir.path(), &box_id()).unwrap();
    let mut changes = vec![
        Change::PutInstance(Box::new(a.clone())),
        Change::PutTeam(team.clone()),
        Change::PutToken(scoped.clone()),
    ];
    for member in [owner("admin"), owner("gone"), plain.clone(), away.clone()] {
        changes.push(Change::PutMember(member));
    }
    changes.extend(grants.iter().cloned().map(Change::PutGrant));
    changes.extend(stale.iter().cloned().map(Change::PutToken));
    let mut elsewhere = plain.clone();
    elsewhere.name = name("elsewhere");
    elsewhere.workspaces = [(WorkspaceName::parse("removed").unwrap(), WorkspaceRole::Admin)]
        .into_iter()
        .collect();
    changes.push(Change::PutMember(elsewhere.clone()));
    store.commit(&changes).unwrap();
    let loaded = store.load().unwrap();
    assert_eq!((loaded.members.len(), loaded.grants.len()), (5, 3));
    assert_eq!(loaded.members[&plain.name], plain);
    assert_eq!(loaded.members[&away.name], away);
    assert_eq!(loaded.teams[&team.id], team);
    assert_eq!(loaded.grants[&grants[1].key], grants[1]);
    assert_eq!(loaded.tokens[&scoped.id], scoped);
    drop(store);
    {
        // The older berth's tables: who is let in as an owner, and tokens without a scope.
        let db = database(dir.path());
        let txn = db.begin_write().unwrap();
        let rows = |table: &'static str| {
            let table: TableDefinition<&str, &[u8]> = TableDefinition::new(table);
            let table = txn.open_table(table).unwrap();
            let keys = table.iter().unwrap().map(|e| e.unwrap().0.value().to_owned());
            keys.collect::<Vec<_>>()
        };
        assert_eq!(rows("members"), ["admin", "gone"]);
        assert!(rows("tokens").is_empty());
        let members: TableDefinition<&str, &[u8]> = TableDefinition::new("members");
        txn.open_table(members).unwrap().remove("gone").unwrap();
        let row = br#"{"role":"owner","created_at":"2026-11-11T00:00:00Z"}"#;
        put_raw(&txn, "members", "away", row);
        txn.commit().unwrap();
    }
    let mut store = Store::open(dir.path(), &box_id()).unwrap();
    let loaded = store.load().unwrap();
    let names: Vec<&str> = loaded.members.keys().map(MemberName::as_str).collect();
    assert_eq!(names, ["admin", "away", "elsewhere", "plain"]);
    assert!(
        loaded.members[&elsewhere.name].workspaces.is_empty(),
        "that workspace is gone"
    );
    assert_eq!(
        loaded.tokens.keys().collect::<Vec<_>>(),
        [&scoped.id],
        "tokens from before open nothing"
    );
    assert!(loaded.members[&away.name].is_owner(), "who was made anew is let in");
    assert_eq!(loaded.teams[&team.id].members, [name("plain")].into());
    assert_eq!(loaded.grants.len(), 2, "what the other was granted went with them");
    store.commit(&[Change::RemoveInstance(a.id.clone())]).unwrap();
    assert!(store.load().unwrap().grants.is_empty());
    store.commit(&[Change::RemoveToken(scoped.id.clone())]).unwrap();
    assert!(store.load().unwrap().tokens.is_empty());
}

#[test]
fn a_later_revision_opens_and_what_it_added_stays() {
    const LATER: TableDefinition<&str, &[u8]> = TableDefinition::new("of-a-later-berth");
    let dir = folder_with_before();
    drop(Store::open(dir.path(), &box_id()).unwrap());
    set_meta(dir.path(), "revision", "99");
    let mut row: serde_json::Value = serde_json::from_str(&written::<Instances>(&instance('y'))).unwrap();
    row["later"] = serde_json::json!({"a": [1]});
    row["spec"]["later"] = 1.into();
    row["spec"]["transport"]["later"] = 1.into();
    row["spec"]["health"]["probe"]["later"] = "x".into();
    {
        let db = database(dir.path());
        let txn = db.begin_write().unwrap();
        put_raw(&txn, LATER.name(), "k", b"v");
        put_raw(&txn, "instances", &"y".repeat(10), row.to_string().as_bytes());
        put_raw(
            &txn,
            "members",
            "ada",
            br#"{"role":"owner","created_at":"2026-01-01T00:00:00Z","later":1}"#,
        );
        txn.commit().unwrap();
    }
    let copied = copies::list(&dir.path().join("berth.redb")).unwrap();
    let mut store = Store::open(dir.path(), &box_id()).unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded.instances[&instance('y').id], instance('y'));
    assert!(
        loaded
            .members
            .values()
            .any(|m| m.name.as_str() == "ada" && m.is_owner())
    );
    store.commit(&[Change::PutToken(member_token())]).unwrap();
    drop(store);
    assert_eq!(
        copies::list(&dir.path().join("berth.redb")).unwrap(),
        copied,
        "nothing to migrate"
    );
    let db = database(dir.path());
    assert_eq!(
        meta::version(&db).unwrap(),
        Version {
            schema: 2,
            revision: 99
        }
    );
    let txn = db.begin_read().unwrap();
    assert_eq!(txn.open_table(LATER).unwrap().get("k").unwrap().unwrap().value(), b"v");
}

#[test]
fn an_instance_without_a_workspace_is_in_default() {
    let mut row: serde_json::Value = serde_json::from_str(&written::<Instances>(&instance('a'))).unwrap();
    row.as_object_mut().unwrap().remove("workspace");
    let read = read_row::<Instances>(&"a".repeat(10), &row.to_string());
    assert_eq!(read.workspace, WorkspaceName::default());
}

#[test]
fn a_workspace_keeps_its_own_quota_and_default_is_made_once() {
    let disk = Disk::default();
    let mut store = Store::open_with(disk.opener(), &box_id()).unwrap();
    let default = store.load().unwrap().workspaces;
    assert_eq!(
        default.keys().map(WorkspaceName::as_str).collect::<Vec<_>>(),
        ["default"]
    );
    let configured = WorkspaceLimits {
        pids: Some(7),
        ..WorkspaceLimits::default()
    };
    assert_eq!(default[&WorkspaceName::default()].limits(&configured), configured);
    let own = WorkspaceRecord {
        name: WorkspaceName::parse("w").unwrap(),
        created_at: jiff::Timestamp::from_second(1_790_000_000).unwrap(),
        quota: Some(WorkspaceLimits {
            nano_cpus: Some(500_000_000),
            memory: Some(1 << 30),
            pids: None,
            disk: Some(50 << 30),
            instances: Some(3),
            calls_per_second: Some(50),
            calls_at_once: Some(0),
        }),
        allow: Allowlist {
            packages: Some(vec!["@acme/*".to_owned()]),
            ..Allowlist::default()
        },
        edited: None,
    };
    store.commit(&[Change::PutWorkspace(own.clone())]).unwrap();
    drop(store);
    let again = Store::open_with(disk.opener(), &box_id())
        .unwrap()
        .load()
        .unwrap()
        .workspaces;
    assert_eq!(again[&own.name], own);
    assert_eq!(
        own.limits(&configured).pids,
        Some(7),
        "the configuration's, where it has none"
    );
    assert_eq!(again[&WorkspaceName::default()], default[&WorkspaceName::default()]);
}

#[test]
fn a_word_that_is_not_known_is_refused() {
    let dir = folder_with_before();
    {
        let db = database(dir.path());
        let txn = db.begin_write().unwrap();
        let row = br#"{"role":"auditor","created_at":"2026-01-01T00:00:00Z"}"#;
        put_raw(&txn, "members", "ada", row);
        txn.commit().unwrap();
    }
    let error = Store::open(dir.path(), &box_id()).unwrap_err();
    assert!(error.to_string().contains("\"auditor\" is unknown"), "{error}");
}

#[test]
fn a_copy_is_made_before_a_migration_and_opens_again() {
    let dir = folder_with_before();
    let path = dir.path().join("berth.redb");
    drop(Store::open(dir.path(), &box_id()).unwrap());
    let copy = dir.path().join("berth.redb.2.0");
    assert!(fs::read(&copy).unwrap() == BEFORE, "byte for byte");
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);
    assert!(fs::read(&path).unwrap() != BEFORE);
    // Nothing to migrate: no copy more.
    fs::remove_file(&copy).unwrap();
    drop(Store::open(dir.path(), &box_id()).unwrap());
    assert!(!copy.exists());
    // Going back to it is putting it in the store's place.
    fs::write(&path, BEFORE).unwrap();
    assert_eq!(instances_in(dir.path()), 10);
}

#[test]
fn few_copies_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.redb");
    for other in [
        "berth.redb.new",
        "berth.redb.old",
        "berth.lock",
        "berth.redb.1",
        "other.redb.1.0",
    ] {
        fs::write(dir.path().join(other), "x").unwrap();
    }
    for version in ["2.10", "1.0", "2.9", "10.0"] {
        copies::make(&path, version.as_bytes(), Version::from_str(version).unwrap()).unwrap();
    }
    let kept = copies::list(&path).unwrap();
    let kept: Vec<_> = kept
        .iter()
        .map(|(v, at)| (v.to_string(), fs::read_to_string(at).unwrap()))
        .collect();
    assert_eq!(kept, [("2.10".into(), "2.10".into()), ("10.0".into(), "10.0".into())]);
    assert!(dir.path().join("other.redb.1.0").exists() && dir.path().join("berth.redb.old").exists());
    assert!(!dir.path().join("berth.redb.new").exists());
}

#[test]
fn without_a_copy_nothing_is_changed() {
    let dir = folder_with_before();
    let path = dir.path().join("berth.redb");
    // No file can take the place of a folder that is not empty.
    let in_the_way = dir.path().join("berth.redb.2.0");
    fs::create_dir(&in_the_way).unwrap();
    fs::write(in_the_way.join("x"), "").unwrap();
    let error = Store::open(dir.path(), &box_id()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Copy { path, .. } if *path == in_the_way),
        "{error}"
    );
    assert!(fs::read(&path).unwrap() == BEFORE, "not one byte changed");
    assert!(!dir.path().join("berth.redb.new").exists());
    fs::remove_dir_all(&in_the_way).unwrap();
    Store::open(dir.path(), &box_id()).unwrap();
}

#[test]
fn a_full_disk_stops_the_migration_before_it_begins() {
    let Some(at) = Mount::of("6m") else { return };
    let path = at.path().join("berth.redb");
    fs::write(&path, BEFORE).unwrap();
    let filler = at.fill();
    let error = Store::open(at.path(), &box_id()).unwrap_err();
    assert!(matches!(error, StoreError::Copy { .. }), "{error}");
    assert!(error.to_string().contains("make room"), "{error}");
    assert!(fs::read(&path).unwrap() == BEFORE, "not one byte changed");
    assert!(!at.path().join("berth.redb.new").exists() && !at.path().join("berth.redb.2.0").exists());
    fs::remove_file(&filler).unwrap();
    drop(Store::open(at.path(), &box_id()).unwrap());
    // A store that is up to date opens on a full disk.
    at.fill();
    assert_eq!(instances_in(at.path()), 10);
}

#[test]
fn a_crash_at_any_write_of_a_migration_loses_nothing() {
    for writes in 0..400 {
        let disk = Disk::holding(BEFORE.to_vec()).with_writes(writes);
        let migrated = Store::open_with(disk.opener(), &box_id()).is_ok();
        let mut store = Store::open_with(disk.power_cycle().opener(), &box_id()).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!(loaded.instances.len(), 10, "after {writes} writes");
        assert_eq!(links(&mut store), links_of(&loaded), "after {writes} writes");
        if migrated {
            assert!(writes > 2);
            return;
        }
    }
    panic!("the crash never came after the last write");
}

#[test]
fn a_row_beyond_all_bounds_is_refused() {
    let mut store = Store::open_with(Disk::default().opener(), &box_id()).unwrap();
    let long = TokenRecord {
        name: "x".repeat(5_000).into(),
        ..member_token()
    };
    let error = store.commit(&[Change::PutToken(long)]).unwrap_err();
    assert!(error.to_string().contains("4096 at most"), "{error}");
    assert!(store.load().unwrap().tokens.is_empty());
}

#[derive(Debug, Clone)]
enum Op {
    Put { token: u8, of: u8 },
    Remove(u8),
    RemoveInstance(u8),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let some = || 0u8..5;
    prop_oneof![
        4 => (some(), some()).prop_map(|(token, of)| Op::Put { token, of }),
        2 => some().prop_map(Op::Remove),
        1 => some().prop_map(Op::RemoveInstance),
        1 => Just(Op::Reopen),
    ]
}

/// The last is the member.
fn subject(n: u8) -> Subject {
    match n {
        4 => Subject::Member(MemberName::admin()),
        n => Subject::Instance(instance(char::from(b'a' + n)).id),
    }
}

fn made(n: u8, of: u8) -> TokenRecord {
    TokenRecord {
        subject: subject(of),
        ..token(char::from(b'p' + n), &instance('a'))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Against a map of tokens alone: whatever is put, removed, and revoked together, the index says what the table says.
    #[test]
    fn the_index_says_what_the_table_says(ops in proptest::collection::vec(op(), 1..30)) {
        let disk = Disk::default();
        let mut store = Store::open_with(disk.opener(), &box_id()).unwrap();
        // A token of nobody does not outlast an opening.
        store.commit(&[Change::PutMember(member())]).unwrap();
        let mut model: BTreeMap<TokenId, TokenRecord> = BTreeMap::new();
        for op in ops {
            let change = match op {
                Op::Put { token, of } => {
                    let t = made(token, of);
                    model.insert(t.id.clone(), t.clone());
                    Change::PutToken(t)
                }
                Op::Remove(n) => {
                    let id = made(n, 0).id;
                    model.remove(&id);
                    Change::RemoveToken(id)
                }
                Op::RemoveInstance(n) => {
                    let id = instance(char::from(b'a' + n)).id;
                    model.retain(|_, t| !t.subject.is_instance(&id));
                    Change::RemoveInstance(id)
                }
                Op::Reopen => {
                    drop(store);
                    store = Store::open_with(disk.opener(), &box_id()).unwrap();
                    continue;
                }
            };
            store.commit(&[change]).unwrap();
        }
        let loaded = store.load().unwrap();
        prop_assert_eq!(&loaded.tokens, &model);
        prop_assert_eq!(links(&mut store), links_of(&loaded));
    }
}
