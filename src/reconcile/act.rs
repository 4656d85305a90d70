//! Steps: planned from what is known, begun one at a time for each instance, and noted when they are done.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    live::{Agent, Socket, StepInFlight, Work},
    ops::{Done, Made, Needs, NewContainer, Place, Trouble},
    prepare::words,
    task::{Op, Task},
};
use crate::{
    docker::EngineError,
    model::{Desired, InstanceId, Secret},
    plan::{
        Cpu, Orphan, Owner, Run, SeenContainer, Step, Want,
        exchange::Report,
        order::start_order,
        plan,
        quota::{WorkspaceQuota, Workspaces},
        spec::{BoxFacts, cgroup_parent, container_spec, resource_name, spec_label},
    },
    record::InstanceRecord,
    secret::SecretError,
};

impl Task {
    /// Plans and begins whatever can be begun now, then publishes.
    pub(super) fn advance(&mut self) {
        for id in std::mem::take(&mut self.without_container) {
            self.on_death(&id, "something else removed its container");
        }
        if self.away.is_none()
            && let Some(seen) = &self.observed
            && self.facts.is_some()
        {
            let now = self.now();
            let steps = plan(&self.tools.box_id, &self.wants(), seen, &self.orphans, now);
            for step in steps {
                log::debug!("step: {step}");
                match step {
                    Step::Forget { id } => self.report(Report::Gone { id }),
                    step => self.begin(step),
                }
            }
        }
        self.publish();
    }

    fn wants(&self) -> BTreeMap<InstanceId, Want> {
        let now = self.now();
        // Known with the first listing, and nothing is planned before.
        let Some(facts) = &self.facts else {
            return BTreeMap::new();
        };
        let want = |r: &Arc<InstanceRecord>| {
            let live = self.lives.get(&r.id)?;
            let quota = quota_of(&self.workspaces, facts, r);
            let want = Want {
                desired: r.desired,
                spec: spec_label(&r.spec_hash),
                network: r.spec.egress == crate::catalog::Egress::Internet,
                unprepared: r.unprepared() || live.container.image_gone,
                failed: r.failure.is_some(),
                hold_until: live.hold_until,
                kick: live.life.kicked().is_some(),
                rebuild: live.container.rebuild,
                link: live.socket.seen(),
                cpu: Cpu {
                    start: facts.start_cpus(r.size, &quota),
                    size: facts.size_cpus(r.size, &quota),
                    now: live.container.cpu,
                    settled: live.settled(r, now),
                },
                busy: live.work.is_some() || live.retry.until > now,
            };
            Some((r.id.clone(), want))
        };
        self.instances.values().filter_map(want).collect()
    }

