//! F4: the verbs. Speaks to the supervisor over its admin socket, or to a box elsewhere over HTTPS.
//!
//! Exit status: 0 done, 1 failed, 2 wrong usage.

mod appliance;
mod args;
mod audit;
mod client;
mod console;
mod context;
mod credential;
mod doctor;
#[cfg(test)]
mod documents_tests;
mod environment;
mod events;
mod hardening;
mod image;
mod import;
mod key;
mod login;
mod people;
mod print;
mod prompt;
mod remote;
mod run;
mod screen;
mod status;
mod time;
mod token;
mod upgrade;
mod usage;
mod verbs;
mod words;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::output;

/// Parses the command line and runs what it asks for.
pub fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(e) => {
            // clap's own: 0 for --help and --version, 2 for wrong usage.
            let said = e.render().to_string();
            if e.use_stderr() {
                output::error(&said);
            } else {
                let _ = output::out(&said);
            }
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    if !matches!(args.verb, args::Verb::Agent | args::Verb::Shell) {
        output::catch_panics();
    }
    match args.verb {
        args::Verb::Agent => crate::agent::main(),
        args::Verb::Shell => crate::shell::main(),
        args::Verb::Serve { config } => crate::supervise::main(config.as_deref()),
        verb => verbs::run(args.place, args.json, verb),
    }
}
