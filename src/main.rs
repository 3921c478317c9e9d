//! `strongroom`, the command and the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    strongroom::cli::run(std::env::args_os().collect())
}
