//! What a check found.

use std::fmt;

use crate::base::{
    BlockAddr, ClusterId, ClusterName, Generation, InodeNo, PoolId, SegmentId, SnapshotId,
};
use crate::catalog::BadItem;
use crate::verify::coverage::Coverage;
use crate::verify::hits::{HITS_MAX, Hit};
use crate::verify::spots::{Spot, Spots};

/// Findings kept whole; more are counted.
const FINDINGS_MAX: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Space or counts are not as they should be; everything can be read.
    Waste,
    /// One of two copies is bad: the other serves, and replaces it.
    Repairable,
    /// Something cannot be read, or is accounted to the wrong owner.
    Damage,
}

/// Who reaches blocks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The pool's catalog.
    Catalog,
    /// A cluster's tree, as of the last checkpoint.
    Cluster(ClusterId, ClusterName),
    /// A snapshot's tree.
    Snapshot(SnapshotId, ClusterName),
    /// A cluster's log: its area, or what its records claim.
    Log(ClusterId),
    /// Blocks that were let go while a snapshot still reaches them.
    Cells,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog => f.write_str("the catalog"),
            Self::Cluster(_, name) => write!(f, "cluster {name}"),
            Self::Snapshot(id, name) => write!(f, "snapshot {id} of {name}"),
            Self::Log(id) => write!(f, "the log of cluster {id}"),
            Self::Cells => f.write_str("a cell"),
        }
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// A superblock copy is bad.
    #[error("superblock slot {slot} copy {copy}: {why}")]
    Superblock {
        /// 0 or 1.
        slot: u8,
        /// 0 or 1.
        copy: u8,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The space ring cannot be read as the superblock says.
    #[error("the space ring: {why}")]
    Ring {
        /// What is wrong.
        why: String,
    },
    /// A region's map or item is bad.
    #[error("region {region}: {why}")]
    Region {
        /// Which.
        region: u32,
        /// What is wrong.
        why: String,
    },
    /// A node cannot be read from any copy, or is none.
    #[error("{owner}: {why}")]
    Node {
        /// Whose tree.
        owner: Owner,
        /// Where it should be.
        addr: BlockAddr,
        /// Why not.
        why: String,
    },
    /// One of a node's two copies is bad.
    #[error(
        "{owner}: the copy at block {addr} of a tree node is bad, the other one is good{}",
        if *.mended { ", and it was written anew" } else { "" }
    )]
    NodeCopy {
        /// Whose tree.
        owner: Owner,
        /// Where the bad one is.
        addr: BlockAddr,
        /// The good one was written over it.
        mended: bool,
    },
    /// An item of a tree that cannot be decoded.
    #[error("{owner}: item {object}/{kind:#04x}/{offset}: {why}")]
    Item {
        /// Whose tree.
        owner: Owner,
        /// Object of its key.
        object: u64,
        /// Kind of its key.
        kind: u8,
        /// Offset of its key.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The catalog contradicts itself.
    #[error("the catalog: {why}")]
    Catalog {
        /// How.
        why: String,
    },
    /// A header's root does not open under its own key, or is damaged.
    #[error("{owner}: {why}")]
    Root {
        /// Whose.
        owner: Owner,
        /// Why not.
        why: String,
    },
    /// A run that no region holds whole.
    #[error("{owner} reaches {blocks} blocks at block {addr}, which no region holds")]
    OutOfRange {
        /// Who reaches it.
        owner: Owner,
        /// First block.
        addr: BlockAddr,
        /// How many.
        blocks: u32,
    },
    /// Two references of one tree to the same blocks.
    #[error("{owner} reaches block {addr} twice")]
    ReachedTwice {
        /// Who.
        owner: Owner,
        /// The first block concerned.
        addr: BlockAddr,
    },
    /// Blocks in use that the map calls free.
    #[error("{owner} reaches {blocks} blocks at block {addr} that the region map calls free")]
    NotAllocated {
        /// Who reaches them.
        owner: Owner,
        /// First block.
        addr: BlockAddr,
        /// How many.
        blocks: u32,
    },
    /// Blocks whose segment in the map is not one in which they can have been born.
    #[error("{owner}: block {addr}, born in generation {birth}, is held by segment {segment}")]
    WrongSegment {
        /// Who reaches it.
        owner: Owner,
        /// The first block concerned.
        addr: BlockAddr,
        /// The birth that its reference states; 0 where a cell or log names the segment.
        birth: Generation,
        /// What the map says.
        segment: SegmentId,
    },
    /// Blocks that nothing reaches, in a segment all of whose trees were walked.
    #[error("{blocks} blocks at block {addr} of segment {segment} are reached by nothing")]
    Unreached {
        /// First block.
        addr: BlockAddr,
        /// How many.
        blocks: u32,
        /// What the map says.
        segment: SegmentId,
    },
    /// A block that a log claims, and that is not free although the log was not taken in.
    #[error("the log of cluster {cluster} claims block {addr}, which segment {segment} holds")]
    ClaimedTwice {
        /// Whose log.
        cluster: ClusterId,
        /// The first block concerned.
        addr: BlockAddr,
        /// What the map says.
        segment: SegmentId,
    },
    /// A number that is kept is not what was counted.
    #[error("{what}: {stated} blocks are stated, {counted} were counted")]
    Count {
        /// What was counted.
        what: String,
        /// What is kept.
        stated: u64,
        /// What was found.
        counted: u64,
    },
    /// A log whose flushed records are missing.
    #[error("the log of cluster {cluster}: {why}")]
    Log {
        /// Whose.
        cluster: ClusterId,
        /// What is wrong.
        why: String,
    },
    /// A file, or what is kept of it, is not as it must be.
    #[error("{owner}: inode {inode}: {why}")]
    File {
        /// Whose tree.
        owner: Owner,
        /// The inode.
        inode: InodeNo,
        /// What is wrong with it.
        why: String,
    },
    /// Data that do not carry the tag in the pointer to them, and have the checksum in the map, or
    /// a map that cannot be read.
    #[error("block {addr} does not carry its tag")]
    Tag {
        /// The block.
        addr: BlockAddr,
    },
    /// Ciphertext that does not have the checksum in its region's map.
    #[error("block {addr} of segment {segment} does not have its checksum")]
    Rot {
        /// The block.
        addr: BlockAddr,
        /// What the map says.
        segment: SegmentId,
    },
    /// The device failed to read.
    #[error("{blocks} blocks at block {addr} cannot be read: {why}")]
    Device {
        /// First block.
        addr: BlockAddr,
        /// How many.
        blocks: u32,
        /// The device's error.
        why: String,
    },
}

