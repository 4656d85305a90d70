//! The arguments of `berth events`.

use clap::builder::PossibleValuesParser;

use crate::api::EventKind;

/// `berth events`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct EventsArgs {
    /// Print only changes of this kind; several with commas between
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = PossibleValuesParser::new(EventKind::WORDS))]
    pub(in crate::cli) kind: Vec<String>,
    /// Print only changes of this instance, and of what belongs to it
    #[arg(long, value_name = "ID")]
    pub(in crate::cli) instance: Option<String>,
}
