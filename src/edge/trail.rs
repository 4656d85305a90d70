//! What the audit is told of requests: of a call one row, which is there before its answer leaves; of an answer that goes on
//! one row when it begins and one when it has ended. Never what was sent or answered.

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;

use super::{conn::Client, state::Edge};
use crate::{
    audit::Audit,
    authz::Token,
    door::Place,
    mcp::{
        glance::{Events, Glance, Message, Said},
        head,
        version::{self, Era},
    },
    model::{AuditKind, AuditOutcome, AuditRow, InstanceId, Principal, Via},
    policy::{Access, Basis},
};

/// Longer names of clients are cut, in bytes.
const CLIENT: usize = 128;

const VERSION: HeaderName = HeaderName::from_static(head::VERSION);
const SESSION: HeaderName = HeaderName::from_static(head::SESSION);
const TRACE: HeaderName = HeaderName::from_static("traceparent");

/// What the head of a request says of its client.
struct Heads {
    agent: Option<HeaderValue>,
    version: Option<HeaderValue>,
    trace: Option<HeaderValue>,
    session: Option<HeaderValue>,
}

impl Heads {
    fn of(headers: &HeaderMap) -> Heads {
        Heads {
            agent: headers.get(header::USER_AGENT).cloned(),
            version: headers.get(VERSION).cloned(),
            trace: headers.get(TRACE).cloned(),
            session: headers.get(SESSION).cloned(),
        }
    }

    /// In the modern era every request names its version.
    fn era(&self) -> &'static str {
        let named = self.version.as_ref().and_then(|v| v.to_str().ok());
        match named.and_then(version::era) {
            Some(Era::Modern) => "modern",
            Some(Era::Legacy) | None => "legacy",
        }
    }

    /// The trace id of `version-trace-parent-flags`.
    fn trace(&self) -> Option<&str> {
        let trace = self.trace.as_ref()?.to_str().ok()?.split('-').nth(1)?;
        let is_id = trace.len() == 32 && trace.bytes().all(|b| b.is_ascii_hexdigit());
        is_id.then_some(trace)
    }

    fn agent(&self) -> Option<&str> {
        let agent = self.agent.as_ref()?.to_str().ok()?;
        agent.get(..agent.len().min(CLIENT))
    }
}

/// How an answer is looked at as it passes.
enum Look {
    Not,
    Message(Glance),
    Events(Events),
}

impl Look {
    fn at(headers: &HeaderMap) -> Look {
        if head::is_event_stream(headers) {
            Look::Events(Events::default())
        } else if head::is_json(headers) {
            Look::Message(Glance::default())
        } else {
            Look::Not
        }
    }

    fn read(&mut self, piece: &[u8]) {
        match self {
            Look::Not => {}
            Look::Message(glance) => glance.read(piece),
            Look::Events(events) => events.read(piece),
        }
    }

    fn outcome(&self, status: u16) -> AuditOutcome {
        let nothing = Said::default();
        let said = match self {
            Look::Not => &nothing,
            Look::Message(glance) => glance.said(),
            Look::Events(events) => events.said(),
        };
        if said.error || status >= 400 {
            AuditOutcome::Error
        } else if said.is_error {
            AuditOutcome::ToolError
        } else {
            AuditOutcome::Ok
        }
    }
}

type Lengths = (Option<u64>, Option<u64>);

/// A request at an instance's endpoint, until its answer has ended.
pub(super) struct Trail {
    edge: Arc<Edge>,
    audit: Audit,
    token: Arc<Token>,
    instance: InstanceId,
    address: IpAddr,
    at: Timestamp,
    began: Instant,
    method: Method,
    heads: Heads,
    said: Said,
    /// What is sent, while it is on its way.
    passing: Option<Arc<Mutex<Glance>>>,
    /// Nobody can read what is sent: it is compressed.
    encoded: bool,
    bytes_in: Option<u64>,
    bytes_out: u64,
    status: Option<u16>,
    code: Option<&'static str>,
    look: Look,
    /// The row that says that the answer has begun.
    begun: Option<u64>,
    over: bool,
}

impl Trail {
    /// That of a request that has come in; none where there is no audit.
    pub(super) fn begin(
        client: &Client,
        token: &Arc<Token>,
        instance: &InstanceId,
        (method, headers): (&Method, &HeaderMap),
        began: Instant,
    ) -> Option<Box<Trail>> {
        let edge = &client.permit.edge;
        // It is long, and moves with the answer from hand to hand.
        Some(Box::new(Trail {
            audit: edge.config.audit.clone()?,
            edge: Arc::clone(edge),
            token: Arc::clone(token),
            instance: instance.clone(),
            address: client.permit.address,
            at: Timestamp::now(),
            began,
            method: method.clone(),
            heads: Heads::of(headers),
            said: Said::default(),
            passing: None,
            encoded: head::is_encoded(headers),
            bytes_in: None,
            bytes_out: 0,
            status: None,
            code: None,
            look: Look::Not,
            begun: None,
            over: false,
        }))
    }

