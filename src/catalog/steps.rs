//! The work that deletions leave behind, in bounded steps, each inside one checkpoint.
//!
//! What is left to do stands in the table (dead segments, released cuts), so a crash needs no
//! cursor; those kept here only save asking again.

use std::collections::{BTreeSet, HashSet};

use crate::base::SegmentId;
use crate::catalog::cells::{self, Cell};
use crate::catalog::error::CatalogError;
use crate::catalog::segments::{Table, TableError};
use crate::catalog::storage::Storage;

/// Cells asked for at once.
const CELLS_AT_ONCE: usize = 256;
/// Empty segments that make a step of their own worth while.
const EMPTY_SEGMENTS_DUE: usize = 64;

/// How much one step may do.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Runs freed or dropped.
    pub runs: usize,
    /// Region maps read.
    pub regions: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { runs: 20_000, regions: 64 }
    }
}

/// Where the work stands; lost without harm.
#[derive(Debug, Default)]
pub(in crate::catalog) struct Progress {
    /// Dead segments whose cells are gone.
    purged: BTreeSet<SegmentId>,
    /// The released cut in work, and the first segment behind it not yet looked at.
    across: Option<(SegmentId, SegmentId)>,
    /// Empty segments that a cell still names as its death.
    named: BTreeSet<SegmentId>,
    /// One pass over the region maps.
    pass: Option<Pass>,
    /// Dead segments with blocks left in a region that could not be read when a whole pass looked:
    /// nothing is to be done for them before another segment dies or the pool is opened again.
    stuck: BTreeSet<SegmentId>,
}

#[derive(Debug)]
struct Pass {
    segments: HashSet<SegmentId>,
    next_region: u32,
    skipped: bool,
}

impl Progress {
    /// Whether [`step`] would find something to do.
    pub fn is_due(&self, table: &Table) -> bool {
        table.dead().iter().any(|id| !self.is_stuck(*id))
            || !table.released().is_empty()
            || table.empty().difference(&self.named).take(EMPTY_SEGMENTS_DUE).count()
                == EMPTY_SEGMENTS_DUE
    }

    /// Whether another step would do nothing for this dead segment, since a region's map cannot be
    /// read.
    pub fn is_stuck(&self, id: SegmentId) -> bool {
        self.stuck.contains(&id) && self.purged.contains(&id)
    }
}

/// Does some of the work.
///
/// # Errors
/// [`CatalogError::Table`], [`CatalogError::Inconsistent`]: corruption; the storage's errors.
pub(in crate::catalog) fn step(
    table: &mut Table,
    storage: &mut impl Storage,
    progress: &mut Progress,
    budget: Budget,
) -> Result<(), CatalogError> {
    let mut runs_left = budget.runs;
    purge_cells_of_dead(table, storage, progress, &mut runs_left)?;
    // Before the cells: a region's map is compared with what the step has freed so far.
    sweep(table, storage, progress, budget.regions, &mut runs_left)?;
    free_released_cells(table, storage, progress, &mut runs_left)?;
    forget_empty(table, storage, progress)
}

/// Cells killed in a dead segment say nothing any more: their blocks live on before the last
/// holder, or are swept with the segment of their birth.
fn purge_cells_of_dead(
    table: &Table,
    storage: &mut impl Storage,
    progress: &mut Progress,
    runs_left: &mut usize,
) -> Result<(), CatalogError> {
    for death in table.dead() {
        while !progress.purged.contains(death) {
            if *runs_left == 0 {
                return Ok(());
            }
            let found = cells::cells_of(storage, *death, all_births(), CELLS_AT_ONCE)?;
            if found.is_empty() {
                progress.purged.insert(*death);
            }
            for (cell, _) in found {
                take_some(storage, cell, runs_left)?;
            }
        }
    }
    Ok(())
}

fn all_births() -> std::ops::RangeInclusive<SegmentId> {
    SegmentId(0)..=SegmentId(u32::MAX)
}

fn take_some(
    storage: &mut impl Storage,
    cell: Cell,
    runs_left: &mut usize,
) -> Result<Vec<crate::block::Run>, CatalogError> {
    if *runs_left == 0 {
        return Ok(Vec::new());
    }
    let runs = cells::take(storage, cell, *runs_left)?;
    *runs_left = runs_left.saturating_sub(runs.len());
    Ok(runs)
}

/// The cells across a cut that was let go, between its neighbours that are held.
pub(in crate::catalog) struct Across {
    /// Segments of birth.
    pub births: std::ops::RangeInclusive<SegmentId>,
    /// Segments of death, ascending.
    pub deaths: Vec<SegmentId>,
}

/// Which cells lie across the cut of `segment`.
///
/// # Errors
/// [`CatalogError::Table`]
pub(in crate::catalog) fn across(table: &Table, segment: SegmentId) -> Result<Across, TableError> {
    let line = table.line(table.segment(segment)?.line)?;
    let from = match table.holder_before(line, segment) {
        Some(before) => SegmentId(before.0 + 1),
        None => *line.segments.first().ok_or(TableError::Shape(segment))?,
    };
    let first = line.segments.partition_point(|id| *id <= segment);
    let end = match table.holder_after(line, segment) {
        Some(after) => line.segments.partition_point(|id| *id <= after),
        None => line.segments.len(),
    };
    let deaths = line.segments.get(first..end).unwrap_or_default().to_vec();
    Ok(Across { births: from..=segment, deaths })
}

