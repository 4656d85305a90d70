//! That the replay finds a loss: a box of a few files, written by hand, whose losses are known.

use std::{fs, os::unix::fs::FileExt, path::Path, process::Command, sync::Arc};

use berth::{
    authz::TokenHash,
    load,
    model::{BoxId, Desired, InstanceId, InstanceName, MemberName, Subject, TokenId, TokenScope, WorkspaceName},
    record::{InstanceRecord, Marks, MemberRecord, TokenRecord},
    store::{Change, Store},
};

use super::{
    audit::{Books, Fixed, faults},
    disk::{Disk, Keep},
    mounts,
};
use crate::{
    harness::{journal::Journal, root, state_dir},
    security::work::Event,
};

/// Where the partition begins on the made-up disk.
const START: u64 = 1 << 20;
/// XFS takes no less than 300 MB.
const SIZE: u64 = 320 << 20;
const BLOCK: usize = 4096;

fn id(c: char) -> String {
    c.to_string().repeat(10)
}

fn token(c: char) -> String {
    format!("the token of {c}")
}

/// An instance and its token.
fn instance(c: char, desired: Desired) -> Vec<Change> {
    let spec = load::type_file(&root().join("instance-types/memory.toml")).unwrap();
    let id = InstanceId::parse(&id(c)).unwrap();
    let at = jiff::Timestamp::from_second(1_790_000_000).unwrap();
    let record = InstanceRecord {
        id: id.clone(),
        name: InstanceName::parse(&format!("cut-{c}")).unwrap(),
        workspace: WorkspaceName::parse("default").unwrap(),
        size: spec.size,
        desired,
        generation: 1,
        spec_hash: "5f".repeat(32),
        created_at: at,
        env: Default::default(),
        marks: Marks::default(),
        spec: Arc::new(spec),
        failure: None,
        sourced: None,
        edited: None,
    };
    let token = TokenRecord {
        id: TokenId::parse(&c.to_string().repeat(12)).unwrap(),
        hash: *TokenHash::of(&token(c)).as_bytes(),
        subject: Subject::Instance(id),
        name: "first".into(),
        created_at: at,
        expires_at: None,
        last_used_at: None,
        last_used_from: None,
        scope: TokenScope::All,
        by: None,
        edited: None,
    };
    vec![Change::PutInstance(Box::new(record)), Change::PutToken(token)]
}

fn commit(var: &Path, changes: &[Change]) {
    let mut store = Store::open(&var.join("lib/berth"), &BoxId::from_random([7; 8])).unwrap();
    store.commit(changes).unwrap();
}

