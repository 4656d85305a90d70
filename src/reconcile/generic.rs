//! What instances of generic types need beside the rest: their preparation, their trials, and (as every instance) the
//! log of their deploy.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::sync::oneshot;

use super::{
    ops::{Done, Made, Trouble, Words, is_coming},
    ports::{Preparation, Unprepared},
    task::{Op, Task},
};
use crate::{
    deploy_log::Deploys,
    docker::Engine,
    model::{Action, Desired, InstanceId, Principal, Refusal, Resolved, Secret},
    plan::{Millis, Step, generic::concrete, order::spec_hash_of, trial::TRIAL_SECONDS},
    policy,
    record::InstanceRecord,
    store::Change,
};

/// How often trials are looked at.
const TRIALS_EVERY: Millis = 5_000;
/// What a server said before it was healthy arrives at most so much later.
const LAST_LINES: Duration = Duration::from_millis(60);
/// A longer line of a server is cut.
const LINE: usize = 4096;

/// Where the words of an instance's deploy go.
pub(super) fn words(deploys: &Deploys, id: &InstanceId) -> Words {
    let (deploys, id) = (deploys.clone(), id.clone());
    Arc::new(move |line: &str| deploys.note(&id, line))
}

impl Task {
    pub(super) fn begin_prepare(&mut self, id: &InstanceId) {
        let (Some(record), Some(live)) = (self.instances.get(id), self.lives.get_mut(id)) else {
            return;
        };
        let Some(generic) = &record.generic else { return };
        // A package is installed by its type as it is now: the record's own image may be the one that was lost.
        let template = self.catalog.types.get(record.type_name()).unwrap_or(&record.spec);
        let what = Preparation {
            source: generic.source.clone(),
            runtime: template.image.reference.clone(),
            builder: template.builder.clone().unwrap_or_default(),
            before: generic.resolved.clone(),
            newest: generic.trial_of.is_some(),
        };
        self.deploys
            .note(id, &format!("preparing {}", generic.source.summary()));
        let (installer, words) = (self.installer.clone(), words(&self.deploys, id));
        let step = Step::Prepare { id: id.clone() };
        live.busy = true;
        live.pulling.store(true, Ordering::Relaxed);
        let done = step.clone();
        let op = async move {
            if let Some(coming) = is_coming([what.runtime.as_str(), what.builder.as_str()]) {
                return Done::Step(done, Err(coming));
            }
            let result = match installer.prepare(what, words).await {
                Ok(resolved) => Ok(Made::Prepared(Box::new(resolved))),
                Err(Unprepared::Final(why)) => Err(Trouble::Final(why)),
                Err(Unprepared::Engine(e)) => Err(Trouble::Engine(e)),
            };
            Done::Step(done, result)
        };
        let handle = self.spawn(Op::Step(step), op);
        if let Some(live) = self.lives.get_mut(id) {
            live.making = Some(handle);
        }
    }

    /// It is known what shall run, and it is there: kept before anything is made of it.
    pub(super) async fn on_prepared(&mut self, id: &InstanceId, resolved: Resolved) {
        let Some(record) = self.instances.get(id) else { return };
        if let Some(live) = self.lives.get_mut(id) {
            live.image_gone = false;
        }
        let mut record = record.clone();
        let Some(generic) = &mut record.generic else { return };
        generic.resolved = Some(resolved);
        record.spec = Arc::new(concrete(&record.spec, generic));
        record.spec_hash = spec_hash_of(&record);
        let kept = self
            .keeper
            .commit(vec![Change::PutInstance(Box::new(record.clone()))])
            .await;
        if let Err(e) = kept {
            let now = self.now();
            if let Some(live) = self.lives.get_mut(id) {
                live.tries += 1;
                live.pause_until = now + crate::plan::restart::engine_wait(live.tries);
                live.reason = Some(format!(
                    "the store could not keep what was installed ({e}); to be tried again"
                ));
            }
            return;
        }
        self.instances.insert(id.clone(), record);
        self.keep_images();
    }

    /// Tells the installer which of its images are in use.
    pub(super) fn keep_images(&self) {
        let used: BTreeSet<String> = self
            .instances
            .values()
            .filter_map(|r| r.built_image().map(str::to_owned))
            .collect();
        self.installer.keep(used);
    }

    /// The values of another instance, for its trial, and those given.
    pub(super) fn with_env_of(
        &self,
        mut env: BTreeMap<String, Secret>,
        of: Option<InstanceId>,
    ) -> Result<BTreeMap<String, Secret>, Refusal> {
        let Some(original) = of.and_then(|id| self.instances.get(&id)) else {
            return Ok(env);
        };
        for (name, sealed) in &original.env {
            let value = self.key.open(&original.id, name, sealed);
            let value = value.map_err(Refusal::fault)?;
            env.entry(name.clone()).or_insert(value);
        }
        Ok(env)
    }

