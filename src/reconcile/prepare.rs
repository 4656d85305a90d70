//! What instances of generic types need beside the rest: their preparation, and (as every instance) the log of their
//! deploy.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use futures_util::StreamExt;
use tokio::sync::oneshot;

use super::{
    live::{Followed, StepInFlight, Work},
    ops::{Done, Made, Prepared, Trouble, Words, is_coming},
    ports::{Preparation, Unprepared},
    task::{Op, Task},
};
use crate::{
    deploy_log::Deploys,
    docker::Engine,
    model::InstanceId,
    plan::{Step, exchange::Report},
    record::InstanceRecord,
};

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
        let Some(record) = self.instances.get(id) else { return };
        let Some(sourced) = &record.sourced else { return };
        // A package is installed by its type as it is now: the record's own image may be the one that was lost.
        let catalog = self.catalog.load();
        let template = catalog.types.get(record.type_name()).unwrap_or(&record.spec);
        let what = Preparation {
            source: sourced.source.clone(),
            runtime: template.image.reference.clone(),
            builder: template.builder.clone().unwrap_or_default(),
            before: sourced.resolved.clone(),
            newest: sourced.trial_of.is_some(),
        };
        self.deploys
            .note(id, &format!("preparing {}", sourced.source.summary()));
        let (installer, words) = (self.installer.clone(), words(&self.deploys, id));
        let step = Step::Prepare { id: id.clone() };
        let done = step.clone();
        let (source, before) = (what.source.clone(), what.before.clone());
        let op = async move {
            if let Some(coming) = is_coming([what.runtime.as_str(), what.builder.as_str()]) {
                return Done::Step(done, Err(coming));
            }
            let result = match installer.prepare(what, words).await {
                Ok(resolved) => Ok(Made::Prepared(Box::new(Prepared {
                    source,
                    before,
                    resolved,
                }))),
                Err(Unprepared::Final(why)) => Err(Trouble::Final(why)),
                Err(Unprepared::Engine(e)) => Err(Trouble::Engine(e)),
            };
            Done::Step(done, result)
        };
        let handle = self.spawn(Op::Step(step), op);
        if let Some(live) = self.lives.get_mut(id) {
            live.work = Work::Step(StepInFlight {
                touches: false,
                starts: None,
                pulling: Arc::new(AtomicBool::new(true)),
                handle,
            });
        }
    }

    /// It is known what shall run, and it is there: kept before anything is made of it.
    pub(super) fn on_prepared(&mut self, id: &InstanceId, prepared: Prepared) {
        let Prepared {
            source,
            before,
            resolved,
        } = prepared;
        self.report(Report::Prepared {
            id: id.clone(),
            source,
            before: before.map(Box::new),
            resolved: Box::new(resolved),
        });
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

    pub(super) fn begin_deploy(&self, record: &InstanceRecord, verb: &str) {
        let what = record
            .sourced
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
            Some(same) if same.container == container => same.lines.clone(),
            _ => Arc::new(AtomicU64::new(0)),
        };
        let (ready, healthy) = oneshot::channel();
        live.followed = Some(Followed {
            container: container.to_owned(),
            lines: seen.clone(),
            healthy: Some(ready),
        });
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
        let followed = self.lives.get_mut(id).and_then(|l| l.followed.as_mut());
        let healthy = followed.and_then(|f| f.healthy.take());
        if healthy.is_none_or(|h| h.send(()).is_err()) {
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
