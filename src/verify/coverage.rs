//! What a check covered, and what it could not.

use crate::base::{ClusterId, EncryptionKeyId};
use crate::verify::findings::Owner;

/// What became of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeState {
    /// Every node was read.
    Walked,
    /// Nothing was ever written to it.
    Empty,
    /// Its keys were not at hand.
    Locked(Vec<EncryptionKeyId>),
    /// It could be read in part or not at all; findings say why.
    Damaged,
    /// It was let go of before all was read: what it kept from being used again was needed.
    LetGo,
}

/// One tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeCoverage {
    /// Whose.
    pub owner: Owner,
    /// What became of it.
    pub state: TreeState,
    /// Nodes read.
    pub nodes: u64,
    /// Items decoded.
    pub items: u64,
    /// Blocks reached: nodes, both copies counted, and data.
    pub blocks: u64,
}

impl TreeCoverage {
    /// A tree that was not read.
    #[must_use]
    pub(in crate::verify) const fn without(owner: Owner, state: TreeState) -> Self {
        Self { owner, state, nodes: 0, items: 0, blocks: 0 }
    }
}

/// What a cluster's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogState {
    /// That of a mounted cluster, in use.
    Open,
    /// A crash left it; an opening has decided what counts.
    Outstanding,
    /// A crash left it; the next opening takes it in.
    Undecided,
    /// It cannot be read; a finding says why.
    Damaged,
}

/// One log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogCoverage {
    /// Whose.
    pub cluster: ClusterId,
    /// What it is.
    pub state: LogState,
    /// Records that count.
    pub records: u64,
    /// Blocks that they claim.
    pub claimed_blocks: u64,
}

/// What a check covered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Superblock copies that opened, of four.
    pub superblock_copies: u64,
    /// Records of the space ring.
    pub ring_records: u64,
    /// Region maps read.
    pub regions: u64,
    /// Region maps that could not be read.
    pub regions_unreadable: u64,
    /// Blocks that belong to somebody.
    pub blocks_allocated: u64,
    /// Who reaches each of these was looked at; a scrub does not.
    pub accounted: bool,
    /// Of these, reached by a tree, a log or a cell.
    pub blocks_reached: u64,
    /// Of these, not reached, and waiting to be freed in the background.
    pub blocks_awaiting_free: u64,
    /// Of these, not reached, in segments that locked or damaged trees may reach.
    pub blocks_uncovered: u64,
    /// Blocks whose checksum was compared.
    pub blocks_checked: u64,
    /// Blocks of data that carried the tag in the pointer to them.
    pub blocks_authenticated: u64,
    /// Blocks that have no checksum: log areas.
    pub blocks_without_checksum: u64,
    /// It was ended before all was read.
    pub interrupted: bool,
    /// Every tree.
    pub trees: Vec<TreeCoverage>,
    /// Every log.
    pub logs: Vec<LogCoverage>,
}

impl Coverage {
    /// Whether every tree was walked and every map read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let walked = |t: &TreeCoverage| matches!(t.state, TreeState::Walked | TreeState::Empty);
        !self.interrupted && self.regions_unreadable == 0 && self.trees.iter().all(walked)
    }
}
