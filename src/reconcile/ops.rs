//! Slow things, each a task of its own in one set: the steps of a plan, listings, probes, the look at a death. They
//! report to the reconciler and change nothing of its state themselves.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;

use super::ports::{Links, Quotas};
use crate::{
    docker::{Engine, EngineError, EngineInfo, Exit, NO_PROCESS},
    machine,
    model::{AgentState, AgentStatus, BoxId, InstanceId, Resolved, Source, StartOrder, WorkspaceName},
    plan::{
        Observed, Orphan, Step, image,
        quota::WorkspaceQuota,
        spec::{ContainerSpec, LABEL_SPEC, Traffic, bridge_name, owner_labels, resource_name},
    },
};

/// Seconds between SIGTERM and SIGKILL.
const GRACE: i32 = 10;
/// Opening or closing a socket takes no longer.
const SOCKET: Duration = Duration::from_secs(5);
/// Handing over a start order takes no longer.
const ORDER: Duration = Duration::from_secs(10);
/// The part of a dead server's log that goes into the reason.
const WORDS_LINES: u32 = 20;
const WORDS_BYTES: usize = 2048;

/// What came of something slow.
#[derive(Debug)]
pub(super) enum Done {
    Step(Step, Result<Made, Trouble>),
    Listed(u64, Result<(Observed, Option<EngineInfo>), EngineError>),
    /// Why a container's run ended, in words.
    ExitReport(InstanceId, String),
    /// Whether a workspace is held to this quota.
    Held(WorkspaceName, WorkspaceQuota, Result<(), String>),
    Probed(InstanceId, Result<(), String>),
    Ordered(InstanceId, Result<(), String>),
    /// Process 1 of the container that ran in this generation.
    Proved(InstanceId, u64, Result<Option<u32>, EngineError>),
    /// Whether the ledger kept what it was told of an instance.
    Reported(Told, InstanceId, Result<(), String>),
    /// It cannot be given its start order, and waiting does not mend it.
    Unordered(InstanceId, String),
}

/// What the ledger was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Prepared,
    GivenUp,
    Gone,
}

/// What a step made that later steps need.
#[derive(Debug)]
pub(super) enum Made {
    Nothing,
    Socket(PathBuf),
    /// Its id, and the spec that it carries.
    Container(String, String),
    /// Its process 1, where the engine could tell.
    Started(Option<u32>),
    /// What was installed or fetched.
    Prepared(Box<Prepared>),
}

/// What was installed or fetched: for what, in place of what, and what it came to.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) source: Source,
    pub(super) before: Option<Resolved>,
    pub(super) resolved: Resolved,
}

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum Trouble {
    Engine(EngineError),
    /// Waiting cannot mend it.
    Final(String),
    /// It comes by itself: to be tried again, and nobody's fault.
    Waits(String),
    /// The image that was made for it is gone: it is to be made again.
    ImageGone,
    Other(String),
}

impl From<EngineError> for Trouble {
    fn from(e: EngineError) -> Self {
        Trouble::Engine(e)
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Engine(e) => e.fmt(f),
            Trouble::ImageGone => f.write_str("the image that was made for it is gone; it is made again"),
            Trouble::Final(why) | Trouble::Waits(why) | Trouble::Other(why) => f.write_str(why),
        }
    }
}

/// What a container is made from.
pub(super) struct NewContainer {
    pub(super) spec: ContainerSpec,
    /// The image by the name that somebody wrote: the type's, the one asked for, or the one that a package runs on.
    pub(super) reference: String,
    /// Set while the image is being fetched.
    pub(super) pulling: Arc<AtomicBool>,
    /// The image was prepared for this instance: it is nowhere to be fetched.
    pub(super) prepared: bool,
    pub(super) words: Words,
}

/// Where a container starts, and what all that run there may use together.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) cgroup: String,
    pub(super) quota: WorkspaceQuota,
    pub(super) systemd: bool,
}

/// What a step needs beside its own words.
#[derive(Default)]
pub(super) struct Needs {
    /// To create a container.
    pub(super) new: Option<NewContainer>,
    /// To start one.
    pub(super) place: Option<Place>,
}
/// Where the deploy's words go.
pub(super) type Words = Arc<dyn Fn(&str) + Send + Sync>;

/// What every operation may use.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) links: Arc<dyn Links>,
    pub(super) quotas: Arc<dyn Quotas>,
    pub(super) box_id: BoxId,
    pub(super) images: Arc<[String]>,
    /// So many steps at the engine at once; past it they wait.
    pub(super) permits: Arc<Semaphore>,
}

