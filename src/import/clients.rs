//! The configurations of MCP clients. Whichever client it is, a server is an object with a command or an address, and it
//! stands below a key that is the client's own; what differs are the names of the keys. They are all read alike, and
//! [`client_of`] tells whose it is where the text says so.

use std::collections::BTreeMap;

use super::{
    Entry, Format, Import, Launch, MAX_SERVERS, Refused, host_of,
    text::{Question, Text},
};
use crate::{
    clients::{Client, Node, Object, Property, Read as Value, Reader, Source, Syntax},
    strict_toml::Problems,
};

/// Keys that say nothing about how the server runs.
const OF_THE_CLIENT: [&str; 46] = [
    "$schema",
    "alwaysAllow",
    "allowedTools",
    "autoApprove",
    "available_tools",
    "bundled",
    "chatMenu",
    "connectionTimeout",
    "default_tools_approval_mode",
    "description",
    "dev",
    "disabledTools",
    "disabled_tools",
    "displayName",
    "display_name",
    "enabledTools",
    "enabled_tools",
    "excludeTools",
    "fromGalleryId",
    "gallery",
    "icon",
    "iconPath",
    "id",
    "includeTools",
    "initTimeout",
    "metadata",
    "name",
    "networkTimeout",
    "providerOptions",
    "required",
    "sandboxEnabled",
    "schema",
    "serverInstructions",
    "settings",
    "source",
    "startup_timeout_ms",
    "startup_timeout_sec",
    "supports_parallel_tool_calls",
    "timeout",
    "title",
    "toolFilter",
    "tool_timeout_sec",
    "tools",
    "trust",
    "version",
    "watch",
];

/// Where the maps of servers stand.
const MAPS: [&str; 7] = [
    "mcpServers",
    "servers",
    "context_servers",
    "mcp_servers",
    "amp.mcpServers",
    "mcp.servers",
    "extensions",
];

/// What the clients call a program and an address.
const PROGRAMS: [&str; 2] = ["command", "cmd"];
const ADDRESSES: [&str; 4] = ["url", "serverUrl", "httpUrl", "uri"];

/// A place that holds servers: a map, or a list whose elements have names.
struct Section<'s> {
    path: Vec<String>,
    line: usize,
    value: &'s Value,
    note: Option<String>,
}

/// Reads a client's configuration.
///
/// # Errors
/// Every problem with its line; a text without servers is one.
pub fn read_client(source: &Source) -> Result<Import, Problems> {
    let mut r = Reader::new(source);
    let mut import = Import {
        format: Format::Client,
        entries: Vec::new(),
        questions: BTreeMap::new(),
        client: client_of(source),
    };
    let mut sections = Vec::new();
    if let Some(top) = source.top() {
        for place in places(top) {
            read_inputs(&mut r, place.object, &mut import.questions);
            sections.extend(place.sections());
        }
    }
    if sections.is_empty() {
        match bare(source) {
            Some(Bare::One(server)) => import.entries.push(read_alone(&mut r, server)),
            Some(Bare::Many) => sections.push(Section {
                path: Vec::new(),
                line: source.root.line,
                value: &source.root.value,
                note: None,
            }),
            None => r.wrong(
                source.root.line,
                "has no servers: neither mcpServers (Claude, Cursor and most others), servers (VS Code), context_servers (Zed), mcp_servers (Codex), mcp (opencode, Crush) nor extensions (Goose), nor is it a server.json or a compose file",
            ),
        }
    }
    for section in sections {
        read_section(&mut r, &section, &mut import.entries);
    }
    if import.entries.len() > MAX_SERVERS {
        r.wrong(source.root.line, format!("names more than {MAX_SERVERS} servers"));
    }
    if source.piece {
        // There is nothing around it to write it back into.
        for entry in &mut import.entries {
            entry.path.clear();
        }
    }
    r.finish(import)
}

/// An object that may hold servers, and where it stands.
struct Place<'s> {
    path: Vec<&'s str>,
    object: &'s Object,
    note: Option<String>,
}

/// The top, and where settings, workspaces, containers for development and ~/.claude.json keep theirs.
fn places(top: &Object) -> Vec<Place<'_>> {
    let mut out = vec![Place {
        path: Vec::new(),
        object: top,
        note: None,
    }];
    for path in [
        &["mcp"] as &[&str],
        &["settings"],
        &["settings", "mcp"],
        &["customizations", "vscode", "mcp"],
        &["customizations", "vscode", "settings"],
        &["customizations", "vscode", "settings", "mcp"],
    ] {
        let object = path.iter().try_fold(top, |at, key| at.object(key));
        out.extend(object.map(|object| Place {
            path: path.to_vec(),
            object,
            note: None,
        }));
    }
    for project in top.object("projects").iter().flat_map(|p| &p.properties) {
        let Value::Object(object) = &project.value else {
            continue;
        };
        out.push(Place {
            path: vec!["projects", &project.name],
            object,
            note: Some(format!("it is of the project {}", project.name)),
        });
    }
    out
}

