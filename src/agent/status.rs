//! What the agent says of itself: the status, and who listens to its changes.
//!
//! ```text
//! waiting --start order--> starting --first healthy answer--> ready
//!                              |                                |
//!                              +------> failed <----------------+
//! ```

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::hub::Hub;
use super::slot::Slot;
use crate::model::{AGENT_PROTOCOL, AgentEvent, AgentState, AgentStatus, ServiceStatus};

/// How often a listener hears something at least.
const BEAT: Duration = Duration::from_secs(5);
/// Listeners at most; the oldest gives way.
const MAX_LISTENERS: usize = 8;

/// The status and its listeners.
#[derive(Debug)]
pub(super) struct Board {
    state: Cell<AgentState>,
    spec: RefCell<Option<String>>,
    revision: Cell<u64>,
    reason: RefCell<Option<String>>,
    services: RefCell<Vec<ServiceStatus>>,
    oom_kills: Cell<u32>,
    hub: RefCell<Weak<Hub>>,
    listeners: RefCell<Vec<Rc<Slot>>>,
    last: Cell<Instant>,
    failed: Notify,
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            state: Cell::new(AgentState::Waiting),
            spec: RefCell::default(),
            revision: Cell::new(0),
            reason: RefCell::default(),
            services: RefCell::default(),
            oom_kills: Cell::new(0),
            hub: RefCell::default(),
            listeners: RefCell::default(),
            last: Cell::new(Instant::now()),
            failed: Notify::new(),
        }
    }

    /// The hash of the order that was taken.
    pub(super) fn spec(&self) -> Option<String> {
        self.spec.borrow().clone()
    }

    /// The revision of the order that was taken.
    pub(super) fn revision(&self) -> u64 {
        self.revision.get()
    }

    /// An order of a higher revision was taken; what runs by the earlier one ends first.
    pub(super) fn renewing(&self, revision: u64) {
        self.revision.set(revision);
        self.set(
            AgentState::Starting,
            Some("restarting with changed credentials".to_owned()),
        );
    }

    /// An order is begun.
    pub(super) fn starting(&self, spec: &str, revision: u64, services: Vec<ServiceStatus>) {
        *self.spec.borrow_mut() = Some(spec.to_owned());
        self.revision.set(self.revision.get().max(revision));
        *self.services.borrow_mut() = services;
        self.set(AgentState::Starting, None);
    }

    /// Counts come from this hub from now on.
    pub(super) fn attach(&self, hub: &Rc<Hub>) {
        *self.hub.borrow_mut() = Rc::downgrade(hub);
    }

    /// Changes state and reason, and says so if that is news.
    pub(super) fn set(&self, state: AgentState, reason: Option<String>) {
        if self.state.get() == AgentState::Failed || (self.state.get() == state && *self.reason.borrow() == reason) {
            return;
        }
        self.state.set(state);
        *self.reason.borrow_mut() = reason;
        self.publish();
        if state == AgentState::Failed {
            self.failed.notify_one();
        }
    }

    /// Waits until the agent cannot run any more, and says why.
    pub(super) async fn failed(&self) -> String {
        while self.state.get() != AgentState::Failed {
            self.failed.notified().await;
        }
        self.reason.borrow().clone().unwrap_or_default()
    }

    /// Changes one service's entry.
    pub(super) fn service(&self, index: usize, change: impl FnOnce(&mut ServiceStatus)) {
        if let Some(s) = self.services.borrow_mut().get_mut(index) {
            change(s);
        }
        self.publish();
    }

    /// The kernel killed a server process for want of memory.
    pub(super) fn killed_for_memory(&self) {
        self.oom_kills.set(self.oom_kills.get().saturating_add(1));
        self.publish();
    }

    /// The status now.
    pub(super) fn status(&self) -> AgentStatus {
        let hub = self.hub.borrow().upgrade();
        AgentStatus {
            protocol: AGENT_PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.state.get(),
            spec: self.spec.borrow().clone(),
            revision: self.revision.get(),
            reason: self.reason.borrow().clone(),
            services: self.services.borrow().clone(),
            sessions: hub.as_ref().map_or(0, |h| h.sessions() as u32),
            processes: hub.as_ref().map_or(0, |h| h.processes() as u32),
            oom_kills: self.oom_kills.get(),
        }
    }

    /// A listener: hears the status now, and every change.
    pub(super) fn listen(&self) -> Rc<Slot> {
        let slot = Rc::new(Slot::default());
        slot.send(line(&AgentEvent::Status(self.status())));
        let mut all = self.listeners.borrow_mut();
        all.retain(|l| !l.dead.get());
        if all.len() >= MAX_LISTENERS {
            all.remove(0).end();
        }
        all.push(Rc::clone(&slot));
        slot
    }

    /// Says `alive` where nothing else was said for a while.
    pub(super) fn start_beat(self: &Rc<Self>) {
        let this = Rc::clone(self);
        tokio::task::spawn_local(async move {
            loop {
                let next = this.last.get() + BEAT;
                tokio::time::sleep_until(next).await;
                if Instant::now() >= this.last.get() + BEAT {
                    this.tell(&line(&AgentEvent::Alive));
                }
            }
        });
    }

    fn publish(&self) {
        self.tell(&line(&AgentEvent::Status(self.status())));
    }

    fn tell(&self, bytes: &Bytes) {
        self.last.set(Instant::now());
        let mut all = self.listeners.borrow_mut();
        all.retain(|l| !l.dead.get() && l.send(bytes.clone()));
    }
}

fn line(event: &AgentEvent) -> Bytes {
    // A status holds nothing that JSON cannot carry.
    let mut text = serde_json::to_vec(event).unwrap_or_default();
    text.push(b'\n');
    text.into()
}