    /// What is sent, all of it.
    pub(super) fn sends(&mut self, bytes: &[u8]) {
        self.said = Glance::at(bytes);
        self.bytes_in = Some(bytes.len() as u64);
    }

    /// What is sent is looked at as it passes; its length, where that is known.
    pub(super) fn sends_on(&mut self, length: Option<u64>) -> Arc<Mutex<Glance>> {
        self.bytes_in = length;
        Arc::clone(self.passing.insert(Arc::default()))
    }

    /// What was sent in pieces is a batch with so many messages more.
    pub(super) fn further(&mut self) -> u16 {
        if self.passing.is_none() {
            return 0;
        }
        self.passed();
        self.said.further()
    }

    /// The answer's head is there, and all of its body; or (`None`) it goes on.
    pub(super) fn answers(&mut self, status: StatusCode, headers: &HeaderMap, body: Option<&[u8]>) {
        self.status = Some(status.as_u16());
        self.look = Look::at(headers);
        if let (Some("initialize"), Some(name)) = (self.said.message.method.as_deref(), &self.said.client)
            && let Some(session) = headers.get(SESSION)
        {
            self.edge.clients.insert(session, name);
        }
        match body {
            Some(body) => {
                self.piece(body);
                self.ended(None);
            }
            None => self.begun(),
        }
    }

    /// The answer goes on.
    pub(super) fn begun(&mut self) {
        self.passed();
        let n = self.append(
            (AuditKind::Stream, AuditOutcome::Begun),
            &self.said.message,
            self.lengths(),
        );
        self.begun = Some(n);
    }

    /// The connection is switched to another protocol.
    pub(super) fn switches(&mut self, status: StatusCode) {
        self.status = Some(status.as_u16());
        self.begun();
    }

    /// The box refuses it, or cannot do it: so, with this stable code.
    pub(super) fn refused(&mut self, (status, code): (StatusCode, &'static str), cut: bool) {
        self.status = Some(status.as_u16());
        self.code = Some(code);
        self.ended(Some(match cut {
            true => AuditOutcome::Cut,
            false => refused(status),
        }));
    }

    /// So many bytes were carried both ways, on a connection that was switched.
    pub(super) fn carried(&mut self, (sent, answered): (u64, u64)) {
        self.bytes_in = Some(sent);
        self.bytes_out = answered;
    }

    /// A piece of the answer passes.
    pub(super) fn piece(&mut self, piece: &[u8]) {
        self.bytes_out += piece.len() as u64;
        self.look.read(piece);
    }

    /// The answer has ended: so, or as it said itself.
    pub(super) fn ended(&mut self, so: Option<AuditOutcome>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.passed();
        let outcome = so.unwrap_or_else(|| self.look.outcome(self.status.unwrap_or(0)));
        // A batch is as many calls as it has messages (JSON-RPC 2.0, section 6): a row each.
        for message in &self.said.more {
            self.append((AuditKind::Call, outcome), message, (Some(0), Some(0)));
        }
        self.append((AuditKind::Call, outcome), &self.said.message, self.lengths());
    }

    /// Takes what was seen of what was sent.
    fn passed(&mut self) {
        if let Some(passing) = &self.passing {
            self.said = passing.lock().unwrap_or_else(PoisonError::into_inner).said().clone();
        }
    }

    /// The lengths of what was sent and of what was answered, as far as they are known.
    fn lengths(&self) -> Lengths {
        (self.bytes_in, Some(self.bytes_out))
    }

    /// Appends the row of a message. Its number in this run.
    fn append(&self, (kind, outcome): (AuditKind, AuditOutcome), message: &Message, lengths: Lengths) -> u64 {
        let access = self.edge.config.access.load();
        let principal = self.token.principal();
        let known = self.heads.session.as_ref().and_then(|s| self.edge.clients.of(s));
        let mut row = AuditRow::new(self.at, kind, outcome).asked_by(principal);
        row.via = Some("endpoint".into());
        row.address = Some(self.address.to_string().into());
        row.client = self
            .said
            .client
            .as_deref()
            .or(known.as_deref())
            .or(self.heads.agent())
            .map(Cow::from);
        on(&mut row, &access, &self.instance);
        row.method = Some(message.method.as_deref().unwrap_or_else(|| self.unsaid()).into());
        row.tool = message.called().map(Cow::from);
        row.era = Some(self.heads.era().into());
        row.grant = Some(match access.basis(principal, &self.instance, self.at) {
            Basis::Owner => "owner".into(),
            Basis::Admin => "admin".into(),
            Basis::Token => "token".into(),
            Basis::Member => "member".into(),
            Basis::Team(team) => format!("team {team}").into(),
        });
        row.trace = self.heads.trace().map(Cow::from);
        row.code = self.code.map(Cow::from);
        row.status = self.status;
        row.latency_us = Some(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX));
        (row.bytes_in, row.bytes_out) = lengths;
        row.of = self.begun;
        self.audit.append(&row)
    }

