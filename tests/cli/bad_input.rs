//! Wrong usage ends 2, says what is wrong, and touches nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::support::World;

#[test]
fn a_time_that_cannot_be_is_refused_with_what_can() {
    let world = World::new();
    for line in ["snapshot create db --retain", "restore snap-0000 --in-place --retain"] {
        let done = world.type_in(&format!("{line} 99999999d"));
        assert_eq!(done.status, 2, "{line}: {}", done.err);
        assert!(done.err.contains("99999999d") && done.err.contains("36500d"), "{}", done.err);
    }
    let lines = [
        "snapshot create db --retain -1d",
        "restore snap-0000 --in-place --retain -1d",
        "key create k1 --deletion-wait -1d",
        "key delete k1 --after -1d",
    ];
    for line in lines {
        let done = world.type_in(line);
        assert_eq!(done.status, 2, "{line}: {}", done.err);
        assert!(done.err.contains("'-1d' is not a duration"), "{line}: {}", done.err);
    }
    assert!(world.is_untouched());
}

#[test]
fn wrong_usage_is_2_before_anything_is_touched() {
    let world = World::new();
    let long = "x".repeat(65);
    let lines = [
        "",
        "cluster",
        "cluster create",
        "cluster create A",
        "cluster create a/b",
        "cluster create -- -a",
        "cluster create snap-0000",
        "cluster create db --key local:k",
        "cluster create db --key UPPER",
        "cluster set-key db",
        "cluster accept-log-loss",
        "mount db",
        "mount a/b /m",
        "mount db /m -o bogus",
        "mount db /m -o private,allow_other",
        "umount",
        "umount db --all",
        "snapshot create",
        "snapshot create db --all",
        "snapshot create db --retain 7",
        "snapshot show 0000",
        "snapshot show snap-xyz1",
        "snapshot show snap-000",
        "snapshot show snap-00000000000000000",
        "snapshot delete",
        "snapshot rewrap snap-0000",
        "restore snap-0000",
        "restore snap-0000 /m --in-place",
        "restore snap-0000 /m --retain 7d",
        "restore snap-0000 --to-cluster Db",
        "restore snap-0000 --in-place -o ro",
        "key delete",
        "key delete k1 --after soon",
        "pool grow",
        "pool grow --size big",
        "init --root-secret nonsense",
        "init --size -1",
        "daemon --on-unreachable maybe",
        "root-secret add file:",
        "status extra",
        "--nonsense",
        "salvage",
        "salvage --cluster db",
        "salvage /d --list",
        "salvage /d --snapshot db",
        "debug",
        "debug node x",
    ];
    for line in lines.into_iter().map(str::to_owned).chain([format!("cluster create {long}")]) {
        let done = world.type_in(&line);
        assert_eq!(done.status, 2, "{line}: {}{}", done.out, done.err);
        assert!(!done.err.is_empty() && done.out.is_empty(), "{line}");
    }
    assert!(world.is_untouched());
}

#[test]
fn empty_and_foreign_bytes_are_refused() {
    let world = World::new();
    let bytes = OsStr::from_bytes(b"\xff\xfe");
    for arguments in [
        vec![OsStr::new("cluster"), OsStr::new("create"), OsStr::new("")],
        vec![OsStr::new("cluster"), OsStr::new("create"), bytes],
        vec![OsStr::new("mount"), OsStr::new("db"), OsStr::new("")],
        vec![OsStr::new("mount"), OsStr::new("db"), bytes],
        vec![OsStr::new("snapshot"), OsStr::new("show"), bytes],
        vec![OsStr::new("key"), OsStr::new("show"), OsStr::new("")],
        vec![bytes],
    ] {
        let done = world.run(&arguments);
        assert_eq!(done.status, 2, "{arguments:?}: {}", done.err);
    }
    assert!(world.is_untouched());
}

#[test]
fn with_json_wrong_usage_is_a_document_on_one_line() {
    let world = World::new();
    for line in ["cluster create A --json", "--json nonsense"] {
        let done = world.type_in(line);
        assert_eq!(done.status, 2);
        assert_eq!(done.err.lines().count(), 1, "{}", done.err);
        let problem: serde_json::Value = serde_json::from_str(&done.err).unwrap();
        assert_eq!(problem["code"], "usage");
        assert_eq!(problem["exitStatus"], 2);
        for field in ["title", "detail", "hint"] {
            assert!(problem[field].as_str().is_some_and(|t| !t.is_empty()), "{field}");
        }
    }
    let done = world.type_in("--json mount db");
    let problem: serde_json::Value = serde_json::from_str(&done.err).unwrap();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.ends_with("were not provided: <MOUNTPOINT>"), "{detail}");
}

#[test]
fn the_mount_helper_ends_1_for_wrong_usage() {
    let world = World::new();
    let helper = world.path("mount.fuse.strongroom");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_strongroom"), &helper).unwrap();
    for line in ["", "db", "db /m -x", "db /m -o bogus", "Db /m", "a/b /m"] {
        let done = world.run_as(helper.as_ref(), line.split_whitespace());
        assert_eq!(done.status, 1, "{line}: {}", done.err);
        assert_eq!(done.err.lines().count(), 1, "{line}: {}", done.err);
    }
    let done =
        world.run_as(helper.as_ref(), ["db", "/m", "-f", "-o", "nofail,x-systemd.automount"]);
    assert_eq!(done.status, 0, "{}", done.err);
}
