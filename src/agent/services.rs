//! The services beside the MCP server: started in order, each when the one before is ready; restarted by policy.
//!
//! ```text
//! starting ──ready──► running ──ended──► (policy says again) waiting 100 ms … 10 s ──► starting
//!     └─too late, or ended and not to be restarted──► the agent has failed
//! ```

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::journal::{self, LastWords};
use super::orders::Orders;
use super::reap::Ended;
use super::spawn::{self, Environment};
use crate::model::{AgentState, Ready, RestartPolicy, ServiceOrder, StartOrder};

/// Shortest and longest wait before a restart, and the life after which the wait starts over.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const SETTLED: Duration = Duration::from_secs(60);
/// How often a port is tried.
const TRY: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
struct Mark {
    ready: Cell<bool>,
    /// It will not be started again.
    over: Cell<bool>,
    changed: Notify,
}

/// Starts all services in order. `Err` says which one did not become ready, and why.
pub(super) async fn start(orders: &Rc<Orders>, order: &Rc<StartOrder>) -> Result<(), String> {
    let epoch = orders.epoch.get();
    for (index, service) in order.services.iter().enumerate() {
        let mark = Rc::new(Mark::default());
        let words = Rc::new(LastWords::default());
        let task = run(
            Rc::clone(orders),
            Rc::clone(order),
            index,
            Rc::clone(&mark),
            Rc::clone(&words),
        );
        tokio::task::spawn_local(task);
        let limit = match service.ready {
            Ready::Started => Duration::from_secs(10),
            Ready::Port { timeout_ms, .. } => Duration::from_millis(timeout_ms),
        };
        let settled = async {
            while !mark.ready.get() && !mark.over.get() {
                mark.changed.notified().await;
            }
        };
        let in_time = timeout(limit, settled).await.is_ok();
        if orders.over(epoch) {
            break;
        }
        if !mark.ready.get() {
            let what = if in_time { "ended" } else { "was not ready in time" };
            return Err(format!(
                "service {} {what}; its last words: {}",
                service.name,
                words.text()
            ));
        }
    }
    Ok(())
}

async fn run(orders: Rc<Orders>, order: Rc<StartOrder>, index: usize, mark: Rc<Mark>, words: Rc<LastWords>) {
    let Some(service) = order.services.get(index) else {
        return;
    };
    let mut wait = WAIT.0;
    let epoch = orders.epoch.get();
    loop {
        let born = Instant::now();
        let ended = once(&orders, &order, index, service, &mark, &words).await;
        if orders.over(epoch) {
            mark.over.set(true);
            mark.changed.notify_one();
            return;
        }
        orders.board.service(index, |s| s.ready = false);
        let again = match service.restart {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => ended != Ok(Ended::Status(0)),
            RestartPolicy::Never => false,
        };
        let how = ended.map_or_else(|e| e, |e| orders.kills.account(e).unwrap_or_else(|| e.to_string()));
        journal::say(&service.name, &how);
        if !again {
            mark.over.set(true);
            mark.changed.notify_one();
            return;
        }
        if born.elapsed() >= SETTLED {
            wait = WAIT.0;
        }
        sleep(wait).await;
        wait = (wait * 2).min(WAIT.1);
        if orders.over(epoch) {
            return;
        }
        orders.board.service(index, |s| s.restarts += 1);
    }
}

/// One life of a service.
async fn once(
    orders: &Rc<Orders>,
    order: &StartOrder,
    index: usize,
    service: &ServiceOrder,
    mark: &Rc<Mark>,
    words: &Rc<LastWords>,
) -> Result<Ended, String> {
    let environment = Environment {
        own: &service.env,
        order: &order.env,
    };
    let child = spawn::spawn(&orders.reaper, &service.command, &environment, false)?;
    let name: Rc<str> = service.name.as_str().into();
    let secrets = orders.secrets();
    journal::drain(Rc::clone(&name), child.stderr, Arc::clone(&secrets), Rc::clone(words));
    journal::drain(name, child.stdout, secrets, Rc::new(LastWords::default()));
    let ready = async {
        if let Ready::Port { port, .. } = service.ready {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(TRY).await;
            }
        }
    };
    tokio::select! {
        ended = child.exit.wait() => return Ok(ended),
        () = ready => {
            orders.board.service(index, |s| s.ready = true);
            mark.ready.set(true);
            mark.changed.notify_one();
        }
    }
    Ok(child.exit.wait().await)
}

/// Starts the services, then whatever `next` is; a failure is the agent's.
pub(super) async fn start_then(orders: Rc<Orders>, order: Rc<StartOrder>, next: impl FnOnce()) {
    let epoch = orders.epoch.get();
    let started = start(&orders, &order).await;
    if orders.over(epoch) {
        return;
    }
    match started {
        Ok(()) => next(),
        Err(why) => orders.board.set(AgentState::Failed, Some(why)),
    }
}
