//! A head on a simulated disk that loses power: acknowledged operations stay, others are a prefix.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Head, OpenHead};
use crate::base::cursor::{Reader, Writer};
use crate::base::limits::EXTENT_BLOCKS_MAX;
use crate::base::units::{BLOCK_SIZE, Generation, SegmentId};
use crate::base::{BlockAddr, ClusterId, PoolId};
use crate::block::{BlockRef, Run};
use crate::crypto::{ClusterKey, EngineKey, EngineWrap, EngineWrapKind};
use crate::device::faulty::{Fault, Faulty};
use crate::device::sim::SimDevice;
use crate::device::{Device, Operation};
use crate::pool::{
    self, CatalogTxn, CreateOptions, CutPlan, CutReport, Keeper, OpenOptions, Pool, PoolError,
};
use crate::sys::sync::{Mutex, Rank};
use crate::tree::Key;

const SEGMENT: SegmentId = SegmentId(16);
pub(super) const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Where the root of a cluster stands in the catalog.
pub(super) const fn root_key(cluster: ClusterId) -> Key {
    Key { object: 0x20 << 56, kind: 0x20, offset: cluster.0[0] as u64 }
}

/// Clusters without snapshots: every kill frees at once.
struct OneCluster;

impl Keeper for OneCluster {
    fn settle(&self, txn: &mut CatalogTxn<'_>, cut: &CutReport) -> Result<(), PoolError> {
        for head in &cut.heads {
            for kill in &head.kills {
                txn.free(kill.run, SEGMENT)?;
            }
            if let Some(root) = &head.root {
                let mut w = Writer::new();
                w.u64(head.root_generation.get()).u64(head.referenced_blocks).sized(root);
                txn.put(root_key(head.cluster), &w.into_bytes())?;
            }
        }
        Ok(())
    }
}

pub(super) fn keeper() -> Arc<dyn Keeper> {
    Arc::new(OneCluster)
}

pub(super) fn engine_key() -> EngineKey {
    EngineKey::from_bytes(&[1; 32])
}

pub(super) fn create(size: u64) -> Arc<SimDevice> {
    let sim = SimDevice::new(size);
    let device: Arc<dyn Device> = sim.clone();
    let wrap = EngineWrap {
        kind: EngineWrapKind::File,
        name: "test".to_owned(),
        kdf: None,
        sealed: vec![1; 112],
    };
    let options = CreateOptions {
        pool_id: PoolId([3; 16]),
        node_bytes: 16 << 10,
        engine_key: engine_key(),
        wraps: vec![wrap],
        now: crate::base::Timestamp::default(),
    };
    pool::create(&device, options).unwrap();
    sim
}

pub(super) fn open_pool(sim: &Arc<SimDevice>, options: OpenOptions) -> Arc<Pool> {
    let device: Arc<dyn Device> = sim.clone();
    let sealed = pool::probe(&device).unwrap();
    let pool = sealed.unlock(engine_key(), options).unwrap();
    pool.set_keeper(Arc::new(OneCluster));
    pool
}

pub(super) fn open(sim: &Arc<SimDevice>) -> (Arc<Pool>, Arc<Head>) {
    let pool = open_pool(sim, OpenOptions::default());
    let head = open_head(&pool);
    (pool, head)
}

fn open_head(pool: &Arc<Pool>) -> Arc<Head> {
    open_cluster(pool, CLUSTER)
}

pub(super) fn open_cluster(pool: &Arc<Pool>, cluster: ClusterId) -> Arc<Head> {
    let stored = pool.read_catalog().get(root_key(cluster)).unwrap();
    pool.open_head(stored_head(cluster, stored)).unwrap()
}

/// What the catalog keeps of a head.
pub(super) fn stored_head(cluster: ClusterId, stored: Option<Vec<u8>>) -> OpenHead {
    let (root_generation, referenced_blocks, sealed_root) = match stored {
        None => (Generation(0), 0, None),
        Some(bytes) => {
            let mut r = Reader::new(&bytes);
            let fields = (r.generation().unwrap(), r.u64().unwrap());
            (fields.0, fields.1, Some(r.sized(4096).unwrap().to_vec()))
        }
    };
    OpenHead {
        cluster,
        ck_id: 1,
        cluster_key: ClusterKey::from_bytes(&[2; 32]),
        sealed_root,
        root_generation,
        segment: SEGMENT,
        referenced_blocks,
    }
}

