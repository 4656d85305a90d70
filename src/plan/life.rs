//! What is known of the run of an instance's container, as one value that holds what belongs to each state, and the
//! state that is shown. Pure: the caller keeps the time. Nothing of it is stored: a supervisor that starts anew learns it
//! again from Docker and from the agent.
//!
//! ```text
//!                 began                    ready
//! Down, Found ------------> Up: Starting <=======> Ready      lost: its link, or values that changed meanwhile
//!   ^                             |                  |
//!   |                      failed |                  | failed
//!   |                             v                  |
//!   |                          Failed <--------------+        (ready: it came right by itself)
//!   +---- ended --- from each state of Up
//! ```

use super::{Millis, Run};
use crate::model::{AgentStatus, Desired, Health, State};

/// An agent that does not dial in, or not again, for this long is lost.
const LINK_LOST: Millis = 15_000;
/// Beyond the type's own start timeout, which the agent keeps: then the agent is at fault.
const START_GRACE: Millis = 10_000;
/// More CPU for a start is given no longer than this, ready or not.
const START_CPU: Millis = 30_000;
/// An agent that failed exits by itself within this time.
const FAILED_GRACE: Millis = 5_000;

/// Whether a container of an instance runs, and since when and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Life {
    /// None runs, as far as is known.
    #[default]
    Down,
    /// It was there before this supervisor: most likely it runs.
    Found,
    /// It runs; its end is to be accounted for.
    Up(Up),
}

/// A run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Up {
    /// Its time to become ready counts from here.
    since: Millis,
    /// When its server was ready first: a link that was lost and found does not reset it.
    first_ready: Option<Millis>,
    server: Server,
    /// Why it is to be ended and started again.
    kick: Option<String>,
    /// What its agent said last.
    pub agent: Option<Box<AgentStatus>>,
    /// Server processes that the kernel killed for want of memory.
    pub oom_kills: u32,
}

/// The MCP server in a container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Server {
    /// Not ready yet, or not known to be any more.
    Starting,
    /// It answers, or did when it was asked before so many failed probes.
    Ready { misses: u32, probe: Probe },
    /// Its agent gave it up at this moment, and is about to exit.
    Failed { since: Millis },
}

/// The next question for its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    At(Millis),
    InFlight,
}

/// What an answer to a probe came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// Nobody waits for it any more.
    Stale,
    Well,
    /// So many failed in a row.
    Misses(u32),
}

/// What decides, beside its life, which state an instance shows.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    pub desired: Desired,
    /// It was given up.
    pub failed: bool,
    /// What its container does, as far as Docker's word is known.
    pub seen: Option<Run>,
    /// It has no more CPU than its size allows: before that it does not count as running.
    pub held: bool,
    /// Something is done for it, or its socket is open.
    pub begun: bool,
    /// It ran before, since somebody asked for it.
    pub restarted: bool,
}

impl Life {
    /// A container of it runs from now on.
    pub fn began(&mut self, now: Millis) {
        *self = Self::Up(Up {
            since: now,
            first_ready: None,
            server: Server::Starting,
            kick: None,
            agent: None,
            oom_kills: 0,
        });
    }

    /// Its run is over, or of no account any more: what is known of it.
    pub fn ended(&mut self) -> Option<Up> {
        match std::mem::take(self) {
            Self::Up(up) => Some(up),
            Self::Down | Self::Found => None,
        }
    }

    pub fn up(&self) -> Option<&Up> {
        match self {
            Self::Up(up) => Some(up),
            Self::Down | Self::Found => None,
        }
    }

    pub fn up_mut(&mut self) -> Option<&mut Up> {
        match self {
            Self::Up(up) => Some(up),
            Self::Down | Self::Found => None,
        }
    }

    pub fn is_up(&self) -> bool {
        self.up().is_some()
    }

    pub fn is_ready(&self) -> bool {
        self.up().is_some_and(Up::is_ready)
    }

    /// Whether its server is well; not known while none is ready.
    pub fn health(&self) -> Health {
        match self.up().map(|up| &up.server) {
            Some(Server::Ready { misses: 0, .. }) => Health::Healthy,
            Some(Server::Ready { .. }) => Health::Unhealthy,
            _ => Health::Unknown,
        }
    }

