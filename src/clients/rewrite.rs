//! Writes a client's configuration back with some of its servers pointing at Berth. Everything else stays as it was:
//! comments, order, spaces, servers that were not brought over. What came of it is read again before it counts.

use std::collections::BTreeMap;

use jsonc_parser::cst::{CstArray, CstInputValue, CstNode, CstObject, CstRootNode};
use serde_json::Value;
use toml_edit::{DocumentMut, InlineTable, Item, Table};

use super::{
    source::Source,
    tree::{self, Node, Syntax, json_options},
    yaml,
};

/// Servers by their places: the keys, and in lists the numbers, that lead to each.
pub type Replaced = BTreeMap<Vec<String>, Value>;

/// Why a text cannot be written back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// In the parser's words.
    #[error("{0}")]
    Unread(String),
    #[error("{0} is not in it any more")]
    Gone(String),
    /// What was written cannot be read.
    #[error("line {line}: {why}")]
    Line { line: usize, why: String },
    #[error("its form cannot be kept; paste what `berth connect` prints in its place")]
    Form,
}

/// Replaces the servers by their places: two projects may each have one of the same name.
///
/// # Errors
/// [`RewriteError`].
pub fn rewrite(file: &str, text: &str, by: &Replaced) -> Result<String, RewriteError> {
    let bom = text.starts_with('\u{feff}');
    let bare = text.trim_start_matches('\u{feff}');
    let source = Source::parse(file, bare).map_err(|e| RewriteError::Unread(e.to_string()))?;
    let written = match source.syntax {
        Syntax::Json => json(bare, by)?,
        Syntax::Toml => toml(bare, by)?,
        Syntax::Yaml => yaml::replaced(bare, by)?,
    };
    let after = tree::parse(&written, source.syntax).map_err(|(line, why)| RewriteError::Line { line, why })?;
    if !after.is_some_and(|after| only_these_changed(&source.root, &after, by)) {
        return Err(RewriteError::Form);
    }
    Ok(if bom { format!("\u{feff}{written}") } else { written })
}

/// Whether a text says the same as before, but for these places.
fn only_these_changed(before: &Node, after: &Node, by: &Replaced) -> bool {
    let mut path = Vec::new();
    same(&before.value, &after.value, &mut path, by)
}

fn same(before: &tree::Value, after: &tree::Value, path: &mut Vec<String>, by: &Replaced) -> bool {
    if let Some(wanted) = by.get(path.as_slice()) {
        return after.is(wanted);
    }
    let mut below = |key: &str, a: &tree::Value, b: &tree::Value| {
        path.push(key.to_owned());
        let same = same(a, b, path, by);
        path.pop();
        same
    };
    match (before, after) {
        (tree::Value::Object(a), tree::Value::Object(b)) => {
            a.properties.len() == b.properties.len()
                && a.properties
                    .iter()
                    .zip(&b.properties)
                    .all(|(a, b)| a.name == b.name && below(&a.name, &a.value, &b.value))
        }
        (tree::Value::Array(a), tree::Value::Array(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .enumerate()
                    .all(|(n, (a, b))| below(&n.to_string(), &a.value, &b.value))
        }
        (a, b) => a == b,
    }
}

pub(super) fn gone(path: &[String]) -> RewriteError {
    RewriteError::Gone(path.join(" > "))
}

fn json(text: &str, by: &Replaced) -> Result<String, RewriteError> {
    let root = CstRootNode::parse(text, &json_options()).map_err(|e| RewriteError::Unread(e.to_string()))?;
    for (path, value) in by {
        let (last, above) = path.split_last().ok_or_else(|| gone(path))?;
        let mut at = root.value().ok_or_else(|| gone(path))?;
        for key in above {
            at = step(&at, key).ok_or_else(|| gone(path))?;
        }
        if let Some(object) = at.as_object() {
            property(&object, last)
                .ok_or_else(|| gone(path))?
                .set_value(input(value));
        } else {
            let element = at
                .as_array()
                .and_then(|a| element(&a, last))
                .ok_or_else(|| gone(path))?;
            replace(&element, value).ok_or_else(|| gone(path))?;
        }
    }
    Ok(root.to_string())
}

/// The last of its name, as the reader takes it.
fn property(object: &CstObject, key: &str) -> Option<jsonc_parser::cst::CstObjectProp> {
    let named = |p: &jsonc_parser::cst::CstObjectProp| {
        p.name()
            .and_then(|n| n.decoded_value().ok())
            .is_some_and(|name| name == key)
    };
    object.properties().into_iter().rev().find(named)
}

fn element(array: &CstArray, key: &str) -> Option<CstNode> {
    array.elements().into_iter().nth(key.parse().ok()?)
}

fn step(at: &CstNode, key: &str) -> Option<CstNode> {
    match at.as_object() {
        Some(object) => property(&object, key)?.value(),
        None => element(&at.as_array()?, key),
    }
}

fn replace(element: &CstNode, value: &Value) -> Option<()> {
    element.as_object()?.replace_with(input(value)).map(drop)
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(b) => CstInputValue::Bool(*b),
        Value::Number(n) => CstInputValue::Number(n.to_string()),
        Value::String(s) => CstInputValue::String(s.clone()),
        Value::Array(a) => CstInputValue::Array(a.iter().map(input).collect()),
        Value::Object(o) => CstInputValue::Object(o.iter().map(|(k, v)| (k.clone(), input(v))).collect()),
    }
}

