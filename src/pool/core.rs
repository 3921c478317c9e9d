//! What the pool and every open head share.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use crate::base::{BLOCK_SIZE, Generation, PoolId};
use crate::block::{Book, DataStore, PoolNodes, Readers, Space};
use crate::crypto::LogOuterKey;
use crate::device::{Device, DeviceError, Operation};
use crate::pool::due::Due;
use crate::pool::flushes::Flushes;
use crate::pool::freeing::Freeing;
use crate::pool::{Pool, PoolError};
use crate::sys::sync::{Mutex, Rank, RwLock};
use crate::tree::Nodes;

/// The interval that is open: what a change belongs to.
pub(in crate::pool) struct Interval {
    /// Its number.
    pub generation: Generation,
    /// Outer key of its log records.
    pub lo: Arc<LogOuterKey>,
    /// Space entries booked in it.
    pub book: Book,
}

/// What the pool and every open head share.
pub(in crate::pool) struct Core {
    /// Identity of the pool.
    pub pool_id: PoolId,
    /// Changes when a rollback was accepted.
    pub incarnation: u64,
    /// The device.
    pub device: Arc<dyn Device>,
    /// Regions and allocation.
    pub space: Arc<Space>,
    /// Data blocks.
    pub data: Arc<DataStore>,
    /// Node writes and their bookkeeping.
    pub node_store: Arc<PoolNodes>,
    /// Nodes, cached.
    pub nodes: Arc<Nodes>,
    /// Dirty nodes of all heads at which a checkpoint is due.
    pub dirty_nodes_max: usize,
    /// Dirty nodes of all heads in the open interval.
    pub dirty_nodes: AtomicUsize,
    /// Read side around each change, never over I/O; write side only at the cut.
    pub gate: RwLock<Interval>,
    /// Who may still read what was freed.
    pub readers: Readers,
    /// When the next checkpoint is due.
    pub due: Due,
    /// What deletions left to be freed.
    pub freeing: Freeing,
    /// The checkpoint that is durable.
    durable: AtomicU64,
    flushes: Flushes,
    /// Why the pool takes no changes, once it does not.
    failed: Mutex<Option<String>>,
    /// Who makes checkpoints.
    pool: OnceLock<Weak<Pool>>,
}

/// The parts of [`Core`] that are made before it.
pub(in crate::pool) struct CoreParts {
    pub pool_id: PoolId,
    pub incarnation: u64,
    pub device: Arc<dyn Device>,
    pub space: Arc<Space>,
    pub data: Arc<DataStore>,
    pub node_store: Arc<PoolNodes>,
    pub nodes: Arc<Nodes>,
    pub dirty_nodes_max: usize,
    pub interval: Interval,
    pub readers: Readers,
    pub due: Due,
    pub durable: Generation,
}

impl Core {
    pub(in crate::pool) fn new(parts: CoreParts) -> Self {
        Self {
            pool_id: parts.pool_id,
            incarnation: parts.incarnation,
            device: parts.device,
            space: parts.space,
            data: parts.data,
            node_store: parts.node_store,
            nodes: parts.nodes,
            dirty_nodes_max: parts.dirty_nodes_max,
            dirty_nodes: AtomicUsize::new(0),
            gate: RwLock::new(Rank::Gate, parts.interval),
            readers: parts.readers,
            due: parts.due,
            freeing: Freeing::default(),
            durable: AtomicU64::new(parts.durable.get()),
            flushes: Flushes::new(),
            failed: Mutex::new(Rank::PoolFailure, None),
            pool: OnceLock::new(),
        }
    }

    /// Who makes checkpoints; set once, by whoever made the pool.
    pub(in crate::pool) fn set_pool(&self, pool: Weak<Pool>) {
        let _ = self.pool.set(pool);
    }

    /// Blocks of a node.
    pub fn node_blocks(&self) -> u64 {
        (self.nodes.node_bytes() / BLOCK_SIZE).max(1) as u64
    }

    /// That the pool takes changes.
    ///
    /// # Errors
    /// [`PoolError::ReadOnly`]
    pub fn check_writable(&self) -> Result<(), PoolError> {
        match &*self.failed.lock() {
            None => Ok(()),
            Some(reason) => Err(PoolError::ReadOnly { reason: reason.clone() }),
        }
    }

