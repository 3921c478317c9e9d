//! Opening and closing a head: its root, its log area, what a crash left to replay.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::{DirtyRoom, Drain, Head, Identity, TreeState, View};
use crate::base::cursor::Writer;
use crate::base::ids::ClusterId;
use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64, Generation, SegmentId};
use crate::block::{BlockError, Class, ReadGuard, Run, SpaceEntry, Urgency};
use crate::crypto::{self, ClusterKey, LogOuterKey, LogSeed, NameHashKey};
use crate::pool::core::{Core, Interval};
use crate::pool::log::record::{Edit, decode_edits};
use crate::pool::log::writer::LogWriter;
use crate::pool::log::{LogItem, Outstanding, ScanRequest, ScannedRecord, scan};
use crate::pool::root::{Root, RootContext, open_root};
use crate::pool::{CutPlan, Pool, PoolError};
use crate::sys::aligned::AlignedBuf;
use crate::sys::sync::{Rank, RwLock};
use crate::tree::{NodeKills, Tree};

/// The log area is this part of the pool, within the bounds below.
const AREA_PART: u64 = 256;
/// Smallest log area, in bytes.
const AREA_BYTES_MIN: u64 = 1 << 20;
/// Largest log area, in bytes: two halves lie in one region.
const AREA_BYTES_MAX: u64 = 32 << 20;

/// What the catalog knows of a head, and the key that opens it.
pub struct OpenHead {
    /// The cluster.
    pub cluster: ClusterId,
    /// Version of its key.
    pub ck_id: u32,
    /// Its key.
    pub cluster_key: ClusterKey,
    /// The root; `None` for a cluster that was never mounted.
    pub sealed_root: Option<Vec<u8>>,
    /// The checkpoint that wrote the root.
    pub root_generation: Generation,
    /// The segment in which its blocks are born.
    pub segment: SegmentId,
    /// Blocks that its tree references.
    pub referenced_blocks: u64,
}

impl Pool {
    /// Opens a head for writing: replays what a crash left in its log, gives it a log area, and
    /// makes both durable by a checkpoint before it returns.
    ///
    /// # Errors
    /// [`PoolError::ClusterKey`] for another key, [`PoolError::Full`], corruption, device errors.
    pub fn open_head(self: &Arc<Self>, open: OpenHead) -> Result<Arc<Head>, PoolError> {
        let core = Arc::clone(self.core());
        core.check_writable()?;
        let item = self.log_item(open.cluster)?;
        check_log(item.as_ref())?;
        let root = open.root(&core)?;
        let area = match &item {
            Some(item) => item.area,
            None => self.new_log_area()?,
        };
        let seed = LogSeed::random();
        let sealed_seed = seal_seed(&core, open.cluster, open.ck_id, &open.cluster_key, &seed);
        // From here to registration the gate's read side is held: no cut may fall between the
        // replay, whose nodes belong to this interval, and the moment from which cuts see them.
        let interval = core.gate.read();
        let (has_root, pointer, name_key) = match root {
            Some(root) => (true, root.pointer, root.name_key),
            None => (false, None, NameHashKey::random()),
        };
        let mut state = TreeState {
            tree: pointer.map_or_else(Tree::empty, Tree::open),
            node_kills: NodeKills::default(),
            kills: Vec::new(),
            segment: open.segment,
            claimed: Vec::new(),
            referenced_blocks: open.referenced_blocks,
            root_generation: open.root_generation,
            dirty: !has_root,
            dirty_room: DirtyRoom::default(),
            levels: 1,
        };
        if item.is_none() {
            interval.book.push(SpaceEntry::Alloc {
                run: area,
                segment: SegmentId::POOL,
                crcs: Vec::new(),
            })?;
        }
        if let Some(item) = &item {
            replay(&core, &open, item, &interval, &mut state)?;
        }
        let half = item.as_ref().map_or(0, |item| item.half);
        let begin = (interval.generation, Arc::clone(&interval.lo));
        let head = Arc::new_cyclic(|me: &Weak<Head>| Head {
            log: LogWriter::new(Arc::clone(&core), open.cluster, area, seed, half, begin),
            core: Arc::clone(&core),
            cluster: open.cluster,
            identity: RwLock::new(
                Rank::HeadIdentity,
                Arc::new(Identity { ck_id: open.ck_id, key: open.cluster_key, sealed_seed }),
            ),
            name_key,
            state: RwLock::new(Rank::HeadTree, state),
            log_area: area,
            buffers: RwLock::new(Rank::HeadBuffers, None),
            closed: AtomicBool::new(false),
            me: me.clone(),
        });
        self.register(Arc::clone(&head) as _)?;
        drop(interval);
        if let Err(error) = self.checkpoint(CutPlan::default()) {
            self.unregister(open.cluster);
            return Err(error);
        }
        Ok(head)
    }

