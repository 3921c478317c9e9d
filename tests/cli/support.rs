//! Runs the binary in a world of its own.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// A directory that stands for the whole machine: pool, configuration, runtime directory.
pub struct World {
    pub dir: tempfile::TempDir,
}

/// What a command did.
pub struct Done {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl World {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `strongroom` with these arguments, nobody at the terminal.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Done {
        self.run_as(env!("CARGO_BIN_EXE_strongroom").as_ref(), arguments)
    }

    /// The same by another name of the program.
    pub fn run_as<A: AsRef<OsStr>>(
        &self,
        program: &OsStr,
        arguments: impl IntoIterator<Item = A>,
    ) -> Done {
        Done::from(self.command(program).args(arguments).output().unwrap())
    }

    /// The program by some name, as in [`World::run`], yet to be run.
    pub fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("STRONGROOM_POOL", self.path("pool"))
            .env("STRONGROOM_CONFIG", self.path("config"))
            .stdin(Stdio::null());
        command
    }

    /// Words as typed, split at blanks, with one more variable in the environment.
    pub fn type_with(&self, (name, value): (&str, &OsStr), line: &str) -> Done {
        let mut command = self.command(env!("CARGO_BIN_EXE_strongroom").as_ref());
        Done::from(command.args(line.split_whitespace()).env(name, value).output().unwrap())
    }

    /// That a line ends in this status, with one line on stderr; that line.
    pub fn fails(&self, status: i32, line: &str) -> String {
        let done = self.type_in(line);
        assert_eq!(done.status, status, "{line}: {}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{line}: {}", done.err);
        done.err
    }

    /// That a line ends in 0; what it prints.
    pub fn does(&self, line: &str) -> String {
        let done = self.type_in(line);
        assert_eq!(done.status, 0, "{line}: {}", done.err);
        done.out
    }

    /// Words as typed, split at blanks.
    pub fn type_in(&self, line: &str) -> Done {
        self.run(line.split_whitespace())
    }

    /// That nothing was made.
    pub fn is_untouched(&self) -> bool {
        std::fs::read_dir(self.dir.path()).unwrap().next().is_none()
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
