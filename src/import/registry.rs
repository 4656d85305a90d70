//! The server.json of the official MCP registry (schemas of 2025-07 to 2025-12): a package of npm or PyPI, an image,
//! or a remote address, with the arguments and variables that it wants.

use std::collections::BTreeMap;

use jsonc_parser::ast::{Object, ObjectProp, Value};

use super::{
    Entry, Format, Import, Launch, Package, Planned, Refused, Registry, docker,
    source::{Reader, Source},
    text::{Question, Text},
};
use crate::strict::Problems;

struct Wanted<'s, 'a> {
    r: Reader<'s, 'a>,
    questions: BTreeMap<String, Question>,
    notes: Vec<String>,
}

/// Reads a server.json.
///
/// # Errors
/// Every problem with its line.
pub fn read_server_json(source: &Source<'_>) -> Result<Import, Problems> {
    let root = match source.root.get("server").map(|p| &p.value) {
        Some(Value::Object(inner)) => inner,
        _ => &source.root,
    };
    let mut w = Wanted {
        r: Reader::new(source),
        questions: BTreeMap::new(),
        notes: Vec::new(),
    };
    let full = w.text(root, &["name"]).unwrap_or_default();
    let (launch, env, refused) = w.launch(root);
    let entry = Entry {
        name: full.rsplit('/').next().unwrap_or(&full).to_owned(),
        line: source.line(root),
        path: Vec::new(),
        launch,
        env,
        env_files: Vec::new(),
        notes: w.notes,
        refused,
    };
    let import = Import {
        format: Format::Registry,
        entries: vec![entry],
        questions: w.questions,
    };
    w.r.finish(import)
}

type Made = (Launch, BTreeMap<String, Text>, Vec<Refused>);

