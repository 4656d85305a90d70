//! Subscriptions: `subscriptions/listen` of modern clients on legacy processes, and which resources anybody watches.
//!
//! Each resource is subscribed to once at each process, however many watch it, and given up with the last of them. Where
//! processes belong to principals, a stream hears of the changes of all processes of its own, those included that are
//! started while it is open; what no process of its own could tell it is not acknowledged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::modern::Request;
use super::translate::Hello;
use super::{Bridge, Call, CallId, MAX_NAME, MAX_WATCHED_BYTES, ProcId, Role, SessionNo, StreamId, What, WireId};
use crate::mcp::message::{self, Message};
use crate::mcp::{codes, meta};

/// Streams of this kind at most, and resources that one of them may watch.
const MAX_LISTENERS: usize = 256;
const MAX_WATCHED: usize = 256;

/// What a stream wants to hear.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    tools_list_changed: bool,
    prompts_list_changed: bool,
    resources_list_changed: bool,
    resource_subscriptions: BTreeSet<String>,
}

/// One open stream.
#[derive(Debug)]
pub(super) struct Listener {
    /// The client's id of the request, raw.
    id: Box<str>,
    pub(super) principal: Arc<str>,
    filter: Filter,
    /// Resources that the server has not agreed to yet. The stream begins when there are none.
    pending: BTreeSet<String>,
}

/// Who wants a resource watched.
#[derive(Debug, Clone, Copy)]
pub(super) enum Watcher {
    Session(SessionNo),
    Listener(StreamId),
    /// Everybody who watched it before the process was started again.
    All,
}

/// What became of a session's request on a shared process.
pub(super) enum Wish {
    /// It is about no subscription: the server answers it.
    Other,
    /// It is answered.
    Done,
    /// The server decides.
    Ask(What),
}

impl Listener {
    fn bytes(&self) -> usize {
        let all = self.filter.resource_subscriptions.iter().chain(&self.pending);
        all.map(String::len).sum()
    }
}

impl Bridge {
    /// `subscriptions/listen` for a legacy server.
    pub(super) fn listen(&mut self, now: Instant, wire: WireId, standing: ProcId, r: &Request<'_, '_>) {
        let wanted: Option<Filter> = r.params.notifications.and_then(|n| message::object(n.get()));
        let fits = |f: &Filter| {
            f.resource_subscriptions.len() <= MAX_WATCHED
                && f.resource_subscriptions.iter().all(|u| u.len() <= MAX_NAME)
        };
        let Some(mut filter) = wanted.filter(fits) else {
            let text = "params.notifications is no subscription filter, or has too many or too long URIs";
            return self.refuse(wire, 400, r.m.id, codes::INVALID_PARAMS, text, None);
        };
        let can = self.capabilities_of(standing);
        filter.tools_list_changed &= can["tools"]["listChanged"] == true;
        filter.prompts_list_changed &= can["prompts"]["listChanged"] == true;
        filter.resources_list_changed &= can["resources"]["listChanged"] == true;
        if can["resources"]["subscribe"] != true {
            filter.resource_subscriptions.clear();
        }
        let bytes: usize = filter.resource_subscriptions.iter().map(String::len).sum();
        if self.listeners.len() >= MAX_LISTENERS || self.watched_bytes + bytes > MAX_WATCHED_BYTES {
            return self.refuse(wire, 503, r.m.id, codes::BUSY, "too many subscriptions", None);
        }
        let capabilities = r.meta.capabilities.map_or("{}", RawValue::get);
        let proc = match self.choose(now, standing, &r.principal, capabilities, None) {
            Ok(proc) => proc,
            Err(why) => return self.refuse(wire, 503, r.m.id, codes::BUSY, &why, None),
        };
        if !self.room(wire, proc, r.m.id) {
            return;
        }
        let whose = self.per_session().then(|| Arc::clone(&r.principal));
        let wanted = std::mem::take(&mut filter.resource_subscriptions);
        let (agreed, pending) = wanted.into_iter().partition(|uri| self.is_watched(whose.as_ref(), uri));
        filter.resource_subscriptions = agreed;
        self.watched_bytes += bytes;
        self.stream(now, wire, None, r.accepts, 1);
        let listener = Listener {
            id: r.m.id.into(),
            principal: Arc::clone(&r.principal),
            filter,
            pending,
        };
        let asked: Vec<String> = listener.pending.iter().cloned().collect();
        self.listeners.insert(wire, listener);
        for uri in asked {
            if self.clogged(proc) {
                self.watch_over(now, proc, &uri, Watcher::Listener(wire), false);
                continue;
            }
            for other in self.procs_of(whose.as_ref()).into_iter().filter(|p| *p != proc) {
                self.request(now, other, "resources/subscribe", &uri_params(&uri), What::Unheard);
            }
            let what = What::Watch(uri.as_str().into(), Watcher::Listener(wire));
            self.request(now, proc, "resources/subscribe", &uri_params(&uri), what);
        }
        self.acknowledge(now, wire);
    }