impl<'s> Place<'s> {
    fn sections(self) -> Vec<Section<'s>> {
        let section = |path: Vec<&str>, property: &'s Property| Section {
            path: path.into_iter().map(str::to_owned).collect(),
            line: property.line,
            value: &property.value,
            note: self.note.clone(),
        };
        let below = |key: &'s str| self.path.iter().copied().chain([key]).collect::<Vec<_>>();
        let mut out = Vec::new();
        for property in &self.object.properties {
            let name = property.name.as_str();
            let own = MAPS.contains(&name) && (name != "extensions" || holds_servers(&property.value));
            // opencode and Crush have the servers right below it.
            let direct = name == "mcp" && self.path.is_empty() && holds_servers(&property.value);
            if own || direct {
                out.push(section(below(name), property));
            }
        }
        out
    }
}

/// Whether one of the values is a server by its form.
fn holds_servers(value: &Value) -> bool {
    match value {
        Value::Object(object) => object
            .properties
            .iter()
            .any(|p| matches!(&p.value, Value::Object(o) if is_server(o))),
        Value::Array(all) => all.iter().any(|n| matches!(&n.value, Value::Object(o) if is_server(o))),
        _ => false,
    }
}

fn is_server(object: &Object) -> bool {
    let program = PROGRAMS.iter().any(|key| {
        object.get(key).is_some_and(|p| match &p.value {
            Value::String(_) | Value::Array(_) => true,
            Value::Object(inner) => inner.has("path"),
            _ => false,
        })
    });
    program || ADDRESSES.iter().any(|key| object.string(key).is_some())
}

/// A text that is a map of servers, a list of them, or one server by itself.
enum Bare<'s> {
    One(&'s Object),
    Many,
}

fn bare(source: &Source) -> Option<Bare<'_>> {
    if let Some(top) = source.top()
        && is_server(top)
    {
        return Some(Bare::One(top));
    }
    holds_servers(&source.root.value).then_some(Bare::Many)
}

/// A server that is all of the text.
fn read_alone(r: &mut Reader<'_>, server: &Object) -> Entry {
    let name = server.string("name").map(str::to_owned);
    let line = server.line.max(1);
    let mut entry = read_server(r, String::new(), line, &Value::Object(server.clone()), Vec::new());
    entry.name = name.unwrap_or_else(|| match &entry.launch {
        Launch::Command { program, args } => super::shell::name_of(program, args),
        Launch::Remote { url, .. } => owner(url.head()),
        _ => "server".into(),
    });
    entry
}

/// The part of an address that says most about whose it is.
fn owner(url: &str) -> String {
    let mut labels = host_of(url).split('.').filter(|l| !["mcp", "api", "www"].contains(l));
    labels.next().filter(|l| !l.is_empty()).unwrap_or("server").to_owned()
}

fn read_section(r: &mut Reader<'_>, section: &Section<'_>, out: &mut Vec<Entry>) {
    let first = out.len();
    let below = |key: String| section.path.iter().cloned().chain([key]).collect::<Vec<_>>();
    match section.value {
        Value::Object(servers) => {
            for p in &servers.properties {
                out.push(read_server(r, p.name.clone(), p.line, &p.value, below(p.name.clone())));
            }
        }
        Value::Array(servers) => {
            for (n, Node { line, value }) in servers.iter().enumerate() {
                let name = match value {
                    Value::Object(o) => o.string("name").map(str::to_owned),
                    _ => None,
                };
                let name = name.unwrap_or_else(|| format!("server {}", n + 1));
                out.push(read_server(r, name, *line, value, below(n.to_string())));
            }
        }
        Value::Null => {}
        _ => {
            let name = section.path.last().map_or("the top level", String::as_str);
            r.wrong(section.line, format!("{name} must be an object"));
        }
    }
    for entry in &mut out[first..] {
        entry.notes.extend(section.note.clone());
    }
}

/// What a server's object says, raw.
#[derive(Default)]
struct Raw {
    command: Option<String>,
    args: Vec<String>,
    env: BTreeMap<String, Text>,
    env_files: Vec<String>,
    url: Option<String>,
    kind: Option<String>,
    headers: BTreeMap<String, Text>,
    notes: Vec<String>,
}

