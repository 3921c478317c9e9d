//! Who needs which key, and moving to another.

use std::sync::Arc;
use std::time::Duration;

use super::world::{OWNER, World, name, prefix};
use crate::base::{EncryptionKeyId, KeyAnswer, KeyState, ProblemCode};
use crate::crypto::{ClusterSecret, Wrap, WrapContext};
use crate::keys::{Anchor, Deadline, KeyDescription, KeysError, LocalProvider, Provider};
use crate::pool::CutPlan;
use crate::service::{ServiceError, Which};
use crate::sys::{clock, threads};

fn used(world: &World, key: &EncryptionKeyId) -> Vec<String> {
    let usage = world.service.key_usage(key).unwrap();
    let shown = usage.results.iter().map(|u| match u.snapshot {
        Some(id) => id.to_string(),
        None => u.cluster_name.to_string(),
    });
    let mut shown: Vec<String> = shown.collect();
    shown.sort();
    assert_eq!(usage.safe_to_delete, shown.is_empty());
    shown
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

#[test]
fn usage_is_complete_heads_snapshots_clones_and_those_of_deleted_clusters() {
    let world = World::new();
    let (k1, k2) = (world.local_key("k1"), world.local_key("k2"));
    world.create("db", Some(&k1));
    world.create("other", Some(&k2));
    let first = world.snap("db");
    world.service.restore_to_cluster(&prefix(first), &name("clone")).unwrap();
    world.service.set_key(&name("db"), Some(&k2), false).unwrap();
    let second = world.snap("db");
    assert_eq!(used(&world, &k1), sorted(vec![first.to_string(), "clone".into()]));
    assert_eq!(used(&world, &k2), sorted(vec!["db".into(), "other".into(), second.to_string()]));
    world.service.delete_cluster(&name("db")).unwrap();
    world.service.delete_cluster(&name("clone")).unwrap();
    assert_eq!(used(&world, &k1), [first.to_string()]);
    assert_eq!(used(&world, &k2), sorted(vec!["other".into(), second.to_string()]));
    let shown = world.service.snapshots(Some(&name("db")), false).unwrap();
    let keys: Vec<_> = shown.iter().map(|s| s.encryption_key_id.clone().unwrap()).collect();
    assert_eq!(keys, [k1, k2], "snapshots keep the key that they were taken under");
    assert!(shown.iter().all(|s| s.cluster_deleted));
}

#[test]
fn clone_rotate_delete_the_origin_and_everything_still_opens() {
    let world = World::new();
    let (k1, k2) = (world.fake.create("k1"), world.fake.create("k2"));
    world.create("db", Some(&k1));
    let first = world.snap("db");
    world.service.set_key(&name("db"), Some(&k2), false).unwrap();
    let second = world.snap("db");
    world.service.restore_to_cluster(&prefix(first), &name("clone")).unwrap();
    world.service.delete_cluster(&name("db")).unwrap();
    let world = world.restarted();
    world.service.restore_to_cluster(&prefix(second), &name("again")).unwrap();
    world.mount("clone");
    world.mount("again");
    world.fake.set(&k2, KeyAnswer::State(KeyState::Disabled));
    world.umount("again");
    let error = world.service.mount(&name("again"), super::world::request("/x")).unwrap_err();
    assert_eq!(error.code, ProblemCode::KeyDisabled);
    world.umount("clone");
    world.mount("clone");
}

#[test]
fn after_the_rewrap_of_one_of_two_siblings_the_new_key_opens_exactly_one() {
    let world = World::new();
    let (k1, k2) = (world.fake.create("k1"), world.fake.create("k2"));
    world.create("db", Some(&k1));
    let (a, b) = (world.snap("db"), world.snap("db"));
    world.service.rewrap(&[prefix(a)], &k2).unwrap();
    world.fake.set(&k1, KeyAnswer::State(KeyState::Disabled));
    world.service.restore_to_cluster(&prefix(a), &name("a")).unwrap();
    assert!(world.service.restore_to_cluster(&prefix(b), &name("b")).is_err());
    world.fake.set(&k1, KeyAnswer::State(KeyState::Enabled));
    world.fake.set(&k2, KeyAnswer::State(KeyState::Disabled));
    world.service.restore_to_cluster(&prefix(b), &name("b")).unwrap();
    assert!(world.service.restore_to_cluster(&prefix(a), &name("c")).is_err());
}

#[test]
fn a_key_change_that_is_refused_changes_nothing() {
    let world = World::new();
    let (k1, k2) = (world.fake.create("k1"), world.fake.create("k2"));
    world.create("db", Some(&k1));
    let id = world.snap("db");
    for (old, new) in
        [(KeyState::Disabled, KeyState::Enabled), (KeyState::Enabled, KeyState::Disabled)]
    {
        world.fake.set(&k1, KeyAnswer::State(old));
        world.fake.set(&k2, KeyAnswer::State(new));
        let error = world.service.set_key(&name("db"), Some(&k2), true).unwrap_err();
        assert_eq!(error.code, ProblemCode::KeyDisabled);
        let error = world.service.rewrap(&[prefix(id)], &k2).unwrap_err();
        assert_eq!(error.code, ProblemCode::KeyDisabled);
        let cluster = world.service.cluster(&name("db"), false).unwrap();
        assert_eq!(cluster.encryption_key_id.as_ref(), Some(&k1));
    }
}

#[test]
fn set_key_enables_rotates_and_drops_and_lists_relatives() {
    let world = World::new();
    let key = world.local_key("k1");
    world.create("db", None);
    let plain = world.snap("db");
    let changed = world.service.set_key(&name("db"), Some(&key), false).unwrap();
    assert_eq!(changed.cluster.encryption_key_id.as_ref(), Some(&key));
    let also = &changed.cluster.also_reachable_via;
    assert_eq!(also.len(), 1, "the snapshot without a key reaches the same blocks");
    assert_eq!((also[0].snapshot, also[0].encryption_key_id.as_ref()), (Some(plain), None));
    let changed = world.service.set_key(&name("db"), Some(&key), true).unwrap();
    assert_eq!(changed.rewrapped, [plain]);
    assert!(changed.cluster.also_reachable_via.len() <= 1);
    let shown = world.service.snapshot(&prefix(plain), false).unwrap();
    assert_eq!(shown.encryption_key_id.as_ref(), Some(&key));
    assert!(changed.shredded.is_some());
    let changed = world.service.set_key(&name("db"), None, false).unwrap();
    assert_eq!(changed.cluster.encryption_status.as_str(), "Not enabled");
}

#[test]
fn a_snapshot_taken_while_keys_are_being_changed_is_not_left_under_the_old_one() {
    for mounted in [false, true] {
        let world = World::new();
        let (k1, k2) = (world.fake.create("k1"), world.fake.create("k2"));
        world.create("db", Some(&k1));
        if mounted {
            world.mount("db");
        }
        let before = world.snap("db");
        let service = world.service.clone();
        let which = Which::Named(vec![name("db")]);
        let take = move || drop(service.create_snapshots(&which, None, "").unwrap());
        // The head's new key is being wrapped, then that of the snapshot in the list.
        let fake = Arc::downgrade(&world.fake);
        world.fake.while_wrapping(move || fake.upgrade().unwrap().while_wrapping(take));
        let changed = world.service.set_key(&name("db"), Some(&k2), true).unwrap();
        assert_eq!(changed.rewrapped.len(), 2);
        assert_eq!(changed.rewrapped[0], before);
        assert_eq!(used(&world, &k1), [""; 0]);
        world.fake.set(&k1, KeyAnswer::State(KeyState::Deleted));
        for (at, id) in changed.rewrapped.iter().enumerate() {
            world.service.restore_to_cluster(&prefix(*id), &name(&format!("c{at}"))).unwrap();
        }
    }
}

#[test]
fn a_clone_made_while_its_snapshot_is_rewrapped_is_under_the_new_key() {
    let world = World::new();
    let (k1, k2) = (world.fake.create("k1"), world.fake.create("k2"));
    world.create("db", Some(&k1));
    let id = world.snap("db");
    world.service.delete_cluster(&name("db")).unwrap();
    let (service, to) = (world.service.clone(), k2.clone());
    world.fake.while_wrapping(move || drop(service.rewrap(&[prefix(id)], &to).unwrap()));
    let clone = world.service.restore_to_cluster(&prefix(id), &name("clone")).unwrap();
    assert_eq!(clone.encryption_key_id, Some(k2));
    assert_eq!(used(&world, &k1), [""; 0], "nothing is left under the old key");
}

#[test]
fn the_key_of_a_mounted_cluster_can_be_rotated() {
    let world = World::new();
    let (k1, k2) = (world.fake.create("k1"), world.fake.create("k2"));
    world.create("db", Some(&k1));
    world.mount("db");
    world.service.set_key(&name("db"), Some(&k2), false).unwrap();
    world.fake.set(&k1, KeyAnswer::State(KeyState::Deleted));
    world.umount("db");
    let world = world.restarted();
    world.mount("db");
}

#[test]
fn a_key_in_use_or_without_a_waiting_period_wants_to_be_named_twice() {
    let world = World::new();
    let used = world.local_key("used");
    world.create("db", Some(&used));
    let error = world.service.delete_key(&used, None, None).unwrap_err();
    assert_eq!(error.code, ProblemCode::KeyInUse);
    assert!(error.hint.unwrap().contains("--force local://used"));
    let wrong: EncryptionKeyId = "other".parse().unwrap();
    assert!(world.service.delete_key(&used, None, Some(&wrong)).is_err());
    let at_once = world.service.create_key(Some("now"), Some(Duration::ZERO)).unwrap();
    let at_once = at_once.encryption_key_id;
    let error = world.service.delete_key(&at_once, None, None).unwrap_err();
    assert_eq!(error.code, ProblemCode::Confirmation);
    let gone = world.service.delete_key(&at_once, None, Some(&at_once)).unwrap();
    assert_eq!(gone.state, Some(KeyAnswer::State(KeyState::Deleted)));
    let pending = world.service.delete_key(&used, None, Some(&used)).unwrap();
    assert_eq!(pending.deletion_at, Some(world.time.lock().plus_secs(7 * 86_400)));
    let kept = world.service.cancel_delete_key(&used).unwrap();
    assert_eq!(kept.state, Some(KeyAnswer::State(KeyState::Disabled)));
}

#[test]
fn the_pool_remembers_a_deletion_that_only_reached_the_keyring() {
    let world = World::new();
    let (key, kept) = (world.local_key("k1"), world.local_key("k2"));
    let keyring = world.service.keyring().unwrap();
    let now = *world.time.lock();
    keyring.delete(&key, None, now).unwrap();
    for _ in 0..7 * 24 {
        world.pass(3600);
        // As if the process ended before it told the pool.
        let now = *world.time.lock();
        keyring.tick(now).unwrap();
    }
    let gone = keyring.show(&key).unwrap();
    assert_eq!(gone.state, KeyState::Deleted);
    assert!(world.service.catalog().tombstones().unwrap().is_empty());
    let alive = keyring.show(&kept).unwrap();
    assert!(world.service.remember_deleted(&alive).is_err());
    drop(keyring);
    let world = world.restarted();
    let remembered = world.service.catalog().tombstones().unwrap();
    let remembered: Vec<_> = remembered.iter().map(|t| t.fingerprint).collect();
    assert_eq!(remembered, [gone.fingerprint]);
}

#[test]
fn a_missing_keyring_is_no_new_one_and_an_older_one_is_found_out_after_it() {
    let world = World::new();
    world.local_key("k1");
    let (path, secret) = (world.service.config().keyring(), world.service.config().keyring_key());
    let older = std::fs::read(&path).unwrap();
    world.local_key("k2");
    let (newest, kept) = (std::fs::read(&path).unwrap(), std::fs::read(&secret).unwrap());
    for file in [&path, &secret] {
        std::fs::remove_file(file).unwrap();
    }
    let world = world.restarted();
    assert!(!path.exists() && !secret.exists());
    let warnings = world.service.status(false).unwrap().warnings;
    assert!(warnings.iter().any(|w| w.contains("keyring")), "{warnings:?}");
    let error = world.service.create_key(Some("k3"), None).unwrap_err();
    assert_eq!(error.code, ProblemCode::Keyring);
    let world = world.restarted();
    crate::keys::root_secret::write_secret_file(
        &secret,
        &crate::crypto::RootSecret::from_bytes(kept.as_slice().try_into().unwrap()),
    )
    .unwrap();
    std::fs::write(&path, newest).unwrap();
    let world = world.restarted();
    assert_eq!(world.service.keyring().unwrap().list().len(), 2);
    world.service.close(true, false).unwrap();
    std::fs::write(&path, older).unwrap();
    assert!(world.reopened().is_err());
}

#[test]
fn a_keyring_that_comes_later_serves_nothing_where_deleted_keys_cannot_be_read() {
    let world = World::new();
    world.local_key("k1");
    let (path, away) = (world.service.config().keyring(), world.dir.path().join("away"));
    std::fs::rename(&path, &away).unwrap();
    let world = world.restarted();
    // An item where tombstones stand (catalog::keys) that is none.
    let key = crate::tree::Key { object: 0x27 << 56, kind: 0x27, offset: 0 };
    let edit: crate::pool::Edit<'_> = Box::new(move |txn, _| txn.put(key, b"?").map(drop));
    world.service.pool().checkpoint(CutPlan { edit: Some(edit), ..CutPlan::default() }).unwrap();
    std::fs::rename(&away, &path).unwrap();
    let error = world.service.create_key(Some("k2"), None).unwrap_err();
    assert_eq!(error.code, ProblemCode::Corrupt, "{error}");
    world.service.tick_keys();
    assert!(world.service.keyring.read().is_none());
    let warnings = world.service.status(false).unwrap().warnings;
    let words = "which keys were deleted is not known";
    assert!(warnings.iter().any(|w| w.contains(words)), "{warnings:?}");
}

/// The embedded keyring, with something that happens after it has opened a wrap.
struct Hooked {
    local: LocalProvider,
    meanwhile: Meanwhile,
    /// The same, after it has told of a key.
    at_describe: Meanwhile,
}

type Meanwhile = std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>;

impl Provider for Hooked {
    fn scheme(&self) -> &'static str {
        self.local.scheme()
    }
    fn describe(&self, id: &EncryptionKeyId, by: Deadline) -> Result<KeyDescription, KeysError> {
        let described = self.local.describe(id, by);
        let meanwhile = self.at_describe.lock().unwrap().take();
        meanwhile.into_iter().for_each(|happens| happens());
        described
    }
    fn describe_wrap(&self, wrap: &Wrap, by: Deadline) -> Result<KeyDescription, KeysError> {
        self.local.describe_wrap(wrap, by)
    }
    fn wrap(
        &self,
        id: &EncryptionKeyId,
        context: &WrapContext,
        secret: &ClusterSecret,
        by: Deadline,
    ) -> Result<Wrap, KeysError> {
        self.local.wrap(id, context, secret, by)
    }
    fn unwrap(
        &self,
        wrap: &Wrap,
        context: &WrapContext,
        by: Deadline,
    ) -> Result<ClusterSecret, KeysError> {
        let opened = self.local.unwrap(wrap, context, by);
        // Not while it is held: what happens may set what happens next.
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|happens| happens());
        opened
    }
}

