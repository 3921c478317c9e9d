//! Restores and keys: refused with one clear line while the key is not usable, in all forms.

use super::world::{OWNER, World, name, prefix, request};
use crate::base::{ClusterId, KeyAnswer, KeyState, ProblemCode, Timestamp};
use crate::catalog::{Header, NewCluster};
use crate::service::ServiceError;
use crate::service::types::{ClusterState, EncryptionStatus, SnapshotStatus};

fn refusals(world: &World, id: crate::base::SnapshotId) -> Vec<ServiceError> {
    vec![
        world.service.restore_mount(&prefix(id), request("/mnt/r")).unwrap_err(),
        world.service.restore_to_cluster(&prefix(id), &name("clone")).unwrap_err(),
        world.service.restore_in_place(&prefix(id), None).unwrap_err(),
    ]
}

#[test]
fn every_form_is_refused_while_the_key_is_not_usable_and_changes_nothing() {
    let world = World::new();
    let key = world.fake.create("k");
    world.create("db", Some(&key));
    let id = world.snap("db");
    let answers = [
        (KeyAnswer::State(KeyState::Disabled), ProblemCode::KeyDisabled),
        (KeyAnswer::State(KeyState::PendingDeletion), ProblemCode::KeyPendingDeletion),
        (KeyAnswer::Denied, ProblemCode::KeyDenied),
        (KeyAnswer::Unreachable, ProblemCode::KeyUnreachable),
        (KeyAnswer::State(KeyState::Deleted), ProblemCode::KeyDeleted),
    ];
    for (answer, code) in answers {
        world.fake.set(&key, KeyAnswer::State(KeyState::Enabled));
        world.fake.set(&key, answer);
        for error in refusals(&world, id) {
            assert_eq!((error.code, error.code.exit_status()), (code, 3));
            assert!(error.detail.contains(&id.to_string()), "{error}");
            assert!(error.detail.contains(key.as_str()), "{error}");
            assert!(error.hint.is_some(), "{error}");
        }
        let error = world.service.mount(&name("db"), request("/mnt/db")).unwrap_err();
        assert_eq!((error.code, error.code.exit_status()), (code, 3));
        assert!(error.detail.contains("cluster 'db' cannot be mounted"), "{error}");
        assert!(world.service.mounts().is_empty());
        assert!(world.mounter.state.lock().mounts.is_empty());
        assert_eq!(world.service.clusters(false).unwrap().len(), 1);
        assert_eq!(world.service.snapshots(None, false).unwrap().len(), 1);
    }
}

#[test]
fn what_is_mounted_already_goes_on_and_whoever_asks_for_it_again_is_told_of_its_key() {
    let world = World::new();
    let key = world.fake.create("k");
    world.create("db", Some(&key));
    let id = world.snap("db");
    world.mount("db");
    world.service.restore_mount(&prefix(id), request("/mnt/r")).unwrap();
    let ask = || {
        let mut all = refusals(&world, id);
        all.push(world.service.mount(&name("db"), request("/mnt/db")).unwrap_err());
        all.push(world.service.mount(&name("db"), request("/elsewhere")).unwrap_err());
        all
    };
    for state in [KeyState::Disabled, KeyState::PendingDeletion] {
        world.fake.set(&key, KeyAnswer::State(state));
        for error in ask() {
            assert_eq!(error.code.exit_status(), 3, "{error}");
            assert!(error.detail.contains(key.as_str()), "{error}");
        }
        assert_eq!(world.service.mounts().len(), 2, "nothing ended, nothing was added");
    }
    world.fake.set(&key, KeyAnswer::State(KeyState::Enabled));
    let again = world.service.restore_mount(&prefix(id), request("/mnt/r")).unwrap();
    assert!(again.already_mounted && world.mount("db").already_mounted);
}

