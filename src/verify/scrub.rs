//! A pool that serves, read through: superblock copies, the catalog, every allocated block against
//! its checksum, and every tree that somebody hands over, down to the tags of its data.
//!
//! Others write meanwhile. A block whose checksum does not fit is looked at again after a checkpoint,
//! with the map as it is then: what was being written, or was let go, is no rot. Many are looked at
//! after one checkpoint, so that a medium that rots everywhere is read through all the same. A tree is read at
//! one moment, and keeps what it reaches from being given out again while it is read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::units::BLOCK_SIZE;
use crate::base::{BlockAddr, EncryptionKeyId, Generation, SegmentId};
use crate::block::Run;
use crate::block::region_map::{MapRun, RegionMap};
use crate::pool::{CutPlan, NameHashKey, Pool, PoolState, View};
use crate::sys::{AlignedBuf, clock};
use crate::verify::coverage::{TreeCoverage, TreeState};
use crate::verify::facts::Facts;
use crate::verify::findings::{Defect, Owner, Report};
use crate::verify::hits::Hit;
use crate::verify::names::{self, OpenTree};
use crate::verify::owners::Owners;
use crate::verify::pace::Pace;
use crate::verify::superblocks;
use crate::verify::trees::{Stated, Walk};
use crate::verify::volume_items::volume_items;

/// Blocks read at once (1 MiB).
const READ_BLOCKS: u32 = 256;
/// Looks at what may only be on its way, before it is called wrong.
const LOOKS: u32 = 3;
/// Blocks that are looked at again together.
const SUSPECTS_MAX: usize = 1024;
/// Longer than a superblock is under way.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// A tree to be read.
pub enum ScrubTree<'a> {
    /// It is open, as it is now or as it was written.
    Open(View, &'a NameHashKey),
    /// Nothing was ever written to it.
    Empty,
    /// These keys are not at hand: its blocks are compared with their checksums alone.
    Locked(Vec<EncryptionKeyId>),
    /// Its root does not open; why.
    Damaged(String),
}

/// A block that does not fit its map.
#[derive(Clone, Copy)]
struct Suspect {
    region: u32,
    block: u32,
}

/// A scrub under way.
pub struct Scrub<'a> {
    pool: &'a Arc<Pool>,
    pace: &'a dyn Pace,
    facts: Facts,
    owners: Owners,
    report: Report,
    suspects: Vec<Suspect>,
    rotten: BTreeSet<BlockAddr>,
    locked: Vec<Owner>,
}

impl<'a> Scrub<'a> {
    /// Begins with what everything else depends on: superblock copies and the catalog. Bad copies
    /// are written anew.
    #[must_use]
    pub fn begin(pool: &'a Arc<Pool>, pace: &'a dyn Pace) -> Self {
        let mut report = Report::new(pool.id(), pool.generation());
        report.mends = is_writable(pool);
        superblock_copies(pool, &mut report);
        // Maps change meanwhile: what they say is compared block by block.
        let mut owners = Owners::new(pool, false);
        let facts = Facts::read(pool, &mut owners, &mut report);
        let (suspects, rotten, locked) = (Vec::new(), BTreeSet::new(), Vec::new());
        Self { pool, pace, facts, owners, report, suspects, rotten, locked }
    }

    /// Compares every allocated block with its checksum; no key is needed. False where the pace
    /// ended it.
    pub fn blocks(&mut self) -> bool {
        let all = self.regions();
        self.look_again();
        if all { true } else { self.interrupted() }
    }

    fn regions(&mut self) -> bool {
        for region in self.pool.regions() {
            let map = match self.pool.region_map(region) {
                Ok(map) => map,
                Err(error) => {
                    self.report.coverage.regions_unreadable += 1;
                    self.report.damage(Defect::Region { region, why: error.to_string() });
                    continue;
                }
            };
            self.report.coverage.regions += 1;
            for run in map.runs() {
                self.report.coverage.blocks_allocated += u64::from(run.blocks);
                if !self.run(region, &map, run) {
                    return false;
                }
            }
        }
        true
    }

    /// Reads one tree. False where the pace ended it.
    pub fn tree(&mut self, owner: Owner, tree: ScrubTree<'_>) -> bool {
        let (view, name_key) = match tree {
            ScrubTree::Open(view, name_key) => (view, name_key),
            ScrubTree::Empty => return self.not_read(owner, TreeState::Empty),
            ScrubTree::Locked(ids) => {
                self.locked.push(owner.clone());
                return self.not_read(owner, TreeState::Locked(ids));
            }
            ScrubTree::Damaged(why) => {
                self.report.damage(Defect::Root { owner: owner.clone(), why });
                return self.not_read(owner, TreeState::Damaged);
            }
        };
        let walk = Walk {
            pool: self.pool,
            facts: &self.facts,
            items: &volume_items,
            data: true,
            pace: self.pace,
        };
        let stated = Stated { newest: Generation(u64::MAX), blocks: None, family: None };
        let (owners, report) = (&mut self.owners, &mut self.report);
        let coverage = walk.tree(&owner, &stated, &view, name_key, owners, report);
        report.coverage.trees.push(coverage);
        for addr in std::mem::take(&mut report.spots.bad_tags) {
            // Read again, from the device, where it was only on its way.
            if !self.rotten.contains(&addr) {
                report.damage(Defect::Tag { addr });
            }
        }
        names::resolve(self.pool, &OpenTree { owner, view }, report);
        if self.pace.read(0) { true } else { self.interrupted() }
    }