pub(super) fn key(n: u64) -> Key {
    Key { object: n, kind: 1, offset: 0 }
}

/// What an item points to: blocks all of whose bytes are `fill`.
pub(super) struct Extent {
    pub run: Run,
    birth: Generation,
    refs: Vec<BlockRef>,
    fill: u8,
}

impl Extent {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.run.addr.get()).u32(self.run.blocks).u64(self.birth.get()).u8(self.fill);
        self.refs.iter().for_each(|r| r.encode(&mut w));
        w.into_bytes()
    }
    pub fn decode(bytes: &[u8]) -> Self {
        let mut r = Reader::new(bytes);
        let run = Run { addr: BlockAddr(r.u64().unwrap()), blocks: r.u32().unwrap() };
        let (birth, fill) = (r.generation().unwrap(), r.u8().unwrap());
        let refs = (0..run.blocks).map(|_| BlockRef::decode(&mut r).unwrap()).collect();
        Self { run, birth, refs, fill }
    }
}

/// Where item `n` lies.
pub(super) fn run_of(head: &Head, n: u64) -> Run {
    Extent::decode(&head.view().get(key(n)).unwrap().unwrap()).run
}

/// Writes `blocks` blocks of `fill` under item `n`, letting go of what stood there.
pub(super) fn write(
    head: &Head,
    n: u64,
    blocks: usize,
    fill: u8,
    out: bool,
) -> Result<(), PoolError> {
    let mut runs = Vec::new();
    let mut left = blocks;
    while left > 0 {
        let now = left.min(EXTENT_BLOCKS_MAX as usize);
        runs.extend(head.prepare(&vec![fill; now * BLOCK_SIZE])?);
        left -= now;
    }
    if out {
        head.write_out(&mut runs)?;
    }
    head.transact(|txn| {
        let mut at = n;
        for run in std::mem::take(&mut runs) {
            if let Some(old) = txn.get(key(at))? {
                let old = Extent::decode(&old);
                txn.kill(old.run, old.birth);
            }
            let extent =
                Extent { run: run.run(), birth: txn.generation(), refs: run.refs().to_vec(), fill };
            txn.put(key(at), extent.encode());
            txn.claim(run);
            at += 1000;
        }
        Ok(())
    })
}

pub(super) fn remove(head: &Head, n: u64) -> Result<(), PoolError> {
    head.transact(|txn| {
        if let Some(old) = txn.get(key(n))? {
            let old = Extent::decode(&old);
            txn.kill(old.run, old.birth);
            txn.remove(key(n));
        }
        Ok(())
    })
}

/// Item -> (blocks, fill), each block read and compared.
pub(super) fn contents(head: &Head) -> BTreeMap<u64, (u32, u8)> {
    let view = head.view();
    let mut found = Vec::new();
    view.range(Key::MIN, Key::MAX, &mut |key, value| {
        found.push((key.object, Extent::decode(value)));
        ControlFlow::Continue(())
    })
    .unwrap();
    let mut out = BTreeMap::new();
    for (n, extent) in found {
        let mut data = vec![0; extent.run.bytes()];
        view.read_blocks(extent.run.addr, &extent.refs, &mut data).unwrap();
        assert!(data.iter().all(|b| *b == extent.fill), "item {n} reads back wrong");
        out.insert(n, (extent.run.blocks, extent.fill));
    }
    out
}

#[test]
fn what_was_committed_is_there_after_a_power_cut_and_what_was_not_is_a_prefix() {
    let sim = create(256 << 20);
    let (_pool, head) = open(&sim);
    write(&head, 1, 2, 11, false).unwrap();
    write(&head, 2, 300, 12, true).unwrap();
    head.commit().unwrap();
    let committed = contents(&head);
    write(&head, 1, 1, 13, false).unwrap();
    for seed in 0..8 {
        let crashed = sim.fork_crashed(seed);
        let (_pool, head) = open(&crashed);
        assert_eq!(contents(&head), committed, "seed {seed}");
    }
}

