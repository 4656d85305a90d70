//! Feeds: what the guests of a modern process hear of changes. One `subscriptions/listen` of ours a process, whatever
//! the number of guests, asks for every change of lists and for the resources that they watch (MCP 2026-07-28,
//! basic/patterns/subscriptions).
//!
//! ```text
//!         somebody listens             acknowledged: the one before it is cancelled
//! silent ──────────────────► asked ─────────────────────────────────────────────────► in force
//!    ▲                         ▲ │ refused                                             │ │
//!    │                         │ └──────────────► silent                               │ │
//!    │                         └──other resources, or the server ended it: 5 s later ──┘ │
//!    └────────────────────────────the last guest is gone─────────────────────────────────┘
//! ```
//!
//! A new subscription is acknowledged before the old one is given up: nothing is missed, and a change at that very moment
//! is told twice at worst. A `resources/subscribe` is answered by what the server agreed to.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Bridge, CallId, ProcId, Role, SessionNo, StreamId, UNDELIVERED, What, listen};
use crate::mcp::message::{self, Message};
use crate::mcp::version::Era;
use crate::mcp::{codes, meta};

/// When a subscription that the server ended, or could not take yet, is asked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// Subscribers that may wait for the server's word.
const MAX_WAITING: usize = 1024;

/// The subscription of one process.
#[derive(Debug, Default)]
pub(super) struct Feed {
    /// The one in force.
    current: Option<CallId>,
    /// The one that was asked for, and its resources.
    next: Option<(CallId, BTreeSet<String>)>,
    /// Other resources are wanted than `next` has.
    stale: bool,
    /// Guests whose `resources/subscribe` waits for an answer.
    waiting: Vec<Waiter>,
    again_at: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    stream: StreamId,
    /// The client's id of the request, raw.
    id: Box<str>,
    session: SessionNo,
    uri: String,
}

/// What the server agreed to.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Agreed {
    resource_subscriptions: BTreeSet<String>,
}

impl Bridge {
    /// Feeds in force: calls that have no end.
    pub(super) fn quiet_feeds(&self) -> usize {
        self.feeds.values().filter(|f| f.current.is_some()).count()
    }

    /// The guests of a process.
    fn guests_of(&self, proc: ProcId) -> Vec<SessionNo> {
        let shared = Some(proc) == self.standing.proc;
        let here = |s: &super::Session| s.guest.is_some() && s.open && s.proc.map_or(shared, |own| own == proc);
        self.sessions
            .iter()
            .filter(|(_, s)| here(s))
            .map(|(no, _)| *no)
            .collect()
    }

    /// A guest has come.
    pub(super) fn feed_joined(&mut self, now: Instant, proc: ProcId) {
        if !self.feeds.contains_key(&proc) {
            self.feed(now, proc);
        }
    }

    /// A guest is gone, with what it watched.
    pub(super) fn feed_left(&mut self, now: Instant, own: Option<ProcId>) {
        if let Some(proc) = own.or(self.standing.proc) {
            self.feed(now, proc);
        }
    }

    /// Sees to it that a process's subscription is the one that its guests want.
    pub(super) fn feed(&mut self, now: Instant, proc: ProcId) {
        let modern = self.procs.get(&proc).is_some_and(|p| p.era == Era::Modern);
        let guests = if modern { self.guests_of(proc) } else { Vec::new() };
        if guests.is_empty() {
            return self.feed_stopped(now, proc);
        }
        let feed = self.feeds.entry(proc).or_default();
        feed.again_at = None;
        if feed.next.is_some() {
            feed.stale = true;
            return;
        }
        feed.stale = false;
        let waiting = feed.waiting.iter().map(|w| w.uri.clone());
        let watched = guests
            .iter()
            .filter_map(|no| self.sessions.get(no))
            .flat_map(|s| s.watched.iter().cloned());
        let uris: BTreeSet<String> = waiting.chain(watched).collect();
        let can = self.capabilities_of(proc);
        let mut filter = serde_json::Map::new();
        for list in ["tools", "prompts", "resources"] {
            if can[list]["listChanged"] == true {
                filter.insert(format!("{list}ListChanged"), true.into());
            }
        }
        if !uris.is_empty() {
            filter.insert("resourceSubscriptions".to_owned(), uris.iter().cloned().collect());
        }
        if filter.is_empty() {
            return self.feed_stopped(now, proc);
        }
        if self.clogged(proc) {
            if let Some(feed) = self.feeds.get_mut(&proc) {
                feed.again_at = Some(now + AGAIN);
            }
            return;
        }
        let about = meta::request_meta("{}", Some(meta::client_info()), None);
        let filter = serde_json::Value::Object(filter);
        let params = format!("{{\"_meta\":{about},\"notifications\":{filter}}}");
        let id = self.request(now, proc, "subscriptions/listen", &params, What::Feed);
        if let Some(call) = self.calls.get_mut(&id) {
            call.deadline = Some(now + UNDELIVERED);
        }
        if let Some(feed) = self.feeds.get_mut(&proc) {
            feed.next = Some((id, uris));
        }
    }

