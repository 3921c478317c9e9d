//! Files on several clusters, through everything that can happen to a pool: random histories of
//! file operations, fsyncs, snapshots, clones, in-place restores, deletions, remounts, power cuts
//! between and within operations, beside plain maps. After a power cut a cluster is as it was at its
//! last fsync or checkpoint, or at a later moment. What is allocated is what is reached, always; when
//! all is deleted, the pool is as empty as a new one.
//!
//! A failing seed is printed. `STRONGROOM_SEED=n` runs that one, `STRONGROOM_ROUNDS=n` so many
//! from it on (from 0 without). Where checkpoints are made by a thread beside the operations, a seed
//! fixes what is done but not how the two meet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use strongroom::base::{ClusterId, ClusterName, SnapshotId};
use strongroom::catalog::{Budget, Catalog, CatalogError, NewSnapshot, SnapshotKind, Target};
use strongroom::device::faulty::{Fault, Faulty};
use strongroom::device::sim::SimDevice;
use strongroom::device::{Device, Operation};
use strongroom::pool::{self, CutPlan, Head, OpenOptions, Pool};
use strongroom::sys::threads;
use strongroom::verify;
use strongroom::volume::{Volume, VolumeOptions};

use crate::model::files::{Model, Tree};
use crate::model::{differences, volume as mounted};
use crate::pools::{
    Dice, clone_snapshot, cluster_name, engine_key, key_of, new_cluster, new_device, new_snapshot,
    open_for_reading, restore_in_place,
};

struct Mounted {
    head: Arc<Head>,
    volume: Arc<Volume>,
}

struct Cluster {
    name: ClusterName,
    model: Model,
    /// What it looked like when it was last made durable, and after every operation since.
    since: Vec<Tree>,
    mounted: Option<Mounted>,
}

struct World {
    dice: Dice,
    sim: Arc<SimDevice>,
    faulty: Arc<Faulty>,
    catalog: Arc<Catalog>,
    number: u64,
    clusters: BTreeMap<ClusterId, Cluster>,
    snapshots: BTreeMap<SnapshotId, (ClusterId, Tree)>,
}

/// Around the disk a layer that can let it drop off the bus at any write or flush.
fn open(sim: &Arc<SimDevice>) -> (Arc<Faulty>, Arc<Catalog>) {
    let changes = |op| matches!(op, Operation::Write | Operation::Flush);
    let faulty = Faulty::new(Arc::clone(sim) as Arc<dyn Device>, changes);
    let device: Arc<dyn Device> = faulty.clone();
    let sealed = pool::probe(&device).unwrap();
    let pool = sealed.unlock(engine_key(), OpenOptions::default()).unwrap();
    (faulty, Catalog::open(pool).unwrap())
}

fn options(inode_floor: u64) -> VolumeOptions {
    VolumeOptions {
        inode_floor,
        cached_inodes: 16,
        buffer_bytes: 256 << 10,
        background: false,
        ..VolumeOptions::default()
    }
}

pub fn assert_sound(pool: &Arc<Pool>) {
    let options = verify::CheckOptions { items: &verify::volume_items, data: true };
    let report = verify::check(pool, &options, &mut |_, _| None);
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(report.coverage.is_complete());
}

/// Sound, but for superblock copies that were being written when the power went.
fn assert_sound_but_torn(pool: &Arc<Pool>) {
    let options = verify::CheckOptions { items: &verify::volume_items, data: true };
    let mut report = verify::check(pool, &options, &mut |_, _| None);
    report.findings.retain(|f| !matches!(f.defect, verify::Defect::Superblock { .. }));
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}

