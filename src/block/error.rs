//! What can go wrong with blocks.

use crate::base::{BlockAddr, SegmentId};
use crate::device::DeviceError;

/// What can go wrong with blocks.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// No run of the wanted class is left.
    #[error("the pool is full")]
    Full,
    /// The bytes at an address do not carry the tag that the pointer to them holds.
    #[error("the {what} at block {addr} is corrupt")]
    Corrupt {
        /// What was read: `node`, `data`, `region map`.
        what: &'static str,
        /// Its address.
        addr: BlockAddr,
    },
    /// A run is freed, or taken, that the region's map does not hold as stated.
    #[error("block {addr} is not held by segment {segment} as stated: the space map is corrupt")]
    Accounting {
        /// First block of the run.
        addr: BlockAddr,
        /// The segment stated.
        segment: SegmentId,
    },
    /// A pointer names blocks that the pool does not have.
    #[error("block {addr} lies outside the pool")]
    OutOfRange {
        /// The address.
        addr: BlockAddr,
    },
    /// A node was to be written while no checkpoint of its interval writes: a programming error.
    #[error("nodes are written by checkpoints only")]
    NoCheckpoint,
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
