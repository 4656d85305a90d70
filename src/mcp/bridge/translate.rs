//! Modern clients on legacy processes: requests lose what the legacy era does not know, results gain what the modern
//! one requires (MCP 2026-07-28, schema: `Result`, `CacheableResult`, `DiscoverResult`).
//!
//! Clients that declare capabilities get processes that were initialized with just these, where the type allows more
//! than one process (module `pool`): so a server asks nobody what he cannot answer. Tasks (2025-11-25) have no place in
//! the modern era: clients are told neither of them nor of tools that run as tasks only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::modern::{self, Request};
use super::owner::{LEVELS, may_ask};
use super::{Bridge, Call, CallId, ProcId, What, WireId};
use crate::mcp::message::{self, Message};
use crate::mcp::{codes, meta, version};

/// What a translated call was.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) method: Box<str>,
    /// The tool, prompt or resource, raw.
    pub(super) name: Box<str>,
    /// The client's capabilities, raw.
    pub(super) capabilities: Box<str>,
    pub(super) principal: Arc<str>,
}

message::raw_object! {
    /// The result of `initialize`, raw.
    pub(super) struct Hello {
        "capabilities" => pub(super) capabilities,
        "serverInfo" => server_info,
        "instructions" => instructions,
    }
}

message::raw_object! {
    /// What a modern result has.
    struct Has {
        "resultType" => result_type,
        "ttlMs" => ttl_ms,
        "_meta" => meta,
    }
}

impl Bridge {
    /// A modern request for a legacy server.
    pub(super) fn translate(&mut self, now: Instant, wire: WireId, standing: ProcId, r: &Request<'_, '_>) {
        match &*r.m.method {
            "server/discover" => {
                let hello = self
                    .procs
                    .get(&standing)
                    .and_then(|p| p.hello.as_deref())
                    .unwrap_or("{}");
                let result = discovery(&message::object(hello).unwrap_or_default());
                return self.result(wire, r.m.id, &result);
            }
            "subscriptions/listen" => return self.listen(now, wire, standing, r),
            "ping"
            | "logging/setLevel"
            | "resources/subscribe"
            | "resources/unsubscribe"
            | "tasks/get"
            | "tasks/result"
            | "tasks/list"
            | "tasks/cancel" => {
                let text = format!("{} has no such method", version::MODERN);
                return self.refuse(wire, 404, r.m.id, codes::METHOD_NOT_FOUND, &text, None);
            }
            _ => {}
        }
        // Answers without a state belong to no call that is known here: the server is asked anew, and asks anew.
        if r.params.state.is_some() {
            return self.resume(now, wire, r);
        }
        let capabilities = r.meta.capabilities.map_or("{}", RawValue::get);
        let name = r.params.name.or(r.params.uri).map_or("", RawValue::get);
        let about = may_ask(&r.m.method).then_some(name);
        let proc = match self.choose(now, standing, &r.principal, capabilities, about) {
            Ok(proc) => proc,
            Err(why) => return self.refuse(wire, 503, r.m.id, codes::BUSY, &why, None),
        };
        if !self.room(wire, proc, r.m.id) {
            return;
        }
        self.set_level(now, proc, r);
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
            deadline,
            bound,
            logs: modern::least(&r.meta),
            again: false,
            what: What::Translated(Box::new(Origin {
                method: (&*r.m.method).into(),
                name: name.into(),
                capabilities: capabilities.into(),
                principal: Arc::clone(&r.principal),
            })),
        });
        self.send_legacy(proc, id, r, token.is_some());
    }

    /// Writes the request with a `_meta` that a legacy server knows.
    fn send_legacy(&mut self, proc: ProcId, id: CallId, r: &Request<'_, '_>, token: bool) {
        let own = id.to_string();
        let mut cuts = vec![(message::place(r.m.text, r.m.id), own.as_bytes())];
        let mut legacy = String::new();
        if let Some(raw) = r.params.meta {
            let all: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).unwrap_or_default();
            for (key, value) in all
                .iter()
                .filter(|(k, _)| !meta::is_modern_key(k) && *k != "progressToken")
            {
                legacy.push_str(if legacy.is_empty() { "" } else { "," });
                legacy.push_str(&format!("{}:{}", message::quote(key), value.get()));
            }
            if token {
                legacy.push_str(if legacy.is_empty() { "" } else { "," });
                legacy.push_str(&format!("\"progressToken\":{id}"));
            }
            legacy = format!("{{{legacy}}}");
            cuts.push((message::place(r.m.text, raw.get()), legacy.as_bytes()));
        }
        if let Some(raw) = r.params.responses {
            cuts.push((message::place(r.m.text, raw.get()), b"{}"));
        }
        cuts.sort_by_key(|(range, _)| range.start);
        self.write(proc, |out| message::splice_line(out, r.m.text, &cuts));
    }

    /// A log level in `_meta` becomes `logging/setLevel`, where the server knows it.
    fn set_level(&mut self, now: Instant, proc: ProcId, r: &Request<'_, '_>) {
        // The least severe of what its callers want: what is too much for one of them is kept from that one.
        let calls = self.procs.get(&proc).map(|p| p.calls.iter()).into_iter().flatten();
        let others = calls.filter_map(|id| self.calls.get(id)?.logs).min();
        let Some(least) = modern::least(&r.meta) else { return };
        let level = LEVELS[usize::from(least.min(others.unwrap_or(least)))];
        let standing = self.standing_ready().and_then(|id| self.procs.get(&id));
        let hello: Hello<'_> = standing
            .and_then(|p| message::object(p.hello.as_deref()?))
            .unwrap_or_default();
        let knows = hello.capabilities.is_some_and(|c| c.get().contains("\"logging\""));
        let Some(p) = self
            .procs
            .get_mut(&proc)
            .filter(|p| knows && p.level.as_deref() != Some(level))
        else {
            return;
        };
        p.level = Some(level.into());
        self.request(
            now,
            proc,
            "logging/setLevel",
            &format!("{{\"level\":{level}}}"),
            What::Unheard,
        );
    }

    /// The answer of a legacy server to a modern client.
    pub(super) fn translated(&mut self, now: Instant, call: Call, m: &Message<'_>, id: CallId) {
        let What::Translated(origin) = &call.what else { return };
        if let Some(p) = self.procs.get_mut(&call.proc) {
            p.used = now;
        }
        let body = match (m.result, m.error) {
            (Some(result), _) => {
                match &*origin.method {
                    "tools/list" => self.tools.learn(result),
                    method if may_ask(method) => self.askers.note_plain(&origin.name),
                    _ => {}
                }
                let hello = self
                    .procs
                    .get(&call.proc)
                    .and_then(|p| p.hello.as_deref())
                    .unwrap_or("{}");
                let hello: Hello<'_> = message::object(hello).unwrap_or_default();
                format!("\"result\":{}", modern_result(result, &origin.method, &hello))
            }
            (None, error) => format!("\"error\":{}", modern_error(error.unwrap_or("{}"))),
        };
        let status = meta::status_of(m.error, true);
        match call.stream {
            Some(stream) => {
                let json = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},{body}}}", call.id);
                self.respond(now, stream, json.into_bytes(), status);
            }
            None => self.finish_suspended(id, body, status),
        }
    }
}

