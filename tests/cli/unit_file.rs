//! The systemd unit: mounts stay visible, keys stay in memory, the command line is understood.

use crate::support::World;

const UNIT: &str = include_str!("../../scripts/systemd/strongroom@.service");

fn directives() -> impl Iterator<Item = (&'static str, &'static str)> {
    UNIT.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once('='))
}

fn value(name: &str) -> Option<&'static str> {
    directives().find(|(n, _)| *n == name).map(|(_, v)| v)
}

#[test]
fn no_directive_hides_the_mounts_in_a_namespace() {
    let begins = ["Private", "Protect", "ReadWrite", "ReadOnly", "Inaccessible", "Bind"];
    let exactly = [
        "TemporaryFileSystem",
        "RootDirectory",
        "RootImage",
        "MountImages",
        "ExtensionImages",
        "MountFlags",
        "MountAPIVFS",
        "DynamicUser",
        "NoExecPaths",
        "ExecPaths",
        "StateDirectory",
        "CacheDirectory",
        "LogsDirectory",
        "ConfigurationDirectory",
    ];
    for (name, _) in directives() {
        assert!(!begins.iter().any(|b| name.starts_with(b)), "{name}");
        assert!(!exactly.contains(&name), "{name}");
    }
}

#[test]
fn keys_stay_in_memory_and_rights_are_bounded() {
    for (name, expected) in [
        ("LimitCORE", "0"),
        ("LimitMEMLOCK", "infinity"),
        ("MemorySwapMax", "0"),
        ("UMask", "0077"),
        ("Type", "notify"),
    ] {
        assert_eq!(value(name), Some(expected), "{name}");
    }
    for name in ["CapabilityBoundingSet", "SystemCallFilter", "RestrictAddressFamilies"] {
        assert!(value(name).is_some_and(|v| !v.is_empty()), "{name}");
    }
}

#[test]
fn the_command_line_of_the_unit_is_understood() {
    let line = value("ExecStart").unwrap();
    let arguments = line.split_whitespace().skip(1).map(|a| a.replace("%f", "/var/lib/strongroom"));
    let done = World::new().run(arguments.chain(["--help".to_owned()]));
    assert_eq!(done.status, 0, "{}", done.err);
}
