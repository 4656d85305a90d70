//! Asks: requests from a server to a client (sampling, elicitation, roots, ping), and the client's answers.
//!
//! Never shows one client another's question: where more than one could be meant (see `owner`), the server gets an error
//! and the log a line.

use std::time::Instant;

use super::owner::Whose;
use super::{Ask, AskId, Bridge, CallId, ProcId, Role, SessionNo, StreamId, UNDELIVERED, What};
use crate::mcp::codes;
use crate::mcp::message::{self, Message};
use crate::mcp::version::{self, Era};

/// Requests that may wait for answers.
pub(super) const MAX_ASKS: usize = 256;

/// Who asks.
#[derive(Debug, Clone)]
pub(super) enum Asker {
    /// A legacy server: its id of the request, raw.
    Server(Box<str>),
    /// A call whose modern server requires input: the key of this question.
    Round(CallId, String),
}

/// Whether somebody is asked who may take a while, so that the call on whose account it is has its time anew.
fn takes_a_while(method: &str) -> bool {
    matches!(method, "elicitation/create" | "sampling/createMessage" | "roots/list")
}

impl Bridge {
    /// A server asks.
    pub(super) fn asked(&mut self, now: Instant, proc: ProcId, m: &Message<'_>) {
        let Some(p) = self.procs.get(&proc) else { return };
        let own = match p.role {
            Role::Session(no) => Some(no),
            _ => None,
        };
        if own.is_none() && m.method == "ping" {
            return self.answer_server(proc, &message::result(m.id, "{}"));
        }
        if p.era == Era::Modern {
            let text = format!(
                "{} has no requests to the client: answer input_required",
                version::MODERN
            );
            return self.refuse_server(proc, m.id, &text);
        }
        if self.asks.len() >= MAX_ASKS {
            return self.refuse_server(proc, m.id, "too many requests wait for clients");
        }
        if let Some(no) = own {
            let of_client = |id: &CallId| self.calls.get(id).is_some_and(|c| c.stream.is_some());
            let calls: Vec<CallId> = p.calls.iter().copied().filter(of_client).collect();
            if m.method == "ping" && self.stream_to(no, &calls).is_none() {
                // Its client has nothing open to hear it by, and may never have: that is no fault of its.
                return self.answer_server(proc, &message::result(m.id, "{}"));
            }
            return self.ask_session(now, proc, no, &calls, m);
        }
        self.note_asker(proc, &m.method);
        let session = match self.whose(proc, true) {
            Whose::Call(call) => return self.ask_call(now, proc, call, m),
            Whose::Session(no) => Some(no).filter(|no| self.sessions.contains_key(no)),
            Whose::Nobody => self.only_session(proc),
            Whose::Anybody => {
                let method = message::quote(&m.method[..m.method.floor_char_boundary(64)]);
                self.log(format!(
                    "refused a request of the server ({method}): it could be about calls of several clients"
                ));
                return self.refuse_server(proc, m.id, "several clients share this server, and any could be meant");
            }
        };
        match session {
            Some(no) => self.ask_session(now, proc, no, &self.calls_of(proc, no), m),
            None => self.refuse_server(proc, m.id, "no client is there to answer this"),
        }
    }

    fn ask_call(&mut self, now: Instant, proc: ProcId, call: CallId, m: &Message<'_>) {
        let Some(c) = self.calls.get(&call) else { return };
        match (&c.what, c.session) {
            (What::Translated(_), _) if c.stream.is_none() => self.ask_suspended(proc, call, m),
            (What::Translated(_), _) => self.suspend(now, proc, call, m),
            (_, Some(no)) => self.ask_session(now, proc, no, &[call], m),
            _ => self.refuse_server(
                proc,
                m.id,
                "requests to the client have no place in this protocol version",
            ),
        }
    }

    /// Asks a session's client, by the stream of its only call, else its own stream, else any of its streams, else
    /// later.
    fn ask_session(&mut self, now: Instant, proc: ProcId, no: SessionNo, calls: &[CallId], m: &Message<'_>) {
        let id = self.fresh();
        let mut buffer = itoa::Buffer::new();
        let own = buffer.format(id).as_bytes();
        let mut json = Vec::new();
        message::splice(&mut json, m.text, &[(message::place(m.text, m.id), own)]);
        self.put_ask(now, id, (proc, Asker::Server(m.id.into())), no, calls, json);
        let Some(ask) = self.asks.get_mut(&id).filter(|_| takes_a_while(&m.method)) else {
            return;
        };
        ask.puts_off = true;
        if ask.delivered {
            for call in calls {
                self.put_off(now, *call);
            }
        }
    }

    /// A question is over: the calls on whose account it may have been have their time anew.
    fn ask_over(&mut self, now: Instant, ask: &Ask) {
        if let Some(no) = ask.session.filter(|_| ask.puts_off && ask.delivered) {
            self.put_off_all(now, ask.proc, no);
        }
    }

