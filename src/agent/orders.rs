//! Takes the start order and carries it out; knows what `/mcp` and the health contract mean for it.
//!
//! An order is taken once; one of the same spec with changed credentials takes its place (`renew`). Never keeps a
//! credential longer than there are processes to start with it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::files;
use super::greet;
use super::hub::{Hub, Recipe};
use super::proxy::{self, Trouble};
use super::reap::Reaper;
use super::redact::Patterns;
use super::room::Kills;
use super::services;
use super::status::Board;
use super::switch::Switches;
use crate::budget::Budget;
use crate::mcp::bridge::Config;
use crate::model::{AgentState, HealthKind, McpTransport, Processes, ServiceStatus, StartOrder};

/// How soon the health contract is tried again before it is met for the first time: at first, and at last.
const TRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// What became of a start order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It runs, or ran already.
    Yes,
    /// Another spec runs.
    Other,
}

/// What `/mcp` is served by.
#[derive(Debug, Clone)]
pub(super) enum Endpoint {
    Bridge(Rc<Hub>),
    Proxy(Rc<proxy::Place>),
}

/// The order and what runs by it.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) board: Rc<Board>,
    pub(super) reaper: Rc<Reaper>,
    pub(super) switches: Switches,
    /// What messages on their way may take of the container's memory.
    pub(super) budget: Budget,
    pub(super) kills: Rc<Kills>,
    order: RefCell<Option<Rc<StartOrder>>>,
    pub(super) endpoint: RefCell<Option<Endpoint>>,
    secrets: RefCell<Arc<Patterns>>,
    stopping: Cell<bool>,
    /// Counts the orders that were begun: what an earlier one started has nothing to say any more.
    pub(super) epoch: Cell<u64>,
    /// The order that takes the present one's place as soon as nothing of that runs.
    pub(super) next: RefCell<Option<StartOrder>>,
    pub(super) renewing: Cell<bool>,
}

impl Orders {
    pub(super) fn new(board: Rc<Board>, reaper: Rc<Reaper>) -> Self {
        Self {
            kills: Kills::of_container(Rc::clone(&board)),
            board,
            reaper,
            switches: Switches::default(),
            budget: Budget::of_container(),
            order: RefCell::default(),
            endpoint: RefCell::default(),
            secrets: RefCell::default(),
            stopping: Cell::new(false),
            epoch: Cell::new(0),
            next: RefCell::default(),
            renewing: Cell::new(false),
        }
    }

    /// Takes an order.
    pub(super) fn take(self: &Rc<Self>, order: StartOrder) -> Taken {
        if let Some(spec) = self.board.spec() {
            if spec != order.spec {
                return Taken::Other;
            }
            if order.revision > self.board.revision() {
                self.renew(order);
            }
            return Taken::Yes;
        }
        self.begin(order);
        Taken::Yes
    }

    /// Starts what an order says.
    pub(super) fn begin(self: &Rc<Self>, mut order: StartOrder) {
        // What must not show is what the files hold, and not where they are.
        let patterns = Patterns::of(order.env.values());
        let placed = files::place(&mut order);
        let order = Rc::new(order);
        self.epoch.set(self.epoch.get() + 1);
        let names = order.services.iter().map(|s| ServiceStatus {
            name: s.name.clone(),
            ready: false,
            restarts: 0,
        });
        *self.secrets.borrow_mut() = Arc::new(patterns);
        *self.order.borrow_mut() = Some(Rc::clone(&order));
        self.board.starting(&order.spec, order.revision, names.collect());
        if let Err(why) = placed {
            return self.board.set(AgentState::Failed, Some(why));
        }
        let this = Rc::clone(self);
        let next = {
            let (this, order) = (Rc::clone(self), Rc::clone(&order));
            move || this.serve(&order)
        };
        tokio::task::spawn_local(services::start_then(this, order, next));
    }

    /// The services are ready: serve.
    fn serve(self: &Rc<Self>, order: &Rc<StartOrder>) {
        let by_answer = matches!(order.health.kind, HealthKind::Mcp);
        match &order.mcp.transport {
            McpTransport::Stdio {
                command,
                env,
                processes,
            } => {
                let recipe = Recipe {
                    command: command.clone(),
                    env: env.clone(),
                    order: order.env.clone(),
                    secrets: self.secrets(),
                    max_message: order.mcp.max_message,
                };
                let config = Config::new(&order.mcp, *processes);
                let (reaper, board) = (Rc::clone(&self.reaper), Rc::clone(&self.board));
                let memory = (self.budget.clone(), Rc::clone(&self.kills));
                let hub = Hub::new(config, recipe, reaper, board, memory, by_answer);
                self.board.attach(&hub);
                *self.endpoint.borrow_mut() = Some(Endpoint::Bridge(Rc::clone(&hub)));
                hub.start();
                if !by_answer {
                    self.probe_until_ready(order);
                }
            }
            McpTransport::Http { port, path } => {
                // Translated, each session has a connection of its own.
                let config = Config::new(&order.mcp, Processes::Session);
                let place = proxy::Place::new(*port, path, self.secrets(), config, self.budget.clone());
                *self.endpoint.borrow_mut() = Some(Endpoint::Proxy(place));
                self.probe_until_ready(order);
            }
            McpTransport::Remote { .. } => {
                let why = "a remote server is reached by the supervisor, not from a container".to_owned();
                self.board.set(AgentState::Failed, Some(why));
            }
        }
    }