    /// Its server is not known to be ready any more.
    pub fn lost(&mut self) {
        if let Self::Up(up) = self {
            up.lost();
        }
    }

    /// The server in its container is to start anew, with other values: its time to become ready begins again.
    pub fn renewed(&mut self, now: Millis) {
        if let Self::Up(up) = self {
            up.since = now;
            // What it was with the earlier values says nothing of these.
            up.first_ready = None;
            up.lost();
        }
    }

    /// Its container is to be ended and started again; the last reason counts. Nothing where none runs.
    pub fn kick(&mut self, why: String) {
        if let Self::Up(up) = self {
            up.kick(why);
        }
    }

    /// It may go on.
    pub fn spare(&mut self) {
        if let Self::Up(up) = self {
            up.kick = None;
        }
    }

    /// Why its container is to be ended and started again.
    pub fn kicked(&self) -> Option<&str> {
        self.up().and_then(|up| up.kick.as_deref())
    }

    /// The state to show.
    pub fn state(&self, context: Context) -> State {
        let Context { seen, .. } = context;
        match context.desired {
            Desired::Removed => return State::Removing,
            Desired::Stopped if seen == Some(Run::Running) || self.is_up() => return State::Running,
            Desired::Stopped => return State::Stopped,
            Desired::Running if context.failed => return State::Failed,
            Desired::Running => {}
        }
        match self {
            Self::Up(up) if up.is_ready() && context.held && seen != Some(Run::Paused) => State::Running,
            Self::Up(_) | Self::Found => State::Starting,
            Self::Down if context.restarted || seen.is_some() => State::Starting,
            Self::Down if context.begun => State::Preparing,
            Self::Down => State::Pending,
        }
    }
}

impl Up {
    pub fn is_ready(&self) -> bool {
        matches!(self.server, Server::Ready { .. })
    }

    /// When its server was ready first in this run.
    pub fn first_ready(&self) -> Option<Millis> {
        self.first_ready
    }

    /// Its server is ready, and asked for its health from then on; whether that is news.
    pub fn ready(&mut self, now: Millis, interval: Millis) -> bool {
        if self.is_ready() {
            return false;
        }
        self.first_ready.get_or_insert(now);
        self.server = Server::Ready {
            misses: 0,
            probe: Probe::At(now + interval),
        };
        true
    }

    /// Its server failed for good, by its agent's word.
    pub fn failed(&mut self, now: Millis) {
        if !matches!(self.server, Server::Failed { .. }) {
            self.server = Server::Failed { since: now };
        }
    }

    /// See [`Life::lost`]. One that failed stays so: what became of it is known.
    pub fn lost(&mut self) {
        if self.is_ready() {
            self.server = Server::Starting;
        }
    }

    /// See [`Life::kick`].
    pub fn kick(&mut self, why: String) {
        self.kick = Some(why);
    }

    /// When it is to be asked for its health; None while it is, or is not ready.
    pub fn next_probe(&self) -> Option<Millis> {
        match self.server {
            Server::Ready {
                probe: Probe::At(at), ..
            } => Some(at),
            _ => None,
        }
    }

    /// It is asked for its health.
    pub fn probing(&mut self) {
        if let Server::Ready { probe, .. } = &mut self.server {
            *probe = Probe::InFlight;
        }
    }

    /// An answer is there, `well` or not; it is asked again after `interval`.
    pub fn probed(&mut self, now: Millis, interval: Millis, well: bool) -> Probed {
        match &mut self.server {
            Server::Ready { misses, probe } if *probe == Probe::InFlight => {
                *probe = Probe::At(now + interval);
                *misses = if well { 0 } else { misses.saturating_add(1) };
                match *misses {
                    0 => Probed::Well,
                    n => Probed::Misses(n),
                }
            }
            _ => Probed::Stale,
        }
    }

    /// Until when its start may use more CPU than its size, with this `start_timeout`; None when it was ready already.
    pub fn start_cpu_until(&self, start_timeout: Millis) -> Option<Millis> {
        let until = self.since + start_timeout.min(START_CPU);
        self.first_ready.is_none().then_some(until)
    }

