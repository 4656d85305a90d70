//! YAML written: a value as text, and values in place of others in a text that otherwise stays as it is.

use saphyr_parser::{Event, Parser};
use serde_json::Value;

use super::rewrite::{Replaced, RewriteError, gone};

/// A value in block style, with a newline at its end.
pub(crate) fn text(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(o) if !o.is_empty() => block(value, 0, &mut out),
        Value::Array(a) if !a.is_empty() => block(value, 0, &mut out),
        _ => {
            out += &value.to_string();
            out.push('\n');
        }
    }
    out
}

/// Lines that each begin with the indentation.
fn block(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(o) => {
            for (key, value) in o {
                *out += &format!("{pad}{}:", word(key));
                below(value, indent + 2, out);
            }
        }
        Value::Array(a) => {
            for value in a {
                let mut item = String::new();
                match value {
                    Value::Object(o) if !o.is_empty() => {
                        block(value, indent + 2, &mut item);
                        // Its first line begins after the dash.
                        *out += &format!("{pad}- {}", &item[indent + 2..]);
                    }
                    _ => *out += &format!("{pad}- {value}\n"),
                }
            }
        }
        _ => *out += &format!("{pad}{value}\n"),
    }
}

/// What comes after `key:`, to the end of its lines. JSON's scalars and empty collections are YAML's (YAML 1.2 §1.2).
fn below(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(o) if !o.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        Value::Array(a) if !a.is_empty() => {
            out.push('\n');
            block(value, indent, out);
        }
        _ => *out += &format!(" {value}\n"),
    }
}

/// A key: plain where nothing else could be read from it.
fn word(key: &str) -> String {
    let letters = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    let other = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    match letters && !other.contains(&key.to_ascii_lowercase().as_str()) {
        true => key.to_owned(),
        false => Value::String(key.to_owned()).to_string(),
    }
}

/// Where a value stands: its bytes, and where in its line the key or the dash before it begins.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: usize,
    end: usize,
    /// In flow style, `{…}` or `[…]`.
    flow: bool,
    /// The first byte of the key's line, and the column of the key or the dash, in bytes.
    line: usize,
    column: usize,
    /// Where the key ends.
    key_end: usize,
    /// In a list of block style.
    item: bool,
}

/// The text with other values at these places.
///
/// # Errors
/// A place that it does not have.
pub(super) fn replaced(text: &str, by: &Replaced) -> Result<String, RewriteError> {
    let mut places = Vec::new();
    for (path, value) in by {
        let place = find(text, path).ok_or_else(|| gone(path))?;
        places.push((place, value));
    }
    // From the end, so that the places before stay what they are.
    places.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut out = text.to_owned();
    for (place, value) in places {
        if place.flow {
            out.replace_range(place.start..place.end, &value.to_string());
            continue;
        }
        let end = end_of_block(&out, place);
        let mut new = String::new();
        if place.item {
            block(&Value::Array(vec![value.clone()]), place.column, &mut new);
            new.drain(..place.column);
        } else {
            let colon = out[place.key_end..]
                .find(':')
                .map_or(place.start, |at| place.key_end + at + 1);
            new += &out[place.line + place.column..colon];
            below(value, place.column + 2, &mut new);
        }
        out.replace_range(place.line + place.column..end, &new);
    }
    Ok(out)
}

/// The first byte after a block: of the next line that is no deeper than what it began with.
fn end_of_block(text: &str, place: Place) -> usize {
    let mut end = text.len();
    let mut at = text[place.start..]
        .find('\n')
        .map_or(text.len(), |n| place.start + n + 1);
    let mut last = at;
    while at < text.len() {
        let line = text[at..].split_inclusive('\n').next().unwrap_or_default();
        let content = line.trim();
        let depth = line.len() - line.trim_start_matches(' ').len();
        if !content.is_empty() && !content.starts_with('#') {
            // The elements of a list may stand as deep as its key.
            let dash = !place.item && depth == place.column && content.starts_with("- ");
            if depth <= place.column && !dash {
                end = last;
                break;
            }
            last = at + line.len();
        }
        at += line.len();
        end = last;
    }
    // Comments and empty lines before the next key are its own.
    end.min(text.len())
}

/// Follows the keys. Places of the parser are counted in characters.
fn find(text: &str, path: &[String]) -> Option<Place> {
    let mut bytes: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    bytes.push(text.len());
    let byte = |index: usize| bytes.get(index).copied().unwrap_or(text.len());
    let mut walk = Walk {
        events: Parser::new_from_str(text),
        at: Vec::new(),
        wanted: path,
    };
    let found = walk.search()?;
    let start = byte(found.start);
    let end = byte(found.end);
    let flow = text[start..].starts_with(['{', '[']);
    let (head, key_end) = (byte(found.head), byte(found.head_end));
    let item = found.item && !flow;
    // Before the first key of an element stands its dash.
    let from = match item {
        true => text[..head].trim_end().strip_suffix('-')?.len(),
        false => head,
    };
    let line = text[..from].rfind('\n').map_or(0, |n| n + 1);
    Some(Place {
        start,
        end,
        flow,
        line,
        column: from - line,
        key_end,
        item,
    })
}

/// In characters: where a value begins and ends, and where its key does, or it itself in a list.
struct Found {
    start: usize,
    end: usize,
    head: usize,
    head_end: usize,
    item: bool,
}

struct Walk<'t, 'p> {
    events: Parser<'t, saphyr_parser::StrInput<'t>>,
    at: Vec<String>,
    wanted: &'p [String],
}

impl<'t> Walk<'t, '_> {
    fn next(&mut self) -> Option<(Event<'t>, saphyr_parser::Span)> {
        self.events.next()?.ok()
    }

    fn search(&mut self) -> Option<Found> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
                (Event::StreamEnd | Event::DocumentEnd, _) => return None,
                (event, span) => return self.value(event, span, span, false).1,
            }
        }
    }

    /// Reads a value to its end; gives where that is, and what was found in it.
    fn value(
        &mut self,
        event: Event<'t>,
        span: saphyr_parser::Span,
        head: saphyr_parser::Span,
        item: bool,
    ) -> (usize, Option<Found>) {
        let here = self.at == self.wanted;
        let mut found = None;
        let mut end = span.end.index();
        match event {
            Event::SequenceStart(..) => {
                let mut n = 0;
                while let Some((event, span)) = self.next() {
                    if event == Event::SequenceEnd {
                        end = span.end.index();
                        break;
                    }
                    self.at.push(n.to_string());
                    let (_, inner) = self.value(event, span, span, true);
                    self.at.pop();
                    found = found.or(inner);
                    n += 1;
                }
            }
            Event::MappingStart(..) => {
                while let Some((event, span)) = self.next() {
                    let key = match event {
                        Event::MappingEnd => {
                            end = span.end.index();
                            break;
                        }
                        Event::Scalar(key, ..) => key.into_owned(),
                        _ => return (end, None),
                    };
                    let head = span;
                    let Some((event, span)) = self.next() else { break };
                    self.at.push(key);
                    let (_, inner) = self.value(event, span, head, false);
                    self.at.pop();
                    // Of one key that stands there twice, the last counts.
                    found = inner.or(found);
                }
            }
            _ => {}
        }
        if here {
            found = Some(Found {
                start: span.start.index(),
                end,
                head: head.start.index(),
                head_end: head.end.index(),
                item,
            });
        }
        (end, found)
    }
}
