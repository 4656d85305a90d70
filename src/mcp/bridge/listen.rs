//! Subscriptions: `subscriptions/listen` of modern clients on legacy processes, and which resources anybody watches.
//!
//! Each resource is subscribed to once at the server, however many watch it, and given up with the last of them.

use std::collections::BTreeSet;
use std::time::Instant;

use serde::Deserialize;

use super::modern::Request;
use super::translate::Hello;
use super::{Bridge, LaneId, ProcId, SessionNo, What, WireId};
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
    filter: Filter,
}

impl Bridge {
    /// `subscriptions/listen` for a legacy server.
    pub(super) fn listen(&mut self, now: Instant, wire: WireId, proc: ProcId, r: &Request<'_, '_>) {
        let wanted: Option<Filter> = r.params.notifications.and_then(|n| message::object(n.get()));
        let Some(mut filter) = wanted.filter(|f| f.resource_subscriptions.len() <= MAX_WATCHED) else {
            let text = "params.notifications is no subscription filter";
            return self.refuse(wire, 400, r.m.id, codes::INVALID_PARAMS, text, None);
        };
        if self.listeners.len() >= MAX_LISTENERS {
            return self.refuse(wire, 503, r.m.id, codes::BUSY, "too many subscriptions", None);
        }
        let hello = self.procs.get(&proc).and_then(|p| p.hello.as_deref()).unwrap_or("{}");
        let hello: Hello<'_> = message::object(hello).unwrap_or_default();
        let can: serde_json::Value = hello
            .capabilities
            .and_then(|c| serde_json::from_str(c.get()).ok())
            .unwrap_or_default();
        filter.tools_list_changed &= can["tools"]["listChanged"] == true;
        filter.prompts_list_changed &= can["prompts"]["listChanged"] == true;
        filter.resources_list_changed &= can["resources"]["listChanged"] == true;
        if can["resources"]["subscribe"] != true {
            filter.resource_subscriptions.clear();
        }
        let mut agreed = serde_json::Map::new();
        for (name, on) in [
            ("toolsListChanged", filter.tools_list_changed),
            ("promptsListChanged", filter.prompts_list_changed),
            ("resourcesListChanged", filter.resources_list_changed),
        ] {
            if on {
                agreed.insert(name.to_owned(), true.into());
            }
        }
        if !filter.resource_subscriptions.is_empty() {
            agreed.insert(
                "resourceSubscriptions".to_owned(),
                filter.resource_subscriptions.iter().cloned().collect(),
            );
        }
        let new: Vec<String> = filter
            .resource_subscriptions
            .iter()
            .filter(|uri| !self.is_watched(uri))
            .cloned()
            .collect();
        for uri in new {
            self.request(now, proc, "resources/subscribe", &uri_params(&uri), What::Unheard);
        }
        self.lane(now, wire, None, r.accepts, 1);
        self.listeners.insert(
            wire,
            Listener {
                id: r.m.id.into(),
                filter,
            },
        );
        let ack = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{{\"_meta\":\
             {{\"{}\":{}}},\"notifications\":{}}}}}",
            meta::SUBSCRIPTION,
            r.m.id,
            serde_json::Value::Object(agreed)
        );
        self.emit(now, wire, ack.as_bytes());
    }

    /// A stream was closed by its client.
    pub(super) fn unlisten(&mut self, now: Instant, lane: LaneId) {
        let Some(listener) = self.listeners.remove(&lane) else {
            return;
        };
        for uri in &listener.filter.resource_subscriptions {
            self.unwatch(now, uri);
        }
    }

    /// The process behind the streams is gone: they end, and their clients ask again.
    pub(super) fn end_listeners(&mut self, _now: Instant) {
        for lane in self.listeners.keys().copied().collect::<Vec<_>>() {
            self.end_lane(lane);
        }
    }

    /// A change at the standing process: to the streams that want to hear of it.
    pub(super) fn tell_listeners(&mut self, now: Instant, proc: ProcId, m: &Message<'_>, uri: Option<&str>) {
        if Some(proc) != self.standing.proc || self.listeners.is_empty() {
            return;
        }
        let wants = |f: &Filter| match &*m.method {
            "notifications/tools/list_changed" => f.tools_list_changed,
            "notifications/prompts/list_changed" => f.prompts_list_changed,
            "notifications/resources/list_changed" => f.resources_list_changed,
            _ => uri.is_some_and(|uri| watches(&f.resource_subscriptions, uri)),
        };
        let all: Vec<(LaneId, Box<str>)> = self
            .listeners
            .iter()
            .filter(|(_, l)| wants(&l.filter))
            .map(|(lane, l)| (*lane, l.id.clone()))
            .collect();
        let rest = uri
            .map(|u| format!(",\"uri\":{}", message::quote(u)))
            .unwrap_or_default();
        for (lane, id) in all {
            let json = format!(
                "{{\"jsonrpc\":\"2.0\",\"method\":\"{}\",\"params\":{{\"_meta\":{{\"{}\":{id}}}{rest}}}}}",
                m.method,
                meta::SUBSCRIPTION
            );
            self.emit(now, lane, json.as_bytes());
        }
    }

    fn is_watched(&self, uri: &str) -> bool {
        self.sessions
            .values()
            .any(|s| s.proc.is_none() && s.watched.contains(uri))
            || self
                .listeners
                .values()
                .any(|l| l.filter.resource_subscriptions.contains(uri))
    }

    /// A session of a shared process subscribes or gives up. `true`: that was all, the server need not hear of it.
    pub(super) fn watching(
        &mut self,
        now: Instant,
        lane: LaneId,
        session: SessionNo,
        _proc: ProcId,
        m: &Message<'_>,
    ) -> bool {
        let on = match &*m.method {
            "resources/subscribe" => true,
            "resources/unsubscribe" => false,
            _ => return false,
        };
        let Some(uri) = message::params(m.params).and_then(|p| message::string(p.uri?.get())) else {
            return false;
        };
        let Some(s) = self.sessions.get_mut(&session) else {
            return false;
        };
        let before = s.watched.remove(&uri);
        let others = self.is_watched(&uri);
        if let Some(s) = self.sessions.get_mut(&session)
            && on
            && s.watched.len() < MAX_WATCHED
        {
            s.watched.insert(uri);
        }
        if others || (on && before) {
            self.respond(now, lane, message::result(m.id, "{}"), 200);
            return true;
        }
        false
    }

    /// Somebody stopped watching: the last one's subscription is given up.
    pub(super) fn unwatch(&mut self, now: Instant, uri: &str) {
        if self.is_watched(uri) {
            return;
        }
        if let Some(proc) = self.shared_legacy_now() {
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
                self.request(now, proc, "resources/subscribe", &uri_params(&uri), What::Unheard);
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

fn uri_params(uri: &str) -> String {
    format!("{{\"uri\":{}}}", message::quote(uri))
}
