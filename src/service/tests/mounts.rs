//! Mounts: twice, busy, remembered, waiting for a key.

use std::path::Path;

use super::world::{World, name, prefix, request};
use crate::base::{KeyAnswer, KeyState, ProblemCode};
use crate::service::mounts::Subject;
use crate::service::types::ClusterState;
use crate::service::{MountMeaning, UmountWhat, Which};

#[test]
fn the_same_mount_twice_is_fine_and_another_of_that_head_is_refused() {
    let world = World::new();
    world.create("db", None);
    assert!(!world.mount("db").already_mounted);
    assert!(world.mount("db").already_mounted);
    let error = world.service.mount(&name("db"), request("/elsewhere")).unwrap_err();
    assert_eq!(error.code, ProblemCode::AlreadyMounted);
    world.create("two", None);
    let error = world.service.mount(&name("two"), request("/mnt/db")).unwrap_err();
    assert_eq!(error.code, ProblemCode::MountPoint);
    let error = world.service.delete_cluster(&name("db")).unwrap_err();
    assert_eq!(error.code, ProblemCode::Busy);
    assert_eq!(world.service.mounts().len(), 1);
}

#[test]
fn a_mount_that_fails_leaves_nothing_open() {
    let world = World::new();
    world.create("db", None);
    let mut bad = request("/mnt/db");
    bad.options = vec!["nonsense".into()];
    assert_eq!(world.service.mount(&name("db"), bad).unwrap_err().code, ProblemCode::Usage);
    world.mounter.state.lock().refuse_mount = true;
    let error = world.service.mount(&name("db"), request("/mnt/db")).unwrap_err();
    assert_eq!(error.code, ProblemCode::MountFailed);
    assert!(world.service.mounts().is_empty());
    world.mounter.state.lock().refuse_mount = false;
    world.mount("db");
}

#[test]
fn a_busy_mount_stays_unless_forced() {
    let world = World::new();
    world.create("db", None);
    world.mount("db");
    world.mounter.state.lock().busy = true;
    let db = name("db");
    let by_name = UmountWhat::Cluster(&db);
    assert_eq!(world.service.umount(&by_name, false).unwrap_err().code, ProblemCode::Busy);
    assert_eq!(world.service.close(false, true).unwrap_err().code, ProblemCode::Busy);
    assert_eq!(world.service.cluster(&name("db"), false).unwrap().state, ClusterState::Mounted);
    assert_eq!(world.service.umount(&by_name, true).unwrap().len(), 1);
    let error = world.service.umount(&UmountWhat::Place(Path::new("/mnt/db")), false).unwrap_err();
    assert_eq!(error.code, ProblemCode::NotMounted);
}

#[test]
fn mounts_come_back_after_a_crash_and_not_after_umount_or_shutdown() {
    let world = World::new();
    world.create("db", None);
    world.create("two", None);
    world.mount("db");
    world.mount("two");
    let id = world.snap("db");
    world.service.restore_mount(&prefix(id), request("/mnt/r")).unwrap();
    world.umount("two");
    let world = world.crashed(7);
    assert!(world.service.mounts().is_empty());
    assert!(world.service.remount().is_empty());
    let mut places: Vec<_> =
        world.service.mounts().iter().map(|m| m.mountpoint.display().to_string()).collect();
    places.sort();
    assert_eq!(places, ["/mnt/db", "/mnt/r"]);

    let world = world.restarted();
    assert!(world.service.remount().is_empty());
    assert_eq!(world.service.mounts().len(), 2, "a signal keeps the records");
    world.service.close(false, true).unwrap();
    let world = world.reopened().unwrap();
    assert!(world.service.remount().is_empty());
    assert!(world.service.mounts().is_empty(), "shutdown forgets");
}

#[test]
fn a_mount_that_could_not_be_made_again_stays_recorded() {
    let world = World::new();
    let key = world.fake.create("k");
    world.create("db", Some(&key));
    world.mount("db");
    let world = world.crashed(1);
    world.fake.set(&key, KeyAnswer::Unreachable);
    assert_eq!(world.service.remount().len(), 1);
    let steps = world.service.status(false).unwrap().next_steps;
    let told = |steps: &[String]| steps.iter().any(|s| s.contains("strongroom mount db /mnt/db"));
    assert!(told(&steps) && steps[0].starts_with("/mnt/db was not mounted again"), "{steps:?}");
    let world = world.crashed(2);
    world.fake.set(&key, KeyAnswer::State(KeyState::Enabled));
    assert!(!told(&world.service.status(false).unwrap().next_steps), "it was not tried yet");
    assert!(world.service.remount().is_empty());
    assert_eq!(world.service.mounts().len(), 1);
    assert!(!told(&world.service.status(false).unwrap().next_steps));
}

#[test]
fn mount_records_that_are_not_understood_are_not_written_over() {
    let mut world = World::new();
    world.create("db", None);
    world.mount("db");
    let file = world.service.config().mounts();
    let later = [&[2, 0, 0, 0][..], b"as only a later version knows"].concat();
    for kept in [later, b"rot".to_vec(), vec![1; 1 << 20]] {
        world.service.close(true, false).unwrap();
        std::fs::write(&file, &kept).unwrap();
        world = world.reopened().unwrap();
        assert!(world.service.remount().is_empty());
        world.mount("db");
        world.umount("db");
        world.mount("db");
        assert!(std::fs::read(&file).unwrap() == kept);
    }
    // Nor does a shutdown forget what it does not know.
    world.service.close(false, true).unwrap();
    assert!(std::fs::read(&file).unwrap() == vec![1; 1 << 20]);
    world = world.reopened().unwrap();
    std::fs::remove_file(&file).unwrap();
    world.mount("db");
    let world = world.restarted();
    assert!(world.service.remount().is_empty());
    assert_eq!(world.service.mounts().len(), 1, "recorded again once the file is out of the way");
}