#[test]
fn a_mount_that_waits_for_its_key_may_be_asked_for_again() {
    let world = World::new();
    let key = world.fake.create("k");
    world.create("db", Some(&key));
    world.fake.set(&key, KeyAnswer::State(KeyState::Disabled));
    let mut wait = request("/mnt/db");
    wait.options = vec!["key_wait".into()];
    world.service.mount(&name("db"), wait.clone()).unwrap();
    let again = world.service.mount(&name("db"), wait).unwrap();
    assert!(again.already_mounted && again.locked);
    let error = world.service.mount(&name("db"), request("/mnt/db")).unwrap_err();
    assert_eq!(error.code, ProblemCode::KeyDisabled, "the mount that waits has other options");
}

#[test]
fn enabled_again_the_same_restores_work() {
    let world = World::new();
    let key = world.local_key("k1");
    world.create("db", Some(&key));
    let id = world.snap("db");
    world.service.disable_key(&key).unwrap();
    for error in refusals(&world, id) {
        assert_eq!(error.code, ProblemCode::KeyDisabled);
        assert!(error.hint.unwrap().contains("strongroom key enable local://k1"));
    }
    world.service.enable_key(&key).unwrap();
    let mount = world.service.restore_mount(&prefix(id), request("/mnt/r")).unwrap();
    assert!(mount.read_only);
    assert_eq!(mount.snapshot_id, Some(id));
    let clone = world.service.restore_to_cluster(&prefix(id), &name("clone")).unwrap();
    assert_eq!((clone.origin, clone.encryption_key_id.as_ref()), (Some(id), Some(&key)));
    let restored = world.service.restore_in_place(&prefix(id), None).unwrap();
    let week = world.time.lock().plus_secs(7 * 86_400);
    assert_eq!(restored.safety_snapshot.expires_at, Some(week));
}

#[test]
fn a_deleted_key_leaves_unrecoverable_snapshots_that_go_without_any_key() {
    let world = World::new();
    let key = world.local_key("k1");
    world.create("db", Some(&key));
    world.mount("db");
    world.write("/mnt/db", "f", &vec![7; 1 << 20]);
    world.umount("db");
    let id = world.snap("db");
    world.service.delete_key(&key, None, Some(&key)).unwrap();
    world.live(7 * 24 - 1);
    assert_eq!(world.service.key(&key, false).unwrap().state.unwrap().as_str(), "pending-deletion");
    world.live(2);
    let shown = &world.service.snapshots(None, false).unwrap()[0];
    assert_eq!(shown.status, SnapshotStatus::Unrecoverable);
    assert_eq!(shown.encryption_status.as_str(), "deleted");

    let again = world.local_key("k1");
    assert_eq!(again, key);
    let error = world.service.restore_to_cluster(&prefix(id), &name("c")).unwrap_err();
    assert_eq!(error.code, ProblemCode::KeyDeleted, "a new key of that name is not the old one");
    assert_eq!(
        world.service.snapshots(None, false).unwrap()[0].status,
        SnapshotStatus::Unrecoverable
    );
    let usage = world.service.key_usage(&key).unwrap();
    assert!(usage.safe_to_delete, "nothing needs the new key");
    let former: Vec<_> = usage.needing_former_key.iter().map(|u| u.snapshot).collect();
    assert_eq!(former, [None, Some(id)], "the head and its snapshot need the one before");
    let listed = world.service.keys(false).unwrap();
    let listed: Vec<_> = listed.iter().map(|k| (k.state.unwrap().as_str(), k.used_by)).collect();
    assert_eq!(listed, [("enabled", 0), ("deleted", 2)]);

    let used = world.service.pool_status().used_bytes;
    world.service.delete_cluster(&name("db")).unwrap();
    let gone = world.service.delete_snapshots(&[prefix(id)], false).unwrap();
    assert!(gone.frees_bytes >= 1 << 20, "{}", gone.frees_bytes);
    while world.service.tick_background().unwrap() {}
    world.service.pool().checkpoint(crate::pool::CutPlan::default()).unwrap();
    assert!(world.service.pool_status().used_bytes + (1 << 20) <= used);
}

