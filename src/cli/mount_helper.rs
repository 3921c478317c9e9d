//! `/sbin/mount.fuse.strongroom`: what mount(8) calls for a line of fstab.
//!
//! `SOURCE DIR [-sfnv] [-t TYPE] -o OPTIONS`; ends 0, 1 (wrong usage) or 32 (the mount failed), as
//! mount(8) understands.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cli::args::Globals;
use crate::cli::context::{Context, Outcome, wire_path};
use crate::cli::output::Output;
use crate::cli::words::Target;
use crate::control::Problem;
use crate::control::client::segment;
use crate::control::types::{Mount, MountCluster, RestoreRequest, Restored};
use crate::daemon::mount_words;
use crate::daemon::places::DEFAULT_POOL;

const WRONG_USAGE: u8 = 1;
const MOUNT_FAILED: u8 = 32;

/// Whether the program was called by the helper's name.
pub(in crate::cli) fn is_asked_for(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|n| n == "mount.fuse.strongroom" || n == "mount.strongroom")
}

/// What mount(8) asks for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Asked {
    source: Target,
    directory: PathBuf,
    options: Vec<String>,
    pool: Option<PathBuf>,
    fake: bool,
    verbose: bool,
}

/// Mounts; the exit status that mount(8) expects.
pub(in crate::cli) fn run(arguments: &[OsString]) -> ExitCode {
    let out = Output::bare(false);
    let asked = match parse(arguments.get(1..).unwrap_or_default()) {
        Ok(asked) => asked,
        Err(why) => {
            out.note(&format!("mount.fuse.strongroom: {why}"));
            return ExitCode::from(WRONG_USAGE);
        }
    };
    if asked.fake {
        return ExitCode::SUCCESS;
    }
    match mount(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            out.problem(&problem);
            ExitCode::from(MOUNT_FAILED)
        }
    }
}

pub(in crate::cli) fn parse(arguments: &[OsString]) -> Result<Asked, String> {
    let mut places: Vec<&OsStr> = Vec::new();
    let (mut lists, mut fake, mut verbose) = (Vec::new(), false, false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_str().unwrap_or_default();
        match text {
            "-o" | "-t" => {
                let value = rest.next().ok_or_else(|| format!("{text} wants a value"))?;
                let value = value.to_str().ok_or_else(|| format!("{text}: not UTF-8"))?;
                if text == "-o" {
                    lists.push(value.to_owned());
                }
            }
            _ if text.len() > 2 && text.starts_with("-o") => lists.push(text[2..].to_owned()),
            _ if text.len() > 1 && text.starts_with('-') => {
                for letter in text[1..].chars() {
                    match letter {
                        's' | 'n' => {}
                        'f' => fake = true,
                        'v' => verbose = true,
                        other => return Err(format!("unknown option -{other}")),
                    }
                }
            }
            _ => places.push(argument),
        }
    }
    let [source, directory] = places[..] else {
        return Err("usage: mount.fuse.strongroom SOURCE DIR [-sfnv] [-t TYPE] [-o OPTIONS]".into());
    };
    let (options, pool) = mount_words::of_fstab(&lists.join(","))?;
    let source: Target = source
        .to_str()
        .ok_or("the source is not UTF-8")?
        .parse()
        .map_err(|e: crate::base::ids::IdError| e.to_string())?;
    if let Target::Path(path) = &source {
        return Err(format!("the source {} is no cluster and no snapshot", path.display()));
    }
    if directory.as_bytes().is_empty() {
        return Err("the directory is empty".into());
    }
    Ok(Asked { source, directory: PathBuf::from(directory), options, pool, fake, verbose })
}

fn mount(asked: Asked) -> Outcome {
    let from_environment = || std::env::var_os("STRONGROOM_POOL").map(PathBuf::from);
    let pool = asked.pool.or_else(from_environment).unwrap_or_else(|| DEFAULT_POOL.into());
    let context = Context::new(Globals {
        pool,
        socket: std::env::var_os("STRONGROOM_SOCKET").map(PathBuf::from),
        json: false,
        quiet: !asked.verbose,
        verbose: 0,
        no_start: false,
        passphrase_file: None,
    })?;
    let (mountpoint, options) = (wire_path(&asked.directory)?, asked.options);
    let text = match asked.source {
        Target::Snapshot(id) => {
            let path = format!("/v1/snapshots/{}/restore", segment(&id.to_string()));
            let mountpoint = Some(mountpoint);
            let request = RestoreRequest { mountpoint, options, ..RestoreRequest::default() };
            match context.post(&path, &request)? {
                Restored::Mount(mount) => crate::cli::mounts::mounted_text(&mount),
                _ => String::new(),
            }
        }
        Target::Cluster(name) => {
            let path = format!("/v1/clusters/{}/mount", segment(name.as_str()));
            let mount: Mount = context.post(&path, &MountCluster { mountpoint, options })?;
            crate::cli::mounts::mounted_text(&mount)
        }
        Target::Path(path) => {
            let detail = format!("{} is no cluster and no snapshot", path.display());
            return Err(Problem::new(crate::base::ProblemCode::Usage, detail));
        }
    };
    context.out.note(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Asked, String> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        parse(&words)
    }

    #[test]
    fn lines_as_mount_8_passes_them() {
        let asked = of("db /srv/pg -sv -t fuse.strongroom -o rw,pool=/p,key_wait,nofail").unwrap();
        assert_eq!(asked.source, Target::Cluster("db".parse().unwrap()));
        assert_eq!(asked.directory, Path::new("/srv/pg"));
        assert_eq!(asked.options, ["rw", "key_wait"]);
        assert_eq!(asked.pool, Some(PathBuf::from("/p")));
        assert!(asked.verbose && !asked.fake);
        assert!(of("db /srv/pg -f").unwrap().fake);
        for bad in ["", "db", "db a b", "a/b /m", "Db /m", "db /m -x", "db /m -o", "db /m -o bogus"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_helper_is_known_by_its_name() {
        let named = |name: &str| is_asked_for(&[OsString::from(name)]);
        assert!(named("/sbin/mount.fuse.strongroom") && named("mount.strongroom"));
        assert!(!named("/usr/bin/strongroom") && !is_asked_for(&[]));
    }
}