    /// What was found.
    #[must_use]
    pub fn end(mut self) -> Report {
        let spots = std::mem::take(&mut self.report.spots);
        // A node's fault was told as such.
        let told = |defect: &Defect| match defect {
            Defect::Rot { addr, .. } => spots.is_in_bad_node(*addr),
            _ => false,
        };
        self.report.findings.retain(|finding| !told(&finding.defect));
        for finding in &mut self.report.findings {
            if matches!(finding.defect, Defect::Rot { .. }) && finding.hits.is_empty() {
                for owner in &self.locked {
                    finding.hit(Hit { owner: owner.clone(), file: None, locked: true });
                }
            }
        }
        self.report
    }

    fn not_read(&mut self, owner: Owner, state: TreeState) -> bool {
        self.report.coverage.trees.push(TreeCoverage::without(owner, state));
        true
    }

    fn interrupted(&mut self) -> bool {
        self.report.coverage.interrupted = true;
        false
    }

    fn run(&mut self, region: u32, map: &RegionMap, run: MapRun) -> bool {
        let first = self.pool.geometry().region_start(region);
        let mut start = run.start;
        while start < run.start + run.blocks {
            let blocks = (run.start + run.blocks - start).min(READ_BLOCKS);
            let piece = Run { addr: first.plus(u64::from(start)), blocks };
            if !self.pace.read(piece.bytes() as u64) {
                return false;
            }
            let mut bytes = AlignedBuf::new(piece.bytes());
            if let Err(error) = self.pool.device().read(piece.addr.offset_bytes(), &mut bytes) {
                let (Run { addr, blocks }, why) = (piece, error.to_string());
                self.report.damage(Defect::Device { addr, blocks, why });
            } else {
                let range = start as usize..(start + blocks) as usize;
                let crcs = map.crcs().get(range).unwrap_or_default();
                let unchecked = crcs.iter().filter(|crc| **crc == 0).count() as u64;
                self.report.coverage.blocks_without_checksum += unchecked;
                self.report.coverage.blocks_checked += u64::from(blocks) - unchecked;
                let rotten = map.rotten(start, &bytes).into_iter();
                self.suspects.extend(rotten.map(|block| Suspect { region, block }));
                if self.suspects.len() >= SUSPECTS_MAX {
                    self.look_again();
                }
            }
            start += blocks;
        }
        true
    }

    /// Blocks that did not fit their maps: still so, once everything that was on its way is there?
    fn look_again(&mut self) {
        let mut left: Vec<_> =
            std::mem::take(&mut self.suspects).into_iter().map(|s| (s, None)).collect();
        for _ in 0..LOOKS {
            if left.is_empty() {
                return;
            }
            // Of a pool that has just become read-only nothing is on its way any more.
            let failed =
                is_writable(self.pool) && self.pool.checkpoint(CutPlan::default()).is_err();
            if failed && is_writable(self.pool) {
                break;
            }
            let mut map = None;
            left.retain_mut(|(suspect, segment)| {
                let region = suspect.region;
                if map.as_ref().is_none_or(|(of, _)| *of != region) {
                    map = Some((region, self.pool.region_map(region).ok()));
                }
                *segment = map.as_ref().and_then(|(_, map)| self.misfit(map.as_ref()?, *suspect));
                segment.is_some()
            });
        }
        for (suspect, segment) in left {
            let Some(segment) = segment else { continue };
            let addr = self.addr(suspect);
            self.rotten.insert(addr);
            self.report.damage(Defect::Rot { addr, segment });
        }
    }

    fn addr(&self, suspect: Suspect) -> BlockAddr {
        let first = self.pool.geometry().region_start(suspect.region);
        first.plus(u64::from(suspect.block))
    }

    /// Whose a block is that does not fit its map as it is now.
    fn misfit(&self, map: &RegionMap, suspect: Suspect) -> Option<SegmentId> {
        let mut bytes = AlignedBuf::new(BLOCK_SIZE);
        let offset = self.addr(suspect).offset_bytes();
        let read = self.pool.device().read(offset, &mut bytes);
        let fits = read.is_ok() && map.rotten(suspect.block, &bytes).is_empty();
        let owner = map.segments().get(suspect.block as usize).copied().filter(|of| *of != 0);
        owner.filter(|_| !fits).map(SegmentId)
    }
}

fn is_writable(pool: &Pool) -> bool {
    !matches!(pool.state(), PoolState::ReadOnly(_))
}

/// Superblock copies that are bad whenever they are looked at: one that is just being written is
/// not. Two checkpoints write all four anew.
fn superblock_copies(pool: &Pool, report: &mut Report) {
    let look = || {
        let mut found = Report::new(pool.id(), pool.generation());
        superblocks::check(pool, &mut found);
        found
    };
    let mut found = look();
    for _ in 1..LOOKS {
        if found.is_clean() {
            break;
        }
        clock::sleep(BETWEEN_LOOKS);
        let again = look();
        found.findings.retain(|finding| again.findings.contains(finding));
        found.coverage = again.coverage;
        if found.findings.is_empty() {
            break;
        }
    }
    report.coverage.superblock_copies = found.coverage.superblock_copies;
    report.coverage.ring_records = found.coverage.ring_records;
    let bad = !found.findings.is_empty();
    for finding in found.findings {
        report.add(finding.severity, finding.defect);
    }
    for _ in 0..if bad && is_writable(pool) { 2 } else { 0 } {
        if let Err(error) = pool.checkpoint(CutPlan::default()) {
            log::error!("superblock copies could not be written anew: {error}");
        }
    }
}
