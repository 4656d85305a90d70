use std::{collections::BTreeSet, fs};

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::{
    model::{AuditFault, AuditFaultKind, AuditKind, BoxId},
    secret::BoxKey,
};

/// The folders of an audit, removed at the end.
struct Place {
    root: tempfile::TempDir,
    key: Arc<BoxKey>,
    most: u64,
    retain: SignedDuration,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().unwrap();
        let key = BoxKey::load_or_create(&root.path().join("keys")).unwrap();
        Place {
            root,
            key: Arc::new(key),
            most: 1 << 30,
            retain: SignedDuration::from_hours(24 * 90),
        }
    }

    fn dir(&self) -> std::path::PathBuf {
        self.root.path().join("audit")
    }

    fn spool(&self) -> std::path::PathBuf {
        self.root.path().join("spool")
    }

    fn open(&self) -> Audit {
        Audit::open(Settings {
            dir: self.dir(),
            spool: self.spool(),
            box_id: box_id(),
            key: Arc::clone(&self.key),
            retain: self.retain,
            most: self.most,
            on_full: OnFull::GoOn,
        })
        .unwrap()
    }

    fn segments(&self) -> Vec<std::path::PathBuf> {
        let list = segments::list(&self.dir()).unwrap();
        list.iter().map(|s| segments::path(&self.dir(), s.first)).collect()
    }

    /// Rewrites the lines of the newest file.
    fn tamper(&self, with: impl FnOnce(&mut Vec<String>)) {
        let path = self.segments().pop().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        with(&mut lines);
        let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
        fs::write(&path, text).unwrap();
    }
}

fn box_id() -> BoxId {
    BoxId::from_random([1; 8])
}

fn row(tool: &str) -> AuditRow<'_> {
    let mut row = AuditRow::new(Timestamp::now(), AuditKind::Call, AuditOutcome::Ok);
    row.tool = Some(tool.into());
    row
}