#[test]
fn a_commit_during_a_checkpoint_is_found_from_the_superblock_before() {
    // The cut of the next interval is reached through a participant that commits while the
    // checkpoint is under way: the keeper runs between cut and superblock.
    struct Committer(Arc<Head>, Arc<SimDevice>, Mutex<Vec<Arc<SimDevice>>>);
    impl Keeper for Committer {
        fn settle(&self, txn: &mut CatalogTxn<'_>, cut: &CutReport) -> Result<(), PoolError> {
            OneCluster.settle(txn, cut)?;
            write(&self.0, 5, 1, 50, false)?;
            self.0.commit()?;
            let crashed: Vec<_> = (0..6).map(|seed| self.1.fork_crashed(seed)).collect();
            self.2.lock().extend(crashed);
            Ok(())
        }
    }
    let sim = create(256 << 20);
    let (pool, head) = open(&sim);
    write(&head, 4, 1, 40, false).unwrap();
    let keeper = Arc::new(Committer(
        Arc::clone(&head),
        Arc::clone(&sim),
        Mutex::new(Rank::StandIn, Vec::new()),
    ));
    pool.set_keeper(Arc::clone(&keeper) as _);
    pool.checkpoint(CutPlan::default()).unwrap();
    pool.set_keeper(Arc::new(OneCluster));
    let expected = BTreeMap::from([(4, (1, 40)), (5, (1, 50))]);
    assert_eq!(contents(&head), expected);
    let crashed = std::mem::take(&mut *keeper.2.lock());
    assert_eq!(crashed.len(), 6);
    for sim in crashed {
        assert_eq!(contents(&open(&sim).1), expected);
    }
}

#[test]
fn a_record_that_outlived_the_data_it_claims_is_not_believed() {
    // One flush for data and record: the power goes before it, and may keep the one alone.
    let mut kept = 0;
    for seed in 0..80 {
        let sim = create(256 << 20);
        let faulty = Faulty::new(sim.clone(), |op| op == Operation::Flush);
        let device: Arc<dyn Device> = faulty.clone();
        let pool = pool::probe(&device).unwrap();
        let pool = pool.unlock(engine_key(), OpenOptions::default()).unwrap();
        pool.set_keeper(Arc::new(OneCluster));
        let head = open_head(&pool);
        write(&head, 1, 2, 11, true).unwrap();
        head.commit().unwrap();
        let before = contents(&head);
        write(&head, 2, 20, 12, true).unwrap();
        let after = contents(&head);
        faulty.fail_after(0, Fault::Dead);
        assert!(head.commit().is_err());
        // Reads every block of whatever is believed.
        let found = contents(&open(&sim.crash(seed)).1);
        assert!(found == before || found == after, "seed {seed}: {found:?}");
        kept += u32::from(found == after);
    }
    assert!(kept > 0 && kept < 80, "{kept} of 80: the test has no edge");
}

/// Where the records of a head's log stand on the device, in bytes.
pub(super) fn records(sim: &SimDevice, head: &Head) -> Vec<u64> {
    let area = head.log_area;
    let offsets = (0..u64::from(area.blocks)).map(|block| area.addr.plus(block).offset_bytes());
    let mut bytes = [0; BLOCK_SIZE];
    let begins = |offset: &u64| {
        sim.read(*offset, &mut bytes).unwrap();
        bytes.starts_with(&crate::pool::log::record::MAGIC)
    };
    offsets.filter(begins).collect()
}

/// Whether a head opens after a crash, with a record at `offset` that has rotted.
fn opens_without(sim: &SimDevice, offset: u64) -> bool {
    let crashed = sim.fork_crashed(1);
    crashed.corrupt(offset + 100, 1);
    let pool = open_pool(&crashed, OpenOptions::default());
    let stored = pool.read_catalog().get(root_key(CLUSTER)).unwrap();
    pool.open_head(stored_head(CLUSTER, stored)).is_ok()
}

