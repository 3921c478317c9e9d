//! What a starting daemon and its starter say to each other over the daemon's standard streams.
//!
//! The daemon writes lines: one JSON object each. The starter writes the passphrase, once it is
//! asked for, and closes its end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use zeroize::Zeroizing;

use crate::base::ProblemCode;
use crate::control::Problem;
use crate::sys;

/// A passphrase; erased when dropped.
pub type Passphrase = Zeroizing<Vec<u8>>;

const PASSPHRASE_BYTES_MAX: u64 = 1024;
const READY: &str = r#"{"ready":true}"#;
const NEED_PASSPHRASE: &str = r#"{"need":"passphrase"}"#;

/// A line of the daemon's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// It serves.
    Ready,
    /// It waits for the passphrase.
    NeedPassphrase,
    /// It ends, for this reason.
    Failed(Problem),
}

impl Line {
    /// The meaning of a line; `None`: none.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        match line.trim() {
            READY => Some(Self::Ready),
            NEED_PASSPHRASE => Some(Self::NeedPassphrase),
            other => {
                let value: serde_json::Value = serde_json::from_str(other).ok()?;
                value.get("code")?;
                Some(Self::Failed(Problem::from_bytes(0, other.as_bytes())))
            }
        }
    }
}

/// The daemon's end: its standard streams as they were, before it let go of them.
#[derive(Debug)]
pub struct Starter {
    input: Option<File>,
    output: File,
}

impl Starter {
    /// Keeps the standard streams for the talk, and lets go of the caller's session, directory,
    /// terminal and every descriptor that came along. To be called first in a process of its own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take_streams() -> io::Result<Self> {
        sys::process::close_inherited()?;
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        sys::process::detach(false)?;
        Ok(Self { input: Some(input), output })
    }

    /// Asks for the passphrase.
    ///
    /// # Errors
    /// Where the starter went away, or hands over none.
    pub fn passphrase(&mut self) -> Result<Passphrase, Problem> {
        let none = || {
            let detail = "whoever starts the daemon handed over no passphrase";
            Problem::new(ProblemCode::RootSecretMissing, detail)
        };
        self.say(NEED_PASSPHRASE).map_err(|_| none())?;
        let input = self.input.take().ok_or_else(none)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX as usize + 8));
        input.take(PASSPHRASE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|_| none())?;
        if bytes.is_empty() { Err(none()) } else { Ok(bytes) }
    }

    /// The last word: it serves, or why not. A starter that does not listen any more is no reason
    /// to end.
    pub fn finish(mut self, outcome: Result<(), &Problem>) {
        let _ = match outcome {
            Ok(()) => self.say(READY),
            Err(problem) => self.say(&problem.to_value().to_string()),
        };
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.output.write_all(format!("{line}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_and_others_skipped() {
        assert_eq!(Line::parse(READY), Some(Line::Ready));
        assert_eq!(Line::parse(NEED_PASSPHRASE), Some(Line::NeedPassphrase));
        let problem = Problem::new(ProblemCode::PoolBusy, "x").with_hint("y");
        assert_eq!(Line::parse(&problem.to_value().to_string()), Some(Line::Failed(problem)));
        assert_eq!(Line::parse("hello"), None);
        assert_eq!(Line::parse("{}"), None);
    }
}