    /// Asks a session's client what `json` says under this id.
    pub(super) fn put_ask(
        &mut self,
        now: Instant,
        id: AskId,
        (proc, asker): (ProcId, Asker),
        no: SessionNo,
        calls: &[CallId],
        json: Vec<u8>,
    ) {
        let stream = self.say_to(now, no, calls, &json);
        let deadline = now
            + if stream.is_some() {
                self.config.call
            } else {
                UNDELIVERED
            };
        let delivered = stream.is_some();
        self.asks.insert(
            id,
            Ask {
                proc,
                asker,
                session: Some(no),
                stream,
                delivered,
                puts_off: false,
                deadline,
            },
        );
        if !delivered {
            self.backlog(no, Some(id), json);
        }
    }

    /// Says something to a session; `None` when it has no stream for it.
    pub(super) fn say_to(&mut self, now: Instant, no: SessionNo, calls: &[CallId], json: &[u8]) -> Option<StreamId> {
        let stream = self.stream_to(no, calls)?;
        self.emit(now, stream, json).then_some(stream)
    }

    /// What can carry something to a session.
    fn stream_to(&self, no: SessionNo, calls: &[CallId]) -> Option<StreamId> {
        let standing = self.sessions.get(&no)?.stream;
        let attached =
            |b: &Self, stream: &StreamId| b.streams.get(stream).is_some_and(|l| l.wire.is_some() && l.accepts.sse);
        let of_calls: Vec<StreamId> = calls
            .iter()
            .filter_map(|c| self.calls.get(c)?.stream)
            .filter(|l| attached(self, l))
            .collect();
        let first = if calls.len() == 1 { of_calls.first() } else { None };
        let standing = attached(self, &standing).then_some(standing);
        first.copied().or(standing).or(of_calls.last().copied())
    }

    /// A client answers.
    pub(super) fn ask_answered(&mut self, now: Instant, session: SessionNo, m: &Message<'_>) {
        let Some(id) = message::own_id(m.id).filter(|id| self.asks.get(id).is_some_and(|a| a.session == Some(session)))
        else {
            return;
        };
        let Some(ask) = self.asks.remove(&id) else { return };
        if let Some(p) = self.procs.get_mut(&ask.proc) {
            p.used = now;
        }
        self.ask_over(now, &ask);
        match ask.asker {
            Asker::Server(id) => {
                let cuts = [(message::place(m.text, m.id), id.as_bytes())];
                self.write(ask.proc, |out| message::splice_line(out, m.text, &cuts));
            }
            Asker::Round(call, key) => self.round_answered(now, call, key, m),
        }
    }

    /// Ends an ask with an error to who asked.
    pub(super) fn fail_ask(&mut self, now: Instant, id: AskId, why: &str) {
        let Some(ask) = self.asks.remove(&id) else { return };
        self.ask_over(now, &ask);
        match ask.asker {
            Asker::Server(id) => self.refuse_server(ask.proc, &id, why),
            Asker::Round(call, _) => self.abandon(now, call, codes::CALL_TIMEOUT, why, false),
        }
    }

    /// A call is over before its questions were answered: the client need not answer them any more.
    pub(super) fn drop_asks(&mut self, now: Instant, call: CallId, why: &str) {
        let of_call = |a: &Ask| matches!(a.asker, Asker::Round(c, _) if c == call);
        let ids: Vec<AskId> = self
            .asks
            .iter()
            .filter(|(_, a)| of_call(a))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let asked = self.asks.remove(&id).filter(|a| a.delivered).and_then(|a| a.session);
            if let Some(no) = asked {
                let note = format!(
                    "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id},\
                     \"reason\":{}}}}}",
                    message::quote(why)
                );
                self.say_to(now, no, &[], note.as_bytes());
            }
        }
    }

    pub(super) fn refuse_server(&mut self, proc: ProcId, id: &str, why: &str) {
        self.answer_server(proc, &message::error(id, codes::INTERNAL_ERROR, why, None));
    }

    pub(super) fn answer_server(&mut self, proc: ProcId, json: &[u8]) {
        if !self.clogged(proc) {
            self.write_line(proc, json);
        }
    }

    /// The server takes a request back: tell the client that was asked.
    pub(super) fn ask_cancelled(&mut self, now: Instant, proc: ProcId, m: &Message<'_>) {
        let Some(raw) = message::params(m.params).and_then(|p| p.request_id).map(|r| r.get()) else {
            return;
        };
        let Some(id) = self
            .asks
            .iter()
            .find(|(_, a)| a.proc == proc && matches!(&a.asker, Asker::Server(id) if &**id == raw))
            .map(|(id, _)| *id)
        else {
            return;
        };
        let Some(ask) = self.asks.remove(&id) else { return };
        let mut json = Vec::new();
        message::splice(
            &mut json,
            m.text,
            &[(message::place(m.text, raw), id.to_string().as_bytes())],
        );
        let (Some(no), true) = (ask.session, ask.delivered) else {
            return;
        };
        let open = ask.stream.filter(|l| self.streams.contains_key(l));
        if !open.is_some_and(|stream| self.emit(now, stream, &json)) {
            self.say_to(now, no, &[], &json);
        }
    }
}
