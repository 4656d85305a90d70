//! What the reconciler knows of an instance beside its record. Nothing of it is stored: a supervisor that starts anew
//! learns it again from Docker and from the agent. The run of its container is a [`Life`], from which the state that is
//! shown follows; what else goes on around it is an enum each.
//!
//! ```text
//! Socket   Unknown -> Open <-> Closed               its agent dials it
//! Agent    Down <-> Up                              and Order: not due -> due -> in flight (-> due again)
//! Proof    settled -> wanted -> asked (-> wanted)   who is at the socket is the agent, by the engine's word
//! Work     none -> step, or a look or a report -> none
//! ```

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::oneshot, task::AbortHandle};

use crate::{
    model::State,
    plan::{
        LinkSeen, Millis, Run,
        exchange::Asked,
        life::{Context, Life},
        quota::WorkspaceQuota,
        restart::{Restarts, engine_wait},
    },
    record::InstanceRecord,
};

/// Who is at the socket is not asked again sooner.
const PROVE_AGAIN: Millis = 1_000;

#[derive(Debug, Default)]
pub(super) struct Live {
    /// The run of its container.
    pub(super) life: Life,
    pub(super) socket: Socket,
    pub(super) agent: Agent,
    pub(super) proof: Proof,
    pub(super) order: Order,
    pub(super) work: Work,
    pub(super) retry: Retry,
    pub(super) listing: Listing,
    pub(super) container: Container,
    pub(super) restarts: Restarts,
    /// Not to run before this: it died.
    pub(super) hold_until: Millis,
    /// Server processes that the kernel killed for want of memory in earlier runs.
    pub(super) oom_kills: u32,
    /// The copy of what its server says, in the deploy's log.
    pub(super) followed: Option<Followed>,
    /// Why it is given up, and what was asked for when it was; counts from then on, kept or not.
    pub(super) given_up: Option<(Asked, String)>,
    /// Why it is not what it shall be, in words.
    pub(super) reason: Option<String>,
    /// What the links were told.
    pub(super) shown: Option<State>,
}

/// The socket that its agent dials.
#[derive(Debug, Default)]
pub(super) enum Socket {
    /// Not looked at yet; one of an earlier supervisor may be there.
    #[default]
    Unknown,
    Closed,
    /// The folder that it is in.
    Open(PathBuf),
}

/// Whether its agent is at the socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Agent {
    /// It is not, since this moment.
    Down {
        since: Millis,
    },
    Up,
}

/// Whether who is at the socket is known to be the agent.
#[derive(Debug, Default)]
pub(super) struct Proof {
    state: Proving,
    not_before: Millis,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Proving {
    /// Nobody is there, or it is known who.
    #[default]
    Settled,
    /// Somebody is there, or may be, who is not known to be its agent.
    Wanted,
    /// The engine is being asked; whether somebody else came meanwhile.
    Asked { again: bool },
}

/// The start order.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    NotDue,
    Due(Millis),
    /// It is being handed over; when it is due again, should it be.
    InFlight {
        again: Option<Millis>,
    },
}

/// What is in flight for it; nothing is planned meanwhile.
#[derive(Debug, Default)]
pub(super) enum Work {
    #[default]
    None,
    Step(StepInFlight),
    /// The look at a death, or a report that must be kept first.
    Pending,
}

#[derive(Debug)]
pub(super) struct StepInFlight {
    /// It changes what Docker shows.
    pub(super) touches: bool,
    /// It starts the container, in a workspace that it holds to this quota.
    pub(super) starts: Option<WorkspaceQuota>,
    /// Set while an image is fetched or a package installed; that may be broken off.
    pub(super) pulling: Arc<AtomicBool>,
    pub(super) handle: AbortHandle,
}

/// Tries at something that is not the instance's fault.
#[derive(Debug, Default)]
pub(super) struct Retry {
    tries: u32,
    /// Plan nothing before this: the last step failed.
    pub(super) until: Millis,
}

/// Which listings are believed about it.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The listing that began after this count shows what the last step did.
    pub(super) after: u64,
    /// One was not believed, since a step was in flight.
    pub(super) doubted: bool,
}

/// Its container, beside what Docker shows.
#[derive(Debug, Default)]
pub(super) struct Container {
    /// What agents say of an earlier one carries a lower generation.
    pub(super) generation: u64,
    /// The CPU that it was last given; None where that is not known.
    pub(super) cpu: Option<i64>,
    /// It cannot be started again; it is to be made anew.
    pub(super) rebuild: bool,
    /// The image that was made for it is not there any more.
    pub(super) image_gone: bool,
}