/// One that is odd is refused by itself: the others of the file can be brought over.
fn read_server(r: &mut Reader<'_>, name: String, line: usize, value: &Value, path: Vec<String>) -> Entry {
    let mut entry = Entry {
        path,
        ..Entry::named(name, line)
    };
    let before = r.problems.len();
    let mut raw = Raw::default();
    match value {
        Value::Object(object) => {
            for property in &object.properties {
                read_key(r, property, &mut raw);
            }
        }
        _ => r.wrong(line, "it must be an object"),
    }
    let refuse = |what: &str, why: String| Refused {
        what: what.to_owned(),
        why,
    };
    let odd = r.problems.split_off(before);
    entry.refused = odd
        .into_iter()
        .map(|p| refuse("its form", format!("line {}: {}", p.line, p.text)))
        .collect();
    entry.notes = raw.notes;
    entry.env = raw.env;
    entry.env_files = raw.env_files;
    if !entry.refused.is_empty() {
        return entry;
    }
    let kind = raw.kind.unwrap_or_default().to_ascii_lowercase();
    match (raw.command, raw.url) {
        (Some(program), None) => {
            entry.launch = Launch::Command {
                program,
                args: raw.args,
            };
        }
        (None, Some(url)) => {
            entry.launch = Launch::Remote {
                url: Text::parse(&url),
                headers: raw.headers,
            };
        }
        (Some(_), Some(_)) => entry
            .refused
            .push(refuse("its form", "it has both command and url; keep one".into())),
        (None, None) if PART_OF_A_PROGRAM.contains(&kind.as_str()) => entry.refused.push(refuse(
            &format!("type {kind}"),
            "it is part of a program of the laptop, not a server of its own".into(),
        )),
        (None, None) => entry.refused.push(refuse(
            "its form",
            "it has neither command nor url: an extension of the client brings it along".into(),
        )),
    }
    entry
}

/// Kinds of what is no server of its own.
const PART_OF_A_PROGRAM: [&str; 5] = ["sdk", "builtin", "platform", "frontend", "inline_python"];

fn read_key(r: &mut Reader<'_>, property: &Property, raw: &mut Raw) {
    let name = property.name.as_str();
    match name {
        "command" | "cmd" => match &property.value {
            // Zed keeps path, args and env below command.
            Value::Object(inner) => {
                for property in &inner.properties {
                    match property.name.as_str() {
                        "path" => raw.command = r.string(property),
                        _ => read_key(r, property, raw),
                    }
                }
            }
            // opencode has the program and its arguments in one list.
            Value::Array(_) => {
                let mut words = r.strings(property).into_iter();
                raw.command = words.next();
                raw.args.splice(0..0, words);
            }
            _ => raw.command = r.string(property),
        },
        "args" | "arguments" => raw.args.extend(r.strings(property)),
        "env" | "environment" | "envs" => raw.env.extend(texts(r, property)),
        // Goose has the values in the system's keyring.
        "env_keys" => {
            for key in r.strings(property) {
                raw.env.entry(key.clone()).or_insert_with(|| Text::input(key));
            }
        }
        // Codex hands these on from its own environment.
        "env_vars" => {
            for element in r.array(property) {
                let key = match &element.value {
                    Value::Object(o) => o.string("name").map(str::to_owned),
                    other => r.value_string(other, element.line, "an element of env_vars"),
                };
                raw.env.extend(key.map(|key| (key.clone(), Text::env(key))));
            }
        }
        "envFile" | "env_file" => raw.env_files.extend(r.string(property)),
        key if ADDRESSES.contains(&key) => raw.url = r.string(property).or(raw.url.take()),
        "headers" | "http_headers" => raw.headers.extend(texts(r, property)),
        "requestInit" | "requestOptions" => {
            if let Some(options) = r.object(property) {
                for property in options.properties.iter().filter(|p| p.name == "headers") {
                    raw.headers.extend(texts(r, property));
                }
            }
        }
        "env_http_headers" => {
            for (header, variable) in texts(r, property) {
                let variable = variable.shown(false);
                raw.headers.insert(header, Text::env(variable));
            }
        }
        "bearer_token_env_var" => {
            if let Some(variable) = r.string(property) {
                let value = Text::env(variable).after("Bearer ");
                raw.headers.insert("Authorization".into(), value);
            }
        }
        "bearer_token" | "bearerToken" => {
            if let Some(token) = r.string(property) {
                let value = Text::parse(&token).after("Bearer ");
                raw.headers.insert("Authorization".into(), value);
            }
        }
        "headersHelper" => raw
            .notes
            .push("headersHelper is a program of the laptop and is left out".into()),
        "oauth" | "auth" | "authentication" | "authProviderType" | "oauth_resource" | "scopes" => {
            if !matches!(property.value, Value::Bool(false) | Value::Null) {
                raw.notes.push(format!(
                    "{name}: the client signs in there by itself; on Berth the server is given a token"
                ));
            }
        }
        "cwd" | "workingDirectory" | "working_directory" => raw
            .notes
            .push(format!("{name} is a folder of the laptop and is left out")),
        "type" | "transport" | "transportType" | "transport_type" => match &property.value {
            Value::Object(inner) => {
                for property in &inner.properties {
                    read_key(r, property, raw);
                }
            }
            _ => raw.kind = r.string(property),
        },
        "disabled" | "enabled" => {
            if property.value == Value::Bool(name == "disabled") {
                raw.notes.push("it is disabled in the client".into());
            }
        }
        key if OF_THE_CLIENT.contains(&key) => {}
        key => raw.notes.push(format!(
            "line {}: the key {key:?} is not known and is left out",
            property.line
        )),
    }
}

