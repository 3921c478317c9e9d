//! The catalog over a real pool on a simulated disk: random histories of writes, snapshots, clones,
//! in-place restores, deletions, key changes, power cuts and reopenings, beside a plain map.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use strongroom::base::cursor::{Reader, Writer};
use strongroom::base::units::BLOCK_SIZE;
use strongroom::base::{BlockAddr, ClusterId, ClusterName, Generation, SegmentId};
use strongroom::base::{SnapshotId, Timestamp};
use strongroom::block::{BlockRef, Run};
use strongroom::catalog::{
    Budget, Catalog, CatalogError, Header, InPlace, NewCluster, NewSnapshot, Replacement,
    SnapshotKind, Target,
};
use strongroom::device::sim::SimDevice;
use strongroom::pool::{self, CutPlan, Head, View};
use strongroom::tree::Key;
use strongroom::verify;

use crate::pools::{Dice, header_keys, key_of, new_device, open, open_for_reading, resealed};

/// What a tree holds: item -> (blocks, fill).
type Contents = BTreeMap<u64, (u32, u8)>;

/// What is allocated is what is reached, once, in the segment of its birth, with its checksum.
fn assert_sound(pool: &Arc<pool::Pool>) {
    let items = |_: Key, value: &[u8], reach: &mut dyn FnMut(Run, Generation)| {
        extents(value).iter().for_each(|extent| reach(extent.run, extent.birth));
        Ok(())
    };
    let options = verify::CheckOptions { items: &items, data: true };
    let report = verify::check(pool, &options, &mut |_, _| None);
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(report.coverage.is_complete());
}

fn item(n: u64) -> Key {
    Key::new(n, 1, 0)
}

struct Extent {
    run: Run,
    birth: Generation,
    refs: Vec<BlockRef>,
    fill: u8,
}

impl Extent {
    fn encode(&self, w: &mut Writer) {
        w.u64(self.run.addr.get()).u32(self.run.blocks).u64(self.birth.get()).u8(self.fill);
        self.refs.iter().for_each(|r| r.encode(w));
    }
    fn decode(r: &mut Reader<'_>) -> Self {
        let run = Run { addr: BlockAddr(r.u64().unwrap()), blocks: r.u32().unwrap() };
        let (birth, fill) = (r.generation().unwrap(), r.u8().unwrap());
        let refs = (0..run.blocks).map(|_| BlockRef::decode(r).unwrap()).collect();
        Self { run, birth, refs, fill }
    }
}

/// The extents of an item, one after the other.
fn extents(value: &[u8]) -> Vec<Extent> {
    let mut r = Reader::new(value);
    let mut found = Vec::new();
    while r.remaining() > 0 {
        found.push(Extent::decode(&mut r));
    }
    found
}

fn write(head: &Head, n: u64, blocks: u32, fill: u8) {
    let runs = head.prepare(&vec![fill; blocks as usize * BLOCK_SIZE]).unwrap();
    head.transact(|txn| {
        for old in extents(&txn.get(item(n))?.unwrap_or_default()) {
            txn.kill(old.run, old.birth);
        }
        let mut value = Writer::new();
        for run in runs {
            let (birth, refs) = (txn.generation(), run.refs().to_vec());
            Extent { run: run.run(), birth, refs, fill }.encode(&mut value);
            txn.claim(run);
        }
        txn.put(item(n), value.into_bytes());
        Ok::<_, pool::PoolError>(())
    })
    .unwrap();
}

fn remove(head: &Head, n: u64) {
    head.transact(|txn| {
        if let Some(value) = txn.get(item(n))? {
            for old in extents(&value) {
                txn.kill(old.run, old.birth);
            }
            txn.remove(item(n));
        }
        Ok::<_, pool::PoolError>(())
    })
    .unwrap();
}

