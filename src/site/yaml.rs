//! A YAML document as a small tree that knows its lines. No aliases, no tags, bounded depth: what clouds write.

use saphyr_parser::{Event, Parser};

/// Deeper than any network configuration.
const MAX_DEPTH: usize = 16;

/// A value and the line that it starts in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar(String),
    List(Vec<Node>),
    /// Keys with their lines, in the file's order.
    Map(Vec<(String, usize, Node)>),
}

impl Node {
    /// What it is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match self.kind {
            Kind::Scalar(_) => "a single value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a table",
        }
    }
}

/// Reads the one document of `text`; `None` when it is empty.
///
/// # Errors
/// The line and what is wrong with it.
pub(super) fn read(text: &str) -> Result<Option<Node>, (usize, String)> {
    let mut events = Parser::new_from_str(text);
    loop {
        match next(&mut events)? {
            (_, Event::StreamStart | Event::DocumentStart(_) | Event::Nothing) => {}
            (_, Event::StreamEnd | Event::DocumentEnd) => return Ok(None),
            (line, event) => {
                let node = node(&mut events, line, event, 0)?;
                return Ok((node.kind != Kind::Scalar(String::new())).then_some(node));
            }
        }
    }
}

type Events<'t> = Parser<'t, saphyr_parser::StrInput<'t>>;

fn next<'t>(events: &mut Events<'t>) -> Result<(usize, Event<'t>), (usize, String)> {
    match events.next() {
        Some(Ok((event, span))) => Ok((span.start.line(), event)),
        Some(Err(e)) => Err((e.marker().line(), format!("not valid YAML: {}", e.info()))),
        None => Ok((0, Event::StreamEnd)),
    }
}

fn node<'t>(events: &mut Events<'t>, line: usize, event: Event<'t>, depth: usize) -> Result<Node, (usize, String)> {
    if depth > MAX_DEPTH {
        return Err((line, format!("nested deeper than {MAX_DEPTH} levels")));
    }
    let kind = match event {
        Event::Scalar(text, ..) => {
            let text = text.into_owned();
            Kind::Scalar(if text == "~" || text == "null" {
                String::new()
            } else {
                text
            })
        }
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match next(events)? {
                    (_, Event::SequenceEnd) => break,
                    (at, event) => items.push(node(events, at, event, depth + 1)?),
                }
            }
            Kind::List(items)
        }
        Event::MappingStart(..) => {
            let mut items = Vec::new();
            loop {
                let (at, key) = match next(events)? {
                    (_, Event::MappingEnd) => break,
                    (at, Event::Scalar(key, ..)) => (at, key.into_owned()),
                    (at, _) => return Err((at, "a key must be a single word".into())),
                };
                let (value_at, event) = next(events)?;
                items.push((key, at, node(events, value_at, event, depth + 1)?));
            }
            Kind::Map(items)
        }
        Event::Alias(_) => return Err((line, "aliases (*name) are not read: write the value out".into())),
        _ => return Err((line, "the document breaks off here".into())),
    };
    Ok(Node { line, kind })
}
