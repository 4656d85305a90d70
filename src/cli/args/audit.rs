//! The arguments of `berth audit`.

use anyhow::bail;
use clap::Subcommand;

use crate::api::{Route, Value, escaped};

/// A column of the audit and the value that rows have in it.
macro_rules! columns {
    ($($(#[doc = $doc:literal])* $name:ident $option:literal $value:literal,)*) => {
        /// Which rows.
        #[derive(Debug, Default, clap::Args)]
        pub(in crate::cli) struct Columns {
            $($(#[doc = $doc])* #[arg(long = $option, value_name = $value)] $name: Option<String>,)*
        }

        impl Columns {
            /// Those that are given, with their values.
            pub(in crate::cli) fn given(&self) -> impl Iterator<Item = (&'static str, &String)> {
                let all = [$((stringify!($name), &self.$name),)*];
                all.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
            }
        }
    };
}

columns! {
    /// call, stream, act, refusal, sign-in, screen or box
    kind "kind" "KIND",
    /// ok, error, tool-error, refused, failed, cut, client-gone, broken or begun
    outcome "outcome" "OUTCOME",
    /// Asked by this member
    member "member" "NAME",
    /// Asked by this member, or by root, `instance ID`, nobody, …
    by "by" "WHO",
    /// Asked with this token
    token "token" "TOKEN-ID",
    /// Asked at this door: endpoint, api, socket, screen, …
    via "via" "DOOR",
    /// Asked from this address
    address "address" "IP",
    /// Asked by this client
    client "client" "NAME",
    /// About something in this workspace
    workspace "workspace" "NAME",
    /// Through this gateway
    gateway "gateway" "NAME",
    /// About this instance
    instance "instance" "ID",
    /// About an instance of this type
    server "server" "TYPE",
    /// About an instance of this version
    version "server-version" "VERSION",
    /// Calls of this method of MCP
    method "method" "METHOD",
    /// Calls of this tool, or of this prompt
    tool "tool" "NAME",
    /// This action, such as add-grant
    action "action" "ACTION",
    /// What was acted on, such as `workspace default`
    on "on" "WHAT",
    /// With this error code
    code "code" "CODE",
    /// With this HTTP status
    status "status" "STATUS",
    /// legacy or modern
    era "era" "ERA",
    /// Let in by this: owner, admin, member, `team WORKSPACE/NAME`, token
    grant "grant" "GRANT",
    /// With this trace id
    trace "trace" "ID",
}

/// `berth audit`
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(in crate::cli) struct AuditArgs {
    #[command(subcommand)]
    pub(in crate::cli) what: Option<AuditVerb>,
    #[command(flatten)]
    pub(in crate::cli) columns: Columns,
    /// From then on: a date, a time, or 2h, 30d ago
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) until: Option<String>,
    /// The last N rows [default: 100, where no time is given]
    #[arg(long, short = 'n', value_name = "N", conflicts_with = "all")]
    pub(in crate::cli) tail: Option<u32>,
    /// All rows that there are
    #[arg(long)]
    pub(in crate::cli) all: bool,
    /// Continue to print new rows
    #[arg(long, short)]
    pub(in crate::cli) follow: bool,
    /// Print CSV (RFC 4180) in place of lines for people; `--json` prints JSON Lines
    #[arg(long)]
    pub(in crate::cli) csv: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AuditVerb {
    /// Check that no row was changed, removed or moved since it was written
    Verify {
        /// Check as well that this row, noted down earlier, is the one with its number: SEQ:HASH as `berth status` shows it
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<String>,
    },
}

/// Whether the API takes a value for a column.
pub(in crate::cli) fn fits(name: &str, value: &str) -> anyhow::Result<()> {
    let known = Route::Audit.row().query.iter().find(|(n, _)| *n == name);
    match known {
        Some((_, form)) if !form.fits(&escaped(value)) => match form {
            Value::OneOf(words) => bail!("{name} {value:?}: write one of {}", words.join(", ")),
            Value::Text => bail!("{name} {value:?}: write 1 to 200 characters"),
            _ => bail!("{name} {value:?}: write a number"),
        },
        _ => Ok(()),
    }
}
