//! Asking before what cannot be taken back: on a terminal alone.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use crate::base::ProblemCode;
use crate::cli::context::Outcome;
use crate::control::Problem;

/// Whether somebody sits there who can be asked.
pub(in crate::cli) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks, unless `yes` or nobody is there.
pub(in crate::cli) fn confirm(question: &str, yes: bool) -> Outcome {
    if yes || !somebody_is_there() {
        return Ok(());
    }
    match ask(&format!("{question} [y/N] "))?.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(declined()),
    }
}

/// Asks for a name to be typed again; what was typed.
pub(in crate::cli) fn confirm_by_naming(question: &str, name: &str) -> Outcome {
    if ask(&format!("{question}\ntype {name} to go on: "))? == name {
        Ok(())
    } else {
        Err(declined())
    }
}

fn declined() -> Problem {
    Problem::new(ProblemCode::Confirmation, "not confirmed, so nothing was done")
}

fn ask(prompt: &str) -> Result<String, Problem> {
    let failed =
        |e: io::Error| Problem::new(ProblemCode::Confirmation, format!("the terminal: {e}"));
    let mut terminal =
        OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(failed)?;
    terminal.write_all(prompt.as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(terminal).read_line(&mut line).map_err(failed)?;
    Ok(line.trim().to_owned())
}
