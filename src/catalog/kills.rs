//! What a head killed in one interval: freed at once, or put into cells.

use std::collections::BTreeMap;

use crate::base::{ClusterId, Generation, SegmentId};
use crate::block::Run;
use crate::catalog::cells;
use crate::catalog::error::CatalogError;
use crate::catalog::segments::Table;
use crate::catalog::storage::Storage;

/// Applies the kills of a cluster's head, made while its present segment was current. A block that
/// no held cut reaches is freed, any other goes into the cell of its birth and this segment.
///
/// # Errors
/// [`CatalogError::Table`] where a birth is in no segment on the head's path, or more is freed
/// than was allocated; the storage's errors.
pub(in crate::catalog) fn apply(
    table: &mut Table,
    storage: &mut impl Storage,
    cluster: ClusterId,
    kills: impl IntoIterator<Item = (Run, Generation)>,
) -> Result<(), CatalogError> {
    let line_id = table.head_line(cluster)?;
    let current = table.current(cluster)?;
    let held_to = table.line(line_id)?.holders.last().copied();
    let mut freed: BTreeMap<SegmentId, u64> = BTreeMap::new();
    let mut kept: BTreeMap<SegmentId, Vec<Run>> = BTreeMap::new();
    let mut births: BTreeMap<Generation, SegmentId> = BTreeMap::new();
    for (run, birth) in kills {
        let born = match births.get(&birth) {
            Some(born) => *born,
            None => {
                let born = table.find(line_id, birth)?;
                births.insert(birth, born);
                born
            }
        };
        let same_line = table.segment(born)?.line == line_id;
        if born == current || (same_line && held_to.is_none_or(|held| held < born)) {
            storage.free(run, born)?;
            *freed.entry(born).or_default() += u64::from(run.blocks);
        } else {
            kept.entry(born).or_default().push(run);
        }
    }
    for (segment, blocks) in freed {
        table.remove_blocks(segment, blocks)?;
    }
    cells::add(storage, current, kept)
}
