//! F4: the verbs. Speaks to the supervisor over its admin socket, or to a box elsewhere over HTTPS; the only place that
//! prints to stdout.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage.

mod args;
mod client;
mod connect;
mod context;
mod credential;
mod doctor;
mod environment;
mod key;
mod login;
mod print;
mod prompt;
mod remote;
mod resolve;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

/// Parses the command line and runs what it asks for.
pub fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            // clap's own: 0 for --help and --version, 2 for wrong usage.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    match args.verb {
        args::Verb::Agent => crate::agent::main(),
        args::Verb::Serve { config } => crate::supervise::main(config.as_deref()),
        verb => verbs::run(args.place, args.json, verb),
    }
}