    /// Nobody is there who wants to hear.
    fn feed_stopped(&mut self, now: Instant, proc: ProcId) {
        let Some(feed) = self.feeds.remove(&proc) else { return };
        for w in &feed.waiting {
            self.feed_answer(now, w, Err((codes::SERVER_GONE, "the session has ended")));
        }
        for id in feed.current.into_iter().chain(feed.next.map(|(id, _)| id)) {
            self.feed_cancelled(proc, id);
        }
    }

    fn feed_cancelled(&mut self, proc: ProcId, id: CallId) {
        if self.unregister(id).is_some() {
            self.cancel(proc, id, "nobody listens any more");
        }
    }

    /// The process is gone.
    pub(super) fn feed_gone(&mut self, now: Instant, proc: ProcId, why: &str) {
        let waiting = self.feeds.remove(&proc).map(|f| f.waiting).unwrap_or_default();
        for w in waiting {
            self.feed_answer(now, &w, Err((codes::SERVER_GONE, why)));
        }
    }

    /// A guest subscribes to a resource, or gives it up.
    pub(super) fn guest_watches(
        &mut self,
        now: Instant,
        stream: StreamId,
        no: SessionNo,
        proc: ProcId,
        m: &Message<'_>,
    ) {
        if self.capabilities_of(proc)["resources"]["subscribe"] != true {
            let text = "this server has no subscriptions to resources";
            return self.refuse_on(now, stream, m.id, 200, codes::METHOD_NOT_FOUND, text);
        }
        let Some(uri) = message::params(m.params).and_then(|p| message::string(p.uri?.get())) else {
            return self.refuse_on(now, stream, m.id, 200, codes::INVALID_PARAMS, "params has no uri");
        };
        let Some(s) = self.sessions.get_mut(&no) else { return };
        if m.method == "resources/unsubscribe" {
            if s.watched.remove(&uri) {
                self.watched_bytes -= uri.len();
                self.feed(now, proc);
            }
            return self.respond(now, stream, message::result(m.id, "{}"), 200);
        }
        if s.watched.contains(&uri) {
            return self.respond(now, stream, message::result(m.id, "{}"), 200);
        }
        if let Err((status, code, text)) = self.may_watch(no, &uri) {
            return self.refuse_on(now, stream, m.id, status, code, text);
        }
        let feed = self.feeds.entry(proc).or_default();
        if feed.waiting.len() >= MAX_WAITING {
            return self.refuse_on(now, stream, m.id, 503, codes::BUSY, super::TOO_MUCH);
        }
        self.watched_bytes += uri.len();
        feed.waiting.push(Waiter {
            stream,
            id: m.id.into(),
            session: no,
            uri,
        });
        self.feed(now, proc);
    }

    /// Answers a guest that waited; what it waited for is its own from now on, or is not.
    fn feed_answer(&mut self, now: Instant, w: &Waiter, answer: Result<(), (i64, &str)>) {
        let session = self.sessions.get_mut(&w.session).filter(|_| answer.is_ok());
        if !session.is_some_and(|s| s.watched.insert(w.uri.clone())) {
            self.watched_bytes -= w.uri.len();
        }
        let json = match answer {
            Ok(()) => message::result(&w.id, "{}"),
            Err((code, why)) => message::error(&w.id, code, why, None),
        };
        self.respond(now, w.stream, json, 200);
    }

    /// Something was said on a feed.
    pub(super) fn fed(&mut self, now: Instant, proc: ProcId, id: CallId, m: &Message<'_>) {
        if m.method == "notifications/subscriptions/acknowledged" {
            return self.feed_agreed(now, proc, id, m);
        }
        let Some(text) = without_subscription(m) else { return };
        let Ok(m) = message::parse(text.as_bytes()) else { return };
        let uri = match &*m.method {
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => None,
            "notifications/resources/updated" => message::params(m.params)
                .and_then(|p| message::string(p.uri?.get()))
                .or_else(|| Some(String::new())),
            _ => return,
        };
        if uri.is_none() {
            self.tools.clear();
        }
        match self.procs.get(&proc).map(|p| &p.role) {
            Some(Role::Session(no)) => {
                let no = *no;
                let concerns = |s: &super::Session| uri.as_ref().is_none_or(|u| listen::watches(&s.watched, u));
                if self.sessions.get(&no).is_some_and(concerns) {
                    self.tell_session(now, no, proc, &m);
                }
            }
            _ => self.tell_all(now, proc, &m, uri.as_deref()),
        }
    }

