//! A configuration as a tree that knows its lines, whichever syntax it is written in: JSON with comments, TOML, YAML.

use std::collections::BTreeMap;

use jsonc_parser::{CollectOptions, ParseOptions, ast, common::Ranged, parse_to_ast};
use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use toml_edit::{Item, Value as TomlValue};

/// Deeper than any configuration, and bounded for the readers, which follow it.
const MAX_DEPTH: usize = 100;
/// So many values are read of a YAML document, those that stand for others (`*name`) counted each time.
const MAX_YAML_NODES: usize = 200_000;

/// A value and the line that it starts in, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    String(String),
    Array(Vec<Node>),
    Object(Object),
}

/// Keys in the order of the text.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Object {
    pub(crate) line: usize,
    pub(crate) properties: Vec<Property>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Property {
    pub(crate) name: String,
    /// The key's.
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// The languages that configurations are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// With comments and trailing commas.
    Json,
    Toml,
    Yaml,
}

/// Where a text is wrong, and how.
pub(crate) type Mistake = (usize, String);

impl Object {
    /// The key's value; of several, the last, as the clients' own parsers take it.
    pub(crate) fn get(&self, name: &str) -> Option<&Property> {
        self.properties.iter().rev().find(|p| p.name == name)
    }

    pub(crate) fn object(&self, name: &str) -> Option<&Object> {
        match &self.get(name)?.value {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    pub(crate) fn string(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|p| p.value == Value::Bool(true))
    }
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) | Self::Number(_) | Self::String(_) => "a single value",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The same value as JSON has it.
    pub(crate) fn is(&self, other: &serde_json::Value) -> bool {
        match (self, other) {
            (Self::Null, serde_json::Value::Null) => true,
            (Self::Bool(a), serde_json::Value::Bool(b)) => a == b,
            (Self::Number(a), serde_json::Value::Number(b)) => *a == b.to_string(),
            (Self::String(a), serde_json::Value::String(b)) => a == b,
            (Self::Array(a), serde_json::Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.value.is(b))
            }
            (Self::Object(a), serde_json::Value::Object(b)) => {
                a.properties.len() == b.len()
                    && a.properties
                        .iter()
                        .all(|p| b.get(&p.name).is_some_and(|v| p.value.is(v)))
            }
            _ => false,
        }
    }
}

/// Reads a text; `None` when nothing stands in it.
///
/// # Errors
/// The first mistake.
pub(crate) fn parse(text: &str, syntax: Syntax) -> Result<Option<Node>, Mistake> {
    match syntax {
        Syntax::Json => json(text),
        Syntax::Toml => toml(text).map(Some),
        Syntax::Yaml => yaml(text),
    }
}

/// Lines by places.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(memchr::memchr_iter(b'\n', text.as_bytes()).collect())
    }

    fn at(&self, place: usize) -> usize {
        self.0.partition_point(|end| *end < place) + 1
    }
}

/// What JSONC of the clients may have beyond JSON: comments and trailing commas, nothing else.
pub(crate) fn json_options() -> ParseOptions {
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

fn json(text: &str) -> Result<Option<Node>, Mistake> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &json_options())
        .map_err(|e| (e.line_display(), format!("not valid JSON: {}", e.kind())))?;
    let lines = Lines::of(text);
    parsed.value.map(|value| of_json(&value, &lines, 0)).transpose()
}

fn of_json(value: &ast::Value<'_>, lines: &Lines, depth: usize) -> Result<Node, Mistake> {
    let line = lines.at(value.range().start);
    bounded(line, depth)?;
    let value = match value {
        ast::Value::NullKeyword(_) => Value::Null,
        ast::Value::BooleanLit(b) => Value::Bool(b.value),
        ast::Value::NumberLit(n) => Value::Number(n.value.to_owned()),
        ast::Value::StringLit(s) => Value::String(s.value.to_string()),
        ast::Value::Array(a) => {
            let elements = a.elements.iter().map(|v| of_json(v, lines, depth + 1));
            Value::Array(elements.collect::<Result<_, _>>()?)
        }
        ast::Value::Object(o) => {
            let properties = o.properties.iter().map(|p| {
                Ok(Property {
                    name: p.name.as_str().to_owned(),
                    line: lines.at(p.range().start),
                    value: of_json(&p.value, lines, depth + 1)?.value,
                })
            });
            Value::Object(Object {
                line,
                properties: properties.collect::<Result<_, Mistake>>()?,
            })
        }
    };
    Ok(Node { line, value })
}

fn bounded(line: usize, depth: usize) -> Result<(), Mistake> {
    match depth > MAX_DEPTH {
        true => Err((line, format!("nested deeper than {MAX_DEPTH} levels"))),
        false => Ok(()),
    }
}

fn toml(text: &str) -> Result<Node, Mistake> {
    let lines = Lines::of(text);
    let document = toml_edit::Document::parse(text).map_err(|e| {
        let line = e.span().map_or(1, |s| lines.at(s.start));
        (line, format!("not valid TOML: {}", e.message().replace('\n', ", ")))
    })?;
    let object = of_table(document.as_table(), 1, &lines);
    Ok(Node {
        line: 1,
        value: Value::Object(object),
    })
}

/// The parser bounds the depth itself.
fn of_table(table: &dyn toml_edit::TableLike, line: usize, lines: &Lines) -> Object {
    let property = |(name, item): (&str, &Item)| {
        let key = table.key(name).and_then(toml_edit::Key::span);
        let line = key.or(item.span()).map_or(line, |s| lines.at(s.start));
        Property {
            name: name.to_owned(),
            line,
            value: of_item(item, line, lines),
        }
    };
    Object {
        line,
        properties: table.iter().map(property).collect(),
    }
}

