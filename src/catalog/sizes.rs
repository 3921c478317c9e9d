//! What deleting would free, computed on counters: a dry run of the very rules that delete.

use std::collections::{BTreeMap, HashSet};

use crate::base::SegmentId;
use crate::catalog::cells::{self, Cell};
use crate::catalog::error::CatalogError;
use crate::catalog::segments::Table;
use crate::catalog::steps;
use crate::catalog::storage::Items;

/// Blocks that deleting the one snapshot at the end of `segment` would free, beyond what is being
/// freed already. Nothing that other snapshots or heads still reach counts.
///
/// # Errors
/// [`CatalogError::Table`]; the storage's errors.
pub(in crate::catalog) fn unique_blocks(
    table: &mut Table,
    items: &impl Items,
    segment: SegmentId,
) -> Result<u64, CatalogError> {
    let found = table.segment(segment)?;
    let line = table.line(found.line)?;
    let goes_on = line.head || table.holder_after(line, segment).is_some();
    match found.branches.len() {
        0 if goes_on => {
            // The common case, without touching the table: the blocks born since the held cut
            // before and killed before the held cut behind.
            let across = steps::across(table, segment)?;
            let mut blocks = 0;
            for death in across.deaths {
                for (_, size) in cells::cells_of(items, death, across.births.clone(), usize::MAX)? {
                    blocks += size;
                }
            }
            Ok(blocks)
        }
        1 if !goes_on => dry_run(table, items, |t| t.release(segment)),
        0 => dry_run(table, items, |t| t.release(segment)),
        // A branch holds the cut, or several do.
        _ => Ok(0),
    }
}

/// Blocks that `change` would free, beyond what is being freed already. The table is left as it
/// was; it must have no uncommitted changes.
///
/// # Errors
/// Those of `change`; [`CatalogError::Table`]; the storage's errors.
pub(in crate::catalog) fn dry_run(
    table: &mut Table,
    items: &impl Items,
    change: impl FnOnce(&mut Table) -> Result<(), crate::catalog::segments::TableError>,
) -> Result<u64, CatalogError> {
    let result = count(table, items, change);
    table.roll_back();
    result
}

fn count(
    table: &mut Table,
    items: &impl Items,
    change: impl FnOnce(&mut Table) -> Result<(), crate::catalog::segments::TableError>,
) -> Result<u64, CatalogError> {
    if table.is_changed() {
        return Err(CatalogError::Inconsistent("a dry run over uncommitted changes"));
    }
    let before: Vec<SegmentId> = table.released().iter().copied().collect();
    let mut seen: HashSet<Cell> = HashSet::new();
    let mut pending: BTreeMap<SegmentId, u64> = BTreeMap::new();
    for cut in &before {
        visit_across(table, items, *cut, &mut |cell, size| {
            if seen.insert(cell) {
                *pending.entry(cell.birth).or_default() += size;
            }
        })?;
    }
    change(table)?;
    let mut blocks = 0;
    for (id, old) in table.changed_segments() {
        let died = table.segment(id).is_ok_and(|s| s.dead) && old.is_some_and(|s| !s.dead);
        if died {
            let allocated = table.segment(id)?.allocated_blocks;
            blocks += allocated.saturating_sub(pending.get(&id).copied().unwrap_or(0));
        }
    }
    let after: Vec<SegmentId> =
        table.released().iter().copied().filter(|id| before.binary_search(id).is_err()).collect();
    for cut in after {
        visit_across(table, items, cut, &mut |cell, size| {
            if seen.insert(cell) {
                blocks += size;
            }
        })?;
    }
    Ok(blocks)
}

/// Blocks that the work of deletions will give back: those of dead segments, and what was killed
/// across released cuts.
///
/// # Errors
/// [`CatalogError::Table`]; the storage's errors.
pub(in crate::catalog) fn being_freed(
    table: &Table,
    items: &impl Items,
) -> Result<u64, CatalogError> {
    let mut blocks = 0;
    for id in table.dead() {
        blocks += table.segment(*id)?.allocated_blocks;
    }
    let mut seen: HashSet<Cell> = HashSet::new();
    for cut in table.released() {
        visit_across(table, items, *cut, &mut |cell, size| {
            // What was born in a dead segment is counted with it.
            let counted = table.segment(cell.birth).is_ok_and(|s| s.dead);
            if seen.insert(cell) && !counted {
                blocks += size;
            }
        })?;
    }
    Ok(blocks)
}

fn visit_across(
    table: &Table,
    items: &impl Items,
    cut: SegmentId,
    visit: &mut dyn FnMut(Cell, u64),
) -> Result<(), CatalogError> {
    let across = steps::across(table, cut)?;
    for death in across.deaths {
        for (cell, size) in cells::cells_of(items, death, across.births.clone(), usize::MAX)? {
            visit(cell, size);
        }
    }
    Ok(())
}
