//! Operations over items in memory: what each writes is what is read back after a reopening, and
//! what is refused changes nothing.

use crate::base::{BlockAddr, ClusterId, Generation, SegmentId, SnapshotId, Timestamp};
use crate::block::Run;
use crate::catalog::cluster::{HeadChange, NewCluster};
use crate::catalog::error::CatalogError;
use crate::catalog::header::{Header, SnapshotKind, Tombstone};
use crate::catalog::memory::Memory;
use crate::catalog::restore::InPlace;
use crate::catalog::rewrap::{Target, headers_of};
use crate::catalog::snapshot::NewSnapshot;
use crate::catalog::state::{Edit, State, cluster_record, snapshot_record};
use crate::catalog::steps::{self, Budget};
use crate::catalog::storage::Storage;
use crate::catalog::{info, key_usage, sizes};
use crate::crypto::{ClusterSecret, HeaderKeys, HeaderSalt, Wrap};

struct Pool {
    memory: Memory,
    state: State,
    generation: u64,
    next_addr: u64,
}

fn keys(key: Option<&str>, ck_id: u32) -> HeaderKeys {
    let wraps = key.map(|key| Wrap {
        key_id: key.parse().unwrap(),
        resolved: format!("{key}#1"),
        key_version: 1,
        fingerprint: [key.len() as u8; 16],
        wrapped: vec![4; 112],
    });
    HeaderKeys {
        wraps: wraps.into_iter().collect(),
        plain: key.is_none().then(|| ClusterSecret::from_bytes(&[6; 32])),
        salt: HeaderSalt([5; 32]),
        ck_id,
    }
}

fn id(n: u8) -> ClusterId {
    ClusterId([n; 16])
}

fn new_cluster(n: u8, name: &str, header: Header) -> NewCluster {
    NewCluster {
        id: id(n),
        name: name.parse().unwrap(),
        created_at: Timestamp::from_secs(1),
        header,
    }
}

fn new_snapshot(n: u64, cluster: ClusterId, kind: SnapshotKind) -> NewSnapshot {
    NewSnapshot {
        id: SnapshotId(n),
        cluster,
        created_at: Timestamp::from_secs(n as i64),
        expires_at: None,
        kind,
        description: String::new(),
    }
}