    /// What stands for a method where no message has one.
    fn unsaid(&self) -> &str {
        if self.method != Method::POST {
            self.method.as_str()
        } else if self.encoded {
            "encoded"
        } else if self.said.result || self.said.error {
            "response"
        } else {
            "POST"
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.ended(Some(AuditOutcome::ClientGone));
    }
}

/// Which instance, where it is, and what it runs.
pub(super) fn on<'a>(row: &mut AuditRow<'a>, access: &'a Access, id: &'a InstanceId) {
    row.instance = Some(id.as_str().into());
    if let Some(record) = access.instances.get(id) {
        row.workspace = Some(record.workspace.as_str().into());
        row.server = Some(record.type_name().as_str().into());
        row.version = record.version().map(Cow::from);
    }
}

fn refused(status: StatusCode) -> AuditOutcome {
    match status.is_server_error() {
        true => AuditOutcome::Failed,
        false => AuditOutcome::Refused,
    }
}

/// Tells what somebody did at a screen.
pub(super) fn screen(client: &Client, by: &Principal, id: &InstanceId, (kind, action): (AuditKind, &'static str)) {
    screen_note(client, by, id, (kind, action), None);
}

/// The same, with what else there is to say.
pub(super) fn screen_note(
    client: &Client,
    by: &Principal,
    id: &InstanceId,
    (kind, action): (AuditKind, &'static str),
    note: Option<String>,
) {
    let edge = &client.permit.edge;
    let Some(audit) = &edge.config.audit else { return };
    let mut row = AuditRow::new(Timestamp::now(), kind, AuditOutcome::Ok).asked_by(by);
    row.via = Some(Via::Screen.as_str().into());
    row.address = Some(client.permit.address.to_string().into());
    row.action = Some(action.into());
    row.note = note.map(Cow::from);
    let access = edge.config.access.load();
    on(&mut row, &access, id);
    audit.append(&row);
}

/// What is known of a request that is refused at its door.
pub(super) struct Turned {
    at: Timestamp,
    began: Instant,
    via: &'static str,
    instance: Option<InstanceId>,
    heads: Heads,
}

impl Turned {
    /// Of a request at a door whose refusals are told.
    pub(super) fn of(place: &Place, headers: &HeaderMap, began: Instant) -> Turned {
        Turned {
            at: Timestamp::now(),
            began,
            via: place.door.row().via().as_str(),
            instance: place.instance.clone(),
            heads: Heads::of(headers),
        }
    }

    /// Tells of it. Who has shown no right token is told of within bounds.
    pub(super) fn refused(
        self,
        at: &Client,
        by: Option<&Principal>,
        (status, code): (StatusCode, &'static str),
        sent: &[u8],
    ) {
        let edge = &at.permit.edge;
        let Some(audit) = &edge.config.audit else { return };
        let told = by.is_some()
            || [
                StatusCode::UNAUTHORIZED,
                StatusCode::FORBIDDEN,
                StatusCode::TOO_MANY_REQUESTS,
            ]
            .contains(&status);
        if !told {
            return;
        }
        let access = edge.config.access.load();
        // What somebody says who has shown nothing is worth nothing.
        let said = by.map_or_else(Said::default, |_| Glance::at(sent));
        let known = by.and_then(|_| edge.clients.of(self.heads.session.as_ref()?));
        let mut row = AuditRow::new(self.at, AuditKind::Refusal, refused(status));
        match by {
            Some(by) => row = row.asked_by(by),
            None => row.by = Some("nobody".into()),
        }
        row.via = Some(self.via.into());
        row.address = Some(at.permit.address.to_string().into());
        row.client = self.heads.agent().map(Cow::from);
        if let Some(id) = &self.instance {
            on(&mut row, &access, id);
            row.client = said
                .client
                .as_deref()
                .or(known.as_deref())
                .map(Cow::from)
                .or(row.client);
            row.tool = said.message.called().map(Cow::from);
            row.method = said.message.method.as_deref().map(Cow::from);
        }
        row.code = Some(code.into());
        row.status = Some(status.as_u16());
        row.latency_us = Some(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX));
        audit.append_refusal(row, by.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_request_says_what_it_says() {
        let mut headers = HeaderMap::new();
        let era = |headers: &HeaderMap| Heads::of(headers).era();
        assert_eq!(era(&headers), "legacy");
        headers.insert(head::VERSION, HeaderValue::from_static("2026-07-28"));
        assert_eq!(era(&headers), "modern");
        headers.insert(
            "traceparent",
            HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        );
        assert_eq!(Heads::of(&headers).trace(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        headers.insert("traceparent", HeaderValue::from_static("00-secret-x"));
        assert_eq!(Heads::of(&headers).trace(), None);
    }
}
