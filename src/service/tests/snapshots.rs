//! Snapshots: the barrier, one cut, lists all or none, expiry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::world::{World, name, prefix, request};
use crate::base::ProblemCode;
use crate::base::ids::SnapshotPrefix;
use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{KeyAnswer, Timestamp};
use crate::pool::PoolError;
use crate::service::{ServiceError, Which};
use crate::sys::{clock, threads};
use crate::volume::{OpenFlags, ROOT_INODE, VolumeError};

#[test]
fn mounted_clusters_are_settled_before_one_cut_for_all() {
    let world = World::new();
    world.create("a", None);
    world.create("b", None);
    world.create("c", None);
    world.mount("a");
    world.mount("b");
    let taken = world.service.create_snapshots(&Which::All, None, "before").unwrap();
    assert_eq!(taken.len(), 3);
    assert_eq!(world.mounter.state.lock().settled.last().unwrap().len(), 2);
    assert!(taken.iter().all(|s| s.created_at == taken[0].created_at));
    world.mounter.state.lock().barrier_fails = true;
    let error = world.service.create_snapshots(&Which::All, None, "").unwrap_err();
    assert_eq!(error.code, ProblemCode::BarrierFailed);
    assert_eq!(world.service.snapshots(None, false).unwrap().len(), 3, "none was taken");
}

#[test]
fn no_key_is_asked_for_a_snapshot() {
    let world = World::new();
    let key = world.fake.create("k");
    world.create("db", Some(&key));
    world.fake.set(&key, KeyAnswer::Unreachable);
    let calls = world.fake.calls();
    world.snap("db");
    assert_eq!(world.fake.calls(), calls);
}

#[test]
fn a_list_is_checked_whole_before_anything_is_deleted() {
    let world = World::new();
    world.create("db", None);
    let (a, b, c) = (world.snap("db"), world.snap("db"), world.snap("db"));
    world.service.hold(&prefix(b), true).unwrap();
    let delete = |ids: &[_]| {
        let ids: Vec<SnapshotPrefix> = ids.iter().map(|id| prefix(*id)).collect();
        world.service.delete_snapshots(&ids, false)
    };
    assert_eq!(delete(&[a, b]).unwrap_err().code, ProblemCode::Held);
    world.service.restore_mount(&prefix(c), request("/mnt/r")).unwrap();
    let error = delete(&[a, c]).unwrap_err();
    assert_eq!(error.code, ProblemCode::Busy);
    assert!(error.detail.contains("/mnt/r"), "{error}");
    let unknown: SnapshotPrefix = "snap-ffffffffffffffff".parse().unwrap();
    let error = world.service.delete_snapshots(&[prefix(a), unknown], false).unwrap_err();
    assert_eq!(error.code, ProblemCode::SnapshotNotFound);
    assert_eq!(world.service.snapshots(None, false).unwrap().len(), 3);
    let dry = world.service.delete_snapshots(&[prefix(a)], true).unwrap();
    assert!(dry.dry_run && dry.shredded.is_none());
    assert_eq!(world.service.snapshots(None, false).unwrap().len(), 3);
    assert!(delete(&[a]).unwrap().shredded.is_some());
    assert_eq!(world.service.snapshots(None, false).unwrap().len(), 2);
}

#[test]
fn one_snapshot_named_twice_is_wrong_usage_and_nothing_is_done() {
    let world = World::new();
    let key = world.fake.create("k");
    world.create("db", None);
    let (a, b) = (world.snap("db"), world.snap("db"));
    let short: SnapshotPrefix = a.to_string()[..20].parse().unwrap();
    for list in [[prefix(a), prefix(a)], [short.clone(), prefix(a)], [prefix(a), short.clone()]] {
        let refused = [
            world.service.delete_snapshots(&list, true).unwrap_err(),
            world.service.delete_snapshots(&list, false).unwrap_err(),
            world.service.rewrap(&list, &key).unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.code, ProblemCode::BadRequest, "{error}");
            assert!(error.detail.contains(&format!("{a} twice")), "{error}");
        }
    }
    assert_eq!(world.service.snapshots(None, false).unwrap().len(), 2);
    world.service.delete_snapshots(&[prefix(b), short], false).unwrap();
    assert!(world.service.snapshots(None, false).unwrap().is_empty());
}

/// Removes a file of the cluster that is mounted, and the kernel forgets it.
fn remove(world: &World, file: &str) {
    let volume = world.volume("/mnt/db");
    let ino = volume.lookup(ROOT_INODE, file.as_bytes()).unwrap().attr.ino;
    volume.unlink(ROOT_INODE, file.as_bytes()).unwrap();
    volume.forget(ino, 2);
}