/// A discovery result out of an initialization result.
fn discovery(hello: &Hello<'_>) -> String {
    let mut capabilities = "{".to_owned();
    for (name, value) in hello
        .capabilities
        .and_then(|c| message::members(c.get()))
        .unwrap_or_default()
    {
        if name != "tasks" {
            message::put_member(&mut capabilities, &name, value.get());
        }
    }
    capabilities.push('}');
    let mut out = format!(
        "{{\"resultType\":\"complete\",\"supportedVersions\":{},\"capabilities\":{capabilities},\"ttlMs\":0,\
         \"cacheScope\":\"private\"",
        version::supported_json()
    );
    if let Some(text) = hello.instructions {
        out.push_str(&format!(",\"instructions\":{}", text.get()));
    }
    if let Some(info) = hello.server_info {
        out.push_str(&format!(
            ",\"_meta\":{{\"io.modelcontextprotocol/serverInfo\":{}}}",
            info.get()
        ));
    }
    out.push('}');
    out
}

message::raw_object! {
    /// How a tool of 2025-11-25 is run.
    struct Execution {
        "taskSupport" => task_support,
    }
}

/// A list of tools without those that run as tasks only, and without `execution`, which is about tasks alone; `None` when
/// it has none of these.
fn without_tasks(result: &str) -> Option<String> {
    memchr::memmem::find(result.as_bytes(), b"\"taskSupport\"")?;
    let mut out = "{".to_owned();
    for (name, value) in message::members(result)? {
        if name != "tools" {
            message::put_member(&mut out, &name, value.get());
            continue;
        }
        let tools: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
        let tools: Vec<String> = tools.into_iter().filter_map(|t| without_execution(t.get())).collect();
        message::put_member(&mut out, &name, &format!("[{}]", tools.join(",")));
    }
    out.push('}');
    Some(out)
}

