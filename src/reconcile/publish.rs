//! What everybody sees: a snapshot after every change, whole and without a lock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Snapshot, act::quota_of, live::Live, task::Task};
use crate::{
    catalog::{Transport, USUAL_CALL_TIMEOUT},
    link::Patience,
    mcp::bridge::LONGEST,
    model::{Health, InstanceId, InstanceView, PackageView, RoomView, State},
    plan::{Run, exchange::Shown, room::promised_to},
    record::{InstanceRecord, Sourced},
    versions::Versioned,
};

/// Said where the engine's data is not on XFS with project quotas.
const UNBOUNDED_VOLUMES: &str = "volumes have no size limit: the engine's data folder is not on XFS mounted with prjquota; one instance can fill the disk";

/// So much longer than a call may take the edge waits for the bridge to say that it took too long.
const OUTWAIT: Duration = Duration::from_secs(30);

/// Said until the first listing.
const NOT_REACHED: &str = "it has not answered yet since the supervisor started";

const PAUSED: &str = "its container is paused: `docker unpause` lets it go on, and `berth recreate` replaces it";

impl Task {
    /// Whether its container has no more CPU than its size allows. What was there before this supervisor is looked at
    /// as soon as the engine answers; while it does not, it is not kept from serving.
    fn is_held(&self, record: &InstanceRecord, live: &Live) -> bool {
        match (live.container.cpu, &self.facts) {
            (Some(cpu), Some(facts)) => cpu == facts.size_cpus(record.size, &quota_of(&self.workspaces, facts, record)),
            _ => self.away.is_some(),
        }
    }

    /// What does not hold on this box, in words.
    fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.quota_troubles.values().cloned().collect();
        if self.facts.as_ref().is_some_and(|f| !f.volume_sizes) {
            notes.push(UNBOUNDED_VOLUMES.to_owned());
        }
        notes
    }

    /// What instances may write, all together, and what they were promised.
    fn room(&self) -> Option<RoomView> {
        let disk = self.observed.as_ref()?.disk?;
        Some(RoomView {
            room_bytes: disk.room(),
            promised_bytes: promised_to(self.instances.values().map(|r| &**r), self.limits.install_bytes),
        })
    }

    /// The instance as it is shown; `seen` is what its container does.
    pub(super) fn view(&self, record: &InstanceRecord, seen: Option<Run>) -> InstanceView {
        let live = self.lives.get(&record.id);
        let state = live.map_or(State::Pending, |l| l.state(record, seen, self.is_held(record, l)));
        let reason = match state {
            State::Failed => record.failure.clone(),
            State::Stopped => None,
            _ => {
                let pulling = live.is_some_and(|l| l.work.pulls());
                let fetching = || match &record.sourced {
                    Some(g) if g.source.package().is_some() => format!("installing {}", g.source.summary()),
                    _ => format!("fetching the image {}", record.spec.image.reference),
                };
                let paused = (seen == Some(Run::Paused)).then(|| PAUSED.to_owned());
                let own = pulling.then(fetching).or_else(|| live.and_then(|l| l.reason.clone()));
                let engine = self.away.clone().filter(|_| state != State::Running);
                paused.or(own).or(engine)
            }
        };
        let health = match live.map_or(Health::Unknown, |l| l.life.health()) {
            // Its calls would wait for whoever paused it.
            Health::Healthy if seen == Some(Run::Paused) => Health::Unhealthy,
            known => known,
        };
        let mut endpoints = (self.endpoints)(&record.id);
        if record.spec.screen.is_none() {
            endpoints.screen = None;
        }
        InstanceView {
            id: record.id.clone(),
            name: record.name.clone(),
            type_name: record.type_name().clone(),
            workspace: record.workspace.clone(),
            size: record.size,
            state,
            health,
            image: record.spec.image.reference.clone(),
            created_at: record.created_at,
            etag: record.etag(),
            endpoints,
            reason,
            restarts: live.map_or(0, |l| l.restarts.total),
            oom_kills: live.map_or(0, Live::oom_kills),
            package: record.sourced.as_deref().map(package),
            token: None,
        }
    }

    /// Publishes what changed, and tells the links the states that did.
    pub(super) fn publish(&mut self) {
        let now = self.now();
        let found = self.containers();
        let view = |r: &Arc<InstanceRecord>| self.view(r, found.get(&r.id).map(|(_, run)| *run));
        let views: BTreeMap<InstanceId, InstanceView> =
            self.instances.values().map(|r| (r.id.clone(), view(r))).collect();
        for (id, view) in &views {
            let Some(live) = self.lives.get_mut(id) else { continue };
            if live.shown != Some(view.state) {
                live.shown = Some(view.state);
                let wait = live.hold_until.saturating_sub(now) / 1000;
                let retry_after = match view.state {
                    State::Pending | State::Preparing | State::Starting => {
                        Some(u32::try_from(wait).unwrap_or(60).max(1))
                    }
                    _ => None,
                };
                self.tools.links.set_state(id, view.state, retry_after);
                if let Some(record) = self.instances.get(id.as_str()) {
                    self.tools.links.set_patience(id, patience(record));
                }
            }
        }
        let containers: BTreeMap<InstanceId, String> = found.into_iter().map(|(id, (c, _))| (id, c)).collect();
        let systemd_cgroups = self.facts.as_ref().is_some_and(|f| f.systemd_cgroups);
        let notes = self.notes();
        let claimed = self.adopted.claimed;
        let room = self.room();
        let unseen = self.observed.is_none().then(|| NOT_REACHED.to_owned());
        let engine = self.away.clone().or(unseen);
        let before = self.outlets.snapshot.load_full();
        let views = match *before.views == views {
            true => before.views.clone(),
            false => Arc::new(views),
        };
        if Arc::ptr_eq(&before.views, &views)
            && before.containers == containers
            && before.engine == engine
            && before.systemd_cgroups == systemd_cgroups
            && before.notes == notes
            && before.claimed == claimed
            && before.room == room
        {
            return self.show(&views);
        }
        self.outlets.snapshot.store(Arc::new(Snapshot {
            views: views.clone(),
            containers,
            engine,
            notes,
            systemd_cgroups,
            claimed,
            room,
        }));
        self.outlets.changed.send_modify(|n| *n += 1);
        // Whoever has an answer finds it in the snapshot as well.
        self.show(&views);
    }

    /// Tells the ledger what is shown, and of which version of the desired state.
    fn show(&self, views: &Arc<BTreeMap<InstanceId, InstanceView>>) {
        let shown = Shown {
            version: self.adopted.version,
            views: views.clone(),
            disk: self.observed.as_ref().and_then(|o| o.disk),
            fixed_quotas: self
                .facts
                .as_ref()
                .is_some_and(|f| f.systemd_cgroups && !self.tools.quotas.may_set()),
        };
        self.shown.send_if_modified(|s| {
            let news = (s.version, s.disk, s.fixed_quotas) != (shown.version, shown.disk, shown.fixed_quotas)
                || !Arc::ptr_eq(&s.views, &shown.views);
            if news {
                *s = shown;
            }
            news
        });
    }
}

