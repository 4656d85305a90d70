//! What Docker shows and what agents say, and what follows from it for an instance: adopted, ended, ready, unhealthy.
//! Listings are the truth; where one began before a step was done, it is not believed about that instance.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    LinkReport,
    act::place,
    live::{Agent, Live, Work, millis},
    ops::Place,
    task::{Op, Task},
};
use crate::{
    docker::{EngineError, EngineInfo},
    link::LinkEvent,
    model::{AGENT_PROTOCOL, AGENT_USER, AgentState, AgentStatus, Desired, InstanceId, WorkspaceName},
    plan::{
        Millis, Observed, Run, SeenContainer,
        exchange::{Asked, Report},
        life::{Life, Probed, Up},
        quota::WorkspaceQuota,
        restart::{Verdict, engine_wait},
        spec::{BoxFacts, spec_label},
    },
    record::InstanceRecord,
};

/// A listing that could not be believed is made again after this.
const AGAIN: Millis = 1_000;

impl Task {
    pub(super) fn on_listed(&mut self, began: u64, result: Result<(Observed, Option<EngineInfo>), EngineError>) {
        self.listing = false;
        let (seen, info) = match result {
            Ok(found) => found,
            Err(e) => {
                self.away_tries += 1;
                self.list_at = self.now() + engine_wait(self.away_tries);
                self.after_loss = true;
                if self.away.is_none() {
                    log::error!("{e}; instances that run are left alone until the engine answers again");
                }
                self.away = Some(e.to_string());
                return;
            }
        };
        if self.away.take().is_some() {
            log::info!("the engine answers again");
        }
        self.away_tries = 0;
        if let Some(info) = info {
            if let Err(why) = self.tools.links.set_agents(AGENT_USER.on_host(info.users_from)) {
                log::error!("agents cannot reach their sockets: {why}");
            }
            self.facts = Some(BoxFacts {
                box_id: self.tools.box_id.clone(),
                agent: self.agent.clone(),
                systemd_cgroups: info.systemd_cgroups,
                cpus: info.cpus,
                memory: info.memory,
                volume_sizes: info.volume_sizes,
                layer_sizes: info.layer_sizes,
            });
            self.hold_workspaces();
        }
        self.orphans.clear();
        self.believe(began, seen);
        self.notice();
        self.after_loss = false;
    }

    /// Holds every workspace to its quota: it may have changed since what runs was started.
    pub(super) fn hold_workspaces(&mut self) {
        let Some(facts) = &self.facts else { return };
        let each = self.instances.values();
        let places: BTreeMap<_, _> = each
            .map(|r| (r.workspace.clone(), place(&self.workspaces, facts, r)))
            .collect();
        for (workspace, place) in places {
            self.hold(workspace, place);
        }
    }

    fn hold(&mut self, workspace: WorkspaceName, place: Place) {
        let quota = place.quota;
        let op = self.tools.clone().hold(workspace.clone(), place);
        self.spawn(Op::Hold(workspace, quota), op);
    }

    pub(super) fn on_held(&mut self, workspace: &WorkspaceName, quota: WorkspaceQuota, result: Result<(), String>) {
        let here = self.instances.values().any(|r| r.workspace == *workspace);
        match result {
            // Its cgroup went with its last instance.
            Err(_) if !here => drop(self.quota_troubles.remove(workspace)),
            Ok(()) => {
                self.quota_troubles.remove(workspace);
                self.hold_anew(workspace, quota);
            }
            Err(why) => {
                let said = format!("workspace {workspace} is not held to its quota: {why}");
                // It is tried again with every listing, and told once.
                if self.quota_troubles.insert(workspace.clone(), said.clone()).as_ref() != Some(&said) {
                    log::error!("{said}");
                }
            }
        }
    }

    /// A workspace was held to this quota. Where it has another by now, that may have been set before, and is set again.
    pub(super) fn hold_anew(&mut self, workspace: &WorkspaceName, held: WorkspaceQuota) {
        let Some(facts) = &self.facts else { return };
        let Some(record) = self.instances.values().find(|r| r.workspace == *workspace) else {
            return;
        };
        let place = place(&self.workspaces, facts, record);
        if place.quota != held {
            self.hold(workspace.clone(), place);
        }
    }

