//! Values that a person's own machine would fill in: `${input:id}` (VS Code asks), `${env:NAME}` and `${NAME}`
//! (from the environment), `${workspaceFolder}` (a path of the laptop). Such values may be secrets: nothing here
//! prints them.

use std::{collections::BTreeMap, fmt};

use crate::model::Secret;

/// A string with the places that are still to be filled.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Text(Vec<Part>);

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Input(String),
    Env {
        name: String,
        default: Option<String>,
    },
    /// A path of the machine that the text comes from.
    Place(String),
}

/// What a person is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub label: String,
    /// Typed unseen.
    pub password: bool,
    pub default: Option<String>,
    /// May be left empty.
    pub optional: bool,
}

/// What was answered, and the environment of whoever imports.
#[derive(Default)]
pub struct Answers {
    pub inputs: BTreeMap<String, Secret>,
    pub env: BTreeMap<String, Secret>,
}

/// What could not be filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("{0} is asked for; give it with --env {0}=VALUE or --env-file")]
    Input(String),
    #[error("the variable {0} is not set in this shell; set it, or give it with --env {0}=VALUE")]
    Env(String),
    #[error("${{{0}}} is a place on the machine that this configuration comes from; Berth has none")]
    Place(String),
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text(…)")
    }
}

impl Text {
    /// Reads the placeholders of the clients: `${…}`, opencode's `{env:…}` and `{file:…}`, Continue's `${{ secrets.… }}`.
    pub fn parse(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((at, open, close)) = OPENINGS
            .iter()
            .filter_map(|(open, close)| Some((rest.find(open)?, *open, *close)))
            .min_by_key(|(at, open, _)| (*at, std::cmp::Reverse(open.len())))
        {
            let (before, after) = rest.split_at(at);
            literal.push_str(before);
            let Some(end) = after.find(close) else {
                let (this, later) = after.split_at(open.len());
                literal.push_str(this);
                rest = later;
                continue;
            };
            let whole = end + close.len();
            match placeholder(open, &after[open.len()..end]) {
                Some(part) => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(part);
                }
                None => literal.push_str(&after[..whole]),
            }
            rest = &after[whole..];
        }
        literal.push_str(rest);
        if parts.is_empty()
            && let Some((head, name)) = bare_variable(&literal)
        {
            let env = Part::Env {
                name: name.to_owned(),
                default: None,
            };
            return Self(match head {
                "" => vec![env],
                head => vec![Part::Literal(head.to_owned()), env],
            });
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Self(parts)
    }

    /// The same with a text's own variables in place of their names.
    #[must_use]
    pub fn with(&self, own: &BTreeMap<String, Text>) -> Self {
        let filled = self.0.iter().flat_map(|part| match part {
            Part::Env { name, .. } if own.contains_key(name) => own[name].0.clone(),
            other => vec![other.clone()],
        });
        let mut parts: Vec<Part> = Vec::new();
        for part in filled {
            match (parts.last_mut(), part) {
                (Some(Part::Literal(before)), Part::Literal(text)) => before.push_str(&text),
                (_, part) => parts.push(part),
            }
        }
        Self(parts)
    }

    /// The same with something before it.
    #[must_use]
    pub fn after(&self, head: &str) -> Self {
        let mut parts = vec![Part::Literal(head.to_owned())];
        for part in &self.0 {
            match (parts.last_mut(), part) {
                (Some(Part::Literal(before)), Part::Literal(text)) => before.push_str(text),
                (_, part) => parts.push(part.clone()),
            }
        }
        Self(parts)
    }

    /// As it stands, without placeholders.
    pub fn literal(text: impl Into<String>) -> Self {
        let text = text.into();
        Self(if text.is_empty() {
            Vec::new()
        } else {
            vec![Part::Literal(text)]
        })
    }

    /// A value that is asked for.
    pub fn input(id: impl Into<String>) -> Self {
        Self(vec![Part::Input(id.into())])
    }

    /// From the environment of whoever imports.
    pub fn env(name: impl Into<String>) -> Self {
        Self(vec![Part::Env {
            name: name.into(),
            default: None,
        }])
    }

