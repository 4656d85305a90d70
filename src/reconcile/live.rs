//! What the reconciler knows of an instance beside its record, and the state that follows from both. Nothing of it is
//! stored: a supervisor that starts anew learns it again from Docker and from the agent.
//!
//! ```text
//! (no run) --container started, or found running--> run --agent ready--> ready
//!    ^                                               |                     |
//!    +------------- exit, stop, loss ----------------+---------------------+
//! ```

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{sync::oneshot, task::AbortHandle};

use crate::{
    model::{AgentStatus, Desired, Health, State},
    plan::{LinkSeen, Millis, Run, exchange::Asked, restart::Restarts},
    record::InstanceRecord,
};

/// An agent that does not dial in, or not again, for this long is lost.
const LINK_LOST: Millis = 15_000;
/// Beyond the type's own start timeout, which the agent keeps: then the agent is at fault.
const START_GRACE: Millis = 10_000;
/// More CPU for a start is given no longer than this, ready or not.
const START_CPU: Millis = 30_000;
/// An agent that failed exits by itself within this time.
const FAILED_GRACE: Millis = 5_000;

#[derive(Debug)]
pub(super) struct Live {
    pub(super) link: LinkSeen,
    pub(super) socket_dir: Option<PathBuf>,
    pub(super) link_up: bool,
    /// Somebody is at its socket, or may be, who is not known to be its agent; and the engine is being asked.
    pub(super) unproven: bool,
    pub(super) proving: bool,
    /// Not to be asked again before this.
    pub(super) prove_at: Millis,
    /// Since when an agent is missing while a container should have one.
    pub(super) down_since: Millis,
    pub(super) agent: Option<AgentStatus>,
    pub(super) failed_since: Option<Millis>,
    /// When to hand over the start order (again).
    pub(super) order_at: Option<Millis>,
    pub(super) ordering: bool,
    /// Since when the present run's container runs; its end is to be accounted for.
    pub(super) started_at: Option<Millis>,
    pub(super) ready_since: Option<Millis>,
    /// When this run was ready first: a link that was lost and found does not reset it.
    pub(super) healthy_since: Option<Millis>,
    pub(super) health: Health,
    pub(super) misses: u32,
    pub(super) next_probe: Millis,
    pub(super) probing: bool,
    pub(super) restarts: Restarts,
    /// Server processes that the kernel killed for want of memory: in earlier runs, and in this one.
    pub(super) oom_kills: (u32, u32),
    pub(super) hold_until: Millis,
    /// Plan nothing before this: the last step failed.
    pub(super) pause_until: Millis,
    pub(super) tries: u32,
    /// Why the running container is to be restarted.
    pub(super) kick: Option<String>,
    pub(super) rebuild: bool,
    /// A start of its container is in flight.
    pub(super) starting: bool,
    /// What agents say of an earlier container carries a lower one.
    pub(super) generation: u64,
    /// The CPU that its container was last given; None where that is not known.
    pub(super) cpu: Option<i64>,
    /// A step, or the look at a death, is in flight.
    pub(super) busy: bool,
    /// The step in flight changes what Docker shows.
    pub(super) touching: bool,
    /// The listing that began after this count shows what the last step did.
    pub(super) touched: u64,
    pub(super) reason: Option<String>,
    pub(super) shown: Option<State>,
    /// Set while the image of the container being made is fetched; that may be broken off.
    pub(super) pulling: Arc<AtomicBool>,
    pub(super) making: Option<AbortHandle>,
    /// The image that was made for it is not there any more.
    pub(super) image_gone: bool,
    /// Copies what its server says into the deploy's log.
    pub(super) follower: Option<oneshot::Sender<()>>,
    /// The container that was followed, and how many of its lines are in the log.
    pub(super) followed: Option<(String, Arc<AtomicU64>)>,
    /// A listing was not believed about it, since a step was in flight.
    pub(super) doubted: bool,
    /// It was there before this supervisor: most likely it runs.
    pub(super) resumed: bool,
    /// Why it is given up, and what was asked for when it was; counts from then on, kept or not.
    pub(super) given_up: Option<(Asked, String)>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            link: LinkSeen::Unknown,
            socket_dir: None,
            link_up: false,
            unproven: false,
            proving: false,
            prove_at: 0,
            down_since: 0,
            agent: None,
            failed_since: None,
            order_at: None,
            ordering: false,
            started_at: None,
            ready_since: None,
            healthy_since: None,
            health: Health::Unknown,
            misses: 0,
            next_probe: Millis::MAX,
            probing: false,
            restarts: Restarts::default(),
            oom_kills: (0, 0),
            hold_until: 0,
            pause_until: 0,
            tries: 0,
            kick: None,
            rebuild: false,
            starting: false,
            generation: 0,
            cpu: None,
            busy: false,
            touching: false,
            touched: 0,
            reason: None,
            shown: None,
            pulling: Arc::default(),
            making: None,
            image_gone: false,
            follower: None,
            followed: None,
            doubted: false,
            resumed: false,
            given_up: None,
        }
    }
}

impl Live {
    /// A container of it runs from now on.
    pub(super) fn run_began(&mut self, now: Millis) {
        self.started_at = Some(now);
        self.resumed = false;
        if !self.link_up {
            self.down_since = now;
        }
    }

    /// What a supervisor that starts anew knows of it: nothing but that it was there.
    pub(super) fn resumed() -> Self {
        Self {
            resumed: true,
            restarts: Restarts::found(),
            ..Self::default()
        }
    }

