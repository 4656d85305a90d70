//! Flags of well-known packages whose value the package takes from a variable as well. A variable is sealed and is in no
//! list of processes, so the value goes there.

use std::collections::BTreeMap;

use super::{Package, Planned, text::Text};

/// A package, its flag, and the variable that it reads in place of it. Each as the package's own help says.
const FLAGS: [(&str, &str, &str); 9] = [
    ("npm:@sentry/mcp-server", "--access-token", "SENTRY_ACCESS_TOKEN"),
    (
        "npm:@supabase/mcp-server-supabase",
        "--access-token",
        "SUPABASE_ACCESS_TOKEN",
    ),
    ("npm:figma-developer-mcp", "--figma-api-key", "FIGMA_API_KEY"),
    ("npm:figma-developer-mcp", "--figma-oauth-token", "FIGMA_OAUTH_TOKEN"),
    ("npm:@upstash/context7-mcp", "--api-key", "CONTEXT7_API_KEY"),
    ("npm:@stripe/mcp", "--api-key", "STRIPE_SECRET_KEY"),
    (
        "npm:mongodb-mcp-server",
        "--connectionString",
        "MDB_MCP_CONNECTION_STRING",
    ),
    ("npm:mongodb-mcp-server", "--apiClientId", "MDB_MCP_API_CLIENT_ID"),
    (
        "npm:mongodb-mcp-server",
        "--apiClientSecret",
        "MDB_MCP_API_CLIENT_SECRET",
    ),
];

/// Turns such flags into variables. A variable that has another value already stays, and so does the flag: it is the one
/// that counts for the package.
pub(super) fn take(
    package: &mut Package,
    own: &BTreeMap<String, Text>,
    env: &mut BTreeMap<String, Text>,
    planned: &mut Planned,
) {
    let full = format!("{}:{}", package.registry.prefix(), package.name);
    let variable = |flag: &str| {
        FLAGS
            .iter()
            .find(|(p, f, _)| *p == full && *f == flag)
            .map(|(.., v)| *v)
    };
    let (mut kept, mut args) = (Vec::new(), std::mem::take(&mut package.args).into_iter().peekable());
    while let Some(arg) = args.next() {
        let (flag, joined) = match arg.split_flag() {
            Some((flag, value)) => (flag, Some(value)),
            None => (arg.as_literal().unwrap_or_default().to_owned(), None),
        };
        let value = joined.as_ref().or_else(|| args.peek()).map(|v| v.with(own));
        let (Some(key), Some(value)) = (variable(&flag), value) else {
            kept.push(arg);
            continue;
        };
        if env.get(key).is_some_and(|other| *other != value) {
            kept.push(arg);
            continue;
        }
        if joined.is_none() {
            args.next();
        }
        env.insert(key.to_owned(), value);
        planned.notes.push(format!(
            "{flag} is given as the variable {key}, which the package reads as well"
        ));
    }
    package.args = kept;
}