impl Defect {
    /// A stable name of its kind, for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Superblock { .. } => "superblock",
            Self::Ring { .. } => "space-ring",
            Self::Region { .. } => "region",
            Self::Node { .. } => "node",
            Self::NodeCopy { .. } => "node-copy",
            Self::Item { .. } => "item",
            Self::Catalog { .. } => "catalog",
            Self::Root { .. } => "root",
            Self::OutOfRange { .. } => "out-of-range",
            Self::ReachedTwice { .. } => "reached-twice",
            Self::NotAllocated { .. } => "not-allocated",
            Self::WrongSegment { .. } => "wrong-segment",
            Self::Unreached { .. } => "unreached",
            Self::ClaimedTwice { .. } => "claimed-twice",
            Self::Count { .. } => "count",
            Self::Log { .. } => "log",
            Self::File { .. } => "file",
            Self::Tag { .. } => "tag",
            Self::Rot { .. } => "rot",
            Self::Device { .. } => "device",
        }
    }

    /// The block concerned, or the first of them.
    #[must_use]
    pub const fn block(&self) -> Option<BlockAddr> {
        match self {
            Self::Node { addr, .. }
            | Self::NodeCopy { addr, .. }
            | Self::OutOfRange { addr, .. }
            | Self::ReachedTwice { addr, .. }
            | Self::NotAllocated { addr, .. }
            | Self::WrongSegment { addr, .. }
            | Self::Unreached { addr, .. }
            | Self::ClaimedTwice { addr, .. }
            | Self::Tag { addr }
            | Self::Rot { addr, .. }
            | Self::Device { addr, .. } => Some(*addr),
            _ => None,
        }
    }

    /// Whose tree it was met in, where that is known without looking further.
    const fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Node { owner, .. }
            | Self::NodeCopy { owner, .. }
            | Self::Item { owner, .. }
            | Self::Root { owner, .. }
            | Self::OutOfRange { owner, .. }
            | Self::ReachedTwice { owner, .. }
            | Self::NotAllocated { owner, .. }
            | Self::WrongSegment { owner, .. }
            | Self::File { owner, .. } => Some(owner),
            _ => None,
        }
    }
}

/// A defect and how bad it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What.
    pub defect: Defect,
    /// What it hits: every tree and file concerned that is known.
    pub hits: Vec<Hit>,
    /// Hits beyond those.
    pub hits_left_out: u64,
}

impl Finding {
    /// Adds a hit, unless it is there.
    pub(in crate::verify) fn hit(&mut self, hit: Hit) {
        if self.hits.contains(&hit) {
            return;
        }
        if self.hits.len() < HITS_MAX {
            self.hits.push(hit);
        } else {
            self.hits_left_out += 1;
        }
    }

