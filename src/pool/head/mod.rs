//! One writable tree with its intent log: what POSIX semantics are built on.
//!
//! A head promises: an operation given to [`Head::transact`] happens whole or not at all, in the
//! tree and in the log alike, in one order; [`Head::commit`] makes durable everything acknowledged
//! before it; blocks it claims belong to the head's current segment, blocks it lets go are handed
//! to the catalog at the next cut. It knows tree items and runs of blocks, nothing of files.
//!
//! Locks, in order: the caller's own -> gate (read side; the cut takes the write side) -> tree ->
//! log. No I/O under the tree's lock but for a node that was evicted between a look and its edit.

mod log_remains;
mod open;
mod participant;
mod reserve;
mod txn;
mod view;

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod full_tests;
#[cfg(test)]
mod growth_tests;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

pub use log_remains::LogRemains;
pub use open::OpenHead;
pub use reserve::Reservation;
pub use txn::{DataRun, Txn};
pub use view::View;

use crate::base::ids::ClusterId;
use crate::base::units::{BLOCK_SIZE, Generation, SegmentId};
use crate::block::Class;
use crate::crypto::{ClusterKey, LogSeed, NameHashKey};
use crate::pool::core::{Checkpointing, Core};
use crate::pool::log::writer::LogWriter;
use crate::pool::{Kill, PoolError};
use crate::sys::clock;
use crate::sys::sync::RwLock;
use crate::tree::{NodeKills, Tree};

/// Longest that one change is held back while the tree has too many dirty nodes.
const SLOW_DOWN_MAX: Duration = Duration::from_millis(10);
/// Longest run that one piece of data is allocated as, in blocks (1 MiB).
const RUN_BLOCKS_MAX: u32 = 256;

/// Why buffered data is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// A cut comes soon; what is inserted now need not wait behind the closed gate. Best effort.
    Ahead,
    /// For [`Head::commit`]: everything acknowledged so far, after which [`Head::mark`] is called in
    /// the same instant: before any operation that came later than a write still buffered.
    Commit,
}

/// What buffers writes above a head and must hand them over before a commit and at a cut.
pub trait Buffers: Send + Sync {
    /// Inserts what is buffered, by transactions of its own.
    ///
    /// # Errors
    /// What the transactions gave; the caller's commit fails with it.
    fn drain(&self, why: Drain) -> Result<(), PoolError>;
    /// The gate is closed: inserts all that is left through the transactions that `run` makes.
    /// Takes no lock that is held by somebody who waits for the gate, and does no I/O.
    ///
    /// # Errors
    /// What the transactions gave; the checkpoint fails with it.
    fn drain_at_cut(&self, run: &mut CutRunner<'_>) -> Result<(), PoolError>;
}

/// Runs transactions while the gate is closed.
pub struct CutRunner<'a> {
    head: &'a Head,
    interval: &'a crate::pool::core::Interval,
}

impl CutRunner<'_> {
    /// One transaction in the interval that is being cut.
    ///
    /// # Errors
    /// Whatever `f` returns; nothing happened then.
    pub fn transact<R, E: From<PoolError>>(
        &mut self,
        f: impl FnOnce(&mut Txn<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.head.run(self.interval, f)
    }
}

/// What changes under the tree's lock.
struct TreeState {
    tree: Tree,
    node_kills: NodeKills,
    kills: Vec<Kill>,
    segment: SegmentId,
    /// Blocks claimed since the last cut, by segment.
    claimed: Vec<(SegmentId, u64)>,
    /// Blocks that the tree reaches, nodes and data, as far as known.
    referenced_blocks: u64,
    /// Whether anything changed since the last cut.
    dirty: bool,
    /// The checkpoint that wrote the current root.
    root_generation: Generation,
    /// What is promised to the tree's dirty nodes.
    dirty_room: DirtyRoom,
    /// Levels of the tree, as far as was seen.
    levels: usize,
}

/// Dirty nodes of one interval of a tree.
#[derive(Clone, Copy, Debug, Default)]
struct DirtyRoom {
    nodes: usize,
    /// Blocks that they will be written to, promised to them.
    blocks: u64,
}