    /// The pool's last word: nothing is changed any more, and nothing is wrong.
    pub fn close(&self) {
        self.failed.lock().get_or_insert_with(|| "it was closed".to_owned());
    }

    /// Makes the pool read-only; the first reason stays.
    pub fn fail(&self, reason: &(impl std::fmt::Display + ?Sized)) {
        let mut failed = self.failed.lock();
        if failed.is_none() {
            log::error!("the pool is read-only from here on: {reason}");
            *failed = Some(reason.to_string());
        }
    }

    /// Flushes the device. Of a flush that failed nobody knows what it lost: a later success, also
    /// one that began before, says nothing about what was written until then. So it waits for those
    /// that are under way beside it.
    ///
    /// # Errors
    /// The device's; [`PoolError::ReadOnly`] where the pool has failed meanwhile.
    pub fn flush(&self) -> Result<(), PoolError> {
        let flushing = self.flushes.begin();
        self.device.flush().inspect_err(|error| self.fail(error))?;
        drop(flushing);
        self.flushes.wait();
        self.check_writable()
    }

    /// Grows the device. The flush in it counts as any other.
    ///
    /// # Errors
    /// The device's; where the flush failed, or a part of the device is gone, the pool is read-only.
    pub fn grow(&self, bytes: u64) -> Result<(), PoolError> {
        let _flushing = self.flushes.begin();
        let grown = self.device.grow(bytes);
        match grown {
            Err(
                error @ (DeviceError::Io { op: Operation::Flush, .. }
                | DeviceError::CutShort { .. }),
            ) => {
                self.fail(&error);
                Err(error.into())
            }
            grown => Ok(grown?),
        }
    }

    /// Why the pool takes no changes, if it does not.
    pub fn failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    /// The checkpoint that is durable.
    pub fn durable_generation(&self) -> Generation {
        Generation(self.durable.load(Ordering::Acquire))
    }

    pub(in crate::pool) fn set_durable(&self, generation: Generation) {
        self.durable.store(generation.get(), Ordering::Release);
    }

    /// Makes `generation` durable: waits for the checkpoint under way, or makes one in the calling
    /// thread. Never to be called with the gate or a head's lock held.
    ///
    /// # Errors
    /// [`PoolError::ReadOnly`], and whatever the checkpoint fails with.
    pub fn wait_durable(&self, generation: Generation) -> Result<(), PoolError> {
        if self.durable_generation() >= generation {
            return Ok(());
        }
        if Checkpointing::by_this_thread() {
            return Err(PoolError::Invalid("a checkpoint inside a checkpoint"));
        }
        let gone = || PoolError::ReadOnly { reason: "the pool is closed".to_owned() };
        let pool = self.pool.get().and_then(Weak::upgrade).ok_or_else(gone)?;
        pool.checkpoint_through(generation)
    }

    /// Waits for a checkpoint where the open interval's space entries come close to what the space
    /// ring can take. To be called before a change enters the gate.
    ///
    /// # Errors
    /// As [`Core::wait_durable`].
    pub fn throttle(&self) -> Result<(), PoolError> {
        self.check_writable()?;
        if Checkpointing::by_this_thread() {
            return Ok(());
        }
        let generation = {
            let interval = self.gate.read();
            if !interval.book.is_over_limit() {
                return Ok(());
            }
            interval.generation
        };
        self.wait_durable(generation)
    }
}

thread_local! {
    static CHECKPOINTING: Cell<bool> = const { Cell::new(false) };
}

/// While it lives its thread makes a checkpoint. What buffers hand over for it is inserted by that
/// same thread, which must then not wait for a checkpoint.
pub(in crate::pool) struct Checkpointing(());

impl Checkpointing {
    pub fn begin() -> Self {
        CHECKPOINTING.set(true);
        Self(())
    }
    pub fn by_this_thread() -> bool {
        CHECKPOINTING.get()
    }
}

impl Drop for Checkpointing {
    fn drop(&mut self) {
        CHECKPOINTING.set(false);
    }
}

/// Makes the pool read-only where a panic unwinds past it: what was half done stays in memory.
pub(in crate::pool) struct FailOnPanic<'a>(pub &'a Core);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("a defect: an operation was left half done");
        }
    }
}