impl World {
    fn new(seed: u64) -> Self {
        let sim = new_device();
        let (faulty, catalog) = open(&sim);
        let (clusters, snapshots) = Default::default();
        Self { dice: Dice(seed), sim, faulty, catalog, number: 0, clusters, snapshots }
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn add(&mut self, id: ClusterId, name: ClusterName, tree: Tree) {
        let model = Model::of(&tree);
        self.clusters.insert(id, Cluster { name, model, since: vec![tree], mounted: None });
    }

    fn create(&mut self) {
        let number = self.next_number();
        let new = new_cluster(&self.catalog, number);
        let (id, name) = (new.id, new.name.clone());
        self.catalog.create_cluster(new).unwrap();
        self.add(id, name, Tree::new());
        self.settle();
    }

    /// Every cluster is durable: a checkpoint was made.
    fn settle(&mut self) {
        for cluster in self.clusters.values_mut() {
            cluster.since = vec![cluster.model.seen()];
        }
    }

    fn mount(&mut self, id: ClusterId) -> Arc<Volume> {
        let name = self.clusters[&id].name.clone();
        if let Some(mounted) = &self.clusters[&id].mounted {
            return Arc::clone(&mounted.volume);
        }
        let header = self.catalog.header(Target::Cluster(id)).unwrap();
        let key = key_of(&self.catalog, id, &header.keys);
        let head = self.catalog.open_head(&name, key).unwrap();
        let floor = self.catalog.cluster(&name).unwrap().next_inode_floor;
        let volume = Volume::open_head(Arc::clone(&head), options(floor)).unwrap();
        let mounted = Mounted { head, volume: Arc::clone(&volume) };
        self.clusters.get_mut(&id).unwrap().mounted = Some(mounted);
        volume
    }

    fn unmount(&mut self, id: ClusterId) {
        if let Some(mounted) = self.clusters.get_mut(&id).unwrap().mounted.take() {
            while mounted.volume.background_step().unwrap() {}
            self.catalog.close_head(&mounted.head).unwrap();
            self.settle();
        }
    }

    /// Some operations. Whether all succeeded; where the disk has failed, they need not.
    fn work_on(&mut self, id: ClusterId, count: usize) -> bool {
        let volume = self.mount(id);
        for _ in 0..count {
            let cluster = self.clusters.get_mut(&id).unwrap();
            let op = cluster.model.choose(&mut self.dice);
            cluster.model.apply(&op);
            cluster.since.push(cluster.model.seen());
            if let Err(error) = mounted::apply(&volume, &op) {
                assert!(self.faulty.has_fired(), "{op:?}: {error}");
                return false;
            }
        }
        true
    }

    /// The same while checkpoints are made all the time. Which moment is durable afterwards is not
    /// known.
    fn work_beside_checkpoints(&mut self, id: ClusterId, count: usize) -> bool {
        let (pool, stop) = (Arc::clone(self.catalog.pool()), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&stop);
        let faulty = Arc::clone(&self.faulty);
        let thread = threads::spawn("checkpoints", move || {
            while !ended.load(Ordering::Acquire) {
                if let Err(error) = pool.checkpoint(CutPlan::default()) {
                    assert!(faulty.has_fired(), "{error}");
                    return;
                }
            }
        });
        let goes_on = self.work_on(id, count);
        stop.store(true, Ordering::Release);
        thread.join().unwrap();
        goes_on && !self.faulty.has_fired()
    }

    fn sync(&mut self, id: ClusterId) -> bool {
        let volume = self.mount(id);
        match volume.sync() {
            Ok(()) => {
                let cluster = self.clusters.get_mut(&id).unwrap();
                cluster.since = vec![cluster.model.seen()];
                true
            }
            Err(error) => {
                assert!(self.faulty.has_fired(), "{error}");
                false
            }
        }
    }

    fn checkpoint(&mut self) -> bool {
        match self.catalog.pool().checkpoint(CutPlan::default()) {
            Ok(_) => {
                self.settle();
                true
            }
            Err(error) => {
                assert!(self.faulty.has_fired(), "{error}");
                false
            }
        }
    }

    fn snapshot(&mut self, ids: &[ClusterId]) {
        let new: Vec<NewSnapshot> = ids
            .iter()
            .map(|id| new_snapshot(self.next_number(), *id, SnapshotKind::OnDemand))
            .collect();
        for snapshot in self.catalog.take_snapshots(&new).unwrap() {
            let tree = self.clusters[&snapshot.cluster].model.seen();
            self.snapshots.insert(snapshot.id, (snapshot.cluster, tree));
        }
        self.settle();
    }

    fn clone_of(&mut self, id: SnapshotId) {
        let (from, tree) = self.snapshots[&id].clone();
        let number = self.next_number();
        let cluster = clone_snapshot(&self.catalog, id, from, number);
        let name = cluster_name(number);
        self.add(cluster, name, tree);
        self.settle();
    }

    fn in_place(&mut self, id: SnapshotId) {
        let (cluster, tree) = self.snapshots[&id].clone();
        if !self.clusters.contains_key(&cluster) {
            return;
        }
        let next_inode_floor = self.mount(cluster).next_inode().unwrap();
        self.unmount(cluster);
        let number = self.next_number();
        let safety = restore_in_place(&self.catalog, id, cluster, number, next_inode_floor);
        let state = self.clusters.get_mut(&cluster).unwrap();
        let before = std::mem::replace(&mut state.model, Model::of(&tree)).seen();
        self.snapshots.insert(safety, (cluster, before));
        self.settle();
    }

    fn delete(&mut self, id: SnapshotId) {
        self.catalog.delete_snapshots(&[id]).unwrap();
        self.snapshots.remove(&id);
        self.settle();
    }

    fn delete_cluster(&mut self, id: ClusterId) {
        self.unmount(id);
        let cluster = self.clusters.remove(&id).unwrap();
        self.catalog.delete_cluster(&cluster.name).unwrap();
        self.settle();
    }

    fn background(&mut self, steps: usize) {
        let before = self.catalog.pool().generation();
        for _ in 0..steps {
            if self.catalog.background_step(Budget { runs: 50, regions: 2 }).unwrap().is_done() {
                break;
            }
        }
        // A step is a checkpoint, but nothing is one where nothing is left.
        if self.catalog.pool().generation() > before {
            self.settle();
        }
    }

    /// The power goes while nothing happens, or in the middle of something.
    fn crash(&mut self) {
        if self.dice.roll(2) == 0 {
            let ids: Vec<ClusterId> = self.clusters.keys().copied().collect();
            ids.iter().for_each(|id| drop(self.mount(*id)));
            self.faulty.fail_after(self.dice.roll(60) as u64, Fault::Dead);
            for _ in 0..30 {
                let id = self.dice.pick(&ids);
                let goes_on = match self.dice.roll(6) {
                    0 => self.checkpoint(),
                    1 | 2 => self.sync(id),
                    3 => self.work_beside_checkpoints(id, 6),
                    _ => {
                        let count = 1 + self.dice.roll(4);
                        self.work_on(id, count)
                    }
                };
                if !goes_on {
                    break;
                }
            }
        }
        self.clusters.values_mut().for_each(|cluster| cluster.mounted = None);
        let seed = self.dice.roll(1 << 30) as u64;
        self.sim = self.sim.crash(seed);
        assert_sound_but_torn(&open_for_reading(&self.sim));
        (self.faulty, self.catalog) = open(&self.sim);
        assert_sound(self.catalog.pool());
        let ids: Vec<ClusterId> = self.clusters.keys().copied().collect();
        for id in ids {
            let tree = mounted::look(&self.mount(id));
            let cluster = self.clusters.get_mut(&id).unwrap();
            assert!(
                cluster.since.contains(&tree),
                "{}: not what any moment since the last fsync was, of {}: {}",
                cluster.name,
                cluster.since.len(),
                differences(&tree, cluster.since.last().unwrap())
            );
            cluster.model = Model::of(&tree);
        }
        self.checkpoint();
    }

    fn reopen(&mut self) {
        let ids: Vec<ClusterId> = self.clusters.keys().copied().collect();
        ids.into_iter().for_each(|id| self.unmount(id));
        self.catalog.pool().close().unwrap();
        (self.faulty, self.catalog) = open(&self.sim);
    }

    fn check(&mut self) {
        self.checkpoint();
        assert_sound(self.catalog.pool());
        for cluster in self.clusters.values() {
            if let Some(mounted) = &cluster.mounted {
                let tree = mounted::look(&mounted.volume);
                let wanted = cluster.model.seen();
                assert!(tree == wanted, "{}: {}", cluster.name, differences(&tree, &wanted));
            }
        }
        for (id, (cluster, wanted)) in &self.snapshots {
            let header = self.catalog.header(Target::Snapshot(*id)).unwrap();
            let key = key_of(&self.catalog, *cluster, &header.keys);
            let open = match self.catalog.open_snapshot(*id, &key) {
                Ok(open) => open,
                Err(CatalogError::NothingWritten(_)) => {
                    assert!(wanted.is_empty());
                    continue;
                }
                Err(error) => panic!("{id}: {error}"),
            };
            let volume = Volume::open_view(open.view, open.name_key, options(0)).unwrap();
            let tree = mounted::look(&volume);
            assert!(tree == *wanted, "{id}: {}", differences(&tree, wanted));
        }
    }

    fn step(&mut self) {
        let heads: Vec<ClusterId> = self.clusters.keys().copied().collect();
        let snapshots: Vec<SnapshotId> = self.snapshots.keys().copied().collect();
        if heads.is_empty() {
            return self.create();
        }
        let some = self.dice.pick(&heads);
        match self.dice.roll(100) {
            0..6 => drop(self.work_beside_checkpoints(some, 12)),
            6..40 => {
                let count = 1 + self.dice.roll(25);
                self.work_on(some, count);
            }
            40..48 => drop(self.sync(some)),
            48..57 => self.snapshot(&[some]),
            57..60 => self.snapshot(&heads),
            60..64 if heads.len() < 3 => self.create(),
            64..68 if !snapshots.is_empty() && heads.len() < 4 => {
                let id = self.dice.pick(&snapshots);
                self.clone_of(id);
            }
            68..72 if !snapshots.is_empty() => {
                let id = self.dice.pick(&snapshots);
                self.in_place(id);
            }
            72..79 if !snapshots.is_empty() => {
                let id = self.dice.pick(&snapshots);
                self.delete(id);
            }
            79..81 => self.delete_cluster(some),
            81..86 => self.background(5),
            86..92 => self.crash(),
            92..94 => self.reopen(),
            94..96 => self.unmount(some),
            _ => self.check(),
        }
    }

    fn end(mut self) {
        self.check();
        while let Some(id) = self.snapshots.keys().next().copied() {
            self.delete(id);
        }
        while let Some(id) = self.clusters.keys().next().copied() {
            self.delete_cluster(id);
        }
        self.background(100_000);
        assert_sound(self.catalog.pool());
        assert!(self.catalog.blocks_by_segment().is_empty());
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
    world.create();
    let id = *world.clusters.keys().next().unwrap();
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

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn files_survive_everything_that_happens_to_a_pool() {
    let seeds = match (number("STRONGROOM_SEED"), number("STRONGROOM_ROUNDS")) {
        (Some(seed), rounds) => seed..seed + rounds.unwrap_or(1),
        (None, rounds) => 0..rounds.unwrap_or(40),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| history(seed, 60));
        run.unwrap_or_else(|_| panic!("STRONGROOM_SEED={seed} failed; its message is above"));
    }
}
