//! The books as a whole: cells, what every map holds against what was reached, and the counts of
//! every segment.

use std::collections::BTreeMap;

use crate::base::{LineId, SegmentId};
use crate::verify::facts::{Facts, Held};
use crate::verify::findings::{Defect, Owner, Report, Severity};
use crate::verify::owners::{Expected, Owners, Reach};
use crate::verify::trees::Uncovered;

/// To be called when every tree and log was taken in.
pub(in crate::verify) fn check(
    facts: &Facts,
    uncovered: &Uncovered,
    owners: &mut Owners,
    report: &mut Report,
) {
    report.coverage.accounted = true;
    cells(facts, uncovered, owners, report);
    let mut by_segment: BTreeMap<SegmentId, u64> = BTreeMap::new();
    let complete = owners.for_each_stretch(report, &mut |report, addr, run, reached| {
        let blocks = u64::from(run.blocks);
        *by_segment.entry(run.segment).or_default() += blocks;
        let coverage = &mut report.coverage;
        coverage.blocks_allocated += blocks;
        if reached {
            coverage.blocks_reached += blocks;
            return;
        }
        let dead = facts.segments.get(&run.segment).is_some_and(|segment| segment.dead);
        let covered = if run.segment == SegmentId::POOL {
            facts.complete
        } else {
            !uncovered.contains(facts.family_of(run.segment))
        };
        if dead {
            coverage.blocks_awaiting_free += blocks;
        } else if covered {
            let (blocks, segment) = (run.blocks, run.segment);
            report.add(Severity::Waste, Defect::Unreached { addr, blocks, segment });
        } else {
            coverage.blocks_uncovered += blocks;
        }
    });
    if complete && facts.complete {
        counts(facts, &by_segment, report);
    }
}

/// Blocks in cells are held by the segment of their birth. Each line of history lets a block go
/// once. Where nothing waits to be freed, a snapshot reaches what it holds, and what nothing holds
/// is gone; what a branch holds it may have let go itself.
fn cells(facts: &Facts, uncovered: &Uncovered, owners: &mut Owners, report: &mut Report) {
    let mut held = BTreeMap::new();
    for (death, reach) in facts.cell_runs.iter().flat_map(|(d, runs)| runs.iter().map(|r| (*d, r)))
    {
        let Expected::Segment(birth) = reach.expected else { continue };
        let dead = |id| facts.segments.get(&id).is_none_or(|segment| segment.dead);
        if !facts.is_settled() || dead(death) || dead(birth) {
            continue;
        }
        let by = held.entry((birth, death)).or_insert_with(|| facts.held_between(birth, death));
        let unreached = match by {
            Held::Nothing => reach.run.blocks,
            Held::ByBranch => 0,
            Held::BySnapshot if uncovered.contains(facts.family_of(birth)) => 0,
            Held::BySnapshot => owners.unreached_of(reach.run),
        };
        if unreached > 0 {
            let (addr, blocks, segment) = (reach.run.addr, unreached, birth);
            report.add(Severity::Waste, Defect::Unreached { addr, blocks, segment });
        }
    }
    let mut by_line: BTreeMap<LineId, Vec<Reach>> = BTreeMap::new();
    for (death, reaches) in &facts.cell_runs {
        // Cells of a dead segment say nothing any more, and are purged.
        if let Some(segment) = facts.segments.get(death).filter(|segment| !segment.dead) {
            by_line.entry(segment.line).or_default().extend(reaches);
        }
    }
    for reaches in by_line.into_values() {
        owners.take_in(&Owner::Cells, reaches, &|_, _| false, report);
    }
}

/// What the table counts of each segment against its blocks in the maps.
fn counts(facts: &Facts, by_segment: &BTreeMap<SegmentId, u64>, report: &mut Report) {
    let claimed = facts.claimed.borrow();
    for (id, segment) in &facts.segments {
        let counted = by_segment.get(id).copied().unwrap_or(0);
        let stated = segment.allocated_blocks + claimed.get(id).copied().unwrap_or(0);
        if stated != counted && !segment.uncounted {
            report.damage(Defect::Count { what: format!("segment {id}"), stated, counted });
        }
    }
    for (id, counted) in by_segment {
        if *id != SegmentId::POOL && !facts.segments.contains_key(id) {
            let what = format!("segment {id}, which is in no table");
            report.damage(Defect::Count { what, stated: 0, counted: *counted });
        }
    }
}
