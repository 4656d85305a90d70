//! F1: from what shall be and what was seen to the next steps. [`plan`] is pure: the same inputs give the same steps, in
//! the same order, and a step never touches what is not ours (its label names another box, or none).
//!
//! It gives at most one step for each instance: the caller does it, notes what came of it, and plans again. Every
//! intermediate state is one that a plan starts from, so that a crash between two steps needs no memory of them.
//!
//! ```text
//! running:  (wrong or surplus container: stop, remove) -> prepare -> open link -> network -> create
//!           -> CPU of the start -> start -> (ready, or long enough at it) CPU of the size
//! stopped:  stop -> close link -> remove network            (failed: the same; the container stays, for its logs)
//! removed:  remove container -> network -> volume -> close link -> forget (record and tokens)
//! no record: remove container, network, volume
//! ```

pub mod admit;
mod credentials;
pub mod exchange;
pub mod image;
pub mod life;
pub mod order;
pub mod people;
pub mod quota;
pub mod restart;
pub mod room;
pub mod sign_in;
pub mod sourced;
pub mod spec;
pub mod subnet;
pub mod trial;
pub mod workspace;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::model::{BoxId, Desired, InstanceId};

/// Milliseconds since the supervisor started.
pub type Millis = u64;

/// What shall be, for one instance, and what the reconciler knows beside Docker's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    pub desired: Desired,
    /// The label `berth.spec` that its container shall carry.
    pub spec: String,
    /// Whether it has a network of its own.
    pub network: bool,
    /// Its package is not installed, or its image not fetched.
    pub unprepared: bool,
    /// Given up: nothing of it shall run until somebody starts it again.
    pub failed: bool,
    /// Not to be created or started before this moment.
    pub hold_until: Millis,
    /// The running container shall be stopped and started again: it is unhealthy, or its link is lost.
    pub kick: bool,
    /// The container there is cannot be started again; make it anew.
    pub rebuild: bool,
    pub link: LinkSeen,
    pub cpu: Cpu,
    /// A step of it is in flight: plan nothing.
    pub busy: bool,
}

/// How much CPU its container gets, in billionths of a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cpu {
    /// While it starts.
    pub start: i64,
    /// From then on: what its size allows.
    pub size: i64,
    /// What it has now; None where that is not known.
    pub now: Option<i64>,
    /// It is ready, or has had its time to start.
    pub settled: bool,
}

/// Whether the supervisor listens on the instance's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkSeen {
    /// Not looked at since the supervisor started; a socket of an earlier run may be there.
    Unknown,
    Open,
    Closed,
}

/// What Docker showed. Everything that may be ours, whoever's it turns out to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// By container id.
    pub containers: BTreeMap<String, SeenContainer>,
    /// By name.
    pub networks: BTreeMap<String, Owner>,
    /// By name.
    pub volumes: BTreeMap<String, Owner>,
    /// Where volumes are held to a size.
    pub disk: Option<room::Disk>,
}

/// Whose something is, by its labels `berth.box` and `berth.instance`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Owner {
    pub box_id: String,
    pub instance: String,
}

/// A container as the list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenContainer {
    pub owner: Owner,
    /// The label `berth.spec`.
    pub spec: String,
    pub run: Run,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Run {
    Running,
    Paused,
    Exited,
    Created,
    /// Dead or being removed.
    Dead,
}

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Install its package, or fetch its image.
    Prepare {
        id: InstanceId,
    },
    OpenLink {
        id: InstanceId,
    },
    CloseLink {
        id: InstanceId,
    },
    CreateNetwork {
        id: InstanceId,
    },
    CreateContainer {
        id: InstanceId,
    },
    StartContainer {
        id: InstanceId,
        container: String,
    },
    /// Gives a container so much CPU, in billionths of one.
    SetCpu {
        id: InstanceId,
        container: String,
        nano_cpus: i64,
    },
    StopContainer {
        id: InstanceId,
        container: String,
    },
    RemoveContainer {
        id: InstanceId,
        container: String,
    },
    RemoveNetwork {
        id: InstanceId,
        network: String,
    },
    RemoveVolume {
        id: InstanceId,
        volume: String,
    },
    /// Everything of it is gone: its record and tokens go.
    Forget {
        id: InstanceId,
    },
    /// Ours by its label, but no record knows it.
    RemoveOrphan {
        what: Orphan,
    },
}

/// Something that carries our box's label and belongs to no instance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Orphan {
    Container(String),
    Network(String),
    Volume(String),
}

