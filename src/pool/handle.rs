//! An open pool: what it holds, and what may be asked of it beside checkpoints and heads.

use std::sync::Arc;
use std::time::Duration;

use crate::base::{ClusterId, Generation, PoolId, Timestamp, limits};
use crate::block::geometry::Geometry;
use crate::block::{SpaceReport, region_map::RegionMap};
use crate::crypto::{EngineWrap, SlotKey};
use crate::device::Device;
use crate::pool::core::Core;
use crate::pool::participant::Participant;
use crate::pool::ring::Ring;
use crate::pool::superblock::{Clear, Payload};
use crate::pool::{CatalogView, CheckpointDone, CutPlan, DueReason, Keeper, PoolError, items, log};
use crate::sys::clock;
use crate::sys::sync::{Mutex, Rank, RwLock};
use crate::tree::{Nodes, Tree};

/// What only the checkpoint under way touches.
pub(in crate::pool) struct Serial {
    /// The clear part of the newest superblock.
    pub(in crate::pool) clear: Clear,
    /// Its payload.
    pub(in crate::pool) payload: Payload,
    pub(in crate::pool) ring: Ring,
    pub(in crate::pool) slot_key: SlotKey,
    /// Both slots hold the newest payload.
    pub(in crate::pool) idle: bool,
}

impl Serial {
    /// The clear part of the next superblock: in the slot that does not hold the newest.
    pub(in crate::pool) fn next_clear(&self, generation: Generation) -> Clear {
        Clear {
            generation,
            index: 1 - self.clear.index,
            sequence: self.clear.sequence + 1,
            ..self.clear.clone()
        }
    }
}

pub(in crate::pool) struct Catalog {
    pub(in crate::pool) tree: Tree,
    pub(in crate::pool) generation: Generation,
}

/// How a pool does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// It takes changes.
    Ok,
    /// It takes none, for this reason, until it is opened again.
    ReadOnly(String),
    /// It takes changes, but something in it is damaged.
    Degraded(String),
}

/// An open pool.
pub struct Pool {
    pub(in crate::pool) core: Arc<Core>,
    pub(in crate::pool) serial: Mutex<Serial>,
    pub(in crate::pool) participants: RwLock<Vec<Arc<dyn Participant>>>,
    pub(in crate::pool) keeper: Mutex<Option<Arc<dyn Keeper>>>,
    pub(in crate::pool) catalog: RwLock<Catalog>,
    pub(in crate::pool) last_checkpoint: Mutex<Timestamp>,
    /// Those that are durable, for whoever asks while a checkpoint is under way.
    wraps: Mutex<Vec<EngineWrap>>,
}

impl Pool {
    pub(in crate::pool) fn new(core: Arc<Core>, serial: Serial, tree: Tree) -> Arc<Self> {
        let generation = serial.clear.generation;
        let pool = Arc::new(Self {
            core,
            wraps: Mutex::new(Rank::EngineWraps, serial.clear.wraps.clone()),
            serial: Mutex::new(Rank::Checkpoint, serial),
            participants: RwLock::new(Rank::Participants, Vec::new()),
            keeper: Mutex::new(Rank::Keeper, None),
            catalog: RwLock::new(Rank::CatalogTree, Catalog { tree, generation }),
            last_checkpoint: Mutex::new(Rank::LastCheckpoint, clock::now()),
        });
        pool.core.set_pool(Arc::downgrade(&pool));
        pool
    }

    /// What heads share with the pool.
    pub(in crate::pool) const fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(in crate::pool) fn participants(&self) -> Vec<Arc<dyn Participant>> {
        self.participants.read().clone()
    }

    /// A head takes part in every cut from now on. May be called with the gate's read side held.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] where the cluster has a head already.
    pub(in crate::pool) fn register(
        &self,
        participant: Arc<dyn Participant>,
    ) -> Result<(), PoolError> {
        let mut participants = self.participants.write();
        if participants.iter().any(|p| p.cluster() == participant.cluster()) {
            return Err(PoolError::Invalid("a second head of one cluster"));
        }
        participants.push(participant);
        Ok(())
    }

    /// A head takes part no longer.
    pub(in crate::pool) fn unregister(&self, cluster: ClusterId) {
        self.participants.write().retain(|p| p.cluster() != cluster);
    }