    /// Removes trials whose time is over, and those whose instance is gone.
    pub(super) async fn end_trials(&mut self) {
        self.trials_at = self.now() + TRIALS_EVERY;
        let oldest = jiff::Timestamp::now().as_second() - TRIAL_SECONDS;
        let over = |r: &&InstanceRecord| {
            let of = r.generic.as_ref().and_then(|g| g.trial_of.as_ref());
            let gone = |of: &InstanceId| self.instances.get(of).is_none_or(|o| o.desired == Desired::Removed);
            r.desired != Desired::Removed && of.is_some_and(|of| gone(of) || r.created_at.as_second() < oldest)
        };
        let ids: Vec<InstanceId> = self.instances.values().filter(over).map(|r| r.id.clone()).collect();
        for id in ids {
            log::info!(instance = id.as_str(); "the trial is over");
            let removed = match policy::sign(Principal::berth(), Action::Remove { id }) {
                Ok(signed) => self.accept(signed).await.map(|_| ()),
                Err(denial) => Err(denial.into()),
            };
            if let Err(e) = removed {
                log::warn!("a trial is not removed yet: {e}");
            }
        }
    }

    pub(super) fn begin_deploy(&self, record: &InstanceRecord, verb: &str) {
        let what = record
            .generic
            .as_ref()
            .map(|g| format!(" {}", g.source.summary()))
            .unwrap_or_default();
        let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%SZ");
        let line = format!(
            "{verb} {}{what} as {} ({}), {now}",
            record.type_name(),
            record.name,
            record.id
        );
        self.deploys.begin(&record.id, &line);
    }

    /// What a step means to somebody who watches the deploy.
    pub(super) fn tell_step(&self, step: &Step) {
        let (id, line) = match step {
            Step::CreateNetwork { id } => (id, "preparing: a network of its own"),
            Step::CreateContainer { id } => (id, "preparing: the container"),
            Step::StartContainer { id, .. } => (id, "starting"),
            _ => return,
        };
        let remote = self
            .instances
            .get(id)
            .is_some_and(|r| r.spec.kind == crate::catalog::Kind::Remote);
        if !remote {
            self.deploys.note(id, line);
        } else if matches!(step, Step::StartContainer { .. }) {
            self.deploys.note(id, "reaching the server");
        }
    }

    /// Copies what the container says into the deploy's log, until the server is healthy or the container ends.
    pub(super) fn follow_server(&mut self, id: &InstanceId, container: &str) {
        if !self.deploys.goes_on(id) {
            return;
        }
        let Some(live) = self.lives.get_mut(id) else { return };
        let seen = match &live.followed {
            Some((same, seen)) if same == container => seen.clone(),
            _ => Arc::new(AtomicU64::new(0)),
        };
        live.followed = Some((container.to_owned(), seen.clone()));
        let (ready, healthy) = oneshot::channel();
        live.follower = Some(ready);
        let (engine, deploys) = (self.tools.engine.clone(), self.deploys.clone());
        let (id, container) = (id.clone(), container.to_owned());
        // Ends with the deploy, or with the container.
        tokio::spawn(async move {
            let copied = copy(&*engine, &deploys, &id, &container, &seen);
            let mut copied = std::pin::pin!(copied);
            let well = tokio::select! {
                () = &mut copied => return,
                well = healthy => well.is_ok(),
            };
            if well {
                let _ = tokio::time::timeout(LAST_LINES, copied).await;
                deploys.end(&id, "healthy");
            } else {
                copied.await;
            }
        });
    }

    /// The server of a deploy is healthy.
    pub(super) fn deployed(&mut self, id: &InstanceId) {
        let follower = self.lives.get_mut(id).and_then(|l| l.follower.take());
        if follower.is_none_or(|f| f.send(()).is_err()) {
            self.deploys.end(id, "healthy");
        }
    }

    /// What the services of a starting instance are at.
    pub(super) fn tell_services(&self, id: &InstanceId, before: &[(String, bool)], now: &[(String, bool)]) {
        for (name, ready) in now {
            let was = before.iter().any(|(n, r)| n == name && *r);
            if *ready && !was {
                self.deploys.note(id, &format!("service {name} is ready"));
            }
        }
    }
}

async fn copy(engine: &dyn Engine, deploys: &Deploys, id: &InstanceId, container: &str, seen: &AtomicU64) {
    let mut log = engine.logs(container, true, None);
    let skip = seen.load(Ordering::Relaxed);
    let (mut line, mut n) = (BytesMut::new(), 0);
    while let Some(Ok(chunk)) = log.next().await {
        line.extend_from_slice(&chunk);
        while let Some(end) = memchr::memchr(b'\n', &line) {
            let text = line.split_to(end + 1);
            n += 1;
            if n > skip {
                seen.store(n, Ordering::Relaxed);
                deploys.note(id, String::from_utf8_lossy(&text).trim_end());
            }
        }
        if line.len() > LINE {
            line.truncate(LINE);
        }
    }
}
