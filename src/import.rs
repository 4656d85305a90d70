//! F1: what people have on their laptops -> what Berth would run. Text goes in: a client's configuration, a
//! `docker run` line, a compose file, a server.json of the MCP registry. Out comes a [`Planned`] for each server: what becomes which
//! type, what is refused and why, what will be sealed, what must be asked. It reads no file, asks nobody and runs
//! nothing.
//!
//! ```text
//! text --read--> Entry (a server as the text describes it) --plan--> Planned (a Deploy, or the reasons against it)
//!                                                              Deploy --fill(answers)--> strings, ready to run
//! ```

mod bundle;
mod check;
mod clients;
mod command;
mod compose;
mod docker;
mod flags;
mod laptop;
mod registry;
mod secrets;
mod shell;
mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use check::header_is_own;
pub use clients::read_client;
pub use compose::read_compose;
pub use registry::read_registry;
pub use secrets::{header_is_secret, is_secret, shown_url};
pub use shell::read_command_line;
pub use text::{Answers, Missing, Question, Text};

use crate::{
    clients::{Client, Source, one},
    model::ImportRules,
    strict_toml::Problems,
};

/// A text to import may be this long, in bytes.
pub const MAX_TEXT: usize = 64 * 1024 * 1024;
/// A text may name this many servers.
pub const MAX_SERVERS: usize = 200;

/// What kind of text it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A client's configuration.
    Client,
    /// The MCP registry's server.json, or its list of them.
    Registry,
    /// The services of a compose file.
    Compose,
    /// The manifest of a bundle for a client (MCPB).
    Bundle,
    /// A line that starts a server.
    CommandLine,
}

/// Everything that a text described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub format: Format,
    pub entries: Vec<Entry>,
    /// What `${input:…}` and required values of the registry ask a person for.
    pub questions: BTreeMap<String, Question>,
    /// Whose configuration it is, where the text alone says so.
    pub client: Option<Client>,
}

/// A server as a text describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As the text has it.
    pub name: String,
    /// From 1.
    pub line: usize,
    /// The keys that lead to it in the text, for [`crate::clients::rewrite`]; none for what has no place there.
    pub path: Vec<String>,
    pub launch: Launch,
    pub env: BTreeMap<String, Text>,
    /// `KEY=VALUE` files of the laptop that the server's variables come from.
    pub env_files: Vec<String>,
    /// What was left aside, for the plan.
    pub notes: Vec<String>,
    /// What cannot be had on Berth: the text asks for it, and it is refused.
    pub refused: Vec<Refused>,
}

impl Entry {
    /// One of which nothing more is known yet.
    fn named(name: impl Into<String>, line: usize) -> Self {
        Self {
            name: name.into(),
            line,
            path: Vec::new(),
            launch: Launch::Unknown,
            env: BTreeMap::new(),
            env_files: Vec::new(),
            notes: Vec::new(),
            refused: Vec::new(),
        }
    }
}

/// The host of an address, without what else may stand before its path: a port, and brackets around an IPv6 address.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// How a server is started, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Launch {
    /// As written, placeholders included. Arguments may hold secrets: `Debug` does not show them.
    Command {
        program: String,
        args: Vec<String>,
    },
    Remote {
        url: Text,
        headers: BTreeMap<String, Text>,
    },
    Package(Package),
    /// It could not be read; the entry says why.
    Unknown,
}

impl std::fmt::Debug for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command { program, .. } => write!(f, "Command({program} …)"),
            Self::Remote { .. } => f.write_str("Remote(…)"),
            Self::Package(package) => package.fmt(f),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

/// A package with its arguments, from whatever named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub registry: Registry,
    /// Name without version: `@scope/name`, `mcp-server-time`, `ghcr.io/org/server`.
    pub name: String,
    /// Version, tag or digest (`sha256:…`), where one is given.
    pub version: Option<String>,
    /// The executable, where it is not the package's only one; an image's entry point in place of its own.
    pub bin: Option<String>,
    pub args: Vec<Text>,
    /// The port and path of an HTTP server in an image; stdio where absent.
    pub http: Option<(u16, String)>,
    /// How the text calls it, where its name is only a guess from that: it may be a program of the laptop's own, so it is
    /// never a stranger's package.
    pub guessed: Option<String>,
}

/// Where a package comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Registry {
    Npm,
    Pypi,
    Oci,
}

impl Registry {
    /// As in a type's `import.packages`: `npm:…`, `pypi:…`, `oci:…`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pypi => "pypi",
            Self::Oci => "oci",
        }
    }
}

/// A flag or a way of starting that Berth does not have, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub what: String,
    pub why: String,
}

/// A catalog type that stands in for packages of the registries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub type_name: String,
    pub rules: ImportRules,
}

