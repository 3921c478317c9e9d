//! What can go wrong with a tree.

use crate::base::BlockAddr;
use crate::block::BlockError;
use crate::tree::page::NodeDefect;

/// What can go wrong with a tree. After any of these the tree holds what it held before.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A node could not be read or written.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A node that was read, and whose tag is right, is none that this version writes there.
    #[error("the tree node at block {addr} is corrupt: {defect}")]
    Corrupt {
        /// Where the node is.
        addr: BlockAddr,
        /// What is wrong with it.
        #[source]
        defect: NodeDefect,
    },
    /// A value that no node may hold.
    #[error("a value of {value_bytes} bytes is longer than a node's {max_bytes}")]
    ValueTooLong {
        /// Its length.
        value_bytes: usize,
        /// The longest that is taken: a quarter of a node.
        max_bytes: usize,
    },
    /// One level more than a tree may have.
    #[error("the tree would be higher than it may be")]
    TooHigh,
    /// A node size outside what the layout can hold.
    #[error("nodes of {node_bytes} bytes are outside what the format can hold")]
    NodeSize {
        /// The size asked for.
        node_bytes: usize,
    },
    /// A killed node of an earlier interval was never written, so it has no address to free: the
    /// checkpoint of its interval failed or was not awaited.
    #[error("a node was given up that its own checkpoint has not written")]
    NotWritten,
}
