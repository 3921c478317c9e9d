//! The main job with data: what was written is in the snapshot, the clone and the restored head,
//! also after the power failed.

use super::world::{World, name, prefix, request};
use crate::base::{KeyAnswer, KeyState};

#[test]
fn written_snapshotted_changed_and_restored_in_every_form() {
    let world = World::new();
    let key = world.local_key("k1");
    world.create("db", Some(&key));
    world.mount("db");
    let old = vec![1u8; 300_000];
    world.write("/mnt/db", "table", &old);
    let id = world.snap("db");
    world.write("/mnt/db", "table", b"changed");
    world.write("/mnt/db", "new", b"x");

    world.service.restore_mount(&prefix(id), request("/mnt/r")).unwrap();
    assert_eq!(world.read("/mnt/r", "table").unwrap(), old);
    assert_eq!(world.read("/mnt/r", "new"), None);
    world.service.restore_to_cluster(&prefix(id), &name("clone")).unwrap();
    world.mount("clone");
    assert_eq!(world.read("/mnt/clone", "table").unwrap(), old);
    world.write("/mnt/clone", "only-here", b"y");
    assert_eq!(world.read("/mnt/db", "only-here"), None);
    assert_eq!(world.read("/mnt/db", "table").unwrap(), b"changed");

    world.umount("db");
    let restored = world.service.restore_in_place(&prefix(id), None).unwrap();
    world.mount("db");
    assert_eq!(world.read("/mnt/db", "table").unwrap(), old);
    assert_eq!(world.read("/mnt/db", "new"), None);
    world.umount("db");
    world.service.restore_in_place(&prefix(restored.safety_snapshot.id), None).unwrap();
    let world = world.restarted();
    world.mount("db");
    assert_eq!(world.read("/mnt/db", "table").unwrap(), b"changed");
    assert_eq!(world.read("/mnt/db", "new").unwrap(), b"x");
}

#[test]
fn rotation_under_a_mount_keeps_the_data_and_the_old_key_opens_old_snapshots_only() {
    let world = World::new();
    let (k1, k2) = (world.fake.create("k1"), world.fake.create("k2"));
    world.create("db", Some(&k1));
    world.mount("db");
    world.write("/mnt/db", "f", b"one");
    let id = world.snap("db");
    world.service.set_key(&name("db"), Some(&k2), false).unwrap();
    world.write("/mnt/db", "f", b"two");
    let after = world.snap("db");
    let world = world.crashed(3);
    world.fake.set(&k1, KeyAnswer::State(KeyState::Disabled));
    world.mount("db");
    world.service.restore_mount(&prefix(after), request("/mnt/after")).unwrap();
    assert_eq!(world.read("/mnt/after", "f").unwrap(), b"two");
    assert!(world.service.restore_mount(&prefix(id), request("/mnt/r")).is_err());
    world.fake.set(&k1, KeyAnswer::State(KeyState::Enabled));
    world.service.restore_mount(&prefix(id), request("/mnt/r")).unwrap();
    assert_eq!(world.read("/mnt/r", "f").unwrap(), b"one");
}

#[test]
fn no_plaintext_and_no_name_stands_on_the_device() {
    let world = World::new();
    world.create("quite-secret-cluster", None);
    world.mount("quite-secret-cluster");
    let text = b"a sentence that is not on the device".repeat(500);
    world.write("/mnt/quite-secret-cluster", "a-telling-file-name", &text);
    world.snap("quite-secret-cluster");
    world.umount("quite-secret-cluster");
    for needle in [&text[..24], b"a-telling-file-name", b"quite-secret-cluster"] {
        assert!(!world.device.contains(needle));
    }
}
