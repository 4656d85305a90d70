//! Lanes: where the messages to a client go. A stream starts as an open question (JSON or stream?) and is settled by the
//! first thing to be said.
//!
//! ```text
//!            answer, JSON accepted
//! waiting ────────────────────────────────────────────► gone
//!    │ anything else first, or 5 s          answer
//!    └──────────────► streaming ─────────────────────► gone (its events stay in the session's replay buffer)
//!                       │    ▲
//!        wire closed    ▼    │ GET with Last-Event-ID
//!                     detached (legacy only)
//! ```

use std::time::Instant;

use bytes::Bytes;

use super::{
    Bridge, Effect, HttpAnswer, KEEP_ALIVE, OPEN_AFTER, REPLAY, REPLAY_ALL, SessionNo, Stream, StreamId, WireId,
};
use crate::mcp::head::Accepts;
use crate::mcp::sse::{self, EventId};

impl Bridge {
    /// A stream for an exchange: it has the exchange's number.
    pub(super) fn stream(
        &mut self,
        now: Instant,
        wire: WireId,
        session: Option<SessionNo>,
        accepts: Accepts,
        calls: u32,
    ) {
        let stream = Stream {
            session,
            wire: Some(wire),
            accepts,
            opened: false,
            standing: false,
            opening: false,
            seq: 0,
            pending: calls,
            batch: None,
            since: now,
            last: now,
        };
        self.streams.insert(wire, stream);
    }

    /// Says something before the answer. `false` when this stream cannot carry it.
    pub(super) fn emit(&mut self, now: Instant, id: StreamId, json: &[u8]) -> bool {
        if !self.open(now, id) {
            return false;
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        stream.last = now;
        // A client of the old transport cannot resume.
        let session = stream.session.filter(|_| !self.channels.contains_key(&id));
        let Some(session) = session else {
            let Some(wire) = stream.wire else { return false };
            self.effects
                .push(Effect::Send(wire, Bytes::from(sse::event(None, json))));
            return true;
        };
        stream.seq += 1;
        let event = EventId {
            stream: id,
            seq: stream.seq,
        };
        let bytes = Bytes::from(sse::event(Some(event), json));
        if let Some(wire) = stream.wire {
            self.effects.push(Effect::Send(wire, bytes.clone()));
        }
        self.keep(session, event, bytes);
        true
    }

    /// Makes the stream a stream, if it may be one.
    fn open(&mut self, now: Instant, id: StreamId) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        if stream.opened {
            return stream.wire.is_some() || stream.session.is_some();
        }
        let (Some(wire), true) = (stream.wire, stream.accepts.sse) else {
            return false;
        };
        stream.opened = true;
        stream.last = now;
        let session = stream.session.and_then(|s| self.sessions.get_mut(&s));
        let key = session.as_ref().map(|s| s.key.clone());
        self.effects.push(Effect::Open(wire, key));
        if session.is_some_and(|s| s.version.as_str() >= "2025-11-25") {
            stream.seq += 1;
            let event = EventId {
                stream: id,
                seq: stream.seq,
            };
            self.effects.push(Effect::Send(wire, Bytes::from(sse::prime(event))));
        }
        for early in stream.batch.take().unwrap_or_default() {
            self.emit(now, id, &early);
        }
        true
    }

