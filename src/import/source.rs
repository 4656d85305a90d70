//! JSON as people keep it: with comments, trailing commas and unknown keys; every node knows its line.

use jsonc_parser::{
    CollectOptions, ParseOptions,
    ast::{Object, ObjectProp, Value},
    common::Ranged,
    parse_to_ast,
};

use super::one;
use crate::strict::{Problem, Problems};

/// A parsed text.
pub struct Source<'a> {
    pub(super) file: String,
    text: &'a str,
    pub(super) root: Object<'a>,
}

/// What JSONC of the clients may have beyond JSON: comments and trailing commas, nothing else.
pub(super) fn options() -> ParseOptions {
    ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

impl<'a> Source<'a> {
    /// Parses a text whose top level is an object.
    ///
    /// # Errors
    /// The place of the first mistake.
    pub fn parse(file: &str, text: &'a str) -> Result<Self, Problems> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let parsed = parse_to_ast(text, &CollectOptions::default(), &options())
            .map_err(|e| one(file, e.line_display(), format!("not valid JSON: {}", e.kind())))?;
        match parsed.value {
            Some(Value::Object(root)) => Ok(Self {
                file: file.into(),
                text,
                root,
            }),
            Some(other) => Err(one(
                file,
                line(text, other.range().start),
                "is not an object; expected { \"mcpServers\": … }".into(),
            )),
            None => Err(one(file, 1, "is empty; expected { \"mcpServers\": … }".into())),
        }
    }

    pub(super) fn line(&self, node: &impl Ranged) -> usize {
        line(self.text, node.range().start)
    }

    pub(super) fn problem(&self, node: &impl Ranged, text: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            line: self.line(node),
            text: text.into(),
        }
    }

    /// The registry's format: packages or remotes at the top, and a name.
    pub(super) fn is_server_json(&self) -> bool {
        let root = match self.root.get("server").map(|p| &p.value) {
            Some(Value::Object(inner)) => inner,
            _ => &self.root,
        };
        root.get("name").is_some() && (root.get("packages").is_some() || root.get("remotes").is_some())
    }
}

fn line(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())]
        .iter()
        .filter(|c| **c == b'\n')
        .count()
        + 1
}

/// Readers that say what they expected.
pub(super) struct Reader<'s, 'a> {
    pub(super) source: &'s Source<'a>,
    pub(super) problems: Vec<Problem>,
}

impl<'s, 'a> Reader<'s, 'a> {
    pub(super) fn new(source: &'s Source<'a>) -> Self {
        Self {
            source,
            problems: Vec::new(),
        }
    }

    pub(super) fn wrong(&mut self, node: &impl Ranged, text: impl Into<String>) {
        self.problems.push(self.source.problem(node, text));
    }

    /// A string; a number or a boolean is taken as its text, as the clients do in `env`.
    pub(super) fn string(&mut self, prop: &ObjectProp<'a>) -> Option<String> {
        self.value_string(&prop.value, prop.name.as_str())
    }

    pub(super) fn value_string(&mut self, value: &Value<'a>, what: &str) -> Option<String> {
        match value {
            Value::StringLit(s) => Some(s.value.to_string()),
            Value::NumberLit(n) => Some(n.value.to_owned()),
            Value::BooleanLit(b) => Some(b.value.to_string()),
            Value::NullKeyword(_) => None,
            other => {
                self.wrong(other, format!("{what} must be a string"));
                None
            }
        }
    }

    pub(super) fn object<'v>(&mut self, prop: &'v ObjectProp<'a>) -> Option<&'v Object<'a>> {
        match &prop.value {
            Value::Object(o) => Some(o),
            Value::NullKeyword(_) => None,
            other => {
                self.wrong(other, format!("{} must be an object", prop.name.as_str()));
                None
            }
        }
    }

    pub(super) fn array<'v>(&mut self, prop: &'v ObjectProp<'a>) -> &'v [Value<'a>] {
        match &prop.value {
            Value::Array(a) => &a.elements,
            Value::NullKeyword(_) => &[],
            other => {
                self.wrong(other, format!("{} must be an array", prop.name.as_str()));
                &[]
            }
        }
    }

    pub(super) fn strings(&mut self, prop: &ObjectProp<'a>) -> Vec<String> {
        let what = prop.name.as_str();
        self.array(prop)
            .iter()
            .filter_map(|v| self.value_string(v, &format!("an element of {what}")))
            .collect()
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, Problems> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(Problems(self.problems))
        }
    }
}