/// From the `nth` time on that the key opens a wrap, somebody deletes it whom nothing forbids, in
/// another thread. What became of that, once `change` is over.
fn deleting_at(
    world: &World,
    key: &EncryptionKeyId,
    nth: u32,
    change: impl FnOnce(),
) -> Result<(), ServiceError> {
    let (told, result) = std::sync::mpsc::channel();
    let (service, id) = (world.service.clone(), key.clone());
    let delete = move || {
        let deleting = threads::spawn("deleting", move || {
            told.send(service.delete_key(&id, None, None).map(drop)).unwrap();
        });
        // Long enough for one that is not kept waiting.
        let end = clock::monotonic() + Duration::from_millis(500);
        while !deleting.is_finished() && clock::monotonic() < end {
            clock::sleep(Duration::from_millis(5));
        }
    };
    let local = LocalProvider::new(world.service.keyring().unwrap());
    let hooked =
        Arc::new(Hooked { local, meanwhile: Default::default(), at_describe: Default::default() });
    let (first, place) = (Box::new(delete) as Box<dyn FnOnce() + Send>, Arc::downgrade(&hooked));
    let hook = (1..nth).fold(first, |next, _| {
        let place = place.clone();
        Box::new(move || *place.upgrade().unwrap().meanwhile.lock().unwrap() = Some(next))
    });
    *hooked.meanwhile.lock().unwrap() = Some(hook);
    world.service.registry.write().register(hooked);
    change();
    result.recv_timeout(Duration::from_secs(20)).expect("the key was opened so often")
}

