//! Carries out what the bridge decides: answers to exchanges, lines to processes, starts and stops.
//!
//! Never decides anything of the protocol itself, and never holds a borrow of the bridge while it does something.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::{Notify, oneshot};

use super::journal::{self, LastWords};
use super::memory;
use super::process::{self, Handle};
use super::reap::Reaper;
use super::redact::Patterns;
use super::room::{Group, Kills, Running, Server};
use super::slot::{Head, Slot};
use super::status::Board;
use crate::budget::Budget;
use crate::mcp::bridge::{Bridge, Config, Effect, HttpAnswer, ProcId, WireId, stream_head};
use crate::mcp::{codes, message};
use crate::model::{AgentState, Secret};

/// How often the bridge looks at its deadlines while something is under way, and while nothing is.
const TICKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// So many slow ticks without a request, and memory is given back.
const IDLE_TICKS: u32 = 2;

/// What every server process is started with.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) order: BTreeMap<String, Secret>,
    pub(super) secrets: Arc<Patterns>,
    pub(super) max_message: usize,
}

/// The bridge and what it drives.
#[derive(Debug)]
pub(super) struct Hub {
    bridge: RefCell<Bridge>,
    slots: RefCell<HashMap<WireId, Rc<Slot>>>,
    procs: RefCell<HashMap<ProcId, Rc<Handle>>>,
    /// Those that were told to end and have not yet.
    leaving: RefCell<HashMap<ProcId, Rc<Handle>>>,
    /// Those that start when what is leaving has given its memory back.
    waiting: RefCell<VecDeque<ProcId>>,
    /// What the container's memory is measured by.
    measured: Arc<Mutex<Running>>,
    pub(super) kills: Rc<Kills>,
    running: Cell<usize>,
    next: Cell<u64>,
    probes: RefCell<HashMap<u64, oneshot::Sender<Option<String>>>>,
    wake: Notify,
    pub(super) scratch: RefCell<Box<[u8]>>,
    /// Of the process that was started last.
    pub(super) words: RefCell<Rc<LastWords>>,
    pub(super) recipe: Recipe,
    pub(super) reaper: Rc<Reaper>,
    board: Rc<Board>,
    budget: Budget,
    /// Whether an answer of the server means that the instance is ready.
    counts: bool,
    /// Another order takes its place: nothing is started any more, and nothing is said.
    closed: Cell<bool>,
    this: Weak<Hub>,
}

impl Hub {
    /// A bridge for these processes; [`Hub::start`] starts the first.
    pub(super) fn new(
        config: Config,
        recipe: Recipe,
        reaper: Rc<Reaper>,
        board: Rc<Board>,
        (budget, kills): (Budget, Rc<Kills>),
        counts: bool,
    ) -> Rc<Self> {
        let measured = Arc::new(Mutex::new(Running::new(Group::of_container())));
        let meter = {
            let measured = Arc::clone(&measured);
            Box::new(move || locked(&measured).measure())
        };
        Rc::new_cyclic(|this| Self {
            bridge: RefCell::new(Bridge::new(config, Box::new(crate::translator::random)).with_meter(meter)),
            slots: RefCell::default(),
            procs: RefCell::default(),
            leaving: RefCell::default(),
            waiting: RefCell::default(),
            measured,
            kills,
            running: Cell::new(0),
            next: Cell::new(1),
            probes: RefCell::default(),
            wake: Notify::new(),
            scratch: RefCell::new(vec![0; 32 * 1024].into()),
            words: RefCell::default(),
            recipe,
            reaper,
            board,
            budget,
            counts,
            closed: Cell::new(false),
            this: this.clone(),
        })
    }

