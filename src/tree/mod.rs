//! A persistent copy-on-write B+tree: items by key, in encrypted nodes, in as many versions as are
//! held.
//!
//! A [`Tree`] is a root. Cloning it is O(1) and gives a version that no later edit changes, so a
//! reader clones the root and needs no lock, and a checkpoint freezes a tree by cloning it and writes
//! it while the original goes on. Nodes in memory are shared by the versions that hold them and
//! carry the interval in which they became what they are: an edit of the same interval changes them
//! in place, any other copies the node and reports the old one in [`NodeKills`].
//!
//! Promises: after an error the tree holds what it held; a node is reported as killed exactly once,
//! by the edit after which this line of versions no longer reaches it; bytes on disk are canonical;
//! any bytes may be read as a node, and those that a writer would not have made are refused.
//! Memory is that of the nodes changed since the last [`Tree::settle`] and of a bounded cache.
//!
//! It knows nothing of what items mean, when checkpoints are, or who frees a killed node.
//!
//! # Layout of a node
//!
//! All of a pool's nodes have one size, which stands in the superblock (16 KiB; 512 bytes to 64 KiB
//! can be laid out). Integers are little-endian unless said otherwise.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 2 | magic: `SN` |
//! | 2 | 1 | level: 0 for leaves, at most 15 |
//! | 3 | 1 | flags: 0 |
//! | 4 | 4 | count: items in the node, at least 1 |
//! | 8 | 19 each | slots, in ascending order of their keys, no key twice |
//! | | | zeros |
//! | end - sum | sum of lengths | values; that of the first slot ends where the node does, each other ends where the one before it begins |
//!
//! A slot is a key and an `end` (u16): the number of bytes of this value and all values before it.
//! So value `i` takes the bytes from `size - end[i]` up to `size - end[i - 1]` (with 0 for
//! `end[-1]`). A key is 17 bytes, big-endian, so that keys order as their bytes do: object u64, kind
//! u8, offset u64.
//!
//! A value in a leaf is at most a quarter of the node's size. In a node of level L > 0 every value is
//! a pointer of 80 bytes to a node of level L - 1 (its layout: [`crate::block::Pointer`]), and the
//! slot's key separates: child `i` holds keys from `key[i]` on and below `key[i + 1]`. The first child
//! also holds keys below `key[0]`, as far down as the parent lets the node go; the last one is
//! bounded by the parent alike. A tree without items has no node. Nodes may be as empty as one item;
//! all leaves are at level 0.
//!
//! What binds a node to its place is its parent: address, birth, key and tag stand in the pointer.

mod balance;
mod cache;
mod descend;
mod edit;
mod error;
mod flush;
mod gaps;
mod key;
mod kills;
#[cfg(test)]
mod model_tests;
mod node;
mod nodes;
mod page;
#[cfg(test)]
mod page_tests;
pub mod shape;
#[cfg(test)]
mod tree_tests;
mod walk;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use error::TreeError;
pub use flush::Twice;
pub use gaps::Part;
pub use key::{KEY_BYTES, Key};
pub use kills::NodeKills;
pub use node::Node;
pub use nodes::Nodes;
pub use page::NodeDefect;
pub use walk::Step;

use crate::base::Generation;
use crate::block::Pointer;
use node::Link;

/// Nodes made the own of an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dirty {
    leaves: usize,
    inner: usize,
}

impl Dirty {
    fn of(&mut self, node: &Node) -> &mut usize {
        if node.is_leaf() { &mut self.leaves } else { &mut self.inner }
    }
}

/// One version of a tree, which edits make into the next. A clone is another version, in O(1).
#[derive(Clone, Default)]
pub struct Tree {
    root: Option<Link>,
    /// Interval of the latest edit.
    edited: Option<Generation>,
    /// Nodes made the own of that interval.
    dirty: Dirty,
    /// Of a tree that edits made empty: whether that was written.
    emptied: Option<Arc<AtomicBool>>,
}

impl Tree {
    /// A tree without items.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The tree whose root was written at `root`. Nothing is read yet.
    #[must_use]
    pub fn open(root: Pointer) -> Self {
        Self { root: Some(Link::Disk(root)), ..Self::default() }
    }

    /// Whether the tree has no items.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether it differs from what was last written or opened.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        match (&self.root, &self.emptied) {
            (Some(Link::Live(handle)), _) => handle.place.pointer().is_none(),
            (Some(Link::Disk(_)), _) | (None, None) => false,
            (None, Some(written)) => !written.load(Ordering::Acquire),
        }
    }

    /// The interval of the latest edit; `None` where it was not edited since it was opened.
    #[must_use]
    pub const fn edited(&self) -> Option<Generation> {
        self.edited
    }

    /// Nodes that the interval of the latest edit has made its own: what a cut now would add to
    /// the next checkpoint, in nodes.
    #[must_use]
    pub const fn dirty_nodes(&self) -> usize {
        self.dirty.leaves + self.dirty.inner
    }

    /// Copies of nodes that writing those takes, where inner nodes are kept twice
    /// ([`Twice::Inner`]).
    #[must_use]
    pub const fn dirty_copies(&self) -> usize {
        self.dirty.leaves + 2 * self.dirty.inner
    }

    /// Levels of the tree, as far as that is known without reading: 1 for a leaf or nothing.
    #[must_use]
    pub fn known_levels(&self) -> usize {
        match &self.root {
            Some(Link::Live(handle)) => usize::from(handle.node.level()) + 1,
            Some(Link::Disk(_)) | None => 1,
        }
    }
}
