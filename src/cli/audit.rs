//! `berth audit`: rows for people, as JSON Lines or as CSV, and whether they are as they were written.

use std::process::ExitCode;

use anyhow::{Result, anyhow};

use super::{
    args::audit::{AuditArgs, AuditVerb, Columns, fits},
    print,
    run::Lines,
    time,
    verbs::Verbs,
};
use crate::{
    api::{Route, escaped},
    escape,
    model::{AuditRow, AuditVerified},
    output,
};

impl Verbs {
    pub(super) async fn audit(&self, args: AuditArgs) -> Result<ExitCode> {
        if let Some(AuditVerb::Verify { head }) = args.what {
            return self.verify_audit(head.as_deref()).await;
        }
        let path = format!("{}?{}", Route::Audit.path(), query(&args)?);
        let how = match (args.csv, self.json) {
            (true, _) => How::Csv,
            (false, true) => How::Json,
            (false, false) => How::People,
        };
        how.head()?;
        let mut lines = Lines::default();
        let print = |line: &[u8]| how.row(line);
        self.supervisor.stream(&path, |piece| lines.next(piece, print)).await?;
        lines.end(print)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn verify_audit(&self, head: Option<&str>) -> Result<ExitCode> {
        let verified: AuditVerified = self.supervisor.get(Route::AuditVerify.path()).await?;
        let noted = match head {
            Some(noted) => Some(self.as_noted(noted).await?),
            None => None,
        };
        if self.json {
            print::json(&verified)?;
        } else if let Some(fault) = &verified.fault {
            print::problem(fault);
        } else {
            let AuditVerified { rows, first, head, .. } = &verified;
            print::out(&format!(
                "{rows} rows are as they were written, from row {first} on; the newest is {}:{}\n",
                head.seq, head.hash
            ))?;
        }
        if let Some(false) = noted {
            print::problem(&"the row that was noted down is another one, or is not kept any more");
        }
        Ok(match verified.fault.is_none() && noted != Some(false) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    /// Whether the row of a number has the hash that was noted down.
    async fn as_noted(&self, noted: &str) -> Result<bool> {
        let bad = || anyhow!("--head {noted:?}: write SEQ:HASH as `berth status` shows it");
        let (seq, hash) = noted.split_once(':').ok_or_else(bad)?;
        let seq: u64 = seq.parse().map_err(|_| bad())?;
        let before = seq.checked_sub(1).ok_or_else(bad)?;
        let path = format!("{}?after={before}&limit=1", Route::Audit.path());
        let text = self.supervisor.text(&path).await?;
        let row = text
            .lines()
            .next()
            .map(serde_json::from_str::<AuditRow<'_>>)
            .transpose()?;
        Ok(row.is_some_and(|r| r.seq == Some(seq) && r.hash.as_deref() == Some(hash)))
    }
}

fn query(args: &AuditArgs) -> Result<String> {
    let mut parts = Vec::new();
    let given: &Columns = &args.columns;
    for (name, value) in given.given() {
        fits(name, value)?;
        parts.push(format!("{name}={}", escaped(value)));
    }
    for (name, text) in [("since", &args.since), ("until", &args.until)] {
        if let Some(text) = text {
            parts.push(format!("{name}={}", escaped(&moment(name, text)?.to_string())));
        }
    }
    if let Some(n) = args.tail {
        parts.push(format!("tail={n}"));
    } else if args.all {
        parts.push("after=0".to_owned());
    }
    if args.follow {
        parts.push("follow=1".to_owned());
    }
    Ok(parts.join("&"))
}

/// A moment in the past.
fn moment(option: &str, text: &str) -> Result<jiff::Timestamp> {
    match time::seconds(text) {
        Some(ago) => Ok(jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(ago))?),
        None => time::moment_of(option, text),
    }
}

#[derive(Clone, Copy)]
enum How {
    People,
    Json,
    Csv,
}

/// The columns of CSV, in their order.
fn columns() -> impl Iterator<Item = &'static str> {
    ["seq", "time"]
        .into_iter()
        .chain(AuditRow::COLUMNS.iter().copied())
        .chain(["changes", "hash"])
}

impl How {
    fn head(self) -> Result<()> {
        match self {
            How::Csv => Ok(output::json(&format!(
                "{}\r\n",
                columns().collect::<Vec<_>>().join(",")
            ))?),
            How::People | How::Json => Ok(()),
        }
    }

    fn row(self, line: &[u8]) -> std::io::Result<()> {
        let text = String::from_utf8_lossy(line);
        if matches!(self, How::Json) {
            return output::json(&format!("{text}\n"));
        }
        let Ok(row) = serde_json::from_str::<AuditRow<'_>>(&text) else {
            return output::out(&format!("{}\n", escape::line(&text)));
        };
        match self {
            How::Csv => output::json(&csv(&row)),
            _ => output::out(&format!("{}\n", escape::line(&people(&row)))),
        }
    }
}

fn csv(row: &AuditRow<'_>) -> String {
    let cells = columns().map(|name| match name {
        "seq" => row.seq.map(|n| n.to_string()).unwrap_or_default(),
        "time" => row.time.to_string(),
        "hash" => row.hash.clone().unwrap_or_default(),
        "changes" if row.changes.is_empty() => String::new(),
        "changes" => serde_json::to_string(&row.changes).unwrap_or_default(),
        name => row.column(name).unwrap_or_default().into_owned(),
    });
    let cells: Vec<String> = cells.map(|c| cell(&c)).collect();
    cells.join(",") + "\r\n"
}

/// A field of CSV. What a spreadsheet would take for a formula it gets as text.
pub(super) fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = format!("{}{text}", if formula { "'" } else { "" });
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

/// A row in one line.
fn people(row: &AuditRow<'_>) -> String {
    let text = |column: &Option<std::borrow::Cow<'_, str>>| column.as_deref().unwrap_or_default().to_owned();
    let who = row.member.as_deref().or(row.by.as_deref()).unwrap_or("-");
    let what = match (&row.method, &row.tool, &row.action) {
        (Some(method), Some(tool), _) => format!("{method} {tool}"),
        (Some(method), None, _) => method.to_string(),
        (None, _, Some(action)) => action.to_string(),
        (None, _, None) => row.kind.as_str().to_owned(),
    };
    let on = match (&row.on, &row.instance, &row.server) {
        (Some(on), _, _) => on.to_string(),
        (None, Some(id), Some(server)) => format!("{server} {id}"),
        (None, Some(id), None) => id.to_string(),
        (None, None, _) => "-".to_owned(),
    };
    let mut line = format!(
        "{}  {who:<12}  {what:<28}  {on:<28}  {:<10}",
        print::short(row.time),
        row.outcome.as_str()
    );
    let mut more = |name: &str, value: String| {
        if !value.is_empty() {
            line += &format!("  {name}{value}");
        }
    };
    more("", row.status.map(|s| s.to_string()).unwrap_or_default());
    more("", text(&row.code));
    if let Some(us) = row.latency_us {
        more("", format!("{}.{} ms", us / 1000, us % 1000 / 100));
    }
    more("from ", text(&row.address));
    more("by ", text(&row.client));
    more("", text(&row.note));
    for change in &row.changes {
        let field = change.field.as_ref().map(|f| format!(" {f}")).unwrap_or_default();
        let (from, to) = (
            change.from.as_deref().unwrap_or("-"),
            change.to.as_deref().unwrap_or("-"),
        );
        more("", format!("[{}{field}: {from} -> {to}]", change.of));
    }
    more(
        "and as many more: ",
        row.omitted.map(|n| n.to_string()).unwrap_or_default(),
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spreadsheet_gets_texts() {
        assert_eq!(cell("plain"), "plain");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("=cmd()"), "'=cmd()");
        assert_eq!(columns().count(), AuditRow::COLUMNS.len() + 4);
    }
}