    /// Starts the standing process and the ticks.
    pub(super) fn start(self: &Rc<Self>) {
        self.with(|b, now| b.start(now));
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let (mut seen, mut quiet) = (this.next.get(), 0);
            while !this.closed.get() {
                if this.busy() {
                    tokio::time::sleep(TICKS.0).await;
                } else {
                    let _ = tokio::time::timeout(TICKS.1, this.wake.notified()).await;
                }
                this.with(|b, now| b.tick(now));
                let idle = !this.busy() && seen == this.next.get();
                seen = this.next.get();
                quiet = if idle { quiet + 1 } else { 0 };
                if quiet == IDLE_TICKS {
                    memory::give_back();
                }
            }
        });
    }

    fn busy(&self) -> bool {
        self.bridge.borrow().busy()
    }

    pub(super) fn sessions(&self) -> usize {
        self.bridge.borrow().sessions()
    }

    /// Server processes that run, those that are about to end included.
    pub(super) fn processes(&self) -> usize {
        self.running.get()
    }

    /// A new exchange.
    pub(super) fn wire(&self) -> (WireId, Rc<Slot>) {
        let id = self.next.get();
        self.next.set(id + 1);
        let slot = Rc::new(Slot::counted(self.budget.clone()));
        self.slots.borrow_mut().insert(id, Rc::clone(&slot));
        (id, slot)
    }

    /// The exchange's client is gone, or has got its answer.
    pub(super) fn drop_wire(&self, id: WireId) {
        if let Some(slot) = self.slots.borrow_mut().remove(&id) {
            slot.dead.set(true);
        } else {
            return;
        }
        self.with(|b, now| b.closed(now, id));
    }

    /// Lets the bridge think, then does what it decided.
    pub(super) fn with(&self, think: impl FnOnce(&mut Bridge, Instant)) {
        let now = Instant::now();
        let (mut effects, busy, was) = {
            let mut bridge = self.bridge.borrow_mut();
            let was = bridge.busy();
            think(&mut bridge, now);
            (bridge.take_effects(), bridge.busy(), was)
        };
        if busy && !was {
            self.wake.notify_one();
        }
        while !effects.is_empty() {
            for effect in effects {
                self.apply(effect, now);
            }
            effects = self.bridge.borrow_mut().take_effects();
        }
    }

    fn apply(&self, effect: Effect, now: Instant) {
        let mute = matches!(
            effect,
            Effect::Spawn(_) | Effect::Ready | Effect::Failed(_) | Effect::Log(_)
        );
        if mute && self.closed.get() {
            return;
        }
        match effect {
            Effect::Spawn(id) => self.spawn_in_turn(id, now),
            Effect::Input(id) => {
                if let Some(p) = self.procs.borrow().get(&id) {
                    p.input.notify_one();
                }
            }
            Effect::Stop(id) => self.stop(id),
            Effect::Answer(wire, answer) => {
                if let Some(slot) = self.slots.borrow_mut().remove(&wire) {
                    slot.head(head(answer));
                }
            }
            Effect::Open(wire, session) => {
                if let Some(slot) = self.slots.borrow().get(&wire) {
                    slot.head(open_head(session.as_deref()));
                }
            }
            Effect::Send(wire, bytes) => {
                let slot = self.slots.borrow().get(&wire).cloned();
                if slot.is_some_and(|s| !s.send(bytes)) {
                    self.slots.borrow_mut().remove(&wire);
                    self.bridge.borrow_mut().closed(now, wire);
                }
            }
            Effect::Close(wire) => {
                if let Some(slot) = self.slots.borrow_mut().remove(&wire) {
                    slot.end();
                }
            }
            Effect::Health(ticket, fault) => {
                if let Some(waiting) = self.probes.borrow_mut().remove(&ticket) {
                    let _ = waiting.send(fault);
                }
            }
            Effect::Ready => {
                if self.counts {
                    self.board.set(AgentState::Ready, None);
                }
            }
            Effect::Failed(mut why) => {
                // A server that was silent for too long is stopped: what it said by then is all there is.
                let said = self.words.borrow().text();
                if !said.is_empty() && !why.contains(process::LAST_WORDS) {
                    why = format!("{why}; {}{said}", process::LAST_WORDS);
                }
                let why = self.recipe.secrets.redact(&why);
                self.board.set(AgentState::Failed, Some(why));
            }
            Effect::Log(text) => journal::say("bridge", &self.recipe.secrets.redact(&text)),
        }
    }

    /// Starts a process, or lets it wait while others hold the memory that it needs and are about to end. Its wait has the
    /// time that it has to become ready.
    fn spawn_in_turn(&self, id: ProcId, now: Instant) {
        let waits = !self.leaving.borrow().is_empty() && !locked(&self.measured).measure().fits_now();
        if waits {
            self.waiting.borrow_mut().push_back(id);
            locked(&self.measured).waiting += 1;
        } else {
            self.spawn(id, now);
        }
    }

    fn spawn_waiting(&self, now: Instant) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        locked(&self.measured).waiting = 0;
        for id in waiting {
            self.spawn_in_turn(id, now);
        }
    }

    fn stop(&self, id: ProcId) {
        let found = self.procs.borrow_mut().remove(&id);
        if let Some(p) = found {
            p.stop();
            locked(&self.measured).leaves(id);
            self.leaving.borrow_mut().insert(id, p);
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|w| *w == id) {
            waiting.remove(at);
            locked(&self.measured).waiting = waiting.len();
            self.bridge.borrow_mut().reaped();
        }
    }

    fn spawn(&self, id: ProcId, now: Instant) {
        let Some(this) = self.this.upgrade() else { return };
        match process::start(&this, id) {
            Ok(handle) => {
                self.running.set(self.running.get() + 1);
                let server = Server {
                    pid: handle.pid(),
                    born: handle.born(),
                    leaving: false,
                };
                locked(&self.measured).servers.insert(id, server);
                self.procs.borrow_mut().insert(id, handle);
            }
            Err(why) => self.bridge.borrow_mut().gone(now, id, &why),
        }
    }

    /// A process has ended.
    pub(super) fn ended(&self, id: ProcId, why: &str) {
        self.running.set(self.running.get().saturating_sub(1));
        self.leaving.borrow_mut().remove(&id);
        locked(&self.measured).servers.remove(&id);
        if self.procs.borrow_mut().remove(&id).is_some() {
            self.with(|b, now| b.gone(now, id, why));
        } else {
            self.with(|b, _| b.reaped());
        }
        if !self.waiting.borrow().is_empty() && !self.closed.get() {
            let now = Instant::now();
            self.spawn_waiting(now);
            // One that could not be started has ended.
            self.with(|_, _| {});
        }
    }

    /// Takes the lines that wait for a process's stdin.
    pub(super) fn take_input(&self, id: ProcId, buffer: &mut Vec<u8>) {
        self.bridge.borrow_mut().take_input(id, buffer);
    }

    /// Closes every process's stdin and sees them end.
    pub(super) fn stop_all(&self) {
        self.waiting.borrow_mut().clear();
        locked(&self.measured).waiting = 0;
        for (_, p) in self.procs.borrow_mut().drain() {
            p.stop();
        }
    }

    /// Ends every session, call, stream and process in an orderly way: clients are told why.
    pub(super) fn close(&self, why: &str) {
        self.closed.set(true);
        self.with(|b, now| b.close(now, why));
        self.stop_all();
        let left: Vec<Rc<Slot>> = self.slots.borrow_mut().drain().map(|(_, slot)| slot).collect();
        for slot in left {
            slot.head(head(HttpAnswer {
                status: 503,
                retry_after: Some(1),
                body: message::error("", codes::NOT_READY, why, None).into(),
                ..HttpAnswer::default()
            }));
            slot.end();
        }
        self.wake.notify_one();
    }

    /// Whether it takes nothing any more.
    pub(super) fn closed(&self) -> bool {
        self.closed.get()
    }

    /// One round trip to the server: `None` is healthy.
    pub(super) async fn health(&self, limit: Duration) -> Option<String> {
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        let (tell, told) = oneshot::channel();
        self.probes.borrow_mut().insert(ticket, tell);
        self.with(|b, now| b.health(now, ticket, limit));
        let answer = tokio::time::timeout(limit, told).await;
        self.probes.borrow_mut().remove(&ticket);
        match answer {
            Ok(Ok(fault)) => fault,
            _ => Some(format!("the server gave no answer within {} ms", limit.as_millis())),
        }
    }
}

fn locked(running: &Mutex<Running>) -> std::sync::MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

fn head(answer: HttpAnswer) -> Head {
    let (status, headers) = answer.head();
    Head {
        status,
        headers,
        body: Some(answer.body),
    }
}

fn open_head(session: Option<&str>) -> Head {
    Head {
        status: StatusCode::OK,
        headers: stream_head(session),
        body: None::<Bytes>,
    }
}
