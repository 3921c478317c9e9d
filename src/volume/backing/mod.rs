//! What the POSIX operations stand on: one tree of items with its data blocks and its log.
//!
//! Implemented by `head` over `pool::Head` and `pool::View`, and by [`memory`] without any disk,
//! so that every rule of POSIX is tested without one. The promises are those of `pool`:
//!
//! - [`Backing::transact`] holds the interval gate (its read side) for its duration; the edits of
//!   one call become visible together when it returns, and belong to one atomic group of the log.
//!   Reads within see the tree as it is then, with the call's own edits.
//! - [`Backing::commit`] makes durable everything acknowledged before it, and nothing without what
//!   came before: it drains the write buffers, which name the instant up to which the log is
//!   written ([`Buffers::drain_for_commit`]).
//! - A view is immutable; blocks that it can reach are not reused while it lives.

mod head;
pub mod memory;

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::Weak;
use std::time::Duration;

use crate::base::units::{BlockAddr, Generation};
pub use crate::tree::Key;
use crate::volume::attr::StatFs;
use crate::volume::error::Result;

/// What a range of items is handed to.
pub type Visit<'a> = dyn FnMut(Key, &[u8]) -> ControlFlow<()> + 'a;

/// Reads items.
pub trait Items {
    /// The item's value.
    ///
    /// # Errors
    /// A node that cannot be read.
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>>;
    /// The items from `from` to `to`, both inclusive, in order.
    ///
    /// # Errors
    /// A node that cannot be read.
    fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<()>;
}

/// An immutable state of the tree, with the data it reaches.
pub trait Snapshot: Items + Send + Sync {
    /// Reads one run of blocks: `out` holds one block for each reference of 48 bytes.
    ///
    /// # Errors
    /// A block that cannot be read or does not match its tag; the error names the address.
    fn read_blocks(&self, addr: BlockAddr, refs: &[u8], out: &mut [u8]) -> Result<()>;
}

/// Data encrypted into allocated blocks that no item refers to yet. Dropped unclaimed, the blocks
/// are free again.
pub struct Staged {
    /// First block.
    pub addr: BlockAddr,
    /// Key and tag of each block, 48 bytes each.
    pub refs: Vec<u8>,
    /// What the backing keeps with it.
    pub token: Box<dyn Any + Send + Sync>,
}

impl Staged {
    /// Blocks.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        (self.refs.len() / crate::volume::items::REF_BYTES) as u32
    }
}

/// One atomic set of edits.
pub trait Edit: Items {
    /// The interval the edits belong to: birth of what is claimed.
    fn generation(&self) -> Generation;
    /// Sets an item.
    ///
    /// # Errors
    /// A node that cannot be read.
    fn put(&mut self, key: Key, value: &[u8]) -> Result<()>;
    /// Removes an item, if it is there.
    ///
    /// # Errors
    /// A node that cannot be read.
    fn remove(&mut self, key: Key) -> Result<()>;
    /// Takes the tree as it is now, before the first read: called when the locks are held that keep
    /// others from changing what is about to be read.
    fn refresh(&mut self);
    /// Books staged blocks as allocated; items that point to them are put in the same edits.
    fn claim(&mut self, staged: Staged);
    /// Blocks that this tree no longer refers to.
    fn kill(&mut self, addr: BlockAddr, blocks: u32, birth: Generation);
}

/// Runs one set of edits in an interval gate that is held already.
pub type Transact<'a> = dyn FnMut(&mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()> + 'a;

/// Whether space is asked for to store, or to free other space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Stores data or names.
    Grow,
    /// Deletes or truncates; may dip into the pool's reserve.
    Shrink,
}

/// Space promised to an operation, given back when dropped.
pub struct Reservation {
    /// Blocks of data that it has room for.
    pub data_blocks: u64,
    /// The promise itself; `None`: nothing had to be promised.
    pub promise: Option<Box<dyn Any + Send + Sync>>,
}

/// What the write buffers do when the backing is about to move on.
pub trait Buffers: Send + Sync {
    /// Inserts all buffered data. The gate is closed: edits go through `transact` alone. No device
    /// I/O, and no lock that is held across I/O.
    ///
    /// # Errors
    /// Data that could not be inserted: the cut or commit fails.
    fn drain_gated(&self, transact: &mut Transact<'_>) -> Result<()>;
    /// Inserts what is buffered now, ahead of a cut, with I/O and without the gate.
    ///
    /// # Errors
    /// As [`Buffers::drain_gated`].
    fn drain_ahead(&self) -> Result<()>;
    /// Inserts all buffered data for a commit, and calls `mark` once, at an instant at which the
    /// tree holds everything acknowledged before it and no edit is half applied: what was appended
    /// to the log by then is what the commit writes.
    ///
    /// # Errors
    /// As [`Buffers::drain_gated`]; then `mark` was not called.
    fn drain_for_commit(&self, mark: &mut dyn FnMut()) -> Result<()>;
}

/// One tree, writable or not.
pub trait Backing: Send + Sync {
    /// Whether edits are possible at all: false for snapshots.
    fn writable(&self) -> bool;
    /// The tree as it is now.
    ///
    /// # Errors
    /// The cluster is locked.
    fn view(&self) -> Result<Box<dyn Snapshot>>;
    /// Runs `edit` once, atomically.
    ///
    /// # Errors
    /// What `edit` returns; then nothing happened.
    fn transact(&self, edit: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()>;
    /// Takes into the buffers what `accept` adds to them, with no cut meanwhile: a snapshot of
    /// several clusters holds of each what was acknowledged before one moment, and no later write.
    fn between_cuts(&self, accept: &mut dyn FnMut());
    /// Allocates blocks and encrypts `plain` (a multiple of 4 KiB) into them, in order.
    ///
    /// # Errors
    /// No space.
    fn stage(&self, plain: &[u8]) -> Result<Vec<Staged>>;
    /// Writes staged data to its place now. Claimed data that was not goes there later.
    ///
    /// # Errors
    /// The device failed.
    fn write_out(&self, staged: &mut [Staged]) -> Result<()>;
    /// Promises space for that many data blocks and items.
    ///
    /// # Errors
    /// No space.
    fn reserve(&self, data_blocks: u64, items: u64, purpose: Purpose) -> Result<Reservation>;
    /// After [`Backing::reserve`] was refused for want of room: waits, without a lock and until `end` at
    /// the latest, while something is being freed. Whether another try is worth while.
    fn wait_for_room(&self, _end: Duration) -> bool {
        false
    }
    /// Makes durable everything acknowledged before.
    ///
    /// # Errors
    /// The device failed; then nothing acknowledged since is known to be durable.
    fn commit(&self) -> Result<()>;
    /// Keyed hash of a name in a directory.
    fn name_hash(&self, parent: u64, name: &[u8]) -> u64;
    /// Whom to drain.
    fn set_buffers(&self, buffers: Weak<dyn Buffers>);
    /// Space, for statfs.
    fn space(&self) -> StatFs;
}