#[test]
fn what_was_removed_from_the_head_counts_at_once_and_is_pending_until_it_is_free() {
    let world = World::new();
    world.create("db", None);
    world.mount("db");
    let size = 8 << 20;
    world.write("/mnt/db", "f", &vec![7; size]);
    let id = world.snap("db");
    remove(&world, "f");
    let told = world.service.delete_snapshots(&[prefix(id)], true).unwrap().frees_bytes;
    assert!(told >= size as u64, "{told}");
    let used = world.service.pool_status().used_bytes;
    let deleted = world.service.delete_snapshots(&[prefix(id)], false).unwrap();
    assert_eq!(deleted.frees_bytes, told, "nothing changed since");
    assert!(deleted.results[0].unique_bytes >= size as u64);
    let pending = world.service.pool_status().pending_free_bytes;
    assert!(pending >= size as u64, "{pending}");
    while world.service.tick_background().unwrap() {}
    for _ in 0..2 {
        world.service.pool().checkpoint(crate::pool::CutPlan::default()).unwrap();
    }
    assert!(world.service.pool_status().used_bytes + told <= used + (1 << 20));
}

#[test]
fn what_adds_to_a_full_pool_waits_for_what_is_being_freed() {
    let world = World::new();
    world.create("db", None);
    world.mount("db");
    world.write("/mnt/db", "f", &vec![7; 8 << 20]);
    let id = world.snap("db");
    remove(&world, "f");
    world.service.delete_snapshots(&[prefix(id)], false).unwrap();
    let mut refused = 0;
    let added = world.service.with_room(|| {
        if world.service.pool_status().pending_free_bytes < 1 << 20 {
            return Ok(());
        }
        refused += 1;
        Err(PoolError::Full.into())
    });
    added.unwrap();
    assert!(refused > 0, "there was something to wait for");
    let error = world.service.with_room(|| Err::<(), _>(PoolError::Full.into())).unwrap_err();
    assert_eq!(error.code, ProblemCode::PoolFull);
    let hint = error.hint.unwrap();
    assert!(hint.contains("snapshot delete") && hint.contains("pool grow"), "{hint}");
    assert_eq!(ServiceError::from(VolumeError::NoSpace).hint.as_ref(), Some(&hint));
}

#[test]
fn what_has_expired_goes_unless_it_is_held_or_mounted_or_the_clock_went_back() {
    let world = World::new();
    world.create("db", None);
    let which = Which::Named(vec![name("db")]);
    let hour = Some(Duration::from_secs(3600));
    let take = || world.service.create_snapshots(&which, hour, "").unwrap()[0].id;
    let (plain, held, mounted) = (take(), take(), take());
    let forever = world.snap("db");
    world.service.hold(&prefix(held), true).unwrap();
    world.service.restore_mount(&prefix(mounted), request("/mnt/r")).unwrap();
    assert!(world.service.tick_minute().expired.is_empty());
    let begun = *world.time.lock();
    world.pass(3601);
    // Seen later than it is told next: nothing may go.
    *world.time.lock() = Timestamp::from_secs(begun.secs() + 3601);
    assert_eq!(world.service.tick_minute().expired, [plain]);
    world.service.hold(&prefix(held), false).unwrap();
    *world.time.lock() = Timestamp::from_secs(begun.secs() + 3600);
    assert!(world.service.tick_minute().expired.is_empty(), "the clock went back");
    *world.time.lock() = Timestamp::from_secs(begun.secs() + 3700);
    assert_eq!(world.service.tick_minute().expired, [held]);
    let left: Vec<_> = world.service.snapshots(None, false).unwrap().iter().map(|s| s.id).collect();
    assert!(left.contains(&mounted) && left.contains(&forever));
}

#[test]
fn a_clock_set_far_ahead_expires_nothing_and_status_says_so() {
    let world = World::new();
    world.create("db", None);
    let which = Which::Named(vec![name("db")]);
    let two_days = Some(Duration::from_secs(2 * 86_400));
    let take = || world.service.create_snapshots(&which, two_days, "").unwrap()[0].id;
    let first = take();
    world.live(24);
    let right = *world.time.lock();
    world.pass(3650 * 86_400);
    let warned = |world: &World| {
        let warnings = world.service.status(false).unwrap().warnings;
        warnings.iter().any(|w| w.contains("ahead") && w.contains(&right.to_string()))
    };
    assert!(world.service.tick_minute().expired.is_empty());
    assert!(warned(&world));
    // Neither what is taken by that clock nor a new start makes it believed.
    let second = take();
    assert!(world.service.tick_minute().expired.is_empty());
    let world = world.restarted();
    assert!(world.service.tick_minute().expired.is_empty());
    assert!(warned(&world));
    let crashed = world.crashed(1);
    assert!(crashed.service.tick_minute().expired.is_empty());
    *crashed.time.lock() = right;
    assert!(crashed.service.tick_minute().expired.is_empty());
    assert!(!warned(&crashed));
    crashed.live(23);
    assert_eq!(crashed.service.snapshots(None, false).unwrap().len(), 2);
    crashed.live(2);
    let left: Vec<_> = crashed.service.snapshots(None, false).unwrap();
    assert_eq!(left.iter().map(|s| s.id).collect::<Vec<_>>(), [second], "{first} had its time");
}