    /// The text, when nothing is left to fill.
    pub fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The ids of the inputs in it.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|p| match p {
            Part::Input(id) => Some(id.as_str()),
            _ => None,
        })
    }

    /// The names of the variables that it takes from the environment.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|p| match p {
            Part::Env { name, .. } => Some(name.as_str()),
            _ => None,
        })
    }

    /// `--flag=VALUE`, split.
    pub fn split_flag(&self) -> Option<(String, Self)> {
        let (flag, rest) = self.head().split_once('=').filter(|(flag, _)| flag.starts_with('-'))?;
        let mut value = Self::literal(rest);
        value.0.extend(self.0.iter().skip(1).cloned());
        Some((flag.to_owned(), value))
    }

    /// What it starts with before the first placeholder.
    pub fn head(&self) -> &str {
        match self.0.first() {
            Some(Part::Literal(text)) => text,
            _ => "",
        }
    }

    /// The placeholder that names a place on the laptop, if it has one.
    pub fn place(&self) -> Option<&str> {
        self.0.iter().find_map(|p| match p {
            Part::Place(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// With everything filled.
    ///
    /// # Errors
    /// The first that is missing.
    pub fn fill(&self, answers: &Answers) -> Result<Secret, Missing> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Input(id) => match answers.inputs.get(id) {
                    Some(value) => out.push_str(value.expose()),
                    None => return Err(Missing::Input(id.clone())),
                },
                Part::Env { name, default } => match (answers.env.get(name), default) {
                    (Some(value), _) => out.push_str(value.expose()),
                    (None, Some(default)) => out.push_str(default),
                    (None, None) => return Err(Missing::Env(name.clone())),
                },
                Part::Place(name) => return Err(Missing::Place(name.clone())),
            }
        }
        Ok(Secret::new(out))
    }

    /// For the plan: placeholders as they were written, a secret as dots.
    pub fn shown(&self, secret: bool) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(_) if secret => out.push_str("••••"),
                Part::Literal(text) => out.push_str(text),
                Part::Input(id) => {
                    out.push_str("${input:");
                    out.push_str(id);
                    out.push('}');
                }
                Part::Env { name, .. } | Part::Place(name) => {
                    out.push_str("${");
                    out.push_str(name);
                    out.push('}');
                }
            }
        }
        out
    }
}

/// `$NAME` or `%NAME%`, alone or after `Bearer `: what stands before it, and the name. Some clients fill these in, and no
/// value of a server looks so.
fn bare_variable(text: &str) -> Option<(&str, &str)> {
    let at = text.rfind(' ').map_or(0, |i| i + 1);
    let (head, word) = text.split_at(at);
    let windows = word.strip_prefix('%').and_then(|w| w.strip_suffix('%'));
    let name = word.strip_prefix('$').filter(|n| n.len() > 1).or(windows)?;
    let plain = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_';
    let named = !name.is_empty() && name.bytes().all(plain) && !name.as_bytes()[0].is_ascii_digit();
    (named && !head.trim_end().contains(' ')).then_some((head, name))
}

/// What placeholders begin and end with.
const OPENINGS: [(&str, &str); 4] = [("${{", "}}"), ("${", "}"), ("{env:", "}"), ("{file:", "}")];

/// Folders of the machine that the text comes from, as the clients and their extensions call them.
const PLACES: [&str; 14] = [
    "/",
    "CLAUDE_PLUGIN_DATA",
    "CLAUDE_PLUGIN_ROOT",
    "CLAUDE_PROJECT_DIR",
    "DESKTOP",
    "DOCUMENTS",
    "DOWNLOADS",
    "HOME",
    "__dirname",
    "cwd",
    "extensionPath",
    "pathSeparator",
    "userHome",
    "workspaceFolderBasename",
];

/// What stands between such signs; `None` for what is no placeholder of a client.
fn placeholder(open: &str, inner: &str) -> Option<Part> {
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    match open {
        "${{" => {
            let inner = inner.trim();
            let name = inner.strip_prefix("secrets.").or(inner.strip_prefix("inputs."))?;
            return is_name(name).then(|| Part::Input(name.into()));
        }
        "{file:" => return Some(Part::Place(format!("file:{inner}"))),
        _ => {}
    }
    if let Some(id) = inner.strip_prefix("input:").or(inner.strip_prefix("user_config.")) {
        return Some(Part::Input(id.into()));
    }
    let name = inner.strip_prefix("env:").unwrap_or(inner);
    if PLACES.contains(&name) || name.starts_with("workspaceFolder") || name.starts_with("command:") {
        return Some(Part::Place(name.into()));
    }
    // As a shell has them: what stands in for an unset one, or an error's words (POSIX.1, Parameter Expansion).
    let (name, default) = match name.find([':', '-', '?']) {
        Some(at) => {
            let (name, rest) = name.split_at(at);
            let rest = rest.strip_prefix(':').unwrap_or(rest);
            match rest.strip_prefix('-') {
                Some(default) => (name, Some(default.to_owned())),
                None if rest.starts_with('?') => (name, None),
                None => return None,
            }
        }
        None => (name, None),
    };
    is_name(name).then(|| Part::Env {
        name: name.into(),
        default,
    })
}
