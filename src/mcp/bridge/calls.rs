//! Calls: requests on their way to a server, and their answers on the way back. The hot path.
//!
//! Never copies more than once each way, and never looks below the top level of an answer unless the call asks for it.

use std::time::Instant;

use super::{Bridge, Call, CallId, Effect, MAX_INPUT, Phase, ProcId, StreamId, What};
use crate::mcp::frame::Line;
use crate::mcp::message::{self, Kind, Message};
use crate::mcp::{codes, meta};

/// As much of a line that is no message goes to the log.
const SHOWN: usize = 200;
/// Of an id that nobody knows, so many characters go into words.
const SHOWN_ID: usize = 64;

impl Bridge {
    /// Puts a line (with its newline) on a process's stdin, or holds it until the process is ready.
    pub(super) fn write(&mut self, proc: ProcId, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(p) = self.procs.get_mut(&proc) else { return };
        if p.phase != Phase::Ready {
            write(&mut p.held);
            return;
        }
        if p.input.is_empty() {
            self.effects.push(Effect::Input(proc));
        }
        write(&mut p.input);
    }

    /// Puts a line on the stdin of a process that is not ready yet.
    pub(super) fn write_now(&mut self, proc: ProcId, line: &str) {
        let Some(p) = self.procs.get_mut(&proc) else { return };
        if p.input.is_empty() {
            self.effects.push(Effect::Input(proc));
        }
        p.input.extend_from_slice(line.as_bytes());
        p.input.push(b'\n');
    }

    /// Whether a process has stopped reading.
    pub(super) fn clogged(&self, proc: ProcId) -> bool {
        self.procs
            .get(&proc)
            .is_some_and(|p| p.input.len() + p.held.len() > MAX_INPUT)
    }

    /// Puts a JSON text on a process's stdin as one line.
    pub(super) fn write_line(&mut self, proc: ProcId, json: &[u8]) {
        self.write(proc, |out| {
            out.extend(json.iter().map(|b| if *b == b'\n' || *b == b'\r' { b' ' } else { *b }));
            out.push(b'\n');
        });
    }

    /// Registers a call; its id is the one to write.
    pub(super) fn register(&mut self, call: Call) -> CallId {
        let id = self.fresh();
        let session = call.session.and_then(|s| self.sessions.get(&s)).map(|s| &s.principal);
        if let Some(p) = self.procs.get_mut(&call.proc) {
            p.calls.insert(id);
            if let Some(principal) = call.client.as_ref().or(session) {
                p.serves(principal);
            }
        }
        if let Some(stream) = call.stream
            && let Some(s) = call.session.and_then(|s| self.sessions.get_mut(&s))
        {
            debug_assert!(self.streams.contains_key(&stream));
            s.ids.insert(call.id.clone(), id);
        }
        if let What::Guest(pending) = &call.what {
            self.kept += pending.held();
        }
        self.calls.insert(id, call);
        id
    }