/// Who copies what a container says.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) container: String,
    /// How many of its lines are in the log.
    pub(super) lines: Arc<AtomicU64>,
    /// Told when its server is healthy; None when that was said, or the run is over.
    pub(super) healthy: Option<oneshot::Sender<()>>,
}

impl Default for Agent {
    fn default() -> Self {
        Self::Down { since: 0 }
    }
}

impl Socket {
    pub(super) fn seen(&self) -> LinkSeen {
        match self {
            Self::Unknown => LinkSeen::Unknown,
            Self::Closed => LinkSeen::Closed,
            Self::Open(_) => LinkSeen::Open,
        }
    }
}

impl Agent {
    pub(super) fn is_up(&self) -> bool {
        *self == Self::Up
    }

    /// A container should have an agent from now on.
    pub(super) fn awaited(&mut self, now: Millis) {
        if let Self::Down { since } = self {
            *since = now;
        }
    }
}

impl Proof {
    pub(super) fn want(&mut self) {
        self.state = match self.state {
            Proving::Asked { .. } => Proving::Asked { again: true },
            Proving::Settled | Proving::Wanted => Proving::Wanted,
        };
    }

    /// Whoever is there is known, or not there any more. An answer that is on its way is to be waited for.
    pub(super) fn settle(&mut self) {
        self.state = match self.state {
            Proving::Asked { .. } => Proving::Asked { again: false },
            Proving::Settled | Proving::Wanted => Proving::Settled,
        };
    }

    pub(super) fn is_due(&self, now: Millis) -> bool {
        self.state == Proving::Wanted && now >= self.not_before
    }

    pub(super) fn ask(&mut self) {
        self.state = Proving::Asked { again: false };
    }

    pub(super) fn answered(&mut self, now: Millis) {
        self.not_before = now + PROVE_AGAIN;
        self.state = match self.state {
            Proving::Asked { again: false } => Proving::Settled,
            Proving::Asked { again: true } => Proving::Wanted,
            other => other,
        };
    }
}

impl Order {
    /// It is to be handed over (again) at this moment, whatever was planned.
    pub(super) fn renew(&mut self, at: Millis) {
        *self = match self {
            Self::InFlight { .. } => Self::InFlight { again: Some(at) },
            Self::NotDue | Self::Due(_) => Self::Due(at),
        };
    }

    /// It is to be handed over at this moment, unless it is about to be already.
    pub(super) fn want(&mut self, at: Millis) {
        if *self == Self::NotDue {
            *self = Self::Due(at);
        }
    }

    pub(super) fn due(&self) -> Option<Millis> {
        match self {
            Self::Due(at) => Some(*at),
            Self::NotDue | Self::InFlight { .. } => None,
        }
    }

    pub(super) fn answered(&mut self) {
        if let Self::InFlight { again } = self {
            *self = again.map_or(Self::NotDue, Self::Due);
        }
    }
}

impl Work {
    pub(super) fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    fn step(&self) -> Option<&StepInFlight> {
        match self {
            Self::Step(step) => Some(step),
            Self::None | Self::Pending => None,
        }
    }

    pub(super) fn touches(&self) -> bool {
        self.step().is_some_and(|s| s.touches)
    }

    /// What a start in flight holds the workspace to.
    pub(super) fn quota(&self) -> Option<WorkspaceQuota> {
        self.step().and_then(|s| s.starts)
    }

    pub(super) fn starts(&self) -> bool {
        self.quota().is_some()
    }

    pub(super) fn pulls(&self) -> bool {
        self.step().is_some_and(|s| s.pulling.load(Ordering::Relaxed))
    }

    /// Nobody waits any more for the image that is fetched, or for the package that is installed.
    pub(super) fn break_off_pull(&self) {
        if let Some(step) = self.step().filter(|_| self.pulls()) {
            step.handle.abort();
        }
    }
}

impl Retry {
    /// Once more, after a while.
    pub(super) fn later(&mut self, now: Millis) {
        self.tries += 1;
        self.until = now + engine_wait(self.tries);
    }

    pub(super) fn went_well(&mut self) {
        self.tries = 0;
    }
}

impl Live {
    /// A container of it runs from now on.
    pub(super) fn run_began(&mut self, now: Millis) {
        self.life.began(now);
        self.agent.awaited(now);
    }