/// One server of the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planned {
    /// As the text has it.
    pub source: String,
    pub line: usize,
    /// As [`Entry::path`].
    pub path: Vec<String>,
    /// What the instance would be called.
    pub name: String,
    /// Absent when it cannot be brought over; `refused` says why.
    pub deploy: Option<Deploy>,
    pub refused: Vec<Refused>,
    pub notes: Vec<String>,
    pub env_files: Vec<String>,
}

/// What would be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deploy {
    pub target: Target,
    pub args: Vec<Text>,
    /// Variables of the server; all are sealed, the secret ones are named in the plan.
    pub env: BTreeMap<String, Text>,
    /// Files of the laptop that the server reads, by the variables that hold their paths; what they hold is sealed.
    pub files: BTreeMap<String, String>,
}

/// Which type, with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Catalog {
        type_name: String,
    },
    Npx {
        package: String,
        version: Option<String>,
        bin: Option<String>,
    },
    Uvx {
        package: String,
        version: Option<String>,
        bin: Option<String>,
    },
    Image {
        reference: String,
        /// In place of the image's own.
        entrypoint: Option<String>,
        http: Option<(u16, String)>,
    },
    Remote {
        url: Text,
        headers: BTreeMap<String, Text>,
    },
}

impl Target {
    /// The type's name.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Catalog { type_name } => type_name,
            Self::Npx { .. } => "npx",
            Self::Uvx { .. } => "uvx",
            Self::Image { .. } => "image",
            Self::Remote { .. } => "remote",
        }
    }
}

/// Reads a file's text, whichever of the formats it is.
///
/// # Errors
/// Every problem with its line.
pub fn read(file: &str, text: &str) -> Result<Import, Problems> {
    if text.len() > MAX_TEXT {
        return Err(one(file, 1, format!("is longer than {MAX_TEXT} bytes")));
    }
    let trimmed = text.trim_start_matches('\u{feff}').trim_start();
    if !trimmed.starts_with(['{', '[', '/', '"']) && shell::is_command_line(trimmed) {
        return read_command_line(file, trimmed);
    }
    let source = Source::parse(file, text)?;
    let mut import = if registry::is_of_the_registry(&source) {
        read_registry(&source)?
    } else if bundle::is_bundle(&source) {
        bundle::read_bundle(&source)?
    } else if compose::is_compose(&source) {
        read_compose(&source)?
    } else {
        read_client(&source)?
    };
    ask_for_placeholders(&mut import);
    Ok(import)
}

/// Values that stand for something that only their owner has (`<your-key>`, `op://…`, `$(pass …)`) are asked for.
fn ask_for_placeholders(import: &mut Import) {
    for entry in &mut import.entries {
        let headers = match &mut entry.launch {
            Launch::Remote { headers, .. } => Some(headers),
            _ => None,
        };
        for (key, value) in entry.env.iter_mut().chain(headers.into_iter().flatten()) {
            let Some(said) = value.as_literal().filter(|v| secrets::stands_for_one(v)) else {
                continue;
            };
            let question = Question {
                label: format!("{key} of {} (the file has {said:?})", entry.name),
                password: true,
                default: None,
                optional: false,
            };
            let plain: String = key
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            let mut id = plain.clone();
            let mut n = 2;
            while import.questions.contains_key(&id) {
                id = format!("{plain}_{n}");
                n += 1;
            }
            *value = Text::input(&id);
            import.questions.insert(id, question);
        }
    }
}

/// What each server would become. `known` are the catalog's types.
pub fn plan(import: &Import, known: &[Known]) -> Vec<Planned> {
    let mut taken = Vec::new();
    import
        .entries
        .iter()
        .map(|entry| {
            let name = instance_name(&entry.name, &mut taken);
            plan_one(entry, name, known, &import.questions)
        })
        .collect()
}

fn plan_one(entry: &Entry, name: String, known: &[Known], questions: &BTreeMap<String, Question>) -> Planned {
    let mut planned = Planned {
        source: entry.name.clone(),
        line: entry.line,
        path: entry.path.clone(),
        name,
        deploy: None,
        refused: entry.refused.clone(),
        notes: entry.notes.clone(),
        env_files: entry.env_files.clone(),
    };
    if entry.launch == Launch::Unknown {
        return planned;
    }
    let mut env = entry.env.clone();
    laptop::leave_places(&mut env, &mut planned);
    let mut files = BTreeMap::new();
    let launch = match &entry.launch {
        Launch::Command { program, args } => command::read(program, args, &mut planned, &mut env),
        other => Ok(other.clone()),
    };
    let made = launch.and_then(|launch| match launch {
        Launch::Remote { url, headers, .. } => {
            Ok((remote(url, headers, &mut env, &entry.env, &mut planned), Vec::new()))
        }
        Launch::Package(mut package) => {
            flags::take(&mut package, &entry.env, &mut env, &mut planned);
            of_package(package, known, &mut env, &mut planned)
        }
        Launch::Command { program, .. } => Err(command::foreign(&program)),
        Launch::Unknown => Err(command::foreign(&entry.name)),
    });
    match made {
        Err(refused) => planned.refused.push(refused),
        Ok((target, args)) => {
            // An entry's own variables fill its arguments.
            let args: Vec<Text> = args.iter().map(|a| a.with(&entry.env)).collect();
            let args = laptop::settle_arguments(args, &mut env, &mut files, &mut planned, questions);
            laptop::take_files(&mut env, &mut files, &mut planned);
            check::deployable(&target, &mut planned);
            planned.deploy = planned.refused.is_empty().then_some(Deploy {
                target,
                args,
                env,
                files,
            });
        }
    }
    planned
}