fn texts(r: &mut Reader<'_>, property: &Property) -> BTreeMap<String, Text> {
    let Some(object) = r.object(property) else {
        return BTreeMap::new();
    };
    object
        .properties
        .iter()
        .filter_map(|p| Some((p.name.clone(), Text::parse(&r.string(p)?))))
        .collect()
}

/// VS Code's `inputs`: what `${input:id}` asks.
fn read_inputs(r: &mut Reader<'_>, at: &Object, questions: &mut BTreeMap<String, Question>) {
    let Some(inputs) = at.get("inputs") else { return };
    for input in r.array(inputs) {
        let Value::Object(object) = &input.value else {
            r.wrong(input.line, "an input must be an object with type and id");
            continue;
        };
        let text = |r: &mut Reader<'_>, key: &str| object.get(key).and_then(|p| r.string(p));
        let Some(id) = text(r, "id") else {
            r.wrong(input.line, "an input needs an id");
            continue;
        };
        let question = Question {
            label: text(r, "description").unwrap_or_else(|| id.clone()),
            password: object.is_true("password"),
            default: text(r, "default"),
            optional: false,
        };
        questions.insert(id, question);
    }
}

/// Whose configuration it is, where the text alone says so.
fn client_of(source: &Source) -> Option<Client> {
    let top = source.top()?;
    if top.has("mcp_servers") && source.syntax == Syntax::Toml {
        return Some(Client::Codex);
    }
    if top.has("context_servers") {
        return Some(Client::Zed);
    }
    if top.has("amp.mcpServers") {
        return Some(Client::Amp);
    }
    if top.has("extensions") && source.syntax == Syntax::Yaml {
        return Some(Client::Goose);
    }
    if let Some(property) = top.get("mcpServers") {
        return match &property.value {
            Value::Array(_) => (source.syntax == Syntax::Yaml).then_some(Client::Continue),
            Value::Object(servers) => of_entries(servers, top),
            _ => None,
        };
    }
    if let Some(mcp) = top.get("mcp").filter(|p| holds_servers(&p.value)) {
        let Value::Object(servers) = &mcp.value else {
            return None;
        };
        let opencode = any(servers, |s| {
            matches!(s.string("type"), Some("local" | "remote"))
                || matches!(s.get("command").map(|p| &p.value), Some(Value::Array(_)))
        });
        return Some(if opencode { Client::Opencode } else { Client::Crush });
    }
    places(top)
        .iter()
        .any(|p| p.object.object("servers").is_some() || p.object.has("mcp.servers"))
        .then_some(Client::Vscode)
}

fn any(servers: &Object, of: impl Fn(&Object) -> bool) -> bool {
    let mut all = servers.properties.iter();
    all.any(|p| matches!(&p.value, Value::Object(server) if of(server)))
}

/// By what only one client writes into an entry of `mcpServers`.
fn of_entries(servers: &Object, top: &Object) -> Option<Client> {
    if top.has("projects") || top.has("numStartups") {
        return Some(Client::ClaudeCode);
    }
    if any(servers, |s| s.has("serverUrl")) {
        return Some(Client::Windsurf);
    }
    if any(servers, |s| s.has("httpUrl")) {
        return Some(Client::Gemini);
    }
    if any(servers, |s| {
        s.string("type") == Some("streamableHttp") || s.has("autoApprove")
    }) {
        return Some(Client::Cline);
    }
    if any(servers, |s| {
        s.string("type") == Some("streamable-http") || s.has("alwaysAllow")
    }) {
        return Some(Client::Roo);
    }
    None
}
