//! What is taken away under a daemon that serves is told while there is time.

use std::fs;

use crate::base::ProblemCode;
use crate::pool::items;
use crate::service::Which;
use crate::service::tests::world::{World, name, request};
use crate::volume::ROOT_INODE;

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

/// The cluster's log, of which a crash would leave the first record damaged: something that was
/// acknowledged before what follows.
fn damage_log(world: &World, cluster: &str) {
    let pool = world.service.pool();
    let id = world.service.cluster(&name(cluster), false).unwrap().id;
    let logs = items::logs(pool.read_catalog().tree(), pool.nodes()).unwrap();
    let (_, item) = logs.iter().find(|(owner, _)| *owner == id).unwrap();
    let half = u64::from(item.area.blocks) / 2 * u64::from(item.half);
    world.device.corrupt(item.area.addr.plus(half).offset_bytes() + 100, 1);
}

#[test]
fn a_cluster_whose_log_is_damaged_says_so_and_goes_on_without_it_once_that_is_accepted() {
    let world = World::new();
    for cluster in ["other", "db"] {
        world.create(cluster, None);
        world.mount(cluster);
        let place = format!("/mnt/{cluster}");
        world.write(&place, "before", b"1");
        world.snap(cluster);
        for file in ["a", "b", "c"] {
            world.write(&place, file, b"2");
            world.volume(&place).fsync(ROOT_INODE, false).unwrap();
        }
    }
    damage_log(&world, "db");
    let world = world.crashed(1);
    let (db, other) = (name("db"), name("other"));
    let service = &world.service;

    let refused = [
        service.mount(&db, request("/mnt/again")).map(drop),
        service.create_snapshots(&Which::Named(vec![db.clone()]), None, "").map(drop),
    ];
    for refused in refused {
        let error = refused.unwrap_err();
        assert_eq!(error.code, ProblemCode::Corrupt, "{error}");
        assert!(error.hint.unwrap().contains("strongroom cluster accept-log-loss db"));
    }
    assert_eq!(told(&world, "strongroom cluster accept-log-loss db"), (true, true));
    let error = service.accept_log_loss(&other).unwrap_err();
    assert_eq!(error.code, ProblemCode::NothingLost);

    service.accept_log_loss(&db).unwrap();
    assert_eq!(told(&world, "accept-log-loss"), (false, true));
    world.mount("db");
    world.mount("other");
    let read = |cluster: &str, file| world.read(&format!("/mnt/{cluster}"), file);
    assert_eq!((read("db", "before"), read("db", "a")), (Some(b"1".to_vec()), None));
    assert_eq!(read("other", "c"), Some(b"2".to_vec()));
    world.snap("db");
    assert_eq!(service.accept_log_loss(&db).unwrap_err().code, ProblemCode::Busy);
}
