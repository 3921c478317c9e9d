//! The command line: arguments in, requests out, tables or JSON back, an exit status as a contract.
//!
//! It promises that wrong usage is found before anything is touched, that a failure is one line
//! (or one document) naming what, why and what to do, and that exit statuses mean what the help
//! says. It must not know how anything is stored.

mod args;
mod check;
mod clusters;
mod confirm;
mod context;
mod daemon_command;
mod dead_mounts;
mod generate;
mod inspect;
mod keys;
mod mount_helper;
mod mounts;
mod offline;
mod output;
mod passphrase;
mod pools;
mod progress;
mod restore;
mod salvage;
mod snapshots;
mod start;
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::base::ProblemCode;
use crate::cli::args::{Command, CommandLine};
use crate::cli::context::{Context, Outcome};
use crate::cli::output::Output;
use crate::control::Problem;
use crate::sys;

/// Runs the command that `arguments` say, the program's own name first; its exit status.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    // Before anything is read: any command may come to hold a passphrase, and some hold keys.
    for (what, error) in sys::process::keep_memory_private() {
        Output::bare(false).warn(&format!("{what}: {error}"));
    }
    if mount_helper::is_asked_for(&arguments) {
        return mount_helper::run(&arguments);
    }
    let json = arguments.iter().skip(1).take_while(|a| *a != "--").any(|a| a == "--json");
    let line = match CommandLine::try_parse_from(&arguments) {
        Ok(line) => line,
        Err(error) => return usage(&error, json),
    };
    let out = Output::new(&line.globals).with_flags(place_flags(&arguments));
    match dispatch(line, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            out.problem(&problem);
            ExitCode::from(problem.exit_status())
        }
    }
}

/// For `src/fuzzing`: arguments of the command and of mount(8)'s helper, each ended by a zero byte.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    use std::os::unix::ffi::OsStringExt;
    let split = bytes.split(|byte| *byte == 0);
    let arguments: Vec<OsString> = split.map(|a| OsString::from_vec(a.to_vec())).collect();
    let _ = mount_helper::parse(&arguments);
    let named = std::iter::once(OsString::from("strongroom")).chain(arguments);
    if let Err(error) = CommandLine::try_parse_from(named) {
        assert!(!error.render().to_string().is_empty(), "a refusal has words");
    }
}

/// Help and versions are answers; anything else is wrong usage.
fn usage(error: &clap::Error, json: bool) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            match Output::bare(false).print(&error.render().to_string()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(problem) => {
                    Output::bare(json).problem(&problem);
                    ExitCode::from(problem.exit_status())
                }
            }
        }
        _ => {
            if json {
                let text = error.render().to_string();
                // Up to the blank line before the usage: what is missing may stand in lines of its own.
                let lines: Vec<&str> =
                    text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
                let joined = lines.join(" ");
                let detail = joined.strip_prefix("error: ").unwrap_or(&joined);
                let problem =
                    Problem::new(ProblemCode::Usage, detail).with_hint("strongroom --help");
                Output::bare(true).problem(&problem);
            } else {
                Output::bare(false).note(error.render().to_string().trim_end());
            }
            ExitCode::from(ProblemCode::Usage.exit_status())
        }
    }
}

/// The flags of a command line that say where the pool is, each followed by a space.
fn place_flags(arguments: &[OsString]) -> &'static str {
    let mut flags = String::new();
    let mut words = arguments.iter().map(|a| a.to_string_lossy()).take_while(|a| a != "--");
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word.to_string(), None),
        };
        if !["--pool", "--socket"].contains(&flag.as_str()) {
            continue;
        }
        let value = value.or_else(|| words.next().map(|v| v.to_string())).unwrap_or_default();
        let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+:@%".contains(&b));
        match plain {
            true => flags.push_str(&format!("{flag} {value} ")),
            false => flags.push_str(&format!("{flag} '{}' ", value.replace('\'', "'\\''"))),
        }
    }
    flags.leak()
}

fn dispatch(line: CommandLine, out: Output) -> Outcome {
    let context = Context { out, ..Context::new(line.globals)? };
    if let Command::Daemon(daemon) = line.command {
        return daemon_command::run(&context, daemon);
    }
    sys::signals::exit_130_on_interrupt().map_err(|e| {
        Problem::new(ProblemCode::Internal, format!("signals cannot be waited for: {e}"))
    })?;
    match line.command {
        Command::Init(init) => offline::init(&context, init),
        Command::Daemon(daemon) => daemon_command::run(&context, daemon),
        Command::Shutdown { force } => pools::shutdown(&context, force),
        Command::Status(refresh) => pools::status(&context, refresh.refresh),
        Command::Pool(command) => pools::pool(&context, command),
        Command::Config(command) => offline::config(&context, command),
        Command::RootSecret(command) => pools::root_secret(&context, command),
        Command::Cluster(command) => clusters::run(&context, command),
        Command::Mount(mount) => mounts::mount(&context, &mount),
        Command::Umount(umount) => mounts::umount(&context, umount),
        Command::Snapshot(command) => snapshots::run(&context, command),
        Command::Restore(request) => restore::run(&context, request),
        Command::Key(command) => keys::run(&context, command),
        Command::Check => check::check(&context),
        Command::Scrub(s) => check::scrub(&context, s.what.as_ref(), s.rate),
        Command::Salvage(request) => salvage::salvage(&context, request),
        Command::Debug(command) => inspect::debug(&context, &command),
        Command::Completions { shell } => generate::completions(&context, shell),
        Command::Man { dir } => generate::man(&context, &dir),
    }
}
