//! An answer that nobody got is no success.

use std::fs::File;
use std::process::Stdio;

use crate::support::{Done, World};

/// Runs a line with a full device as standard output.
fn into_full(world: &World, line: &str) -> Done {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = world.command(env!("CARGO_BIN_EXE_strongroom").as_ref());
    Done::from(command.args(line.split_whitespace()).stdout(full).output().unwrap())
}

/// Runs a line whose reader is gone.
fn into_closed(world: &World, line: &str) -> Done {
    let mut command = world.command(env!("CARGO_BIN_EXE_strongroom").as_ref());
    let mut child = command
        .args(line.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    Done::from(child.wait_with_output().unwrap())
}

#[test]
fn an_answer_that_cannot_be_written_ends_1_with_one_line() {
    let world = World::new();
    for line in ["--version", "--help", "completions bash", "init --size 300M --recovery-key none"]
    {
        let done = into_full(&world, line);
        assert_eq!(done.status, 1, "{line}: {}", done.err);
        assert!(done.err.contains("the answer could not be written"), "{line}: {}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{line}: {}", done.err);
    }
}

#[test]
fn init_takes_a_pool_back_whose_recovery_key_was_not_shown() {
    let world = World::new();
    for line in ["init --size 300M", "init --size 300M --json"] {
        let done = into_full(&world, line);
        assert_eq!(done.status, 1, "{line}: {}", done.err);
        assert!(done.err.contains("the recovery key was not shown"), "{line}: {}", done.err);
        assert!(!world.path("pool").exists(), "{line}");
        let left = std::fs::read_dir(world.path("config").join("pools")).unwrap().count();
        assert_eq!(left, 0, "{line}");
    }
    // A reader who is gone has not seen it, either.
    let done = into_closed(&world, "init --size 300M");
    assert_eq!(done.status, 1, "{}", done.err);
    assert!(!world.path("pool").exists());
    world.does("init --size 300M");
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let done = into_closed(&World::new(), "completions bash");
    assert_eq!((done.status, done.err.as_str()), (0, ""));
}
