//! Writes a client's configuration back with some of its servers pointing at Berth. Everything else stays as it
//! was: comments, order, spaces, servers that were not brought over.

use std::collections::BTreeMap;

use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};
use serde_json::Value;

use super::source::options;

/// Replaces the servers named in `by` wherever the text has them.
///
/// # Errors
/// The parser's words, for a text that is not JSON or not an object.
pub fn rewrite(text: &str, by: &BTreeMap<String, Value>) -> Result<String, String> {
    let bom = text.starts_with('\u{feff}');
    let root = CstRootNode::parse(text.trim_start_matches('\u{feff}'), &options()).map_err(|e| e.to_string())?;
    let object = root.object_value().ok_or("the top level is not an object")?;
    section(&object, by);
    if let Some(mcp) = object.object_value("mcp") {
        section(&mcp, by);
    }
    if let Some(projects) = object.object_value("projects") {
        for project in projects.properties() {
            if let Some(project) = project.object_value() {
                section(&project, by);
            }
        }
    }
    let written = root.to_string();
    Ok(if bom { format!("\u{feff}{written}") } else { written })
}

fn section(at: &CstObject, by: &BTreeMap<String, Value>) {
    for key in ["mcpServers", "servers", "context_servers"] {
        let Some(servers) = at.object_value(key) else { continue };
        for (name, value) in by {
            if let Some(server) = servers.get(name) {
                server.set_value(input(value));
            }
        }
    }
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
