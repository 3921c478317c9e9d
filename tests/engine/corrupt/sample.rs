//! The pools that are damaged, and what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use strongroom::base::{BlockAddr, ClusterId, ClusterName, Generation, SnapshotId, Timestamp};
use strongroom::block::geometry::RING_START;
use strongroom::catalog::{Catalog, Header, NewCluster, NewSnapshot, SnapshotKind, Target};
use strongroom::crypto::{self, ClusterKey, ClusterSecret, HeaderKeys};
use strongroom::device::Device;
use strongroom::device::sim::SimDevice;
use strongroom::pool::log::LogItem;
use strongroom::pool::superblock::{COPIES, SLOTS, copy_offset};
use strongroom::pool::{CutPlan, Head, Pool, items};
use strongroom::tree::Step;
use strongroom::verify::xray;
use strongroom::volume::{Volume, VolumeOptions};

use crate::model::files::{Model, Tree};
use crate::model::volume as mounted;
use crate::pools::{Dice, header_keys, new_device, open, open_for_reading, resealed, wrap};

/// What stands in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Superblock,
    Ring,
    Map,
    Catalog,
    Node,
    Data,
    Log,
}

pub struct Cluster {
    pub id: ClusterId,
    pub name: ClusterName,
    /// What it may look like: as it was last acknowledged; where the log's end is damaged, as it
    /// was at an earlier moment since the last checkpoint.
    pub moments: Vec<Tree>,
}

/// A pool and everything that is known of it.
pub struct Sample {
    pub sim: Arc<SimDevice>,
    /// The device as it was at earlier moments.
    pub older: Vec<Arc<SimDevice>>,
    pub clusters: Vec<Cluster>,
    pub snapshots: BTreeMap<SnapshotId, (ClusterId, Tree)>,
    pub secrets: Secrets,
    pub generation: Generation,
    /// Blocks in use, by what stands in them.
    pub blocks: BTreeMap<Kind, Vec<u64>>,
    /// First blocks of all nodes, each of four blocks.
    pub nodes: BTreeSet<u64>,
    pub crashed: bool,
}

/// Secrets of clusters under customer keys.
pub type Secrets = BTreeMap<ClusterId, ClusterSecret>;

/// What a key service would do.
pub fn key_of(
    secrets: &Secrets,
    pool: &Pool,
    cluster: ClusterId,
    keys: &HeaderKeys,
) -> Option<ClusterKey> {
    let secret = keys.plain.as_ref().or_else(|| secrets.get(&cluster))?;
    Some(crypto::cluster_key(secret, &keys.salt, &pool.id(), &cluster, keys.ck_id))
}

pub fn options() -> VolumeOptions {
    VolumeOptions {
        cached_inodes: 16,
        buffer_bytes: 256 << 10,
        background: false,
        ..VolumeOptions::default()
    }
}

/// Checkpoints before anything else: more than a quarter of the ring holds.
const CHECKPOINTS: usize = 270;

struct Making {
    dice: Dice,
    sim: Arc<SimDevice>,
    catalog: Arc<Catalog>,
    number: u64,
    secrets: Secrets,
    clusters: Vec<(ClusterId, ClusterName, Model, Vec<Tree>)>,
    mounted: BTreeMap<ClusterId, (Arc<Head>, Arc<Volume>)>,
    snapshots: BTreeMap<SnapshotId, (ClusterId, Tree)>,
    older: Vec<Arc<SimDevice>>,
}

impl Making {
    fn add(&mut self, customer_key: bool) {
        self.number += 1;
        let id = ClusterId([self.number as u8; 16]);
        let mut keys = header_keys(&self.catalog);
        if customer_key {
            self.secrets.insert(id, wrap(&mut keys));
        }
        let name: ClusterName = format!("c{}", self.number).parse().unwrap();
        let created_at = Timestamp::from_secs(1);
        let new = NewCluster { id, name: name.clone(), created_at, header: Header::empty(keys) };
        self.catalog.create_cluster(new).unwrap();
        self.clusters.push((id, name, Model::default(), vec![Tree::new()]));
    }

    fn volume(&mut self, at: usize) -> Arc<Volume> {
        let (id, name) = (self.clusters[at].0, self.clusters[at].1.clone());
        if !self.mounted.contains_key(&id) {
            let header = self.catalog.header(Target::Cluster(id)).unwrap();
            let key = key_of(&self.secrets, self.catalog.pool(), id, &header.keys).unwrap();
            let head = self.catalog.open_head(&name, key).unwrap();
            let volume = Volume::open_head(Arc::clone(&head), options()).unwrap();
            self.mounted.insert(id, (head, volume));
        }
        Arc::clone(&self.mounted[&id].1)
    }

