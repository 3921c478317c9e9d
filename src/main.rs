//! `strongroom`, the command and the daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A helper of the daemon is told what to do through a pipe, and never looks at arguments.
    if let Some(code) = strongroom::daemon::barrier_child::run_if_asked() {
        return code;
    }
    strongroom::cli::run(std::env::args_os().collect())
}