impl Pool {
    fn new() -> Self {
        Self { memory: Memory::default(), state: State::new(), generation: 1, next_addr: 1 }
    }
    fn at(&mut self) -> Generation {
        self.generation += 1;
        Generation(self.generation)
    }
    fn edit<R>(
        &mut self,
        edit: impl FnOnce(&mut Edit<'_, Memory>) -> Result<R, CatalogError>,
    ) -> Result<R, CatalogError> {
        let at = self.at();
        let before = self.memory.items.clone();
        let result = self.state.edit(&mut self.memory, at, edit);
        if result.is_err() {
            // As the pool does with the catalog tree.
            self.memory.items = before;
        }
        self.same_after_reopening();
        result
    }
    fn same_after_reopening(&self) {
        let again = State::load(&self.memory).unwrap();
        assert_eq!(again.index, self.state.index);
        assert!(again.table.lines().eq(self.state.table.lines()));
    }
    fn create(&mut self, n: u8, name: &str, key: Option<&str>) {
        let header = Header::empty(keys(key, u32::from(n)));
        self.edit(|e| e.create_cluster(new_cluster(n, name, header), None)).unwrap();
    }
    /// Writes `blocks` and lets the runs in `kills` go, then a checkpoint with a new root.
    fn write(&mut self, n: u8, blocks: u32, kills: &[(Run, Generation)]) -> (Run, Generation) {
        let written = self.write_unchecked(n, blocks, kills);
        self.same_after_reopening();
        written
    }
    fn write_unchecked(
        &mut self,
        n: u8,
        blocks: u32,
        kills: &[(Run, Generation)],
    ) -> (Run, Generation) {
        let segment = self.state.table.current(id(n)).unwrap();
        let run = Run { addr: BlockAddr(self.next_addr), blocks };
        self.next_addr += u64::from(blocks) + 1;
        for addr in run.addr.0..run.end().0 {
            self.memory.blocks.insert(addr, segment);
        }
        let birth = Generation(self.generation + 1);
        let change = HeadChange {
            cluster: id(n),
            ck_id: cluster_record(&self.memory, id(n)).unwrap().header.keys.ck_id,
            root: Some(&[n; 196]),
            root_generation: birth,
            referenced_blocks: u64::from(blocks),
            allocated: &[(segment, u64::from(blocks))],
            kills: kills.to_vec(),
        };
        let at = self.at();
        self.state.edit(&mut self.memory, at, |e| e.settle_head(change)).unwrap();
        (run, birth)
    }
    fn snapshot(&mut self, n: u8, snapshot: u64) -> Result<(), CatalogError> {
        let next = self.state.table.take_segment_id().unwrap();
        self.state.table.commit();
        self.edit(|e| {
            let closed = e.table.cut(id(n), next, e.at)?;
            e.take_snapshot(&new_snapshot(snapshot, id(n), SnapshotKind::OnDemand), closed)
        })
    }
    fn work(&mut self) {
        while self.state.progress.is_due(&self.state.table) {
            self.edit(|e| steps::step(e.table, e.storage, e.progress, Budget::default())).unwrap();
        }
    }
    fn unique(&mut self, snapshot: u64) -> u64 {
        let segment = self.state.index.snapshot(SnapshotId(snapshot)).unwrap().segment;
        sizes::unique_blocks(&mut self.state.table, &self.memory, segment).unwrap()
    }
}

#[test]
fn a_snapshot_keeps_what_its_head_lets_go_until_it_is_deleted() {
    let mut pool = Pool::new();
    pool.create(1, "db", Some("k1"));
    let first = pool.write(1, 10, &[]);
    pool.snapshot(1, 7).unwrap();
    pool.write(1, 4, &[first]);
    assert_eq!(pool.memory.blocks.len(), 14);
    assert_eq!(pool.unique(7), 10);
    pool.edit(|e| e.delete_snapshots(&[SnapshotId(7)])).unwrap();
    assert!(pool.state.index.snapshot(SnapshotId(7)).is_err());
    pool.work();
    assert_eq!(pool.memory.blocks.len(), 4);
    pool.edit(|e| e.delete_cluster(id(1), false)).unwrap();
    pool.work();
    assert!(pool.memory.blocks.is_empty());
    assert_eq!(pool.memory.items.len(), 1, "only the counters stay");
}

#[test]
fn a_header_outlives_origin_and_cluster() {
    let mut pool = Pool::new();
    pool.create(1, "db", Some("k1"));
    pool.write(1, 10, &[]);
    pool.snapshot(1, 7).unwrap();
    let header = snapshot_record(&pool.memory, SnapshotId(7)).unwrap().header;
    let mut resealed = header.dup();
    resealed.keys = keys(None, 9);
    let clone = new_cluster(2, "copy", resealed);
    pool.edit(|e| e.clone_snapshot(SnapshotId(7), clone)).unwrap();
    pool.edit(|e| e.delete_cluster(id(1), false)).unwrap();
    let kept = pool.state.snapshot_info(snapshot_record(&pool.memory, SnapshotId(7)).unwrap());
    assert!(kept.cluster_deleted && kept.cluster_name.as_str() == "db");
    assert_eq!(kept.referenced_blocks, 10);
    assert!(header.same_as(&snapshot_record(&pool.memory, SnapshotId(7)).unwrap().header));
    pool.edit(|e| e.delete_snapshots(&[SnapshotId(7)])).unwrap();
    pool.work();
    assert_eq!(pool.memory.blocks.len(), 10, "the clone holds them");
    let copy = pool.state.cluster_info(cluster_record(&pool.memory, id(2)).unwrap());
    assert_eq!((copy.lineage, copy.referenced_blocks), (id(1), 10));
    assert_eq!(copy.origin.unwrap().cluster_name.as_str(), "db");
    // The name and the id are free again, and the new cluster has nothing to do with the old.
    pool.create(1, "db", None);
    assert_eq!(cluster_record(&pool.memory, id(1)).unwrap().lineage, id(1));
}

#[test]
fn in_place_restore_keeps_what_it_replaces_and_can_be_undone() {
    let mut pool = Pool::new();
    pool.create(1, "db", Some("k1"));
    let first = pool.write(1, 10, &[]);
    pool.snapshot(1, 7).unwrap();
    pool.write(1, 4, &[first]);
    for (from, safety, floor) in [(7, 8, 50), (8, 9, 40)] {
        let header = snapshot_record(&pool.memory, SnapshotId(from)).unwrap().header;
        let before = cluster_record(&pool.memory, id(1)).unwrap();
        let restore = |replaced| InPlace {
            snapshot: SnapshotId(from),
            safety: new_snapshot(safety, id(1), SnapshotKind::Safety),
            header: header.dup(),
            replaced,
            next_inode_floor: floor,
        };
        let stale = restore(Generation(before.header.root_generation.get() - 1));
        let refused = pool.edit(|e| e.restore_in_place(stale));
        assert!(matches!(refused, Err(CatalogError::RootChanged)), "written to since: {refused:?}");
        let fresh = restore(before.header.root_generation);
        pool.edit(|e| e.restore_in_place(fresh)).unwrap();
        let after = cluster_record(&pool.memory, id(1)).unwrap();
        assert!(after.header.same_as(&header));
        assert_eq!(after.next_inode_floor, 50, "the larger one stays");
        let kept = snapshot_record(&pool.memory, SnapshotId(safety)).unwrap();
        assert!(kept.header.same_as(&before.header) && kept.kind == SnapshotKind::Safety);
    }
    assert_eq!(cluster_record(&pool.memory, id(1)).unwrap().header.referenced_blocks, 4);
    assert_eq!(pool.memory.blocks.len(), 14);
    for snapshot in [8, 7, 9] {
        let said = pool.unique(snapshot);
        let before = pool.memory.blocks.len() as u64;
        pool.edit(|e| e.delete_snapshots(&[SnapshotId(snapshot)])).unwrap();
        pool.work();
        assert_eq!(before - pool.memory.blocks.len() as u64, said);
    }
    assert_eq!(pool.memory.blocks.len(), 4);
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut pool = Pool::new();
    pool.create(1, "db", Some("k1"));
    pool.write(1, 3, &[]);
    pool.snapshot(1, 7).unwrap();
    pool.edit(|e| e.change_snapshot(SnapshotId(7), |s| s.held = true)).unwrap();
    let items = pool.memory.items.clone();

    let taken = new_cluster(2, "db", Header::empty(keys(None, 2)));
    let refused = pool.edit(|e| e.create_cluster(taken, None));
    assert!(matches!(refused, Err(CatalogError::ClusterExists(_))));
    let refused = pool.edit(|e| e.delete_snapshots(&[SnapshotId(7)]));
    assert!(matches!(refused, Err(CatalogError::Held(SnapshotId(7)))));
    let refused = pool.edit(|e| e.delete_snapshots(&[SnapshotId(8)]));
    assert!(matches!(refused, Err(CatalogError::SnapshotNotFound(_))));
    assert!(pool.snapshot(9, 10).is_err());
    // A header that was made for a root of another time.
    let mut stale = cluster_record(&pool.memory, id(1)).unwrap().header;
    stale.root_generation = Generation(1);
    let refused = pool.edit(|e| e.clone_snapshot(SnapshotId(7), new_cluster(2, "x", stale.dup())));
    assert!(matches!(refused, Err(CatalogError::RootChanged)));
    let refused = pool.edit(|e| e.stage(Target::Cluster(id(1)), stale, false));
    assert!(matches!(refused, Err(CatalogError::RootChanged)));
    let refused = pool.edit(|e| e.adopt(Target::Snapshot(SnapshotId(7)), 99));
    assert!(matches!(refused, Err(CatalogError::RootChanged)));
    assert_eq!(pool.memory.items, items);
    pool.edit(|e| e.change_snapshot(SnapshotId(7), |s| s.held = false)).unwrap();
    pool.edit(|e| e.delete_snapshots(&[SnapshotId(7)])).unwrap();
}

#[test]
fn a_staged_header_waits_beside_the_old_one_and_then_takes_its_place() {
    let mut pool = Pool::new();
    pool.create(1, "db", Some("k1"));
    pool.write(1, 3, &[]);
    pool.snapshot(1, 7).unwrap();
    pool.snapshot(1, 8).unwrap();
    let target = Target::Snapshot(SnapshotId(7));
    let (old, _) = headers_of(&pool.memory, target).unwrap();
    let mut new = old.dup();
    new.keys = keys(Some("key-two"), 44);
    new.sealed_root = Some(vec![77; 196]);
    pool.edit(|e| e.stage(target, new.dup(), false)).unwrap();
    let (header, staged) = headers_of(&pool.memory, target).unwrap();
    assert!(header.same_as(&old) && staged.unwrap().same_as(&new));
    pool.edit(|e| e.adopt(target, 44)).unwrap();
    let (header, staged) = headers_of(&pool.memory, target).unwrap();
    assert!(header.same_as(&new) && staged.is_none());
    // The sibling keeps its own.
    let (sibling, _) = headers_of(&pool.memory, Target::Snapshot(SnapshotId(8))).unwrap();
    assert!(sibling.same_as(&old));
}

#[test]
fn key_usage_is_complete_and_relatives_are_those_under_other_keys() {
    let mut pool = Pool::new();
    pool.create(1, "db", Some("k1"));
    pool.create(2, "other", None);
    pool.write(1, 3, &[]);
    pool.snapshot(1, 7).unwrap();
    let header = snapshot_record(&pool.memory, SnapshotId(7)).unwrap().header;
    let mut open = header.dup();
    open.keys = keys(None, 9);
    pool.edit(|e| e.clone_snapshot(SnapshotId(7), new_cluster(3, "copy", open))).unwrap();
    let mut rotated = cluster_record(&pool.memory, id(1)).unwrap().header;
    rotated.keys = keys(Some("key-two"), 10);
    pool.edit(|e| e.stage(Target::Cluster(id(1)), rotated, false)).unwrap();
    pool.edit(|e| e.adopt(Target::Cluster(id(1)), 10)).unwrap();
    pool.edit(|e| e.delete_cluster(id(1), false)).unwrap();

    let all = key_usage::all(&pool.memory).unwrap();
    let k1 = "k1".parse().unwrap();
    let users: Vec<_> = all.iter().filter(|u| u.needs(&k1)).collect();
    assert_eq!(users.len(), 1);
    assert_eq!((users[0].snapshot, users[0].cluster_name.as_str()), (Some(SnapshotId(7)), "db"));
    let relatives = key_usage::relatives(&pool.memory, id(1), &users[0].keys).unwrap();
    let names: Vec<_> = relatives.iter().map(|u| u.cluster_name.as_str()).collect();
    assert_eq!(names, ["copy"], "another family and the snapshot itself do not count");
    let mut clusters = 0;
    info::for_each_cluster(&pool.memory, &mut |_| clusters += 1).unwrap();
    assert_eq!(clusters, 2);
}

#[test]
fn a_cluster_whose_log_was_never_replayed_gives_all_its_space_back() {
    let mut pool = Pool::new();
    pool.create(1, "db", Some("k1"));
    pool.write(1, 3, &[]);
    let segment = pool.state.table.current(id(1)).unwrap();
    for addr in 1000..1040 {
        pool.memory.blocks.insert(addr, segment);
    }
    pool.edit(|e| e.delete_cluster(id(1), true)).unwrap();
    pool.work();
    assert!(pool.memory.blocks.is_empty() && pool.state.table.segments().count() == 0);
}

#[test]
fn blocks_that_region_maps_lost_are_corruption_and_not_silence() {
    let mut pool = Pool::new();
    pool.create(1, "db", None);
    let (run, _) = pool.write(1, 3, &[]);
    pool.write(1, 3, &[]);
    pool.memory.blocks.remove(&run.addr.0);
    pool.edit(|e| e.delete_cluster(id(1), false)).unwrap();
    let step = pool.edit(|e| steps::step(e.table, e.storage, e.progress, Budget::default()));
    assert!(step.is_err_and(|e| e.is_corruption()));
}

#[test]
fn a_region_that_cannot_be_read_is_left_alone_until_another_segment_dies() {
    let mut pool = Pool::new();
    for (n, name) in [(1, "db"), (2, "other")] {
        pool.create(n, name, None);
        pool.write(n, 3, &[]);
    }
    pool.memory.rotten = pool.memory.regions().first().copied();
    pool.edit(|e| e.delete_cluster(id(1), false)).unwrap();
    // Comes to an end.
    pool.work();
    assert_eq!(pool.state.table.dead().len(), 1);
    pool.memory.rotten = None;
    pool.edit(|e| e.delete_cluster(id(2), false)).unwrap();
    pool.work();
    assert!(pool.state.table.dead().is_empty() && pool.memory.blocks.is_empty());
}

#[test]
fn tombstones_tell_a_deleted_key_from_a_new_one_of_its_name() {
    let mut pool = Pool::new();
    let mut twin = [1; 16];
    twin[15] = 2;
    for fingerprint in [[1; 16], twin, [9; 16]] {
        let deleted_at = Timestamp::from_secs(3);
        pool.edit(|e| e.bury(Tombstone { fingerprint, deleted_at })).unwrap();
    }
    pool.edit(|e| e.unbury(&[1; 16])).unwrap();
    let left = key_usage::tombstones(&pool.memory).unwrap();
    assert_eq!(left.iter().map(|t| t.fingerprint).collect::<Vec<_>>(), [twin, [9; 16]]);
}

#[test]
fn ten_thousand_snapshots_cost_a_checkpoint_no_more_than_ten() {
    let mut pool = Pool::new();
    pool.create(1, "db", None);
    let mut last = pool.write(1, 2, &[]);
    let mut next = 100;
    let mut take = |pool: &mut Pool, n: u64| {
        for _ in 0..n {
            let at = pool.at();
            let segment = pool.state.table.take_segment_id().unwrap();
            let new = new_snapshot(next, id(1), SnapshotKind::OnDemand);
            next += 1;
            let edit = |e: &mut Edit<'_, Memory>| {
                let closed = e.table.cut(id(1), segment, e.at)?;
                e.take_snapshot(&new, closed)
            };
            pool.state.table.commit();
            pool.state.edit(&mut pool.memory, at, edit).unwrap();
        }
    };
    take(&mut pool, 10);
    pool.memory.ops.set(0);
    last = pool.write_unchecked(1, 2, &[last]);
    let few = pool.memory.ops.get();
    take(&mut pool, 10_000);
    pool.memory.ops.set(0);
    pool.write_unchecked(1, 2, &[last]);
    assert_eq!(pool.memory.ops.get(), few);
    assert_eq!(pool.state.index.snapshots.len(), 10_010);
    let _: SegmentId = pool.state.table.current(id(1)).unwrap();
}