    fn work(&mut self, at: usize, count: usize) {
        let volume = self.volume(at);
        for _ in 0..count {
            let (_, _, model, moments) = &mut self.clusters[at];
            let op = model.choose(&mut self.dice);
            model.apply(&op);
            moments.push(model.seen());
            mounted::apply(&volume, &op).unwrap();
        }
    }

    /// All is durable in the trees.
    fn settle(&mut self) {
        for (_, _, model, moments) in &mut self.clusters {
            *moments = vec![model.seen()];
        }
        self.older.push(self.sim.copy());
    }

    fn snapshot(&mut self, at: usize) -> SnapshotId {
        self.number += 1;
        let cluster = self.clusters[at].0;
        let new = NewSnapshot {
            id: SnapshotId(self.number),
            cluster,
            created_at: Timestamp::from_secs(self.number as i64),
            expires_at: None,
            kind: SnapshotKind::OnDemand,
            description: String::new(),
        };
        let id = self.catalog.take_snapshots(&[new]).unwrap()[0].id;
        self.snapshots.insert(id, (cluster, self.clusters[at].2.seen()));
        self.settle();
        id
    }

    fn clone_of(&mut self, id: SnapshotId) {
        let (from, tree) = self.snapshots[&id].clone();
        self.number += 1;
        let to = ClusterId([self.number as u8; 16]);
        let keys = header_keys(&self.catalog);
        let header = self.catalog.header(Target::Snapshot(id)).unwrap();
        let opened = header.keys.ck_id;
        let header = resealed(&self.catalog, from, &header, to, keys);
        let name: ClusterName = format!("c{}", self.number).parse().unwrap();
        let created_at = Timestamp::from_secs(1);
        let new = NewCluster { id: to, name: name.clone(), created_at, header };
        self.catalog.clone_snapshot(id, opened, new).unwrap();
        self.clusters.push((to, name, Model::of(&tree), vec![tree]));
        self.settle();
    }

    fn close(&mut self) {
        for (head, volume) in std::mem::take(&mut self.mounted).into_values() {
            while volume.background_step().unwrap() {}
            self.catalog.close_head(&head).unwrap();
        }
        self.catalog.pool().close().unwrap();
        self.settle();
    }
}

impl Sample {
    /// The same pool for the same seed, but for its keys. With `crashed` its logs hold what was
    /// acknowledged last.
    pub fn new(seed: u64, crashed: bool) -> Self {
        let sim = new_device();
        let catalog = open(&sim);
        let (clusters, snapshots, older) = Default::default();
        let (secrets, mounted) = Default::default();
        let dice = Dice(seed);
        let mut it =
            Making { dice, sim, catalog, number: 0, secrets, clusters, mounted, snapshots, older };
        it.add(false);
        it.add(true);
        // So many that the space ring is folded into region maps.
        for _ in 0..CHECKPOINTS {
            it.work(0, 1);
            it.catalog.pool().checkpoint(CutPlan::default()).unwrap();
        }
        it.settle();
        let mut first = None;
        for round in 0..4 {
            for at in 0..2 {
                it.work(at, 14);
                let id = it.snapshot(at);
                first = first.or(Some(id).filter(|_| at == 0));
            }
            if round == 1 {
                it.clone_of(first.unwrap());
            }
        }
        it.work(2, 10);
        let second = *it.snapshots.keys().nth(2).unwrap();
        it.catalog.delete_snapshots(&[second]).unwrap();
        it.snapshots.remove(&second);
        it.settle();
        it.close();
        it.catalog = open(&it.sim);
        if crashed {
            for at in 0..3 {
                it.work(at, 3);
            }
            it.catalog.pool().checkpoint(CutPlan::default()).unwrap();
            it.settle();
            for _ in 0..3 {
                for at in 0..3 {
                    it.work(at, 3);
                    it.volume(at).sync().unwrap();
                }
            }
            let generation = it.catalog.pool().generation();
            let sim = it.sim.copy();
            return Self::of(it, sim, generation, true);
        }
        it.close();
        let generation = it.catalog.pool().generation();
        let sim = it.sim.copy();
        Self::of(it, sim, generation, false)
    }