fn everybody() -> Sees {
    Arc::new(|_: &AuditRow<'_>| true)
}

async fn rows(audit: &Audit, query: Query) -> Vec<AuditRow<'static>> {
    let mut reading = audit.read(query, everybody());
    let mut text = Vec::new();
    while let Some(piece) = reading.recv().await {
        text.extend_from_slice(&piece.unwrap());
    }
    let lines = text.split(|b| *b == b'\n').filter(|l| !l.is_empty());
    lines
        .map(|l| serde_json::from_slice::<AuditRow<'_>>(l).unwrap())
        .collect()
}

async fn tools(audit: &Audit, query: Query) -> Vec<String> {
    let rows = rows(audit, query).await;
    rows.into_iter().filter_map(|r| r.tool.map(String::from)).collect()
}

/// What a supervisor leaves that is killed: its files as they are now, locked by nobody.
fn killed(place: &Place) -> Place {
    let left = Place {
        root: tempfile::tempdir().unwrap(),
        key: Arc::clone(&place.key),
        ..*place
    };
    // What is on its way to the disk meanwhile is in both.
    for (from, to) in [(place.spool(), left.spool()), (place.dir(), left.dir())] {
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    left
}

#[tokio::test]
async fn rows_are_read_back_in_order_and_verified() {
    let place = Place::new();
    let audit = place.open();
    for n in 0..1000 {
        audit.append(&row(&format!("t{n}")));
    }
    let all = rows(&audit, Query::default()).await;
    assert_eq!(all.len(), 1000);
    assert!(
        all.iter()
            .enumerate()
            .all(|(i, r)| r.seq == Some(i as u64 + 1) && r.n == r.seq)
    );
    let verified = audit.verify().await.unwrap();
    assert_eq!((verified.rows, verified.first, verified.fault), (1000, 1, None));
    assert_eq!(verified.head, audit.status().head);
    audit.close().await;
    let again = place.open();
    assert_eq!(again.status().head, verified.head);
    again.append(&row("next"));
    assert_eq!(rows(&again, Query::default()).await.last().unwrap().seq, Some(1001));
    assert_eq!(again.verify().await.unwrap().fault, None);
}

#[tokio::test]
async fn queries_name_rows_by_every_column() {
    let place = Place::new();
    let audit = place.open();
    for n in 0..50 {
        let mut row = row(if n % 2 == 0 { "even" } else { "odd" });
        row.member = Some(if n < 10 { "ann" } else { "bob" }.into());
        row.status = Some(200 + n % 3);
        audit.append(&row);
    }
    let named = |columns: &[(&str, &str)]| Query {
        columns: columns
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        ..Query::default()
    };
    assert_eq!(rows(&audit, named(&[("tool", "even")])).await.len(), 25);
    assert_eq!(
        rows(&audit, named(&[("tool", "even"), ("member", "ann")])).await.len(),
        5
    );
    assert_eq!(rows(&audit, named(&[("by", "ann"), ("status", "200")])).await.len(), 4);
    assert_eq!(rows(&audit, named(&[("tool", "eve")])).await.len(), 0);
    let tail = Query {
        tail: Some(3),
        ..named(&[("tool", "odd")])
    };
    let seqs = |rows: Vec<AuditRow<'_>>| rows.iter().filter_map(|r| r.seq).collect::<Vec<_>>();
    assert_eq!(seqs(rows(&audit, tail).await), [46, 48, 50]);
    let page = Query {
        after: Some(40),
        limit: Some(4),
        ..Query::default()
    };
    assert_eq!(seqs(rows(&audit, page).await), [41, 42, 43, 44]);
    let later = Query {
        since: Some(Timestamp::now()),
        ..Query::default()
    };
    assert!(rows(&audit, later).await.is_empty());
    let sees: Sees = Arc::new(|r: &AuditRow<'_>| r.member.as_deref() == Some("ann"));
    let mut reading = audit.read(Query::default(), sees);
    let mut text = Vec::new();
    while let Some(piece) = reading.recv().await {
        text.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(text.iter().filter(|b| **b == b'\n').count(), 10);
}

#[tokio::test]
async fn what_comes_is_followed() {
    let place = Place::new();
    let audit = place.open();
    audit.append(&row("before"));
    let query = Query {
        tail: Some(1),
        follow: true,
        ..Query::default()
    };
    let mut reading = audit.read(query, everybody());
    let first = reading.recv().await.unwrap().unwrap();
    assert!(first.windows(6).any(|w| w == b"before"));
    for tool in ["one", "two"] {
        audit.append(&row(tool));
        let piece = tokio::time::timeout(FLUSH, reading.recv())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(piece.windows(3).any(|w| w == tool.as_bytes()));
    }
}

#[tokio::test]
async fn what_was_done_to_a_row_is_named() {
    for (what, (row, kind)) in [
        ("changed", (5, AuditFaultKind::Changed)),
        ("removed", (5, AuditFaultKind::Missing)),
        ("swapped", (5, AuditFaultKind::Missing)),
        ("truncated", (8, AuditFaultKind::Truncated)),
    ] {
        let place = Place::new();
        let audit = place.open();
        for n in 0..10 {
            audit.append(&self::row(&format!("t{n}")));
        }
        audit.close().await;
        place.tamper(|lines| match what {
            "changed" => lines[4] = lines[4].replace("t4", "t5"),
            "removed" => drop(lines.remove(4)),
            "swapped" => lines.swap(4, 5),
            _ => lines.truncate(7),
        });
        let again = place.open();
        again.append(&self::row("after"));
        assert!(again.flush().await);
        let fault = again.verify().await.unwrap().fault;
        // What follows does not hide it: the next row has the number that it would have had.
        let kind = if what == "truncated" {
            AuditFaultKind::Missing
        } else {
            kind
        };
        assert_eq!(fault, Some(AuditFault { row, what: kind }), "{what}");
    }
    // Against the memory of a supervisor that runs.
    let place = Place::new();
    let audit = place.open();
    for n in 0..10 {
        audit.append(&row(&format!("t{n}")));
    }
    assert!(audit.flush().await);
    place.tamper(|lines| lines.truncate(7));
    let fault = audit.verify().await.unwrap().fault;
    assert_eq!(
        fault,
        Some(AuditFault {
            row: 8,
            what: AuditFaultKind::Truncated
        })
    );
}

#[tokio::test]
async fn a_supervisor_that_is_killed_loses_nothing() {
    let place = Place::new();
    let audit = place.open();
    audit.append(&row("on the disk"));
    assert!(audit.flush().await);
    for n in 0..100 {
        audit.append(&row(&format!("t{n}")));
    }
    // The spool as it is at that moment, whatever has come to the disk of it.
    let left = killed(&place);
    let again = left.open();
    let mut progress = again.0.progress.subscribe();
    let taken_over = progress.wait_for(|p| p.head.seq >= 101);
    tokio::time::timeout(FLUSH, taken_over).await.unwrap().unwrap();
    let found: Vec<String> = tools(&again, Query::default()).await;
    let unique: BTreeSet<&String> = found.iter().collect();
    assert_eq!(unique.len(), 101);
    assert_eq!(again.verify().await.unwrap().fault, None);
    assert_eq!(
        fs::read_dir(left.spool()).unwrap().count(),
        2,
        "what was taken over is gone"
    );
}

#[tokio::test]
async fn old_rows_go_and_a_signed_checkpoint_says_where_the_others_begin() {
    let mut place = Place::new();
    place.most = 4 << 20;
    let audit = place.open();
    let long = "x".repeat(64 << 10);
    for _ in 0..600 {
        audit.append(&row(&long));
        if audit.status().waiting > 100 {
            assert!(audit.flush().await);
        }
    }
    audit.close().await;
    assert!(place.segments().len() >= 2);
    let again = place.open();
    let mut progress = again.0.progress.subscribe();
    // The row that tells of it.
    tokio::time::timeout(FLUSH, progress.wait_for(|p| p.head.seq > 600))
        .await
        .unwrap()
        .unwrap();
    let verified = again.verify().await.unwrap();
    assert!(verified.fault.is_none() && verified.first > 1, "{verified:?}");
    assert_eq!(
        rows(&again, Query::default()).await.first().unwrap().seq,
        Some(verified.first)
    );
    let checkpoint = place.dir().join("checkpoint");
    let text = fs::read_to_string(&checkpoint).unwrap();
    let seq = format!("\"seq\":{}", verified.first - 1);
    assert!(text.contains(&seq));
    fs::write(&checkpoint, text.replace(&seq, &format!("\"seq\":{}", verified.first))).unwrap();
    let fault = again.verify().await.unwrap().fault.unwrap();
    assert_eq!(fault.what, AuditFaultKind::Checkpoint);
}

#[tokio::test]
async fn a_row_that_a_power_cut_left_half_written_is_cut_off() {
    let place = Place::new();
    let audit = place.open();
    for n in 0..5 {
        audit.append(&row(&format!("t{n}")));
    }
    audit.close().await;
    let path = place.segments().pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(b"{\"seq\":6,\"run\":\"aa");
    bytes.extend_from_slice(&[0; 300]);
    fs::write(&path, &bytes).unwrap();
    let again = place.open();
    let all = rows(&again, Query::default()).await;
    assert_eq!(all.iter().filter_map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(all[5].action.as_deref(), Some("found"));
    assert_eq!(again.verify().await.unwrap().fault, None);
}

#[tokio::test]
async fn refusals_that_anybody_can_cause_are_bounded() {
    let place = Place::new();
    let audit = place.open();
    for _ in 0..5000 {
        let row = AuditRow::new(Timestamp::now(), AuditKind::Refusal, AuditOutcome::Refused);
        audit.append_refusal(row, false);
    }
    let mut written = rows(&audit, Query::default()).await;
    let omitted: u64 = written.iter().filter_map(|r| r.omitted).sum();
    written.retain(|r| r.kind == AuditKind::Refusal);
    assert!((200..1000).contains(&written.len()), "{}", written.len());
    let still = lock(&audit.0.ring).strangers.omitted;
    assert_eq!(written.len() as u64 + omitted + still, 5000);
}

/// What comes after the end is on the disk all the same, or with the next supervisor.
#[tokio::test]
async fn rows_that_come_after_the_end_are_kept() {
    let place = Place::new();
    let audit = place.open();
    audit.append(&row("before"));
    audit.close().await;
    audit.append(&row("late"));
    audit.finish().await;
    let again = place.open();
    again.append(&row("after"));
    assert_eq!(tools(&again, Query::default()).await, ["before", "late", "after"]);
    assert_eq!(again.verify().await.unwrap().fault, None);
}

/// Who has not the key and writes the rows anew while the supervisor is away is found when it is back.
#[tokio::test]
async fn a_chain_that_was_written_anew_is_found_at_the_start() {
    let place = Place::new();
    let audit = place.open();
    for n in 0..10 {
        audit.append(&row(&format!("t{n}")));
    }
    audit.close().await;
    place.tamper(|lines| {
        let (mut head, mut out) = (chain::Head::empty(&box_id()), Vec::new());
        for line in lines.iter() {
            let line = line.replace("t4", "t5");
            let begin = line.find(",\"run\"").unwrap();
            let row = format!("{{{}}}", &line[begin + 1..line.rfind(",\"hash\"").unwrap()]);
            head.chain(row.as_bytes(), &mut out);
        }
        *lines = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    });
    let again = place.open();
    let found = rows(&again, Query::default()).await.pop().unwrap();
    assert_eq!(
        (found.action.as_deref(), found.outcome),
        (Some("found"), AuditOutcome::Broken)
    );
    assert!(found.note.unwrap().contains("row 10"), "the newest that was noted down");
}
