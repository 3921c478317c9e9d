//! Who reaches which block, held against the region maps.
//!
//! Trees are taken in one at a time: their runs are sorted, so that two references to one block
//! meet, and compared with each region's map; what stays is one bit for each block reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::limits::REGION_BLOCKS;
use crate::base::{BlockAddr, Generation, SegmentId};
use crate::block::Run;
use crate::block::geometry::Geometry;
use crate::block::region_map::{MapRun, RegionMap};
use crate::pool::Pool;
use crate::verify::findings::{Defect, Owner, Report};

/// What the map has to say of a run that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::verify) enum Expected {
    /// That it belongs to this segment.
    Segment(SegmentId),
    /// That it belongs to a segment in which this generation was born.
    Born(Generation),
}

/// A run that somebody reaches.
#[derive(Clone, Copy, Debug)]
pub(in crate::verify) struct Reach {
    pub run: Run,
    pub expected: Expected,
}

/// One bit for each block of a region.
type Bits = Box<[u64; REGION_BLOCKS as usize / 64]>;

/// Blocks in a region, as map and references have them.
pub(in crate::verify) struct Owners {
    pool: Arc<Pool>,
    geometry: Geometry,
    reached: BTreeMap<u32, Bits>,
    /// The map that was looked at last; `None`: it cannot be read.
    last: Option<(u32, Option<RegionMap>)>,
    /// Regions whose map was reported.
    unreadable: BTreeSet<u32>,
    /// What the maps say is what is so.
    maps_known: bool,
}

/// Whether the map's segment may hold what was born then.
pub(in crate::verify) type MayHold<'a> = dyn Fn(SegmentId, Generation) -> bool + 'a;

impl Owners {
    pub fn new(pool: &Arc<Pool>, maps_known: bool) -> Self {
        let geometry = pool.geometry();
        Self {
            pool: Arc::clone(pool),
            geometry,
            reached: BTreeMap::new(),
            last: None,
            unreadable: BTreeSet::new(),
            maps_known,
        }
    }

    fn map(&mut self, region: u32, report: &mut Report) -> Option<&RegionMap> {
        if !self.maps_known {
            return None;
        }
        if self.last.as_ref().is_none_or(|(no, _)| *no != region) {
            let map = match self.pool.region_map(region) {
                Ok(map) => Some(map),
                Err(error) => {
                    if self.unreadable.insert(region) {
                        report.damage(Defect::Region { region, why: error.to_string() });
                    }
                    None
                }
            };
            self.last = Some((region, map));
        }
        self.last.as_ref().and_then(|(_, map)| map.as_ref())
    }

    /// Takes in what one owner reaches. How many blocks that is.
    pub fn take_in(
        &mut self,
        owner: &Owner,
        mut reaches: Vec<Reach>,
        may_hold: &MayHold<'_>,
        report: &mut Report,
    ) -> u64 {
        reaches.sort_unstable_by_key(|reach| reach.run);
        let (mut blocks, mut end) = (0, BlockAddr(0));
        for reach in reaches {
            let run = reach.run;
            let Ok((region, start)) = self.geometry.locate(run) else {
                let (owner, addr) = (owner.clone(), run.addr);
                report.damage(Defect::OutOfRange { owner, addr, blocks: run.blocks });
                continue;
            };
            if run.addr < end {
                report.damage(Defect::ReachedTwice { owner: owner.clone(), addr: run.addr });
            }
            end = end.max(run.end());
            blocks += u64::from(run.blocks);
            if let Some(map) = self.map(region, report) {
                compare(map, start, &reach, owner, may_hold, report);
            }
            let bits = self.reached.entry(region).or_insert_with(no_bits);
            (start..start + run.blocks).for_each(|block| set(bits, block));
        }
        blocks
    }

    /// Blocks of a run that no owner taken in so far reaches.
    pub fn unreached_of(&self, run: Run) -> u32 {
        let Ok((region, start)) = self.geometry.locate(run) else {
            return run.blocks;
        };
        let bits = self.reached.get(&region);
        let free = |block: &u32| bits.is_none_or(|bits| !is_set(bits, *block));
        (start..start + run.blocks).filter(free).count() as u32
    }