    /// Room for the log of a head that has none.
    fn new_log_area(&self) -> Result<Run, PoolError> {
        match allocate_area(self.core()) {
            // What was freed since the last checkpoint can be given out after the next.
            Err(PoolError::Full) => {
                self.checkpoint(CutPlan::default())?;
                allocate_area(self.core())
            }
            area => area,
        }
    }

    /// Closes a head: what is buffered is written, a last checkpoint made, its log area freed. The
    /// head takes no operation any more, whatever comes of it.
    ///
    /// # Errors
    /// Device errors; what had been committed is safe then, in the log.
    pub fn close_head(self: &Arc<Self>, head: &Arc<Head>) -> Result<(), PoolError> {
        let drained = head.drain(Drain::Commit);
        let area = head.log_area;
        let done = drained.and_then(|()| {
            self.checkpoint(CutPlan {
                closing: Some(head.cluster),
                edit: Some(Box::new(move |txn, _| txn.free(area, SegmentId::POOL))),
                ..CutPlan::default()
            })
        });
        head.closed.store(true, Ordering::Release);
        if let Err(error) = &done {
            // What its log holds comes back when the pool is opened again, and only then.
            self.core().fail(&format!("a cluster could not be closed: {error}"));
            self.unregister(head.cluster);
        }
        done.map(|_| ())
    }

    /// Opens the tree of a snapshot for reading.
    ///
    /// # Errors
    /// [`PoolError::ClusterKey`] for another key, corruption.
    pub fn open_view(
        self: &Arc<Self>,
        key: &ClusterKey,
        context: &RootContext,
        sealed_root: &[u8],
    ) -> Result<(View, NameHashKey), PoolError> {
        let core = Arc::clone(self.core());
        // A snapshot is not deleted while it is open: its reader may run for days, and must not keep
        // what others free from being used again.
        let guard = ReadGuard::of_what_is_kept();
        let root = open_root(key, context, sealed_root)?;
        let tree = root.pointer.map_or_else(Tree::empty, Tree::open);
        Ok((View::new(core, tree, guard), root.name_key))
    }

    /// The tree of a cluster to which nothing was written before the last checkpoint.
    #[must_use]
    pub fn empty_view(&self) -> View {
        View::new(Arc::clone(self.core()), Tree::empty(), ReadGuard::of_what_is_kept())
    }
}

impl OpenHead {
    fn root(&self, core: &Core) -> Result<Option<Root>, PoolError> {
        let context = RootContext {
            pool: core.pool_id,
            cluster: self.cluster,
            ck_id: self.ck_id,
            generation: self.root_generation,
        };
        self.sealed_root
            .as_ref()
            .map(|sealed| open_root(&self.cluster_key, &context, sealed))
            .transpose()
    }
}

pub(super) fn seal_seed(
    core: &Core,
    cluster: ClusterId,
    ck_id: u32,
    key: &ClusterKey,
    seed: &LogSeed,
) -> Vec<u8> {
    crypto::seal(key.bytes(), "log", &seed_ad(core, cluster, ck_id), seed.bytes())
}

fn seed_ad(core: &Core, cluster: ClusterId, ck_id: u32) -> Vec<u8> {
    let mut w = Writer::new();
    w.bytes(core.pool_id.as_bytes()).bytes(cluster.as_bytes()).u32(ck_id);
    w.into_bytes()
}

/// A contiguous area, written once so that a commit costs no allocation in the file beneath.
fn allocate_area(core: &Core) -> Result<Run, PoolError> {
    let bytes = (core.device.size_bytes() / AREA_PART).clamp(AREA_BYTES_MIN, AREA_BYTES_MAX);
    let mut blocks = u32::try_from(bytes / BLOCK_SIZE_U64 / 2 * 2).unwrap_or(u32::MAX);
    let least = u32::try_from(AREA_BYTES_MIN / BLOCK_SIZE_U64).unwrap_or(u32::MAX);
    let run = loop {
        match allocate_promised(core, blocks) {
            Ok(run) => break run,
            Err(_) if blocks > least => blocks = (blocks / 2).max(least),
            Err(error) => return Err(error.into()),
        }
    };
    let zeros = AlignedBuf::new(256 * BLOCK_SIZE);
    let mut at = 0;
    while at < run.blocks {
        let blocks = (run.blocks - at).min(256) as usize;
        let offset = run.addr.plus(u64::from(at)).offset_bytes();
        let part = zeros.get(..blocks * BLOCK_SIZE).unwrap_or(&zeros);
        if let Err(error) = core.device.write(offset, part) {
            core.space.release(run);
            return Err(error.into());
        }
        at += 256;
    }
    Ok(run)
}

