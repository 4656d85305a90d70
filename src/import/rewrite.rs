//! Writes a client's configuration back with some of its servers pointing at Berth. Everything else stays as it
//! was: comments, order, spaces, servers that were not brought over.

use std::collections::BTreeMap;

use jsonc_parser::cst::{CstInputValue, CstRootNode};
use serde_json::Value;

use super::source::options;

/// Replaces the servers by their places ([`super::Entry::path`]): two projects may each have one of the same name.
///
/// # Errors
/// The parser's words, for a text that is not JSON or not an object; a place that it does not have.
pub fn rewrite(text: &str, by: &BTreeMap<Vec<String>, Value>) -> Result<String, String> {
    let bom = text.starts_with('\u{feff}');
    let root = CstRootNode::parse(text.trim_start_matches('\u{feff}'), &options()).map_err(|e| e.to_string())?;
    for (path, value) in by {
        let gone = || format!("{} is not in it any more", path.join(" > "));
        let (name, above) = path.split_last().ok_or_else(gone)?;
        let mut at = root.object_value().ok_or("the top level is not an object")?;
        for key in above {
            at = at.object_value(key).ok_or_else(gone)?;
        }
        at.get(name).ok_or_else(gone)?.set_value(input(value));
    }
    let written = root.to_string();
    Ok(if bom { format!("\u{feff}{written}") } else { written })
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