fn toml(text: &str, by: &Replaced) -> Result<String, RewriteError> {
    let unread = |e: toml_edit::TomlError| RewriteError::Unread(e.message().to_owned());
    let mut document: DocumentMut = text.parse().map_err(unread)?;
    for (path, value) in by {
        let mut at = document.as_item_mut();
        for key in path {
            at = match at {
                Item::ArrayOfTables(tables) => {
                    let n: usize = key.parse().map_err(|_| gone(path))?;
                    let table = tables.get_mut(n).ok_or_else(|| gone(path))?;
                    // A list of tables ends a path.
                    fill(table, value);
                    break;
                }
                other => other.get_mut(key.as_str()).ok_or_else(|| gone(path))?,
            };
        }
        match at {
            Item::Table(table) => fill(table, value),
            Item::ArrayOfTables(_) => {}
            other => *other = Item::Value(of_json(value).ok_or_else(|| gone(path))?),
        }
    }
    Ok(document.to_string())
}

/// What stood in it goes, its head and place stay.
fn fill(table: &mut Table, value: &Value) {
    table.clear();
    table.set_implicit(false);
    for (key, value) in value.as_object().into_iter().flatten() {
        if let Some(value) = of_json(value) {
            table.insert(key, Item::Value(value));
        }
    }
}

/// TOML has no null.
fn of_json(value: &Value) -> Option<toml_edit::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match n.as_i64() {
            Some(n) => n.into(),
            None => n.as_f64()?.into(),
        },
        Value::String(s) => s.into(),
        Value::Array(a) => toml_edit::Value::Array(a.iter().filter_map(of_json).collect()),
        Value::Object(o) => toml_edit::Value::InlineTable(
            o.iter()
                .filter_map(|(k, v)| Some((k.as_str(), of_json(v)?)))
                .collect::<InlineTable>(),
        ),
    })
}

/// An object of objects of objects as TOML: a table for each of the inner ones, what is in those in a line.
pub(crate) fn toml_text(whole: &Value) -> String {
    let mut document = DocumentMut::new();
    for (section, servers) in whole.as_object().into_iter().flatten() {
        let mut outer = Table::new();
        outer.set_implicit(true);
        for (name, server) in servers.as_object().into_iter().flatten() {
            let mut table = Table::new();
            fill(&mut table, server);
            outer.insert(name, Item::Table(table));
        }
        document.insert(section, Item::Table(outer));
    }
    document.to_string()
}
