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
const PREFIXES: [&str; 22] = [
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

fn named_so(name: &str) -> bool {
    name.to_ascii_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| WORDS.contains(&word) || word.ends_with("token") || word.ends_with("apikey"))
}

fn looks_so(value: &Text, questions: &BTreeMap<String, Question>) -> bool {
    value.inputs().any(|id| questions.get(id).is_none_or(|q| q.password))
        || value.variables().any(named_so)
        || value.as_literal().is_some_and(looks_like_one)
        || looks_like_one(value.head())
}

fn looks_like_one(value: &str) -> bool {
    PREFIXES
        .iter()
        .any(|p| value.starts_with(p) && value.len() > p.len() + 3)
        || password_in_url(value)
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