impl Tools {
    /// Does a step.
    pub(super) async fn step(self, step: Step, needs: Needs) -> Done {
        let result = self.do_step(&step, needs).await;
        Done::Step(step, result)
    }

    async fn do_step(&self, step: &Step, needs: Needs) -> Result<Made, Trouble> {
        let engine = &self.engine;
        let _permit = match step {
            // Links are not the engine's, making waits for its permit by itself, and stopping is mostly waiting.
            Step::OpenLink { .. }
            | Step::CloseLink { .. }
            | Step::CreateContainer { .. }
            | Step::StopContainer { .. } => None,
            _ => self.permits.acquire().await.ok(),
        };
        match step {
            Step::OpenLink { id } => {
                let opened = tokio::time::timeout(SOCKET, self.links.open(id)).await;
                let opened = opened.map_err(|_| "the socket did not open in time".to_owned());
                let opened = opened.and_then(|done| done.map_err(|e| e.to_string()));
                return opened.map(Made::Socket).map_err(Trouble::Other);
            }
            Step::CloseLink { id } => {
                let closed = tokio::time::timeout(SOCKET, self.links.close(id)).await;
                closed.map_err(|_| Trouble::Other("the socket did not close in time".to_owned()))?;
            }
            Step::CreateNetwork { id } => {
                let name = resource_name(&self.box_id, id);
                let bridge = bridge_name(&self.box_id, Traffic::Instance, &name);
                let labels = owner_labels(&self.box_id, id);
                engine.create_network(&name, &bridge, &labels).await?;
            }
            Step::CreateContainer { .. } => {
                let new = needs.new.ok_or_else(|| Trouble::Other("no specification".to_owned()))?;
                let made = self.create(&new).await?;
                let spec = new.spec.labels.get(LABEL_SPEC).cloned().unwrap_or_default();
                return Ok(Made::Container(made, spec));
            }
            Step::StartContainer { container, .. } => {
                let place = needs.place.ok_or_else(|| Trouble::Other("no cgroup".to_owned()))?;
                let held = self.quotas.hold(&place.cgroup, place.quota, place.systemd).await;
                held.map_err(|e| Trouble::Other(format!("its workspace cannot be held to its quota: {e}")))?;
                engine.start(container).await?;
                // Where it cannot be told now, it is asked for again when the agent waits.
                let pid = engine.pid(container).await.ok().flatten();
                return Ok(Made::Started(pid));
            }
            Step::SetCpu {
                container, nano_cpus, ..
            } => {
                if engine.cpu(container).await? != *nano_cpus {
                    engine.set_cpu(container, *nano_cpus).await?;
                }
            }
            Step::StopContainer { container, .. } => engine.stop(container, GRACE).await?,
            Step::RemoveContainer { container, .. } => engine.remove(container).await?,
            Step::RemoveNetwork { network, .. } => engine.remove_network(network).await?,
            Step::RemoveVolume { volume, .. } => engine.remove_volume(volume).await?,
            Step::RemoveOrphan { what } => match what {
                Orphan::Container(c) => engine.remove(c).await?,
                Orphan::Network(n) => engine.remove_network(n).await?,
                Orphan::Volume(v) => engine.remove_volume(v).await?,
            },
            // Done by the installer, and by the ledger: it is a commit.
            Step::Prepare { .. } | Step::Forget { .. } => {}
        }
        Ok(Made::Nothing)
    }

    /// Creates; an image that is not here is fetched, if it may be ([`image::of_a_type_can_be_fetched`]), and never one that
    /// is.
    async fn create(&self, new: &NewContainer) -> Result<String, Trouble> {
        let (spec, image) = (&new.spec, &new.spec.image);
        // Admission said so already; the patterns may have changed since.
        // A remote server has no image: no container is made.
        if !image.is_empty() {
            image::permitted(&new.reference, &self.images)
                .map_err(|why| Trouble::Final(format!("{why}, then `berth start` the instance")))?;
        }
        match self.create_once(spec).await {
            Err(EngineError::NotFound { why, .. }) if why.to_lowercase().contains("no such image") => {
                if new.prepared {
                    return Err(Trouble::ImageGone);
                }
            }
            other => return Ok(other?),
        }
        let gone = |why: &str| {
            let how = image::HOW_TO_GET;
            Trouble::Final(format!(
                "the image {image} is not on this box{why}; {how}, then `berth start` the instance"
            ))
        };
        if !image::of_a_type_can_be_fetched(image) {
            return Err(match is_coming([image.as_str()]) {
                Some(coming) => coming,
                None => gone(""),
            });
        }
        log::info!(image = image.as_str(); "the image is not on this box: pulling it");
        (new.words)(&format!("preparing: fetching the image {image}"));
        new.pulling.store(true, Ordering::Relaxed);
        let pulled = self.engine.pull(image).await;
        new.pulling.store(false, Ordering::Relaxed);
        match pulled {
            Ok(()) => {}
            Err(e @ EngineError::Unreachable { .. }) => return Err(e.into()),
            Err(e) => return Err(gone(&format!(" and could not be fetched ({e})"))),
        }
        Ok(self.create_once(spec).await?)
    }