fn contents(view: &View) -> Contents {
    let mut found = Vec::new();
    view.range(Key::MIN, Key::MAX, &mut |key, value| {
        found.push((key.object, extents(value)));
        ControlFlow::Continue(())
    })
    .unwrap();
    let mut out = Contents::new();
    for (n, extent) in found.into_iter().flat_map(|(n, list)| list.into_iter().map(move |e| (n, e)))
    {
        let mut data = vec![0; extent.run.bytes()];
        view.read_blocks(extent.run.addr, &extent.refs, &mut data).unwrap();
        assert!(data.iter().all(|b| *b == extent.fill), "item {n} reads back wrong");
        out.entry(n).or_insert((0, extent.fill)).0 += extent.run.blocks;
    }
    out
}

struct Cluster {
    name: ClusterName,
    now: Contents,
    head: Option<Arc<Head>>,
}

struct World {
    dice: Dice,
    sim: Arc<SimDevice>,
    catalog: Arc<Catalog>,
    number: u64,
    clusters: BTreeMap<ClusterId, Cluster>,
    snapshots: BTreeMap<SnapshotId, (ClusterId, Contents)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let sim = new_device();
        let catalog = open(&sim);
        let (clusters, snapshots) = Default::default();
        Self { dice: Dice(seed), sim, catalog, number: 0, clusters, snapshots }
    }
    fn new_cluster(&mut self, header: Header) -> NewCluster {
        self.number += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.number.to_be_bytes());
        let name = format!("c{}", self.number).parse().unwrap();
        NewCluster { id: ClusterId(id), name, created_at: Timestamp::from_secs(1), header }
    }
    fn new_snapshot(&mut self, cluster: ClusterId, kind: SnapshotKind) -> NewSnapshot {
        self.number += 1;
        NewSnapshot {
            id: SnapshotId(self.number),
            cluster,
            created_at: Timestamp::from_secs(self.number as i64),
            expires_at: None,
            kind,
            description: "by a test".to_owned(),
        }
    }
    fn create(&mut self) -> ClusterId {
        let new = self.new_cluster(Header::empty(header_keys(&self.catalog)));
        let (id, name) = (new.id, new.name.clone());
        self.catalog.create_cluster(new).unwrap();
        self.clusters.insert(id, Cluster { name, now: Contents::new(), head: None });
        id
    }
    fn head(&mut self, id: ClusterId) -> Arc<Head> {
        let cluster = self.clusters.get_mut(&id).unwrap();
        let open = || {
            let header = self.catalog.header(Target::Cluster(id)).unwrap();
            let key = key_of(&self.catalog, id, &header.keys);
            self.catalog.open_head(&cluster.name, key).unwrap()
        };
        Arc::clone(cluster.head.get_or_insert_with(open))
    }
    fn close(&mut self, id: ClusterId) {
        if let Some(head) = self.clusters.get_mut(&id).unwrap().head.take() {
            self.catalog.close_head(&head).unwrap();
        }
    }
    fn write(&mut self, id: ClusterId) {
        let head = self.head(id);
        for _ in 0..=self.dice.roll(12) {
            let n = self.dice.roll(40) as u64;
            if self.dice.roll(6) == 0 {
                remove(&head, n);
                self.clusters.get_mut(&id).unwrap().now.remove(&n);
            } else {
                let (blocks, fill) = (1 + self.dice.roll(8) as u32, self.dice.roll(256) as u8);
                write(&head, n, blocks, fill);
                self.clusters.get_mut(&id).unwrap().now.insert(n, (blocks, fill));
            }
        }
    }
    fn snapshot(&mut self, ids: &[ClusterId]) {
        let new: Vec<NewSnapshot> =
            ids.iter().map(|id| self.new_snapshot(*id, SnapshotKind::OnDemand)).collect();
        let taken = self.catalog.take_snapshots(&new).unwrap();
        let same_cut = taken.iter().all(|s| s.generation == taken[0].generation);
        assert!(same_cut, "several clusters, one point in time");
        for snapshot in taken {
            let now = self.clusters[&snapshot.cluster].now.clone();
            self.snapshots.insert(snapshot.id, (snapshot.cluster, now));
        }
    }
    fn clone_of(&mut self, id: SnapshotId) {
        let (from, now) = self.snapshots[&id].clone();
        let header = self.catalog.header(Target::Snapshot(id)).unwrap();
        let opened = header.keys.ck_id;
        let mut new = self.new_cluster(Header::empty(header_keys(&self.catalog)));
        let keys = new.header.keys.dup();
        new.header = resealed(&self.catalog, from, &header, new.id, keys);
        let (cluster, name) = (new.id, new.name.clone());
        self.catalog.clone_snapshot(id, opened, new).unwrap();
        self.clusters.insert(cluster, Cluster { name, now, head: None });
    }
    fn in_place(&mut self, id: SnapshotId) {
        let (cluster, now) = self.snapshots[&id].clone();
        if !self.clusters.contains_key(&cluster) {
            return;
        }
        self.close(cluster);
        let header = self.catalog.header(Target::Snapshot(id)).unwrap();
        let current = self.catalog.header(Target::Cluster(cluster)).unwrap();
        let replaced = current.root_generation;
        let header = resealed(&self.catalog, cluster, &header, cluster, current.keys);
        let safety = self.new_snapshot(cluster, SnapshotKind::Safety);
        let safety_id = safety.id;
        let restore = InPlace { snapshot: id, safety, header, replaced, next_inode_floor: 0 };
        self.catalog.restore_in_place(restore).unwrap();
        let state = self.clusters.get_mut(&cluster).unwrap();
        let before = std::mem::replace(&mut state.now, now);
        self.snapshots.insert(safety_id, (cluster, before));
    }
    fn change_key(&mut self, target: Target) {
        let (cluster, open) = match target {
            Target::Cluster(id) => (id, self.clusters[&id].head.is_some()),
            Target::Snapshot(id) => (self.snapshots[&id].0, false),
        };
        let old = self.catalog.header(target).unwrap();
        let keys = header_keys(&self.catalog);
        let cluster_key = Some(key_of(&self.catalog, cluster, &keys));
        let header = resealed(&self.catalog, cluster, &old, cluster, keys);
        let ck_id = header.keys.ck_id;
        let new = vec![Replacement { target, header, cluster_key }];
        let prove = |_, found: &Header| {
            assert_eq!(found.keys.ck_id, ck_id);
            if let (Some(sealed), false) = (&found.sealed_root, open) {
                let context = self.catalog.root_context(cluster, found);
                let key = key_of(&self.catalog, cluster, &found.keys);
                pool::root::open_root(&key, &context, sealed).unwrap();
            }
            Ok::<_, CatalogError>(())
        };
        self.catalog.replace_headers(new, prove).unwrap();
        assert_eq!(self.catalog.header(target).unwrap().keys.ck_id, ck_id);
    }
    fn delete(&mut self, ids: &[SnapshotId]) {
        self.work();
        // What heads let go since the last checkpoint must not be taken for the deletion's.
        self.catalog.pool().checkpoint(CutPlan::default()).unwrap();
        let said = self.catalog.blocks_freed_by_deleting(ids).unwrap();
        if let [one] = ids {
            assert_eq!(self.catalog.unique_blocks(&[*one]).unwrap(), [said]);
        }
        let before = self.allocated();
        self.catalog.delete_snapshots(ids).unwrap();
        self.work();
        assert_eq!(before - self.allocated(), said, "not what was said is freed");
        for id in ids {
            self.snapshots.remove(id);
        }
    }
    fn delete_cluster(&mut self, id: ClusterId) {
        self.close(id);
        let cluster = self.clusters.remove(&id).unwrap();
        self.work();
        self.catalog.pool().checkpoint(CutPlan::default()).unwrap();
        let said = self.catalog.cluster_unique_blocks(id).unwrap();
        let before = self.allocated();
        self.catalog.delete_cluster(&cluster.name).unwrap();
        self.work();
        assert_eq!(before - self.allocated(), said, "not what was said is freed");
    }
    fn work(&self) {
        let budget = Budget { runs: 50, regions: 2 };
        for _ in 0..10_000 {
            if self.catalog.background_step(budget).unwrap().is_done() {
                return;
            }
        }
        panic!("the work does not end");
    }
    /// By segment, as region maps have it.
    fn by_map(&self) -> BTreeMap<SegmentId, u64> {
        let pool = self.catalog.pool();
        let mut found = BTreeMap::new();
        for region in pool.regions() {
            for run in pool.region_map(region).unwrap().runs() {
                if run.segment != SegmentId::POOL {
                    *found.entry(run.segment).or_default() += u64::from(run.blocks);
                }
            }
        }
        found
    }
    fn allocated(&self) -> u64 {
        self.by_map().values().sum()
    }
    fn check(&mut self) {
        self.catalog.pool().checkpoint(CutPlan::default()).unwrap();
        assert_sound(self.catalog.pool());
        let maps = self.by_map();
        for (segment, blocks) in self.catalog.blocks_by_segment() {
            assert_eq!(blocks, Some(maps.get(&segment).copied().unwrap_or(0)), "{segment}");
        }
        for (id, cluster) in &self.clusters {
            if let Some(head) = &cluster.head {
                assert_eq!(contents(&head.view()), cluster.now, "head of {id}");
            }
        }
        for (id, (cluster, now)) in &self.snapshots {
            let header = self.catalog.header(Target::Snapshot(*id)).unwrap();
            let key = key_of(&self.catalog, *cluster, &header.keys);
            match self.catalog.open_snapshot(*id, &key) {
                Ok(open) => {
                    assert_eq!(contents(&open.view), *now, "{id}");
                    let busy = self.catalog.delete_snapshots(&[*id]);
                    assert!(matches!(busy, Err(CatalogError::SnapshotBusy(_))));
                }
                Err(CatalogError::NothingWritten(_)) => assert!(now.is_empty()),
                Err(error) => panic!("{id}: {error}"),
            }
        }
    }
    /// The power goes; what was committed is there when it comes back.
    fn crash(&mut self) {
        for cluster in self.clusters.values_mut() {
            if let Some(head) = cluster.head.take() {
                head.commit().unwrap();
            }
        }
        let seed = self.dice.roll(1 << 30) as u64;
        self.sim = self.sim.crash(seed);
        assert_sound(&open_for_reading(&self.sim));
        self.catalog = open(&self.sim);
        assert_sound(self.catalog.pool());
        let ids: Vec<ClusterId> = self.clusters.keys().copied().collect();
        for id in ids {
            // A log that awaits its key stops a snapshot and a change of that key.
            if self.catalog.pool().is_outstanding(id).unwrap() {
                let target = Target::Cluster(id);
                let old = self.catalog.header(target).unwrap();
                let keys = header_keys(&self.catalog);
                let header = resealed(&self.catalog, id, &old, id, keys);
                let new = vec![Replacement { target, header, cluster_key: None }];
                let refused = self.catalog.replace_headers(new, |_, _| Ok::<_, CatalogError>(()));
                assert!(matches!(refused, Err(CatalogError::LogOutstanding(_))));
                let new = [self.new_snapshot(id, SnapshotKind::OnDemand)];
                let refused = self.catalog.take_snapshots(&new);
                assert!(matches!(refused, Err(CatalogError::LogOutstanding(_))));
            }
            let _ = self.head(id);
        }
    }
    fn reopen(&mut self) {
        let ids: Vec<ClusterId> = self.clusters.keys().copied().collect();
        ids.into_iter().for_each(|id| self.close(id));
        self.catalog.pool().close().unwrap();
        self.catalog = open(&self.sim);
    }
    fn step(&mut self) {
        let heads: Vec<ClusterId> = self.clusters.keys().copied().collect();
        let snapshots: Vec<SnapshotId> = self.snapshots.keys().copied().collect();
        if heads.is_empty() {
            self.create();
            return;
        }
        let some = self.dice.pick(&heads);
        match self.dice.roll(100) {
            0..40 => self.write(some),
            40..55 => self.snapshot(&[some]),
            55..60 => self.snapshot(&heads),
            60..65 if heads.len() < 4 => drop(self.create()),
            65..70 if !snapshots.is_empty() && heads.len() < 5 => {
                let id = self.dice.pick(&snapshots);
                self.clone_of(id);
            }
            70..76 if !snapshots.is_empty() => {
                let id = self.dice.pick(&snapshots);
                self.in_place(id);
            }
            76..84 if !snapshots.is_empty() => {
                let mut ids = vec![self.dice.pick(&snapshots)];
                let other = self.dice.pick(&snapshots);
                if self.dice.roll(3) == 0 && other != ids[0] {
                    ids.push(other);
                }
                self.delete(&ids);
            }
            84..87 => self.delete_cluster(some),
            87..90 => self.change_key(Target::Cluster(some)),
            90..92 if !snapshots.is_empty() => {
                let id = self.dice.pick(&snapshots);
                self.change_key(Target::Snapshot(id));
            }
            92..95 => self.crash(),
            95..97 => self.reopen(),
            97..99 => self.close(some),
            _ => self.check(),
        }
    }
    fn end(mut self) {
        self.check();
        while !self.clusters.is_empty() || !self.snapshots.is_empty() {
            let heads: Vec<ClusterId> = self.clusters.keys().copied().collect();
            let snapshots: Vec<SnapshotId> = self.snapshots.keys().copied().collect();
            if !snapshots.is_empty() && (heads.is_empty() || self.dice.roll(4) > 0) {
                let id = self.dice.pick(&snapshots);
                self.delete(&[id]);
            } else {
                let id = self.dice.pick(&heads);
                self.delete_cluster(id);
            }
        }
        assert_eq!(self.allocated(), 0);
        assert!(self.catalog.blocks_by_segment().is_empty());
        assert!(self.catalog.clusters().unwrap().is_empty());
        assert_eq!(settled(&self.catalog), unused());
    }
}

