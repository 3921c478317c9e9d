//! Help, versions, completions, manual pages.

use crate::support::World;

const COMMANDS: &[&str] = &[
    "init",
    "daemon",
    "shutdown",
    "status",
    "pool grow",
    "pool resume",
    "pool upgrade",
    "pool new-id",
    "config backup",
    "config restore",
    "root-secret show",
    "root-secret add",
    "root-secret remove",
    "cluster create",
    "cluster list",
    "cluster show",
    "cluster delete",
    "cluster set-key",
    "cluster accept-log-loss",
    "mount",
    "umount",
    "snapshot create",
    "snapshot list",
    "snapshot show",
    "snapshot delete",
    "snapshot rewrap",
    "restore",
    "key create",
    "key list",
    "key show",
    "key test",
    "key usage",
    "key disable",
    "key enable",
    "key delete",
    "key cancel-delete",
    "check",
    "salvage",
    "debug superblock",
    "debug header",
    "debug node",
    "debug log",
    "debug region",
    "completions",
    "man",
];

#[test]
fn every_command_has_help_with_an_example() {
    let world = World::new();
    for command in COMMANDS {
        let done = world.type_in(&format!("{command} --help"));
        assert_eq!(done.status, 0, "{command}: {}", done.err);
        assert!(done.out.contains("Examples:\n  strongroom"), "{command}: {}", done.out);
        assert!(done.err.is_empty(), "{command}");
    }
    let done = world.type_in("--help");
    assert!(done.out.contains("Exit status: 0 done"));
    assert!(world.is_untouched());
}

#[test]
fn commands_of_later_days_are_unknown() {
    let world = World::new();
    for command in [
        "policy show db",
        "snapshot hold snap-0000",
        "snapshot release snap-0000",
        "snapshot diff snap-0000",
        "snapshot find x",
        "restore snap-0000 --path a b",
        "nonsense",
    ] {
        assert_eq!(world.type_in(command).status, 2, "{command}");
    }
}

#[test]
fn the_version_is_the_crates() {
    let done = World::new().type_in("--version");
    assert_eq!(
        (done.status, done.out.trim()),
        (0, concat!("strongroom ", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn completions_and_manual_pages_come_from_the_same_source() {
    let world = World::new();
    for (shell, mark) in
        [("bash", "complete -F"), ("zsh", "#compdef strongroom"), ("fish", "complete -c")]
    {
        let done = world.type_in(&format!("completions {shell}"));
        assert_eq!(done.status, 0, "{shell}: {}", done.err);
        assert!(done.out.contains(mark) && done.out.contains("cancel-delete"), "{shell}");
    }
    assert_eq!(world.type_in("completions tcsh").status, 2);
    let pages = world.path("man");
    std::fs::create_dir(&pages).unwrap();
    assert_eq!(world.run(["man".as_ref(), pages.as_os_str()]).status, 0);
    assert!(pages.join("strongroom-key-cancel-delete.1").is_file());
    assert_eq!(world.run(["man".as_ref(), world.path("none").as_os_str()]).status, 1);
}
