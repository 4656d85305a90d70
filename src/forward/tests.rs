use std::{path::Path, time::Duration};

use super::*;
use crate::{
    audit::{self, OnFull},
    model::{AuditKind, AuditOutcome, AuditRow, BoxId},
    secret::BoxKey,
};

fn open(root: &Path) -> (Audit, Forwards) {
    let key = Arc::new(BoxKey::load_or_create(&root.join("keys")).unwrap());
    let audit = Audit::open(audit::Settings {
        dir: root.join("audit"),
        spool: root.join("spool"),
        box_id: BoxId::from_random([1; 8]),
        key,
        retain: jiff::SignedDuration::from_hours(1000),
        most: 1 << 30,
        on_full: OnFull::GoOn,
    })
    .unwrap();
    let settings = Settings {
        dir: root.join("forward"),
        host: "box".into(),
        syslog: None,
        file: Some(root.join("log/audit.jsonl")),
    };
    let forwards = Forwards::open(settings, &audit).unwrap();
    tokio::spawn(forwards.clone().run());
    (audit, forwards)
}

fn tell(audit: &Audit, tools: &[&str]) {
    for tool in tools {
        let mut row = AuditRow::new(jiff::Timestamp::now(), AuditKind::Call, AuditOutcome::Ok);
        row.tool = Some((*tool).to_owned().into());
        audit.append(&row);
    }
}

/// The tools that the file names, in its order.
fn told(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("log/audit.jsonl")).unwrap_or_default();
    let row = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap();
    text.lines()
        .map(row)
        .filter_map(|r| Some(r["tool"].as_str()?.to_owned()))
        .collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), waited).await;
    assert!(waited.is_ok(), "not within 20 s: {what}");
}

#[tokio::test]
async fn a_file_gets_each_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let (audit, forwards) = open(root);
    // Its folder is not there yet: rows wait.
    tell(&audit, &["a", "b"]);
    until("it is said that the file cannot be written", || {
        forwards.status()[0]
            .trouble
            .as_ref()
            .is_some_and(|t| t.contains("cannot open"))
    })
    .await;
    fs::create_dir(root.join("log")).unwrap();
    until("two rows", || told(root) == ["a", "b"]).await;
    assert_eq!((forwards.status()[0].behind, &forwards.status()[0].trouble), (0, &None));
    tell(&audit, &["c"]);
    assert!(audit.flush().await);
    forwards.drain().await;
    audit.close().await;
    assert_eq!(told(root), ["a", "b", "c"]);

    // A supervisor that was killed has not noted what it has appended.
    fs::write(root.join("forward/file"), "1\n").unwrap();
    let (audit, forwards) = open(root);
    tell(&audit, &["d"]);
    until("the fourth row", || told(root).len() >= 4).await;
    forwards.drain().await;
    audit.close().await;
    assert_eq!(told(root), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn rows_that_are_gone_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir(root.join("log")).unwrap();
    let (audit, forwards) = open(root);
    tell(&audit, &["a", "b", "c", "d"]);
    assert!(audit.flush().await);
    forwards.drain().await;
    audit.close().await;
    // As if the file had been away, and its first rows removed by age meanwhile.
    fs::remove_file(root.join("log/audit.jsonl")).unwrap();
    let kept = fs::read_dir(root.join("audit"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .unwrap();
    let text = fs::read_to_string(&kept).unwrap();
    let rows: Vec<&str> = text.lines().collect();
    fs::write(kept.with_file_name("0000000000000004.jsonl"), format!("{}\n", rows[3])).unwrap();
    fs::remove_file(&kept).unwrap();
    fs::write(root.join("forward/file"), "1\n").unwrap();

    let (audit, forwards) = open(root);
    tell(&audit, &["e"]);
    until("what is left", || told(root) == ["d", "e"]).await;
    assert_eq!(forwards.status()[0].lost, 2);
    until("a row that says so", || {
        let text = fs::read_to_string(root.join("log/audit.jsonl")).unwrap();
        text.contains("2 rows were removed by age or size before file ")
    })
    .await;
    forwards.drain().await;
    audit.close().await;
}

#[test]
fn a_cursor_that_says_nothing_forgets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("syslog");
    assert_eq!(Cursor::open(path.clone(), 7).unwrap().at(), 7);
    assert_eq!(Cursor::open(path.clone(), 9).unwrap().at(), 7);
    // The audit was put back.
    assert_eq!(Cursor::open(path.clone(), 3).unwrap().at(), 3);
    assert_eq!(fs::read_to_string(&path).unwrap(), "3\n");
    fs::write(&path, "").unwrap();
    assert_eq!(Cursor::open(path, 9).unwrap().at(), 0);
}
