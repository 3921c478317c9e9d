//! The daemon's log: through `log` and `env_logger`, to standard error, to the journal with its
//! levels, or to a file of bounded size where nobody listens.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use log::Level;

use crate::base::ProblemCode;
use crate::control::Problem;
use crate::sys::sync::{Mutex, Rank};

/// A log file larger than this becomes `.1`, and that one is forgotten.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// What is kept in memory until the file's place is known.
const EARLY_BYTES_MAX: usize = 64 << 10;

/// Where lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard error: somebody, or systemd, reads it.
    StandardError,
    /// A file whose place is known later.
    File,
}

enum Sink {
    StandardError,
    Early(Vec<u8>),
    File { path: PathBuf, file: File, bytes: u64 },
}

/// The log of this process.
#[derive(Clone)]
pub struct Logging {
    sink: Arc<Mutex<Sink>>,
}

impl Logging {
    /// Begins to log what `filter`, in env_logger's syntax, lets through.
    ///
    /// # Errors
    /// [`ProblemCode::Config`] where the filter is none.
    pub fn begin(filter: &str, destination: Destination) -> Result<Self, Problem> {
        check(filter)?;
        let sink = match destination {
            Destination::StandardError => Sink::StandardError,
            Destination::File => Sink::Early(Vec::new()),
        };
        let logging = Self { sink: Arc::new(Mutex::new(Rank::LogSink, sink)) };
        let journal = destination == Destination::StandardError
            && std::env::var_os("JOURNAL_STREAM").is_some();
        let mut builder = env_logger::Builder::new();
        builder.parse_filters(filter);
        builder.write_style(env_logger::WriteStyle::Never);
        builder.target(env_logger::Target::Pipe(Box::new(logging.clone())));
        if journal {
            // The journal has its own time stamps; a level in brackets is taken off each line.
            builder.format(|out, record| {
                let level = journal_level(record.level());
                writeln!(out, "<{level}>{}: {}", record.target(), record.args())
            });
        }
        // In tests of this process a logger may be there already; theirs will do.
        let _ = builder.try_init();
        Ok(logging)
    }

    /// Goes on in that file, 0600, with what was logged so far; nothing happens where the log
    /// goes to standard error.
    ///
    /// # Errors
    /// The file's.
    pub fn continue_in(&self, path: &Path) -> io::Result<()> {
        let mut sink = self.sink.lock();
        if let Sink::Early(early) = &*sink {
            let mut opened = Sink::open(path)?;
            opened.write_line(early)?;
            *sink = opened;
        }
        Ok(())
    }
}

/// That each part of a filter (`level`, `target` or `target=level`, separated by commas, a pattern
/// behind a slash) names a level where it must: env_logger itself would only mutter.
fn check(filter: &str) -> Result<(), Problem> {
    let directives = filter.split('/').next().unwrap_or_default();
    for part in directives.split(',').map(str::trim) {
        let Some((_, level)) = part.split_once('=') else { continue };
        if level.trim().parse::<log::LevelFilter>().is_err() {
            let detail = format!("log '{filter}': '{level}' is no level");
            return Err(Problem::new(ProblemCode::Config, detail)
                .with_hint("error, warn, info, debug, trace or off"));
        }
    }
    Ok(())
}

/// Levels as `sd-daemon(3)` numbers them.
const fn journal_level(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

impl Sink {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self::File { path: path.to_owned(), file, bytes })
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::StandardError => io::stderr().lock().write_all(line),
            Self::Early(early) => {
                if early.len() + line.len() <= EARLY_BYTES_MAX {
                    early.extend_from_slice(line);
                }
                Ok(())
            }
            Self::File { path, file, bytes } => {
                if *bytes > FILE_BYTES_MAX {
                    let mut old = path.clone().into_os_string();
                    old.push(".1");
                    std::fs::rename(&*path, old)?;
                    let path = path.clone();
                    *self = Self::open(&path)?;
                    return self.write_line(line);
                }
                *bytes += line.len() as u64;
                file.write_all(line)
            }
        }
    }
}

impl Write for Logging {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A log that cannot be written must not stop what it tells of.
        let _ = self.sink.lock().write_line(line);
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_lines_reach_the_file_and_its_size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let sink = Arc::new(Mutex::new(Rank::LogSink, Sink::Early(Vec::new())));
        let mut logging = Logging { sink };
        logging.write_all(b"early\n").unwrap();
        logging.continue_in(&path).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            logging.write_all(&line).unwrap();
        }
        let old = std::fs::read(dir.path().join("daemon.log.1")).unwrap();
        let now = std::fs::metadata(&path).unwrap().len();
        assert!(now <= FILE_BYTES_MAX + (2 << 20));
        assert!(old.len() as u64 <= FILE_BYTES_MAX + (2 << 20));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_filter_that_means_nothing_is_refused() {
        for good in ["", "debug", "warn,strongroom=info", "strongroom::pool=trace,off/x=y"] {
            assert!(check(good).is_ok(), "{good}");
        }
        assert!(check("strongroom=loud").unwrap_err().detail.contains("loud"));
    }

    #[test]
    fn levels_are_the_journals() {
        assert_eq!([Level::Error, Level::Warn, Level::Info].map(journal_level), [3, 4, 6]);
    }
}
