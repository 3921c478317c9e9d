//! Printing. The voice: lower case, no full stop, the object named, then what to do.
//!
//! What was asked for goes to standard output: a table, or with `--json` one document. Everything
//! else goes to standard error, a line each, and not at all with `--quiet`.

use std::io::{self, IsTerminal, Write};

use clap::CommandFactory;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::base::ProblemCode;
use crate::cli::args::{CommandLine, Globals};
use crate::control::Problem;

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Output {
    pub json: bool,
    pub quiet: bool,
    color: bool,
    /// What was said of the pool's place, for commands that are printed.
    flags: &'static str,
}

impl Output {
    pub fn new(globals: &Globals) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let color = !plain && io::stderr().is_terminal();
        Self { json: globals.json, quiet: globals.quiet, color, flags: "" }
    }

    /// Before the command line could be read.
    pub fn bare(json: bool) -> Self {
        Self { json, quiet: false, color: false, flags: "" }
    }

    /// The same for whoever named the pool's place by these flags: so does what he is told to type.
    pub fn with_flags(self, flags: &'static str) -> Self {
        Self { flags, ..self }
    }

    /// The text, with the flags in each command of ours that stands in it.
    pub fn with_flags_in(self, text: &str) -> String {
        const NAME: &str = "strongroom ";
        if self.flags.is_empty() {
            return text.to_owned();
        }
        let mut parts = text.split(NAME);
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let word: String =
                part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            let is_command = CommandLine::command().find_subcommand(&word).is_some();
            out.push_str(NAME);
            if is_command {
                out.push_str(self.flags);
            }
            out.push_str(part);
        }
        out
    }

    /// Whether progress is of use to somebody.
    pub fn shows_progress(self) -> bool {
        !self.json && !self.quiet && io::stderr().is_terminal()
    }

    /// One document, with `--json`; otherwise what `people` prints.
    ///
    /// # Errors
    /// As [`Output::print`]; by then the command itself was carried out.
    pub fn reply<T: Serialize>(
        self,
        value: &T,
        people: impl FnOnce(&T) -> String,
    ) -> Result<(), Problem> {
        self.print(&self.rendered(value, people))
            .map_err(|problem| problem.with_hint("the command itself was carried out"))
    }

    /// What [`Output::reply`] prints.
    pub fn rendered<T: Serialize>(self, value: &T, people: impl FnOnce(&T) -> String) -> String {
        if self.json {
            serde_json::to_string_pretty(value).unwrap_or_default()
        } else {
            people(value)
        }
    }

    /// Text to standard output, with a line end where it has none. Who closed the other end (as
    /// `head` does) has seen enough.
    ///
    /// # Errors
    /// [`ProblemCode::Io`]: it did not get there.
    pub fn print(self, text: &str) -> Result<(), Problem> {
        match self.write(text) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritten(&error)),
            _ => Ok(()),
        }
    }

    /// The same for what is shown but once: that nobody reads it is a failure, too.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn print_once(self, text: &str) -> Result<(), Problem> {
        self.write(text).map_err(|error| unwritten(&error))
    }

    fn write(self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let end = if text.ends_with('\n') { "" } else { "\n" };
        let mut out = io::stdout().lock();
        write!(out, "{text}{end}").and_then(|()| out.flush())
    }

    /// A line beside what was asked for.
    pub fn note(self, text: &str) {
        if !self.quiet && !text.is_empty() {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }

    /// A line that somebody should read.
    pub fn warn(self, text: &str) {
        let head = if self.color { "\x1b[33mwarning:\x1b[0m" } else { "warning:" };
        self.note(&format!("{head} {text}"));
    }

    /// A line that `--json` need not say, since the document does.
    pub fn aside(self, text: &str) {
        if !self.json {
            self.note(text);
        }
    }

    /// Several, as long as they do not stand in the document.
    pub fn warn_of(self, warnings: &[String]) {
        if !self.json {
            warnings.iter().for_each(|warning| self.warn(warning));
        }
    }

    /// Why a command failed: one line, or one document.
    pub fn problem(self, problem: &Problem) {
        let problem = &problem.clone().with_hint(self.with_flags_in(problem.hint()));
        let mut err = io::stderr().lock();
        let _ = if self.json {
            writeln!(err, "{}", problem.to_value())
        } else {
            let head = if self.color { "\x1b[31mstrongroom:\x1b[0m" } else { "strongroom:" };
            writeln!(err, "{head} {}", one_line(&problem.to_string()))
        };
    }
}

fn unwritten(error: &io::Error) -> Problem {
    Problem::new(ProblemCode::Io, format!("the answer could not be written: {error}"))
}

/// Text on one line, whatever a path or a key's name holds.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A table for people: a head, then a row each.
pub(in crate::cli) fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    trimmed(&table.to_string())
}

/// Names and values, a line each; lines without a value are left out.
pub(in crate::cli) fn facts(lines: Vec<(&str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in lines {
        if !value.is_empty() {
            table.add_row([format!("{name}:"), one_line(&value)]);
        }
    }
    trimmed(&table.to_string())
}

/// What to do next, where there is something to do.
pub(in crate::cli) fn next_steps(steps: &[String]) -> Option<String> {
    let lines: String = steps.iter().map(|step| format!("\n  - {}", one_line(step))).collect();
    (!steps.is_empty()).then(|| format!("what to do next:{lines}"))
}

fn trimmed(text: &str) -> String {
    let lines =
        text.lines().map(|line| line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()));
    lines.collect::<Vec<_>>().join("\n")
}

/// A value that may be missing.
pub(in crate::cli) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_named_a_pool_is_told_commands_that_name_it() {
        let out = Output::bare(false).with_flags("--pool /p ");
        let text = "mend it: strongroom key enable k1; or see strongroom itself, strongroom status";
        assert_eq!(
            out.with_flags_in(text),
            "mend it: strongroom --pool /p key enable k1; or see strongroom itself, \
             strongroom --pool /p status"
        );
        assert_eq!(Output::bare(false).with_flags_in(text), text);
    }

    #[test]
    fn tables_are_aligned_and_names_cannot_break_a_line() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long-name".to_owned(), "x\ny".to_owned()],
        ];
        let text = table(&["name", "value"], rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let column = lines[0].find("VALUE").unwrap();
        assert_eq!(&lines[1][column..], "1");
        assert_eq!(&lines[2][column..], "x y");
        assert!(
            !facts(vec![("mounted at", String::new()), ("name", "db".into())]).contains("mounted")
        );
    }
}
