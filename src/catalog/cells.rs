//! Cells: blocks that were born in one segment and killed in a later one, so that a cut between
//! still reaches them. A cell holds runs, one item each, and an item with their size in blocks.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::{BlockAddr, SegmentId};
use crate::block::Run;
use crate::catalog::error::CatalogError;
use crate::catalog::keys;
use crate::catalog::storage::{Items, Storage};
use crate::tree::Key;

/// Which cell: blocks killed in `death` that were born in `birth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// Segment of the kill.
    pub death: SegmentId,
    /// Segment of the birth.
    pub birth: SegmentId,
}

/// Adjacent runs as one. Region maps stand between regions, so no joined run crosses into another.
fn join(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_unstable();
    let mut out: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match out.last_mut() {
            Some(last) if last.end() == run.addr => match last.blocks.checked_add(run.blocks) {
                Some(blocks) => last.blocks = blocks,
                None => out.push(run),
            },
            _ => out.push(run),
        }
    }
    out
}

/// Puts killed runs into the cells of `death`, by the segment of their birth.
///
/// # Errors
/// [`CatalogError::Inconsistent`] where one run was killed twice; the storage's errors.
pub(in crate::catalog) fn add(
    storage: &mut impl Storage,
    death: SegmentId,
    kills: BTreeMap<SegmentId, Vec<Run>>,
) -> Result<(), CatalogError> {
    for (birth, runs) in kills {
        let mut blocks = size(storage, Cell { death, birth })?;
        for run in join(runs) {
            blocks += u64::from(run.blocks);
            let mut value = Writer::new();
            value.u32(run.blocks);
            storage.put(keys::cell_run(death, birth, run.addr), &value.into_bytes())?;
        }
        put_size(storage, Cell { death, birth }, blocks)?;
    }
    Ok(())
}

/// Blocks in a cell.
///
/// # Errors
/// [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn size(items: &impl Items, cell: Cell) -> Result<u64, CatalogError> {
    match items.get(keys::cell(cell.death, cell.birth))? {
        Some(value) => decode_size(&value).map_err(CatalogError::item("cell")),
        None => Ok(0),
    }
}

fn put_size(storage: &mut impl Storage, cell: Cell, blocks: u64) -> Result<(), CatalogError> {
    let key = keys::cell(cell.death, cell.birth);
    if blocks == 0 {
        return storage.remove(key);
    }
    let mut value = Writer::new();
    value.u64(blocks);
    storage.put(key, &value.into_bytes())
}

/// Decodes the value of a cell's size item: blocks, at least one.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_size(value: &[u8]) -> Result<u64, DecodeError> {
    let mut r = Reader::new(value);
    let blocks = r.u64()?;
    r.finish()?;
    if blocks == 0 { Err(DecodeError::Field("cell blocks")) } else { Ok(blocks) }
}

/// Decodes the value of a cell's run item: blocks, at least one.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_run(value: &[u8]) -> Result<u32, DecodeError> {
    let mut r = Reader::new(value);
    let blocks = r.u32()?;
    r.finish()?;
    if blocks == 0 { Err(DecodeError::Field("cell run blocks")) } else { Ok(blocks) }
}

/// The run that a cell's run item states.
///
/// # Errors
/// [`DecodeError`]
pub(in crate::catalog) fn run_of(key: Key, value: &[u8]) -> Result<Run, DecodeError> {
    let addr = BlockAddr::checked(key.offset).ok_or(DecodeError::Field("cell run address"))?;
    Ok(Run { addr, blocks: decode_run(value)? })
}

/// The cells of `death` with their sizes, born in `births`, at most `limit`.
///
/// # Errors
/// [`CatalogError::Item`]; the storage's errors.
pub(in crate::catalog) fn cells_of(
    items: &(impl Items + ?Sized),
    death: SegmentId,
    births: RangeInclusive<SegmentId>,
    limit: usize,
) -> Result<Vec<(Cell, u64)>, CatalogError> {
    let mut found = Vec::new();
    let mut bad = None;
    let (from, to) = (keys::cell(death, *births.start()), keys::cell(death, *births.end()));
    items.range(from, to, &mut |key, value| {
        let birth = u32::try_from(key.offset).map_err(|_| DecodeError::Field("cell birth"));
        match birth.and_then(|birth| Ok((SegmentId(birth), decode_size(value)?))) {
            Ok((birth, blocks)) => found.push((Cell { death, birth }, blocks)),
            Err(error) => bad = Some(error),
        }
        if bad.is_some() || found.len() >= limit {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    match bad {
        Some(error) => Err(CatalogError::item("cell")(error)),
        None => Ok(found),
    }
}

/// Takes up to `limit` runs out of a cell; fewer only where none is left.
///
/// # Errors
/// [`CatalogError::Inconsistent`] where its size and its runs disagree; the storage's errors.
pub(in crate::catalog) fn take(
    storage: &mut impl Storage,
    cell: Cell,
    limit: usize,
) -> Result<Vec<Run>, CatalogError> {
    let mut runs = Vec::new();
    let mut bad = None;
    let mut more = false;
    let (from, to) = keys::cell_runs(cell.death, cell.birth);
    storage.range(from, to, &mut |key, value| {
        if runs.len() >= limit {
            more = true;
            return ControlFlow::Break(());
        }
        match run_of(key, value) {
            Ok(run) => runs.push(run),
            Err(error) => bad = Some(error),
        }
        if bad.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = bad {
        return Err(CatalogError::item("cell run")(error));
    }
    let mut taken = 0;
    for run in &runs {
        storage.remove(keys::cell_run(cell.death, cell.birth, run.addr))?;
        taken += u64::from(run.blocks);
    }
    let left = size(storage, cell)?
        .checked_sub(taken)
        .filter(|left| (*left > 0) == more)
        .ok_or(CatalogError::Inconsistent("a cell's size is not that of its runs"))?;
    put_size(storage, cell, left)?;
    Ok(runs)
}