#[test]
fn a_key_that_was_just_proved_is_not_deleted_before_its_header_is_in_force() {
    // When it is made, and at the proof of what was written.
    for nth in [1, 2] {
        let world = World::new();
        let (old, new) = (world.fake.create("k1"), world.local_key("k2"));
        world.create("db", Some(&old));
        let mut changed = None;
        let deleted = deleting_at(&world, &new, nth, || {
            changed = Some(world.service.set_key(&name("db"), Some(&new), false).map(drop));
        });
        let changed = changed.unwrap();
        // One of the two happened.
        assert_ne!(changed.is_ok(), deleted.is_ok(), "{nth}: {changed:?}, {deleted:?}");
        let under = world.service.cluster(&name("db"), false).unwrap().encryption_key_id.unwrap();
        assert_eq!(under, if changed.is_ok() { new } else { old });
        world.mount("db");
    }
}

#[test]
fn no_header_comes_under_a_key_between_the_look_at_who_needs_it_and_its_deletion() {
    let world = World::new();
    let (old, new) = (world.fake.create("k1"), world.local_key("k2"));
    world.create("db", Some(&old));
    let (told, result) = std::sync::mpsc::channel();
    let (service, id) = (world.service.clone(), new.clone());
    // When the look has read what there is.
    let change = move || {
        let changing = threads::spawn("changing", move || {
            told.send(service.set_key(&name("db"), Some(&id), false).map(drop)).unwrap();
        });
        let end = clock::monotonic() + Duration::from_secs(1);
        while !changing.is_finished() && clock::monotonic() < end {
            clock::sleep(Duration::from_millis(5));
        }
    };
    let local = LocalProvider::new(world.service.keyring().unwrap());
    let at_describe = std::sync::Mutex::new(Some(Box::new(change) as Box<dyn FnOnce() + Send>));
    let hooked = Hooked { local, meanwhile: Default::default(), at_describe };
    world.service.registry.write().register(Arc::new(hooked));
    let deleted = world.service.delete_key(&new, None, None).map(drop);
    let changed = result.recv_timeout(Duration::from_secs(20)).expect("the key was asked about");
    assert_ne!(changed.is_ok(), deleted.is_ok(), "{changed:?}, {deleted:?}");
    let under = world.service.cluster(&name("db"), false).unwrap().encryption_key_id.unwrap();
    assert_eq!(under, if changed.is_ok() { new } else { old });
    world.mount("db");
}