/// Blocks in use once frees are reusable.
fn settled(catalog: &Catalog) -> u64 {
    for _ in 0..3 {
        catalog.pool().checkpoint(CutPlan::default()).unwrap();
    }
    catalog.pool().space().used
}

/// The same of a pool in which one empty cluster came and went: only counters stay of that.
fn unused() -> u64 {
    let mut world = World::new(0);
    let id = world.create();
    world.delete_cluster(id);
    settled(&world.catalog)
}

fn history(seed: u64, steps: usize) {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.end();
}

#[test]
fn random_histories_lose_nothing_and_give_all_space_back() {
    for seed in 0..6 {
        let run = std::panic::catch_unwind(|| history(seed, 70));
        run.unwrap_or_else(|_| panic!("seed {seed} failed; its message is above"));
    }
}

/// STRONGROOM_SEEDS longer histories, from the number STRONGROOM_FROM on.
#[test]
#[ignore = "as long as is wanted: scripts/crash.sh"]
fn many_random_histories() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let (from, count) = (number("STRONGROOM_FROM", 1000), number("STRONGROOM_SEEDS", 100));
    for seed in from..from + count {
        let run = std::panic::catch_unwind(|| history(seed, 200));
        run.unwrap_or_else(|_| panic!("seed {seed} failed; its message is above"));
    }
}