fn put(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

const ENGINE: &str = "lib/docker/231072.231072";

/// A box with the instances a and c.
fn make(var: &Path) {
    for file in ["lib/berth-key/box.cred", "lib/systemd/credential.secret"] {
        put(&var.join(file), "sealed");
    }
    for file in ["lib/berth/tls/ca.key", "lib/berth/tls/ca.pem"] {
        put(&var.join(file), "the CA");
    }
    put(&var.join(ENGINE).join("containers/a/config.v2.json"), "{}");
    put(&var.join(ENGINE).join("containers/a/hostconfig.json"), "{}");
    let created_at = jiff::Timestamp::from_second(1_790_000_000).unwrap();
    let admin = MemberRecord::owner(MemberName::admin(), created_at);
    let mut all = vec![Change::PutMember(admin)];
    all.extend(instance('a', Desired::Running));
    all.extend(instance('c', Desired::Running));
    commit(var, &all);
}

/// a is there from the beginning, b is made and c removed, which is acknowledged at this place; c is asked for twice.
fn books(at: usize) -> Books {
    let mut books = Books::default();
    let made = |c| Event::Made {
        id: id(c),
        token: token(c),
    };
    books.note(made('a'), 0, 0);
    books.note(made('b'), 0, at);
    books.note(made('c'), 0, 0);
    books.note(Event::Asks { id: id('c') }, 0, 0);
    books.note(Event::Gone { id: id('c') }, 0, at);
    // Asked once more when it had gone: it may be gone since the first time.
    books.note(Event::Asks { id: id('c') }, at, at);
    books
}

/// Every fault is one of these, and each of these is found.
fn tells(found: &[String], expected: &[&str]) {
    let wrong = found.iter().find(|f| !expected.iter().any(|e| f.contains(e)));
    let missing = expected.iter().find(|e| !found.iter().any(|f| f.contains(*e)));
    assert!(
        wrong.is_none() && missing.is_none(),
        "{found:#?} in place of {expected:#?}"
    );
}

/// Writes what changed from one file to the other into a journal, as writes to a disk with the partition at [`START`].
fn journal(before: &Path, after: &Path, bytes: &Path) -> Journal {
    let mut journal = Journal::new(bytes);
    let (before, after) = (fs::File::open(before).unwrap(), fs::File::open(after).unwrap());
    let (mut old, mut new) = (vec![0; BLOCK], vec![0; BLOCK]);
    for at in (0..SIZE).step_by(BLOCK) {
        before.read_exact_at(&mut old, at).unwrap();
        after.read_exact_at(&mut new, at).unwrap();
        if old != new {
            journal.write(START + at, &new, false).unwrap();
        }
    }
    // Beside the partition: none of its business.
    journal.write(0, &[0xff; BLOCK], true).unwrap();
    journal.write(START + SIZE, &[0xff; BLOCK], true).unwrap();
    journal
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("--reflink=always").args([from, to]).status();
    assert!(done.unwrap().success());
}

#[test]
fn what_was_acknowledged_and_never_flushed_is_missed() {
    let here = state_dir().join(format!("proof-{}", std::process::id()));
    mounts::apart(&here, |here| {
        let scratch = mounts::scratch(here, 4 << 30);
        let file = |name: &str| scratch.at().join(name);
        let mounted = |name: &str| mounts::as_the_box_does(&file(name), &here.join("at")).unwrap();
        mounts::make(&file("before"), SIZE);
        let m = mounted("before");
        make(m.at());
        let fixed = Fixed::of(m.at());
        drop(m);
        copy(&file("before"), &file("after"));
        let m = mounted("after");
        let mut changes = instance('b', Desired::Running);
        changes.extend(instance('c', Desired::Removed));
        commit(m.at(), &changes);
        drop(m);
        let mut journal = journal(&file("before"), &file("after"), &here.join("bytes"));
        let end = journal.entries.len();
        let books = books(end);
        let look = |journal: &Journal, at: usize, keep: Keep| {
            copy(&file("before"), &file("part"));
            let mut disk = Disk::new(journal, (START, SIZE), &file("part"));
            let unflushed = disk.cut(at, keep, &file("cut"));
            let m = mounted("cut");
            let found = faults(m.at(), at, &books, &fixed);
            drop(m);
            fs::remove_file(file("cut")).unwrap();
            (unflushed, found)
        };
        // Acknowledged, and all of it still in the drive's cache.
        let (unflushed, found) = look(&journal, end, Keep::Nothing);
        assert!(unflushed.lost > 0 && unflushed.kept == 0, "{unflushed:?}");
        tells(
            &found,
            &[
                "bbbbbbbbbb was acknowledged and is lost",
                "the token of bbbbbbbbbb is lost",
                "cccccccccc was acknowledged to go and shall be Running",
            ],
        );
        // The drive happened to write it out; or nothing was acknowledged yet.
        assert_eq!(look(&journal, end, Keep::All).1, [""; 0]);
        assert_eq!(look(&journal, end - 1, Keep::Nothing).1, [""; 0]);
        // Flushed, nothing of it can be lost.
        journal.flush();
        for keep in [Keep::Nothing, Keep::All, Keep::Some(1), Keep::Each(1)] {
            let (unflushed, found) = look(&journal, end + 1, keep);
            assert_eq!((unflushed.kept, unflushed.lost), (0, 0));
            assert_eq!(found, [""; 0]);
        }
    });
    assert_eq!(mounts::attached(&here), [""; 0].map(std::path::PathBuf::from));
    assert!(!here.exists(), "{} is left", here.display());
}

#[test]
fn what_is_torn_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let var = dir.path();
    make(var);
    let fixed = Fixed::of(var);
    let mut books = Books::default();
    books.note(
        Event::Made {
            id: id('a'),
            token: token('a'),
        },
        0,
        0,
    );
    assert_eq!(faults(var, 0, &books, &fixed), [""; 0]);
    // Berth's own to mend.
    put(&var.join(ENGINE).join("volumes/v/opts.json"), "");
    assert_eq!(faults(var, 0, &books, &fixed), [""; 0]);
    let engine = |file: &str| var.join(ENGINE).join(file);
    put(&engine("containers/a/config.v2.json"), "{\"ID\":");
    put(&engine("containers/a/hostconfig.json"), "");
    put(&engine("network/files/local-kv.db"), [0; 8192]);
    put(&engine("image/overlay2/repositories.json"), "\0\0");
    put(
        &engine(&format!("image/overlay2/imagedb/content/sha256/{}", "5f".repeat(32))),
        "{}",
    );
    put(&var.join("lib/berth-key/box.cred"), "");
    fs::remove_file(var.join("lib/berth/tls/ca.key")).unwrap();
    tells(
        &faults(var, 0, &books, &fixed),
        &[
            "config.v2.json",
            "hostconfig.json",
            "local-kv.db",
            "repositories.json",
            "content/sha256",
            "box.cred",
            "ca.key",
        ],
    );
    // The store: shortened, as a file that was grown without a flush, and gone.
    let store = var.join("lib/berth/berth.redb");
    let size = fs::metadata(&store).unwrap().len();
    fs::File::options()
        .write(true)
        .open(&store)
        .unwrap()
        .set_len(size / 2)
        .unwrap();
    assert!(
        faults(var, 0, &books, &fixed)
            .iter()
            .any(|f| f.starts_with("the store"))
    );
    fs::remove_file(&store).unwrap();
    assert!(
        faults(var, 0, &books, &fixed)
            .iter()
            .any(|f| f.starts_with("the store"))
    );
}
