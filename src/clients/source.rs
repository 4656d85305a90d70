//! A text of one of the syntaxes, read, and readers of its values that say what they expected.

use super::tree::{self, Node, Object, Property, Syntax, Value};
use crate::strict_toml::{Problem, Problems};

pub(crate) fn one(file: &str, line: usize, text: String) -> Problems {
    Problems(vec![Problem {
        file: file.into(),
        line,
        text,
    }])
}

/// A parsed text.
#[derive(Debug)]
pub struct Source {
    pub(crate) file: String,
    pub(crate) syntax: Syntax,
    pub(crate) root: Node,
    /// It is a piece of a configuration, as a README shows it: `"name": { … }` without braces around.
    pub(crate) piece: bool,
}

impl Source {
    /// Parses a text in whichever syntax it is; the file's name tells where the text does not.
    ///
    /// # Errors
    /// The place of the first mistake.
    pub fn parse(file: &str, text: &str) -> Result<Self, Problems> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let syntax = syntax_of(file, text);
        let empty = || one(file, 1, "is empty; expected { \"mcpServers\": … }".into());
        let wrong = |(line, text): tree::Mistake| one(file, line, text);
        if syntax == Syntax::Json && text.trim_start().starts_with('"') {
            // On one line with it, so that lines stay what they are.
            if let Ok(Some(root)) = tree::parse(&format!("{{{text}\n}}"), syntax) {
                return Ok(Self {
                    file: file.into(),
                    syntax,
                    root,
                    piece: true,
                });
            }
        }
        let root = tree::parse(text, syntax).map_err(wrong)?.ok_or_else(empty)?;
        match root.value {
            Value::Object(_) | Value::Array(_) => Ok(Self {
                file: file.into(),
                syntax,
                root,
                piece: false,
            }),
            other => Err(one(
                file,
                root.line,
                format!("is {}; expected {{ \"mcpServers\": … }}", other.what()),
            )),
        }
    }

    /// The top level, where it is an object.
    pub(crate) fn top(&self) -> Option<&Object> {
        match &self.root.value {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }
}

/// By what it begins with; JSON and TOML may both begin with a bracket.
fn syntax_of(file: &str, text: &str) -> Syntax {
    let text = text.trim_start();
    let first = text.lines().next().unwrap_or_default().trim_end();
    let header = first.starts_with('[')
        && first.split('#').next().is_some_and(|l| l.trim_end().ends_with(']'))
        && first
            .trim_start_matches('[')
            .starts_with(|c: char| c.is_ascii_alphabetic());
    if text.starts_with(['{', '/', '"']) || text.starts_with('[') && !header {
        return Syntax::Json;
    }
    let name = file.to_ascii_lowercase();
    if name.ends_with(".toml") {
        return Syntax::Toml;
    }
    if name.ends_with(".yaml") || name.ends_with(".yml") {
        return Syntax::Yaml;
    }
    if header || tree::parse(text, Syntax::Toml).is_ok_and(|t| t.is_some()) {
        return Syntax::Toml;
    }
    match tree::parse(text, Syntax::Yaml) {
        Ok(Some(node)) if matches!(node.value, Value::Object(_) | Value::Array(_)) => Syntax::Yaml,
        // Its words suit best what is neither.
        _ => Syntax::Json,
    }
}

/// Readers that say what they expected.
pub(crate) struct Reader<'s> {
    pub(crate) source: &'s Source,
    pub(crate) problems: Vec<Problem>,
}

impl<'s> Reader<'s> {
    pub(crate) fn new(source: &'s Source) -> Self {
        Self {
            source,
            problems: Vec::new(),
        }
    }

    pub(crate) fn wrong(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(Problem {
            file: self.source.file.clone(),
            line,
            text: text.into(),
        });
    }

    /// A string; a number or a boolean is taken as its text, as the clients do in `env`.
    pub(crate) fn string(&mut self, property: &Property) -> Option<String> {
        self.value_string(&property.value, property.line, &property.name)
    }

    pub(crate) fn value_string(&mut self, value: &Value, line: usize, what: &str) -> Option<String> {
        match value {
            Value::String(s) => Some(s.clone()),
            Value::Number(n) => Some(n.clone()),
            Value::Bool(b) => Some(b.to_string()),
            Value::Null => None,
            Value::Array(_) | Value::Object(_) => {
                self.wrong(line, format!("{what} must be a string"));
                None
            }
        }
    }

    pub(crate) fn object<'v>(&mut self, property: &'v Property) -> Option<&'v Object> {
        match &property.value {
            Value::Object(o) => Some(o),
            Value::Null => None,
            _ => {
                self.wrong(property.line, format!("{} must be an object", property.name));
                None
            }
        }
    }

    pub(crate) fn array<'v>(&mut self, property: &'v Property) -> &'v [Node] {
        match &property.value {
            Value::Array(a) => a,
            Value::Null => &[],
            _ => {
                self.wrong(property.line, format!("{} must be an array", property.name));
                &[]
            }
        }
    }

    pub(crate) fn strings(&mut self, property: &Property) -> Vec<String> {
        let what = format!("an element of {}", property.name);
        self.array(property)
            .iter()
            .filter_map(|n| self.value_string(&n.value, n.line, &what))
            .collect()
    }

    pub(crate) fn finish<T>(self, value: T) -> Result<T, Problems> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(Problems(self.problems))
        }
    }
}
