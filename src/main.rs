//! The one binary: see `berth::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth::cli::main()
}