    /// A cluster's log item, as the last durable checkpoint has it.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`]; the tree's.
    pub(in crate::pool) fn log_item(
        &self,
        cluster: ClusterId,
    ) -> Result<Option<log::LogItem>, PoolError> {
        let Some(value) = self.read_catalog().get(items::log_key(cluster))? else {
            return Ok(None);
        };
        match items::decode_log(&value) {
            Ok((owner, item)) if owner == cluster => Ok(Some(item)),
            _ => Err(PoolError::undecodable("log item")),
        }
    }

    /// Acknowledged writes of this cluster await its key: it was mounted when the pool was last
    /// left without a shutdown, and its log is not replayed yet.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`]; the tree's.
    pub fn is_outstanding(&self, cluster: ClusterId) -> Result<bool, PoolError> {
        Ok(self.log_item(cluster)?.is_some_and(|item| item.outstanding.is_some()))
    }

    /// Whether this cluster's log was found damaged by an opening ([`PoolError::LogLost`]).
    ///
    /// # Errors
    /// [`PoolError::Corrupt`]; the tree's.
    pub fn is_log_damaged(&self, cluster: ClusterId) -> Result<bool, PoolError> {
        Ok(self.log_item(cluster)?.is_some_and(|item| item.is_damaged()))
    }

    /// Clusters whose log was found damaged by an opening ([`PoolError::LogLost`]).
    ///
    /// # Errors
    /// [`PoolError::Corrupt`]; the tree's.
    pub fn damaged_logs(&self) -> Result<Vec<ClusterId>, PoolError> {
        let logs = items::logs(self.read_catalog().tree(), self.nodes())?;
        let damaged = logs.into_iter().filter(|(_, item)| item.is_damaged());
        Ok(damaged.map(|(cluster, _)| cluster).collect())
    }

    /// Who gives the catalog its meaning at each checkpoint; set before the first head is opened.
    pub fn set_keeper(&self, keeper: Arc<dyn Keeper>) {
        *self.keeper.lock() = Some(keeper);
    }

