//! Who takes part in a checkpoint, and what passes between it and them.

use std::sync::Arc;

use crate::base::{ClusterId, Generation, SegmentId};
use crate::block::{Book, Run};
use crate::crypto::LogOuterKey;
use crate::pool::PoolError;
use crate::pool::catalog_txn::CatalogTxn;
use crate::pool::core::Interval;
use crate::pool::log::LogItem;

/// A root pointer sealed under a cluster key.
pub type SealedRootBytes = Vec<u8>;

/// Blocks that a tree no longer references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The blocks.
    pub run: Run,
    /// Interval in which they were born.
    pub birth: Generation,
}

/// What one head hands over at a cut.
#[derive(Clone, Debug)]
pub struct HeadCut {
    /// The cluster.
    pub cluster: ClusterId,
    /// Version of the cluster key that seals the root and the log seed.
    pub ck_id: u32,
    /// The new sealed root; `None` where nothing changed.
    pub root: Option<SealedRootBytes>,
    /// The interval in which the root last changed.
    pub root_generation: Generation,
    /// What its tree let go in this interval.
    pub kills: Vec<Kill>,
    /// Blocks born in this interval, by segment.
    pub allocated: Vec<(SegmentId, u64)>,
    /// Blocks that its tree references.
    pub referenced_blocks: u64,
}

/// All that a cut gathered; what the catalog settles.
#[derive(Clone, Debug, Default)]
pub struct CutReport {
    /// The checkpoint.
    pub generation: Generation,
    /// Every open head.
    pub heads: Vec<HeadCut>,
    /// The segment in which each of these clusters goes on after the cut.
    pub new_segments: Vec<(ClusterId, SegmentId)>,
}

/// Gives the catalog its meaning at a checkpoint.
pub trait Keeper: Send + Sync {
    /// Applies kills, segments and roots of `cut` to the catalog tree. It may free runs
    /// ([`CatalogTxn::free`]); those frees belong to the interval being written.
    ///
    /// # Errors
    /// Any error makes the pool read-only: the checkpoint is abandoned.
    fn settle(&self, txn: &mut CatalogTxn<'_>, cut: &CutReport) -> Result<(), PoolError>;
}

/// What a participant needs to know of the interval that a cut opens.
pub(in crate::pool) struct NextInterval {
    /// Its number.
    pub generation: Generation,
    /// Its outer log key.
    pub lo: Arc<LogOuterKey>,
    /// The participant's new current segment, if this cut closes the old one.
    pub segment: Option<SegmentId>,
    /// This cut is the participant's last: it takes no operation and keeps no log after it.
    pub is_last: bool,
}

/// A head, as the checkpoint sees it.
pub(in crate::pool) trait Participant: Send + Sync {
    /// Which cluster.
    fn cluster(&self) -> ClusterId;
    /// Before the cut, with the gate open: write out full buffers, load the leaves that the rest
    /// needs, so that the cut itself is short.
    fn prepare_cut(&self) -> Result<(), PoolError>;
    /// The cut, with the gate closed: insert the remaining buffers, end the log of this interval
    /// with a switch record, freeze. No I/O.
    fn cut(&self, old: &Interval, next: &NextInterval) -> Result<Box<dyn FrozenHead>, PoolError>;
    /// The superblock of `generation` is durable: that half of the log is free.
    fn durable(&self, generation: Generation);
}

/// A head's state at the cut.
pub(in crate::pool) trait FrozenHead: Send {
    /// Writes the dirty nodes, children first, seals the root. Space goes to `book`.
    fn write(self: Box<Self>, book: &Book) -> Result<HeadOut, PoolError>;
}

/// What a frozen head became.
pub(in crate::pool) struct HeadOut {
    /// For the keeper.
    pub cut: HeadCut,
    /// For the catalog's LOG item of that cluster; `None` removes it.
    pub log: Option<LogItem>,
}
