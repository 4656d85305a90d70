//! The configurations of Claude Desktop, Claude Code, Cursor and VS Code: `mcpServers` or `servers`, at the top or
//! where settings.json and ~/.claude.json keep them.

use std::collections::BTreeMap;

use jsonc_parser::ast::{Object, ObjectProp, Value};

use super::{
    Entry, Format, Import, Launch, MAX_SERVERS, Refused,
    source::{Reader, Source},
    text::{Question, Text},
};
use crate::strict::Problems;

/// Keys that say nothing about how the server runs.
const OF_THE_CLIENT: [&str; 16] = [
    "type",
    "disabled",
    "enabled",
    "autoApprove",
    "alwaysAllow",
    "timeout",
    "description",
    "name",
    "gallery",
    "version",
    "dev",
    "tools",
    "transport",
    "icon",
    "trust",
    "sandboxEnabled",
];

/// Reads a client's configuration.
///
/// # Errors
/// Every problem with its line; a text without servers is one.
pub fn read_client(source: &Source<'_>) -> Result<Import, Problems> {
    let mut r = Reader::new(source);
    let mut import = Import {
        format: Format::Client,
        entries: Vec::new(),
        questions: BTreeMap::new(),
    };
    let root = &source.root;
    let mut sections = 0;
    read_inputs(&mut r, root, &mut import.questions);
    sections += read_servers(&mut r, root, &[], &mut import.entries);
    if let Some(Value::Object(mcp)) = root.get("mcp").map(|p| &p.value) {
        read_inputs(&mut r, mcp, &mut import.questions);
        sections += read_servers(&mut r, mcp, &["mcp"], &mut import.entries);
    }
    if let Some(Value::Object(projects)) = root.get("projects").map(|p| &p.value) {
        for prop in &projects.properties {
            let Value::Object(project) = &prop.value else { continue };
            let name = prop.name.as_str();
            let first = import.entries.len();
            sections += read_servers(&mut r, project, &["projects", name], &mut import.entries);
            for entry in &mut import.entries[first..] {
                entry.notes.push(format!("it is of the project {name}"));
            }
        }
    }
    if sections == 0 && r.problems.is_empty() {
        r.wrong(
            root,
            "has neither mcpServers (Claude, Cursor) nor servers (VS Code), nor is it a server.json",
        );
    }
    if import.entries.len() > MAX_SERVERS {
        r.wrong(root, format!("names more than {MAX_SERVERS} servers"));
    }
    r.finish(import)
}

/// `above` are the keys that lead to `at`.
fn read_servers<'a>(r: &mut Reader<'_, 'a>, at: &Object<'a>, above: &[&str], out: &mut Vec<Entry>) -> usize {
    let mut sections = 0;
    for prop in &at.properties {
        if !matches!(prop.name.as_str(), "mcpServers" | "servers" | "context_servers") {
            continue;
        }
        sections += 1;
        let Some(servers) = r.object(prop) else { continue };
        for server in &servers.properties {
            let keys = [prop.name.as_str(), server.name.as_str()];
            let path = above.iter().copied().chain(keys).map(str::to_owned).collect();
            out.push(read_server(r, server, path));
        }
    }
    sections
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
fn read_server<'a>(r: &mut Reader<'_, 'a>, server: &ObjectProp<'a>, path: Vec<String>) -> Entry {
    let name = server.name.as_str().to_owned();
    let mut entry = Entry {
        line: r.source.line(server),
        path,
        launch: Launch::Unknown,
        env: BTreeMap::new(),
        env_files: Vec::new(),
        notes: Vec::new(),
        refused: Vec::new(),
        name,
    };
    let before = r.problems.len();
    let mut raw = Raw::default();
    match r.object(server) {
        Some(object) => {
            for prop in &object.properties {
                read_key(r, prop, &mut raw);
            }
        }
        None if r.problems.len() == before => r.wrong(server, "it must be an object"),
        None => {}
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
    let kind = raw.kind.unwrap_or_default();
    match (raw.command, raw.url) {
        (Some(program), None) => {
            entry.launch = Launch::Command {
                program,
                args: raw.args,
            };
        }
        (None, Some(url)) => {
            entry.launch = Launch::Remote {
                sse: kind == "sse",
                url: Text::parse(&url),
                headers: raw.headers,
            };
        }
        (Some(_), Some(_)) => entry
            .refused
            .push(refuse("its form", "it has both command and url; keep one".into())),
        (None, None) if kind == "sdk" => entry.refused.push(refuse(
            "type sdk",
            "it is part of a program of that machine, not a server of its own".into(),
        )),
        (None, None) => entry.refused.push(refuse(
            "its form",
            "it has neither command nor url: an extension of the client brings it along".into(),
        )),
    }
    entry
}

fn read_key<'a>(r: &mut Reader<'_, 'a>, prop: &ObjectProp<'a>, raw: &mut Raw) {
    match prop.name.as_str() {
        "command" => match &prop.value {
            // Zed keeps path, args and env below command.
            Value::Object(inner) => {
                for prop in &inner.properties {
                    match prop.name.as_str() {
                        "path" => raw.command = r.string(prop),
                        _ => read_key(r, prop, raw),
                    }
                }
            }
            _ => raw.command = r.string(prop),
        },
        "args" => raw.args = r.strings(prop),
        "env" => raw.env = texts(r, prop),
        "envFile" => raw.env_files.extend(r.string(prop)),
        "url" | "serverUrl" | "httpUrl" => raw.url = r.string(prop),
        "headers" | "requestInit" => raw.headers = texts(r, prop),
        "cwd" => raw.notes.push("cwd is a folder of that machine and is left out".into()),
        "type" | "transport" => raw.kind = r.string(prop),
        "disabled" => {
            if matches!(&prop.value, Value::BooleanLit(b) if b.value) {
                raw.notes.push("it is disabled in the client".into());
            }
        }
        key if OF_THE_CLIENT.contains(&key) => {}
        key => {
            let line = r.source.line(prop);
            raw.notes
                .push(format!("line {line}: the key {key:?} is not known and is left out"));
        }
    }
}

fn texts<'a>(r: &mut Reader<'_, 'a>, prop: &ObjectProp<'a>) -> BTreeMap<String, Text> {
    let Some(object) = r.object(prop) else {
        return BTreeMap::new();
    };
    object
        .properties
        .iter()
        .filter_map(|p| Some((p.name.as_str().to_owned(), Text::parse(&r.string(p)?))))
        .collect()
}

/// VS Code's `inputs`: what `${input:id}` asks.
fn read_inputs<'a>(r: &mut Reader<'_, 'a>, at: &Object<'a>, questions: &mut BTreeMap<String, Question>) {
    let Some(inputs) = at.get("inputs") else { return };
    for input in r.array(inputs) {
        let Value::Object(object) = input else {
            r.wrong(input, "an input must be an object with type and id");
            continue;
        };
        let text = |r: &mut Reader<'_, 'a>, key: &str| object.get(key).and_then(|p| r.string(p));
        let Some(id) = text(r, "id") else {
            r.wrong(input, "an input needs an id");
            continue;
        };
        let question = Question {
            label: text(r, "description").unwrap_or_else(|| id.clone()),
            password: object
                .get("password")
                .is_some_and(|p| matches!(&p.value, Value::BooleanLit(b) if b.value)),
            default: text(r, "default"),
            optional: false,
        };
        questions.insert(id, question);
    }
}
