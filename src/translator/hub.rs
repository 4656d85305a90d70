//! The bridge and the connections that it drives.
//!
//! Everything happens under one lock that is never held across a wait: what the bridge and the connections decide is
//! carried out by tasks, one for each HTTP exchange with the server. It ends when nobody has used it for a while, when its
//! server cannot be spoken to, and when it is closed; then nothing of it goes on.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, request};
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::body::{self, Body, Keep, Writer};
use super::{Server, refuse};
use crate::budget::Budget;
use crate::mcp::bridge::{Bridge, Config, Effect, HttpAnswer, ProcId, WireId, named, stream_head};
use crate::mcp::client_side::{Connection, Effect as Step, ExchangeId, is_stream};
use crate::mcp::frame::Line;
use crate::mcp::{codes, head};

/// How often the bridge looks at its deadlines while something is under way, and while nothing is.
const TICKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// The end of a session at the server may take so long.
const END: Duration = Duration::from_secs(5);

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Starting,
    Ready,
    Over(String),
}

/// A client's exchange.
struct Wire {
    head: Option<oneshot::Sender<Response<Opened>>>,
    writer: Option<Writer>,
}

/// An answer's body before it is known who reads it.
enum Opened {
    Full(Bytes),
    Stream(Box<dyn FnOnce(Keep) -> Body + Send>),
}

struct State {
    bridge: Bridge,
    connections: HashMap<ProcId, Connection>,
    tasks: HashMap<(ProcId, ExchangeId), AbortHandle>,
    wires: HashMap<WireId, Wire>,
    next: WireId,
    used: Instant,
}

/// See the module's text.
pub(super) struct Hub {
    server: Arc<dyn Server>,
    config: Config,
    budget: Budget,
    state: Mutex<State>,
    stage: watch::Sender<Stage>,
    wake: Notify,
    /// Also of those who end it, wherever they do.
    runtime: Handle,
}

/// Ends an exchange when its client is gone, or has its answer.
struct HangUp(Weak<Hub>, WireId);

impl Drop for HangUp {
    fn drop(&mut self) {
        let Some(hub) = self.0.upgrade() else { return };
        let wire = self.1;
        hub.with(|s, now| {
            if s.wires.remove(&wire).is_some() {
                s.bridge.closed(now, wire);
            }
        });
    }
}

impl Hub {
    /// A hub, and its first connection.
    pub(super) fn start(server: Arc<dyn Server>, config: Config, budget: Budget) -> Arc<Self> {
        let state = State {
            bridge: Bridge::new(config.clone(), Box::new(super::random)),
            connections: HashMap::new(),
            tasks: HashMap::new(),
            wires: HashMap::new(),
            next: 1,
            used: Instant::now(),
        };
        let hub = Arc::new(Self {
            server,
            config,
            budget,
            state: Mutex::new(state),
            stage: watch::Sender::new(Stage::Starting),
            wake: Notify::new(),
            runtime: Handle::current(),
        });
        hub.with(|s, now| s.bridge.start(now));
        hub.runtime.spawn(ticks(Arc::downgrade(&hub)));
        hub
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(&*self.stage.borrow(), Stage::Over(_))
    }

    /// Waits until the server can be spoken to.
    ///
    /// # Errors
    /// Why it cannot; `None` when that is not known yet.
    pub(super) async fn ready(&self) -> Result<(), Option<String>> {
        let mut stage = self.stage.subscribe();
        let known = timeout(self.config.start, stage.wait_for(|s| *s != Stage::Starting)).await;
        match known.ok().and_then(Result::ok).as_deref() {
            Some(Stage::Ready) => Ok(()),
            Some(Stage::Over(why)) => Err(Some(why.clone())),
            _ => Err(None),
        }
    }

    /// Whether a request belongs to a session, or to a stream, that is here.
    pub(super) fn knows(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        let (session, channel) = (head::text(headers, head::SESSION), named(query));
        (session.is_some() || channel.is_some()) && self.lock().bridge.knows(session, channel)
    }

    /// Puts a request to the bridge; its answer.
    pub(super) fn ask(
        self: &Arc<Self>,
        parts: &request::Parts,
        body: &[u8],
    ) -> impl Future<Output = Response<Body>> + use<> {
        let (tell, told) = oneshot::channel();
        let mut wire = 0;
        self.with(|s, now| {
            (wire, s.next, s.used) = (s.next, s.next + 1, now);
            let exchange = Wire {
                head: Some(tell),
                writer: None,
            };
            s.wires.insert(wire, exchange);
            s.bridge.request_of(now, wire, parts, body);
        });
        let keep = HangUp(Arc::downgrade(self), wire);
        async move {
            match told.await {
                Ok(answer) => answer.map(|opened| match opened {
                    Opened::Full(bytes) => Body::full(bytes),
                    Opened::Stream(make) => make(Box::new(keep)),
                }),
                Err(_) => {
                    let text = "the server is no longer spoken to, try again";
                    refuse(StatusCode::SERVICE_UNAVAILABLE, codes::NOT_READY, text)
                }
            }
        }
    }

