//! What a start may use, who is told its secrets, and what outlives faults of ours.

use super::*;
use crate::{model::WorkspaceName, record::WorkspaceRecord};

/// An instance whose agent has its start order and never says that it is ready.
async fn starting(bench: &Bench) -> InstanceId {
    bench.world.mute.store(true, Ordering::SeqCst);
    let id = bench.run().await.id;
    bench
        .until("ordered", |_| !bench.world.orders.lock().unwrap().is_empty())
        .await;
    id
}

fn ready(bench: &Bench) -> LinkEvent {
    let spec = bench.world.orders.lock().unwrap().last().unwrap().spec.clone();
    World::status(AgentState::Ready, Some(spec), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_has_more_cpu_until_it_is_ready() {
    let bench = start();
    let id = starting(&bench).await;
    assert_eq!(bench.world.cpu(), 2_000_000_000);
    assert_eq!(bench.handle.views()[&id].state, State::Starting);
    bench.world.say(&id, ready(&bench));
    bench.until_state(&id, State::Running).await;
    assert_eq!(bench.world.cpu(), 250_000_000, "bound before it is shown as running");

    // Every further start of the same container is the same.
    bench.world.mute.store(false, Ordering::SeqCst);
    bench.world.calls.lock().unwrap().clear();
    bench.act(Action::Stop { id: id.clone() }).await.unwrap();
    bench.until_state(&id, State::Stopped).await;
    bench.act(Action::Start { id: id.clone() }).await.unwrap();
    bench.until_state(&id, State::Running).await;
    assert_eq!(bench.world.steps(), ["stop", "cpu 2000", "start", "cpu 250"]);
    bench.world.calls.lock().unwrap().clear();
    let (container, _) = bench.world.container();
    bench.world.end(&container);
    bench
        .until("restarted", |v| v[&id].restarts == 1 && v[&id].state == State::Running)
        .await;
    assert_eq!(bench.world.steps(), ["cpu 2000", "start", "cpu 250"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_killed_during_a_start_leaves_no_cpu_behind() {
    let bench = start();
    let id = starting(&bench).await;
    let bench = bench.killed_and_started().await;
    assert_eq!(bench.world.cpu(), 2_000_000_000);
    bench
        .until("link open", |_| bench.world.links.lock().unwrap().contains_key(&id))
        .await;
    bench.world.say(&id, LinkEvent::Up);
    bench.world.say(&id, ready(&bench));
    bench.until_state(&id, State::Running).await;
    assert_eq!(bench.world.cpu(), 250_000_000);
    assert_eq!(bench.world.steps(), ["cpu 250"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_never_ready_does_not_keep_the_cpu_of_its_start() {
    let world = Arc::new(World::default());
    let mut t = a_type();
    t.health.start_timeout = Duration::from_millis(300);
    let bench = start_with(world, tempfile::tempdir().unwrap(), t);
    let id = starting(&bench).await;
    bench.until("bound", |_| bench.world.cpu() == 250_000_000).await;
    assert_eq!(bench.handle.views()[&id].state, State::Starting);
    assert_eq!(bench.handle.views()[&id].restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_report_that_panics_leaves_nothing_undone() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    bench.world.exit_panics.store(true, Ordering::SeqCst);
    let (container, _) = bench.world.container();
    bench.world.end(&container);
    bench
        .until("restarted", |v| v[&id].restarts == 1 && v[&id].state == State::Running)
        .await;
    assert!(!bench.world.exit_panics.load(Ordering::SeqCst), "it did panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_new_container_is_told_what_the_new_one_needs() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    bench.world.stop_hangs.store(true, Ordering::SeqCst);
    bench.act(Action::Recreate { id: id.clone() }).await.unwrap();
    bench
        .until("stopping", |_| bench.world.steps().contains(&"stop".to_owned()))
        .await;
    // The old container's agent comes back and waits for an order.
    bench.world.say(&id, LinkEvent::Down);
    bench.world.say(&id, LinkEvent::Up);
    bench.world.say(&id, World::status(AgentState::Waiting, None, None));
    let turns = bench.handle.heartbeat() + 10;
    let begun = std::time::Instant::now();
    while bench.handle.heartbeat() < turns && begun.elapsed() < Duration::from_secs(10) {
        bench.world.say(&id, LinkEvent::Up);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        bench.world.orders.lock().unwrap().len(),
        1,
        "the old one is told nothing"
    );
    bench.world.stop_hangs.store(false, Ordering::SeqCst);
    bench
        .until("recreated", |v| {
            v[&id].state == State::Running && bench.world.container().0 == "c1"
        })
        .await;
    let orders = bench.world.orders.lock().unwrap();
    assert_eq!(orders.len(), 2);
    assert_ne!(orders[0].spec, orders[1].spec);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_of_an_earlier_run_is_not_believed() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    let old = bench.world.generation.load(Ordering::SeqCst);
    bench.act(Action::Stop { id: id.clone() }).await.unwrap();
    bench.until_state(&id, State::Stopped).await;
    bench.world.mute.store(true, Ordering::SeqCst);
    bench.act(Action::Start { id: id.clone() }).await.unwrap();
    bench
        .until("ordered again", |_| bench.world.orders.lock().unwrap().len() == 2)
        .await;
    // Of the same container, with the same spec, and late.
    bench.world.say_of(old, &id, ready(&bench));
    bench.world.say_of(old, &id, LinkEvent::Down);
    let fresh = World::status(AgentState::Starting, Some(String::new()), Some("still at it"));
    let LinkEvent::Status(mut fresh) = fresh else {
        unreachable!()
    };
    fresh
        .spec
        .clone_from(&Some(bench.world.orders.lock().unwrap()[1].spec.clone()));
    bench.world.say(&id, LinkEvent::Status(fresh));
    bench
        .until("heard the new one", |v| v[&id].reason.as_deref() == Some("still at it"))
        .await;
    assert_eq!(bench.handle.views()[&id].state, State::Starting);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_expired_long_ago_are_forgotten() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    let bench = {
        let (world, dir) = bench.end().await;
        let mut store = Store::open(dir.path(), &BoxId::from_random([1; 8])).unwrap();
        let now = jiff::Timestamp::now().as_second();
        let token = |n: u16, expires_in: i64| {
            let mut bytes = [0; 12];
            bytes[..2].copy_from_slice(&[(n % 32) as u8, (n / 32) as u8]);
            crate::store::Change::PutToken(TokenRecord {
                id: TokenId::from_random(bytes),
                hash: [9; 32],
                subject: Subject::Instance(id.clone()),
                name: format!("t{n}").into(),
                created_at: jiff::Timestamp::UNIX_EPOCH,
                expires_at: Some(jiff::Timestamp::from_second(now + expires_in).unwrap()),
                last_used_at: None,
                last_used_from: None,
                by: None,
                scope: crate::model::TokenScope::All,
                edited: None,
            })
        };
        // More than are forgotten at once; one that just expired, and one that has not.
        let mut changes: Vec<_> = (2..400).map(|n| token(n, -7200)).collect();
        changes.extend([token(400, -60), token(401, 3600)]);
        store.commit(&changes).unwrap();
        drop(store);
        start_on(world, dir)
    };
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let names = loop {
        let left = bench.ledger.tokens();
        if left.len() <= 3 {
            break left
                .into_iter()
                .map(|t| t.name)
                .collect::<std::collections::BTreeSet<_>>();
        }
        assert!(std::time::Instant::now() < end, "{} are left", left.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(names, ["first", "t400", "t401"].map(String::from).into());
    assert_eq!(bench.world.table.lock().unwrap().len(), 3, "nor are they in the table");
    let (_, dir) = bench.end().await;
    let mut store = Store::open(dir.path(), &BoxId::from_random([1; 8])).unwrap();
    assert_eq!(store.load().unwrap().tokens.len(), 3, "nor in the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_types_are_for_what_is_run_or_recreated_from_now_on() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    let mut t = a_type();
    t.image.reference = "berth/echo:2".into();
    let types = [(t.name.clone(), Arc::new(t))].into();
    bench.catalog.store(Arc::new(Catalog { types }));
    assert_eq!(bench.run().await.image, "berth/echo:2");
    assert_eq!(bench.handle.views()[&id].image, "berth/echo:1");
    assert_eq!(bench.handle.views()[&id].restarts, 0);
    bench.act(Action::Recreate { id: id.clone() }).await.unwrap();
    assert_eq!(bench.handle.views()[&id].image, "berth/echo:2");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_in_a_workspace_that_is_not_held() {
    let bench = start();
    bench.world.no_quota.store(true, Ordering::SeqCst);
    let id = bench.run().await.id;
    bench
        .until("said", |v| {
            v[&id]
                .reason
                .as_ref()
                .is_some_and(|r| r.contains("quota") && r.contains("read-only file system"))
        })
        .await;
    assert!(!bench.world.steps().contains(&"start".to_owned()));
    let bench = bench.killed_and_started().await;
    bench
        .until("noted", |_| {
            bench
                .handle
                .snapshot()
                .notes
                .iter()
                .any(|n| n.contains("workspace default"))
        })
        .await;
    bench.world.no_quota.store(false, Ordering::SeqCst);
    bench.act(Action::Start { id: id.clone() }).await.unwrap();
    bench.until_state(&id, State::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_workspace_is_held_to_the_quota_of_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let w = WorkspaceName::parse("w").unwrap();
    let record = WorkspaceRecord {
        name: w.clone(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        quota: Some(WorkspaceLimits {
            pids: Some(77),
            ..WorkspaceLimits::default()
        }),
        allow: crate::model::Allowlist::default(),
        edited: None,
    };
    let mut store = Store::open(dir.path(), &BoxId::from_random([1; 8])).unwrap();
    store.commit(&[crate::store::Change::PutWorkspace(record)]).unwrap();
    drop(store);
    let world = Arc::new(World::default());
    world.healthy.store(true, Ordering::SeqCst);
    let bench = start_on(world, dir);
    let run_in = |workspace: WorkspaceName| {
        let request = RunRequest {
            name: Some("same".parse().unwrap()),
            workspace: Some(workspace),
            ..RunRequest::of(TypeName::parse("echo").unwrap())
        };
        bench.act(Action::Run(Box::new(request)))
    };
    let refused = run_in(WorkspaceName::parse("nowhere").unwrap()).await;
    assert!(matches!(refused, Err(Refusal::NoWorkspace { .. })), "{refused:?}");
    for workspace in [WorkspaceName::default(), w] {
        let Ok(Outcome::Instance(view)) = run_in(workspace).await else {
            panic!("one name, two workspaces")
        };
        bench.until_state(&view.id, State::Running).await;
    }
    let held = bench.world.held.lock().unwrap();
    let pids: Vec<_> = held
        .iter()
        .map(|(at, q)| (at.rsplit('/').next().unwrap(), q.pids))
        .collect();
    assert_eq!(pids, [("default", 8192), ("w", 77)]);
}
