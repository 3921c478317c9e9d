//! Snapshots of what is being written, what is made of them, and a cluster that comes and goes.

use std::sync::Arc;

use strongroom::base::{ClusterId, SnapshotId};
use strongroom::catalog::{Budget, SnapshotKind, Target};
use strongroom::volume::{ROOT_INODE, Volume, VolumeOptions};

use super::{Mounted, Storm, find, mount, new_file};
use crate::pools::{Dice, clone_snapshot, cluster_name, key_of, new_snapshot, restore_in_place};

impl Storm {
    fn snapshot(&self, clusters: &[ClusterId]) -> Vec<SnapshotId> {
        let kind = SnapshotKind::OnDemand;
        let new: Vec<_> =
            clusters.iter().map(|id| new_snapshot(self.next_number(), *id, kind)).collect();
        self.catalog.take_snapshots(&new).unwrap().iter().map(|taken| taken.id).collect()
    }

    /// The volume of a snapshot.
    fn open(&self, snapshot: SnapshotId, cluster: ClusterId) -> Arc<Volume> {
        let header = self.catalog.header(Target::Snapshot(snapshot)).unwrap();
        let key = key_of(&self.catalog, cluster, &header.keys);
        let opened = self.catalog.open_snapshot(snapshot, &key).unwrap();
        let options = VolumeOptions { cached_inodes: 16, ..VolumeOptions::default() };
        Volume::open_view(opened.view, opened.name_key, options).unwrap()
    }

    fn close(&self, mounted: Mounted) {
        self.catalog.close_head(&mounted.head).unwrap();
    }
}

/// A snapshot of both clusters at one moment is of that moment; so is a clone of it.
pub fn take_look_delete(storm: &Storm, dice: &mut Dice) {
    let clusters = &storm.clusters[..2];
    let oldest: Vec<_> = storm.files.iter().map(super::Written::acknowledged).collect();
    let taken = storm.snapshot(clusters);
    let newest: Vec<_> = storm.files.iter().map(super::Written::begun).collect();
    {
        let opened = [0, 1].map(|n| storm.open(taken[n], clusters[n]));
        storm.pair.assert_at_one_moment(&opened);
        for ((file, oldest), newest) in storm.files.iter().zip(&oldest).zip(&newest) {
            file.assert_between(&opened[file.volume], oldest, newest);
        }
    }
    if dice.roll(3) == 0 {
        let number = storm.next_number();
        let clone = clone_snapshot(&storm.catalog, taken[0], clusters[0], number);
        let mounted = mount(&storm.catalog, clone);
        for ((file, oldest), newest) in storm.files.iter().zip(&oldest).zip(&newest) {
            if file.volume == 0 {
                file.assert_between(&mounted.volume, oldest, newest);
            }
        }
        new_file(&mounted.volume, "more");
        storm.close(mounted);
        storm.catalog.delete_cluster(&cluster_name(number)).unwrap();
    }
    storm.catalog.delete_snapshots(&taken).unwrap();
    storm.catalog.background_step(Budget { runs: 50, regions: 2 }).unwrap();
}

/// A cluster is mounted, changed, unmounted and goes back to what it was.
pub fn remount(storm: &Storm, dice: &mut Dice) {
    let cluster = storm.clusters[2];
    let mounted = mount(&storm.catalog, cluster);
    let kept = format!("kept-{}", storm.next_number());
    let ino = new_file(&mounted.volume, &kept);
    mounted.volume.write(ino, 0, kept.as_bytes(), true).unwrap();
    let snapshot = storm.snapshot(&[cluster])[0];
    let lost = new_file(&mounted.volume, "lost");
    mounted.volume.write(lost, 0, &[1; 100_000], true).unwrap();
    if dice.roll(2) == 0 {
        mounted.volume.fsync(lost, false).unwrap();
    }
    let floor = mounted.volume.next_inode().unwrap();
    storm.close(mounted);
    let number = storm.next_number();
    let safety = restore_in_place(&storm.catalog, snapshot, cluster, number, floor);
    find(&storm.open(safety, cluster), "lost");

    let mounted = mount(&storm.catalog, cluster);
    let ino = find(&mounted.volume, &kept);
    let sink = &mut |bytes: &[u8]| assert_eq!(bytes, kept.as_bytes());
    mounted.volume.read(ino, 0, 100, sink).unwrap();
    let gone = mounted.volume.lookup(ROOT_INODE, b"lost");
    assert!(gone.is_err(), "what came after the snapshot is gone");
    mounted.volume.unlink(ROOT_INODE, kept.as_bytes()).unwrap();
    storm.close(mounted);
    storm.catalog.delete_snapshots(&[snapshot, safety]).unwrap();
}