#[test]
fn no_cluster_is_made_under_a_key_that_was_deleted_meanwhile() {
    // When its keys were made, and when they are asked once more.
    for nth in [1, 2] {
        let world = World::new();
        let key = world.local_key("k1");
        let mut made = None;
        let deleted = deleting_at(&world, &key, nth, || {
            made = Some(world.service.create_cluster(&name("new"), Some(&key), OWNER).map(drop));
        });
        let made = made.unwrap();
        assert_ne!(made.is_ok(), deleted.is_ok(), "{nth}: {made:?}, {deleted:?}");
        assert_eq!(made.is_ok(), world.service.cluster(&name("new"), false).is_ok());
    }
}

#[test]
fn the_anchor_moves_with_what_lets_fewer_read() {
    let world = World::new();
    let (k1, k2) = (world.local_key("k1"), world.local_key("k2"));
    world.create("db", Some(&k1));
    let (a, b) = (world.snap("db"), world.snap("db"));
    let service = &world.service;
    let spec = format!("file:{}", world.dir.path().join("second").display()).parse().unwrap();
    service.add_root_secret(&spec, None).unwrap();
    let changes: [(&str, &dyn Fn()); 5] = [
        ("set-key", &|| drop(service.set_key(&name("db"), Some(&k2), false).unwrap())),
        ("rewrap", &|| drop(service.rewrap(&[prefix(a)], &k2).unwrap())),
        ("snapshot", &|| drop(service.delete_snapshots(&[prefix(b)], false).unwrap())),
        ("root secret", &|| drop(service.remove_root_secret(&spec).unwrap())),
        ("cluster", &|| drop(service.delete_cluster(&name("db")).unwrap())),
    ];
    for (what, change) in changes {
        change();
        let path = service.config().anchor();
        let anchor = Anchor::load(&path, &service.pool_id(), &service.anchor_key).unwrap().unwrap();
        assert_eq!(anchor.generation, service.generation(), "{what}");
    }
}

