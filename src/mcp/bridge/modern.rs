//! Modern requests (MCP 2026-07-28): each stands for itself. Headers are held against the body, then the request goes to
//! the standing process as it is, or translated to a process of the legacy era.
//!
//! Never passes `initialize` on: it would change the process for everybody.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use serde_json::value::RawValue;

use super::owner::severity;
use super::{Bridge, Call, HttpAnswer, MAX_CAPABILITIES, MAX_IN_FLIGHT, MAX_NAME, ProcId, TOO_MUCH, What, WireId};
use crate::mcp::head::{self, Accepts};
use crate::mcp::message::{self, Kind, Message, Params};
use crate::mcp::meta::Meta;
use crate::mcp::mirror::Mirrored;
use crate::mcp::version::Era;
use crate::mcp::{codes, version};

/// A request, taken apart.
pub(super) struct Request<'a, 'm> {
    pub(super) m: &'m Message<'a>,
    pub(super) params: Params<'a>,
    pub(super) meta: Meta<'a>,
    pub(super) accepts: Accepts,
    pub(super) principal: Arc<str>,
}

/// Why a request is refused with 400.
struct Fault(i64, String);

impl Bridge {
    /// A modern message by POST.
    pub(super) fn modern(
        &mut self,
        now: Instant,
        wire: WireId,
        headers: &HeaderMap,
        accepts: Accepts,
        m: &Message<'_>,
    ) {
        match m.kind {
            Kind::Request => {}
            // This version defines none that a client would send by HTTP.
            Kind::Notification => return self.accepted(wire),
            Kind::Response => {
                let text = "answers to the server belong in inputResponses";
                return self.refuse(wire, 400, "", codes::INVALID_REQUEST, text, None);
            }
        }
        let principal = self.principal(headers);
        let request =
            match check(headers, accepts, principal, m).and_then(|r| mirrored(&self.tools, headers, &r).map(|()| r)) {
                Ok(request) => request,
                Err(Fault(code, text)) => return self.refuse(wire, 400, m.id, code, &text, None),
            };
        if m.method == "initialize" {
            let text = format!("{} has no initialize: send requests at once", version::MODERN);
            return self.refuse(wire, 404, m.id, codes::METHOD_NOT_FOUND, &text, None);
        }
        let Some(proc) = self.standing_ready() else {
            let text = "the server is starting again, try again";
            return self.refuse(wire, 503, m.id, codes::NOT_READY, text, None);
        };
        if m.method == "subscriptions/listen" && !accepts.sse {
            let text = "subscriptions/listen needs Accept: text/event-stream";
            return self.refuse(wire, 406, m.id, codes::INVALID_REQUEST, text, None);
        }
        if self.procs.get(&proc).is_some_and(|p| p.era == Era::Modern) {
            self.pass_modern(now, wire, proc, &request);
        } else {
            self.translate(now, wire, proc, &request);
        }
    }

    /// Whether a process can take another call; if not, the exchange is answered.
    pub(super) fn room(&mut self, wire: WireId, proc: ProcId, id: &str) -> bool {
        let full = self.clogged(proc) || self.procs.get(&proc).is_none_or(|p| p.calls.len() >= MAX_IN_FLIGHT);
        if full {
            self.refuse(wire, 503, id, codes::BUSY, TOO_MUCH, None);
        }
        !full
    }

    fn pass_modern(&mut self, now: Instant, wire: WireId, standing: ProcId, r: &Request<'_, '_>) {
        let proc = match self.choose_modern(now, standing, &r.principal) {
            Ok(proc) => proc,
            Err(why) => return self.refuse(wire, 503, r.m.id, codes::BUSY, &why, None),
        };
        if !self.room(wire, proc, r.m.id) {
            return;
        }
        let listen = r.m.method == "subscriptions/listen";
        let token = r.meta.token.map(RawValue::get).filter(|t| message::is_id(t));
        self.stream(now, wire, None, r.accepts, 1);
        let (deadline, bound) = self.times(now);
        let id = self.register(Call {
            proc,
            stream: Some(wire),
            session: None,
            client: Some(Arc::clone(&r.principal)),
            id: r.m.id.into(),
            token: token.map(Into::into),
            deadline: deadline.filter(|_| !listen),
            bound,
            logs: least(&r.meta),
            again: false,
            what: if listen { What::Listen } else { What::Plain },
        });
        self.pass_on(proc, id, r.m, token);
    }

    /// Answers a modern exchange with a result that the bridge made itself.
    pub(super) fn result(&mut self, wire: WireId, id: &str, result: &str) {
        let body = message::result(id, result).into();
        self.effects.push(super::Effect::Answer(
            wire,
            HttpAnswer {
                status: 200,
                body,
                ..HttpAnswer::default()
            },
        ));
    }
}

/// Holds the headers against the body (streamable-http, "Server Validation"; basic, "`_meta`").
fn check<'a, 'm>(
    headers: &HeaderMap,
    accepts: Accepts,
    principal: Arc<str>,
    m: &'m Message<'a>,
) -> Result<Request<'a, 'm>, Fault> {
    let invalid = |text: &str| Fault(codes::INVALID_PARAMS, text.to_owned());
    let agree = |name: &str, meant: &str, coded| {
        head::agree(headers, name, meant, coded).map_err(|text| Fault(codes::HEADER_MISMATCH, text))
    };
    let params = message::params(m.params).ok_or_else(|| invalid("params is not an object"))?;
    let meta: Meta<'_> = params
        .meta
        .and_then(|raw| message::object(raw.get()))
        .unwrap_or_default();
    let meant = meta.version.and_then(|v| message::string(v.get()));
    if meant.is_none() && headers.contains_key(head::VERSION) {
        return Err(invalid("params._meta names no protocol version"));
    }
    agree(head::VERSION, &meant.unwrap_or_default(), false)?;
    match meta.capabilities.map(RawValue::get).filter(|c| c.starts_with('{')) {
        None => return Err(invalid("params._meta names no client capabilities")),
        Some(c) if c.len() > MAX_CAPABILITIES => return Err(invalid("the client capabilities are too long")),
        Some(_) => {}
    }
    agree("mcp-method", &m.method, false)?;
    let name = match &*m.method {
        "tools/call" | "prompts/get" => Some(params.name),
        "resources/read" => Some(params.uri),
        _ => None,
    };
    if let Some(name) = name {
        let name = name
            .filter(|n| n.get().len() <= MAX_NAME)
            .and_then(|n| message::string(n.get()))
            .ok_or_else(|| invalid("params has no name or uri, or one of more than 8 KiB"))?;
        agree("mcp-name", &name, true)?;
    }
    Ok(Request {
        m,
        params,
        meta,
        accepts,
        principal,
    })
}

/// Holds the headers of a tool's call against those of its arguments that they mirror.
fn mirrored(tools: &Mirrored, headers: &HeaderMap, r: &Request<'_, '_>) -> Result<(), Fault> {
    if tools.is_empty() || r.m.method != "tools/call" {
        return Ok(());
    }
    let name = r.params.name.and_then(|n| message::string(n.get())).unwrap_or_default();
    let arguments = r.params.arguments.map_or("{}", RawValue::get);
    let checked = tools.check(headers, &name, arguments);
    checked.map_err(|e| Fault(codes::HEADER_MISMATCH, e.to_string()))
}

/// The least severe log messages that a request asks for.
pub(super) fn least(meta: &Meta<'_>) -> Option<u8> {
    meta.level.map(|l| severity(l.get()).unwrap_or(0))
}