    /// Begins a step as an operation of its own.
    pub(super) fn begin(&mut self, step: Step) {
        if let Step::Prepare { id } = &step {
            return self.begin_prepare(&id.clone());
        }
        self.tell_step(&step);
        let now = self.now();
        let (mut needs, mut starts) = (Needs::default(), None);
        let pulling = Arc::default();
        match step.instance() {
            None => {
                if let Step::RemoveOrphan { what } = &step {
                    log::warn!("{step}");
                    self.orphans.insert(what.clone());
                }
            }
            Some(id) => {
                let (Some(record), Some(live)) = (self.instances.get(id), self.lives.get_mut(id)) else {
                    return;
                };
                if matches!(step, Step::CreateContainer { .. }) {
                    let (Some(facts), Socket::Open(dir)) = (&self.facts, &live.socket) else {
                        return;
                    };
                    let catalog = self.catalog.load();
                    needs.new = Some(NewContainer {
                        spec: container_spec(record, facts, &quota_of(&self.workspaces, facts, record), dir.clone()),
                        reference: match record.built_image() {
                            // What was built here is as good as what it was built on.
                            Some(_) => catalog.types.get(record.type_name()).unwrap_or(&record.spec),
                            None => &record.spec,
                        }
                        .image
                        .reference
                        .clone(),
                        pulling: Arc::clone(&pulling),
                        prepared: record.sourced.is_some(),
                        words: words(&self.deploys, id),
                    });
                }
                if matches!(step, Step::StartContainer { .. }) {
                    needs.place = self.facts.as_ref().map(|f| place(&self.workspaces, f, record));
                    starts = needs.place.as_ref().map(|p| p.quota);
                    // What is left of an earlier run is not of this one.
                    if live.life.is_up() {
                        live.run_ended();
                    }
                    live.container.generation = self.tools.links.renew(id);
                    live.agent = Agent::Down { since: now };
                    live.proof.settle();
                }
            }
        }
        let op = self.tools.clone().step(step.clone(), needs);
        let handle = self.spawn(Op::Step(step.clone()), op);
        if let Some(live) = step.instance().and_then(|id| self.lives.get_mut(id)) {
            live.work = Work::Step(StepInFlight {
                touches: !matches!(
                    step,
                    Step::OpenLink { .. } | Step::CloseLink { .. } | Step::SetCpu { .. }
                ),
                starts,
                pulling,
                handle,
            });
        }
    }

    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Step(step, Ok(made)) => self.on_made(&step, made),
            Done::Step(step, Err(trouble)) => self.on_trouble(&step, trouble),
            Done::Listed(began, result) => self.on_listed(began, result),
            Done::ExitReport(id, why) => {
                if let Some(live) = self.lives.get_mut(&id) {
                    live.work = Work::None;
                    // Stopped, removed or recreated meanwhile: then it is no death any more.
                    if live.life.is_up() {
                        self.on_death(&id, &why);
                    }
                }
            }
            Done::Held(workspace, quota, result) => self.on_held(&workspace, quota, result),
            Done::Probed(id, answer) => self.on_probed(&id, answer),
            Done::Ordered(id, answer) => self.on_ordered(&id, answer),
            Done::Proved(id, generation, pid) => self.on_proved(&id, generation, pid),
            Done::Reported(what, id, kept) => self.on_reported(what, &id, kept),
            Done::Unordered(id, why) => {
                if let Some(live) = self.lives.get_mut(&id) {
                    live.order.answered();
                }
                self.fail(&id, &why);
            }
        }
    }

    /// A step that was broken off: what it left is found by a listing.
    pub(super) fn on_broken_off(&mut self, step: &Step) {
        self.list_at = self.list_at.min(self.now());
        if let Some(id) = step.instance().cloned() {
            self.step_over(&id);
        }
    }

    pub(super) fn step_over(&mut self, id: &InstanceId) {
        let now = self.now();
        self.steps_done += 1;
        if let Some(live) = self.lives.get_mut(id) {
            let work = std::mem::take(&mut live.work);
            if work.touches() {
                live.listing.after = self.steps_done;
            }
            let held = work.quota();
            if std::mem::take(&mut live.listing.doubted) {
                self.list_at = self.list_at.min(now + 50);
            }
            if let (Some(held), Some(record)) = (held, self.instances.get(id)) {
                let workspace = record.workspace.clone();
                self.hold_anew(&workspace, held);
            }
        }
    }

    /// Notes what a step did, so that the next can be planned without asking Docker.
    fn on_made(&mut self, step: &Step, made: Made) {
        let now = self.now();
        self.patch(step, &made);
        let Some(id) = step.instance().cloned() else { return };
        self.step_over(&id);
        let Some(live) = self.lives.get_mut(&id) else { return };
        live.retry.went_well();
        let mut ended = false;
        match (step, made) {
            (Step::Prepare { .. }, Made::Prepared(prepared)) => return self.on_prepared(&id, *prepared),
            (Step::OpenLink { .. }, Made::Socket(dir)) => {
                live.socket = Socket::Open(dir);
                live.agent.awaited(now);
            }
            (Step::CloseLink { .. }, _) => {
                live.socket = Socket::Closed;
                live.agent = Agent::Down { since: now };
            }
            (Step::CreateContainer { id }, _) => {
                let record = self.instances.get(id);
                let start =
                    |(f, r): (&BoxFacts, &Arc<InstanceRecord>)| f.start_cpus(r.size, &quota_of(&self.workspaces, f, r));
                live.container.cpu = self.facts.as_ref().zip(record).map(start);
            }
            (Step::SetCpu { nano_cpus, .. }, _) => {
                live.container.cpu = Some(*nano_cpus);
                if live.life.is_ready() {
                    live.reason = None;
                }
            }
            (Step::StartContainer { container, .. }, made) => {
                if !live.life.is_up() {
                    live.run_began(now);
                }
                if let Made::Started(Some(pid)) = made {
                    live.proof.settle();
                    self.tools.links.prove(&id, pid);
                }
                self.follow_server(&id, &container.clone());
                return;
            }
            (Step::StopContainer { .. }, _) => ended = true,
            (Step::RemoveContainer { .. }, _) => {
                live.container.rebuild = false;
                live.container.cpu = None;
                ended = true;
            }
            _ => {}
        }
        if ended {
            match live.life.kicked().map(str::to_owned) {
                Some(why) => self.on_death(&id, &why),
                None => live.run_ended(),
            }
        }
    }

    /// What a listing would now show.
    fn patch(&mut self, step: &Step, made: &Made) {
        let owner = |id: &InstanceId| Owner {
            box_id: self.tools.box_id.to_string(),
            instance: id.to_string(),
        };
        let name = |id: &InstanceId| resource_name(&self.tools.box_id, id);
        let Some(seen) = &mut self.observed else { return };
        match step {
            Step::CreateNetwork { id } => drop(seen.networks.insert(name(id), owner(id))),
            Step::CreateContainer { id } => {
                let Made::Container(container, spec) = made else { return };
                if self.instances.get(id).is_some_and(|r| r.spec.volume.is_some()) {
                    seen.volumes.insert(name(id), owner(id));
                }
                let new = SeenContainer {
                    owner: owner(id),
                    spec: spec.clone(),
                    run: Run::Created,
                };
                seen.containers.insert(container.clone(), new);
            }
            Step::StartContainer { container, .. } => set_run(seen, container, Run::Running),
            Step::StopContainer { container, .. } => set_run(seen, container, Run::Exited),
            Step::RemoveContainer { container, .. } => drop(seen.containers.remove(container)),
            Step::RemoveNetwork { network, .. } => drop(seen.networks.remove(network)),
            Step::RemoveVolume { volume, .. } => drop(seen.volumes.remove(volume)),
            Step::RemoveOrphan { what } => {
                match what {
                    Orphan::Container(c) => drop(seen.containers.remove(c)),
                    Orphan::Network(n) => drop(seen.networks.remove(n)),
                    Orphan::Volume(v) => drop(seen.volumes.remove(v)),
                }
                self.orphans.remove(what);
            }
            Step::Prepare { .. }
            | Step::OpenLink { .. }
            | Step::CloseLink { .. }
            | Step::SetCpu { .. }
            | Step::Forget { .. } => {}
        }
    }

    fn on_trouble(&mut self, step: &Step, trouble: Trouble) {
        let now = self.now();
        let trouble = match trouble {
            Trouble::Engine(e @ EngineError::NoSubnet { .. }) => self.without_subnet(&e),
            other => other,
        };
        let level = match trouble {
            Trouble::Waits(_) => log::Level::Info,
            _ => log::Level::Warn,
        };
        log::log!(level, "{step}: {trouble}");
        // It may have been done all the same, or something is not as it was shown.
        self.list_at = self.list_at.min(now);
        let Some(id) = step.instance().cloned() else { return };
        self.step_over(&id);
        let Some(live) = self.lives.get_mut(&id) else { return };
        let starts = matches!(
            step,
            Step::Prepare { .. }
                | Step::OpenLink { .. }
                | Step::CreateNetwork { .. }
                | Step::CreateContainer { .. }
                | Step::StartContainer { .. }
        );
        live.container.rebuild |= matches!(step, Step::StartContainer { .. });
        let boost = match step {
            Step::SetCpu { nano_cpus, .. } if !live.life.is_up() => Some(*nano_cpus),
            _ => None,
        };
        let wanted = self
            .instances
            .get(&id)
            .is_some_and(|r| r.desired == Desired::Running && r.failure.is_none());
        match trouble {
            Trouble::Final(why) => self.fail(&id, &why),
            Trouble::ImageGone => live.container.image_gone = true,
            Trouble::Engine(e) if e.is_away() => {
                live.container.rebuild = false;
                live.retry.later(now);
                live.reason = Some(e.to_string());
            }
            Trouble::Waits(why) => {
                live.container.rebuild = false;
                live.retry.later(now);
                live.reason = Some(why);
            }
            // It starts with what it has: slower, but it starts. Known is then only what it should have.
            _ if boost.is_some() => live.container.cpu = boost,
            other if starts && wanted => self.on_death(&id, &other.to_string()),
            other => {
                live.retry.later(now);
                live.reason = Some(format!("{other}; to be tried again"));
            }
        }
    }

    /// No subnet is left: one comes by itself only where a network is about to go.
    fn without_subnet(&self, e: &EngineError) -> Trouble {
        let networks = self.observed.iter().flat_map(|seen| seen.networks.values());
        let mut ours = networks.filter(|o| o.box_id == self.tools.box_id.as_str());
        let stays = |o: &Owner| {
            let record = self.instances.get(o.instance.as_str());
            record.is_some_and(|r| r.desired == Desired::Running && r.failure.is_none())
        };
        if ours.all(stays) {
            return Trouble::Final(format!("{e}, then `berth start` the instance"));
        }
        Trouble::Waits(e.to_string())
    }

    /// Whether the agent on the link is the one of the container that shall run, so that it may be told secrets: that
    /// container was seen to run, or its start is in flight and nothing else of the instance runs.
    pub(super) fn may_order(&self, id: &InstanceId) -> bool {
        let (Some(record), Some(live)) = (self.instances.get(id), self.lives.get(id)) else {
            return false;
        };
        live.work.starts() || self.container_of(record).is_some_and(|(_, c)| c.run == Run::Running)
    }

    /// Hands the agent its start order.
    pub(super) fn hand_over(&mut self, id: InstanceId) {
        let Some(record) = self.instances.get(&id) else { return };
        let opened: Result<BTreeMap<String, Secret>, SecretError> = record
            .env
            .iter()
            .map(|(name, sealed)| Ok((name.clone(), self.key.open(&id, name, sealed)?)))
            .collect();
        match opened {
            Ok(env) => {
                let mut order = start_order(&record.spec, record.spec_hash.clone(), env, self.limits.max_message);
                order.revision = record.marks.revision;
                let op = self.tools.clone().order(id.clone(), order);
                self.spawn(Op::Order(id), op);
            }
            Err(e) => {
                let op = Op::Order(id.clone());
                self.spawn(op, async move { Done::Unordered(id, e.to_string()) });
            }
        }
    }
}

/// What the instance's workspace may use on this box.
pub(super) fn quota_of(all: &Workspaces, facts: &BoxFacts, record: &InstanceRecord) -> WorkspaceQuota {
    all.quota(&record.workspace, facts.cpus, facts.memory)
}

/// Where the containers of the instance's workspace run.
pub(super) fn place(all: &Workspaces, facts: &BoxFacts, record: &InstanceRecord) -> Place {
    Place {
        cgroup: cgroup(facts, record),
        quota: quota_of(all, facts, record),
        systemd: facts.systemd_cgroups,
    }
}

/// The cgroup of the instance's workspace.
pub(super) fn cgroup(facts: &BoxFacts, record: &InstanceRecord) -> String {
    cgroup_parent(&facts.box_id, record.workspace.as_str(), facts.systemd_cgroups)
}

fn set_run(seen: &mut crate::plan::Observed, container: &str, run: Run) {
    if let Some(c) = seen.containers.get_mut(container) {
        c.run = run;
    }
}
