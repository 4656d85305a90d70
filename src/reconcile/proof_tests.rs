//! Which process is believed to be an agent: the one that the engine names, of the container that runs.

use super::*;
use crate::{
    link::Peer,
    model::{AGENT_USER, User},
};

fn proved(bench: &Bench) -> Vec<u32> {
    bench.world.proved.lock().unwrap().clone()
}

/// Somebody at the socket who is not known.
fn knock(bench: &Bench, id: &InstanceId) {
    bench.world.say(
        id,
        LinkEvent::Unproven(Peer {
            pid: 99,
            uid: AGENT_USER.uid,
        }),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_start_names_the_process() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    assert_eq!(proved(&bench), [1]);
    let agents = User {
        uid: 110_000,
        gid: 210_000,
    };
    assert_eq!(
        *bench.world.agents.lock().unwrap(),
        Some(agents),
        "as the engine counts users"
    );
    // The same container again, and another one.
    let (container, _) = bench.world.container();
    bench.world.end(&container);
    bench.until("named again", |_| proved(&bench) == [1, 2]).await;
    bench.until_state(&id, State::Running).await;
    bench.act(Action::Recreate { id: id.clone() }).await.unwrap();
    bench.until("named anew", |_| proved(&bench) == [1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_makes_the_engine_be_asked() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    // Somebody restarted the container by hand: its first process is another.
    bench.world.pid.store(40, Ordering::SeqCst);
    knock(&bench, &id);
    bench.until("asked", |_| proved(&bench) == [1, 40]).await;
    // While the engine is away nobody is named; when it is back, it is asked without being told again.
    bench.world.away.store(true, Ordering::SeqCst);
    bench.world.calls.lock().unwrap().clear();
    knock(&bench, &id);
    let asks = || {
        let calls = bench.world.calls.lock().unwrap();
        calls.iter().filter(|c| c.starts_with("pid")).count()
    };
    bench.until("asked in vain", |_| asks() > 0).await;
    assert_eq!(proved(&bench), [1, 40]);
    bench.world.away.store(false, Ordering::SeqCst);
    bench.until("asked again", |_| proved(&bench) == [1, 40, 40]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_supervisor_asks_who_runs() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    let bench = bench.killed_and_started().await;
    bench.until("asked", |_| proved(&bench) == [1, 1]).await;
    assert!(bench.world.steps().is_empty(), "{:?}", bench.world.steps());
}

/// An agent of an earlier Berth is of the server's user: no container of that time is adopted.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_an_earlier_sandbox_is_replaced() {
    let bench = start();
    let id = bench.run().await.id;
    bench.until_state(&id, State::Running).await;
    let (old, _) = bench.world.container();
    {
        let mut seen = bench.world.seen.lock().unwrap();
        let container = seen.containers.get_mut(&old).unwrap();
        container.spec = container.spec.split('.').next().unwrap().to_owned();
    }
    let bench = bench.killed_and_started().await;
    bench
        .until("replaced", |_| {
            let seen = bench.world.seen.lock().unwrap();
            seen.containers.len() == 1 && !seen.containers.contains_key(&old)
        })
        .await;
    bench.until_state(&id, State::Running).await;
}
