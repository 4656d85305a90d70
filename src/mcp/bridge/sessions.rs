//! Legacy sessions: opening, finding, ending, the GET stream, resumption.
//!
//! ```text
//! opening ──initialize answered──► open ──DELETE, time, process gone──► ended (its id answers 404)
//!    └─────error or process gone────────────────────────────────────────────┘
//! ```

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use super::{BACKLOG, Bridge, Effect, HttpAnswer, ProcId, Session, SessionNo, Stream, WireId};
use crate::mcp::head::{self, Accepts};
use crate::mcp::sse::EventId;
use crate::mcp::version::{self, Era};
use crate::mcp::{codes, message, meta};

impl Bridge {
    /// A new session with its standing stream.
    pub(super) fn open_session(
        &mut self,
        now: Instant,
        proc: Option<ProcId>,
        version: &str,
        principal: Arc<str>,
    ) -> SessionNo {
        let (no, stream) = (self.fresh(), self.fresh() | 1 << 63);
        let key = self.secret();
        self.streams.insert(
            stream,
            Stream {
                session: Some(no),
                wire: None,
                accepts: Accepts { json: false, sse: true },
                opened: false,
                opening: false,
                standing: true,
                seq: 0,
                pending: 0,
                batch: None,
                since: now,
                last: now,
            },
        );
        self.keys.insert(key.clone(), no);
        self.sessions.insert(
            no,
            Session {
                key,
                principal,
                used: false,
                proc,
                version: version.to_owned(),
                open: false,
                last: now,
                listened: false,
                stream,
                ids: HashMap::new(),
                cancelled: BTreeSet::new(),
                backlog: VecDeque::new(),
                backlog_bytes: 0,
                replay: VecDeque::new(),
                replay_bytes: 0,
                watched: BTreeSet::new(),
                guest: None,
            },
        );
        no
    }

    /// The session that a request names, or an answer to the request. A session of another principal is unknown.
    pub(super) fn session(&mut self, now: Instant, wire: WireId, headers: &HeaderMap, id: &str) -> Option<SessionNo> {
        let Some(key) = head::text(headers, head::SESSION) else {
            let text = "the Mcp-Session-Id header is missing: send initialize first";
            self.refuse(wire, 400, id, codes::INVALID_REQUEST, text, None);
            return None;
        };
        if let Some((v, era)) = head::version(headers)
            && era != Some(Era::Legacy)
            && !self.agreed(headers)
        {
            self.refuse_version(wire, id, v);
            return None;
        }
        let found = self.keys.get(key).copied();
        let principal = head::text(headers, head::PRINCIPAL).unwrap_or_default();
        let own = |s: &&mut Session| s.open && *s.principal == *principal;
        let Some(session) = found.and_then(|no| self.sessions.get_mut(&no)).filter(own) else {
            let text = "unknown session: it has ended, send initialize again";
            self.refuse(wire, 404, id, codes::SESSION_NOT_FOUND, text, None);
            return None;
        };
        session.last = now;
        session.used = true;
        found
    }

    /// Whether a request names the version that its session agreed on with the server, which may be one that is not known
    /// here: client and server know what they mean by it, and it is theirs to refuse.
    pub(super) fn agreed(&self, headers: &HeaderMap) -> bool {
        let named = head::text(headers, head::SESSION).and_then(|key| self.keys.get(key));
        let version = head::text(headers, head::VERSION);
        named
            .and_then(|no| self.sessions.get(no))
            .is_some_and(|s| version == Some(s.version.as_str()))
    }

    /// 400 with the versions that are served (MCP 2026-07-28, basic/versioning).
    pub(super) fn refuse_version(&mut self, wire: WireId, id: &str, asked: &str) {
        // What a modern server says of itself in its discovery is what it serves; a legacy one is served in all.
        let standing = self.standing.proc.and_then(|p| self.procs.get(&p));
        let own = standing
            .filter(|p| p.era == Era::Modern)
            .and_then(|p| p.hello.as_deref());
        let supported = own
            .and_then(meta::supported_versions)
            .map_or_else(version::supported_json, |versions| {
                let quoted: Vec<String> = versions.iter().map(|v| message::quote(v)).collect();
                format!("[{}]", quoted.join(","))
            });
        let data = format!("{{\"supported\":{supported},\"requested\":{}}}", message::quote(asked));
        let code = codes::UNSUPPORTED_PROTOCOL_VERSION;
        self.refuse(wire, 400, id, code, "Unsupported protocol version", Some(&data));
    }