    /// What a supervisor that starts anew knows of it: nothing but that it was there.
    pub(super) fn resumed() -> Self {
        Self {
            life: Life::Found,
            restarts: Restarts::found(),
            ..Self::default()
        }
    }

    /// Its run is over, and accounted for.
    pub(super) fn run_ended(&mut self) {
        let up = self.life.ended();
        self.oom_kills = self.oom_kills.saturating_add(up.map_or(0, |up| up.oom_kills));
        if let Some(followed) = &mut self.followed {
            followed.healthy = None;
        }
    }

    /// Server processes that the kernel killed for want of memory, in this run and in those before.
    pub(super) fn oom_kills(&self) -> u32 {
        let now = self.life.up().map_or(0, |up| up.oom_kills);
        self.oom_kills.saturating_add(now)
    }

    /// Somebody asked for a new start: earlier troubles no longer count.
    pub(super) fn forgive(&mut self) {
        self.restarts = Restarts::default();
        self.oom_kills = 0;
        self.hold_until = 0;
        self.retry = Retry::default();
        self.reason = None;
        self.life.spare();
    }

    /// Until when its start may use more CPU than its size; None when no run is known, or it was ready already.
    pub(super) fn start_cpu_until(&self, record: &InstanceRecord) -> Option<Millis> {
        self.life.up()?.start_cpu_until(start_timeout(record))
    }

    /// Whether its container shall have the CPU of its size by now.
    pub(super) fn settled(&self, record: &InstanceRecord, now: Millis) -> bool {
        self.life.is_up() && self.start_cpu_until(record).is_none_or(|until| now >= until)
    }

    /// When a running container without a ready server has had its time, and why.
    pub(super) fn overdue(&self, record: &InstanceRecord) -> Option<(Millis, String)> {
        let no_agent = match (&self.socket, &self.agent) {
            (Socket::Open(_), Agent::Down { since }) => Some(*since),
            _ => None,
        };
        self.life.up()?.overdue(start_timeout(record), no_agent)
    }

    /// The state to show. `seen` is what its container does; `held`, whether it has no more CPU than its size allows.
    pub(super) fn state(&self, record: &InstanceRecord, seen: Option<Run>, held: bool) -> State {
        self.life.state(Context {
            desired: record.desired,
            failed: record.failure.is_some(),
            seen,
            held,
            begun: self.work.is_some() || matches!(self.socket, Socket::Open(_)),
            restarted: self.restarts.total > 0,
        })
    }
}

fn start_timeout(record: &InstanceRecord) -> Millis {
    millis(record.spec.health.start_timeout)
}

/// Of a time that is added to a moment.
pub(super) fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(Millis::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_killed_is_counted_over_runs_until_somebody_starts_it_anew() {
        let mut live = Live::default();
        let killed = |live: &mut Live, n| live.life.up_mut().expect("it runs").oom_kills = n;
        live.run_began(1);
        killed(&mut live, 2);
        live.run_ended();
        assert_eq!(live.oom_kills(), 2);
        live.run_began(2);
        killed(&mut live, 1);
        assert_eq!(live.oom_kills(), 3);
        live.forgive();
        assert_eq!(live.oom_kills(), 1, "what its present agent has counted");
    }

    #[test]
    fn an_order_that_is_wanted_while_one_is_handed_over_comes_after_it() {
        let mut order = Order::NotDue;
        order.want(5);
        order.want(3);
        assert_eq!(order.due(), Some(5), "it is about to be");
        order = Order::InFlight { again: None };
        order.want(7);
        assert_eq!((order.due(), order), (None, Order::InFlight { again: None }));
        order.renew(9);
        order.answered();
        assert_eq!(order.due(), Some(9));
        order = Order::InFlight { again: None };
        order.answered();
        assert_eq!(order, Order::NotDue);
    }

    #[test]
    fn who_came_while_the_engine_was_asked_is_asked_for_once_more() {
        let mut proof = Proof::default();
        assert!(!proof.is_due(0));
        proof.want();
        assert!(proof.is_due(0));
        proof.ask();
        proof.want();
        assert!(!proof.is_due(0), "one question at a time");
        proof.answered(10);
        assert!(!proof.is_due(10) && proof.is_due(10 + PROVE_AGAIN), "not at once");
        proof.settle();
        assert!(!proof.is_due(Millis::MAX));
    }
}
