//! Entries of the MCP registry: a server.json (schemas of 2025-07 to 2025-12, camelCase or with underscores), or the registry's
//! list of them. A package of npm or PyPI, an image, or a remote address, with the arguments and variables that it wants. Its
//! lists are read as what they are: each argument for itself, never as a line that is split once more.

mod started;

use std::collections::BTreeMap;

use started::{Argument, started};

use super::{
    Entry, Format, Import, Launch, MAX_SERVERS, Package, Planned, Refused, Registry, docker, host_of,
    text::{Question, Text},
};
use crate::{
    clients::{Object, Property, Read as Value, Reader, Source},
    strict_toml::Problems,
};

/// The registry's own words about an entry in its lists.
const OFFICIAL: &str = "io.modelcontextprotocol.registry/official";

/// Whether a text is of the registry: a name with packages or remotes, or a list of such.
pub(super) fn is_of_the_registry(source: &Source) -> bool {
    source.top().is_some_and(|top| {
        is_server(inner(top)) || listed(top).is_some_and(|all| all.iter().any(|(o, _)| is_server(inner(o))))
    })
}

fn is_server(object: &Object) -> bool {
    object.has("name") && (object.has("packages") || object.has("remotes"))
}

/// The server itself, where the registry's answer wraps it.
fn inner(object: &Object) -> &Object {
    object.object("server").unwrap_or(object)
}

/// The entries of a list, with their lines.
fn listed(top: &Object) -> Option<Vec<(&Object, usize)>> {
    let Value::Array(all) = &top.get("servers")?.value else {
        return None;
    };
    let entries = all.iter().filter_map(|n| match &n.value {
        Value::Object(o) => Some((o, n.line)),
        _ => None,
    });
    Some(entries.collect())
}

/// Reads an entry of the registry, or its list: of a server that stands there in several versions, the latest.
///
/// # Errors
/// Every problem with its line.
pub fn read_registry(source: &Source) -> Result<Import, Problems> {
    let mut w = Wanted {
        r: Reader::new(source),
        questions: BTreeMap::new(),
        notes: Vec::new(),
    };
    let mut entries: Vec<(String, bool, Entry)> = Vec::new();
    let top = source.top();
    let all = top.map(|top| listed(top).unwrap_or_else(|| vec![(top, source.root.line)]));
    for (outer, line) in all.unwrap_or_default() {
        let latest = official(outer).is_some_and(|o| o.is_true("isLatest"));
        let full = w.text(inner(outer), "name").unwrap_or_default();
        let before = entries.iter().position(|(name, ..)| *name == full);
        if before.is_some_and(|at| entries[at].1 || !latest) {
            continue;
        }
        let entry = w.entry(outer, &full, line);
        match before {
            Some(at) => entries[at] = (full, latest, entry),
            None => entries.push((full, latest, entry)),
        }
    }
    if entries.len() > MAX_SERVERS {
        w.r.wrong(1, format!("names more than {MAX_SERVERS} servers"));
    }
    let import = Import {
        format: Format::Registry,
        entries: entries.into_iter().map(|(_, _, entry)| entry).collect(),
        questions: w.questions,
        client: None,
    };
    w.r.finish(import)
}

fn official(outer: &Object) -> Option<&Object> {
    outer.object("_meta")?.object(OFFICIAL)
}

struct Wanted<'s> {
    r: Reader<'s>,
    questions: BTreeMap<String, Question>,
    notes: Vec<String>,
}

/// What a package or a remote address comes to.
struct Made {
    launch: Launch,
    env: BTreeMap<String, Text>,
    refused: Vec<Refused>,
    notes: Vec<String>,
    questions: BTreeMap<String, Question>,
    /// As the text calls it.
    what: String,
}

impl Made {
    /// Nothing that could run, and why.
    fn refused(what: String, why: &str) -> Self {
        Self {
            launch: Launch::Unknown,
            env: BTreeMap::new(),
            refused: vec![Refused {
                what: what.clone(),
                why: why.into(),
            }],
            notes: Vec::new(),
            questions: BTreeMap::new(),
            what,
        }
    }
}

/// A key in camelCase, or with underscores as older schemas had it.
fn key<'o>(at: &'o Object, name: &str) -> Option<&'o Property> {
    at.get(name).or_else(|| {
        let mut old = String::new();
        for c in name.chars() {
            if c.is_ascii_uppercase() {
                old.push('_');
            }
            old.push(c.to_ascii_lowercase());
        }
        at.get(&old)
    })
}

fn flag(at: &Object, name: &str) -> bool {
    key(at, name).is_some_and(|p| p.value == Value::Bool(true))
}