impl Step {
    /// The instance that the step is for.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Step::Prepare { id }
            | Step::OpenLink { id }
            | Step::CloseLink { id }
            | Step::CreateNetwork { id }
            | Step::CreateContainer { id }
            | Step::StartContainer { id, .. }
            | Step::SetCpu { id, .. }
            | Step::StopContainer { id, .. }
            | Step::RemoveContainer { id, .. }
            | Step::RemoveNetwork { id, .. }
            | Step::RemoveVolume { id, .. }
            | Step::Forget { id } => Some(id),
            Step::RemoveOrphan { .. } => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Prepare { id } => write!(f, "{id}: prepare"),
            Step::OpenLink { id } => write!(f, "{id}: open link"),
            Step::CloseLink { id } => write!(f, "{id}: close link"),
            Step::CreateNetwork { id } => write!(f, "{id}: create network"),
            Step::CreateContainer { id } => write!(f, "{id}: create container"),
            Step::StartContainer { id, container } => write!(f, "{id}: start container {container}"),
            Step::SetCpu {
                id,
                container,
                nano_cpus,
            } => write!(f, "{id}: give container {container} {} mCPU", nano_cpus / 1_000_000),
            Step::StopContainer { id, container } => write!(f, "{id}: stop container {container}"),
            Step::RemoveContainer { id, container } => write!(f, "{id}: remove container {container}"),
            Step::RemoveNetwork { id, network } => write!(f, "{id}: remove network {network}"),
            Step::RemoveVolume { id, volume } => write!(f, "{id}: remove volume {volume}"),
            Step::Forget { id } => write!(f, "{id}: forget"),
            Step::RemoveOrphan { what } => match what {
                Orphan::Container(c) => write!(f, "orphan: remove container {c}"),
                Orphan::Network(n) => write!(f, "orphan: remove network {n}"),
                Orphan::Volume(v) => write!(f, "orphan: remove volume {v}"),
            },
        }
    }
}

/// The next steps: removals of what nobody owns first, then one for each instance that needs one, by id.
pub fn plan(
    box_id: &BoxId,
    wants: &BTreeMap<InstanceId, Want>,
    seen: &Observed,
    orphans_in_flight: &BTreeSet<Orphan>,
    now: Millis,
) -> Vec<Step> {
    let ours = |owner: &Owner| owner.box_id == box_id.as_str();
    let orphan = |owner: &Owner| ours(owner) && !wants.contains_key(owner.instance.as_str());
    let containers = seen.containers.iter();
    let mut gone: Vec<Orphan> = containers
        .filter(|(_, c)| orphan(&c.owner))
        .map(|(id, _)| Orphan::Container(id.clone()))
        .collect();
    // A network or volume in use cannot go: it waits until the containers are gone.
    if gone.is_empty() {
        let networks = seen.networks.iter().filter(|(_, o)| orphan(o));
        gone.extend(networks.map(|(name, _)| Orphan::Network(name.clone())));
        let volumes = seen.volumes.iter().filter(|(_, o)| orphan(o));
        gone.extend(volumes.map(|(name, _)| Orphan::Volume(name.clone())));
    }
    gone.retain(|o| !orphans_in_flight.contains(o));
    let mut steps: Vec<Step> = gone.into_iter().map(|what| Step::RemoveOrphan { what }).collect();

    let mut mine: BTreeMap<&str, Vec<(&String, &SeenContainer)>> = BTreeMap::new();
    for (id, c) in seen.containers.iter().filter(|(_, c)| ours(&c.owner)) {
        mine.entry(c.owner.instance.as_str()).or_default().push((id, c));
    }
    let named = |all: &BTreeMap<String, Owner>| -> BTreeMap<String, String> {
        let own = all.iter().filter(|(_, o)| ours(o));
        own.map(|(name, o)| (o.instance.clone(), name.clone())).collect()
    };
    let (networks, volumes) = (named(&seen.networks), named(&seen.volumes));
    for (id, want) in wants.iter().filter(|(_, w)| !w.busy) {
        let view = Mine {
            id,
            want,
            containers: mine.remove(id.as_str()).unwrap_or_default(),
            network: networks.get(id.as_str()),
            volume: volumes.get(id.as_str()),
        };
        steps.extend(view.next(now));
    }
    steps
}

/// All that concerns one instance.
struct Mine<'a> {
    id: &'a InstanceId,
    want: &'a Want,
    containers: Vec<(&'a String, &'a SeenContainer)>,
    network: Option<&'a String>,
    volume: Option<&'a String>,
}