impl TreeState {
    /// After edits: their nodes are promised room, and counted among the dirty ones of the pool.
    fn note_dirty(&mut self, core: &Core) {
        let now = DirtyRoom {
            nodes: self.tree.dirty_nodes(),
            blocks: self.tree.dirty_copies() as u64 * core.node_blocks(),
        };
        let before = std::mem::replace(&mut self.dirty_room, now);
        self.levels = self.levels.max(self.tree.known_levels());
        core.space.change_dirty(before.blocks, now.blocks);
        core.dirty_nodes.fetch_add(now.nodes, Ordering::Relaxed);
        core.dirty_nodes.fetch_sub(before.nodes, Ordering::Relaxed);
    }

    /// The cut: these nodes are dirty no longer, and keep their room until they are written.
    fn take_dirty(&mut self, core: &Core) -> DirtyRoom {
        let taken = std::mem::take(&mut self.dirty_room);
        core.dirty_nodes.fetch_sub(taken.nodes, Ordering::Relaxed);
        taken
    }
}

/// Under which version of the cluster key the head's root and log seed are sealed.
struct Identity {
    ck_id: u32,
    key: ClusterKey,
    sealed_seed: Vec<u8>,
}

/// One cluster's writable tree.
pub struct Head {
    core: Arc<Core>,
    cluster: ClusterId,
    identity: RwLock<Arc<Identity>>,
    name_key: NameHashKey,
    state: RwLock<TreeState>,
    log: LogWriter,
    log_area: crate::block::Run,
    buffers: RwLock<Option<Weak<dyn Buffers>>>,
    /// Takes no operation any more; its next cut is its last, and its log item goes away then.
    closed: AtomicBool,
    me: Weak<Self>,
}

