//! What opens a pool, changed at the prompt; and what init, key and help say on the way.

use crate::support::World;

#[test]
fn the_ways_to_open_a_pool_are_removed_by_the_names_that_show_prints() {
    let world = World::new();
    let recovery = world.path("recovery").display().to_string();
    let key = world.path("other.key").display().to_string();
    world.does(&format!("init --size 300M --recovery-key {recovery}"));
    let served = world.type_in(&format!("daemon --recovery-key {recovery}"));
    assert_eq!(served.status, 0, "{}", served.err);
    assert!(served.err.contains("strongroom root-secret add file:PATH"), "{}", served.err);
    let add = format!("root-secret add file:{key}");
    assert!(world.does("root-secret show").contains("file:root.key"));
    world.does(&add);
    let said = world.fails(1, &add);
    assert!(said.contains("already"), "{said}");
    let left = world.does("root-secret remove file:root.key");
    assert!(!left.contains("file:root.key") && left.contains(&key), "{left}");
    let said = world.fails(1, "root-secret remove file:root.key");
    assert!(said.contains("the pool has no root secret file:/"), "{said}");
    let said = world.fails(2, "key create none");
    assert!(said.contains("reserved"), "{said}");
    world.does("key create k1 --deletion-wait 0s");
    let gone = world.does("key delete k1 --force local://k1 --yes");
    assert!(gone.contains("local://k1 is deleted") && !gone.contains("to be deleted"), "{gone}");
    world.does("shutdown");
}

#[test]
fn an_init_that_fails_names_the_place_and_a_next_step_and_leaves_nothing() {
    let world = World::new();
    let said = world.fails(2, "init --size 1M");
    assert!(said.contains("256 MiB") && said.contains("1.0 MiB"), "{said}");
    assert!(!world.path("pool").exists());
    // More than any filesystem takes.
    let said = world.fails(1, "init --size 9000000T");
    let place = world.path("pool").display().to_string();
    assert!(said.contains(&place) && said.contains("too large"), "{said}");
    assert!(said.contains("choose a smaller --size"), "{said}");
    assert!(!world.path("pool").exists());
}

#[test]
fn help_names_the_order_of_restore_and_what_is_refused() {
    let world = World::new();
    assert!(world.does("restore --help").contains("restore [OPTIONS] <ID> <MOUNTPOINT|"));
    assert!(!world.does("--help").contains("rename"));
    assert!(world.does("pool --help").contains("Refused by this version"));
}