    fn of(it: Making, sim: Arc<SimDevice>, generation: Generation, crashed: bool) -> Self {
        let clusters = it.clusters.into_iter();
        let mut sample = Self {
            blocks: BTreeMap::new(),
            nodes: BTreeSet::new(),
            older: it.older,
            clusters: clusters
                .map(|(id, name, _, moments)| Cluster { id, name, moments })
                .collect(),
            snapshots: it.snapshots,
            secrets: it.secrets,
            generation,
            crashed,
            sim,
        };
        sample.sort_blocks();
        sample
    }

    /// First blocks of the nodes of all clusters and snapshots.
    fn tree_nodes(&self, pool: &Arc<Pool>) -> Vec<u64> {
        let catalog = Catalog::open(Arc::clone(pool)).unwrap();
        let heads = self.clusters.iter().map(|c| (Target::Cluster(c.id), c.id));
        let snapshots = self.snapshots.iter().map(|(id, (of, _))| (Target::Snapshot(*id), *of));
        let mut found = Vec::new();
        for (target, cluster) in heads.chain(snapshots) {
            let header = catalog.header(target).unwrap();
            let Some(root) = &header.sealed_root else { continue };
            let key = key_of(&self.secrets, pool, cluster, &header.keys).unwrap();
            let context = catalog.root_context(cluster, &header);
            let (view, _) = pool.open_view(&key, &context, root).unwrap();
            view.tree().walk(pool.nodes(), &mut |step| {
                if let Step::Node { pointer: Some(pointer), .. } = step {
                    found.extend(pointer.runs().map(|run| run.addr.get()));
                }
                ControlFlow::Continue(())
            });
        }
        found
    }

    fn sort_blocks(&mut self) {
        let pool = open_for_reading(&self.sim);
        let mut blocks: BTreeMap<Kind, Vec<u64>> = BTreeMap::new();
        let mut put = |kind, from: u64, count: u64| {
            blocks.entry(kind).or_default().extend(from..from + count);
        };
        for slot in 0..SLOTS {
            for copy in 0..COPIES {
                put(Kind::Superblock, copy_offset(slot, copy) / 4096, 4);
            }
        }
        for record in pool.ring_records().unwrap() {
            let ring = u64::from(pool.geometry().ring_blocks);
            for at in record.position..record.position + record.blocks {
                put(Kind::Ring, RING_START + at % ring, 1);
            }
        }
        let starts: Vec<u64> = xray::nodes(&pool)
            .iter()
            .flat_map(|n| std::iter::once(n.addr).chain(n.second))
            .collect();
        let blocks_of = |starts: &mut dyn Iterator<Item = u64>| {
            starts.flat_map(|addr| addr..addr + 4).collect::<BTreeSet<u64>>()
        };
        let catalog = blocks_of(&mut starts.iter().copied());
        let tree_nodes = self.tree_nodes(&pool);
        let nodes = blocks_of(&mut tree_nodes.iter().copied());
        self.nodes = tree_nodes.into_iter().chain(starts).collect();
        let logs: Vec<LogItem> = items::logs(pool.read_catalog().tree(), pool.nodes())
            .unwrap()
            .into_iter()
            .map(|(_, item)| item)
            .collect();
        let in_log =
            |addr: u64| logs.iter().any(|l| (l.area.addr..l.area.end()).contains(&BlockAddr(addr)));
        catalog.iter().for_each(|addr| put(Kind::Catalog, *addr, 1));
        let used = self.sim.used_blocks();
        for shape in xray::regions(&pool).unwrap() {
            if let Some((slot, count)) = shape.slot {
                let run = pool.geometry().slot_run(shape.region, slot, count);
                put(Kind::Map, run.addr.get(), u64::from(count));
            }
            for run in xray::region(&pool, shape.region).unwrap().unwrap().runs {
                for addr in run.addr..run.addr + u64::from(run.blocks) {
                    match (in_log(addr), catalog.contains(&addr), nodes.contains(&addr)) {
                        (true, ..) if used.binary_search(&addr).is_ok() => put(Kind::Log, addr, 1),
                        (true, ..) | (_, true, _) => {}
                        (.., true) => put(Kind::Node, addr, 1),
                        _ => put(Kind::Data, addr, 1),
                    }
                }
            }
        }
        // A log area is mostly zeros: what was written to it counts.
        if let Some(log) = blocks.get_mut(&Kind::Log) {
            let mut buf = [0; 4096];
            log.retain(|addr| {
                self.sim.read(addr * 4096, &mut buf).unwrap();
                buf.iter().any(|byte| *byte != 0)
            });
        }
        blocks.retain(|_, found| !found.is_empty());
        self.blocks = blocks;
    }
}
