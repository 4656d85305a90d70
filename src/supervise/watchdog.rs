//! Feeds systemd's watchdog, but only while ledger, reconciler and edge all make progress.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{addresses, backend::Parts};
use crate::{model::State, systemd};

/// How often signs of life are looked for, where systemd asks for none more often. All hearts beat once a second.
const BEAT: Duration = Duration::from_secs(5);

/// Runs until `stop` turns true. Withholds the watchdog's food when a heartbeat has not moved since the last look.
pub(super) async fn run(parts: Arc<Parts>, mut stop: watch::Receiver<bool>) {
    let interval = systemd::watchdog_interval().unwrap_or(BEAT).max(Duration::from_secs(2));
    let mut last = beats(&parts);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = stop.wait_for(|s| *s) => return,
            _ = ticks.tick() => {}
        }
        let now = beats(&parts);
        let stuck = now.iter().zip(&last).find(|(now, last)| now == last);
        if let Some(((stuck, _), _)) = stuck {
            log::error!(task = *stuck; "no progress within {interval:?}");
        } else {
            systemd::watchdog();
            systemd::status(&summary(&parts));
        }
        last = now;
    }
}

fn beats(parts: &Parts) -> [(&'static str, u64); 3] {
    [
        ("ledger", parts.ledger.heartbeat()),
        ("reconcile", parts.reconcile.heartbeat()),
        ("edge", parts.edge.heartbeat()),
    ]
}

/// The line of `systemctl status`.
fn summary(parts: &Parts) -> String {
    let snapshot = parts.reconcile.snapshot();
    let running = snapshot.views.values().filter(|v| v.state == State::Running).count();
    let engine = if snapshot.engine.is_some() {
        "; the engine does not answer"
    } else {
        ""
    };
    format!(
        "serving {}: {running} of {} instances running{engine}",
        addresses::host(&parts.router),
        snapshot.views.len()
    )
}