#[test]
fn key_wait_mounts_locked_and_opens_by_itself() {
    let world = World::new();
    let key = world.fake.create("k");
    world.create("db", Some(&key));
    world.fake.set(&key, KeyAnswer::Unreachable);
    let mut wait = request("/mnt/db");
    wait.options = vec!["key_wait".into()];
    let mount = world.service.mount(&name("db"), wait).unwrap();
    assert!(mount.locked);
    let state = || world.service.cluster(&name("db"), false).unwrap().state;
    assert_eq!(state(), ClusterState::Locked);
    world.service.tick_keys();
    assert_eq!(state(), ClusterState::Locked);
    world.fake.set(&key, KeyAnswer::State(KeyState::Enabled));
    world.service.tick_keys();
    assert_eq!(state(), ClusterState::Mounted);
    world.volume("/mnt/db");
    world.umount("db");
}

#[test]
fn a_session_that_ends_by_itself_closes_the_head() {
    let world = World::new();
    world.create("db", None);
    world.mount("db");
    let id = *world.mounter.state.lock().mounts.keys().next().unwrap();
    world.mounter.state.lock().mounts.clear();
    world.service.mount_ended(id, true);
    world.service.mount_ended(id, true);
    assert!(world.service.mounts().is_empty());
    world.mount("db");
}

#[test]
fn what_is_recorded_stays_so_until_it_is_mounted_or_unmounted_by_name() {
    let world = World::new();
    world.create("a", None);
    world.create("b", None);
    world.mount("a");
    // A start that makes no mounts again, and another mount then: neither forgets.
    let world = world.crashed(1);
    world.mount("b");
    let id = *world.mounter.state.lock().mounts.keys().next().unwrap();
    world.service.mount_ended(id, false);
    let world = world.crashed(2);
    let error = world.service.umount(&UmountWhat::Cluster(&name("b")), false).unwrap_err();
    assert_eq!(error.code, ProblemCode::NotMounted);
    assert!(world.service.remount().is_empty());
    let places: Vec<_> = world.service.mounts().iter().map(|m| m.mountpoint.clone()).collect();
    assert_eq!(places, [Path::new("/mnt/a")]);
}

#[test]
fn what_was_deleted_is_not_looked_for_at_every_start() {
    let world = World::new();
    world.create("db", None);
    world.create("other", None);
    world.mount("db");
    world.mount("other");
    let snapshot = world.snap("other");
    world.service.restore_mount(&prefix(snapshot), request("/mnt/r")).unwrap();
    // A start that makes no mounts again; then deletions that were answered by an error, or by none,
    // though the pool came to know of them: the records were not forgotten.
    let world = world.crashed(1);
    world.service.catalog.delete_cluster(&name("db")).unwrap();
    world.service.catalog.delete_snapshots(&[snapshot]).unwrap();
    let records = || std::fs::read(world.service.config().mounts()).unwrap().len();
    let before = records();
    assert!(world.service.remount().is_empty(), "that is no failure");
    assert_eq!(world.service.mounts().len(), 1, "others are mounted");
    assert!(records() < before);
    let world = world.crashed(2);
    world.create("db", None);
    assert!(world.service.remount().is_empty());
    assert_eq!(world.service.mounts().len(), 1);
}

#[test]
fn an_unmount_and_the_end_of_its_session_at_the_same_time_close_once() {
    let world = World::new();
    world.create("db", None);
    for round in 0..20u8 {
        world.mount("db");
        world.write("/mnt/db", "f", &[round; 5000]);
        let id = *world.mounter.state.lock().mounts.keys().next().unwrap();
        let service = world.service.clone();
        let ended = crate::sys::threads::spawn("ended", move || service.mount_ended(id, true));
        // Whoever comes second finds it unmounted or being so; none returns before it is closed.
        let unmounted = world.service.umount(&UmountWhat::Cluster(&name("db")), false);
        if let Err(error) = unmounted {
            assert!(matches!(error.code, ProblemCode::NotMounted | ProblemCode::Busy));
        }
        ended.join().unwrap();
        world.mounter.state.lock().mounts.clear();
        world.mount("db");
        assert_eq!(world.read("/mnt/db", "f").unwrap(), [round; 5000]);
        world.umount("db");
    }
}

#[test]
fn a_mount_that_is_just_being_made_is_settled_too() {
    let world = World::new();
    world.create("db", None);
    let cluster = world.service.catalog.cluster(&name("db")).unwrap().id;
    let meaning = MountMeaning::default();
    let subject = Subject::Cluster(cluster);
    let id = world.service.reserve_mount(subject, cluster, request("/mnt/db"), meaning).unwrap();
    let which = Which::Named(vec![name("db")]);
    // Whether there is anything to take is not the question.
    let _ = world.service.create_snapshots(&which, None, "");
    assert_eq!(world.mounter.state.lock().settled, [vec![id]]);
}
