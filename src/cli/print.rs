//! How verbs print: JSON as the admin API gave it, or aligned columns and plain lines for people.

use anyhow::Result;
use serde::Serialize;

use crate::{escape, model::InstanceView, output};

pub(super) fn out(s: &str) -> Result<()> {
    Ok(output::out(s)?)
}

/// A line on standard error, as every error and warning of a verb is told.
pub(super) fn problem(said: &dyn std::fmt::Display) {
    output::error_line(&format!("berth: {said}"));
}

pub(super) fn json(value: &impl Serialize) -> Result<()> {
    Ok(output::json(&format!("{}\n", serde_json::to_string_pretty(value)?))?)
}

/// That something was removed.
pub(super) fn removed(what: &str, as_json: bool) -> Result<()> {
    match as_json {
        true => json(&serde_json::json!({ "removed": what })),
        false => out(&format!("{what}: removed\n")),
    }
}

/// Aligned columns below their headings.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    // A cell that holds a newline must not look like a row.
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|r| r.iter().map(|c| escape::line(c).into_owned()).collect())
        .collect();
    let width = |i: usize| {
        rows.iter()
            .map(|r| r[i].chars().count())
            .chain([head[i].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in &rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    out(&text)
}

/// `key  value` lines.
pub(super) fn fields(pairs: &[(&str, String)]) -> Result<()> {
    let width = pairs.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in pairs {
        let mut lines = value.lines();
        text += &format!("{key:<width$}  {}\n", lines.next().unwrap_or_default());
        for more in lines {
            text += &format!("{:<width$}  {more}\n", "");
        }
    }
    out(&text)
}

pub(super) fn instance(v: &InstanceView) -> Result<()> {
    let mut pairs = vec![
        ("id", v.id.to_string()),
        ("name", v.name.to_string()),
        ("type", v.type_name.to_string()),
        ("workspace", v.workspace.to_string()),
        ("size", v.size.to_string()),
        ("state", v.state.to_string()),
        ("health", v.health.to_string()),
        ("image", v.image.clone()),
        ("created", short(v.created_at)),
        ("restarts", v.restarts.to_string()),
        ("address", v.endpoints.mcp.url.clone()),
        ("by path", v.endpoints.mcp.path_url.clone()),
    ];
    if v.oom_kills > 0 {
        let what = format!(
            "{} processes by the kernel, the container's memory was used up: run it with a larger --size",
            v.oom_kills
        );
        pairs.push(("killed", what));
    }
    if let Some(p) = &v.package {
        pairs.push(("runs", format!("{} {}", p.kind, p.wanted)));
        if let Some(version) = &p.version {
            pairs.push((
                "version",
                format!("{version}{}", if p.pinned { "   (pinned)" } else { "" }),
            ));
        }
        if let Some(lock) = &p.lock {
            pairs.push(("lock", format!("SHA-256 {lock}")));
        }
        if let Some(of) = &p.trial_of {
            pairs.push(("trial of", of.to_string()));
        }
        if !p.tree.is_empty() {
            pairs.push(("installed", p.tree.join("\n")));
        }
    }
    if let Some(reason) = &v.reason {
        pairs.push(("reason", reason.clone()));
    }
    if let Some(token) = &v.token {
        pairs.push(("token", format!("{}   (shown only once)", token.expose())));
    }
    fields(&pairs)
}

pub(super) fn instances(views: &[InstanceView]) -> Result<()> {
    if views.is_empty() {
        return out("no instances; `berth run TYPE` makes one, `berth types` lists the types\n");
    }
    let rows: Vec<Vec<String>> = views
        .iter()
        .map(|v| {
            vec![
                v.id.to_string(),
                v.name.to_string(),
                v.type_name.to_string(),
                v.workspace.to_string(),
                v.size.to_string(),
                v.state.to_string(),
                v.health.to_string(),
                v.endpoints.mcp.url.clone(),
            ]
        })
        .collect();
    table(
        &["ID", "NAME", "TYPE", "WORKSPACE", "SIZE", "STATE", "HEALTH", "ADDRESS"],
        &rows,
    )
}

/// A time to the second, in UTC.
pub(super) fn short(t: jiff::Timestamp) -> String {
    t.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