#[test]
fn a_cluster_with_an_outstanding_log_can_be_deleted_without_its_key() {
    let mut world = World::new(1);
    let id = world.create();
    world.write(id);
    world.snapshot(&[id]);
    world.write(id);
    world.clusters[&id].head.as_ref().unwrap().commit().unwrap();
    world.sim = world.sim.crash(5);
    world.catalog = open(&world.sim);
    assert!(world.catalog.pool().is_outstanding(id).unwrap());
    world.clusters.get_mut(&id).unwrap().head = None;
    let name = world.clusters.remove(&id).unwrap().name;
    let deleted = world.catalog.delete_cluster(&name).unwrap();
    assert_eq!(deleted.snapshots_kept, 1);
    world.work();
    world.check();
    world.end();
}

#[test]
fn a_rewrapped_sibling_is_opened_by_its_new_key_alone() {
    let mut world = World::new(2);
    let id = world.create();
    world.write(id);
    world.snapshot(&[id]);
    world.snapshot(&[id]);
    let ids: Vec<SnapshotId> = world.snapshots.keys().copied().collect();
    let old = world.catalog.header(Target::Snapshot(ids[0])).unwrap();
    let old_key = key_of(&world.catalog, id, &old.keys);
    world.change_key(Target::Snapshot(ids[0]));
    assert!(world.catalog.open_snapshot(ids[0], &old_key).is_err());
    let new = world.catalog.header(Target::Snapshot(ids[0])).unwrap();
    let new_key = key_of(&world.catalog, id, &new.keys);
    assert!(world.catalog.open_snapshot(ids[0], &new_key).is_ok());
    assert!(world.catalog.open_snapshot(ids[1], &new_key).is_err());
    assert!(world.catalog.open_snapshot(ids[1], &old_key).is_ok());
    world.end();
}

