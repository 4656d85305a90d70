//! What shall be, taken over from the ledger, and what the ledger is told in return. Level-triggered: whatever happened
//! between two looks, the difference counts.
//!
//! What is reported counts here at once, or holds its instance until it is kept: nothing else waits for it.

use std::{sync::Arc, time::Duration};

use super::{
    live::Work,
    ops::{Done, Told},
    task::{Op, Task},
};
use crate::{
    model::{Desired, InstanceId, State},
    plan::exchange::{Asked, Report},
    record::InstanceRecord,
};

/// The ledger that has not answered after this long is told again, where that matters.
const REPORT: Duration = Duration::from_secs(30);

impl Task {
    /// Takes over the newest desired state, and publishes.
    pub(super) fn adopt(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        if desired.version == self.adopted.version {
            return;
        }
        let before = std::mem::replace(&mut self.adopted, desired.clone());
        if !Arc::ptr_eq(&before.workspaces, &desired.workspaces) {
            self.workspaces.records = (*desired.workspaces).clone();
        }
        let gone = before
            .instances
            .keys()
            .filter(|id| !desired.instances.contains_key(*id));
        for id in gone {
            self.forget(id);
        }
        for (id, record) in &*desired.instances {
            match before.instances.get(id) {
                Some(same) if Arc::ptr_eq(same, record) => {}
                earlier => self.take_over(earlier, record),
            }
        }
        if !Arc::ptr_eq(&before.workspaces, &desired.workspaces) {
            self.hold_workspaces();
        }
        self.keep_images();
        self.publish();
    }

    fn take_over(&mut self, before: Option<&Arc<InstanceRecord>>, record: &Arc<InstanceRecord>) {
        let (id, now) = (record.id.clone(), self.now());
        let asked = Asked::of(record);
        let earlier = before.map(|b| Asked::of(b));
        self.instances.insert(id.clone(), record.clone());
        let live = self.lives.entry(id.clone()).or_default();
        if earlier == Some(asked) {
            // It was a report of ours, or a pin.
            if let Some((_, why)) = live.given_up.clone() {
                self.mark_failed(&id, &why);
            }
            return;
        }
        live.given_up = None;
        let runs = record.desired == Desired::Running;
        let renewed = earlier.is_some_and(|e| e.revision != asked.revision);
        if renewed && runs {
            live.forgive();
            live.life.renewed(now);
            if live.agent.is_up() {
                live.order.renew(now);
            }
        }
        let again = |e: Asked| (e.desired, e.generation) != (asked.desired, asked.generation);
        if !earlier.is_none_or(again) {
            return;
        }
        live.forgive();
        live.work.break_off_pull();
        if before.is_some_and(|b| b.spec_hash != record.spec_hash) {
            // What runs is of an earlier spec; it will be replaced, and its end is no death.
            live.run_ended();
        }
        match record.desired {
            Desired::Running => match earlier {
                None => self.begin_deploy(record, "run"),
                // A change of credentials that lets one be tried again is no deploy.
                Some(e) if e.generation != asked.generation && !renewed => self.begin_deploy(record, "start"),
                Some(_) => {}
            },
            Desired::Stopped => {
                live.life.lost();
                self.deploys.end(&id, "stopped");
            }
            Desired::Removed => {
                live.life.lost();
                self.deploys.end(&id, "removed");
                self.tools.links.set_state(&id, State::Removing, None);
            }
        }
    }

    /// Its record is gone: so is all that is known of it.
    fn forget(&mut self, id: &InstanceId) {
        if let (Some(record), Some(facts)) = (self.instances.remove(id), &self.facts) {
            let workspace = &record.workspace;
            if !self.instances.values().any(|r| r.workspace == *workspace) {
                self.tools
                    .quotas
                    .release(&super::act::cgroup(facts, &record), facts.systemd_cgroups);
                self.quota_troubles.remove(workspace);
            }
        }
        self.lives.remove(id);
        self.deploys.remove(id);
    }

    /// It has failed, kept or not.
    pub(super) fn mark_failed(&mut self, id: &InstanceId, why: &str) {
        if let Some(record) = self.instances.get_mut(id)
            && record.failure.is_none()
        {
            Arc::make_mut(record).failure = Some(why.to_owned());
        }
    }

    /// Tells the ledger, as an operation of its own.
    pub(super) fn report(&mut self, report: Report) {
        let (what, id) = match &report {
            Report::Prepared { id, .. } => (Told::Prepared, id.clone()),
            Report::GivenUp { id, .. } => (Told::GivenUp, id.clone()),
            Report::Gone { id } => (Told::Gone, id.clone()),
        };
        if what != Told::GivenUp
            && let Some(live) = self.lives.get_mut(&id)
        {
            // The next step needs that it is kept.
            live.work = Work::Pending;
        }
        let (ledger, whom) = (self.ledger.clone(), id.clone());
        self.spawn(Op::Report(what, id), async move {
            let kept = tokio::time::timeout(REPORT, ledger.report(report)).await;
            let kept = kept.map_err(|_| format!("no answer within {} s", REPORT.as_secs()));
            let kept = kept.and_then(|kept| kept.map_err(|e| e.to_string()));
            Done::Reported(what, whom, kept)
        });
    }

    pub(super) fn on_reported(&mut self, what: Told, id: &InstanceId, kept: Result<(), String>) {
        // What was kept is published by now.
        self.adopt();
        if what == Told::GivenUp {
            if let Err(e) = kept {
                // It would be found out again after a restart: no harm.
                log::error!(instance = id.as_str(); "the failure was not kept: {e}");
            }
            return;
        }
        self.step_over(id);
        let now = self.now();
        let Some(live) = self.lives.get_mut(id) else { return };
        match kept {
            Ok(()) if what == Told::Prepared => live.container.image_gone = false,
            Ok(()) => {}
            Err(e) => {
                let what = match what {
                    Told::Prepared => "what was installed",
                    _ => "the removal",
                };
                live.retry.later(now);
                live.reason = Some(format!("the store could not keep {what} ({e}); to be tried again"));
            }
        }
    }
}