    /// The segment that holds the first allocated block of a run, and the block.
    pub fn first_allocated(
        &mut self,
        run: Run,
        report: &mut Report,
    ) -> Option<(BlockAddr, SegmentId)> {
        let (region, start) = self.geometry.locate(run).ok()?;
        let map = self.map(region, report)?;
        let segments = map.segments().get(start as usize..(start + run.blocks) as usize)?;
        let at = segments.iter().position(|segment| *segment != 0)?;
        Some((run.addr.plus(at as u64), SegmentId(*segments.get(at)?)))
    }

    /// Hands the stretches of every map to `visit`, each with its first block's address and whether
    /// it is reached. Whether all maps could be read.
    pub fn for_each_stretch(
        &mut self,
        report: &mut Report,
        visit: &mut dyn FnMut(&mut Report, BlockAddr, MapRun, bool),
    ) -> bool {
        let mut complete = true;
        for region in self.pool.regions() {
            self.last = None;
            let first = self.geometry.region_start(region);
            let none = no_bits();
            let map = self.pool.region_map(region).ok().filter(|_| self.maps_known);
            let Some(map) = map else {
                report.coverage.regions_unreadable += 1;
                complete = false;
                continue;
            };
            report.coverage.regions += 1;
            let bits = self.reached.get(&region).unwrap_or(&none);
            for run in map.runs() {
                for (piece, reached) in pieces(run, bits) {
                    visit(report, first.plus(u64::from(piece.start)), piece, reached);
                }
            }
        }
        complete
    }
}

/// One run of a tree against its region's map; one finding of each sort is enough.
fn compare(
    map: &RegionMap,
    start: u32,
    reach: &Reach,
    owner: &Owner,
    may_hold: &MayHold<'_>,
    report: &mut Report,
) {
    let run = reach.run;
    let range = start as usize..(start + run.blocks) as usize;
    let Some(segments) = map.segments().get(range) else { return };
    let free = segments.iter().filter(|segment| **segment == 0).count() as u32;
    if free > 0 {
        let at = segments.iter().position(|segment| *segment == 0).unwrap_or_default();
        let (owner, addr) = (owner.clone(), run.addr.plus(at as u64));
        report.damage(Defect::NotAllocated { owner, addr, blocks: free });
    }
    let fits = |segment: u32| match reach.expected {
        Expected::Segment(expected) => expected.get() == segment,
        Expected::Born(birth) => may_hold(SegmentId(segment), birth),
    };
    let wrong = segments.iter().position(|segment| *segment != 0 && !fits(*segment));
    if let Some((at, segment)) = wrong.and_then(|at| Some((at, *segments.get(at)?))) {
        report.damage(Defect::WrongSegment {
            owner: owner.clone(),
            addr: run.addr.plus(at as u64),
            birth: match reach.expected {
                Expected::Born(birth) => birth,
                Expected::Segment(_) => Generation(0),
            },
            segment: SegmentId(segment),
        });
    }
}

fn no_bits() -> Bits {
    Box::new([0; REGION_BLOCKS as usize / 64])
}

fn set(bits: &mut Bits, block: u32) {
    if let Some(word) = bits.get_mut(block as usize / 64) {
        *word |= 1 << (block % 64);
    }
}

fn is_set(bits: &Bits, block: u32) -> bool {
    bits.get(block as usize / 64).is_some_and(|word| word & (1 << (block % 64)) != 0)
}

/// A stretch of a map cut where being reached changes.
fn pieces(run: MapRun, bits: &Bits) -> Vec<(MapRun, bool)> {
    let mut out: Vec<(MapRun, bool)> = Vec::new();
    for block in run.start..run.start + run.blocks {
        let reached = is_set(bits, block);
        match out.last_mut() {
            Some((piece, same)) if *same == reached => piece.blocks += 1,
            _ => out.push((MapRun { start: block, blocks: 1, segment: run.segment }, reached)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_cut_where_being_reached_changes() {
        let mut bits = no_bits();
        [64, 65, 70].into_iter().for_each(|block| set(&mut bits, block));
        let run = MapRun { start: 64, blocks: 8, segment: SegmentId(20) };
        let cut: Vec<_> =
            pieces(run, &bits).into_iter().map(|(p, on)| (p.start, p.blocks, on)).collect();
        assert_eq!(cut, [(64, 2, true), (66, 4, false), (70, 1, true), (71, 1, false)]);
    }
}