#[test]
fn a_snapshot_of_a_head_that_was_opened_and_never_written_to_says_so() {
    let mut world = World::new(5);
    let id = world.create();
    world.head(id);
    world.snapshot(&[id]);
    let snapshot = *world.snapshots.keys().next().unwrap();
    let header = world.catalog.header(Target::Snapshot(snapshot)).unwrap();
    assert!(header.sealed_root.is_some(), "a checkpoint sealed the empty tree");
    let opened = world.catalog.open_snapshot(snapshot, &key_of(&world.catalog, id, &header.keys));
    assert!(matches!(opened, Err(CatalogError::NothingWritten(_))));
    drop(opened);
    world.end();
}

#[test]
fn an_unproven_header_never_comes_into_force() {
    let mut world = World::new(3);
    let id = world.create();
    world.write(id);
    world.close(id);
    let target = Target::Cluster(id);
    let old = world.catalog.header(target).unwrap();
    let header = resealed(&world.catalog, id, &old, id, header_keys(&world.catalog));
    let new = vec![Replacement { target, header, cluster_key: None }];
    let sim = Arc::clone(&world.sim);
    let mut crashed = None;
    let refused = world.catalog.replace_headers(new, |_, _| {
        crashed = Some(sim.fork_crashed(9));
        Err(CatalogError::KeyMissing)
    });
    assert!(refused.is_err());
    assert!(world.catalog.header(target).unwrap().same_as(&old));
    // The power went while it was being proven.
    let again = open(&crashed.unwrap());
    assert!(again.header(target).unwrap().same_as(&old));
    assert!(again.open_head(&world.clusters[&id].name, key_of(&again, id, &old.keys)).is_ok());
    world.end();
}

#[test]
fn taking_a_snapshot_writes_as_much_for_a_large_tree_as_for_a_small_one() {
    let written = |items: u64| {
        let mut world = World::new(4);
        let id = world.create();
        let head = world.head(id);
        for n in 0..items {
            write(&head, n, 1, 7);
        }
        world.snapshot(&[id]);
        let before = world.sim.counts().write_bytes;
        world.snapshot(&[id]);
        world.sim.counts().write_bytes - before
    };
    let (small, large) = (written(20), written(4000));
    assert!(large <= small + (64 << 10), "{small} and {large} bytes");
}