    /// Adds a tree that is concerned, where no file of it is.
    pub(in crate::verify) fn hit_tree(&mut self, owner: &Owner) {
        if !self.hits.iter().any(|hit| hit.owner == *owner) {
            self.hit(Hit::tree(owner.clone()));
        }
    }
}

impl Finding {
    /// A line for the log, which holds nothing of what is stored: files by their inodes, no names of
    /// them nor of their attributes.
    #[must_use]
    pub fn nameless(&self) -> String {
        let defect = match &self.defect {
            Defect::File { owner, inode, .. } => {
                format!("{owner}: inode {inode} is not as it must be")
            }
            defect => defect.to_string(),
        };
        let hits = self.hits.iter().map(|hit| format!("; hits {}", hit.nameless()));
        format!("{}: {defect}{}", self.severity, hits.collect::<String>())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waste => "waste",
            Self::Repairable => "repairable",
            Self::Damage => "damage",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.defect)?;
        self.hits.iter().try_for_each(|hit| write!(f, "; hits {hit}"))
    }
}

/// A pool that was put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// Its checkpoint.
    pub found: Generation,
    /// A later one that it had reached: the configuration remembers it, or the space ring shows it.
    pub seen: Generation,
}

/// What a check found, and what it covered.
#[derive(Clone, Debug)]
pub struct Report {
    /// The pool.
    pub pool: PoolId,
    /// The checkpoint that was checked.
    pub generation: Generation,
    /// The first thousand findings, in the order in which they were met.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub findings_left_out: u64,
    /// The worst severity of all.
    pub worst: Option<Severity>,
    /// The pool as a whole is older than it was.
    pub rolled_back: Option<RolledBack>,
    /// What was and was not covered.
    pub coverage: Coverage,
    /// Where findings stand, to name files by.
    pub(in crate::verify) spots: Spots,
    /// A bad copy is written anew from the good one.
    pub(in crate::verify) mends: bool,
}

impl Report {
    pub(in crate::verify) fn new(pool: PoolId, generation: Generation) -> Self {
        Self {
            pool,
            generation,
            findings: Vec::new(),
            findings_left_out: 0,
            worst: None,
            rolled_back: None,
            coverage: Coverage::default(),
            spots: Spots::default(),
            mends: false,
        }
    }

    /// Whether nothing at all was found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.worst.is_none() && self.rolled_back.is_none()
    }

    /// Adds a finding; its place in `findings`, unless there are too many.
    pub(in crate::verify) fn add(&mut self, severity: Severity, defect: Defect) -> Option<usize> {
        self.worst = self.worst.max(Some(severity));
        if self.findings.len() == FINDINGS_MAX {
            self.findings_left_out += 1;
            return None;
        }
        let hits = defect.owner().map(|owner| Hit::tree(owner.clone())).into_iter().collect();
        self.spots.note(self.findings.len(), &defect);
        self.findings.push(Finding { severity, defect, hits, hits_left_out: 0 });
        Some(self.findings.len() - 1)
    }

    pub(in crate::verify) fn damage(&mut self, defect: Defect) {
        self.add(Severity::Damage, defect);
    }

    /// The same, of something that these own.
    pub(in crate::verify) fn damage_of(&mut self, owner: Option<Owner>, defect: Defect) {
        let added = self.add(Severity::Damage, defect);
        if let (Some(owner), Some(finding)) =
            (owner, added.and_then(|at| self.findings.get_mut(at)))
        {
            finding.hit_tree(&owner);
        }
    }

    /// A node that cannot be read, or one of its copies. It is one fault, however many trees reach
    /// it.
    pub(in crate::verify) fn bad_node(
        &mut self,
        severity: Severity,
        defect: Defect,
        owner: &Owner,
        blocks: u32,
    ) -> Option<usize> {
        let addr = defect.block()?;
        let known = self.spots.bad_nodes.get(&addr).copied();
        match known {
            Some(at) => {
                if let Some(finding) = self.findings.get_mut(at) {
                    finding.hit_tree(owner);
                }
                known
            }
            None => {
                let added = self.add(severity, defect);
                self.spots.bad_node(addr, blocks, added);
                added
            }
        }
    }

    pub(in crate::verify) fn lost_keys(&mut self, at: Option<usize>, spot: Spot) {
        self.spots.keys.extend(at.map(|at| (at, spot)));
    }

    pub(in crate::verify) fn bad_item(&mut self, bad: BadItem) {
        let BadItem { key, error } = bad;
        self.damage(Defect::Item {
            owner: Owner::Catalog,
            object: key.object,
            kind: key.kind,
            offset: key.offset,
            why: error.to_string(),
        });
    }
}