fn of_item(item: &Item, line: usize, lines: &Lines) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => of_toml(value, line, lines),
        Item::Table(table) => Value::Object(of_table(table, line, lines)),
        Item::ArrayOfTables(tables) => {
            let element = |t: &toml_edit::Table| {
                let line = t.span().map_or(line, |s| lines.at(s.start));
                Node {
                    line,
                    value: Value::Object(of_table(t, line, lines)),
                }
            };
            Value::Array(tables.iter().map(element).collect())
        }
    }
}

fn of_toml(value: &TomlValue, line: usize, lines: &Lines) -> Value {
    match value {
        TomlValue::String(s) => Value::String(s.value().clone()),
        TomlValue::Integer(n) => Value::Number(n.value().to_string()),
        TomlValue::Float(n) => Value::Number(n.value().to_string()),
        TomlValue::Boolean(b) => Value::Bool(*b.value()),
        TomlValue::Datetime(d) => Value::String(d.value().to_string()),
        TomlValue::Array(a) => {
            let element = |v: &TomlValue| {
                let line = v.span().map_or(line, |s| lines.at(s.start));
                Node {
                    line,
                    value: of_toml(v, line, lines),
                }
            };
            Value::Array(a.iter().map(element).collect())
        }
        TomlValue::InlineTable(t) => Value::Object(of_table(t, line, lines)),
    }
}

/// The first document of a text.
fn yaml(text: &str) -> Result<Option<Node>, Mistake> {
    let mut reading = Yaml {
        events: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
        nodes: 0,
    };
    loop {
        match reading.next()? {
            (_, Event::StreamStart | Event::DocumentStart(_) | Event::Nothing) => {}
            (_, Event::StreamEnd | Event::DocumentEnd) => return Ok(None),
            (line, event) => {
                let node = reading.node(line, event, 0)?;
                return Ok((node.value != Value::Null).then_some(node));
            }
        }
    }
}

struct Yaml<'t> {
    events: Parser<'t, StrInput<'t>>,
    /// What `&name` named, by the parser's numbers.
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'t> Yaml<'t> {
    fn next(&mut self) -> Result<(usize, Event<'t>), Mistake> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((span.start.line(), event)),
            Some(Err(e)) => Err((e.marker().line(), format!("not valid YAML: {}", e.info()))),
            None => Ok((0, Event::StreamEnd)),
        }
    }

    fn count(&mut self, line: usize, more: usize) -> Result<(), Mistake> {
        self.nodes = self.nodes.saturating_add(more);
        match self.nodes > MAX_YAML_NODES {
            true => Err((line, format!("has more than {MAX_YAML_NODES} values"))),
            false => Ok(()),
        }
    }

    fn node(&mut self, line: usize, event: Event<'t>, depth: usize) -> Result<Node, Mistake> {
        bounded(line, depth)?;
        self.count(line, 1)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(text.into_owned(), style)),
            Event::SequenceStart(anchor, _) => {
                let mut elements = Vec::new();
                loop {
                    match self.next()? {
                        (_, Event::SequenceEnd) => break,
                        (at, event) => elements.push(self.node(at, event, depth + 1)?),
                    }
                }
                (anchor, Value::Array(elements))
            }
            Event::MappingStart(anchor, _) => (anchor, Value::Object(self.mapping(line, depth)?)),
            Event::Alias(anchor) => {
                let named = self.anchors.get(&anchor).cloned();
                let named = named.ok_or((line, "*name stands for nothing before it".to_owned()))?;
                self.count(line, size(&named.value))?;
                return Ok(named);
            }
            _ => return Err((line, "the document breaks off here".into())),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn mapping(&mut self, line: usize, depth: usize) -> Result<Object, Mistake> {
        let mut object = Object {
            line,
            properties: Vec::new(),
        };
        let mut merged = Vec::new();
        loop {
            let (at, name) = match self.next()? {
                (_, Event::MappingEnd) => break,
                (at, Event::Scalar(name, ..)) => (at, name.into_owned()),
                (at, _) => return Err((at, "a key must be a single word".into())),
            };
            let (value_at, event) = self.next()?;
            let node = self.node(value_at, event, depth + 1)?;
            match (name.as_str(), node.value) {
                ("<<", Value::Object(other)) => merged.push(other),
                ("<<", Value::Array(others)) => merged.extend(others.into_iter().filter_map(|n| match n.value {
                    Value::Object(other) => Some(other),
                    _ => None,
                })),
                (_, value) => object.properties.push(Property { name, line: at, value }),
            }
        }
        // What is merged in gives way to what stands here, and the first of several comes before the others.
        for property in merged.into_iter().flat_map(|o| o.properties) {
            if !object.has(&property.name) {
                object.properties.push(property);
            }
        }
        Ok(object)
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(|n| size(&n.value)).sum::<usize>(),
        Value::Object(object) => 1 + object.properties.iter().map(|p| size(&p.value)).sum::<usize>(),
        _ => 1,
    }
}

/// YAML 1.2's core schema, as far as it matters here (§10.3).
fn scalar(text: String, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text);
    }
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let digits = text.strip_prefix('-').unwrap_or(&text);
            let number = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit() || c == b'.');
            match number && text.parse::<f64>().is_ok() {
                true => Value::Number(text),
                false => Value::String(text),
            }
        }
    }
}
