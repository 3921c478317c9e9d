//! Snapshots: the barrier, one cut, lists all or none, expiry.

use std::time::Duration;

use super::world::{World, name, prefix, request};
use crate::base::ProblemCode;
use crate::base::ids::SnapshotPrefix;
use crate::base::{KeyAnswer, Timestamp};
use crate::service::Which;

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
fn unknown_clusters_and_ambiguous_prefixes_are_refused() {
    let world = World::new();
    let error = world.service.create_snapshots(&Which::All, None, "").unwrap_err();
    assert_eq!(error.code, ProblemCode::ClusterNotFound);
    let which = Which::Named(vec![name("nope")]);
    let error = world.service.create_snapshots(&which, None, "").unwrap_err();
    assert_eq!(error.code, ProblemCode::ClusterNotFound);
    assert!(world.service.snapshots(Some(&name("nope")), false).is_err());
}
