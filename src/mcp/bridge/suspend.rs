//! Multi round-trip requests for legacy servers (MCP 2026-07-28, basic/patterns/mrtr): what the server asks its client
//! becomes an `InputRequiredResult`; the call stays open at the server until the client comes back with the answers.
//!
//! ```text
//! in flight ──server asks──► suspended ──retry with all answers──► in flight ──► answered
//!                              │  ▲ └─some answers missing: asked again─┘
//!                              └──► time over: the server is told, the state is forgotten
//! ```
//!
//! The state that the client carries is random and names the call here; it is used once, and by the principal whose call
//! it is: with anybody else it is unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;

use super::modern::Request;
use super::owner::may_ask;
use super::{Bridge, CallId, MAX_KEPT, ProcId, What, WireId};
use crate::mcp::codes;
use crate::mcp::message::{self, Message};

/// Calls that may be suspended at once.
const MAX_SUSPENDED: usize = 256;
/// Questions that one call may have open.
const MAX_QUESTIONS: usize = 16;

/// A call that waits for its client.
#[derive(Debug)]
pub(super) struct Suspended {
    call: CallId,
    proc: ProcId,
    /// Key → the server's id and the request, both raw.
    questions: BTreeMap<String, (Box<str>, String)>,
    expires: Instant,
    /// The server did not wait: the rest of its answer, and the status.
    done: Option<(String, u16)>,
    principal: Arc<str>,
    /// The method and the name, which the retry has to repeat.
    method: Box<str>,
    name: Box<str>,
}

impl Suspended {
    fn bytes(&self) -> usize {
        let questions: usize = self.questions.values().map(|(_, text)| text.len()).sum();
        questions + self.done.as_ref().map_or(0, |(body, _)| body.len())
    }
}

impl Bridge {
    /// Whether suspended calls may keep so many bytes more.
    fn may_keep(&self, more: usize) -> bool {
        self.suspended.values().map(Suspended::bytes).sum::<usize>() + more <= MAX_KEPT
    }

    /// The server of a translated call asks.
    pub(super) fn suspend(&mut self, now: Instant, proc: ProcId, call: CallId, m: &Message<'_>) {
        let Some(What::Translated(origin)) = self.calls.get(&call).map(|c| &c.what) else {
            return;
        };
        let needs = match &*m.method {
            "sampling/createMessage" => "sampling",
            "elicitation/create" => "elicitation",
            "roots/list" => "roots",
            _ => return self.refuse_server(proc, m.id, "the client knows no such method"),
        };
        let origin = origin.clone();
        let declared: BTreeMap<String, &RawValue> = serde_json::from_str(&origin.capabilities).unwrap_or_default();
        let may = may_ask(&origin.method);
        let room = self.suspended.len() < MAX_SUSPENDED && self.may_keep(m.text.len());
        if !declared.contains_key(needs) || !may || !room {
            return self.refuse_server(proc, m.id, "the client cannot be asked this");
        }
        let mut s = Suspended {
            call,
            proc,
            questions: BTreeMap::new(),
            expires: self.until(now, call),
            done: None,
            principal: origin.principal,
            method: origin.method,
            name: origin.name,
        };
        s.questions.insert("1".to_owned(), (m.id.into(), question(m)));
        let Some(c) = self.calls.get_mut(&call) else { return };
        c.deadline = None;
        let (stream, id) = (c.stream.take(), c.id.clone());
        let json = self.input_required(&id, s);
        if let Some(stream) = stream {
            self.respond(now, stream, json, 200);
        }
    }

    /// The server of a suspended call asks more.
    pub(super) fn ask_suspended(&mut self, proc: ProcId, call: CallId, m: &Message<'_>) {
        let room = self.may_keep(m.text.len());
        match self.suspended.values_mut().find(|s| s.call == call) {
            Some(s) if s.questions.len() < MAX_QUESTIONS && room => {
                let next = s
                    .questions
                    .keys()
                    .filter_map(|k| k.parse::<u32>().ok())
                    .max()
                    .unwrap_or(1)
                    + 1;
                s.questions.insert(next.to_string(), (m.id.into(), question(m)));
            }
            _ => self.refuse_server(proc, m.id, "too many questions"),
        }
    }