    /// Gives one call's answer; the last one ends the stream.
    pub(super) fn respond(&mut self, now: Instant, id: StreamId, json: Vec<u8>, status: u16) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.pending = stream.pending.saturating_sub(1);
        let last = stream.pending == 0;
        if !stream.opened && stream.accepts.json {
            if let Some(batch) = &mut stream.batch {
                batch.push(json);
                if last {
                    let body = Bytes::from(array(batch));
                    self.answer(
                        id,
                        HttpAnswer {
                            status: 200,
                            body,
                            ..HttpAnswer::default()
                        },
                    );
                }
            } else {
                self.answer(
                    id,
                    HttpAnswer {
                        status,
                        body: Bytes::from(json),
                        ..HttpAnswer::default()
                    },
                );
            }
            return;
        }
        self.emit(now, id, &json);
        if last && !self.channels.contains_key(&id) {
            self.end_stream(id);
        }
    }

    /// Ends a call that its client has cancelled. A stream says nothing of it, since the client expects no answer
    /// (2025-11-25, basic/utilities/cancellation); an exchange that is none needs one.
    pub(super) fn pass_over(&mut self, now: Instant, id: StreamId, json: Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.opened {
            return self.respond(now, id, json, 200);
        }
        stream.pending = stream.pending.saturating_sub(1);
        if stream.pending == 0 && !self.channels.contains_key(&id) {
            self.end_stream(id);
        }
    }

    /// Answers the exchange of a stream that is no stream, and forgets the stream.
    pub(super) fn answer(&mut self, id: StreamId, answer: HttpAnswer) {
        if let Some(wire) = self.streams.remove(&id).and_then(|l| l.wire) {
            self.moved.remove(&wire);
            self.effects.push(Effect::Answer(wire, answer));
        }
    }

    /// Ends a stream's stream and forgets the stream; an exchange without an answer so far gets an empty one.
    pub(super) fn end_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.forget_listener(id);
        self.channels.remove(&id);
        let Some(wire) = stream.wire else { return };
        self.moved.remove(&wire);
        if stream.opened {
            self.effects.push(Effect::Close(wire));
        } else {
            self.effects.push(Effect::Answer(
                wire,
                HttpAnswer {
                    status: 202,
                    ..HttpAnswer::default()
                },
            ));
        }
    }

    /// The stream that a wire carries.
    pub(super) fn stream_of(&self, wire: WireId) -> StreamId {
        self.moved.get(&wire).copied().unwrap_or(wire)
    }

    /// An exchange's other end is gone. In the modern era that cancels its call, in the legacy era it does not.
    pub fn closed(&mut self, now: Instant, wire: WireId) {
        if self.channels.contains_key(&wire) {
            return self.channel_closed(now, wire);
        }
        let id = self.stream_of(wire);
        self.moved.remove(&wire);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.wire != Some(wire) {
            return;
        }
        stream.wire = None;
        if let Some(session) = stream.session {
            if stream.opening {
                // Nobody will ever know the session's id.
                return self.end_session(now, session, "the client went before initialize was answered");
            }
            if !stream.opened && !stream.standing {
                // The client has no event id to resume from: its answers will have nowhere to go.
                stream.accepts = Accepts {
                    json: false,
                    sse: false,
                };
            }
            if let Some(s) = self.sessions.get_mut(&session) {
                s.last = now;
            }
            return;
        }
        self.streams.remove(&id);
        self.hang_up(now, id);
    }

    /// Carries a stream on another exchange from now on.
    pub(super) fn attach(&mut self, now: Instant, id: StreamId, wire: WireId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let before = stream.wire.replace(wire);
        stream.opened = true;
        stream.last = now;
        stream.accepts.sse = true;
        self.moved.insert(wire, id);
        if let Some(before) = before {
            self.moved.remove(&before);
            self.effects.push(Effect::Close(before));
        }
    }

    /// Keeps an event for resumption, within the session's bounds and everybody's.
    fn keep(&mut self, session: SessionNo, id: EventId, bytes: Bytes) {
        let Some(s) = self.sessions.get_mut(&session) else {
            return;
        };
        s.replay_bytes += bytes.len();
        self.replay_total += bytes.len();
        s.replay.push_back((id, bytes));
        while s.replay.len() > REPLAY.0 || s.replay_bytes > REPLAY.1 || self.replay_total > REPLAY_ALL {
            let Some((_, old)) = s.replay.pop_front() else { break };
            s.replay_bytes -= old.len();
            self.replay_total -= old.len();
        }
    }

    /// Streams for calls that take long, comments for streams that are quiet.
    pub(super) fn tick_lanes(&mut self, now: Instant) {
        let due = |l: &Stream| {
            l.wire.is_some()
                && if l.opened {
                    now >= l.last + KEEP_ALIVE
                } else {
                    let after = if l.session.is_some() {
                        OPEN_AFTER.0
                    } else {
                        OPEN_AFTER.1
                    };
                    l.accepts.sse && !l.opening && now >= l.since + after
                }
        };
        let ids: Vec<StreamId> = self.streams.iter().filter(|(_, l)| due(l)).map(|(id, _)| *id).collect();
        for id in ids {
            if self.open(now, id)
                && let Some(stream) = self.streams.get_mut(&id)
                && let Some(wire) = stream.wire
            {
                stream.last = now;
                self.effects
                    .push(Effect::Send(wire, Bytes::from_static(sse::KEEP_ALIVE)));
            }
        }
    }
}

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![b'['];
    out.extend_from_slice(&items.join(&b','));
    out.push(b']');
    out
}