    /// Its run is over, and accounted for.
    pub(super) fn run_ended(&mut self) {
        self.oom_kills = (self.oom_kills(), 0);
        self.started_at = None;
        self.resumed = false;
        self.kick = None;
        self.follower = None;
        self.failed_since = None;
        self.agent = None;
        self.healthy_since = None;
        self.not_ready();
    }

    /// Server processes that the kernel killed for want of memory, in this run and in those before.
    pub(super) fn oom_kills(&self) -> u32 {
        self.oom_kills.0.saturating_add(self.oom_kills.1)
    }

    pub(super) fn not_ready(&mut self) {
        self.ready_since = None;
        self.health = Health::Unknown;
        self.misses = 0;
        self.next_probe = Millis::MAX;
    }

    pub(super) fn ready(&mut self, now: Millis, interval: Millis) {
        if self.ready_since.is_none() {
            self.ready_since = Some(now);
            self.healthy_since.get_or_insert(now);
            self.next_probe = now + interval;
            self.misses = 0;
            self.health = Health::Healthy;
            self.reason = None;
        }
        self.failed_since = None;
    }

    /// Whether the engine is to be asked which process its agent is.
    pub(super) fn may_prove(&self, now: Millis) -> bool {
        self.unproven && !self.proving && !self.starting && now >= self.prove_at
    }

    /// Somebody asked for a new start: earlier troubles no longer count.
    pub(super) fn forgive(&mut self) {
        self.restarts = Restarts::default();
        self.oom_kills.0 = 0;
        self.hold_until = 0;
        self.pause_until = 0;
        self.tries = 0;
        self.reason = None;
        self.kick = None;
    }

    /// Until when its start may use more CPU than its size; None when no run is known, or it was ready already.
    pub(super) fn start_cpu_until(&self, record: &InstanceRecord) -> Option<Millis> {
        let limit = u64::try_from(record.spec.health.start_timeout.as_millis()).unwrap_or(START_CPU);
        let until = self.started_at? + limit.min(START_CPU);
        self.healthy_since.is_none().then_some(until)
    }

    /// Whether its container shall have the CPU of its size by now.
    pub(super) fn settled(&self, record: &InstanceRecord, now: Millis) -> bool {
        self.started_at.is_some() && self.start_cpu_until(record).is_none_or(|until| now >= until)
    }

    /// Nobody waits for the image any more.
    pub(super) fn break_off_pull(&mut self) {
        if self.pulling.load(Ordering::Relaxed)
            && let Some(making) = self.making.take()
        {
            making.abort();
        }
    }

    /// The server in its container is to start anew, with other values: its time to become ready begins again.
    pub(super) fn renewed(&mut self, now: Millis) {
        self.started_at = self.started_at.map(|_| now);
        // What it was with the earlier values says nothing of these.
        self.healthy_since = None;
        self.not_ready();
    }

    /// When a running container without a ready server has had its time, and why.
    pub(super) fn overdue(&self, record: &InstanceRecord) -> Option<(Millis, String)> {
        let started = self.started_at?;
        if self.kick.is_some() {
            return None;
        }
        let own_words = |a: &AgentStatus| a.reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default();
        let words = self.agent.as_ref().map(own_words).unwrap_or_default();
        let mut due = Vec::new();
        if let Some(since) = self.failed_since {
            due.push((since + FAILED_GRACE, format!("its server failed{words}")));
        }
        if self.link == LinkSeen::Open && !self.link_up {
            due.push((self.down_since + LINK_LOST, "its agent no longer answers".to_owned()));
        }
        if self.ready_since.is_none() {
            let limit = record.spec.health.start_timeout;
            let until = started + u64::try_from(limit.as_millis()).unwrap_or(Millis::MAX / 2) + START_GRACE;
            due.push((
                until,
                format!(
                    "it was not ready within the start_timeout of its type, {} s{words}",
                    limit.as_secs()
                ),
            ));
        }
        due.into_iter().min_by_key(|(at, _)| *at)
    }

    /// The state to show. `seen` is what its container does, as far as Docker's word is known; `held`, whether it has
    /// no more CPU than its size allows: before that it does not count as running.
    pub(super) fn state(&self, record: &InstanceRecord, seen: Option<Run>, held: bool) -> State {
        match record.desired {
            Desired::Removed => return State::Removing,
            Desired::Stopped if seen == Some(Run::Running) || self.started_at.is_some() => return State::Running,
            Desired::Stopped => return State::Stopped,
            Desired::Running => {}
        }
        if record.failure.is_some() {
            return State::Failed;
        }
        if self.ready_since.is_some() && held && seen != Some(Run::Paused) {
            return State::Running;
        }
        if self.started_at.is_some()
            || self.ready_since.is_some()
            || self.restarts.total > 0
            || seen.is_some()
            || self.resumed
        {
            return State::Starting;
        }
        if self.busy || self.link == LinkSeen::Open {
            return State::Preparing;
        }
        State::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_killed_is_counted_over_runs_until_somebody_starts_it_anew() {
        let mut live = Live::default();
        live.oom_kills.1 = 2;
        live.run_ended();
        assert_eq!(live.oom_kills(), 2);
        live.oom_kills.1 = 1;
        assert_eq!(live.oom_kills(), 3);
        live.forgive();
        assert_eq!(live.oom_kills(), 1, "what its present agent has counted");
    }
}
