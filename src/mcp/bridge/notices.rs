//! Notifications from servers, each to whom it concerns: progress to its call, changes to who listens, logs to who
//! called. What could be another client's business is dropped rather than shown.

use std::time::Instant;

use super::owner::Whose;
use super::{Bridge, CallId, ProcId, Role, SessionNo, StreamId, What, listen};
use crate::mcp::message::{self, Message};
use crate::mcp::meta;

impl Bridge {
    /// A server notifies.
    pub(super) fn told(&mut self, now: Instant, proc: ProcId, m: &Message<'_>) {
        match &*m.method {
            "notifications/progress" => return self.progressed(now, proc, m),
            "notifications/cancelled" => return self.server_cancelled(now, proc, m),
            _ => {}
        }
        if let Some(raw) = m.params.and_then(meta::subscription) {
            return self.subscribed(now, proc, raw, m);
        }
        let Some(p) = self.procs.get(&proc) else { return };
        if let Role::Session(no) = p.role {
            return self.tell_session(now, no, proc, m);
        }
        match &*m.method {
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => {
                self.tools.clear();
                self.tell_all(now, proc, m, None);
                self.tell_listeners(now, proc, m, None);
            }
            "notifications/resources/updated" => {
                let uri = message::params(m.params).and_then(|p| message::string(p.uri?.get()));
                self.tell_all(now, proc, m, uri.as_deref());
                self.tell_listeners(now, proc, m, uri.as_deref());
            }
            _ => self.tell_caller(now, proc, m),
        }
    }

    /// Progress: to the call whose token it names, which has its time anew.
    fn progressed(&mut self, now: Instant, proc: ProcId, m: &Message<'_>) {
        let Some(raw) = message::params(m.params).and_then(|p| p.token).map(|t| t.get()) else {
            return;
        };
        let Some((id, call)) = message::own_id(raw)
            .and_then(|id| Some((id, self.calls.get(&id)?)))
            .filter(|(_, c)| c.proc == proc)
        else {
            return;
        };
        let (stream, token) = (call.stream, call.token.clone());
        self.put_off(now, id);
        let (Some(stream), Some(token)) = (stream, token) else {
            return;
        };
        let mut json = Vec::new();
        message::splice(&mut json, m.text, &[(message::place(m.text, raw), token.as_bytes())]);
        self.emit(now, stream, &json);
    }

    /// A server cancels: its own request, or (modern) a subscription that it tears down.
    fn server_cancelled(&mut self, now: Instant, proc: ProcId, m: &Message<'_>) {
        let raw = message::params(m.params).and_then(|p| p.request_id).map(|r| r.get());
        let listen = raw.and_then(message::own_id).filter(|id| {
            self.calls
                .get(id)
                .is_some_and(|c| c.proc == proc && matches!(c.what, What::Listen | What::Feed))
        });
        match listen {
            Some(id) if self.calls.get(&id).is_some_and(|c| matches!(c.what, What::Feed)) => {
                self.unregister(id);
                self.feed_ended(now, proc, id, None);
            }
            Some(id) => {
                let ended = self.unregister(id).and_then(|c| Some((c.stream?, c.id)));
                if let Some((stream, id)) = ended {
                    self.respond(now, stream, listen::completion(&id), 200);
                }
            }
            None => self.ask_cancelled(now, proc, m),
        }
    }

    /// A notification for a subscription of a modern process: to the stream that asked for it.
    fn subscribed(&mut self, now: Instant, proc: ProcId, raw: &str, m: &Message<'_>) {
        let Some((id, call)) = message::own_id(raw)
            .and_then(|id| Some((id, self.calls.get(&id)?)))
            .filter(|(_, c)| c.proc == proc)
        else {
            return;
        };
        if matches!(call.what, What::Feed) {
            return self.fed(now, proc, id, m);
        }
        let Some(stream) = call.stream else { return };
        let mut json = Vec::new();
        message::splice(&mut json, m.text, &[(message::place(m.text, raw), call.id.as_bytes())]);
        self.emit(now, stream, &json);
    }

    /// To the client that owns the process: on its own stream, else on its only call's, else later.
    pub(super) fn tell_session(&mut self, now: Instant, no: SessionNo, proc: ProcId, m: &Message<'_>) {
        let Some(standing) = self.sessions.get(&no).map(|s| s.stream) else {
            return;
        };
        if self.streams.get(&standing).is_some_and(|l| l.wire.is_some()) {
            self.emit(now, standing, m.text.as_bytes());
            return;
        }
        if let Some(stream) = self.only_stream(proc, no)
            && self.emit(now, stream, m.text.as_bytes())
        {
            return;
        }
        self.backlog(no, None, m.text.as_bytes().to_vec());
    }

    /// The stream of the only call that a session has at a process.
    fn only_stream(&self, proc: ProcId, no: SessionNo) -> Option<StreamId> {
        let p = self.procs.get(&proc)?;
        let stream = |id: &CallId| self.calls.get(id).filter(|c| c.session == Some(no))?.stream;
        let mut streams = p.calls.iter().filter_map(stream);
        match (streams.next(), streams.next()) {
            (Some(stream), None) => Some(stream),
            _ => None,
        }
    }

    /// To every session of a shared process, or to those that watch a resource.
    pub(super) fn tell_all(&mut self, now: Instant, proc: ProcId, m: &Message<'_>, uri: Option<&str>) {
        if Some(proc) != self.twin && Some(proc) != self.standing.proc {
            return;
        }
        let concerned = |s: &super::Session| s.proc.is_none() && uri.is_none_or(|u| listen::watches(&s.watched, u));
        let all: Vec<SessionNo> = self
            .sessions
            .iter()
            .filter(|(_, s)| concerned(s))
            .map(|(no, _)| *no)
            .collect();
        for no in all {
            let Some(stream) = self.sessions.get(&no).map(|s| s.stream) else {
                continue;
            };
            if self.streams.get(&stream).is_some_and(|l| l.wire.is_some()) {
                self.emit(now, stream, m.text.as_bytes());
            } else {
                self.backlog(no, None, m.text.as_bytes().to_vec());
            }
        }
    }

    /// To the one whose call it is about, if he wants to hear.
    fn tell_caller(&mut self, now: Instant, proc: ProcId, m: &Message<'_>) {
        let session = match self.whose(proc, false) {
            Whose::Call(id) => {
                let Some(call) = self.calls.get(&id) else { return };
                if m.method == "notifications/message" && !call.wants(m) {
                    return;
                }
                let session = call.session;
                if call
                    .stream
                    .is_some_and(|stream| self.emit(now, stream, m.text.as_bytes()))
                {
                    return;
                }
                session
            }
            Whose::Session(no) if self.sessions.contains_key(&no) => Some(no),
            Whose::Session(_) | Whose::Nobody => self.only_session(proc),
            Whose::Anybody => return self.drop_ownerless(proc, &m.method),
        };
        if let Some(no) = session {
            self.tell_session(now, no, proc, m);
        }
    }
}