/// A tool without `execution`; `None` when it runs as a task only.
fn without_execution(tool: &str) -> Option<String> {
    let mut out = "{".to_owned();
    for (name, value) in message::members(tool).unwrap_or_default() {
        if name != "execution" {
            message::put_member(&mut out, &name, value.get());
            continue;
        }
        let execution: Execution<'_> = message::object(value.get()).unwrap_or_default();
        if execution.task_support.map(RawValue::get) == Some("\"required\"") {
            return None;
        }
    }
    out.push('}');
    Some(out)
}

/// Adds what every modern result has, unless it is there.
fn modern_result(result: &str, method: &str, hello: &Hello<'_>) -> String {
    let tasks = (method == "tools/list").then(|| without_tasks(result)).flatten();
    let result = tasks.as_deref().unwrap_or(result);
    let Some(has) = message::object::<Has<'_>>(result) else {
        return result.to_owned();
    };
    let mut add = String::new();
    if has.result_type.is_none() {
        add.push_str("\"resultType\":\"complete\",");
    }
    let cacheable = matches!(
        method,
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" | "resources/read"
    );
    if cacheable && has.ttl_ms.is_none() {
        add.push_str("\"ttlMs\":0,\"cacheScope\":\"private\",");
    }
    let info = hello
        .server_info
        .map(|i| format!("\"io.modelcontextprotocol/serverInfo\":{}", i.get()));
    let mut cuts = Vec::new();
    let mut inner = String::new();
    match (&info, has.meta) {
        (Some(info), None) => add.push_str(&format!("\"_meta\":{{{info}}},")),
        (Some(info), Some(old)) if old.get().starts_with('{') && !old.get().contains("/serverInfo\"") => {
            let at = message::place(result, old.get()).start + 1;
            let comma = if old.get()[1..].trim_start().starts_with('}') {
                ""
            } else {
                ","
            };
            inner = format!("{info}{comma}");
            cuts.push(at..at);
        }
        _ => {}
    }
    let start = result.find('{').map_or(0, |i| i + 1);
    let empty = result[start..].trim_start().starts_with('}');
    let add = if empty { add.trim_end_matches(',') } else { &add };
    let mut all = vec![(start..start, add.as_bytes())];
    all.extend(cuts.into_iter().map(|range| (range, inner.as_bytes())));
    let mut out = Vec::new();
    message::splice(&mut out, result, &all);
    String::from_utf8(out).unwrap_or_default()
}

/// The legacy code for an absent resource (-32002) has become -32602.
fn modern_error(error: &str) -> String {
    #[derive(Deserialize)]
    struct Code<'a> {
        #[serde(borrow)]
        code: &'a RawValue,
    }
    match message::object::<Code<'_>>(error).map(|c| c.code.get()) {
        Some("-32002") => {
            let mut out = Vec::new();
            let code = message::object::<Code<'_>>(error).map(|c| message::place(error, c.code.get()));
            message::splice(&mut out, error, &[(code.unwrap_or(0..0), b"-32602")]);
            String::from_utf8(out).unwrap_or_default()
        }
        _ => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_gain_what_they_lack() {
        let hello: Hello<'_> = message::object(r#"{"serverInfo":{"name":"s"}}"#).expect("object");
        let read =
            |s: &str, m: &str| serde_json::from_str::<serde_json::Value>(&modern_result(s, m, &hello)).expect("JSON");
        let info = serde_json::json!({"io.modelcontextprotocol/serverInfo": {"name": "s"}});
        assert_eq!(
            read("{}", "tools/call"),
            serde_json::json!({"resultType": "complete", "_meta": info})
        );
        let list = read(r#"{"tools":[],"_meta":{"a":1}}"#, "tools/list");
        assert_eq!(
            (list["ttlMs"].as_i64(), list["_meta"]["a"].as_i64()),
            (Some(0), Some(1))
        );
        assert_eq!(list["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "s");
        assert_eq!(read(r#"{"_meta":{}}"#, "x")["_meta"], info);
        assert_eq!(
            modern_error(r#"{"code":-32002,"message":"m"}"#),
            r#"{"code":-32602,"message":"m"}"#
        );
    }
}