    /// The server acknowledged a subscription: it is in force, and the one before it is not needed any more.
    fn feed_agreed(&mut self, now: Instant, proc: ProcId, id: CallId, m: &Message<'_>) {
        let Some(feed) = self.feeds.get_mut(&proc) else { return };
        let Some((_, asked)) = feed.next.take_if(|(next, _)| *next == id) else {
            return;
        };
        let before = feed.current.replace(id);
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut feed.waiting)
            .into_iter()
            .partition(|w| asked.contains(&w.uri));
        let stale = feed.stale || !rest.is_empty();
        feed.waiting = rest;
        if let Some(call) = self.calls.get_mut(&id) {
            call.deadline = None;
        }
        if let Some(before) = before {
            self.feed_cancelled(proc, before);
        }
        let notifications = message::params(m.params).and_then(|p| p.notifications);
        let agreed: Agreed = notifications.and_then(|n| message::object(n.get())).unwrap_or_default();
        for w in &done {
            let answer = match agreed.resource_subscriptions.contains(&w.uri) {
                true => Ok(()),
                false => Err((
                    codes::INVALID_PARAMS,
                    "the server does not let this resource be watched",
                )),
            };
            self.feed_answer(now, w, answer);
        }
        if stale {
            self.feed(now, proc);
        }
    }

    /// A subscription has ended: the server refused it, or ended it, or said nothing in time. The call is out of the
    /// books already.
    pub(super) fn feed_ended(&mut self, now: Instant, proc: ProcId, id: CallId, error: Option<&str>) {
        let Some(feed) = self.feeds.get_mut(&proc) else { return };
        if feed.current == Some(id) {
            feed.current = None;
            feed.again_at = Some(now + AGAIN);
            return;
        }
        let Some((_, asked)) = feed.next.take_if(|(next, _)| *next == id) else {
            return;
        };
        let (done, rest) = std::mem::take(&mut feed.waiting)
            .into_iter()
            .partition(|w| asked.contains(&w.uri));
        feed.waiting = rest;
        // What the server does not know it will not know the next time.
        feed.again_at = (feed.stale || error.is_none() || !feed.waiting.is_empty()).then_some(now + AGAIN);
        let done: Vec<Waiter> = done;
        let why = match error {
            Some(_) => meta::error_message(error),
            None => "the server did not acknowledge the subscription".to_owned(),
        };
        for w in &done {
            self.feed_answer(now, w, Err((codes::INTERNAL_ERROR, &why)));
        }
    }

    /// Subscriptions that are due again.
    pub(super) fn tick_feeds(&mut self, now: Instant) {
        let due = |f: &Feed| f.again_at.is_some_and(|at| now >= at);
        let all: Vec<ProcId> = self
            .feeds
            .iter()
            .filter(|(_, f)| due(f))
            .map(|(proc, _)| *proc)
            .collect();
        for proc in all {
            self.feed(now, proc);
        }
    }
}

/// A notification as a legacy server would have sent it.
fn without_subscription(m: &Message<'_>) -> Option<String> {
    let mut params = "{".to_owned();
    for (name, value) in message::members(m.params?)? {
        if name != "_meta" {
            message::put_member(&mut params, &name, value.get());
            continue;
        }
        let mut about = "{".to_owned();
        for (key, value) in message::members(value.get())? {
            if key != meta::SUBSCRIPTION {
                message::put_member(&mut about, &key, value.get());
            }
        }
        if about.len() > 1 {
            message::put_member(&mut params, "_meta", &(about + "}"));
        }
    }
    let method = message::quote(&m.method);
    Some(format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":{method},\"params\":{params}}}}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subscription_is_nobodys_business() {
        let text = r#"{"jsonrpc":"2.0","method":"m","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":1},"uri":"u"}}"#;
        let m = message::parse(text.as_bytes()).expect("a message");
        let plain = r#"{"jsonrpc":"2.0","method":"m","params":{"uri":"u"}}"#;
        assert_eq!(without_subscription(&m).as_deref(), Some(plain));
        let text = text.replace("\":1}", "\":1,\"a\":2}");
        let m = message::parse(text.as_bytes()).expect("a message");
        assert!(without_subscription(&m).expect("text").contains(r#""_meta":{"a":2}"#));
    }
}