#[test]
fn root_secrets_changed_at_once_do_not_undo_each_other() {
    let world = World::new();
    let spec = |text: &str| {
        let file = world.dir.path().join(text);
        format!("file:{}", file.display()).parse::<crate::service::RootSecretSpec>().unwrap()
    };
    world.service.add_root_secret(&spec("old"), None).unwrap();
    let held = world.service.root_secrets.lock();
    std::thread::scope(|threads| {
        let adding = threads.spawn(|| world.service.add_root_secret(&spec("new"), None).unwrap());
        let removing = threads.spawn(|| world.service.remove_root_secret(&spec("old")).unwrap());
        std::thread::yield_now();
        assert_eq!(world.service.root_secrets().len(), 2, "changes wait for their turn");
        drop(held);
        (adding.join().unwrap(), removing.join().unwrap())
    });
    let names: Vec<_> = world.service.root_secrets().into_iter().map(|s| s.spec).collect();
    assert_eq!(names.len(), 2);
    assert!(names.contains(&spec("new").to_string()), "{names:?}");
    assert!(!names.contains(&spec("old").to_string()), "{names:?}");
}

#[test]
fn status_names_mounts_that_go_on_without_their_key() {
    let world = World::new();
    let key = world.local_key("k1");
    world.create("db", Some(&key));
    world.mount("db");
    let told = || {
        let warnings = world.service.status(false).unwrap().warnings;
        warnings.iter().any(|w| w.contains("'db'") && w.contains("local://k1"))
    };
    assert!(!told());
    world.service.disable_key(&key).unwrap();
    assert!(told());
    world.umount("db");
    assert!(!told());
}