    /// When a container without a ready server has had its time, and why. `no_agent` is since when no agent is at the
    /// socket that is open for it.
    pub fn overdue(&self, start_timeout: Millis, no_agent: Option<Millis>) -> Option<(Millis, String)> {
        if self.kick.is_some() {
            return None;
        }
        let said = self.agent.as_ref().and_then(|a| a.reason.as_deref());
        let words = said.map(|r| format!(": {r}")).unwrap_or_default();
        let failed = match self.server {
            Server::Failed { since } => Some((since + FAILED_GRACE, format!("its server failed{words}"))),
            _ => None,
        };
        let silent = no_agent.map(|since| (since + LINK_LOST, "its agent no longer answers".to_owned()));
        let slow = (!self.is_ready()).then(|| {
            let seconds = start_timeout / 1000;
            (
                (self.since + START_GRACE).saturating_add(start_timeout),
                format!("it was not ready within the start_timeout of its type, {seconds} s{words}"),
            )
        });
        [failed, silent, slow].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Millis = 10_000;
    const START: Millis = 60_000;

    fn up(now: Millis) -> Life {
        let mut life = Life::Down;
        life.began(now);
        life
    }

    fn context() -> Context {
        Context {
            desired: Desired::Running,
            failed: false,
            seen: Some(Run::Running),
            held: true,
            begun: true,
            restarted: false,
        }
    }

    fn of(life: &mut Life) -> &mut Up {
        life.up_mut().expect("it runs")
    }

    #[test]
    fn the_way_from_nothing_to_ready_and_back() {
        let nothing = Context {
            seen: None,
            begun: false,
            ..context()
        };
        let mut life = Life::Down;
        assert_eq!(life.state(nothing), State::Pending);
        assert_eq!(life.state(Context { begun: true, ..nothing }), State::Preparing);
        assert_eq!(Life::Found.state(nothing), State::Starting);
        life.began(100);
        assert_eq!(life.state(context()), State::Starting);
        assert!(of(&mut life).ready(200, INTERVAL) && !of(&mut life).ready(300, INTERVAL));
        assert_eq!(life.state(context()), State::Running);
        assert_eq!(
            life.state(Context {
                held: false,
                ..context()
            }),
            State::Starting
        );
        let paused = Context {
            seen: Some(Run::Paused),
            ..context()
        };
        assert_eq!(life.state(paused), State::Starting);
        life.lost();
        assert_eq!(life.state(context()), State::Starting);
        of(&mut life).ready(400, INTERVAL);
        assert_eq!(of(&mut life).first_ready(), Some(200), "the first time counts");
        life.kick("unwell".into());
        assert_eq!(life.kicked(), Some("unwell"));
        assert_eq!(life.ended().and_then(|up| up.first_ready()), Some(200));
        assert_eq!(
            (life.state(nothing), life.ended(), life.kicked()),
            (State::Pending, None, None)
        );
        assert_eq!(
            life.state(Context {
                restarted: true,
                ..nothing
            }),
            State::Starting
        );
    }

    #[test]
    fn what_is_asked_for_goes_before_what_is() {
        let mut life = up(0);
        of(&mut life).ready(1, INTERVAL);
        let with = |desired, failed| Context {
            desired,
            failed,
            ..context()
        };
        assert_eq!(life.state(with(Desired::Removed, false)), State::Removing);
        assert_eq!(life.state(with(Desired::Running, true)), State::Failed);
        assert_eq!(
            life.state(with(Desired::Stopped, true)),
            State::Running,
            "until it has stopped"
        );
        let gone = Context {
            seen: Some(Run::Exited),
            ..with(Desired::Stopped, false)
        };
        assert_eq!(Life::Down.state(gone), State::Stopped);
    }

    #[test]
    fn answers_to_probes_count_while_somebody_waits_for_them() {
        let mut life = up(0);
        let up = of(&mut life);
        assert_eq!((up.next_probe(), up.probed(5, INTERVAL, false)), (None, Probed::Stale));
        up.ready(10, INTERVAL);
        assert_eq!(up.next_probe(), Some(10 + INTERVAL));
        up.probing();
        assert_eq!(up.next_probe(), None, "one at a time");
        assert_eq!(up.probed(20, INTERVAL, false), Probed::Misses(1));
        up.probing();
        assert_eq!(up.probed(30, INTERVAL, false), Probed::Misses(2));
        assert_eq!(life.health(), Health::Unhealthy);
        // Asked before its link was lost, answered after it was found.
        let up = of(&mut life);
        up.probing();
        up.lost();
        up.ready(40, INTERVAL);
        assert_eq!(up.probed(50, INTERVAL, false), Probed::Stale);
        assert_eq!(life.health(), Health::Healthy);
    }

    #[test]
    fn a_container_without_a_ready_server_has_its_time() {
        let mut life = up(1000);
        let up = of(&mut life);
        let due = |up: &Up, no_agent| up.overdue(START, no_agent).map(|(at, _)| at);
        assert_eq!(due(up, None), Some(1000 + START + START_GRACE));
        assert_eq!(due(up, Some(2000)), Some(2000 + LINK_LOST));
        up.ready(3000, INTERVAL);
        assert_eq!((due(up, None), due(up, Some(4000))), (None, Some(4000 + LINK_LOST)));
        up.failed(5000);
        up.failed(6000);
        up.lost();
        assert_eq!(due(up, None), Some(5000 + FAILED_GRACE), "since it failed first");
        up.ready(7000, INTERVAL);
        assert_eq!(due(up, None), None, "it came right");
        life.renewed(8000);
        assert_eq!(due(of(&mut life), None), Some(8000 + START + START_GRACE));
        life.kick("it is over".into());
        assert_eq!(due(of(&mut life), Some(0)), None, "once is enough");
        assert_eq!(of(&mut life).overdue(Millis::MAX, None), None);
        life.spare();
        assert_eq!(due(of(&mut life), None), Some(8000 + START + START_GRACE));
    }

    #[test]
    fn more_cpu_is_for_the_start() {
        let mut life = up(500);
        assert_eq!(of(&mut life).start_cpu_until(2000), Some(2500));
        assert_eq!(of(&mut life).start_cpu_until(Millis::MAX / 2), Some(500 + START_CPU));
        of(&mut life).ready(600, INTERVAL);
        life.lost();
        assert_eq!(of(&mut life).start_cpu_until(2000), None, "it had its start");
        life.renewed(700);
        assert_eq!(of(&mut life).start_cpu_until(2000), Some(2700));
    }

    proptest! {
        /// Whatever happens in whatever order: what is said of it is never more than what is known.
        #[test]
        fn whatever_happens(steps in prop::collection::vec((0..10u8, 0..50_000u64), 0..60)) {
            let (mut life, mut now) = (Life::default(), 0);
            for (what, later) in steps {
                now += later;
                match what {
                    0 => life.began(now),
                    1 => drop(life.ended()),
                    2 => life.lost(),
                    3 => life.renewed(now),
                    4 => life.kick("why".into()),
                    5 => life.spare(),
                    6 => life = Life::Found,
                    _ => if let Some(up) = life.up_mut() {
                        match what {
                            7 => drop(up.ready(now, INTERVAL)),
                            8 => up.failed(now),
                            _ if later % 2 == 0 => up.probing(),
                            _ => drop(up.probed(now, INTERVAL, later % 4 == 1)),
                        }
                    }
                }
                let state = life.state(context());
                prop_assert_eq!(state == State::Running, life.is_ready());
                prop_assert_eq!(life.health() == Health::Unknown, !life.is_ready());
                prop_assert!(life.is_up() || life.kicked().is_none());
                if let Some(up) = life.up() {
                    // One that is not ready has an end, unless it is about to be ended.
                    prop_assert!(up.is_ready() || life.kicked().is_some() || up.overdue(START, None).is_some());
                    prop_assert!(!up.is_ready() || up.first_ready().is_some());
                    prop_assert!(up.first_ready().is_none_or(|at| at <= now));
                }
            }
        }
    }
}