impl Mine<'_> {
    fn next(mut self, now: Millis) -> Option<Step> {
        match self.want.desired {
            Desired::Removed => Some(self.remove()),
            Desired::Stopped => self.rest(),
            Desired::Running if self.want.failed => self.rest(),
            Desired::Running => self.run(now),
        }
    }

    fn remove(&self) -> Step {
        let id = self.id.clone();
        if let Some((container, _)) = self.containers.first() {
            return self.remove_container(container);
        }
        match (self.network, self.volume) {
            (Some(network), _) => Step::RemoveNetwork {
                id,
                network: network.clone(),
            },
            (None, Some(volume)) => Step::RemoveVolume {
                id,
                volume: volume.clone(),
            },
            (None, None) if self.want.link != LinkSeen::Closed => Step::CloseLink { id },
            (None, None) => Step::Forget { id },
        }
    }

    fn rest(&self) -> Option<Step> {
        for (container, c) in &self.containers {
            match c.run {
                Run::Running => return Some(self.stop(container)),
                Run::Paused | Run::Dead => return Some(self.remove_container(container)),
                Run::Exited | Run::Created => {}
            }
        }
        let id = self.id.clone();
        if self.want.link != LinkSeen::Closed {
            return Some(Step::CloseLink { id });
        }
        // Its subnet is for those that run. A container that is left cannot be started without: a new one is made then.
        let network = self.network?.clone();
        Some(Step::RemoveNetwork { id, network })
    }

    fn run(&mut self, now: Millis) -> Option<Step> {
        // The one to keep: of the right spec, and rather running than not.
        self.containers
            .sort_by_key(|(id, c)| (c.spec != self.want.spec, c.run, (*id).clone()));
        if let Some((container, _)) = self.containers.get(1) {
            return Some(self.remove_container(container));
        }
        let id = self.id.clone();
        let Some((container, c)) = self.containers.first().copied() else {
            return self.make(now);
        };
        if c.spec != self.want.spec {
            return Some(match c.run {
                Run::Running => self.stop(container),
                _ => self.remove_container(container),
            });
        }
        match c.run {
            Run::Running if self.want.kick => Some(self.stop(container)),
            Run::Running if self.want.link != LinkSeen::Open => Some(Step::OpenLink { id }),
            Run::Running => match self.network {
                Some(network) if !self.want.network => Some(Step::RemoveNetwork {
                    id,
                    network: network.clone(),
                }),
                _ if self.want.cpu.settled => self.cpu(container, self.want.cpu.size),
                _ => None,
            },
            Run::Dead => Some(self.remove_container(container)),
            Run::Paused if self.want.kick => Some(self.remove_container(container)),
            Run::Paused => None,
            Run::Exited | Run::Created => {
                if self.want.rebuild || (self.want.network && self.network.is_none()) {
                    return Some(self.remove_container(container));
                }
                if self.want.link != LinkSeen::Open {
                    return Some(Step::OpenLink { id });
                }
                if now < self.want.hold_until {
                    return None;
                }
                let start = Step::StartContainer {
                    id,
                    container: container.clone(),
                };
                self.cpu(container, self.want.cpu.start).or(Some(start))
            }
        }
    }

    fn make(&self, now: Millis) -> Option<Step> {
        let id = self.id.clone();
        if self.want.unprepared {
            return (now >= self.want.hold_until).then_some(Step::Prepare { id });
        }
        if self.want.link != LinkSeen::Open {
            return Some(Step::OpenLink { id });
        }
        if now < self.want.hold_until {
            return None;
        }
        Some(if self.want.network && self.network.is_none() {
            Step::CreateNetwork { id }
        } else {
            Step::CreateContainer { id }
        })
    }

    /// The step that gives it so much CPU, unless it is known to have that.
    fn cpu(&self, container: &str, nano_cpus: i64) -> Option<Step> {
        (self.want.cpu.now != Some(nano_cpus)).then(|| Step::SetCpu {
            id: self.id.clone(),
            container: container.to_owned(),
            nano_cpus,
        })
    }

    fn stop(&self, container: &str) -> Step {
        Step::StopContainer {
            id: self.id.clone(),
            container: container.to_owned(),
        }
    }

    fn remove_container(&self, container: &str) -> Step {
        Step::RemoveContainer {
            id: self.id.clone(),
            container: container.to_owned(),
        }
    }
}

#[cfg(test)]
mod admit_tests;
#[cfg(test)]
mod people_tests;
#[cfg(test)]
mod tests;