#[test]
fn a_clock_that_jumps_holds_deletions_until_the_key_is_named_again() {
    let world = World::new();
    let key = world.local_key("k1");
    world.service.delete_key(&key, None, None).unwrap();
    world.pass(100 * 86_400);
    assert!(world.service.tick_minute().deleted_keys.is_empty());
    assert!(world.service.status(false).unwrap().warnings.iter().any(|w| w.contains("clock")));
    let gone = world.service.delete_key(&key, None, Some(&key)).unwrap();
    assert_eq!(gone.state, Some(KeyAnswer::State(KeyState::Deleted)));
}

#[test]
fn lists_show_embedded_keys_and_every_key_that_the_pool_needs() {
    let world = World::new();
    let fake = world.fake.create("k");
    let local = world.local_key("k1");
    world.create("db", Some(&fake));
    let calls = world.fake.calls();
    let keys = world.service.keys(false).unwrap();
    assert_eq!(world.fake.calls(), calls, "a list does not call a provider");
    let ids: Vec<_> = keys.iter().map(|k| k.encryption_key_id.clone()).collect();
    assert_eq!(ids, [fake.clone(), local]);
    assert_eq!((keys[0].used_by, keys[1].used_by), (1, 0));
    assert_eq!(keys[0].state, Some(KeyAnswer::State(KeyState::Enabled)), "the last answer");
    world.fake.set(&fake, KeyAnswer::Unreachable);
    let refreshed = world.service.keys(true).unwrap();
    assert_eq!(refreshed[0].state, Some(KeyAnswer::Unreachable));
    assert!(world.service.test_key(&fake).is_err());
}
