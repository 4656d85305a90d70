//! Takes the start order and carries it out; knows what `/mcp` and the health contract mean for it.
//!
//! An order is taken once. Never keeps a credential longer than there are processes to start with it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep, timeout};

use super::budget::Budget;
use super::hub::{Hub, Recipe};
use super::reap::Reaper;
use super::status::Board;
use super::switch::Switches;
use super::{proxy, services};
use crate::mcp::bridge::Config;
use crate::model::{AgentState, HealthKind, McpTransport, Secret, ServiceStatus, StartOrder};

/// How often the health contract is tried before it is met for the first time.
const TRY: Duration = Duration::from_millis(50);

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
    Proxy { port: u16, path: Rc<str> },
}

/// The order and what runs by it.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) board: Rc<Board>,
    pub(super) reaper: Rc<Reaper>,
    pub(super) switches: Switches,
    /// What messages on their way may take of the container's memory.
    pub(super) budget: Budget,
    order: RefCell<Option<Rc<StartOrder>>>,
    endpoint: RefCell<Option<Endpoint>>,
    secrets: RefCell<Rc<[Secret]>>,
    stopping: Cell<bool>,
}

impl Orders {
    pub(super) fn new(board: Rc<Board>, reaper: Rc<Reaper>) -> Self {
        Self {
            board,
            reaper,
            switches: Switches::default(),
            budget: Budget::of_container(),
            order: RefCell::default(),
            endpoint: RefCell::default(),
            secrets: RefCell::new(Rc::new([])),
            stopping: Cell::new(false),
        }
    }

    /// Takes an order.
    pub(super) fn take(self: &Rc<Self>, order: StartOrder) -> Taken {
        if let Some(spec) = self.board.spec() {
            return if spec == order.spec { Taken::Yes } else { Taken::Other };
        }
        let order = Rc::new(order);
        let names = order.services.iter().map(|s| ServiceStatus {
            name: s.name.clone(),
            ready: false,
            restarts: 0,
        });
        // Output is looked at line by line, so the lines of a longer secret count one by one.
        let values = order.env.values().map(Secret::expose);
        let lines = values.clone().filter(|v| v.contains('\n')).flat_map(str::lines);
        *self.secrets.borrow_mut() = values.chain(lines).map(Secret::new).collect();
        *self.order.borrow_mut() = Some(Rc::clone(&order));
        self.board.starting(&order.spec, names.collect());
        let this = Rc::clone(self);
        let next = {
            let (this, order) = (Rc::clone(self), Rc::clone(&order));
            move || this.serve(&order)
        };
        tokio::task::spawn_local(services::start_then(this, order, next));
        Taken::Yes
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
                let hub = Hub::new(config, recipe, reaper, board, self.budget.clone(), by_answer);
                self.board.attach(&hub);
                *self.endpoint.borrow_mut() = Some(Endpoint::Bridge(Rc::clone(&hub)));
                hub.start();
                if !by_answer {
                    self.probe_until_ready(order);
                }
            }
            McpTransport::Http { port, path } => {
                *self.endpoint.borrow_mut() = Some(Endpoint::Proxy {
                    port: *port,
                    path: path.as_str().into(),
                });
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
        tokio::task::spawn_local(async move {
            let end = Instant::now() + limit;
            loop {
                match this.health().await {
                    None => return this.board.set(AgentState::Ready, None),
                    Some(why) if Instant::now() >= end => {
                        return this
                            .board
                            .set(AgentState::Failed, Some(format!("not healthy in time: {why}")));
                    }
                    Some(_) => sleep(TRY).await,
                }
            }
        });
    }

    /// What serves `/mcp`, once there is something.
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.borrow().clone()
    }

    /// The values that must not show.
    pub(super) fn secrets(&self) -> Rc<[Secret]> {
        Rc::clone(&self.secrets.borrow())
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
            (HealthKind::Http { port, path }, _) => timeout(limit, proxy::probe(*port, path))
                .await
                .unwrap_or_else(|_| late()),
            (HealthKind::Mcp, Endpoint::Bridge(hub)) => hub.health(limit).await,
            (HealthKind::Mcp, Endpoint::Proxy { port, path }) => timeout(limit, proxy::probe_mcp(port, &path))
                .await
                .unwrap_or_else(|_| late()),
        }
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

async fn hub_empty(hub: &Hub) {
    while hub.processes() > 0 {
        sleep(Duration::from_millis(10)).await;
    }
}