#[test]
fn an_older_keyring_does_not_bring_a_deleted_key_back() {
    let world = World::new();
    let key = world.service.create_key(Some("k1"), Some(std::time::Duration::ZERO)).unwrap();
    let key = key.encryption_key_id;
    world.create("db", Some(&key));
    let config = world.service.config().clone();
    let older = std::fs::read(config.keyring()).unwrap();
    world.service.delete_key(&key, None, Some(&key)).unwrap();
    world.service.close(false, true).unwrap();
    std::fs::write(config.keyring(), older).unwrap();
    let World { device, dir, mounter, fake, time, service } = world;
    let world = World { device, dir, mounter, fake, time, service };
    let error = world.reopened().map(|_| ()).unwrap_err();
    assert_eq!(error.code, ProblemCode::PoolRolledBack);
}

#[test]
fn without_a_customer_key_it_says_so_and_restores() {
    let world = World::new();
    world.create("db", None);
    let id = world.snap("db");
    let shown = world.service.snapshot(&prefix(id), false).unwrap();
    assert_eq!(shown.encryption_status, EncryptionStatus::NotEnabled);
    assert_eq!(shown.encryption_status.as_str(), "Not enabled");
    assert_eq!(shown.encryption_key_id, None);
    world.service.restore_to_cluster(&prefix(id), &name("clone")).unwrap();
    assert_eq!(
        world.service.cluster(&name("clone"), false).unwrap().state,
        ClusterState::Unmounted
    );
}

#[test]
fn in_place_refuses_a_mounted_or_deleted_cluster_and_can_be_undone() {
    let world = World::new();
    world.create("db", None);
    let id = world.snap("db");
    world.mount("db");
    let error = world.service.restore_in_place(&prefix(id), None).unwrap_err();
    assert_eq!(error.code, ProblemCode::Busy);
    world.umount("db");
    let safety = world.service.restore_in_place(&prefix(id), None).unwrap().safety_snapshot;
    world.service.restore_in_place(&prefix(safety.id), None).unwrap();
    world.service.delete_cluster(&name("db")).unwrap();
    let error = world.service.restore_in_place(&prefix(id), None).unwrap_err();
    assert_eq!(error.code, ProblemCode::ClusterNotFound);
    assert!(error.hint.unwrap().contains("--to-cluster"));
}

#[test]
fn a_cluster_whose_key_cannot_wrap_is_not_made() {
    let world = World::new();
    let key = world.fake.create("k");
    for answer in [KeyAnswer::Denied, KeyAnswer::State(KeyState::Disabled)] {
        world.fake.set(&key, answer);
        let made = world.service.create_cluster(&name("db"), Some(&key), OWNER);
        assert_eq!(made.unwrap_err().code.exit_status(), 3);
    }
    world.fake.set(&key, KeyAnswer::State(KeyState::Enabled));
    world.fake.lie_at_unwrap(true);
    assert!(world.service.create_cluster(&name("db"), Some(&key), OWNER).is_err());
    assert!(world.service.clusters(false).unwrap().is_empty());
    let unknown = "what://ever".parse().unwrap();
    let error = world.service.create_cluster(&name("db"), Some(&unknown), OWNER).unwrap_err();
    assert_eq!((error.code, error.code.exit_status()), (ProblemCode::KeyProvider, 2));
}

#[test]
fn a_cluster_whose_creation_was_interrupted_is_treated_like_any() {
    let world = World::new();
    let (service, id) = (&world.service, ClusterId([7; 16]));
    let (keys, key) = service.make_keys(id, None, "it was not made").unwrap();
    let header = Header::empty(keys);
    let new = NewCluster { id, name: name("db"), created_at: Timestamp::from_secs(1), header };
    service.catalog().create_cluster(new).unwrap();
    let head = service.catalog().open_head(&name("db"), key).unwrap();
    // Its tree is sealed before it has a root directory.
    let snapshot = world.snap("db");
    service.catalog().close_head(&head).unwrap();
    let error = service.restore_mount(&prefix(snapshot), request("/mnt/old")).unwrap_err();
    assert_eq!(error.code, ProblemCode::MountFailed, "nothing is damaged: {error}");
    service.restore_in_place(&prefix(snapshot), None).unwrap();
    world.mount("db");
    world.write("/mnt/db", "f", b"data");
    assert_eq!(world.read("/mnt/db", "f").as_deref(), Some(&b"data"[..]));
}
