//! Legacy clients on servers that speak the modern era alone: guests. Their sessions, and what the session knows of the
//! client, stay here; every request goes to the server with what the modern era wants in `_meta`, and every result loses
//! what the legacy one does not know (MCP 2026-07-28, basic, changelog; 2025-11-25, schema).
//!
//! ```text
//! initialize ───────────────► answered out of server/discover
//! ping, logging/setLevel ───► answered here; the level goes with the requests that follow
//! resources/(un)subscribe ──► the server's feed (module `feeds`)
//! any other request ────────► the server ──input required──► questions to the client (module `rounds`)
//! ```
//!
//! Never shows the server a notification or a response: the modern era has cancellations only.

use std::time::Instant;

use serde_json::value::RawValue;

use super::owner::{LEVELS, may_ask, severity};
use super::rounds::GuestCall;
use super::{Bridge, Call, CallId, MAX_CAPABILITIES, MAX_KEPT, Phase, ProcId, Role, SessionNo, StreamId, What};
use crate::mcp::message::{self, Message, Params};
use crate::mcp::version::{self, Era};
use crate::mcp::{codes, meta};

/// A client's description of itself, at most; a longer one is left out.
const MAX_CLIENT: usize = 4 * 1024;

/// What a modern server is told of a legacy client with every request, all of it raw.
#[derive(Debug)]
pub(super) struct Guest {
    capabilities: Box<str>,
    client: Option<Box<str>>,
    level: Option<&'static str>,
}

impl Guest {
    /// Out of the params of `initialize`; `None` when they cannot be passed on.
    pub(super) fn new(params: &Params<'_>) -> Option<Box<Self>> {
        let capabilities = params.capabilities.map_or("{}", RawValue::get);
        if !capabilities.starts_with('{') || capabilities.len() > MAX_CAPABILITIES {
            return None;
        }
        let client = params.client.map(RawValue::get);
        Some(Box::new(Self {
            capabilities: capabilities.into(),
            client: client.filter(|c| c.len() <= MAX_CLIENT).map(Into::into),
            level: None,
        }))
    }

    /// Whether the client declared a capability.
    pub(super) fn can(&self, capability: &str) -> bool {
        message::members(&self.capabilities).is_some_and(|all| all.iter().any(|(name, _)| name == capability))
    }

    /// The params of a request, in the modern era's words: `more` members come last.
    fn params(&self, params: &str, token: Option<&str>, more: &[(&str, &str)]) -> Option<String> {
        let members = message::members(params)?;
        let mut about = meta::request_meta(&self.capabilities, self.client.as_deref(), self.level);
        about.pop();
        let old = members.iter().find(|(name, _)| name == "_meta");
        for (key, value) in old.and_then(|(_, raw)| message::members(raw.get())).unwrap_or_default() {
            if !meta::is_modern_key(&key) && key != "progressToken" {
                message::put_member(&mut about, &key, value.get());
            }
        }
        if let Some(token) = token {
            message::put_member(&mut about, "progressToken", token);
        }
        about.push('}');
        let mut out = String::with_capacity(params.len() + about.len() + 64);
        out.push('{');
        message::put_member(&mut out, "_meta", &about);
        for (name, value) in &members {
            if !matches!(&**name, "_meta" | "requestState" | "inputResponses") {
                message::put_member(&mut out, name, value.get());
            }
        }
        for (name, value) in more {
            message::put_member(&mut out, name, value);
        }
        out.push('}');
        Some(out)
    }
}