    /// Takes the listing over, but for what a step has touched since it began.
    fn believe(&mut self, began: u64, mut seen: Observed) {
        let now = self.now();
        let doubted: BTreeSet<&str> = self
            .lives
            .iter()
            .filter(|(_, l)| l.work.touches() || l.listing.after > began)
            .map(|(id, _)| id.as_str())
            .collect();
        let doubt = |instance: &str| doubted.contains(instance);
        let old = self.observed.take().unwrap_or_default();
        seen.containers.retain(|_, c| !doubt(&c.owner.instance));
        seen.networks.retain(|_, o| !doubt(&o.instance));
        seen.volumes.retain(|_, o| !doubt(&o.instance));
        seen.containers
            .extend(old.containers.into_iter().filter(|(_, c)| doubt(&c.owner.instance)));
        seen.networks
            .extend(old.networks.into_iter().filter(|(_, o)| doubt(&o.instance)));
        seen.volumes
            .extend(old.volumes.into_iter().filter(|(_, o)| doubt(&o.instance)));
        self.observed = Some(seen);
        for live in self.lives.values_mut() {
            if live.work.touches() {
                // Once more when the step is done.
                live.listing.doubted = true;
            } else if live.listing.after > began {
                self.list_at = self.list_at.min(now + AGAIN);
            }
        }
    }

    /// The container of the instance's present spec, rather a running one.
    pub(super) fn container_of(&self, record: &InstanceRecord) -> Option<(&String, &SeenContainer)> {
        let label = spec_label(&record.spec_hash);
        let all = self.observed.as_ref()?.containers.iter();
        all.filter(|(_, c)| {
            c.owner.instance == record.id.as_str() && c.owner.box_id == self.tools.box_id.as_str() && c.spec == label
        })
        .min_by_key(|(_, c)| c.run)
    }

    /// The container of each instance, as [`Task::container_of`] finds it.
    pub(super) fn containers(&self) -> BTreeMap<InstanceId, (String, Run)> {
        let mut found: BTreeMap<InstanceId, (String, Run)> = BTreeMap::new();
        let Some(seen) = &self.observed else { return found };
        for (container, c) in &seen.containers {
            let Some(record) = self.instances.get(c.owner.instance.as_str()) else {
                continue;
            };
            if c.owner.box_id != self.tools.box_id.as_str() || c.spec != spec_label(&record.spec_hash) {
                continue;
            }
            match found.get(&record.id) {
                Some((_, run)) if *run <= c.run => {}
                _ => drop(found.insert(record.id.clone(), (container.clone(), c.run))),
            }
        }
        found
    }

    /// Which runs began (adopted) and which ended since the last look.
    fn notice(&mut self) {
        let now = self.now();
        let mut exits = Vec::new();
        let mut removed = Vec::new();
        let mut containers = self.containers();
        for (id, record) in &self.instances {
            let id = id.clone();
            let container = containers.remove(&id);
            let runs = record.desired == Desired::Running && record.failure.is_none();
            let memory = record.size.limits().memory;
            let after_loss = self.after_loss;
            let Some(live) = self.lives.get_mut(&id) else { continue };
            if live.work.is_some() {
                live.listing.doubted |= live.life.is_up();
                continue;
            }
            match (container, live.life.is_up()) {
                (Some((_, Run::Running | Run::Paused)), false) if runs => {
                    adopted(&id, live, now);
                    live.proof.want();
                }
                (Some((_, Run::Running | Run::Paused)), _) | (_, false) => {}
                (_, true) if !runs || after_loss => live.run_ended(),
                (Some((container, _)), true) => {
                    let agent = live.life.up().and_then(|up| up.agent.as_deref().cloned());
                    exits.push((id, container, agent, memory));
                }
                (None, true) => removed.push(id),
            }
        }
        for (id, container, agent, memory) in exits {
            if let Some(live) = self.lives.get_mut(&id) {
                live.work = Work::Pending;
            }
            let op = self.tools.clone().exit_report(id.clone(), container, agent, memory);
            self.spawn(Op::ExitReport(id), op);
        }
        self.without_container.extend(removed);
    }

