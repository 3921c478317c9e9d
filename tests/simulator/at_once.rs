//! What ends while somebody still uses it: a cluster that is unmounted while files of it are worked
//! on, a snapshot that is deleted while it is mounted.

use std::rc::Rc;

use strongroom::base::ProblemCode;
use strongroom::base::ids::SnapshotPrefix;
use strongroom::service::UmountWhat;

use crate::expected::Mark;
use crate::meanwhile::{Beside, Midway};
use crate::model::volume;
use crate::mounter::{place_of, request};
use crate::outcome::Outcome;
use crate::world::World;

/// A cluster is being unmounted, and stops before a request; files are worked on, as far as that is
/// taken, and made durable. What was taken is there afterwards.
pub fn work_beside_an_end(world: &mut World, cluster: &str, after: u64) {
    let volume = world.volume(cluster);
    let name = cluster.parse().unwrap();
    let beside = Beside::begin(world, after, move |s| {
        s.umount(&UmountWhat::Cluster(&name), false).map(drop)
    });
    let op = world.expected.clusters[cluster].files.choose(&mut world.dice);
    world.tell(format!("  {op:?}"));
    let taken = volume::apply(&volume, &op).is_ok();
    let durable = taken && volume.sync().is_ok();
    let points = world.disk.points();
    let before = world.expected.clone();
    let state = world.cluster(cluster);
    state.mounted = false;
    state.files.apply(&op);
    let tree = Rc::new(state.files.seen());
    state.since.push(tree);
    let loose = world.expected.clone();
    let mut firm = loose.clone();
    firm.settle();
    if !taken {
        world.expected = before;
        world.cluster(cluster).mounted = false;
    }
    let ended = beside.end();
    world.outcome(ended, None);
    // Of what was refused something may have been done.
    let firm = if durable { firm } else { loose.clone() };
    world.midway = Some(Midway { points, loose: vec![loose], firm: vec![firm] });
    world.expected.settle();
}

/// A snapshot is being deleted, which stops before a request; it is mounted, or not any more. Only
/// one of the two is done.
pub fn mount_beside_a_deletion(world: &mut World, mark: &Mark, after: u64) {
    let id = world.expected.snapshots[mark].id;
    let prefix: SnapshotPrefix = id.to_string().parse().unwrap();
    let (ids, place) = (vec![prefix.clone()], place_of(&id.to_string()));
    let beside = Beside::begin(world, after, move |s| s.delete_snapshots(&ids, false));
    let mounted = world.service().restore_mount(&prefix, request(place.clone()));
    let deleted = beside.end();
    if mounted.is_ok() {
        let tree = volume::look(&world.mounts.volume(&place).expect("it is mounted"));
        assert!(tree == *world.expected.snapshots[mark].tree, "a snapshot that is not as it was");
        let code = deleted.expect_err("what is mounted was deleted").code;
        assert_eq!(code, ProblemCode::Busy);
        let ended = world.service().umount(&UmountWhat::Snapshot(&prefix), false).map(drop);
        world.outcome(ended, None);
        return;
    }
    if let Outcome::Done(_) = world.outcome(deleted, None) {
        world.expected.snapshots.remove(mark);
        world.expected.settle();
    }
}