impl Bridge {
    /// One request of a guest. Its stream exists already.
    pub(super) fn guest_request(
        &mut self,
        now: Instant,
        stream: StreamId,
        no: SessionNo,
        proc: ProcId,
        m: &Message<'_>,
    ) {
        match &*m.method {
            "ping" => return self.respond(now, stream, message::result(m.id, "{}"), 200),
            "logging/setLevel" => return self.guest_level(now, stream, no, proc, m),
            "resources/subscribe" | "resources/unsubscribe" => return self.guest_watches(now, stream, no, proc, m),
            "server/discover" | "subscriptions/listen" => {
                let text = "this protocol version has no such method";
                return self.refuse_on(now, stream, m.id, 200, codes::METHOD_NOT_FOUND, text);
            }
            _ => {}
        }
        let params = m.params.unwrap_or("{}");
        if !params.starts_with('{') {
            return self.refuse_on(now, stream, m.id, 200, codes::INVALID_PARAMS, "params is not an object");
        }
        let token = meta::progress_token(m);
        let mut pending = GuestCall::new(&m.method);
        // The server may answer these with questions: then they are sent again, with the answers.
        if may_ask(&m.method) && self.kept + params.len() <= MAX_KEPT {
            pending.keep(params);
        }
        let logs = self.guest(no).and_then(|g| severity(g.level?));
        let (deadline, bound) = self.times(now);
        let id = self.register(Call {
            proc,
            stream: Some(stream),
            session: Some(no),
            client: None,
            id: m.id.into(),
            token: token.map(Into::into),
            deadline,
            bound,
            logs,
            again: false,
            what: What::Guest(Box::new(pending)),
        });
        if !self.send_guest(id, params, &[]) {
            self.abandon(now, id, codes::INVALID_PARAMS, "params is not an object", false);
        }
    }

    pub(super) fn guest(&self, no: SessionNo) -> Option<&Guest> {
        self.sessions.get(&no)?.guest.as_deref()
    }

    /// Writes a guest's request; `false` when its params are no object.
    pub(super) fn send_guest(&mut self, id: CallId, params: &str, more: &[(&str, &str)]) -> bool {
        let Some((call, What::Guest(pending))) = self.calls.get(&id).map(|c| (c, &c.what)) else {
            return false;
        };
        let own = id.to_string();
        let token = call.token.as_ref().map(|_| own.as_str());
        let guest = call.session.and_then(|no| self.guest(no));
        let Some(params) = guest.and_then(|g| g.params(params, token, more)) else {
            return false;
        };
        let method = message::quote(&pending.method);
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{method},\"params\":{params}}}");
        let proc = call.proc;
        self.write_line(proc, line.as_bytes());
        true
    }

    fn guest_level(&mut self, now: Instant, stream: StreamId, no: SessionNo, proc: ProcId, m: &Message<'_>) {
        if !self.capabilities_of(proc)["logging"].is_object() {
            let text = "this server has no log messages";
            return self.refuse_on(now, stream, m.id, 200, codes::METHOD_NOT_FOUND, text);
        }
        let asked = message::params(m.params).and_then(|p| p.level).map(RawValue::get);
        let Some(level) = LEVELS.into_iter().find(|l| asked == Some(l)) else {
            return self.refuse_on(
                now,
                stream,
                m.id,
                200,
                codes::INVALID_PARAMS,
                "there is no such log level",
            );
        };
        if let Some(guest) = self.sessions.get_mut(&no).and_then(|s| s.guest.as_mut()) {
            guest.level = Some(level);
        }
        self.respond(now, stream, message::result(m.id, "{}"), 200);
    }

    /// A modern server answered a guest's request.
    pub(super) fn guest_answered(&mut self, now: Instant, call: Call, m: &Message<'_>) {
        let (What::Guest(pending), Some(stream)) = (&call.what, call.stream) else {
            return;
        };
        let Some(result) = m.result else {
            let error = legacy_error(m.error.unwrap_or("{}"), &pending.method);
            let json = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{error}}}", call.id);
            return self.respond(now, stream, json.into_bytes(), 200);
        };
        let members = message::members(result).unwrap_or_default();
        let kind = members
            .iter()
            .find(|(name, _)| name == "resultType")
            .map(|(_, raw)| raw.get());
        match kind {
            None | Some("\"complete\"") => {
                let json = message::result(&call.id, &legacy_result(&members, &pending.method));
                self.respond(now, stream, json, 200);
            }
            Some("\"input_required\"") => self.ask_round(now, call, &members),
            Some(other) => {
                let text = format!("the server answered with a result of the type {other}, which this version lacks");
                let json = message::error(&call.id, codes::INTERNAL_ERROR, &text, None);
                self.respond(now, stream, json, 200);
            }
        }
    }

    /// Asks a session's own process what it is, in the place of its client's `initialize`.
    pub(super) fn discover_own(&mut self, proc: ProcId, id: CallId) {
        if let Some(p) = self.procs.get_mut(&proc) {
            p.era = Era::Modern;
        }
        let params = meta::discover_params();
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"server/discover\",\"params\":{params}}}");
        self.write_now(proc, &line);
    }

    /// A session's process ended on `initialize`: another one is asked what it is.
    pub(super) fn discover_anew(&mut self, now: Instant, proc: ProcId, no: SessionNo) {
        let Some(old) = self.procs.remove(&proc) else { return };
        self.log("the server ended on initialize; asking it server/discover".to_owned());
        let anew = self.spawn(now, Role::Session(no), Phase::Initializing, Era::Modern);
        if let Some(s) = self.sessions.get_mut(&no) {
            s.proc = Some(anew);
        }
        for id in old.calls {
            if let Some(call) = self.calls.get_mut(&id) {
                call.proc = anew;
                self.procs.entry(anew).and_modify(|p| {
                    p.calls.insert(id);
                });
                self.discover_own(anew, id);
            }
        }
    }

    /// A session's process did not answer `initialize` as a legacy server does: the client's answer and version, if it
    /// is a modern one; `None` when it is asked again; an error when it is none at all.
    pub(super) fn guest_opened(
        &mut self,
        no: SessionNo,
        call: &Call,
        m: &Message<'_>,
    ) -> Result<Option<(Vec<u8>, String)>, ()> {
        let asked = self
            .sessions
            .get(&no)
            .filter(|s| s.guest.is_some())
            .map(|s| s.version.clone());
        let asked = asked.ok_or(())?;
        let modern = m.result.and_then(meta::supported_versions);
        match (modern, m.result) {
            (Some(versions), Some(hello)) if versions.iter().any(|v| v == version::MODERN) => {
                let (hello, version) = greeting(hello, &asked);
                Ok(Some((message::result(&call.id, &hello), version)))
            }
            _ if self.procs.get(&call.proc).is_some_and(|p| p.era == Era::Legacy) => {
                if meta::tells_era(m.error) && self.modern_only.is_none() {
                    self.modern_only = Some(meta::error_message(m.error));
                }
                let again = Call {
                    client: None,
                    id: call.id.clone(),
                    token: None,
                    what: What::Opening,
                    ..*call
                };
                let id = self.register(again);
                self.discover_own(call.proc, id);
                Ok(None)
            }
            _ => Err(()),
        }
    }
}