impl<'a> Wanted<'_, 'a> {
    /// The first of the keys that is there, as text; older schemas wrote them with underscores.
    fn text(&mut self, at: &Object<'a>, keys: &[&str]) -> Option<String> {
        let prop = keys.iter().find_map(|k| at.get(k))?;
        self.r.string(prop)
    }

    fn objects<'v>(&mut self, at: &'v Object<'a>, keys: &[&str]) -> Vec<&'v Object<'a>> {
        let Some(prop) = keys.iter().find_map(|k| at.get(k)) else {
            return Vec::new();
        };
        let elements = self.r.array(prop);
        elements
            .iter()
            .filter_map(|v| match v {
                Value::Object(o) => Some(o),
                other => {
                    self.r
                        .wrong(other, format!("an element of {} must be an object", prop.name.as_str()));
                    None
                }
            })
            .collect()
    }

    /// The first package that Berth can run, else the first remote address, else why neither.
    fn launch(&mut self, root: &Object<'a>) -> Made {
        let packages = self.objects(root, &["packages"]);
        let remotes = self.objects(root, &["remotes"]);
        let mut refused = Vec::new();
        let mut chosen = None;
        for package in packages {
            let kind = self
                .text(package, &["registryType", "registry_type", "registry_name"])
                .unwrap_or_default();
            let registry = match kind.as_str() {
                "npm" => Registry::Npm,
                "pypi" => Registry::Pypi,
                "oci" | "docker" => Registry::Oci,
                other => {
                    refused.push(Refused {
                        what: format!("package of {other:?}"),
                        why: "packages of npm, PyPI and container registries are run".into(),
                    });
                    continue;
                }
            };
            match chosen {
                None => chosen = Some((registry, package)),
                Some((first, _)) => self.notes.push(format!(
                    "its package of {kind} is left aside for the one of {}",
                    first.prefix()
                )),
            }
        }
        if let Some((registry, package)) = chosen {
            return self.package(registry, package);
        }
        for remote in remotes {
            let kind = self.text(remote, &["type", "transport_type"]).unwrap_or_default();
            let mut env = BTreeMap::new();
            let url = self.text(remote, &["url"]).unwrap_or_default();
            let url = self.filled(&url, remote);
            for header in self.objects(remote, &["headers"]) {
                self.variable(header, &mut env);
            }
            if kind == "sse" {
                refused.push(Refused {
                    what: "remote of type sse".into(),
                    why: "only Streamable HTTP is spoken".into(),
                });
                continue;
            }
            let launch = Launch::Remote {
                url,
                sse: false,
                headers: env,
            };
            return (launch, BTreeMap::new(), Vec::new());
        }
        if refused.is_empty() {
            self.r.wrong(root, "has neither packages nor remotes");
        }
        let nothing = Launch::Command {
            program: "nothing".into(),
            args: Vec::new(),
        };
        (nothing, BTreeMap::new(), refused)
    }

    fn package(&mut self, registry: Registry, at: &Object<'a>) -> Made {
        let identifier = self.text(at, &["identifier", "name"]).unwrap_or_default();
        let mut version = self.text(at, &["version"]).filter(|v| !v.is_empty());
        let mut name = identifier;
        if registry == Registry::Oci {
            let (bare, tag) = docker::split_reference(&name);
            name = bare;
            version = tag.or(version);
        }
        let mut env = BTreeMap::new();
        for variable in self.objects(at, &["environmentVariables", "environment_variables"]) {
            self.variable(variable, &mut env);
        }
        let args = self
            .arguments(at, &["packageArguments", "package_arguments"])
            .iter()
            .map(|a| Text::parse(a))
            .collect();
        let mut planned = Planned {
            source: String::new(),
            path: Vec::new(),
            line: 0,
            name: String::new(),
            deploy: None,
            refused: Vec::new(),
            notes: Vec::new(),
            env_files: Vec::new(),
        };
        let runtime = self.arguments(at, &["runtimeArguments", "runtime_arguments"]);
        if registry == Registry::Oci {
            docker::runtime_arguments(&runtime, &mut planned, &mut env);
        } else if runtime.iter().any(|a| a != "-y" && a != "--yes") {
            planned.notes.push("the arguments of its runtime are left out".into());
        }
        self.notes.append(&mut planned.notes);
        let http = self.http(at);
        let package = Package {
            registry,
            name,
            version,
            bin: None,
            args,
            http,
            guessed: None,
        };
        (Launch::Package(package), env, planned.refused)
    }

    /// `transport: { type: "streamable-http", url: "http://localhost:8080/mcp" }`
    fn http(&mut self, at: &Object<'a>) -> Option<(u16, String)> {
        let transport = at.get_object("transport")?;
        let kind = self.text(transport, &["type"])?;
        if kind != "streamable-http" {
            return None;
        }
        let url = self.text(transport, &["url"])?;
        let (_, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let port = authority
            .rsplit_once(':')
            .and_then(|(_, p)| p.parse().ok())
            .unwrap_or(8080);
        Some((port, format!("/{path}")))
    }

    /// An environment variable or a header: its value, its default, or a question.
    fn variable(&mut self, at: &Object<'a>, out: &mut BTreeMap<String, Text>) {
        let Some(name) = self.text(at, &["name"]) else { return };
        if let Some(value) = self.value(at, &name) {
            out.insert(name, value);
        }
    }

    fn value(&mut self, at: &Object<'a>, name: &str) -> Option<Text> {
        if let Some(value) = self.text(at, &["value"]) {
            return Some(self.filled(&value, at));
        }
        if let Some(default) = self.text(at, &["default"]) {
            return Some(Text::literal(default));
        }
        if flag(at, &["isRequired", "is_required"]) {
            self.ask(name, at);
            return Some(Text::input(name));
        }
        self.notes.push(format!("the optional {name} is left unset"));
        None
    }

    fn ask(&mut self, id: &str, at: &Object<'a>) {
        let label = self.text(at, &["description"]).unwrap_or_else(|| id.to_owned());
        let question = Question {
            label,
            password: flag(at, &["isSecret", "is_secret"]),
            default: self.text(at, &["default"]),
            optional: false,
        };
        self.questions.insert(id.to_owned(), question);
    }

    /// `{name}` within a value stands for one of its `variables`.
    fn filled(&mut self, value: &str, at: &Object<'a>) -> Text {
        let Some(variables) = at.get_object("variables") else {
            return Text::parse(value);
        };
        let mut value = value.to_owned();
        for prop in &variables.properties {
            let Some(inner) = self.r.object(prop) else { continue };
            let id = prop.name.as_str();
            let fixed = self.text(inner, &["value", "default"]);
            let replacement = match fixed {
                Some(fixed) => fixed,
                None => {
                    self.ask(id, inner);
                    format!("${{input:{id}}}")
                }
            };
            value = value.replace(&format!("{{{id}}}"), &replacement);
        }
        Text::parse(&value)
    }

    fn arguments(&mut self, at: &Object<'a>, keys: &[&str]) -> Vec<String> {
        let mut out = Vec::new();
        for argument in self.objects(at, keys) {
            let named = self.text(argument, &["type"]).as_deref() == Some("named");
            let flag_name = self.text(argument, &["name"]);
            let what = flag_name
                .clone()
                .or_else(|| self.text(argument, &["valueHint", "value_hint"]))
                .unwrap_or_else(|| "argument".into());
            let value = self.argument(argument, &what, named);
            match (named, flag_name, value) {
                (true, Some(name), Some(value)) if value.is_empty() => out.push(name),
                (true, Some(name), Some(value)) => out.extend([name, value]),
                (false, _, Some(value)) => out.push(value),
                _ => {}
            }
        }
        out
    }

    /// An argument's value; a named one without any is a switch. `None`: optional, and left out.
    fn argument(&mut self, at: &Object<'a>, what: &str, named: bool) -> Option<String> {
        if let Some(value) = self.text(at, &["value", "default"]) {
            return Some(self.filled(&value, at).shown(false));
        }
        let required = flag(at, &["isRequired", "is_required"]);
        let takes_value = at.get("valueHint").is_some() || at.get("format").is_some() || at.get("choices").is_some();
        if required && (!named || takes_value) {
            self.ask(what, at);
            return Some(format!("${{input:{what}}}"));
        }
        if named && required {
            return Some(String::new());
        }
        if what != "-y" && what != "--yes" {
            self.notes.push(format!("the optional {what} is left out"));
        }
        None
    }
}

fn flag(at: &Object<'_>, keys: &[&str]) -> bool {
    keys.iter()
        .find_map(|k| at.get(k))
        .is_some_and(|p: &ObjectProp<'_>| matches!(&p.value, Value::BooleanLit(b) if b.value))
}
