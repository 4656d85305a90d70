//! Which values are secrets: by the name of their variable, or by what they look like. It errs towards secret: the
//! only cost is a row of dots in a plan.

use std::collections::BTreeMap;

use super::text::{Question, Text};

/// Words that name a secret, as whole words of a variable's name.
const WORDS: [&str; 19] = [
    "token",
    "secret",
    "password",
    "passwd",
    "pass",
    "pwd",
    "key",
    "apikey",
    "auth",
    "authorization",
    "credential",
    "credentials",
    "pat",
    "dsn",
    "bearer",
    "cookie",
    "private",
    "jwt",
    "passphrase",
];

/// How the secrets of well-known services begin.
const PREFIXES: [&str; 38] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "sk-",
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "ntn_",
    "secret_",
    "AKIA",
    "AIza",
    "eyJ",
    "npm_",
    "brt_",
    "Bearer ",
    "ASIA",
    "ya29.",
    "tvly-",
    "sbp_",
    "fc-",
    "hf_",
    "gsk_",
    "pplx-",
    "xai-",
    "lin_api_",
    "dop_v1_",
    "sntrys_",
    "figd_",
    "pypi-",
    "whsec_",
    "-----BEGIN ",
];

/// Whether the variable `key` with this value is a secret.
pub fn is_secret(key: &str, value: &Text, questions: &BTreeMap<String, Question>) -> bool {
    named_so(key) || value.variables().any(named_so) || looks_so(value, questions)
}

/// Whether an argument holds one; `before` is the argument before it (`--api-key VALUE`).
pub(super) fn in_argument(before: Option<&Text>, arg: &Text, questions: &BTreeMap<String, Question>) -> bool {
    let head = arg.head();
    if let Some((flag, value)) = head.split_once('=')
        && flag.starts_with('-')
    {
        let filled = !value.is_empty() || arg.as_literal().is_none();
        return filled && (named_so(flag) || looks_so(arg, questions) || looks_like_one(value));
    }
    if head.starts_with('-') {
        return false;
    }
    let named = before
        .and_then(Text::as_literal)
        .is_some_and(|flag| flag.starts_with('-') && !flag.contains('=') && named_so(flag));
    named || looks_so(arg, questions)
}

/// By words: `api_key`, `--api-key`, `apiKey`, `APIKEY`.
fn named_so(name: &str) -> bool {
    let mut words = String::new();
    let mut before = ' ';
    for c in name.chars() {
        if c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit()) {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
        before = c;
    }
    words.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| {
        WORDS.contains(&word)
            || ["token", "apikey", "secret", "password"]
                .iter()
                .any(|w| word.ends_with(w))
    })
}

fn looks_so(value: &Text, questions: &BTreeMap<String, Question>) -> bool {
    value.inputs().any(|id| questions.get(id).is_none_or(|q| q.password))
        || value.variables().any(named_so)
        || value.as_literal().is_some_and(looks_like_one)
        || looks_like_one(value.head())
}

fn looks_like_one(value: &str) -> bool {
    let begins = |piece: &str| {
        PREFIXES
            .iter()
            .any(|p| piece.starts_with(p) && piece.len() > p.len() + 3)
    };
    let mut pieces = value.split(|c: char| c.is_whitespace() || "\"'{}[](),;&=:".contains(c));
    begins(value) || pieces.any(begins) || password_in_url(value) || has_named_pair(value)
}

/// JSON and connection strings: `"apiKey": "…"`, `Password=…;`. What stands there for a variable is none.
fn has_named_pair(value: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    value.match_indices([':', '=']).any(|(at, sign)| {
        let before = value[..at].trim_end_matches(['"', '\'', ' ']);
        let name = before.rsplit(|c: char| !word(c)).next().unwrap_or_default();
        let after = &value[at + 1..];
        let pair = sign == "=" || before.len() < at || after.starts_with(' ');
        let filled = after
            .trim_start_matches(['"', '\'', ' '])
            .starts_with(|c: char| c.is_alphanumeric());
        pair && filled && named_so(name)
    })
}

/// `scheme://user:password@host`
fn password_in_url(value: &str) -> bool {
    value
        .split_once("://")
        .and_then(|(_, rest)| rest.split(['/', '?', '#']).next())
        .and_then(|authority| authority.rsplit_once('@'))
        .and_then(|(user, _)| user.split_once(':'))
        .is_some_and(|(_, password)| !password.is_empty())
}

/// Headers that say how, and never who.
const PLAIN_HEADERS: [&str; 6] = [
    "accept",
    "accept-language",
    "content-type",
    "user-agent",
    "cache-control",
    "origin",
];

/// Whether a header's value is to be sealed and not shown: every one that is not known to be none.
pub fn header_is_secret(name: &str) -> bool {
    !PLAIN_HEADERS.contains(&name.to_ascii_lowercase().as_str())
}