    async fn create_once(&self, spec: &ContainerSpec) -> Result<String, EngineError> {
        let _permit = self.permits.acquire().await;
        self.engine.create(spec).await
    }

    /// Lists all that is this box's; describes the engine too where that is asked.
    pub(super) async fn list(self, count: u64, describe: bool) -> Done {
        let all = async {
            let info = match describe {
                true => Some(self.engine.info().await?),
                false => None,
            };
            Ok((self.engine.list(&self.box_id).await?, info))
        };
        Done::Listed(count, all.await)
    }

    /// Holds a workspace to its quota.
    pub(super) async fn hold(self, workspace: WorkspaceName, place: Place) -> Done {
        let held = self.quotas.hold(&place.cgroup, place.quota, place.systemd).await;
        Done::Held(workspace, place.quota, held.map_err(|e| e.to_string()))
    }

    /// Finds out why a container ended.
    pub(super) async fn exit_report(
        self,
        id: InstanceId,
        container: String,
        agent: Option<AgentStatus>,
        memory: i64,
    ) -> Done {
        let (exit, words) = tokio::join!(
            self.engine.exit(&container),
            self.engine.last_words(&container, WORDS_LINES, WORDS_BYTES)
        );
        let words = match agent {
            Some(AgentStatus {
                state: AgentState::Failed,
                reason: Some(reason),
                ..
            }) => reason,
            _ => words.unwrap_or_default(),
        };
        Done::ExitReport(id, cause(&exit.unwrap_or_default(), words.trim(), memory))
    }

    pub(super) async fn probe(self, id: InstanceId, limit: Duration) -> Done {
        let asked = tokio::time::timeout(limit + Duration::from_millis(500), self.links.health(&id, limit)).await;
        let asked = asked.map_err(|_| format!("no answer within {} ms", limit.as_millis()));
        let answer = asked.and_then(|answer| answer.map_err(|e| e.to_string()));
        Done::Probed(id, answer)
    }

    /// Asks for a container's process 1.
    pub(super) async fn prove(self, id: InstanceId, generation: u64, container: String) -> Done {
        let _permit = self.permits.acquire().await;
        Done::Proved(id, generation, self.engine.pid(&container).await)
    }

    pub(super) async fn order(self, id: InstanceId, order: StartOrder) -> Done {
        let given = tokio::time::timeout(ORDER, self.links.start(&id, &order)).await;
        let given = given.map_err(|_| "the agent did not take the start order in time".to_owned());
        let answer = given.and_then(|answer| answer.map_err(|e| e.to_string()));
        Done::Ordered(id, answer)
    }
}

/// What is said of an image that the box ships and has not loaded yet: it is tried again.
pub(super) fn is_coming<'a>(images: impl IntoIterator<Item = &'a str>) -> Option<Trouble> {
    let coming = machine::images::coming();
    let one = images.into_iter().find(|name| coming.contains(*name))?;
    Some(Trouble::Waits(format!(
        "waiting for its image: {one} is being loaded, as after every new version"
    )))
}

fn cause(exit: &Exit, words: &str, memory: i64) -> String {
    if exit.out_of_memory {
        return format!(
            "it ran out of memory (its size allows {} MiB); remove it and run it with a larger --size",
            memory >> 20
        );
    }
    if exit.code == NO_PROCESS && !words.is_empty() {
        return words.to_owned();
    }
    let mut text = match exit.error.as_str() {
        "" => format!("it exited with status {}", exit.code),
        error => format!("it could not be started: {error}"),
    };
    if !words.is_empty() {
        text.push_str(": ");
        text.push_str(words);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_told_with_the_servers_own_words() {
        let exit = |code, out_of_memory, error: &str| Exit {
            code,
            out_of_memory,
            error: error.into(),
        };
        assert_eq!(
            cause(&exit(1, false, ""), "Error: no API key", 0),
            "it exited with status 1: Error: no API key"
        );
        assert_eq!(cause(&exit(0, false, ""), "", 0), "it exited with status 0");
        assert!(cause(&exit(137, true, ""), "x", 256 << 20).contains("256 MiB"));
        assert!(cause(&exit(127, false, "exec: no such file"), "", 0).contains("no such file"));
    }
}