/// The result of `initialize` out of a discovery result, and its version.
pub(super) fn greeting(discovery: &str, asked: &str) -> (String, String) {
    message::raw_object! {
        struct Discovery {
            "capabilities" => capabilities,
            "instructions" => instructions,
        }
    }
    let found: Discovery<'_> = message::object(discovery).unwrap_or_default();
    let about = meta::of(Some(discovery)).unwrap_or_default();
    let version = version::negotiate(asked, version::NEWEST_LEGACY).to_owned();
    let nobody = r#"{"name":"server","version":"0"}"#;
    let mut out = "{".to_owned();
    message::put_member(&mut out, "protocolVersion", &message::quote(&version));
    message::put_member(&mut out, "capabilities", found.capabilities.map_or("{}", RawValue::get));
    message::put_member(&mut out, "serverInfo", about.server.map_or(nobody, RawValue::get));
    if let Some(text) = found.instructions {
        message::put_member(&mut out, "instructions", text.get());
    }
    out.push('}');
    (out, version)
}

/// A complete result without what the legacy era does not know.
fn legacy_result(members: &[(std::borrow::Cow<'_, str>, &RawValue)], method: &str) -> String {
    let mut out = String::with_capacity(64 + members.iter().map(|(k, v)| k.len() + v.get().len() + 4).sum::<usize>());
    out.push('{');
    for (name, value) in members {
        match (&**name, method) {
            ("resultType" | "ttlMs" | "cacheScope", _) => {}
            // Any JSON value may stand there by now; once it was an object.
            ("structuredContent", "tools/call") if !value.get().starts_with('{') => {}
            ("tools", "tools/list") => message::put_member(&mut out, name, &legacy_tools(value.get())),
            _ => message::put_member(&mut out, name, value.get()),
        }
    }
    out.push('}');
    out
}

/// The list of tools, without the schemas of outputs that are no objects.
fn legacy_tools(list: &str) -> String {
    message::raw_object! {
        struct Schema {
            "type" => kind,
        }
    }
    let object = |schema: &str| {
        message::object::<Schema<'_>>(schema).is_some_and(|s| s.kind.map(RawValue::get) == Some("\"object\""))
    };
    let tools: Vec<&RawValue> = match serde_json::from_str(list) {
        Ok(tools) if list.contains("\"outputSchema\"") => tools,
        _ => return list.to_owned(),
    };
    let tools: Vec<String> = tools
        .into_iter()
        .map(|tool| {
            let mut out = "{".to_owned();
            for (name, value) in message::members(tool.get()).unwrap_or_default() {
                if name != "outputSchema" || object(value.get()) {
                    message::put_member(&mut out, &name, value.get());
                }
            }
            out + "}"
        })
        .collect();
    format!("[{}]", tools.join(","))
}

/// An absent resource, which is -32602 with its URI in the modern era, was -32002.
fn legacy_error(error: &str, method: &str) -> String {
    message::raw_object! {
        struct Body {
            "code" => code,
            "data" => data,
        }
    }
    let body: Body<'_> = message::object(error).unwrap_or_default();
    let absent = method == "resources/read"
        && body.code.map(RawValue::get) == Some("-32602")
        && body.data.and_then(|d| message::params(Some(d.get()))?.uri).is_some();
    match body.code.filter(|_| absent) {
        Some(code) => {
            let mut out = Vec::new();
            message::splice(&mut out, error, &[(message::place(error, code.get()), b"-32002")]);
            String::from_utf8(out).unwrap_or_default()
        }
        None => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn value(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn requests_gain_what_the_modern_era_wants() {
        let init = r#"{"capabilities": {"roots":{}}, "clientInfo": {"name":"c"}}"#;
        let mut guest = Guest::new(&message::params(Some(init)).expect("params")).expect("a guest");
        assert!(guest.can("roots") && !guest.can("sampling"));
        guest.level = Some(LEVELS[1]);
        let said = r#"{"name":"t","_meta":{"progressToken":"p","a":1,"io.modelcontextprotocol/protocolVersion":"x"},
            "inputResponses":{},"arguments":{}}"#;
        let got = value(
            &guest
                .params(said, Some("7"), &[("requestState", "\"s\"")])
                .expect("params"),
        );
        let meta = json!({"progressToken": 7, "a": 1, "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"roots": {}},
            "io.modelcontextprotocol/clientInfo": {"name": "c"}, "io.modelcontextprotocol/logLevel": "info"});
        assert_eq!(
            got,
            json!({"name": "t", "arguments": {}, "requestState": "s", "_meta": meta})
        );
        assert!(guest.params("[]", None, &[]).is_none());
        let long = format!(r#"{{"capabilities":{{"x":"{}"}}}}"#, "x".repeat(MAX_CAPABILITIES));
        assert!(Guest::new(&message::params(Some(&long)).expect("params")).is_none());
    }

    #[test]
    fn results_lose_what_the_legacy_era_lacks() {
        let read = |text: &str, method: &str| value(&legacy_result(&message::members(text).expect("object"), method));
        let list = r#"{"resultType":"complete","ttlMs":1,"cacheScope":"public","tools":[
            {"name":"a","outputSchema":{"type":"array"}},{"name":"b","outputSchema":{"type":"object"}}]}"#;
        let tools = json!([{"name": "a"}, {"name": "b", "outputSchema": {"type": "object"}}]);
        assert_eq!(read(list, "tools/list"), json!({"tools": tools}));
        assert_eq!(
            read(r#"{"structuredContent":[1],"content":[]}"#, "tools/call"),
            json!({"content": []})
        );
        let object = r#"{"structuredContent":{"a":1}}"#;
        assert_eq!(read(object, "tools/call"), value(object));
    }

    #[test]
    fn absent_resources_have_their_old_code() {
        let absent = r#"{"code":-32602,"message":"m","data":{"uri":"x"}}"#;
        assert_eq!(value(&legacy_error(absent, "resources/read"))["code"], -32002);
        assert_eq!(legacy_error(absent, "tools/call"), absent);
        let other = r#"{"code":-32602,"message":"m"}"#;
        assert_eq!(legacy_error(other, "resources/read"), other);
    }

    #[test]
    fn a_discovery_becomes_a_greeting() {
        let found = r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"instructions":"i",
            "_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"2"}}}"#;
        let (hello, version) = greeting(found, "2025-06-18");
        assert_eq!(version, "2025-06-18");
        let info = json!({"name": "s", "version": "2"});
        let all = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info,
            "instructions": "i"});
        assert_eq!(value(&hello), all);
        assert_eq!(greeting("{}", "2030-01-01").1, version::NEWEST_LEGACY);
    }
}