impl Head {
    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }
    /// Hashes this cluster's file names.
    #[must_use]
    pub const fn name_key(&self) -> &NameHashKey {
        &self.name_key
    }
    /// The tree as a checkpoint left it: this cluster's sealed root, opened with the key that the
    /// head holds. `None` where that is another version of the key.
    ///
    /// # Errors
    /// Corruption.
    pub fn durable_view(
        &self,
        pool: &Arc<crate::pool::Pool>,
        context: &crate::pool::root::RootContext,
        sealed_root: &[u8],
    ) -> Result<Option<(View, NameHashKey)>, PoolError> {
        let identity = Arc::clone(&self.identity.read());
        if identity.ck_id != context.ck_id {
            return Ok(None);
        }
        pool.open_view(&identity.key, context, sealed_root).map(Some)
    }
    /// Hash of a name in the directory `parent`, under this cluster's key.
    #[must_use]
    pub fn name_hash(&self, parent: u64, name: &[u8]) -> u64 {
        crate::crypto::name_hash(&self.name_key, parent, name)
    }
    /// From the next cut on, root and log seed are sealed under another cluster key; the cut
    /// reports its version ([`crate::pool::HeadCut`]).
    pub fn change_key(&self, key: ClusterKey, ck_id: u32) {
        // A new seed too: who had the old key must not read what is logged from here on.
        let seed = LogSeed::random();
        let sealed_seed = open::seal_seed(&self.core, self.cluster, ck_id, &key, &seed);
        // No cut between the two: the one that seals the new seed must not find the old log.
        let interval = self.core.gate.read();
        let mut state = self.state.write();
        *self.identity.write() = Arc::new(Identity { ck_id, key, sealed_seed });
        self.log.rekey(seed, interval.generation);
        state.dirty = true;
    }
    /// Who buffers writes above this head.
    pub fn set_buffers(&self, buffers: Weak<dyn Buffers>) {
        *self.buffers.write() = Some(buffers);
    }
    /// Blocks that the tree reaches, nodes and data.
    #[must_use]
    pub fn referenced_blocks(&self) -> u64 {
        self.state.read().referenced_blocks
    }
    /// Free space that ordinary writes may use, and the pool's size, in blocks.
    #[must_use]
    pub fn space(&self) -> crate::block::SpaceReport {
        self.core.space.report()
    }

    /// The tree as it stands now: immutable, and safe against reuse of its blocks while it lives.
    #[must_use]
    pub fn view(&self) -> View {
        // The guard comes first: a tree that was read later reaches nothing older.
        let guard = self.core.readers.enter();
        let tree = self.state.read().tree.clone();
        View::new(Arc::clone(&self.core), tree, guard)
    }

    /// Runs `f` in the current interval; its edits, claims and kills take effect together when it
    /// returns `Ok`. No other operation of this thread may be inside `transact`.
    ///
    /// # Errors
    /// Whatever `f` returns, and [`PoolError::ReadOnly`]; nothing happened then.
    pub fn transact<R, E: From<PoolError>>(
        &self,
        f: impl FnOnce(&mut Txn<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.core.throttle()?;
        self.slow_down();
        let interval = self.core.gate.read();
        if self.closed.load(Ordering::Acquire) {
            return Err(PoolError::Wiped.into());
        }
        self.run(&interval, f)
    }

    /// Runs `accept` with no cut meanwhile: what it takes into buffers is, for all clusters alike,
    /// before the next cut or after it.
    pub fn between_cuts(&self, accept: impl FnOnce()) {
        let _interval = self.core.gate.read();
        accept();
    }

    fn run<R, E: From<PoolError>>(
        &self,
        interval: &crate::pool::core::Interval,
        f: impl FnOnce(&mut Txn<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.core.check_writable()?;
        let mut txn = Txn::new(self, interval);
        let result = f(&mut txn)?;
        txn.apply()?;
        Ok(result)
    }

    /// Allocates room for `plain` (a multiple of 4 KiB) and encrypts it, under a fresh key for each
    /// block. Several runs where space is fragmented. What is not claimed is given back on drop.
    ///
    /// # Errors
    /// [`PoolError::Full`]
    pub fn prepare(&self, plain: &[u8]) -> Result<Vec<DataRun>, PoolError> {
        debug_assert_eq!(plain.len() % BLOCK_SIZE, 0);
        self.core.check_writable()?;
        let mut runs = Vec::new();
        let mut rest = plain;
        while !rest.is_empty() {
            let want = u32::try_from(rest.len() / BLOCK_SIZE).unwrap_or(u32::MAX);
            let run = self.core.space.allocate(Class::Data, want.min(RUN_BLOCKS_MAX), 1)?;
            let (now, later) = rest.split_at(run.bytes());
            let prepared = self.core.data.encrypt(now, run);
            runs.push(DataRun::new(prepared));
            rest = later;
        }
        Ok(runs)
    }

    /// Writes prepared data to its place. What is claimed without this waits in memory and goes to
    /// its place with the next commit or checkpoint.
    ///
    /// # Errors
    /// Device errors; the pool is read-only then.
    pub fn write_out(&self, runs: &mut [DataRun]) -> Result<(), PoolError> {
        for run in runs {
            if let Err(error) = self.core.data.write_out(run.prepared()) {
                let error = PoolError::from(error);
                self.core.fail(&format!("data could not be written: {error}"));
                return Err(error);
            }
            run.mark_written();
        }
        Ok(())
    }

    /// Makes durable everything that was acknowledged before the call.
    ///
    /// # Errors
    /// Device errors, after which the pool is read-only; they stay for every later caller.
    pub fn commit(&self) -> Result<(), PoolError> {
        self.core.check_writable()?;
        self.drain(Drain::Commit)?;
        self.log.commit()
    }

    /// Everything applied so far may be committed: no write that was acknowledged before it is
    /// still buffered.
    pub fn mark(&self) {
        self.log.mark();
    }

    /// Above the dirty limit of the pool each change waits a little, the more the further above, so
    /// that the checkpoint that was asked for catches up; nobody waits for it as a whole (rule 19).
    fn slow_down(&self) {
        let max = self.core.dirty_nodes_max;
        let excess = self.core.dirty_nodes.load(Ordering::Relaxed).saturating_sub(max);
        if excess > 0 && !Checkpointing::by_this_thread() {
            let share = (excess as f64 / max as f64).min(1.0);
            clock::sleep(SLOW_DOWN_MAX.mul_f64(share));
        }
    }

    fn drain(&self, why: Drain) -> Result<(), PoolError> {
        let buffers = self.buffers.read().as_ref().and_then(Weak::upgrade);
        if let Some(buffers) = buffers {
            return buffers.drain(why);
        }
        self.mark();
        Ok(())
    }
}