    /// Forgets a call.
    pub(super) fn unregister(&mut self, id: CallId) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        if let What::Guest(pending) = &call.what {
            self.kept -= pending.held();
        }
        if let Some(p) = self.procs.get_mut(&call.proc) {
            p.calls.remove(&id);
        }
        if let Some(s) = call.session.and_then(|s| self.sessions.get_mut(&s)) {
            s.cancelled.remove(&id);
            if s.ids.get(&call.id) == Some(&id) {
                s.ids.remove(&call.id);
            }
        }
        Some(call)
    }

    /// Sends a request of our own.
    pub(super) fn request(&mut self, now: Instant, proc: ProcId, method: &str, params: &str, what: What) -> CallId {
        let deadline = Some(now + self.config.call.min(self.config.start.max(super::UNDELIVERED)));
        let own = matches!(what, What::Discover | What::Handshake);
        let deadline = if own { None } else { deadline };
        let id = self.register(Call {
            proc,
            stream: None,
            session: None,
            client: None,
            id: "".into(),
            token: None,
            deadline,
            bound: None,
            logs: None,
            again: false,
            what,
        });
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}");
        if own {
            self.write_now(proc, &line);
        } else {
            self.write_line(proc, line.as_bytes());
        }
        id
    }

    /// Passes a client's request on, with our id and progress token in it.
    pub(super) fn pass_on(&mut self, proc: ProcId, id: CallId, m: &Message<'_>, token: Option<&str>) {
        let mut buffer = itoa::Buffer::new();
        let own = buffer.format(id).as_bytes();
        let mut cuts = vec![(message::place(m.text, m.id), own)];
        if let Some(token) = token {
            cuts.push((message::place(m.text, token), own));
            cuts.sort_by_key(|(range, _)| range.start);
        }
        self.write(proc, |out| message::splice_line(out, m.text, &cuts));
    }

    /// A line from a process's stdout.
    pub fn line(&mut self, now: Instant, proc: ProcId, line: &Line<'_>) {
        if !self.procs.contains_key(&proc) {
            return;
        }
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::TooLong { head, tail } => return self.oversized(now, proc, head, tail),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        match message::parse(bytes) {
            Ok(m) => match m.kind {
                Kind::Response => self.answered(now, proc, &m),
                Kind::Request => self.asked(now, proc, &m),
                Kind::Notification => self.told(now, proc, &m),
            },
            Err(_) if bytes.trim_ascii_start().starts_with(b"[") => self.unbatch(now, proc, bytes),
            Err(e) => match message::mended(bytes) {
                Some(mended) => self.line(now, proc, &Line::Whole(&mended)),
                None => self.unreadable(now, proc, bytes, &e.to_string()),
            },
        }
    }

    /// A line that is no message. Where it is an answer all the same, by the id in it, its call need not wait any longer.
    fn unreadable(&mut self, now: Instant, proc: ProcId, bytes: &[u8], why: &str) {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned();
        self.log(format!("skipped a line on the server's stdout ({why}): {text}"));
        let answer = bytes.trim_ascii_start().starts_with(b"{");
        let call =
            message::guess_id(bytes, bytes).filter(|id| answer && self.calls.get(id).is_some_and(|c| c.proc == proc));
        if let Some(id) = call {
            self.misanswered(now, proc, id, &format!("the server's answer cannot be read: {why}"));
        }
    }

    /// An answer that is none: its call ends with the cause, and so does a server that begins like this.
    fn misanswered(&mut self, now: Instant, proc: ProcId, id: CallId, why: &str) {
        let begins = |c: &Call| matches!(c.what, What::Discover | What::Handshake);
        if self.calls.get(&id).is_some_and(begins) {
            self.order_stop(proc);
            return self.gone(now, proc, why);
        }
        self.abandon(now, id, codes::BAD_ANSWER, why, false);
    }

    /// A batch from a server (2025-03-26): its messages one by one.
    fn unbatch(&mut self, now: Instant, proc: ProcId, bytes: &[u8]) {
        let Ok(items) = serde_json::from_slice::<Vec<&serde_json::value::RawValue>>(bytes) else {
            return self.log("skipped a line on the server's stdout that is no JSON".to_owned());
        };
        for item in items
            .iter()
            .map(|i| i.get().as_bytes())
            .filter(|i| !i.starts_with(b"["))
        {
            self.line(now, proc, &Line::Whole(item));
        }
    }

    fn oversized(&mut self, now: Instant, proc: ProcId, head: &[u8], tail: &[u8]) {
        let limit = self.config.max_message;
        let text = format!("the server's answer is longer than {limit} bytes");
        let call = message::guess_id(head, tail).filter(|id| self.calls.get(id).is_some_and(|c| c.proc == proc));
        if let Some(id) = call {
            return self.abandon(now, id, codes::LIMIT, &text, false);
        }
        self.log(format!(
            "the server wrote a line of more than {limit} bytes that answers no call; it is ended"
        ));
        self.order_stop(proc);
        self.gone(now, proc, &text);
    }

    /// The answer to a call.
    fn answered(&mut self, now: Instant, proc: ProcId, m: &Message<'_>) {
        let found = message::own_id(m.id).filter(|id| self.calls.get(id).is_some_and(|c| c.proc == proc));
        let Some(id) = found else {
            let Some(p) = self.procs.get_mut(&proc) else { return };
            if let Some(id) = message::own_id(m.id).filter(|id| *id < self.next) {
                // Late, or once more: its call was given up or answered, and is out of the books by now.
                p.abandoned.remove(&id);
                return;
            }
            let only = match p.calls.iter().copied().collect::<Vec<_>>().as_slice() {
                [one] => Some(*one),
                _ => None,
            };
            let shown: String = m.id.chars().take(SHOWN_ID).collect();
            self.log(format!(
                "the server answered with the id {shown}, which nothing has that was asked"
            ));
            // Whose it is can be told where one call alone is open. What the server wrote could be anybody's.
            if let Some(id) = only {
                let why = "the server answered with another id than it was asked with";
                self.misanswered(now, proc, id, why);
            }
            return;
        };
        let Some(call) = self.unregister(id) else { return };
        match call.what {
            What::Plain | What::Listen => {
                let Some(stream) = call.stream else { return };
                let json = self.restore(m, id, &call);
                if call.session.is_none() {
                    self.tools.learn(m.result.unwrap_or_default());
                }
                let status = meta::status_of(m.error, call.session.is_none());
                self.respond(now, stream, json, status);
            }
            What::Opening => self.opened(now, &call, m),
            What::Discover => self.discovered(now, proc, m),
            What::Handshake => self.greeted(now, proc, m),
            What::Health(ticket, probe) => self.probed(proc, ticket, probe),
            What::Unheard => {}
            What::Translated(_) => self.translated(now, call, m, id),
            What::Guest(_) => self.guest_answered(now, call, m),
            What::Feed => self.feed_ended(now, proc, id, m.error),
            What::Watch(..) => self.watch_answered(now, &call, m, id),
        }
    }

    /// The answer's text with the client's id in the place of ours (and in the subscription id, where it ends one).
    pub(super) fn restore(&self, m: &Message<'_>, id: CallId, call: &Call) -> Vec<u8> {
        let mut cuts = vec![(message::place(m.text, m.id), call.id.as_bytes())];
        if matches!(call.what, What::Listen)
            && let Some(raw) = m.result.and_then(meta::subscription)
            && message::own_id(raw) == Some(id)
        {
            cuts.push((message::place(m.text, raw), call.id.as_bytes()));
            cuts.sort_by_key(|(range, _)| range.start);
        }
        let mut json = Vec::new();
        message::splice(&mut json, m.text, &cuts);
        json
    }

    /// Whether its client has cancelled a call.
    pub(super) fn is_cancelled(&self, id: CallId) -> bool {
        let session = self.calls.get(&id).and_then(|c| self.sessions.get(&c.session?));
        session.is_some_and(|s| s.cancelled.contains(&id))
    }

    /// Ends a call with an error to its client, and tells the server where that makes sense.
    pub(super) fn abandon(&mut self, now: Instant, id: CallId, code: i64, why: &str, cancel: bool) {
        let cancelled = self.is_cancelled(id);
        let Some(call) = self.unregister(id) else { return };
        let unsent = matches!(&call.what, What::Guest(pending) if pending.is_asking());
        if cancel && !unsent && !matches!(call.what, What::Opening) {
            self.bury(id, &call);
            if !cancelled {
                self.cancel(call.proc, id, why);
            }
        }
        if cancelled && let Some(stream) = call.stream {
            self.pass_over(now, stream, message::error(&call.id, code, why, None));
        }
        let stream = call.stream.filter(|_| !cancelled);
        match call.what {
            What::Health(ticket, _) => self.probe_lost(call.proc, ticket, why),
            What::Opening => self.opening_failed(now, &call, code, why),
            What::Discover | What::Handshake | What::Unheard => {}
            What::Feed => self.feed_ended(now, call.proc, id, None),
            What::Watch(uri, whose) => {
                self.watch_over(now, call.proc, &uri, whose, false);
                self.answer_call(now, stream, &call.id, code, why);
            }
            What::Guest(_) => {
                self.drop_asks(now, id, why);
                self.answer_call(now, stream, &call.id, code, why);
            }
            What::Plain | What::Listen | What::Translated(_) => self.answer_call(now, stream, &call.id, code, why),
        }
    }

    fn answer_call(&mut self, now: Instant, stream: Option<StreamId>, id: &str, code: i64, why: &str) {
        if let Some(stream) = stream {
            self.respond(now, stream, message::error(id, code, why, None), 200);
        }
    }

    /// Tells a server that nobody waits for an answer any more.
    pub(super) fn cancel(&mut self, proc: ProcId, id: CallId, why: &str) {
        if self.clogged(proc) {
            return;
        }
        let reason = message::quote(why);
        self.write(proc, |out| {
            out.extend_from_slice(
                b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{\"requestId\":",
            );
            out.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
            out.extend_from_slice(b",\"reason\":");
            out.extend_from_slice(reason.as_bytes());
            out.extend_from_slice(b"}}\n");
        });
    }

    /// A modern exchange was closed by its client: that cancels what it asked for.
    pub(super) fn hang_up(&mut self, now: Instant, stream: StreamId) {
        if self.listeners.contains_key(&stream) {
            self.unlisten(now, stream);
        }
        let calls: Vec<CallId> = self
            .calls
            .iter()
            .filter(|(_, c)| c.stream == Some(stream))
            .map(|(id, _)| *id)
            .collect();
        for id in calls {
            if let Some(call) = self.unregister(id) {
                self.bury(id, &call);
                self.cancel(call.proc, id, "the client closed the stream");
            }
        }
    }
}