    /// The pool's identity.
    #[must_use]
    pub fn id(&self) -> PoolId {
        self.core.pool_id
    }
    /// Changes when a rollback was accepted.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.core.incarnation
    }
    /// The last durable checkpoint.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.core.durable_generation()
    }
    /// The interval that is open.
    #[must_use]
    pub fn open_generation(&self) -> Generation {
        self.core.gate.read().generation
    }
    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.core.device
    }
    /// Nodes of all trees.
    #[must_use]
    pub fn nodes(&self) -> &Arc<Nodes> {
        &self.core.nodes
    }
    /// When the last checkpoint became durable.
    #[must_use]
    pub fn last_checkpoint_at(&self) -> Timestamp {
        *self.last_checkpoint.lock()
    }
    /// Figures for statfs and `status`, in blocks.
    #[must_use]
    pub fn space(&self) -> SpaceReport {
        // A disk beneath that was full may have room again.
        if self.core.failure().is_none()
            && let Err(error) = self.core.space.look_for_backing()
        {
            ::log::warn!("room beneath the pool cannot be asked for: {error}");
        }
        self.core.space.report()
    }
    /// When the pool was made.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.serial.lock().payload.created_at
    }
    /// Wraps of the engine key.
    #[must_use]
    pub fn wraps(&self) -> Vec<EngineWrap> {
        self.wraps.lock().clone()
    }

    /// Whether it takes changes, and what is wrong.
    #[must_use]
    pub fn state(&self) -> PoolState {
        if let Some(reason) = self.core.failure() {
            return PoolState::ReadOnly(reason);
        }
        match self.space().frozen_regions {
            0 => PoolState::Ok,
            1 => PoolState::Degraded("the space map of 1 region is corrupt".to_owned()),
            n => PoolState::Degraded(format!("the space maps of {n} regions are corrupt")),
        }
    }

    /// The catalog as the last durable checkpoint left it.
    #[must_use]
    pub fn read_catalog(&self) -> CatalogView {
        let catalog = self.catalog.read();
        // While checkpoint G is written the open interval is G + 1 already, but this tree still
        // reaches what G freed. The commit of G takes the write side before it makes that
        // reusable, so whoever enters under the read side is in time.
        let guard = self.core.readers.enter_at(catalog.generation.next());
        CatalogView {
            nodes: self.core.nodes.clone(),
            tree: catalog.tree.clone(),
            generation: catalog.generation,
            _guard: guard,
        }
    }

    /// Waits until a checkpoint is due, for `timeout` at most. Whether one is.
    #[must_use]
    pub fn wait_for_checkpoint_due(&self, timeout: Duration) -> bool {
        self.core.due.wait(timeout)
    }

    /// Asks for a checkpoint; whoever waits in [`Pool::wait_for_checkpoint_due`] makes it.
    pub fn request_checkpoint(&self, reason: DueReason) {
        self.core.due.request(reason);
    }

    /// Ends every wait in [`Pool::wait_for_checkpoint_due`], now and later.
    pub fn stop_waiting(&self) {
        self.core.due.close();
    }

    /// Whether somebody frees what deletions leave, until this is taken back: who lacks room waits
    /// for it.
    pub fn set_freeing_attended(&self, attended: bool) {
        self.core.freeing.set_attended(attended);
    }

    /// Whether deletions left something to be freed.
    pub fn set_freeing_left(&self, left: bool) {
        self.core.freeing.set_left(left);
    }

    /// Every region that anything was ever done with.
    #[must_use]
    pub fn regions(&self) -> Vec<u32> {
        self.core.space.regions()
    }

    /// The owner and the checksum of each block of a region, changes since the last checkpoint
    /// included.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`] where the map is rotten; the device's.
    pub fn region_map(&self, region: u32) -> Result<RegionMap, PoolError> {
        Ok(self.core.space.region_map(region)?)
    }

    /// Where things lie on the device.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.core.space.geometry()
    }

    /// Replaces the wraps of the engine key. Those that are gone open nothing from then on, so both
    /// slots are rewritten before it returns.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] for more than 8; as [`Pool::checkpoint`].
    pub fn set_wraps(&self, wraps: Vec<EngineWrap>) -> Result<CheckpointDone, PoolError> {
        if wraps.len() > limits::ENGINE_WRAPS_MAX {
            return Err(PoolError::Invalid("the number of wraps of the engine key"));
        }
        // Until they are written: whoever rewrites a slot in between would write them to that one
        // alone, and find the other not as it should be.
        let mut serial = self.serial.lock();
        self.core.check_writable()?;
        serial.clear.wraps.clone_from(&wraps);
        let plan = CutPlan { narrowing: true, ..CutPlan::default() };
        let done = self.checkpoint_locked(&mut serial, plan)?;
        *self.wraps.lock() = wraps;
        Ok(done)
    }

    /// Grows the pool to `new_size` bytes.
    ///
    /// # Errors
    /// [`PoolError::Invalid`] where that is no growth; as [`Pool::checkpoint`].
    pub fn grow(&self, new_size: u64) -> Result<(), PoolError> {
        self.core.check_writable()?;
        let total_blocks = new_size / crate::base::units::BLOCK_SIZE_U64;
        let mut serial = self.serial.lock();
        let old = serial.clear.geometry;
        let new = Geometry { total_blocks, ..old };
        if total_blocks < old.total_blocks || !new.is_valid() {
            return Err(PoolError::Invalid("a pool can only grow, within its limits"));
        }
        let bytes = total_blocks * crate::base::units::BLOCK_SIZE_U64;
        if self.core.device.size_bytes() < bytes {
            self.core.grow(bytes)?;
        }
        self.core.space.back_growth(total_blocks)?;
        // Nobody gets a block beyond the old end before both slots state the new one: a log that
        // claims it would be refused after a crash.
        serial.clear.geometry = new;
        self.checkpoint_locked(&mut serial, CutPlan::default())?;
        self.rewrite_other_slot(&mut serial).inspect_err(|error| self.core.fail(error))?;
        self.core.space.grow(total_blocks);
        Ok(())
    }

    /// Makes both superblock slots hold the newest state, once after each checkpoint: to be called
    /// when the pool is idle, so that no older payload stays on the device for long.
    ///
    /// # Errors
    /// The device's; the pool is read-only then.
    pub fn settle_slots(&self) -> Result<(), PoolError> {
        let mut serial = self.serial.lock();
        if serial.idle {
            return Ok(());
        }
        self.core.check_writable()?;
        self.rewrite_other_slot(&mut serial).inspect_err(|error| self.core.fail(error))
    }

    /// The last checkpoint; nothing can be changed afterwards. Heads are closed before.
    ///
    /// # Errors
    /// As [`Pool::checkpoint`]; what had been committed is safe then, in the logs.
    pub fn close(&self) -> Result<(), PoolError> {
        if self.core.failure().is_none() {
            self.checkpoint(CutPlan::default())?;
            self.settle_slots()?;
            self.core.close();
        }
        self.stop_waiting();
        self.core.nodes.wipe();
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.core.nodes.wipe();
    }
}
