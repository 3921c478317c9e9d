//! What a check found.

use std::fmt;

use crate::base::{BlockAddr, ClusterId, ClusterName, Generation, PoolId, SegmentId, SnapshotId};
use crate::catalog::BadItem;
use crate::verify::coverage::Coverage;

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
    #[error("{owner}: the copy at block {addr} of a tree node is bad, the other one is good")]
    NodeCopy {
        /// Whose tree.
        owner: Owner,
        /// Where the bad one is.
        addr: BlockAddr,
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
    /// Ciphertext that does not have the checksum in its region's map.
    #[error("block {addr} of segment {segment} does not have its checksum")]
    Rot {
        /// The block.
        addr: BlockAddr,
        /// What the map says.
        segment: SegmentId,
    },
    /// The device failed to read.
    #[error("blocks at block {addr} cannot be read: {why}")]
    Device {
        /// First block.
        addr: BlockAddr,
        /// The device's error.
        why: String,
    },
}

/// A defect and how bad it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What.
    pub defect: Defect,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Waste => "waste",
            Severity::Repairable => "repairable",
            Severity::Damage => "damage",
        };
        write!(f, "{severity}: {}", self.defect)
    }
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
    /// What was and was not covered.
    pub coverage: Coverage,
}

impl Report {
    pub(in crate::verify) fn new(pool: PoolId, generation: Generation) -> Self {
        Self {
            pool,
            generation,
            findings: Vec::new(),
            findings_left_out: 0,
            worst: None,
            coverage: Coverage::default(),
        }
    }

    /// Whether nothing at all was found.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.worst.is_none()
    }

    pub(in crate::verify) fn add(&mut self, severity: Severity, defect: Defect) {
        self.worst = self.worst.max(Some(severity));
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { severity, defect });
        } else {
            self.findings_left_out += 1;
        }
    }

    pub(in crate::verify) fn damage(&mut self, defect: Defect) {
        self.add(Severity::Damage, defect);
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
