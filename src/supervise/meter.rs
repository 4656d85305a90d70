//! What containers use, sampled for metering.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::backend::Parts;
use crate::{
    cgroup::{Cgroups, Usage},
    model::{BoxId, InstanceView},
    plan::spec::cgroup_parent,
    reconcile::Snapshot,
};

/// How often.
const EVERY: Duration = Duration::from_secs(30);

/// What each container uses that runs, with its instance and its id.
pub(super) fn used<'s>(
    box_id: &'s BoxId,
    snapshot: &'s Snapshot,
) -> impl Iterator<Item = (&'s InstanceView, &'s str, Usage)> {
    let systemd = snapshot.systemd_cgroups;
    let cgroups = Cgroups::host(systemd);
    snapshot.views.values().filter_map(move |view| {
        let container = snapshot.containers.get(&view.id)?;
        let parent = cgroup_parent(box_id, view.workspace.as_str(), systemd);
        Some((view, container.as_str(), cgroups.usage(&parent, container)?))
    })
}

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
        let mut now = HashMap::new();
        for (view, container, used) in used(parts.reconcile.box_id(), &snapshot) {
            let seen = before.get(container).copied();
            // What one used that the supervisor found at its start was counted by the supervisor before.
            if !first {
                let workspace = view.workspace.as_str();
                let time = seen.map_or(Duration::ZERO, |_| since);
                let cpu = used.cpu_usec.saturating_sub(seen.unwrap_or(0));
                parts
                    .usage
                    .used((workspace, view.id.as_str()), cpu, (used.memory_bytes, time));
            }
            now.insert(container.to_owned(), used.cpu_usec);
        }
        // The list of containers is empty until the engine was asked.
        first = first && now.is_empty();
        before = now;
    }
}
