//! Multi round-trip requests for legacy clients (MCP 2026-07-28, basic/patterns/mrtr): what a modern server requires as
//! input becomes requests to the client on its session's streams; with the answers the request is sent again.
//!
//! ```text
//! at the server ──input required──► asking ──all answered──► at the server ──complete──► answered
//!       ▲                              │ └─an error, or no answer in time──► an error to the client
//!       └──────nothing was asked───────┘
//! ```
//!
//! Never asks a client what it did not declare, and never goes round more than [`MAX_ROUNDS`] times.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::value::RawValue;

use super::asks::{Asker, MAX_ASKS};
use super::{Bridge, Call, CallId, MAX_KEPT, What};
use crate::mcp::message::{self, Message};
use crate::mcp::{codes, meta};

/// Times that one request may be sent.
const MAX_ROUNDS: u8 = 32;
/// Questions of one round.
const MAX_QUESTIONS: usize = 16;

/// A guest's request on its way, and what has to be said with it the next time.
#[derive(Debug)]
pub(super) struct GuestCall {
    pub(super) method: Box<str>,
    /// Raw; `None` where it cannot be sent again.
    params: Option<Box<str>>,
    /// The server's `requestState`, raw.
    state: Option<Box<str>>,
    /// The client's answers by their keys, raw.
    answers: BTreeMap<String, Box<str>>,
    /// Questions that have no answer yet.
    open: usize,
    rounds: u8,
}

impl GuestCall {
    pub(super) fn new(method: &str) -> Self {
        Self {
            method: method.into(),
            params: None,
            state: None,
            answers: BTreeMap::new(),
            open: 0,
            rounds: 0,
        }
    }

    /// Keeps the params, so that it can be sent again.
    pub(super) fn keep(&mut self, params: &str) {
        self.params = Some(params.into());
    }

    /// Bytes that it keeps.
    pub(super) fn held(&self) -> usize {
        let answers: usize = self.answers.iter().map(|(k, v)| k.len() + v.len()).sum();
        answers + self.params.as_ref().map_or(0, |p| p.len()) + self.state.as_ref().map_or(0, |s| s.len())
    }

    /// Whether the client is asked, and the server knows nothing of the call.
    pub(super) fn is_asking(&self) -> bool {
        self.open > 0
    }
}

message::raw_object! {
    /// One of `inputRequests`.
    struct Question {
        "method" => method,
        "params" => params,
    }
}

impl Bridge {
    /// The server requires input for a guest's call, which is out of the books at this point.
    pub(super) fn ask_round(&mut self, now: Instant, call: Call, members: &[(Cow<'_, str>, &RawValue)]) {
        let member = |name: &str| members.iter().find(|(n, _)| n == name).map(|(_, raw)| raw.get());
        let (What::Guest(mut pending), Some(no)) = (call.what, call.session) else {
            return;
        };
        let fail = |b: &mut Self, code: i64, text: &str| {
            if let Some(stream) = call.stream {
                b.respond(now, stream, message::error(&call.id, code, text, None), 200);
            }
        };
        pending.rounds += 1;
        pending.state = member("requestState").map(Into::into);
        pending.answers.clear();
        if pending.params.is_none() || self.kept + pending.held() > MAX_KEPT {
            return fail(
                self,
                codes::BUSY,
                "the request is too long to be kept while the client is asked",
            );
        }
        if pending.rounds >= MAX_ROUNDS {
            return fail(self, codes::LIMIT, "the server goes on asking");
        }
        let questions = member("inputRequests").map_or(Some(Vec::new()), message::members);
        let questions: Option<Vec<(String, String)>> = questions.filter(|q| q.len() <= MAX_QUESTIONS).and_then(|all| {
            let asked = all.into_iter();
            asked
                .map(|(key, raw)| Some((key.into_owned(), self.question(no, raw.get())?)))
                .collect()
        });
        let Some(questions) = questions else {
            return fail(
                self,
                codes::INTERNAL_ERROR,
                "the server asks what this client cannot be asked",
            );
        };
        if self.asks.len() + questions.len() > MAX_ASKS {
            return fail(self, codes::BUSY, "too many requests wait for clients");
        }
        pending.open = questions.len();
        let proc = call.proc;
        let id = self.register(Call {
            what: What::Guest(pending),
            ..call
        });
        self.put_off(now, id);
        if questions.is_empty() {
            return self.next_round(now, id);
        }
        for (key, rest) in questions {
            let ask = self.fresh();
            let json = format!("{{\"jsonrpc\":\"2.0\",\"id\":{ask},{rest}}}").into_bytes();
            self.put_ask(now, ask, (proc, Asker::Round(id, key)), no, &[id], json);
        }
    }

    /// Method and params of a question as a legacy client reads them; `None` when it may not be asked.
    fn question(&mut self, no: u64, raw: &str) -> Option<String> {
        let q: Question<'_> = message::object(raw)?;
        let method = message::string(q.method?.get())?;
        let capability = match &*method {
            "sampling/createMessage" => "sampling",
            "elicitation/create" => "elicitation",
            "roots/list" => "roots",
            _ => return None,
        };
        if !self.guest(no)?.can(capability) {
            return None;
        }
        let Some(params) = q.params.map(RawValue::get) else {
            return Some(format!("\"method\":\"{method}\""));
        };
        let mut params = params.to_owned();
        let by_url = message::members(&params)?
            .iter()
            .any(|(name, mode)| name == "mode" && mode.get() == "\"url\"");
        if capability == "elicitation" && by_url {
            // 2025-11-25 wants an id there, which nobody refers to.
            params.pop();
            message::put_member(&mut params, "elicitationId", &message::quote(&self.secret()));
            params.push('}');
        }
        Some(format!("\"method\":\"{method}\",\"params\":{params}"))
    }

    /// A client answered one question of a round.
    pub(super) fn round_answered(&mut self, now: Instant, id: CallId, key: String, m: &Message<'_>) {
        let kept = self.kept;
        let Some(What::Guest(pending)) = self.calls.get_mut(&id).map(|c| &mut c.what) else {
            return;
        };
        let Some(result) = m.result else {
            let text = format!("the client answered with an error: {}", meta::error_message(m.error));
            return self.abandon(now, id, codes::INTERNAL_ERROR, &text, false);
        };
        if kept + key.len() + result.len() > MAX_KEPT {
            let text = "the client's answer is too long to be kept";
            return self.abandon(now, id, codes::BUSY, text, false);
        }
        self.kept += key.len() + result.len();
        pending.answers.insert(key, result.into());
        pending.open -= 1;
        if pending.open == 0 {
            self.next_round(now, id);
        }
    }

    /// Sends a request again, with what its server has to hear this time.
    fn next_round(&mut self, now: Instant, id: CallId) {
        self.put_off(now, id);
        let Some(call) = self.calls.get_mut(&id) else { return };
        let proc = call.proc;
        let What::Guest(pending) = &mut call.what else { return };
        let params = pending.params.clone().unwrap_or_default();
        let before = pending.held();
        let state = pending.state.take();
        let answers = std::mem::take(&mut pending.answers);
        self.kept -= before - pending.held();
        if self.clogged(proc) {
            return self.abandon(now, id, codes::BUSY, super::TOO_MUCH, false);
        }
        let mut responses = "{".to_owned();
        for (key, answer) in &answers {
            message::put_member(&mut responses, key, answer);
        }
        responses.push('}');
        let mut more = Vec::new();
        if let Some(state) = &state {
            more.push(("requestState", &**state));
        }
        if !answers.is_empty() {
            more.push(("inputResponses", responses.as_str()));
        }
        self.send_guest(id, &params, &more);
    }
}