    /// A run ended that should not have: start again soon, or give up.
    pub(super) fn on_death(&mut self, id: &InstanceId, why: &str) {
        let now = self.now();
        let Some(live) = self.lives.get_mut(id) else { return };
        let first_ready = live.life.up().and_then(Up::first_ready);
        live.run_ended();
        match live.restarts.died(now, first_ready) {
            Verdict::At(at) => {
                live.hold_until = at;
                self.deploys
                    .note(id, &format!("to be restarted in {} ms: {why}", at - now));
                live.reason = Some(format!("to be restarted: {why}"));
                log::warn!(instance = id.as_str(), deaths = live.restarts.quick(); "restarts in {} ms: {why}", at - now);
            }
            Verdict::GiveUp => {
                let deaths = live.restarts.quick();
                self.fail(
                    id,
                    &format!("given up after {deaths} quick failures in a row; the last: {why}"),
                );
            }
        }
    }

    /// Gives up until somebody starts it again.
    pub(super) fn fail(&mut self, id: &InstanceId, why: &str) {
        let Some(record) = self.instances.get(id).filter(|r| r.desired == Desired::Running) else {
            return;
        };
        let asked = Asked::of(record);
        log::error!(instance = id.as_str(); "failed: {why}");
        self.deploys.end(id, &format!("failed: {why}"));
        if let Some(live) = self.lives.get_mut(id) {
            live.life.lost();
            live.reason = None;
            live.given_up = Some((asked, why.to_owned()));
        }
        self.mark_failed(id, why);
        self.report(Report::GivenUp {
            id: id.clone(),
            asked,
            why: why.to_owned(),
        });
    }

    pub(super) fn on_link(&mut self, report: LinkReport) {
        let now = self.now();
        let id = &report.id;
        let known = self.may_order(id);
        let (Some(record), Some(live)) = (self.instances.get(id), self.lives.get_mut(id)) else {
            return;
        };
        if report.generation < live.container.generation {
            // Of a container that no longer is.
            return;
        }
        match report.event {
            LinkEvent::Unproven(peer) => {
                log::debug!(instance = id.as_str(), pid = peer.pid, user = peer.uid; "somebody is at its socket");
                live.proof.want();
                if !known {
                    self.list_at = self.list_at.min(now + 100);
                }
            }
            LinkEvent::Up => {
                live.agent = Agent::Up;
                if let Some(up) = live.life.up_mut() {
                    up.agent = None;
                }
                live.order.renew(now);
                if !known {
                    self.list_at = self.list_at.min(now + 100);
                }
            }
            LinkEvent::Down => {
                live.agent = Agent::Down { since: now };
                live.life.lost();
                self.list_at = self.list_at.min(now + 100);
            }
            LinkEvent::Status(status) => {
                if record.desired == Desired::Running && record.failure.is_none() {
                    self.on_status(id, status);
                }
            }
        }
    }

    fn on_status(&mut self, id: &InstanceId, status: AgentStatus) {
        let now = self.now();
        let runs = self
            .instances
            .get(id)
            .and_then(|r| self.container_of(r))
            .is_some_and(|(_, c)| matches!(c.run, Run::Running | Run::Paused));
        let (Some(record), Some(live)) = (self.instances.get(id), self.lives.get_mut(id)) else {
            return;
        };
        if status.spec.as_ref().is_some_and(|s| *s != record.spec_hash) {
            // The agent of a container that is about to be replaced.
            return;
        }
        // It may be that neither the end of its start nor a listing says so yet, but its agent speaks.
        match live.life {
            Life::Up(_) => {}
            _ if live.work.starts() => live.run_began(now),
            Life::Found => adopted(id, live, now),
            Life::Down if runs && !live.work.touches() => adopted(id, live, now),
            Life::Down => {}
        }
        let before = live.oom_kills();
        let Live {
            life: Life::Up(up),
            order,
            reason,
            ..
        } = live
        else {
            return;
        };
        if let Some(more @ 1..) = status.oom_kills.checked_sub(up.oom_kills) {
            log::warn!(instance = id.as_str(), before; "the kernel killed {more} of its processes: the memory of its container was used up");
        }
        up.oom_kills = status.oom_kills;
        if status.protocol != AGENT_PROTOCOL {
            up.kick(format!(
                "its agent speaks protocol {}, this supervisor {AGENT_PROTOCOL}",
                status.protocol
            ));
        }
        if status.revision != record.marks.revision && matches!(status.state, AgentState::Starting | AgentState::Ready)
        {
            // It runs with values that have changed since: it gets the order anew, and is not ready until it took it.
            up.lost();
            order.want(now);
            up.agent = Some(Box::new(status));
            return;
        }
        let mut news = false;
        match status.state {
            AgentState::Waiting => order.want(now),
            AgentState::Starting => reason.clone_from(&status.reason),
            AgentState::Ready => {
                news = up.ready(now, millis(record.spec.health.interval));
                if news {
                    *reason = None;
                }
            }
            AgentState::Failed => {
                up.failed(now);
                reason.clone_from(&status.reason);
            }
        }
        let services =
            |s: &AgentStatus| -> Vec<(String, bool)> { s.services.iter().map(|s| (s.name.clone(), s.ready)).collect() };
        let after = services(&status);
        let before = up
            .agent
            .replace(Box::new(status))
            .as_deref()
            .map(services)
            .unwrap_or_default();
        if news {
            log::info!(instance = id.as_str(); "ready");
            self.deployed(id);
        }
        self.tell_services(id, &before, &after);
    }

