//! The one binary: see `berth::cli`.
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("agent") {
        return berth::agent::main();
    }
    ExitCode::from(2)
}