#[test]
fn a_rotten_record_that_had_been_flushed_is_corruption_and_not_the_end() {
    let sim = create(256 << 20);
    let (_pool, head) = open(&sim);
    for n in 0..4 {
        write(&head, n, 1, n as u8, false).unwrap();
        head.commit().unwrap();
    }
    let found = records(&sim, &head);
    assert_eq!(found.len(), 4);
    for (at, offset) in found.iter().enumerate() {
        // Of the last one nobody can say whether it was flushed.
        assert_eq!(opens_without(&sim, *offset), at == 3, "record {at}");
    }
}

#[test]
fn what_had_been_flushed_is_known_from_the_log_after_the_next_cut_too() {
    // Two commits while a checkpoint is under way: the first writes a record of the interval that was
    // cut, the switch, and a record of the next interval; the second says that these were flushed.
    struct Commits(Arc<Head>, Arc<SimDevice>, Mutex<Option<Arc<SimDevice>>>);
    impl Keeper for Commits {
        fn settle(&self, txn: &mut CatalogTxn<'_>, cut: &CutReport) -> Result<(), PoolError> {
            OneCluster.settle(txn, cut)?;
            for n in 5..7 {
                write(&self.0, n, 1, 50, false)?;
                self.0.commit()?;
            }
            *self.2.lock() = Some(self.1.fork_crashed(3));
            Ok(())
        }
    }
    let sim = create(256 << 20);
    let (pool, head) = open(&sim);
    write(&head, 4, 1, 40, false).unwrap();
    let none = Mutex::new(Rank::StandIn, None);
    let keeper = Arc::new(Commits(Arc::clone(&head), Arc::clone(&sim), none));
    pool.set_keeper(Arc::clone(&keeper) as _);
    pool.checkpoint(CutPlan::default()).unwrap();
    pool.set_keeper(Arc::new(OneCluster));
    let crashed = keeper.2.lock().take().unwrap();
    let found = records(&crashed, &head);
    assert_eq!(found.len(), 4);
    let opens: Vec<bool> = found.iter().map(|offset| opens_without(&crashed, *offset)).collect();
    // Without the switch nobody knows of the next interval, and of the last record nobody can say.
    assert_eq!(opens, [false, true, false, true]);
}

#[test]
fn a_head_that_is_being_closed_takes_nothing_that_its_last_cut_would_miss() {
    struct Late(Arc<Head>);
    impl Keeper for Late {
        fn settle(&self, txn: &mut CatalogTxn<'_>, cut: &CutReport) -> Result<(), PoolError> {
            OneCluster.settle(txn, cut)?;
            let refused = write(&self.0, 5, 1, 50, false);
            assert!(matches!(refused, Err(PoolError::Wiped)), "{refused:?}");
            Ok(())
        }
    }
    let sim = create(256 << 20);
    let (pool, head) = open(&sim);
    write(&head, 4, 1, 40, false).unwrap();
    pool.set_keeper(Arc::new(Late(Arc::clone(&head))));
    pool.close_head(&head).unwrap();
    pool.set_keeper(Arc::new(OneCluster));
    assert_eq!(contents(&open_head(&pool)), BTreeMap::from([(4, (1, 40))]));
}

