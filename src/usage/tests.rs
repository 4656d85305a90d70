use std::sync::Arc;

use super::*;
use crate::{
    audit::{OnFull, Settings},
    model::BoxId,
    secret::BoxKey,
};

fn audit(dir: &Path) -> Audit {
    Audit::open(Settings {
        dir: dir.join("audit"),
        spool: dir.join("spool"),
        box_id: BoxId::from_random([1; 8]),
        key: Arc::new(BoxKey::load_or_create(&dir.join("keys")).unwrap()),
        retain: jiff::SignedDuration::from_hours(24),
        most: 1 << 30,
        on_full: OnFull::GoOn,
    })
    .unwrap()
}

fn call(audit: &Audit, at: jiff::Timestamp, member: &str, outcome: AuditOutcome) {
    let mut row = AuditRow::new(at, AuditKind::Call, outcome);
    row.member = Some(member.to_owned().into());
    row.workspace = Some("default".into());
    row.instance = Some("abcdefghij".into());
    row.bytes_in = Some(10);
    row.bytes_out = Some(100);
    audit.append(&row);
}

async fn all(usage: &Usage, by: UsageBy) -> Vec<UsageRow> {
    usage.rows((None, None), by, &|_: &UsageRow| true).await.unwrap()
}

#[tokio::test]
async fn each_row_is_counted_once_whenever_the_supervisor_ends() {
    let dir = tempfile::tempdir().unwrap();
    let audit = audit(dir.path());
    let now = jiff::Timestamp::now();
    let yesterday = now - jiff::SignedDuration::from_hours(24);
    for round in 0..4u64 {
        let usage = Usage::open(dir.path().join("usage"), audit.clone()).unwrap();
        let running = tokio::spawn(usage.clone().run());
        for n in 0..10 {
            call(&audit, if n == 0 { yesterday } else { now }, "ann", AuditOutcome::Ok);
        }
        call(&audit, now, "bob", AuditOutcome::Error);
        let sums = all(&usage, UsageBy::Member).await;
        let named = |name: &str| sums.iter().find(|r| r.member.as_deref() == Some(name)).unwrap();
        assert_eq!(
            (named("ann").calls, named("ann").bytes_out),
            (10 * (round + 1), 1000 * (round + 1))
        );
        assert_eq!((named("bob").calls, named("bob").errors), (round + 1, round + 1));
        let days = all(&usage, UsageBy::Day).await;
        assert_eq!(
            days.iter().map(|d| d.calls).collect::<Vec<_>>(),
            [round + 1, 10 * (round + 1)]
        );
        // It is saved, or it is killed before.
        if round % 2 == 0 {
            usage.save().await;
        }
        running.abort();
    }
}

#[tokio::test]
async fn what_containers_use_is_nobodys_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let audit = audit(dir.path());
    let usage = Usage::open(dir.path().join("usage"), audit.clone()).unwrap();
    usage.used(
        ("default", "abcdefghij"),
        1_500_000,
        (2 << 30, Duration::from_secs(1800)),
    );
    usage.used(("default", "abcdefghij"), 500_000, (2 << 30, Duration::from_secs(1800)));
    usage.save().await;
    let again = Usage::open(dir.path().join("usage"), audit).unwrap();
    let sums = all(&again, UsageBy::Instance).await;
    let [sum] = &sums[..] else { panic!("{sums:?}") };
    assert_eq!((sum.cpu_seconds, sum.memory_gib_hours, sum.calls), (2.0, 2.0, 0));
    assert_eq!(
        (sum.member.as_deref(), sum.instance.as_deref()),
        (None, Some("abcdefghij"))
    );
}

#[test]
fn a_day_has_a_bounded_number_of_sums() {
    let mut day = Day::default();
    let one = UsageRow {
        calls: 1,
        ..UsageRow::default()
    };
    for n in 0..MOST + 100 {
        let key = Key {
            workspace: Some("w".into()),
            instance: Some(format!("i{n}")),
            member: None,
        };
        day.add(key, &one);
    }
    assert_eq!(day.sums.len(), MOST + 1);
    assert_eq!(day.sums.values().map(|r| r.calls).sum::<u64>(), MOST as u64 + 100);
}

#[tokio::test]
async fn old_days_go() {
    let dir = tempfile::tempdir().unwrap();
    let audit = audit(dir.path());
    let at = dir.path().join("usage");
    let usage = Usage::open(at.clone(), audit).unwrap();
    let today = date(jiff::Timestamp::now());
    let days = [399, 400, 401, 900].map(|n| today.saturating_sub(jiff::Span::new().days(n)));
    for day in days {
        fs::write(path(&at, day), "{\"upto\":0,\"sums\":[]}").unwrap();
    }
    usage.save().await;
    let left: Vec<bool> = days.iter().map(|d| path(&at, *d).exists()).collect();
    assert_eq!(left, [true, true, false, false]);
}