    /// Ends what a principal has here; how many sessions there were.
    pub(super) fn forget(self: &Arc<Self>, principal: &str, why: &str) -> usize {
        let mut ended = 0;
        self.with(|s, now| ended = s.bridge.forget(now, principal, why));
        ended
    }

    /// Ends everything; clients are told why.
    pub(super) fn close(self: &Arc<Self>, why: &str) {
        self.over(why);
        self.with(|s, now| s.bridge.close(now, why));
        let mut s = self.lock();
        s.wires.clear();
        for (_, task) in s.tasks.drain() {
            task.abort();
        }
    }

    fn over(&self, why: &str) {
        self.stage.send_modify(|stage| {
            if !matches!(stage, Stage::Over(_)) {
                *stage = Stage::Over(why.to_owned());
            }
        });
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the bridge think, then does what it decided.
    fn with(self: &Arc<Self>, think: impl FnOnce(&mut State, Instant)) {
        let now = Instant::now();
        let mut s = self.lock();
        let was = s.bridge.busy();
        think(&mut s, now);
        loop {
            let effects = s.bridge.take_effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.apply(&mut s, effect, now);
            }
        }
        if s.bridge.busy() && !was {
            self.wake.notify_one();
        }
    }

    fn apply(self: &Arc<Self>, s: &mut State, effect: Effect, now: Instant) {
        match effect {
            Effect::Spawn(proc) => {
                let connection = Connection::new(&self.server.path(), self.config.max_message);
                s.connections.insert(proc, connection);
            }
            Effect::Input(proc) => {
                let mut lines = Vec::new();
                s.bridge.take_input(proc, &mut lines);
                if let Some(connection) = s.connections.get_mut(&proc) {
                    connection.write(&lines);
                }
                self.carry_out(s, proc, now);
            }
            Effect::Stop(proc) => {
                self.end(s, proc);
                s.bridge.reaped();
            }
            Effect::Answer(wire, mut answer) => {
                answer.body = self.budget.hold(answer.body);
                if let Some(head) = s.wires.remove(&wire).and_then(|w| w.head) {
                    // Its client may be gone.
                    let _ = head.send(whole(answer));
                }
            }
            Effect::Open(wire, session) => {
                if let Some(wire) = s.wires.get_mut(&wire)
                    && let Some(head) = wire.head.take()
                {
                    let (writer, make) = body::stream(&self.budget);
                    wire.writer = Some(writer);
                    let mut answer = Response::new(Opened::Stream(Box::new(make)));
                    *answer.headers_mut() = stream_head(session.as_deref());
                    let _ = head.send(answer);
                }
            }
            Effect::Send(wire, bytes) => {
                let writer = s.wires.get(&wire).and_then(|w| w.writer.as_ref());
                if writer.is_some_and(|w| !w.send(bytes)) {
                    s.wires.remove(&wire);
                    s.bridge.closed(now, wire);
                }
            }
            Effect::Close(wire) => drop(s.wires.remove(&wire)),
            // The server's health is asked for elsewhere.
            Effect::Health(..) => {}
            Effect::Ready => self.stage.send_modify(|stage| {
                if *stage == Stage::Starting {
                    *stage = Stage::Ready;
                }
            }),
            Effect::Failed(why) => {
                self.over(&why);
                s.bridge.close(now, &why);
            }
            Effect::Log(text) => self.server.log(&text),
        }
    }

    /// Does what a connection decided.
    fn carry_out(self: &Arc<Self>, s: &mut State, proc: ProcId, now: Instant) {
        let steps = s.connections.get_mut(&proc).map(Connection::take_effects);
        for step in steps.unwrap_or_default() {
            match step {
                Step::Send(id, mut out) => {
                    out.body = self.budget.hold(out.body);
                    let task = self
                        .runtime
                        .spawn(exchange(Arc::downgrade(self), proc, id, self.server.send(out)));
                    s.tasks.insert((proc, id), task.abort_handle());
                }
                Step::Drop(id) => {
                    if let Some(task) = s.tasks.remove(&(proc, id)) {
                        task.abort();
                    }
                }
                Step::Line(line) => s.bridge.line(now, proc, &Line::Whole(&line)),
                Step::Gone(why) => {
                    self.end(s, proc);
                    s.bridge.hung_up(now, proc, &why);
                }
                Step::Forgotten(unsent) => {
                    self.end(s, proc);
                    s.bridge.forgotten(now, proc, &unsent);
                }
            }
        }
    }

