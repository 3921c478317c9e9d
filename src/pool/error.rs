//! What can go wrong with a pool.

use crate::base::size::format_size;
use crate::base::units::put_back;
use crate::base::{BlockAddr, Generation};
use crate::block::BlockError;
use crate::device::DeviceError;
use crate::tree::TreeError;

/// What can go wrong with a pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No room that this request may use is left.
    #[error("the pool is full")]
    Full,
    /// The pool takes no changes any more; opening it again decides what is there.
    #[error("the pool is read-only: {reason}")]
    ReadOnly {
        /// Why, as `status` shows it.
        reason: String,
    },
    /// Something on the device is not what was written.
    #[error("the {what} is corrupt (block {addr})")]
    Corrupt {
        /// What: `superblock`, `space ring`, `catalog item`, `node`, `data`.
        what: &'static str,
        /// Where; 0 where it is no block.
        addr: BlockAddr,
    },
    /// The device failed.
    #[error("the pool's device failed: {0}")]
    Io(#[from] DeviceError),
    /// The engine key does not open this pool.
    #[error("the key does not open this pool")]
    WrongKey,
    /// No superblock copy can be read, and this was a pool.
    #[error("the superblock is damaged in every copy")]
    SuperblockLost,
    /// There is no superblock.
    #[error("there is no pool")]
    NotAPool,
    /// There is a pool already.
    #[error("there is a pool already")]
    Exists,
    /// The pool was written by a later version.
    #[error("the pool needs a newer version: {what}")]
    TooNew {
        /// What this version does not know.
        what: String,
    },
    /// The device is shorter than the pool.
    #[error("the pool has {expected} bytes and its device only {found}")]
    Truncated {
        /// Bytes that the superblock states.
        expected: u64,
        /// Bytes that the device has.
        found: u64,
    },
    /// The pool is older than what was last seen of it.
    #[error("the pool is at generation {}", put_back(found.get(), remembered.get()))]
    RolledBack {
        /// What the superblock states.
        found: Generation,
        /// What was remembered, or what the pool itself shows of a later state.
        remembered: Generation,
    },
    /// The device is too small for a pool, or the size asked for is.
    #[error(
        "a pool needs {} at least, and this one would have {}",
        format_size(*minimum),
        format_size(*found)
    )]
    TooSmall {
        /// The least.
        minimum: u64,
        /// What was given.
        found: u64,
    },
    /// An edit of the catalog was refused by whoever made it; nothing of it happened.
    #[error("the change was refused")]
    Refused,
    /// What was asked for contradicts the pool's limits: a programming error above.
    #[error("the request is not valid: {0}")]
    Invalid(&'static str),
    /// The cluster's log holds acknowledged writes that await its key.
    #[error("acknowledged writes await the cluster's key")]
    Outstanding,
    /// What a crash left in the cluster's log could not be read when the pool was opened, though
    /// something acknowledged may stand there: the cluster is not opened before that is accepted.
    #[error("the log that holds its last acknowledged writes is damaged")]
    LogLost,
    /// The cluster was locked: its keys are gone.
    #[error("the cluster is locked")]
    Wiped,
    /// A sealed root or log seed does not open under the cluster key given.
    #[error("the cluster key does not open {0}")]
    ClusterKey(&'static str),
}

impl From<BlockError> for PoolError {
    fn from(error: BlockError) -> Self {
        match error {
            BlockError::Full => Self::Full,
            BlockError::Corrupt { what, addr } => Self::Corrupt { what, addr },
            BlockError::Accounting { addr, .. } => Self::Corrupt { what: "space map", addr },
            BlockError::OutOfRange { addr } => Self::Corrupt { what: "pointer", addr },
            BlockError::NoCheckpoint => Self::Invalid("a node written outside of a checkpoint"),
            BlockError::Device(source) => Self::Io(source),
        }
    }
}

impl From<TreeError> for PoolError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Block(error) => error.into(),
            TreeError::Corrupt { addr, .. } => Self::Corrupt { what: "node", addr },
            TreeError::ValueTooLong { .. } => Self::Invalid("an item longer than a node holds"),
            TreeError::TooHigh => Self::Invalid("a tree higher than it may be"),
            TreeError::NodeSize { .. } => Self::Invalid("the size of nodes"),
            TreeError::NotWritten => Self::Invalid("a node that was never written"),
        }
    }
}

impl PoolError {
    /// `what` cannot be read, though its bytes are what was written.
    #[must_use]
    pub(crate) const fn undecodable(what: &'static str) -> Self {
        Self::Corrupt { what, addr: BlockAddr(0) }
    }
}