impl Wanted<'_> {
    fn text(&mut self, at: &Object, name: &str) -> Option<String> {
        self.r.string(key(at, name)?)
    }

    fn objects<'v>(&mut self, at: &'v Object, name: &str) -> Vec<&'v Object> {
        let Some(property) = key(at, name) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for element in self.r.array(property) {
            match &element.value {
                Value::Object(o) => out.push(o),
                _ => self.r.wrong(
                    element.line,
                    format!("an element of {} must be an object", property.name),
                ),
            }
        }
        out
    }

    fn entry(&mut self, outer: &Object, full: &str, line: usize) -> Entry {
        let server = inner(outer);
        let mut entry = Entry::named(full.rsplit('/').next().unwrap_or(full), line);
        let status = official(outer)
            .and_then(|o| o.string("status"))
            .or(server.string("status"));
        match status {
            Some("deprecated") => entry.notes.push("the registry calls it deprecated".into()),
            Some("deleted") => {
                entry.refused.push(Refused {
                    what: "status deleted".into(),
                    why: "the registry has taken it away".into(),
                });
                return entry;
            }
            _ => {}
        }
        if let Some(made) = self.chosen(server, line) {
            entry.launch = made.launch;
            entry.env = made.env;
            entry.refused = made.refused;
            entry.notes.extend(made.notes);
            self.questions.extend(made.questions);
        }
        entry
    }

    /// The first package that Berth can run, else the first remote address that it can reach, else why none.
    fn chosen(&mut self, server: &Object, line: usize) -> Option<Made> {
        let mut all = Vec::new();
        for package in self.objects(server, "packages") {
            let made = self.apart(|w| w.package(package));
            all.push(made);
        }
        // Of several, the newer transport is taken.
        let old = |o: &&Object| {
            let kind = o.get("type").or_else(|| o.get("transportType"));
            matches!(kind.map(|n| &n.value), Some(Value::String(kind)) if kind == "sse")
        };
        let mut remotes = self.objects(server, "remotes");
        remotes.sort_by_key(old);
        for remote in remotes {
            let made = self.apart(|w| w.remote(remote));
            all.push(made);
        }
        if all.is_empty() {
            self.r.wrong(line, "has neither packages nor remotes");
            return None;
        }
        let Some(at) = all.iter().position(|m| m.refused.is_empty()) else {
            // The reasons against each.
            let mut all = all.into_iter();
            let mut first = all.next()?;
            first.refused.extend(all.flat_map(|m| m.refused));
            return Some(first);
        };
        let mut made = all.swap_remove(at);
        made.notes.extend(
            all.iter()
                .map(|other| format!("its {} is left aside for its {}", other.what, made.what)),
        );
        Some(made)
    }

    /// What one of several says, its questions and notes too, which count only if it is taken.
    fn apart(&mut self, read: impl FnOnce(&mut Self) -> Made) -> Made {
        let questions = std::mem::take(&mut self.questions);
        let notes = std::mem::take(&mut self.notes);
        let mut made = read(self);
        made.questions = std::mem::replace(&mut self.questions, questions);
        let own = std::mem::replace(&mut self.notes, notes);
        made.notes.splice(0..0, own);
        made
    }

    fn remote(&mut self, at: &Object) -> Made {
        let kind = self
            .text(at, "type")
            .or_else(|| self.text(at, "transportType"))
            .unwrap_or_default();
        let what = format!("remote of type {kind}");
        let url = self.text(at, "url").unwrap_or_default();
        let url = self.filled(&url, at);
        let mut headers = BTreeMap::new();
        for header in self.objects(at, "headers") {
            self.variable(header, &mut headers);
        }
        for (name, value) in &mut headers {
            self.with_scheme(name, value);
        }
        Made {
            launch: Launch::Remote { url, headers },
            env: BTreeMap::new(),
            refused: Vec::new(),
            notes: Vec::new(),
            questions: BTreeMap::new(),
            what,
        }
    }

    /// Whoever is asked for a whole Authorization header types the token alone.
    fn with_scheme(&self, name: &str, value: &mut Text) {
        let whole = value.as_literal().is_none() && value.head().is_empty();
        let asked = value.inputs().next().and_then(|id| self.questions.get(id));
        let bearer = asked.is_some_and(|q| q.label.to_ascii_lowercase().contains("bearer"));
        if name.eq_ignore_ascii_case("authorization") && whole && bearer {
            *value = value.after("Bearer ");
        }
    }

    fn package(&mut self, at: &Object) -> Made {
        let kind = self
            .text(at, "registryType")
            .or_else(|| self.text(at, "registryName"))
            .unwrap_or_default();
        let what = format!("package of {kind}");
        let registry = match kind.as_str() {
            "npm" => Registry::Npm,
            "pypi" => Registry::Pypi,
            "oci" | "docker" => Registry::Oci,
            "nuget" => return Made::refused(what, "it needs .NET; build an image of it"),
            "cargo" => return Made::refused(what, "it is compiled before it runs; build an image of it"),
            "mcpb" => {
                return Made::refused(
                    what,
                    "it is a bundle for a laptop's client; build an image of what is in it",
                );
            }
            _ => {
                return Made::refused(
                    format!("package of {kind:?}"),
                    "packages of npm, PyPI and container registries are run",
                );
            }
        };
        if let Some(base) = self.text(at, "registryBaseUrl").filter(|b| !is_public(registry, b)) {
            return Made::refused(
                format!("the registry {base}"),
                "a package of the same name elsewhere is another one; where packages come from is set for the whole box: [install] in berth.toml",
            );
        }
        let mut name = self
            .text(at, "identifier")
            .or_else(|| self.text(at, "name"))
            .unwrap_or_default();
        let mut version = self.text(at, "version").filter(|v| !v.is_empty());
        if registry == Registry::Oci {
            let (bare, tag) = docker::split_reference(&name);
            (name, version) = (bare, tag.or(version));
        }
        let mut planned = Planned::default();
        let mut env = BTreeMap::new();
        for variable in self.objects(at, "environmentVariables") {
            self.variable(variable, &mut env);
        }
        let runtime = self.arguments(at, "runtimeArguments");
        let args: Vec<String> = self
            .arguments(at, "packageArguments")
            .into_iter()
            .flat_map(Argument::words)
            .collect();
        let http = match self.http(at, registry, &env) {
            Ok(http) => http,
            Err(refused) => {
                planned.refused.push(refused);
                None
            }
        };
        let launch = match (registry, runtime.is_empty()) {
            (Registry::Oci, _) => {
                docker::runtime_arguments(&self.of_a_container(runtime, &name), &mut planned, &mut env);
                None
            }
            (_, true) => None,
            // What starts the package reads them, as it would on a laptop.
            (_, false) => Some(started(registry, &name, version.as_deref(), runtime, &args)),
        };
        let launch = launch.unwrap_or_else(|| {
            Launch::Package(Package {
                registry,
                name,
                version,
                bin: None,
                args: args.iter().map(|a| Text::parse(a)).collect(),
                http,
                guessed: None,
            })
        });
        Made {
            launch,
            env,
            refused: planned.refused,
            notes: planned.notes,
            questions: BTreeMap::new(),
            what,
        }
    }

    /// The flags of `docker run` alone: `run` itself and the image are known.
    fn of_a_container(&mut self, arguments: Vec<Argument>, image: &str) -> Vec<(String, Option<String>)> {
        let mut flags = Vec::new();
        for argument in arguments {
            match argument {
                Argument::Named(flag, value) => match (flag.split_once(['=', ' ']), value) {
                    (Some((flag, inline)), None) => flags.push((flag.to_owned(), Some(inline.trim().to_owned()))),
                    (_, value) => flags.push((flag, value)),
                },
                Argument::Positional(word) => {
                    let (bare, _) = docker::split_reference(&word);
                    if !["docker", "container", "run"].contains(&word.as_str()) && bare != image {
                        // As a flag that nobody knows: it is refused by its name.
                        flags.push((word, None));
                    }
                }
            }
        }
        flags
    }

    /// `transport: { type: "streamable-http", url: "http://localhost:8080/mcp" }`
    fn http(
        &mut self,
        at: &Object,
        registry: Registry,
        env: &BTreeMap<String, Text>,
    ) -> Result<Option<(u16, String)>, Refused> {
        let Some(transport) = at.object("transport") else {
            return Ok(None);
        };
        let kind = self.text(transport, "type").unwrap_or_else(|| "stdio".into());
        if kind == "stdio" {
            return Ok(None);
        }
        let refused = |why: &str| {
            Err(Refused {
                what: format!("transport {kind}"),
                why: why.into(),
            })
        };
        if kind != "streamable-http" {
            return refused("an instance speaks stdio or Streamable HTTP");
        }
        if registry != Registry::Oci {
            return refused("a package's program is spoken to over stdio; build an image of one that serves HTTP");
        }
        let url = self.text(transport, "url").unwrap_or_default();
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, "mcp"));
        let said = authority.rsplit_once(':').map(|(_, port)| port.to_owned());
        let port = match said {
            None => Some(8080),
            Some(port) => match port.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                Some(name) => self.port(name, transport, env),
                None => port.parse().ok(),
            },
        };
        match port {
            Some(port) if !path.contains('{') => Ok(Some((port, format!("/{path}")))),
            _ => {
                refused("its port or path is filled in somewhere else; give it with `berth run image --http PORT/PATH`")
            }
        }
    }

    /// What `{name}` of an address is: a variable of the transport's, or one of the server's.
    fn port(&mut self, name: &str, transport: &Object, env: &BTreeMap<String, Text>) -> Option<u16> {
        let own = transport
            .object("variables")
            .and_then(|v| v.object(name))
            .and_then(|o| key(o, "value").or_else(|| key(o, "default")));
        let own = own.and_then(|p| self.r.string(p));
        let of_the_server = || {
            let same = env.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            same.and_then(|(_, value)| value.as_literal()).map(str::to_owned)
        };
        own.or_else(of_the_server)?.parse().ok()
    }

    /// An environment variable or a header: its value, its default, or a question.
    fn variable(&mut self, at: &Object, out: &mut BTreeMap<String, Text>) {
        let Some(name) = self.text(at, "name") else { return };
        if let Some(value) = self.text(at, "value") {
            let value = self.filled(&value, at);
            out.insert(name, value);
        } else if let Some(default) = self.text(at, "default") {
            out.insert(name, Text::literal(default));
        } else if flag(at, "isRequired") {
            let asked = self.ask(&name, at);
            out.insert(name, asked);
        } else {
            self.notes.push(format!("the optional {name} is left unset"));
        }
    }

    /// A question; another of the same name gets a number.
    fn ask(&mut self, name: &str, at: &Object) -> Text {
        let mut label = self.text(at, "description").unwrap_or_else(|| name.to_owned());
        let choices = key(at, "choices").map(|p| self.r.strings(p)).unwrap_or_default();
        if !choices.is_empty() {
            label += &format!(" (one of {})", choices.join(", "));
        }
        let question = Question {
            label,
            password: flag(at, "isSecret"),
            default: self.text(at, "default"),
            optional: false,
        };
        let mut id = name.to_owned();
        let mut n = 2;
        while self.questions.get(&id).is_some_and(|q| *q != question) {
            id = format!("{name}_{n}");
            n += 1;
        }
        self.questions.insert(id.clone(), question);
        Text::input(id)
    }

    /// `{name}` within a value stands for one of its `variables`.
    fn filled(&mut self, value: &str, at: &Object) -> Text {
        let Some(variables) = at.object("variables") else {
            return Text::parse(value);
        };
        let mut value = value.to_owned();
        for property in &variables.properties {
            let Some(inner) = self.r.object(property) else { continue };
            let name = &property.name;
            if !value.contains(&format!("{{{name}}}")) {
                continue;
            }
            let fixed = self.text(inner, "value").or_else(|| self.text(inner, "default"));
            let replacement = match fixed {
                Some(fixed) => fixed,
                None => self.ask(name, inner).shown(false),
            };
            value = value.replace(&format!("{{{name}}}"), &replacement);
        }
        Text::parse(&value)
    }

    fn arguments(&mut self, at: &Object, name: &str) -> Vec<Argument> {
        let mut out = Vec::new();
        for argument in self.objects(at, name) {
            let given = self.text(argument, "name");
            let named = given.clone().filter(|_| argument.string("type") == Some("named"));
            let what = given
                .or_else(|| self.text(argument, "valueHint"))
                .unwrap_or_else(|| "argument".into());
            let Some(value) = self.argument(argument, &what, named.is_some()) else {
                continue;
            };
            out.push(match (named, value) {
                (Some(name), value) if value.is_empty() => Argument::Named(name, None),
                (Some(name), value) => Argument::Named(name, Some(value)),
                (None, value) => Argument::Positional(value),
            });
        }
        out
    }

    /// An argument's value; of a switch, none. `None`: it is left out.
    fn argument(&mut self, at: &Object, what: &str, named: bool) -> Option<String> {
        let switch = named && at.string("format") == Some("boolean");
        let given = self.text(at, "value").or_else(|| self.text(at, "default"));
        match given.as_deref() {
            Some("true") if switch => return Some(String::new()),
            Some("false") if switch => return None,
            Some(value) => return Some(self.filled(value, at).shown(false)),
            None => {}
        }
        let takes_value = key(at, "valueHint").is_some() || at.has("format") || at.has("choices");
        if flag(at, "isRequired") && !switch && (!named || takes_value) {
            return Some(self.ask(what, at).shown(false));
        }
        // The short form of "yes" says nothing here, and is often listed without being required.
        if named && (flag(at, "isRequired") || ["-y", "--yes"].contains(&what)) {
            return Some(String::new());
        }
        self.notes.push(format!("the optional {what} is left out"));
        None
    }
}

/// Whether an address is the registry that everybody means by the kind.
fn is_public(registry: Registry, base: &str) -> bool {
    let host = host_of(base);
    let has = |label: &str| host.split('.').any(|l| l.eq_ignore_ascii_case(label));
    match registry {
        Registry::Npm => has("npmjs"),
        Registry::Pypi => has("pypi"),
        // Where an image is, its name says.
        Registry::Oci => true,
    }
}