    /// What a server said that it can do.
    pub(super) fn capabilities_of(&self, proc: ProcId) -> serde_json::Value {
        let hello = self.procs.get(&proc).and_then(|p| p.hello.as_deref()).unwrap_or("{}");
        let hello: Hello<'_> = message::object(hello).unwrap_or_default();
        hello
            .capabilities
            .and_then(|c| serde_json::from_str(c.get()).ok())
            .unwrap_or_default()
    }

    /// Begins a stream, if the server has decided on all its resources.
    fn acknowledge(&mut self, now: Instant, stream: StreamId) {
        let Some(l) = self.listeners.get(&stream).filter(|l| l.pending.is_empty()) else {
            return;
        };
        let mut agreed = serde_json::Map::new();
        for (name, on) in [
            ("toolsListChanged", l.filter.tools_list_changed),
            ("promptsListChanged", l.filter.prompts_list_changed),
            ("resourcesListChanged", l.filter.resources_list_changed),
        ] {
            if on {
                agreed.insert(name.to_owned(), true.into());
            }
        }
        if !l.filter.resource_subscriptions.is_empty() {
            agreed.insert(
                "resourceSubscriptions".to_owned(),
                l.filter.resource_subscriptions.iter().cloned().collect(),
            );
        }
        let ack = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{{\"_meta\":\
             {{\"{}\":{}}},\"notifications\":{}}}}}",
            meta::SUBSCRIPTION,
            l.id,
            serde_json::Value::Object(agreed)
        );
        self.emit(now, stream, ack.as_bytes());
    }

    /// The server answered a `resources/subscribe`.
    pub(super) fn watch_answered(&mut self, now: Instant, call: &Call, m: &Message<'_>, id: CallId) {
        let What::Watch(uri, whose) = &call.what else { return };
        self.watch_over(now, call.proc, uri, *whose, m.result.is_some());
        if let Some(stream) = call.stream {
            let json = self.restore(m, id, call);
            self.respond(now, stream, json, 200);
        }
    }

    /// The server watches a resource from now on, or does not.
    pub(super) fn watch_over(&mut self, now: Instant, proc: ProcId, uri: &str, whose: Watcher, watches: bool) {
        match whose {
            Watcher::Session(no) => {
                let session = self.sessions.get_mut(&no).filter(|_| watches);
                if !session.is_some_and(|s| s.watched.insert(uri.to_owned())) {
                    self.watched_bytes -= uri.len();
                }
            }
            Watcher::Listener(stream) => {
                if let Some(l) = self.listeners.get_mut(&stream) {
                    l.pending.remove(uri);
                    if watches {
                        l.filter.resource_subscriptions.insert(uri.to_owned());
                    } else {
                        self.watched_bytes -= uri.len();
                    }
                    self.acknowledge(now, stream);
                }
            }
            Watcher::All if watches => {}
            Watcher::All => {
                for s in self.sessions.values_mut().filter(|s| s.proc.is_none()) {
                    if s.watched.remove(uri) {
                        self.watched_bytes -= uri.len();
                    }
                }
            }
        }
        if watches {
            // Who asked for it may be gone by now.
            let principal = self.principal_of(proc);
            self.unwatch(now, principal.as_ref(), uri);
        }
    }

    /// A stream was closed by its client.
    pub(super) fn unlisten(&mut self, now: Instant, stream: StreamId) {
        let Some(listener) = self.listeners.remove(&stream) else {
            return;
        };
        self.watched_bytes -= listener.bytes();
        let whose = self.per_session().then_some(&listener.principal);
        for uri in &listener.filter.resource_subscriptions {
            self.unwatch(now, whose, uri);
        }
    }

    /// A stream has ended with its process.
    pub(super) fn forget_listener(&mut self, stream: StreamId) {
        if let Some(listener) = self.listeners.remove(&stream) {
            self.watched_bytes -= listener.bytes();
        }
    }

    /// A process behind streams is gone: theirs, or of all without a principal. They end, and their clients ask again,
    /// unless another process of theirs goes on telling.
    pub(super) fn end_listeners(&mut self, whose: Option<&Arc<str>>) {
        if whose.is_none() && self.per_session() || whose.is_some() && !self.procs_of(whose).is_empty() {
            return;
        }
        let theirs = |l: &Listener| whose.is_none_or(|w| *w == l.principal);
        let all: Vec<StreamId> = self
            .listeners
            .iter()
            .filter(|(_, l)| theirs(l))
            .map(|(stream, _)| *stream)
            .collect();
        self.complete(all);
    }

    pub(super) fn end_all_listeners(&mut self) {
        self.complete(self.listeners.keys().copied().collect());
    }

    /// Ends streams by the result of their requests.
    pub(super) fn complete(&mut self, streams: Vec<StreamId>) {
        for stream in streams {
            let (Some(l), Some(at)) = (self.listeners.get(&stream), self.streams.get(&stream).map(|l| l.last)) else {
                continue;
            };
            let json = completion(&l.id);
            self.respond(at, stream, json, 200);
            self.forget_listener(stream);
        }
    }

    /// A change at a process: to the streams that want to hear of it.
    pub(super) fn tell_listeners(&mut self, now: Instant, proc: ProcId, m: &Message<'_>, uri: Option<&str>) {
        if self.listeners.is_empty() {
            return;
        }
        let principal = self.principal_of(proc);
        let theirs = |l: &Listener| match &principal {
            Some(principal) => *principal == l.principal,
            None => Some(proc) == self.standing.proc && !self.per_session(),
        };
        let wants = |f: &Filter| match &*m.method {
            "notifications/tools/list_changed" => f.tools_list_changed,
            "notifications/prompts/list_changed" => f.prompts_list_changed,
            "notifications/resources/list_changed" => f.resources_list_changed,
            _ => uri.is_some_and(|uri| watches(&f.resource_subscriptions, uri)),
        };
        let all: Vec<(StreamId, Box<str>)> = self
            .listeners
            .iter()
            .filter(|(_, l)| l.pending.is_empty() && theirs(l) && wants(&l.filter))
            .map(|(stream, l)| (*stream, l.id.clone()))
            .collect();
        let rest = uri
            .map(|u| format!(",\"uri\":{}", message::quote(u)))
            .unwrap_or_default();
        for (stream, id) in all {
            let json = format!(
                "{{\"jsonrpc\":\"2.0\",\"method\":\"{}\",\"params\":{{\"_meta\":{{\"{}\":{id}}}{rest}}}}}",
                m.method,
                meta::SUBSCRIPTION
            );
            self.emit(now, stream, json.as_bytes());
        }
    }

    /// Whether a resource is watched: by anybody, or by streams of one principal, where that has processes of its own.
    fn is_watched(&self, whose: Option<&Arc<str>>, uri: &str) -> bool {
        let mut shared = self.sessions.values().filter(|s| s.proc.is_none() && whose.is_none());
        let mut streams = self
            .listeners
            .values()
            .filter(|l| whose.is_none_or(|w| *w == l.principal));
        shared.any(|s| s.watched.contains(uri)) || streams.any(|l| l.filter.resource_subscriptions.contains(uri))
    }

    /// The legacy processes that tell a principal's streams of changes; without one, the shared process.
    fn procs_of(&self, whose: Option<&Arc<str>>) -> Vec<ProcId> {
        let Some(principal) = whose else {
            return self.shared_legacy_now().into_iter().collect();
        };
        let own = |id: &ProcId| self.principal_of(*id).as_ref() == Some(principal);
        let mut all: Vec<ProcId> = self.procs.keys().copied().filter(own).collect();
        all.sort_unstable();
        all
    }

    /// Whose a process is, where processes belong to principals.
    fn principal_of(&self, proc: ProcId) -> Option<Arc<str>> {
        match &self.procs.get(&proc)?.role {
            Role::Pool(principal, _) => Some(Arc::clone(principal)),
            Role::Standing if self.per_session() => self.standing.owner.clone(),
            _ => None,
        }
    }

    /// Whether a process is the last that could tell a principal's streams of changes.
    pub(super) fn is_listened_to(&self, proc: ProcId) -> bool {
        let Some(principal) = self.principal_of(proc) else {
            return false;
        };
        self.listeners.values().any(|l| l.principal == principal) && self.procs_of(Some(&principal)) == [proc]
    }

    /// A principal has another process: what its streams watch is watched there, too.
    pub(super) fn watch_too(&mut self, now: Instant, proc: ProcId, principal: &Arc<str>) {
        let own = self.listeners.values().filter(|l| l.principal == *principal);
        let uris: BTreeSet<String> = own
            .flat_map(|l| l.filter.resource_subscriptions.iter().chain(&l.pending).cloned())
            .collect();
        for uri in uris {
            self.request(now, proc, "resources/subscribe", &uri_params(&uri), What::Unheard);
        }
    }

    /// Whether somebody has asked the server to watch a resource, and it has not answered yet.
    fn is_asked_for(&self, uri: &str) -> bool {
        let asks = |c: &Call| matches!(&c.what, What::Watch(u, _) if &**u == uri);
        self.calls.values().any(asks)
    }

    /// A session of a shared process subscribes or gives up. What the server refuses is never remembered, and it is
    /// asked once for what it has agreed to.
    pub(super) fn watching(&mut self, now: Instant, stream: StreamId, no: SessionNo, m: &Message<'_>) -> Wish {
        let on = match &*m.method {
            "resources/subscribe" => true,
            "resources/unsubscribe" => false,
            _ => return Wish::Other,
        };
        let Some(uri) = message::params(m.params).and_then(|p| message::string(p.uri?.get())) else {
            return Wish::Other;
        };
        let watched = self.is_watched(None, &uri);
        let Some(s) = self.sessions.get_mut(&no) else {
            return Wish::Other;
        };
        if !on {
            if s.watched.remove(&uri) {
                self.watched_bytes -= uri.len();
            }
            if !self.is_watched(None, &uri) && !self.is_asked_for(&uri) {
                return Wish::Other;
            }
        } else if !s.watched.contains(&uri) {
            if let Err((status, code, text)) = self.may_watch(no, &uri) {
                self.refuse_on(now, stream, m.id, status, code, text);
                return Wish::Done;
            }
            // Counted from now on: see `watch_over`.
            self.watched_bytes += uri.len();
            if !watched {
                return Wish::Ask(What::Watch(uri.into(), Watcher::Session(no)));
            }
            let proc = self.shared_legacy_now().unwrap_or_default();
            self.watch_over(now, proc, &uri, Watcher::Session(no), true);
        }
        self.respond(now, stream, message::result(m.id, "{}"), 200);
        Wish::Done
    }

    /// Whether a session may watch one resource more: status, code and text, if not.
    pub(super) fn may_watch(&self, no: SessionNo, uri: &str) -> Result<(), (u16, i64, &'static str)> {
        if uri.len() > MAX_NAME {
            return Err((400, codes::INVALID_PARAMS, "the URI is longer than 8 KiB"));
        }
        let many = self.sessions.get(&no).is_some_and(|s| s.watched.len() >= MAX_WATCHED);
        if many || self.watched_bytes + uri.len() > MAX_WATCHED_BYTES {
            return Err((503, codes::BUSY, "too many subscriptions"));
        }
        Ok(())
    }

    /// Somebody stopped watching: the last one's subscription is given up.
    pub(super) fn unwatch(&mut self, now: Instant, whose: Option<&Arc<str>>, uri: &str) {
        if self.is_watched(whose, uri) {
            return;
        }
        for proc in self.procs_of(whose) {
            self.request(now, proc, "resources/unsubscribe", &uri_params(uri), What::Unheard);
        }
    }

    /// A shared process was started again: subscribe anew.
    pub(super) fn rewatch(&mut self, now: Instant) {
        let all: BTreeSet<String> = self
            .sessions
            .values()
            .filter(|s| s.proc.is_none())
            .flat_map(|s| s.watched.iter().cloned())
            .collect();
        if let Some(proc) = self.shared_legacy_now() {
            for uri in all {
                let what = What::Watch(uri.as_str().into(), Watcher::All);
                self.request(now, proc, "resources/subscribe", &uri_params(&uri), what);
            }
        }
    }
}

/// Whether a set of resources covers one: itself, or something below it.
pub(super) fn watches(set: &BTreeSet<String>, uri: &str) -> bool {
    set.contains(uri)
        || set
            .iter()
            .any(|w| uri.strip_prefix(w.as_str()).is_some_and(|rest| rest.starts_with('/')))
}

/// The result that ends a `subscriptions/listen` (MCP 2026-07-28, basic/patterns/subscriptions).
pub(super) fn completion(id: &str) -> Vec<u8> {
    let result = format!(
        "{{\"resultType\":\"complete\",\"_meta\":{{\"{}\":{id}}}}}",
        meta::SUBSCRIPTION
    );
    message::result(id, &result)
}

fn uri_params(uri: &str) -> String {
    format!("{{\"uri\":{}}}", message::quote(uri))
}