    fn probe_until_ready(self: &Rc<Self>, order: &StartOrder) {
        let this = Rc::clone(self);
        let limit = Duration::from_millis(order.mcp.start_timeout_ms);
        let epoch = self.epoch.get();
        tokio::task::spawn_local(async move {
            let end = Instant::now() + limit;
            let mut wait = TRY.0;
            loop {
                let answer = this.health().await;
                if this.over(epoch) {
                    return;
                }
                match answer {
                    None => return this.board.set(AgentState::Ready, None),
                    Some(why) if Instant::now() >= end => {
                        return this
                            .board
                            .set(AgentState::Failed, Some(format!("not healthy in time: {why}")));
                    }
                    Some(why) => this.board.set(AgentState::Starting, Some(why)),
                }
                sleep(wait).await;
                wait = (wait * 2).min(TRY.1);
            }
        });
    }

    /// What serves `/mcp`, once there is something.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.borrow().clone()
    }

    /// The values that must not show.
    pub(super) fn secrets(&self) -> Arc<Patterns> {
        Arc::clone(&self.secrets.borrow())
    }

    /// One message at most, in bytes.
    pub(super) fn max_message(&self) -> usize {
        self.order.borrow().as_ref().map_or(0, |o| o.mcp.max_message)
    }

    /// Where the display speaks RFB, if there is one.
    pub(super) fn screen(&self) -> Option<u16> {
        self.order.borrow().as_ref().and_then(|o| o.screen)
    }

    pub(super) fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether what was begun in this epoch is to end: another order took its place, or everything ends.
    pub(super) fn over(&self, epoch: u64) -> bool {
        self.stopping.get() || self.epoch.get() != epoch
    }

    /// Asks the health contract: `None` is healthy.
    pub(super) async fn health(&self) -> Option<String> {
        let Some(order) = self.order.borrow().clone() else {
            return Some("no start order yet".to_owned());
        };
        let limit = Duration::from_millis(order.health.timeout_ms);
        let Some(endpoint) = self.endpoint() else {
            return Some("services are starting".to_owned());
        };
        let late = || Some(format!("no answer within {} ms", limit.as_millis()));
        match (&order.health.kind, endpoint) {
            (HealthKind::Http { port, path }, endpoint) => {
                let fault = timeout(limit, proxy::probe(*port, path))
                    .await
                    .unwrap_or_else(|_| late());
                match endpoint {
                    // To learn where it is. How it does is for the other question to tell.
                    Endpoint::Proxy(place) if fault.is_none() && !place.is_found() => {
                        match timeout(limit, place.find()).await {
                            Ok(Err(moved @ Trouble::Moved(_))) => Some(self.words(&moved)),
                            _ => None,
                        }
                    }
                    _ => fault,
                }
            }
            (HealthKind::Mcp, Endpoint::Bridge(hub)) => hub.health(limit).await,
            (HealthKind::Mcp, Endpoint::Proxy(place)) => match timeout(limit, greet::probe(&place, limit)).await {
                Ok(Ok(())) => None,
                Ok(Err(trouble)) => Some(self.words(&trouble)),
                Err(_) => {
                    let why = format!("no answer from {} within {} ms", place.name(), limit.as_millis());
                    Some(self.words(&Trouble::Fault(why)))
                }
            },
        }
    }

    /// Where a service redirects to, and what it says, could hold a credential.
    fn words(&self, trouble: &Trouble) -> String {
        let secrets = self.secrets();
        trouble.words(|text| secrets.redact(text))
    }

    /// Ends everything within `limit`: servers by a closed stdin, then SIGTERM for all, then SIGKILL.
    pub(super) async fn stop(&self, limit: Duration) {
        self.stopping.set(true);
        if let Some(Endpoint::Bridge(hub)) = self.endpoint() {
            hub.stop_all();
            let _ = timeout(limit / 4, hub_empty(&hub)).await;
        }
        self.reaper.signal_all(Signal::SIGTERM);
        if timeout(limit / 2, self.reaper.none_left()).await.is_err() {
            self.reaper.kill_all();
            let _ = timeout(limit / 8, self.reaper.none_left()).await;
        }
    }
}

pub(super) async fn hub_empty(hub: &Hub) {
    while hub.processes() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
}
