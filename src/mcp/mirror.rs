//! Arguments of tools that stand in headers as well, `Mcp-Param-*` (MCP 2026-07-28, basic/transports/streamable-http,
//! "Custom Headers from Tool Parameters"): which they are is learned from the tools' schemas.
//!
//! Remembers a bounded number of tools; of one that it does not know it says nothing.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::head;

/// Tools remembered at most.
const MAX_TOOLS: usize = 1024;
/// Headers of one tool; of one that asks for more, those that come first.
const MAX_HEADERS: usize = 32;
/// Bytes of names and paths, of all tools.
const MAX_BYTES: usize = 256 * 1024;
/// How deep an annotation may stand.
const MAX_DEPTH: usize = 8;

/// A header that says something else than the argument which it mirrors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} does not match the body")]
pub struct Mismatch(pub String);

/// What is known of tools whose arguments are mirrored into headers (`x-mcp-header`): header, and path in the arguments.
#[derive(Debug, Default)]
pub struct Mirrored {
    tools: HashMap<String, Vec<(String, Vec<String>)>>,
    /// What they take.
    bytes: usize,
}

impl Mirrored {
    /// Forgets everything: the tools have changed.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether no tool is known that has any.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Learns from the result of `tools/list`.
    pub fn learn(&mut self, result: &str) {
        if memchr::memmem::find(result.as_bytes(), b"x-mcp-header").is_none() {
            return;
        }
        let Ok(value) = serde_json::from_str::<Value>(result) else {
            return;
        };
        for tool in value["tools"].as_array().into_iter().flatten() {
            let mut found = Vec::new();
            annotated(&tool["inputSchema"], &mut Vec::new(), &mut found);
            let Some(name) = tool["name"].as_str().filter(|_| !found.is_empty()) else {
                continue;
            };
            let paths = found
                .iter()
                .map(|(header, path)| header.len() + path.iter().map(String::len).sum::<usize>());
            let bytes = name.len() + paths.sum::<usize>();
            if self.tools.len() < MAX_TOOLS && self.bytes + bytes <= MAX_BYTES {
                self.bytes += bytes;
                self.tools.insert(name.to_owned(), found);
            }
        }
    }

    /// Holds headers against the arguments (raw) of a tool's call.
    ///
    /// # Errors
    /// The header that does not match.
    pub fn check(&self, headers: &HeaderMap, tool: &str, arguments: &str) -> Result<(), Mismatch> {
        for (header, value) in self.values(tool, arguments) {
            let fits = match (head::text(headers, header), value) {
                (None, None) => true,
                (Some(said), Some(value)) => head::matches(said, &value),
                _ => false,
            };
            if !fits {
                return Err(Mismatch(header.to_owned()));
            }
        }
        Ok(())
    }

    /// Adds the headers that mirror arguments (raw) of a tool's call.
    pub fn put(&self, headers: &mut HeaderMap, tool: &str, arguments: &str) {
        for (header, value) in self.values(tool, arguments) {
            let text = match value {
                Some(Value::String(text)) => text,
                Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
                _ => continue,
            };
            let name = HeaderName::try_from(header);
            let value = HeaderValue::try_from(head::encode(&text));
            if let (Ok(name), Ok(value)) = (name, value) {
                // A map that is full has what a server could want.
                let _ = headers.try_insert(name, value);
            }
        }
    }

    /// The headers of a tool and what the arguments say there; `None` where they say nothing.
    fn values(&self, tool: &str, arguments: &str) -> impl Iterator<Item = (&str, Option<Value>)> {
        let list = self.tools.get(tool).map_or(&[][..], Vec::as_slice);
        let arguments: Value = if list.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(arguments).unwrap_or_default()
        };
        list.iter().map(move |(header, path)| {
            let value = path.iter().try_fold(&arguments, |v, key| v.get(key));
            (header.as_str(), value.filter(|v| !v.is_null()).cloned())
        })
    }
}

fn annotated(schema: &Value, path: &mut Vec<String>, found: &mut Vec<(String, Vec<String>)>) {
    if path.len() >= MAX_DEPTH {
        return;
    }
    for (key, sub) in schema["properties"].as_object().into_iter().flatten() {
        if found.len() >= MAX_HEADERS {
            return;
        }
        path.push(key.clone());
        if let Some(name) = sub["x-mcp-header"].as_str()
            && matches!(sub["type"].as_str(), Some("string" | "integer" | "boolean"))
        {
            found.push((format!("mcp-param-{}", name.to_ascii_lowercase()), path.clone()));
        }
        annotated(sub, path, found);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_into_headers_is_what_is_looked_for_there() {
        let mut tools = Mirrored::default();
        let schema = serde_json::json!({"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "free": {"type": "string"}}});
        tools.learn(&serde_json::json!({"tools": [{"name": "t", "inputSchema": schema}]}).to_string());
        for arguments in [
            r#"{"region": "eu", "deep": {"n": 7}, "free": "x"}"#,
            r#"{"region": " süd\n", "deep": {}}"#,
            r#"{"region": "=?base64?x?="}"#,
            "{}",
        ] {
            let mut headers = HeaderMap::new();
            tools.put(&mut headers, "t", arguments);
            assert_eq!(
                tools.check(&headers, "t", arguments),
                Ok(()),
                "{arguments}: {headers:?}"
            );
            assert!(headers.len() <= 2 && !headers.contains_key("mcp-param-free"));
        }
        let mut headers = HeaderMap::new();
        tools.put(&mut headers, "other", r#"{"region": "eu"}"#);
        assert!(headers.is_empty());
        assert!(tools.check(&headers, "t", r#"{"region": "eu"}"#).is_err());
    }
}