#[test]
fn closing_frees_everything_that_mounting_took() {
    let sim = create(256 << 20);
    let (pool, head) = open(&sim);
    pool.close_head(&head).unwrap();
    pool.checkpoint(CutPlan::default()).unwrap();
    let empty = pool.space().used;
    for round in 0..3 {
        let head = open_head(&pool);
        write(&head, round, 32, 9, true).unwrap();
        remove(&head, round).unwrap();
        assert!(matches!(head.transact(|_| Ok::<_, PoolError>(())), Ok(())));
        pool.close_head(&head).unwrap();
        assert!(matches!(head.transact(|_| Ok::<_, PoolError>(())), Err(PoolError::Wiped)));
    }
    for _ in 0..3 {
        pool.checkpoint(CutPlan::default()).unwrap();
    }
    assert_eq!(pool.space().used, empty);
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        n: u64,
        blocks: usize,
        fill: u8,
        out: bool,
    },
    Remove {
        n: u64,
    },
    Commit,
    Checkpoint,
    Crash {
        seed: u64,
    },
    /// In a commit, or a checkpoint, at its nth write or flush.
    CrashIn {
        checkpoint: bool,
        nth: u64,
        seed: u64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12u64, 1..40usize, any::<u8>(), any::<bool>())
            .prop_map(|(n, blocks, fill, out)| Step::Write { n, blocks, fill, out }),
        2 => (0..12u64).prop_map(|n| Step::Remove { n }),
        4 => Just(Step::Commit),
        2 => Just(Step::Checkpoint),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        2 => (any::<bool>(), 0..14u64, any::<u64>())
            .prop_map(|(checkpoint, nth, seed)| Step::CrashIn { checkpoint, nth, seed }),
        1 => Just(Step::Reopen),
    ]
}

/// A head, what it has held after each operation, and how far that is safe.
struct World {
    sim: Arc<SimDevice>,
    faulty: Arc<Faulty>,
    pool: Arc<Pool>,
    head: Arc<Head>,
    history: Vec<BTreeMap<u64, (u32, u8)>>,
    safe: usize,
}

impl World {
    fn new(sim: Arc<SimDevice>) -> Self {
        let faulty =
            Faulty::new(sim.clone(), |op| matches!(op, Operation::Write | Operation::Flush));
        let pool = pool::probe(&(faulty.clone() as Arc<dyn Device>)).unwrap();
        let pool = pool.unlock(engine_key(), OpenOptions::default()).unwrap();
        pool.set_keeper(Arc::new(OneCluster));
        let head = open_head(&pool);
        let history = vec![contents(&head)];
        Self { sim, faulty, pool, head, history, safe: 0 }
    }

    fn changed(&mut self) {
        self.history.push(contents(&self.head));
    }

    fn all_is_safe(&mut self) {
        self.safe = self.history.len() - 1;
    }

    /// The power goes; what is there then is a prefix that holds all that was acknowledged.
    fn crash(&mut self, seed: u64) {
        let (safe, history) = (self.safe, std::mem::take(&mut self.history));
        *self = Self::new(self.sim.crash(seed));
        let now = &self.history[0];
        let at = history.iter().rposition(|state| state == now);
        assert!(at.is_some_and(|at| at >= safe), "not a prefix: {now:?}");
        let at = at.unwrap_or(0);
        self.history = history;
        self.history.truncate(at + 1);
        self.safe = at;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write { n, blocks, fill, out } => {
                write(&self.head, n, blocks, fill, out).unwrap();
                self.changed();
            }
            Step::Remove { n } => {
                remove(&self.head, n).unwrap();
                self.changed();
            }
            Step::Commit => {
                self.head.commit().unwrap();
                self.all_is_safe();
            }
            Step::Checkpoint => {
                self.pool.checkpoint(CutPlan::default()).unwrap();
                self.all_is_safe();
            }
            Step::Crash { seed } => self.crash(seed),
            Step::CrashIn { checkpoint, nth, seed } => {
                self.faulty.fail_after(nth, Fault::Dead);
                let done = match checkpoint {
                    true => self.pool.checkpoint(CutPlan::default()).is_ok(),
                    false => self.head.commit().is_ok(),
                };
                if done {
                    self.all_is_safe();
                }
                self.crash(seed);
            }
            Step::Reopen => {
                self.pool.close_head(&self.head).unwrap();
                self.head = open_head(&self.pool);
                assert_eq!(Some(&contents(&self.head)), self.history.last());
                self.all_is_safe();
            }
        }
    }
}

/// Cases unless PROPTEST_CASES says otherwise (scripts/crash.sh).
fn cases() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        None => ProptestConfig::with_cases(24),
        Some(_) => ProptestConfig::default(),
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn any_history_recovers_to_a_prefix_that_holds_all_that_was_acknowledged(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut world = World::new(create(256 << 20));
        steps.into_iter().for_each(|step| world.step(step));
    }
}
