//! The manifest.json of a bundle for a laptop's client (MCPB, before that DXT): what it starts, and what it asks its user for.

use std::collections::BTreeMap;

use super::{
    Entry, Format, Import, Launch, Refused,
    text::{Question, Text},
};
use crate::{
    clients::{Object, Read as Value, Reader, Source},
    strict_toml::Problems,
};

fn start(top: &Object) -> Option<&Object> {
    top.object("server")?.object("mcp_config")
}

pub(super) fn is_bundle(source: &Source) -> bool {
    source.top().is_some_and(|top| {
        start(top).is_some() && (top.has("manifest_version") || top.has("dxt_version") || top.has("user_config"))
    })
}

/// Reads a bundle's manifest.
///
/// # Errors
/// Every problem with its line.
pub(super) fn read_bundle(source: &Source) -> Result<Import, Problems> {
    let mut r = Reader::new(source);
    let mut import = Import {
        format: Format::Bundle,
        entries: Vec::new(),
        questions: BTreeMap::new(),
        client: None,
    };
    let Some((top, config)) = source.top().and_then(|top| Some((top, start(top)?))) else {
        return r.finish(import);
    };
    let mut entry = Entry::named(top.string("name").unwrap_or("server"), config.line);
    let program = config.string("command").unwrap_or_default().to_owned();
    let args = config.get("args").map(|p| r.strings(p)).unwrap_or_default();
    let own = |text: &String| text.contains("${__dirname}");
    if program.is_empty() || own(&program) || args.iter().any(own) {
        entry.refused.push(Refused {
            what: "a bundle".into(),
            why: "it starts files that are in the bundle; import the server as the npm or PyPI package that it is made of, or build an image of it".into(),
        });
    } else {
        entry.launch = Launch::Command { program, args };
    }
    for property in config.object("env").iter().flat_map(|env| &env.properties) {
        if let Some(value) = r.string(property) {
            entry.env.insert(property.name.clone(), Text::parse(&value));
        }
    }
    for property in top.object("user_config").iter().flat_map(|asked| &asked.properties) {
        let Value::Object(asked) = &property.value else {
            continue;
        };
        let label = asked.string("title").or(asked.string("description"));
        let question = Question {
            label: label.unwrap_or(&property.name).to_owned(),
            password: asked.is_true("sensitive"),
            default: asked.get("default").and_then(|p| match &p.value {
                Value::Array(_) | Value::Object(_) => None,
                _ => r.string(p),
            }),
            optional: !asked.is_true("required"),
        };
        import.questions.insert(property.name.clone(), question);
    }
    import.entries.push(entry);
    r.finish(import)
}