    /// Files a suspended call under a new state, and says what the client is told.
    fn input_required(&mut self, id: &str, s: Suspended) -> Vec<u8> {
        let state = self.secret();
        let questions: Vec<String> = s
            .questions
            .iter()
            .map(|(key, (_, text))| format!("{}:{text}", message::quote(key)))
            .collect();
        let result = format!(
            "{{\"resultType\":\"input_required\",\"inputRequests\":{{{}}},\"requestState\":\"{state}\"}}",
            questions.join(",")
        );
        self.suspended.insert(state, s);
        message::result(id, &result)
    }

    /// A client comes back with answers.
    pub(super) fn resume(&mut self, now: Instant, wire: WireId, r: &Request<'_, '_>) {
        let state = r
            .params
            .state
            .and_then(|s| message::string(s.get()))
            .unwrap_or_default();
        let name = r.params.name.or(r.params.uri).map_or("", RawValue::get);
        let fits = self
            .suspended
            .get(&state)
            .is_some_and(|s| s.principal == r.principal && *s.method == *r.m.method && &*s.name == name);
        let Some(mut s) = fits.then(|| self.suspended.remove(&state)).flatten() else {
            let text = "requestState is unknown, was used, or belongs to another request: start anew without it";
            return self.refuse(wire, 400, r.m.id, codes::INVALID_PARAMS, text, None);
        };
        if let Some((body, status)) = s.done {
            let json = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},{body}}}", r.m.id).into_bytes();
            self.stream(now, wire, None, r.accepts, 1);
            return self.respond(now, wire, json, status);
        }
        let answers: BTreeMap<String, &RawValue> = r
            .params
            .responses
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default();
        for (key, answer) in answers {
            if let Some((id, _)) = s.questions.remove(&key) {
                self.answer_server(s.proc, &message::result(&id, answer.get()));
            }
        }
        self.stream(now, wire, None, r.accepts, 1);
        if !s.questions.is_empty() {
            s.expires = self.until(now, s.call);
            let json = self.input_required(r.m.id, s);
            return self.respond(now, wire, json, 200);
        }
        let deadline = self.until(now, s.call);
        if let Some(call) = self.calls.get_mut(&s.call) {
            call.stream = Some(wire);
            call.id = r.m.id.into();
            call.token = r.meta.token.map(|t| t.get().into());
            call.deadline = Some(deadline);
        }
    }

    /// The server answered a suspended call without waiting for its client.
    pub(super) fn finish_suspended(&mut self, call: CallId, body: String, status: u16) {
        let room = self.may_keep(body.len());
        if let Some(s) = self.suspended.values_mut().find(|s| s.call == call) {
            let too_long = || {
                let text = "the answer came before it was asked for, and is too long to be kept";
                format!("\"error\":{{\"code\":{},\"message\":\"{text}\"}}", codes::LIMIT)
            };
            s.done = Some(if room { (body, status) } else { (too_long(), 200) });
        }
    }

    /// A process is gone: its suspended calls are too.
    pub(super) fn forget_suspended(&mut self, proc: ProcId) {
        self.suspended.retain(|_, s| s.proc != proc || s.done.is_some());
    }

    /// Clients that did not come back.
    pub(super) fn tick_suspended(&mut self, now: Instant) {
        let late: Vec<String> = self
            .suspended
            .iter()
            .filter(|(_, s)| now >= s.expires)
            .map(|(state, _)| state.clone())
            .collect();
        for s in late
            .iter()
            .filter_map(|state| self.suspended.remove(state))
            .collect::<Vec<_>>()
        {
            for (id, _) in s.questions.values() {
                self.refuse_server(s.proc, id, "the client did not come back with an answer");
            }
            self.abandon(now, s.call, codes::CALL_TIMEOUT, "the client did not come back", true);
        }
    }
}

fn question(m: &Message<'_>) -> String {
    let method = message::quote(&m.method);
    match m.params {
        Some(params) => format!("{{\"method\":{method},\"params\":{params}}}"),
        None => format!("{{\"method\":{method}}}"),
    }
}