/// An address for the plan: what its query says, and a user with a password, as dots.
pub fn shown_url(url: &Text) -> String {
    let text = url.shown(false);
    let (address, query) = match text.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (text.as_str(), None),
    };
    let mut out = match address.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = match authority.rsplit_once('@') {
                Some((_, host)) => format!("••••@{host}"),
                None => authority.to_owned(),
            };
            let part = |p: &str| {
                if looks_like_one(p) {
                    "••••".to_owned()
                } else {
                    p.to_owned()
                }
            };
            let path: Vec<String> = path.split('/').map(part).collect();
            format!("{scheme}://{host}{}", path.join("/"))
        }
        None => address.to_owned(),
    };
    for (n, pair) in query.into_iter().flat_map(|q| q.split('&')).enumerate() {
        out.push(if n == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            // A placeholder says only what it is called.
            Some((key, value)) if value.starts_with("${") && value.ends_with('}') => out += &format!("{key}={value}"),
            Some((key, _)) => out += &format!("{key}=••••"),
            None => out += pair,
        }
    }
    out
}

/// Whether a value only stands for one that its owner has: a reference of a password manager, a command of a shell, a
/// place to fill in.
pub(super) fn stands_for_one(value: &str) -> bool {
    let value = value.strip_prefix("Bearer ").unwrap_or(value).trim();
    let lower = value.to_ascii_lowercase();
    let inner = lower
        .strip_prefix('<')
        .and_then(|v| v.strip_suffix('>'))
        .is_some_and(|v| !v.is_empty() && !v.contains(['<', '>', '=']));
    let marked = [
        "your-", "your_", "<your", "enter-", "enter_", "insert-", "insert_", "replace-", "replace_", "paste-",
    ]
    .iter()
    .any(|p| lower.starts_with(p));
    let names_one = ["key", "token", "secret", "password", "here", "id", "me"]
        .iter()
        .any(|w| {
            lower
                .split(|c: char| !c.is_ascii_alphanumeric())
                .any(|word| word == *w || (*w == "key" && word == "apikey"))
        });
    value.starts_with("op://")
        || value.starts_with("vault://")
        || value.starts_with("$(")
        || value.starts_with('`') && value.ends_with('`') && value.len() > 1
        || inner
        || marked && names_one
        || ["changeme", "xxx", "xxxx", "xxxxx", "...", "todo", "placeholder"].contains(&lower.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_name_and_by_look() {
        let none = BTreeMap::new();
        let is = |key: &str, value: &str| is_secret(key, &Text::parse(value), &none);
        for (key, value) in [
            ("apiKey", "x"),
            ("accessToken", "x"),
            ("DB_PASSWORD", "x"),
            ("clientSecret", "x"),
            ("X", "tvly-abcdefgh"),
            ("CONFIG", r#"{"a": 1, "apiKey": "abc"}"#),
            ("CONN", "Server=db;User=u;Password=hunter2;"),
            ("X", "postgres://u:p@h/d"),
            ("X", "Authorization: Bearer abcdef"),
        ] {
            assert!(is(key, value), "{key}={value}");
        }
        for (key, value) in [
            ("MONKEY", "x"),
            ("LOG_LEVEL", "debug"),
            ("URL", "https://a.example/mcp"),
            ("CONFIG", r#"{"region": "eu", "sort": "asc"}"#),
            ("X", ""),
        ] {
            assert!(!is(key, value), "{key}={value}");
        }
    }

    #[test]
    fn addresses_are_shown_without_what_opens_them() {
        let shown = |url: &str| shown_url(&Text::parse(url));
        assert_eq!(shown("https://a.example/mcp"), "https://a.example/mcp");
        assert_eq!(
            shown("https://a/mcp?api_key=canary&x=1"),
            "https://a/mcp?api_key=••••&x=••••"
        );
        assert_eq!(shown("https://a/mcp?k=${KEY}&flag"), "https://a/mcp?k=${KEY}&flag");
        assert_eq!(shown("https://u:canary@a:8/mcp"), "https://••••@a:8/mcp");
        assert_eq!(shown("https://a/sk-canarycanary/mcp"), "https://a/••••/mcp");
    }

    #[test]
    fn what_stands_for_a_secret_is_none() {
        for value in [
            "<your-key-here>",
            "YOUR_API_KEY",
            "op://vault/item/field",
            "$(pass show x)",
            "Bearer <token>",
            "changeme",
        ] {
            assert!(stands_for_one(value), "{value}");
        }
        for value in [
            "",
            "sk-abc",
            "<a href=x>",
            "your friend",
            "xxl",
            "https://your-company.example",
        ] {
            assert!(!stands_for_one(value), "{value}");
        }
    }
}