/// A server elsewhere: an entry's own variables fill its address and headers, and go nowhere else.
fn remote(
    url: Text,
    headers: BTreeMap<String, Text>,
    env: &mut BTreeMap<String, Text>,
    own: &BTreeMap<String, Text>,
    planned: &mut Planned,
) -> Target {
    let used: Vec<String> = std::iter::once(&url)
        .chain(headers.values())
        .flat_map(|t| t.variables().map(str::to_owned))
        .collect();
    for key in std::mem::take(env).into_keys().filter(|k| !used.contains(k)) {
        planned.notes.push(format!(
            "{key} is left out: no process of a remote server runs on Berth"
        ));
    }
    Target::Remote {
        url: url.with(own),
        headers: headers.into_iter().map(|(k, v)| (k, v.with(own))).collect(),
    }
}

/// A package becomes the catalog's type for it, or the generic type of its registry.
fn of_package(
    package: Package,
    known: &[Known],
    env: &mut BTreeMap<String, Text>,
    planned: &mut Planned,
) -> Result<(Target, Vec<Text>), Refused> {
    let full = format!("{}:{}", package.registry.prefix(), package.name);
    let mut package = package;
    if let Some(known) = known.iter().find(|k| k.rules.packages.contains(&full)) {
        // A name that the catalog knows is no stranger's.
        if let Some(what) = package.guessed.take() {
            planned
                .notes
                .push(format!("{what} is taken as the package {}", package.name));
        }
        if known.rules.ignore_arguments || package.args.len() <= known.rules.arguments.len() {
            return Ok(of_catalog(package, known, env, planned));
        }
        planned.notes.push(format!(
            "the catalog's type {} takes no such arguments, so the package itself is run",
            known.type_name
        ));
    }
    let Package {
        registry,
        name,
        version,
        bin,
        args,
        http,
        guessed,
    } = package;
    if let Some(what) = guessed {
        return Err(Refused {
            what,
            why: format!(
                "it may be a program of the laptop's own, and Berth does not run an unknown package instead; if it is the package {name}, write `{} {name}` in the file and import again",
                if registry == Registry::Pypi { "uvx" } else { "npx" }
            ),
        });
    }
    let target = match registry {
        Registry::Npm => Target::Npx {
            package: name,
            version,
            bin,
        },
        Registry::Pypi => Target::Uvx {
            package: name,
            version,
            bin,
        },
        Registry::Oci => Target::Image {
            reference: match version {
                Some(v) if v.starts_with("sha256:") => format!("{name}@{v}"),
                Some(v) => format!("{name}:{v}"),
                None => format!("{name}:latest"),
            },
            entrypoint: bin,
            http,
        },
    };
    Ok((target, args))
}

fn of_catalog(
    package: Package,
    known: &Known,
    env: &mut BTreeMap<String, Text>,
    planned: &mut Planned,
) -> (Target, Vec<Text>) {
    if let Some(version) = &package.version
        && version != "latest"
    {
        planned.notes.push(format!(
            "version {version} was asked for; the catalog's type {} comes with the release of Berth",
            known.type_name
        ));
    }
    for (from, to) in &known.rules.variables {
        if let Some(value) = env.remove(from) {
            env.insert(to.clone(), value);
        }
    }
    if known.rules.ignore_arguments && package.args.len() > known.rules.arguments.len() {
        planned.notes.push(
            "its arguments are paths of the laptop and are left out: the instance has a volume of its own".into(),
        );
    }
    for (key, arg) in known.rules.arguments.iter().zip(package.args) {
        env.entry(key.clone()).or_insert(arg);
    }
    let target = Target::Catalog {
        type_name: known.type_name.clone(),
    };
    (target, Vec::new())
}

/// A name as instances have them, from whatever a person called it; unlike those in `taken`.
fn instance_name(given: &str, taken: &mut Vec<String>) -> String {
    let mut name = String::new();
    for c in given.chars() {
        let c = c.to_ascii_lowercase();
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.ends_with('-') && !name.is_empty() {
            name.push('-');
        }
    }
    name.truncate(36);
    let base = match name.trim_end_matches('-') {
        "" => "server",
        name => name,
    }
    .to_owned();
    let mut name = base.clone();
    let mut n = 2;
    while taken.contains(&name) {
        name = format!("{base}-{n}");
        n += 1;
    }
    taken.push(name.clone());
    name
}
