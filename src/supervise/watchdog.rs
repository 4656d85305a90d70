//! Feeds systemd's watchdog, but only while the reconciler and the edge both make progress.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use crate::systemd;

/// A task's sign of life: it counts up at least once per [`BEAT`].
pub(super) type Heartbeat = Arc<AtomicU64>;

/// How often a sign of life is looked for, where systemd asks for none more often.
const BEAT: Duration = Duration::from_secs(5);

/// Runs until `stop` turns true. Withholds the watchdog's food when a heartbeat has not moved since the last look.
pub(super) async fn run(hearts: Vec<(&'static str, Heartbeat)>, mut stop: watch::Receiver<bool>) {
    let interval = systemd::watchdog_interval().unwrap_or(BEAT).max(Duration::from_millis(200));
    let mut last: Vec<u64> = hearts.iter().map(|(_, h)| h.load(Ordering::Relaxed)).collect();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = stop.wait_for(|s| *s) => return,
            _ = ticks.tick() => {}
        }
        let now: Vec<u64> = hearts.iter().map(|(_, h)| h.load(Ordering::Relaxed)).collect();
        let stuck: Vec<&str> =
            hearts.iter().zip(last.iter().zip(&now)).filter(|(_, (a, b))| a == b).map(|((name, _), _)| *name).collect();
        if stuck.is_empty() {
            systemd::watchdog();
        } else {
            log::error!("no progress for {interval:?}: {}", stuck.join(", "));
        }
        last = now;
    }
}