/// That a head with such a log may be opened.
fn check_log(item: Option<&LogItem>) -> Result<(), PoolError> {
    match item {
        // Recovery has not looked at it: there is a head already, or one was left.
        Some(item) if item.outstanding.is_none() => {
            Err(PoolError::Invalid("a cluster whose log is open"))
        }
        Some(item) if item.is_damaged() => Err(PoolError::LogLost),
        _ => Ok(()),
    }
}

/// One run of what is nobody else's: what was promised to others stays free for them.
fn allocate_promised(core: &Core, blocks: u32) -> Result<Run, BlockError> {
    core.space.reserve(Class::Data, u64::from(blocks), Urgency::Delete)?;
    let run = core.space.allocate(Class::Data, blocks, blocks);
    core.space.unreserve(Class::Data, u64::from(blocks));
    run
}

/// Applies what a crash left in the log: edits in order, then the kills. What the records claim was
/// booked when the pool was opened.
fn replay(
    core: &Arc<Core>,
    open: &OpenHead,
    item: &LogItem,
    interval: &Interval,
    state: &mut TreeState,
) -> Result<(), PoolError> {
    let Some(outstanding) = &item.outstanding else { return Ok(()) };
    let seed = open_seed(core, open.cluster, open.ck_id, &open.cluster_key, item)?;
    let found = scan(&scan_request(core, open.cluster, item, outstanding))?;
    for record in &found.records {
        for edit in open_edits(&seed, open.cluster, record)? {
            state.edit(core, interval.generation, &edit)?;
        }
        let claimed: u64 = record.outer.claims.iter().map(|c| u64::from(c.run.blocks)).sum();
        let killed: u64 = record.outer.kills.iter().map(|k| u64::from(k.run.blocks)).sum();
        state.kills.extend_from_slice(&record.outer.kills);
        state.note_claimed(item.segment, claimed);
        state.referenced_blocks = (state.referenced_blocks + claimed).saturating_sub(killed);
    }
    state.note_dirty(core);
    core.space.unreserve(Class::Node, outstanding.need_blocks);
    log::info!("replayed {} log records of cluster {}", found.records.len(), open.cluster);
    Ok(())
}

fn scan_request<'a>(
    core: &'a Core,
    cluster: ClusterId,
    item: &LogItem,
    outstanding: &'a Outstanding,
) -> ScanRequest<'a> {
    ScanRequest {
        device: &*core.device,
        pool: core.pool_id,
        incarnation: outstanding.incarnation,
        cluster,
        area: item.area,
        half: outstanding.half,
        generation: outstanding.generation,
        lo: &outstanding.lo,
        decided: Some(outstanding.records),
    }
}

pub(super) fn open_seed(
    core: &Core,
    cluster: ClusterId,
    ck_id: u32,
    key: &ClusterKey,
    item: &LogItem,
) -> Result<LogSeed, PoolError> {
    let ad = seed_ad(core, cluster, ck_id);
    let plain = crypto::open(key.bytes(), "log", &ad, &item.sealed_seed)
        .map_err(|_| PoolError::ClusterKey("the log seed"))?;
    let bytes: &[u8; 32] =
        plain.as_slice().try_into().map_err(|_| PoolError::ClusterKey("the log seed"))?;
    Ok(LogSeed::from_bytes(bytes))
}

pub(super) fn open_edits(
    seed: &LogSeed,
    cluster: ClusterId,
    record: &ScannedRecord,
) -> Result<Vec<Edit>, PoolError> {
    if record.inner.is_empty() {
        return Ok(Vec::new());
    }
    let corrupt = || PoolError::Corrupt { what: "log record", addr: crate::base::BlockAddr(0) };
    let lo = LogOuterKey::from_bytes(&record.lo);
    let li = crypto::log_inner_key(seed, &lo, &cluster);
    let ad = record.place.inner_ad(&record.commitment);
    let plain = crypto::open(li.bytes(), "log-inner", &ad, &record.inner).map_err(|_| corrupt())?;
    decode_edits(&plain).map_err(|_| corrupt())
}