/// What an instance's call timeout makes of the edge's limit. The bridge in a container ends a call by itself: the edge
/// outwaits it for as long as the call may take in all, also where a client takes no stream, and so sees nothing of the
/// progress that puts the end off. A server that speaks HTTP itself is held to what was asked for.
fn patience(record: &InstanceRecord) -> Patience {
    let asked = record.sourced.as_ref().is_some_and(|g| g.call_timeout.is_some());
    patience_with(&record.spec.mcp.transport, record.spec.mcp.call_timeout, asked)
}

fn patience_with(transport: &Transport, limit: Duration, asked: bool) -> Patience {
    match transport {
        Transport::Stdio { .. } => Patience {
            least: limit.saturating_mul(LONGEST) + OUTWAIT,
            ..Patience::ANY
        },
        Transport::Http { .. } | Transport::Remote { .. } if asked => Patience {
            least: limit,
            most: limit,
        },
        Transport::Http { .. } | Transport::Remote { .. } if limit > USUAL_CALL_TIMEOUT => Patience {
            least: limit,
            ..Patience::ANY
        },
        Transport::Http { .. } | Transport::Remote { .. } => Patience::ANY,
    }
}

fn package(g: &Sourced) -> PackageView {
    let resolved = g.resolved.as_ref();
    PackageView {
        kind: g.source.kind().to_owned(),
        wanted: g.source.summary(),
        version: resolved.map(|r| r.version.clone()),
        lock: resolved.map(|r| r.lock.clone()).filter(|l| !l.is_empty()),
        pinned: g.pinned,
        trial_of: g.trial_of.clone(),
        tree: resolved.map(|r| r.tree.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Processes;

    #[test]
    fn the_edge_outwaits_the_longest_call_of_a_bridge() {
        let edge = Duration::from_secs(330);
        let stdio = Transport::Stdio {
            command: Vec::new(),
            env: BTreeMap::new(),
            processes: Processes::Shared,
        };
        let http = Transport::Http {
            port: 8080,
            path: "/mcp".to_owned(),
        };
        let seconds = |transport: &Transport, limit: u64, asked: bool| {
            let patience = patience_with(transport, Duration::from_secs(limit), asked);
            patience.of(edge).as_secs()
        };
        for (limit, asked) in [(300, false), (1200, true)] {
            // Progress puts a call off eight times.
            assert_eq!(seconds(&stdio, limit, asked), limit * 8 + 30);
        }
        assert_eq!(seconds(&stdio, 4, true), 330, "the edge's own limit is longer");
        assert_eq!(seconds(&http, 300, false), 330);
        assert_eq!(seconds(&http, 4, true), 4);
        assert_eq!(seconds(&http, 1200, false), 1200);
    }
}
