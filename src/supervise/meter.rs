//! What containers use, sampled for metering.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::backend::Parts;
use crate::{cgroup::Cgroups, plan::spec::cgroup_parent};

/// How often.
const EVERY: Duration = Duration::from_secs(30);

/// Samples for as long as the supervisor runs. What a container used between its last sample and its end is not counted.
pub(super) async fn run(parts: Arc<Parts>) {
    // By container: what it had used at the last look.
    let mut before: HashMap<String, u64> = HashMap::new();
    let mut looked = Instant::now();
    let mut first = true;
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        let since = std::mem::replace(&mut looked, Instant::now()).elapsed();
        let snapshot = parts.reconcile.snapshot();
        let cgroups = Cgroups::host(snapshot.systemd_cgroups);
        let mut now = HashMap::new();
        for view in snapshot.views.values() {
            let Some(container) = snapshot.containers.get(&view.id) else {
                continue;
            };
            let (box_id, workspace) = (parts.reconcile.box_id(), view.workspace.as_str());
            let parent = cgroup_parent(box_id, workspace, snapshot.systemd_cgroups);
            let Some(used) = cgroups.usage(&parent, container) else {
                continue;
            };
            let seen = before.get(container).copied();
            // What one used that the supervisor found at its start was counted by the supervisor before.
            if !first {
                let time = seen.map_or(Duration::ZERO, |_| since);
                let cpu = used.cpu_usec.saturating_sub(seen.unwrap_or(0));
                parts
                    .usage
                    .used((workspace, view.id.as_str()), cpu, (used.memory_bytes, time));
            }
            now.insert(container.clone(), used.cpu_usec);
        }
        // The list of containers is empty until the engine was asked.
        first = first && now.is_empty();
        before = now;
    }
}
