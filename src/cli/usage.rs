//! `berth usage`: what was used, for people, as JSON and as CSV.

use anyhow::{Result, anyhow};
use jiff::civil::Date;

use super::{audit::cell, print, verbs::Verbs};
use crate::{
    api::Route,
    model::{UsageBy, UsageRow, date},
    output,
};

/// `berth usage`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct UsageArgs {
    /// From this day on (UTC) [default: all that is kept, 400 days]
    #[arg(long, value_name = "DATE", value_parser = day)]
    since: Option<Date>,
    /// Up to this day
    #[arg(long, value_name = "DATE", value_parser = day)]
    until: Option<Date>,
    /// Sum up by this
    #[arg(long, value_name = "WHAT", default_value = "instance", value_parser = clap::builder::PossibleValuesParser::new(UsageBy::WORDS))]
    by: String,
    /// Print CSV (RFC 4180)
    #[arg(long)]
    csv: bool,
}

fn day(text: &str) -> Result<Date> {
    date(text).ok_or_else(|| anyhow!("write a date such as 2027-01-31"))
}

const COLUMNS: [&str; 10] = [
    "day",
    "workspace",
    "instance",
    "member",
    "calls",
    "errors",
    "bytes_in",
    "bytes_out",
    "cpu_seconds",
    "memory_gib_hours",
];
/// So many of them are names.
const NAMES: usize = 4;

impl Verbs {
    pub(super) async fn usage(&self, args: UsageArgs) -> Result<()> {
        let days = [("since", args.since), ("until", args.until)];
        let days = days
            .into_iter()
            .filter_map(|(name, day)| Some(format!("&{name}={}", day?)));
        let path = format!("{}?by={}{}", Route::Usage.path(), args.by, days.collect::<String>());
        let rows: Vec<UsageRow> = self.supervisor.get(&path).await?;
        if args.csv {
            let mut text = COLUMNS.join(",") + "\r\n";
            for row in &rows {
                text += &(cells(row).map(|c| cell(&c)).join(",") + "\r\n");
            }
            return Ok(output::json(&text)?);
        }
        if self.json {
            return print::json(&rows);
        }
        // Names that the sums are over have nothing to say.
        let cells: Vec<_> = rows.iter().map(cells).collect();
        let said = |n: &usize| *n >= NAMES || cells.iter().any(|row| !row[*n].is_empty());
        let shown: Vec<usize> = (0..COLUMNS.len()).filter(said).collect();
        let heads: Vec<String> = shown
            .iter()
            .map(|n| COLUMNS[*n].replace('_', " ").to_uppercase())
            .collect();
        let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
        let row = |row: &[String; COLUMNS.len()]| shown.iter().map(|n| row[*n].clone()).collect();
        print::table(&heads, &cells.iter().map(row).collect::<Vec<Vec<String>>>())
    }
}

fn cells(row: &UsageRow) -> [String; COLUMNS.len()] {
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    [
        row.day.map(|d| d.to_string()).unwrap_or_default(),
        text(&row.workspace),
        text(&row.instance),
        text(&row.member),
        row.calls.to_string(),
        row.errors.to_string(),
        row.bytes_in.to_string(),
        row.bytes_out.to_string(),
        format!("{:.3}", row.cpu_seconds),
        format!("{:.4}", row.memory_gib_hours),
    ]
}
