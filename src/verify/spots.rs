//! Where findings stand, gathered while a pool is checked, so that the files which they hit can be
//! named at the end.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BlockAddr, InodeNo};
use crate::block::Run;
use crate::tree::Key;
use crate::verify::findings::{Defect, Owner};
use crate::volume::items::kind;

/// Items of one tree that cannot be read, because the node that held them cannot.
#[derive(Clone, Debug)]
pub(in crate::verify) struct Spot {
    pub owner: Owner,
    pub lower: Key,
    /// The first key behind them; `None`: no end.
    pub upper: Option<Key>,
}

/// Where findings stand; each with its place in the report.
#[derive(Clone, Debug, Default)]
pub(in crate::verify) struct Spots {
    /// Blocks concerned.
    pub runs: Vec<(usize, Run)>,
    /// Inodes of a tree.
    pub inodes: Vec<(usize, Owner, InodeNo)>,
    /// Items that were lost.
    pub keys: Vec<(usize, Spot)>,
    /// First blocks of nodes that are reported.
    pub bad_nodes: BTreeMap<BlockAddr, usize>,
    /// Every block of those.
    bad_node_blocks: BTreeSet<BlockAddr>,
    /// Blocks of data that do not carry the tag in the pointer to them.
    pub bad_tags: BTreeSet<BlockAddr>,
}

impl Spots {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.inodes.is_empty() && self.keys.is_empty()
    }

    /// Notes where a defect stands.
    pub fn note(&mut self, at: usize, defect: &Defect) {
        match defect {
            Defect::ReachedTwice { addr, .. }
            | Defect::WrongSegment { addr, .. }
            | Defect::ClaimedTwice { addr, .. }
            | Defect::Tag { addr }
            | Defect::Rot { addr, .. } => self.runs.push((at, Run { addr: *addr, blocks: 1 })),
            Defect::NotAllocated { addr, blocks, .. }
            | Defect::OutOfRange { addr, blocks, .. }
            | Defect::Device { addr, blocks, .. } => {
                self.runs.push((at, Run { addr: *addr, blocks: *blocks }));
            }
            Defect::File { owner, inode, .. } => self.inodes.push((at, owner.clone(), *inode)),
            Defect::Item { owner, object, kind: of, offset, .. } => {
                let inode = if *of < kind::INODE { *offset } else { *object };
                self.inodes.push((at, owner.clone(), InodeNo(inode)));
            }
            _ => {}
        }
    }

    /// Notes a node that was reported.
    pub fn bad_node(&mut self, addr: BlockAddr, blocks: u32, at: Option<usize>) {
        self.bad_nodes.extend(at.map(|at| (addr, at)));
        self.bad_node_blocks.extend((0..u64::from(blocks)).map(|n| addr.plus(n)));
    }

    /// Whether the block belongs to a node that was reported.
    pub fn is_in_bad_node(&self, addr: BlockAddr) -> bool {
        self.bad_node_blocks.contains(&addr)
    }
}