    /// Ends a connection, and its session at the server.
    fn end(&self, s: &mut State, proc: ProcId) {
        let Some(mut connection) = s.connections.remove(&proc) else {
            return;
        };
        let last = connection.close();
        s.tasks.retain(|(of, _), task| {
            if *of == proc {
                task.abort();
            }
            *of != proc
        });
        if let Some(out) = last {
            // A server that does not end sessions on request lets them expire.
            let sent = self.server.send(out);
            self.runtime.spawn(async move { drop(timeout(END, sent).await) });
        }
    }

    /// What one exchange came to, for its connection; `false` when nobody wants to know any more.
    fn tell(self: &Arc<Self>, proc: ProcId, what: impl FnOnce(&mut Connection, Instant)) -> bool {
        let mut there = false;
        self.with(|s, now| {
            if let Some(connection) = s.connections.get_mut(&proc) {
                there = true;
                what(connection, now);
                self.carry_out(s, proc, now);
            }
        });
        there
    }

    /// Looks at deadlines; how long until the next time. `None`: it is over.
    fn tick(self: &Arc<Self>) -> Option<Duration> {
        let mut idle = false;
        let mut busy = false;
        self.with(|s, now| {
            s.bridge.tick(now);
            let procs: Vec<ProcId> = s.connections.keys().copied().collect();
            for proc in procs {
                if let Some(connection) = s.connections.get_mut(&proc) {
                    connection.tick(now);
                }
                self.carry_out(s, proc, now);
            }
            let [sessions, calls, streams, asks, _] = s.bridge.held();
            idle = s.wires.is_empty() && [sessions, calls, streams, asks] == [0; 4] && now >= s.used + self.config.idle;
            busy = s.bridge.busy() || s.connections.values().any(Connection::waits);
        });
        if idle {
            self.close("nobody has used it for a while");
        }
        (!self.is_over()).then_some(if busy { TICKS.0 } else { TICKS.1 })
    }
}

async fn ticks(hub: Weak<Hub>) {
    loop {
        let Some(hub) = hub.upgrade() else { return };
        let Some(wait) = hub.tick() else { return };
        if wait == TICKS.0 {
            drop(hub);
            sleep(wait).await;
        } else {
            let _ = timeout(wait, hub.wake.notified()).await;
        }
    }
}

/// Carries one exchange out.
async fn exchange(hub: Weak<Hub>, proc: ProcId, id: ExchangeId, sent: super::Sent) {
    let tell = |what: &mut dyn FnMut(&mut Connection, Instant)| {
        let hub = hub.upgrade();
        hub.is_some_and(|hub| hub.tell(proc, |connection, now| what(connection, now)))
    };
    match sent.await {
        Err(why) => drop(tell(&mut |c, now| c.failed(now, id, &why.0))),
        Ok(answer) => {
            let (parts, mut body) = answer.into_parts();
            // What is no stream is held until it is whole.
            let budget = hub.upgrade().map(|hub| hub.budget.clone());
            let mut held = budget.filter(|_| !is_stream(&parts.headers)).map(|b| b.force(0));
            let mut goes_on = tell(&mut |c, _| c.head(id, parts.status, &parts.headers));
            while goes_on {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        let piece = frame.into_data().unwrap_or_default();
                        if held.as_mut().is_some_and(|held| !held.grow(piece.len())) {
                            let why = "messages on their way take all the memory that they may";
                            tell(&mut |c, now| c.failed(now, id, why));
                            break;
                        }
                        goes_on = tell(&mut |c, _| c.data(id, &piece));
                    }
                    Some(Err(e)) => {
                        tell(&mut |c, now| c.failed(now, id, &e.to_string()));
                        break;
                    }
                    None => {
                        tell(&mut |c, now| c.end(now, id));
                        break;
                    }
                }
            }
        }
    }
    if let Some(hub) = hub.upgrade() {
        hub.lock().tasks.remove(&(proc, id));
    }
}

fn whole(answer: HttpAnswer) -> Response<Opened> {
    let (status, headers) = answer.head();
    let mut response = Response::new(Opened::Full(answer.body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
