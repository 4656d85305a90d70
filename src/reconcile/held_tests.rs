//! A disk that takes its time: while a commit is held up, whoever asked for it waits, and nothing else does.

use super::*;

impl World {
    /// From now on commits do not end.
    fn hold_commits(&self) {
        *self.gate.lock().unwrap() = true;
    }

    fn release_commits(&self) {
        *self.gate.lock().unwrap() = false;
        self.opened.notify_all();
    }
}

impl Bench {
    /// Somebody asks for an action whose commit is held up; how to wait for the answer.
    async fn held(&self, action: Action) -> JoinHandle<Result<Outcome, Refusal>> {
        self.world.hold_commits();
        let begun = self.world.commits.load(Ordering::SeqCst);
        let signed = crate::policy::signed_by_root(action);
        let ledger = self.ledger.clone();
        let asked = tokio::spawn(async move { ledger.submit(signed).await });
        self.until("a commit is begun", |_| {
            self.world.commits.load(Ordering::SeqCst) > begun
        })
        .await;
        asked
    }
}

fn another() -> Action {
    Action::Run(Box::new(RunRequest::of(TypeName::parse("echo").unwrap())))
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_get_healthy_and_the_dead_are_noticed_while_a_commit_is_held_up() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    let asked = bench.held(another()).await;

    // It ends; that is noticed, looked at, and it is started again: engine events, steps, links and orders go on.
    let (container, _) = bench.world.container();
    bench.world.end(&container);
    bench
        .until("restarted", |v| v[&id].restarts == 1 && v[&id].state == State::Running)
        .await;
    // It stops answering: health probes go on, and what they find has its consequences.
    bench.world.healthy.store(false, Ordering::SeqCst);
    bench.until("found unhealthy", |v| v[&id].restarts == 2).await;
    bench.world.healthy.store(true, Ordering::SeqCst);
    bench
        .until("healthy", |v| {
            v[&id].state == State::Running && v[&id].health == Health::Healthy
        })
        .await;
    // All of it was before the commit's end: what is not durable is neither answered nor acted on.
    assert!(!asked.is_finished());
    assert_eq!(bench.handle.views().len(), 1);
    assert_eq!(
        bench.world.made.load(Ordering::SeqCst),
        1,
        "one container was ever made"
    );

    bench.world.release_commits();
    let Ok(Outcome::Instance(view)) = asked.await.unwrap() else {
        panic!("the run is admitted")
    };
    assert!(
        bench.handle.views().contains_key(&view.id),
        "who has the answer finds it"
    );
    bench.until_state(&view.id, State::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_instance_gets_healthy_while_the_next_commit_is_held_up() {
    let bench = start();
    bench.world.mute.store(true, Ordering::SeqCst);
    let id = bench.run().await.id;
    bench
        .until("ordered", |_| !bench.world.orders.lock().unwrap().is_empty())
        .await;
    let asked = bench.held(another()).await;
    let spec = bench.world.orders.lock().unwrap()[0].spec.clone();
    bench.world.say(&id, World::status(AgentState::Ready, Some(spec), None));
    bench
        .until("healthy", |v| {
            v[&id].state == State::Running && v[&id].health == Health::Healthy
        })
        .await;
    assert!(!asked.is_finished());
    bench.world.release_commits();
    asked.await.unwrap().unwrap();
}

/// That it is given up is true before it is kept; that it was asked for anew is true after.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_stays_so_until_somebody_asks_and_is_kept_when_the_disk_lets_it() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    bench.world.hold_commits();
    // Its container is gone, and its image with it.
    bench.world.image_missing.store(true, Ordering::SeqCst);
    bench.world.seen.lock().unwrap().containers.clear();
    bench.world.say(&id, LinkEvent::Down);
    bench.world.events.notify_waiters();
    bench.until_state(&id, State::Failed).await;
    let reason = bench.handle.views()[&id].reason.clone().unwrap();
    assert!(reason.contains("berth/echo:1"), "{reason}");
    let kept = |bench: &Bench| bench.ledger.desired().borrow().instances[&id].failure.clone();
    assert_eq!(kept(&bench), None, "not durable yet");
    bench.world.release_commits();
    bench.until("kept", |_| kept(&bench).as_deref() == Some(&*reason)).await;

    let bench = bench.killed_and_started().await;
    assert_eq!(bench.handle.views()[&id].state, State::Failed);
    // Asked for anew while the word that it failed again is on its way: the newer word counts.
    bench.act(Action::Start { id: id.clone() }).await.unwrap();
    bench.until_state(&id, State::Failed).await;
    bench.world.image_missing.store(false, Ordering::SeqCst);
    bench.act(Action::Start { id: id.clone() }).await.unwrap();
    bench.until_state(&id, State::Running).await;
    assert_eq!(kept(&bench), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_of_a_package_before_it_is_kept_what_it_is() {
    let bench = start();
    bench.world.pull_hangs.store(true, Ordering::SeqCst);
    let id = bench.submit(npx(Some("1.0.0"))).await.id;
    bench.until("preparing", |_| bench.prepared() == 1).await;
    bench.world.hold_commits();
    let begun = bench.world.commits.load(Ordering::SeqCst);
    bench.world.pull_hangs.store(false, Ordering::SeqCst);
    bench
        .until("it is being kept", |_| {
            bench.world.commits.load(Ordering::SeqCst) > begun
        })
        .await;
    let turns = bench.handle.heartbeat() + 2;
    bench
        .until("some turns later", |_| bench.handle.heartbeat() >= turns)
        .await;
    assert_eq!(
        bench.world.steps(),
        ["prepare"],
        "it is prepared once, and nothing else"
    );
    bench.world.release_commits();
    bench.until_state(&id, State::Running).await;
    assert_eq!(*bench.world.images.lock().unwrap(), ["sha256:1.0.0"]);
    assert_eq!(bench.prepared(), 1);
}