fn free_released_cells(
    table: &mut Table,
    storage: &mut impl Storage,
    progress: &mut Progress,
    runs_left: &mut usize,
) -> Result<(), CatalogError> {
    while let Some(cut) = table.released().first().copied() {
        let Across { births, deaths } = across(table, cut)?;
        let resume = progress.across.filter(|(at, _)| *at == cut).map(|(_, death)| death);
        for death in deaths.into_iter().filter(|death| Some(*death) >= resume) {
            progress.across = Some((cut, death));
            loop {
                let found = cells::cells_of(storage, death, births.clone(), CELLS_AT_ONCE)?;
                if found.is_empty() {
                    break;
                }
                progress.named.remove(&death);
                for (cell, _) in found {
                    for run in take_some(storage, cell, runs_left)? {
                        storage.free(run, cell.birth)?;
                        table.remove_blocks(cell.birth, u64::from(run.blocks))?;
                    }
                }
                if *runs_left == 0 {
                    return Ok(());
                }
            }
        }
        progress.across = None;
        table.settle_release(cut)?;
    }
    Ok(())
}

/// Frees the runs of dead segments, region by region; many deletions share one pass.
fn sweep(
    table: &mut Table,
    storage: &mut impl Storage,
    progress: &mut Progress,
    regions: usize,
    runs_left: &mut usize,
) -> Result<(), CatalogError> {
    let all = storage.regions();
    let mut found = Vec::new();
    for _ in 0..regions {
        forget_swept(table, progress)?;
        if *runs_left == 0 || !worth_a_pass(table, progress) {
            break;
        }
        let pass = progress.pass.get_or_insert_with(|| Pass {
            segments: table.dead().iter().copied().collect(),
            next_region: 0,
            skipped: false,
        });
        let ahead = all.get(all.partition_point(|region| *region < pass.next_region)..);
        let Some(region) = ahead.and_then(|ahead| ahead.first()).copied() else {
            let Some(pass) = progress.pass.take() else { break };
            if end_of_pass(table, &pass)? {
                continue;
            }
            let left = pass.segments.into_iter().filter(|id| has_blocks(table, *id));
            progress.stuck = left.collect();
            break;
        };
        match storage.runs_of(region, &pass.segments) {
            Ok(runs) => {
                *runs_left = runs_left.saturating_sub(runs.len());
                for (run, segment) in &runs {
                    table.remove_blocks(*segment, u64::from(run.blocks))?;
                }
                found.extend(runs);
            }
            Err(error) if error.is_corruption() => pass.skipped = true,
            Err(error) => return Err(error),
        }
        pass.next_region = region + 1;
    }
    for (run, segment) in found {
        storage.free(run, segment)?;
    }
    forget_swept(table, progress)
}

/// Every region was visited: nothing may be left of the segments. False where something is, in a
/// region that cannot be read: it stays, and the pool is degraded.
fn end_of_pass(table: &mut Table, pass: &Pass) -> Result<bool, CatalogError> {
    if !pass.skipped {
        for id in &pass.segments {
            if table.segment(*id).is_ok_and(|s| s.uncounted) {
                table.settle_uncounted(*id)?;
            }
        }
    }
    let lost = pass.segments.iter().any(|id| has_blocks(table, *id));
    if lost && !pass.skipped {
        return Err(CatalogError::Inconsistent(
            "region maps hold fewer blocks of a segment than were allocated",
        ));
    }
    Ok(!lost)
}

/// Whether the region maps may still hold something of a dead segment that can be read.
fn worth_a_pass(table: &Table, progress: &Progress) -> bool {
    table.dead().iter().any(|id| has_blocks(table, *id) && !progress.stuck.contains(id))
}

fn has_blocks(table: &Table, id: SegmentId) -> bool {
    table.segment(id).is_ok_and(|s| s.allocated_blocks > 0 || s.uncounted)
}

fn forget_swept(table: &mut Table, progress: &mut Progress) -> Result<(), CatalogError> {
    let done: Vec<SegmentId> = table
        .dead()
        .iter()
        .copied()
        .filter(|id| progress.purged.contains(id) && !has_blocks(table, *id))
        .collect();
    for id in done {
        table.forget(id)?;
        progress.purged.remove(&id);
        progress.stuck.remove(&id);
    }
    if table.dead().is_empty() {
        progress.pass = None;
    }
    Ok(())
}

/// Segments without blocks leave the table, so that it does not grow with every snapshot ever
/// taken.
fn forget_empty(
    table: &mut Table,
    storage: &impl Storage,
    progress: &mut Progress,
) -> Result<(), CatalogError> {
    let candidates: Vec<SegmentId> =
        table.empty().difference(&progress.named).take(CELLS_AT_ONCE).copied().collect();
    for id in candidates {
        if cells::cells_of(storage, id, all_births(), 1)?.is_empty() {
            table.forget(id)?;
        } else {
            progress.named.insert(id);
        }
    }
    Ok(())
}