    /// Asks the engine which process is the agent of an instance that runs.
    pub(super) fn begin_proof(&mut self, id: &InstanceId) {
        let Some(record) = self.instances.get(id) else { return };
        let found = self.container_of(record);
        let Some((container, _)) = found.filter(|(_, c)| matches!(c.run, Run::Running | Run::Paused)) else {
            // A step or a listing shows it.
            return;
        };
        let container = container.clone();
        let Some(live) = self.lives.get_mut(id) else { return };
        live.proof.ask();
        let generation = live.container.generation;
        let op = self.tools.clone().prove(id.clone(), generation, container);
        self.spawn(Op::Prove(id.clone(), generation), op);
    }

    pub(super) fn on_proved(&mut self, id: &InstanceId, generation: u64, pid: Result<Option<u32>, EngineError>) {
        let now = self.now();
        let Some(live) = self.lives.get_mut(id) else { return };
        live.proof.answered(now);
        match pid {
            // Of a container that was started again meanwhile: that start says it anew.
            _ if live.container.generation != generation || live.work.starts() => {}
            Ok(Some(pid)) => self.tools.links.prove(id, pid),
            Ok(None) => self.list_at = self.list_at.min(now + AGAIN),
            Err(e) => {
                log::debug!(instance = id.as_str(); "who its agent is cannot be told: {e}");
                live.proof.want();
            }
        }
    }

    pub(super) fn on_probed(&mut self, id: &InstanceId, answer: Result<(), String>) {
        let now = self.now();
        let (Some(record), Some(live)) = (self.instances.get(id), self.lives.get_mut(id)) else {
            return;
        };
        let Some(up) = live.life.up_mut() else { return };
        match (
            up.probed(now, millis(record.spec.health.interval), answer.is_ok()),
            answer,
        ) {
            (Probed::Well, _) => live.reason = None,
            (Probed::Misses(misses), Err(why)) => {
                log::warn!(instance = id.as_str(), misses; "health: {why}");
                live.reason = Some(format!("its health probe failed: {why}"));
                // Known at once; ended only when it stays so.
                if misses >= record.spec.health.failures.max(1) {
                    up.kick(format!("unhealthy ({misses} probes failed; the last: {why})"));
                }
            }
            (Probed::Stale | Probed::Misses(_), _) => {}
        }
    }

    pub(super) fn on_ordered(&mut self, id: &InstanceId, answer: Result<(), String>) {
        let now = self.now();
        let Some(live) = self.lives.get_mut(id) else { return };
        live.order.answered();
        if let Err(why) = answer {
            log::warn!(instance = id.as_str(); "the start order was not taken: {why}");
            if live.agent.is_up() {
                live.order.want(now + AGAIN);
                live.reason = Some(format!("the start order was not taken: {why}"));
            }
        }
    }
}

/// It runs, and this supervisor did not start it.
fn adopted(id: &InstanceId, live: &mut Live, now: Millis) {
    log::info!(instance = id.as_str(); "runs already: adopted");
    live.run_began(now);
    // Somebody else may have started it, or an earlier supervisor, with whatever CPU.
    live.container.cpu = None;
}
