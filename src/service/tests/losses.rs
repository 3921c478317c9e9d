//! What is taken away under a daemon that serves is told while there is time.

use std::fs;

use crate::base::ProblemCode;
use crate::service::tests::world::World;

/// What `status` says to do, and whether the daemon may be ended.
fn told(world: &World, words: &str) -> (bool, bool) {
    let status = world.service.status(false).unwrap();
    let steps = status.next_steps.iter().any(|step| step.contains(words));
    let may_end = world.service.check_may_end();
    if let Err(error) = &may_end {
        assert_eq!(error.code, ProblemCode::Confirmation);
        assert!(error.hint.as_ref().unwrap().contains("--force"), "{error}");
        assert!(status.warnings.contains(&error.detail), "{error}");
    }
    (steps, may_end.is_ok())
}

#[test]
fn what_opens_the_pool_is_missed_before_the_daemon_ends() {
    let world = World::new();
    let way_in = "strongroom root-secret add";
    assert_eq!(told(&world, way_in), (false, true));
    let root = world.service.config().root_key();
    let away = root.with_extension("away");
    fs::rename(&root, &away).unwrap();
    assert_eq!(told(&world, way_in), (true, false));
    let another = format!("file:{}", world.dir.path().join("another.key").display());
    world.service.add_root_secret(&another.parse().unwrap(), None).unwrap();
    assert_eq!(told(&world, way_in), (false, true));
    fs::rename(&away, &root).unwrap();
    assert_eq!(told(&world, way_in), (false, true));
}

#[test]
fn a_keyring_that_is_gone_is_told_and_keeps_the_daemon_where_no_backup_has_its_keys() {
    let world = World::new();
    let words = "strongroom config restore FILE";
    fs::remove_file(world.service.config().keyring()).unwrap();
    assert_eq!(told(&world, words), (true, true), "it holds no key");
    world.local_key("k1");
    let keyring = world.service.config().keyring();
    let away = keyring.with_extension("away");
    fs::rename(&keyring, &away).unwrap();
    assert_eq!(told(&world, words), (true, false));
    fs::rename(&away, &keyring).unwrap();
    fs::remove_file(world.service.config().keyring_key()).unwrap();
    assert_eq!(told(&world, words), (true, false));
}
