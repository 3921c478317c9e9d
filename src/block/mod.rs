//! Pointers, regions, allocation, and sealed reads and writes of blocks.
//!
//! What leaves this room for the device is ciphertext; the key of a block stands only in the
//! pointer to it. Promises: a block that anything durable reaches is never written again; a block
//! that was freed is given out again only when the checkpoint that freed it is durable and no reader
//! that could still reach it runs; every free matches the segment that the region's map names, or it
//! is corruption. Space is accounted by segment, without any customer key.
//!
//! It knows nothing of trees or files.

mod allocate;
mod backing;
mod book;
mod data_store;
mod error;
mod fold;
pub mod geometry;
mod load;
pub mod memory;
mod pointer;
mod pool_nodes;
mod readers;
mod region;
pub mod region_map;
mod reserve;
mod space;

#[cfg(test)]
mod space_tests;

pub use book::Book;
pub use data_store::{DataStore, IMAGE_BYTES_MAX, Prepared};
pub use error::BlockError;
pub use fold::Folded;
pub use pointer::{BlockRef, Pointer};
pub use pool_nodes::PoolNodes;
pub use readers::{ReadGuard, Readers};
pub use region::{Booked, RegionItem, SlotRef};
pub use reserve::Urgency;
pub use space::{Space, SpaceReport};

use zeroize::Zeroizing;

use crate::base::{BlockAddr, Generation, SegmentId};

/// What a region holds. An empty region may change its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Tree nodes, all of the pool's node size.
    Node,
    /// File data and log areas.
    Data,
}

/// Consecutive blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    /// First block.
    pub addr: BlockAddr,
    /// How many, at least one.
    pub blocks: u32,
}

impl Run {
    /// The address behind the last block.
    #[must_use]
    pub const fn end(&self) -> BlockAddr {
        self.addr.plus(self.blocks as u64)
    }
    /// Bytes covered.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.blocks as usize * crate::base::BLOCK_SIZE
    }
    /// Whether the two share a block.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.addr.get() < other.end().get() && other.addr.get() < self.end().get()
    }
}

/// One change of a region's map, as it stands in log records, in the space ring and in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpaceEntry {
    /// The run now belongs to `segment`.
    Alloc {
        /// The blocks.
        run: Run,
        /// Segment they were born in.
        segment: SegmentId,
        /// CRC-32C of each block's ciphertext; empty where the blocks are written again and again
        /// (log areas), which scrub then does not check.
        crcs: Vec<u32>,
    },
    /// The run is free again.
    Free {
        /// The blocks.
        run: Run,
        /// Segment they were born in; must be what the map says.
        segment: SegmentId,
    },
}

impl SpaceEntry {
    /// The blocks concerned.
    #[must_use]
    pub const fn run(&self) -> Run {
        match self {
            Self::Alloc { run, .. } | Self::Free { run, .. } => *run,
        }
    }
    /// The segment concerned.
    #[must_use]
    pub const fn segment(&self) -> SegmentId {
        match self {
            Self::Alloc { segment, .. } | Self::Free { segment, .. } => *segment,
        }
    }
}

/// Where a tree keeps its nodes.
pub trait NodeStore: Send + Sync {
    /// Bytes in every node of this pool.
    fn node_bytes(&self) -> usize;
    /// The node's plaintext: read, verified, decrypted; from the second copy if the first is bad.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`] where no copy carries the pointer's tag; the device's errors.
    fn read_node(&self, pointer: &Pointer) -> Result<Zeroizing<Vec<u8>>, BlockError>;
    /// Writes the copy at `good` over the bad one that `bad` points to, which must be one of the
    /// same node's two, still reached by whoever asks.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`] where the other copy is bad too, or the place does not keep what is
    /// written; the device's.
    fn mend_node(&self, bad: &Pointer, good: BlockAddr) -> Result<(), BlockError> {
        let _ = good;
        Err(BlockError::Corrupt { what: "node", addr: bad.addr })
    }
    /// Allocates, encrypts under a fresh key, writes and books a node of `plain`, which is
    /// [`NodeStore::node_bytes`] long; `twice` keeps a second copy of the same ciphertext.
    ///
    /// # Errors
    /// [`BlockError::Full`]; the device's errors.
    fn write_node(
        &self,
        plain: &[u8],
        birth: Generation,
        segment: SegmentId,
        twice: bool,
    ) -> Result<Pointer, BlockError>;
}