    /// `GET`: the session's stream, or the rest of a stream that broke.
    pub fn get(&mut self, now: Instant, wire: WireId, headers: &HeaderMap) {
        if head::is_modern(headers) && !self.agreed(headers) {
            return self.not_allowed(wire, "POST");
        }
        if !head::accepts(headers).sse {
            let text = "a GET stream needs Accept: text/event-stream";
            return self.refuse(wire, 406, "", codes::INVALID_REQUEST, text, None);
        }
        let Some(no) = self.session(now, wire, headers, "") else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&no) else {
            return;
        };
        let standing = session.stream;
        let from = head::text(headers, "last-event-id").and_then(EventId::parse);
        self.effects.push(Effect::Open(wire, Some(session.key.clone())));
        if let Some(from) = from {
            for (id, bytes) in session
                .replay
                .iter()
                .filter(|(id, _)| id.stream == from.stream && id.seq > from.seq)
            {
                debug_assert!(id.seq > from.seq);
                self.effects.push(Effect::Send(wire, bytes.clone()));
            }
        }
        let stream = from.map_or(standing, |f| f.stream);
        if self
            .streams
            .get(&stream)
            .is_none_or(|l| l.session != Some(no) || !(l.opened || l.standing))
        {
            // That stream has said all it had to say.
            self.effects.push(Effect::Close(wire));
            return;
        }
        self.attach(now, stream, wire);
        if stream == standing {
            if let Some(session) = self.sessions.get_mut(&no) {
                session.listened = true;
            }
            self.flush_backlog(now, no);
        }
    }

    /// `DELETE`: ends the session.
    pub fn delete(&mut self, now: Instant, wire: WireId, headers: &HeaderMap) {
        if head::is_modern(headers) && !self.agreed(headers) {
            return self.not_allowed(wire, "POST");
        }
        let Some(no) = self.session(now, wire, headers, "") else {
            return;
        };
        self.end_session(now, no, "the session was deleted");
        self.effects.push(Effect::Answer(
            wire,
            HttpAnswer {
                status: 204,
                ..HttpAnswer::default()
            },
        ));
    }

    /// Any other method: 405.
    pub fn not_allowed(&mut self, wire: WireId, allow: &'static str) {
        let body = message::error("", codes::INVALID_REQUEST, "this HTTP method has no meaning here", None).into();
        let answer = HttpAnswer {
            status: 405,
            allow: Some(allow),
            body,
            ..HttpAnswer::default()
        };
        self.effects.push(Effect::Answer(wire, answer));
    }

    /// Ends a session: its calls are answered with an error, its streams close, its process stops.
    pub(super) fn end_session(&mut self, now: Instant, no: SessionNo, why: &str) {
        let Some(session) = self.sessions.get(&no) else { return };
        let calls: Vec<u64> = session.ids.values().copied().collect();
        for call in calls {
            self.abandon(now, call, codes::SERVER_GONE, why, true);
        }
        let Some(session) = self.sessions.remove(&no) else {
            return;
        };
        self.keys.remove(&session.key);
        self.replay_total -= session.replay_bytes;
        let streams: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, l)| l.session == Some(no))
            .map(|(id, _)| *id)
            .collect();
        for stream in streams {
            if stream == session.stream && self.streams.get(&stream).is_some_and(|l| l.wire.is_none()) {
                self.streams.remove(&stream);
            } else {
                self.end_stream(stream);
            }
        }
        let asks: Vec<u64> = self
            .asks
            .iter()
            .filter(|(_, a)| a.session == Some(no))
            .map(|(id, _)| *id)
            .collect();
        for ask in asks {
            self.fail_ask(now, ask, why);
        }
        if let Some(proc) = session.proc
            && self.procs.contains_key(&proc)
        {
            self.stop(now, proc);
        }
        self.watched_bytes -= session.watched.iter().map(String::len).sum::<usize>();
        if session.guest.is_some() {
            return self.feed_left(now, session.proc);
        }
        for uri in &session.watched {
            self.unwatch(now, None, uri);
        }
    }

    /// Keeps a message until the session's stream opens; the oldest give way.
    pub(super) fn backlog(&mut self, no: SessionNo, ask: Option<u64>, json: Vec<u8>) {
        let Some(s) = self.sessions.get_mut(&no) else { return };
        s.backlog_bytes += json.len();
        s.backlog.push_back((ask, json));
        while s.backlog.len() > BACKLOG.0 || s.backlog_bytes > BACKLOG.1 {
            let Some((_, old)) = s.backlog.pop_front() else { break };
            s.backlog_bytes -= old.len();
        }
    }

    fn flush_backlog(&mut self, now: Instant, no: SessionNo) {
        let Some(s) = self.sessions.get_mut(&no) else { return };
        let (stream, waiting) = (s.stream, std::mem::take(&mut s.backlog));
        s.backlog_bytes = 0;
        for (ask, json) in waiting {
            match ask.map(|a| self.asks.get_mut(&a)) {
                // Its time is over, and the server has been told.
                Some(None) => continue,
                Some(Some(a)) => {
                    a.delivered = true;
                    a.stream = Some(stream);
                    a.deadline = now + self.config.call;
                    let (proc, puts_off) = (a.proc, a.puts_off);
                    if puts_off {
                        self.put_off_all(now, proc, no);
                    }
                }
                None => {}
            }
            self.emit(now, stream, &json);
        }
    }
}
