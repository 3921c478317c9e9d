//! Completions and manual pages, from the same source as `--help`.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::{generate, shells};

use crate::base::ProblemCode;
use crate::cli::args::{CommandLine, Shell};
use crate::cli::context::{Context, Outcome};
use crate::control::Problem;

pub(in crate::cli) fn completions(context: &Context, shell: Shell) -> Outcome {
    let mut command = CommandLine::command();
    let mut text = Vec::new();
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, "strongroom", &mut text),
        Shell::Zsh => generate(shells::Zsh, &mut command, "strongroom", &mut text),
        Shell::Fish => generate(shells::Fish, &mut command, "strongroom", &mut text),
    }
    context.out.print(&String::from_utf8_lossy(&text))
}

pub(in crate::cli) fn man(context: &Context, dir: &Path) -> Outcome {
    let failed = |e: std::io::Error| {
        let shown = dir.display();
        Problem::new(ProblemCode::Io, format!("manual pages cannot be written to {shown}: {e}"))
            .with_hint("name an existing directory")
    };
    if !dir.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    clap_mangen::generate_to(CommandLine::command(), dir).map_err(failed)?;
    context.out.note(&format!("manual pages written to {}", dir.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_an_example() {
        CommandLine::command().debug_assert();
        let mut left = vec![CommandLine::command()];
        while let Some(command) = left.pop() {
            let name = command.get_name().to_owned();
            if name != "help" {
                let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(after.contains("Examples:\n  strongroom"), "{name}: {after}");
            }
            left.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn there_is_a_page_for_every_command() {
        let dir = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(CommandLine::command(), dir.path()).unwrap();
        for page in ["strongroom.1", "strongroom-snapshot-create.1", "strongroom-mount.1"] {
            assert!(dir.path().join(page).is_file(), "{page}");
        }
    }
}