#[test]
fn a_clock_that_is_behind_does_not_shorten_what_is_kept() {
    let world = World::new();
    world.create("db", None);
    let right = *world.time.lock();
    *world.time.lock() = Timestamp::from_secs(0);
    let day = Some(Duration::from_secs(86_400));
    let which = Which::Named(vec![name("db")]);
    let taken = &world.service.create_snapshots(&which, day, "").unwrap()[0];
    assert_eq!(taken.expires_at, Some(right.plus_secs(86_400)));
    assert!(world.service.tick_minute().expired.is_empty());
    let warnings = world.service.status(false).unwrap().warnings;
    assert!(warnings.iter().any(|w| w.contains("behind")), "{warnings:?}");
}

#[test]
fn a_retention_that_no_date_holds_is_refused_and_not_cut() {
    let world = World::new();
    world.create("db", None);
    let which = Which::Named(vec![name("db")]);
    let days = |n: u64| Some(Duration::from_secs(n * 86_400));
    let error = world.service.create_snapshots(&which, days(36_501), "").unwrap_err();
    assert_eq!(error.code, ProblemCode::Usage);
    assert!(error.detail.contains("36500d"), "{error}");
    assert!(world.service.snapshots(None, false).unwrap().is_empty());
    let kept = &world.service.create_snapshots(&which, days(36_500), "").unwrap()[0];
    assert_eq!(kept.expires_at, Some(world.time.lock().plus_secs(36_500 * 86_400)));
    let error = world.service.restore_in_place(&prefix(kept.id), days(99_999_999)).unwrap_err();
    assert_eq!(error.code, ProblemCode::Usage);
}

#[test]
fn unknown_clusters_and_ambiguous_prefixes_are_refused() {
    let world = World::new();
    let error = world.service.create_snapshots(&Which::All, None, "").unwrap_err();
    assert_eq!(error.code, ProblemCode::ClusterNotFound);
    let which = Which::Named(vec![name("nope")]);
    let error = world.service.create_snapshots(&which, None, "").unwrap_err();
    assert_eq!(error.code, ProblemCode::ClusterNotFound);
    assert!(world.service.snapshots(Some(&name("nope")), false).is_err());
}

/// Frees as the daemon's worker does.
fn freeing<R>(world: &World, meanwhile: impl FnOnce() -> R) -> R {
    let (service, stop) = (Arc::clone(&world.service), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let _attended = world.service.attend_background();
    let worker = threads::spawn("freeing", move || {
        while !stopped.load(Ordering::Acquire) {
            clock::sleep(Duration::from_millis(200));
            service.tick_background().unwrap();
        }
    });
    let done = meanwhile();
    stop.store(true, Ordering::Release);
    worker.join().unwrap();
    done
}

#[test]
fn a_write_that_lacks_room_waits_for_what_a_deleted_snapshot_gives_back_and_for_nothing_else() {
    let world = World::new();
    world.create("db", None);
    world.mount("db");
    let bytes = vec![7; 2 << 20];
    // Not quite half of the pool, and the same again over it.
    let some = world.service.pool().space().free * BLOCK_SIZE_U64 * 45 / 100 / bytes.len() as u64;
    let files: Vec<String> = (0..some).map(|n| format!("f{n}")).collect();
    files.iter().for_each(|file| world.write("/mnt/db", file, &bytes));
    let id = world.snap("db");
    files.iter().for_each(|file| world.write("/mnt/db", file, &bytes));
    world.service.delete_snapshots(&[prefix(id)], false).unwrap();
    let volume = world.volume("/mnt/db");
    freeing(&world, || {
        for n in 0..some / 2 {
            world.write("/mnt/db", &format!("new{n}"), &bytes);
        }
        // Once nothing is left to be freed, a full pool says so at once.
        let ino = volume.lookup(ROOT_INODE, b"f0").unwrap().attr.ino;
        let handle = volume.open(ino, OpenFlags { write: true, truncate: false }).unwrap();
        let len = bytes.len() as u64;
        let refused = (0..).find_map(|n| volume.write(ino, n * len, &bytes, true).err());
        assert!(matches!(refused, Some(VolumeError::NoSpace)), "{refused:?}");
        let begin = clock::monotonic();
        assert!(volume.write(ino, 1 << 40, &bytes, true).is_err());
        assert!(clock::monotonic() - begin < Duration::from_secs(5));
        volume.release(handle).unwrap();
    });
}
