//! `[[credential]]` of a type file -> what is asked for, and whether a value has the form that it must have.

use regex_lite::Regex;

use super::check::{check_env_key, required};
use crate::{
    model::{Credential, CredentialKind},
    strict_toml::Section,
};

/// A type asks for so many at most.
const MAX: usize = 32;
/// Letters of a help text at most: it is shown in one breath.
const MAX_HELP: usize = 600;

/// Whether a value may stand for this credential.
pub fn fits(credential: &Credential, value: &str) -> bool {
    let formed = match &credential.pattern {
        None => true,
        // What cannot be told is refused; a pattern is checked when its type is read.
        Some(pattern) => anchored(pattern).is_ok_and(|p| p.is_match(value)),
    };
    formed && (!credential.required || !value.is_empty())
}

/// The pattern as it is used: the whole value has to match.
fn anchored(pattern: &str) -> Result<Regex, regex_lite::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

pub(super) fn read(root: &mut Section<'_>) -> Vec<Credential> {
    let mut out: Vec<Credential> = Vec::new();
    for mut s in root.sections("credential") {
        let key = s.string("key");
        match &key {
            None => s.missing("key", "key = \"API_KEY\", the variable that the server reads"),
            Some(k) if out.iter().any(|o| o.key == k.value) => {
                s.wrong(k, format!("credential.key: {} stands twice", k.value));
            }
            Some(k) => {
                if let Err(e) = check_env_key(&k.value) {
                    s.wrong(k, format!("credential.key: {e}"));
                }
            }
        }
        let label = required(&mut s, "label", "label = \"…\", what people call it");
        let kind = s.choice("kind", &CredentialKind::ALL);
        if kind.is_none() {
            s.missing(
                "kind",
                "kind = \"password\" (not shown while it is typed), \"text\" or \"file\"",
            );
        }
        let found = s.string("help");
        match &found {
            None => s.missing("help", "help = \"…\", where to get it"),
            Some(h) if h.value.trim().is_empty() => s.wrong(h, "credential.help is empty: say where to get it"),
            Some(h) if h.value.len() > MAX_HELP => {
                s.wrong(h, format!("credential.help: write {MAX_HELP} bytes at most"));
            }
            Some(_) => {}
        }
        let required = s.boolean("required").is_none_or(|r| r.value);
        let pattern = s.string("pattern");
        if let Some(p) = &pattern
            && let Err(e) = anchored(&p.value)
        {
            s.wrong(p, format!("credential.pattern: write a regular expression; {e}"));
        }
        s.finish();
        if let (Some(key), Some(label), Some(kind), Some(help)) = (key, label, kind, found) {
            out.push(Credential {
                key: key.value,
                label,
                kind: kind.value,
                help: help.value,
                required,
                pattern: pattern.map(|p| p.value),
            });
        }
    }
    if out.len() > MAX {
        root.wrong_here(format!("credential: {} stand here; {MAX} at most", out.len()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::parse;

    const GOOD: &str = r#"name = "demo"
title = "Demo"
description = "Shows."
[image]
reference = "berth/mcp-demo:1.0.0"
[mcp]
transport = "stdio"
command = ["node", "i.js"]
processes = "session"
[[credential]]
key = "API_KEY"
label = "Demo key"
kind = "password"
help = "Ask the demo's owner."
pattern = "dk_[a-z0-9]{4,}"
[[credential]]
key = "SITE"
label = "Site"
kind = "text"
help = "The site's name."
required = false
"#;

    #[test]
    fn credentials_are_read_and_values_are_matched_whole() {
        let t = parse("demo.toml", "demo", GOOD).expect("valid");
        let [key, site] = &t.credentials[..] else {
            panic!("{:?}", t.credentials)
        };
        assert!(key.required && !site.required);
        assert_eq!((key.kind, site.kind), (CredentialKind::Password, CredentialKind::Text));
        assert!(fits(key, "dk_abc123"));
        for wrong in ["", "dk_", "xdk_abc123", "dk_abc123\n", "dk_abc123x y"] {
            assert!(!fits(key, wrong), "{wrong:?}");
        }
        assert!(fits(site, "") && fits(site, "anything at all"));
    }

    #[test]
    fn mistakes_are_told_with_line_and_advice() {
        for (from, to, said) in [
            (
                "key = \"API_KEY\"",
                "key = \"API-KEY\"",
                "demo.toml:11: credential.key: \"API-KEY\" is not a variable name",
            ),
            ("key = \"API_KEY\"", "key = \"LD_PRELOAD\"", "kept back"),
            (
                "key = \"SITE\"",
                "key = \"API_KEY\"",
                "demo.toml:17: credential.key: API_KEY stands twice",
            ),
            ("kind = \"text\"", "kind = \"secret\"", "one of \"text\", \"password\""),
            ("kind = \"text\"\n", "", "kind is missing in [credential]"),
            ("help = \"The site's name.\"\n", "", "where to get it"),
            (
                "dk_[a-z0-9]{4,}",
                "dk_[a-z",
                "demo.toml:15: credential.pattern: write a regular expression",
            ),
            ("required = false", "required = \"no\"", "true or false"),
            ("required = false", "requried = false", "did you mean required?"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let e = parse("demo.toml", "demo", &GOOD.replacen(from, to, 1));
            let e = e.expect_err(to).to_string();
            assert!(e.contains(said), "{to}: {said} not in:\n{e}");
        }
    }
}
