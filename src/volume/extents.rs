//! Extents of a file in the tree: finding, replacing and clearing ranges of blocks.
//!
//! An extent is at most 32 blocks long, so whichever covers a block begins within the 31 before it:
//! one range of the tree finds all that overlap.

use std::ops::ControlFlow;

use crate::base::limits::EXTENT_BLOCKS_MAX;
use crate::base::units::{BLOCK_SIZE_U64, BlockAddr, Generation, InodeNo};
use crate::volume::backing::{Edit, Items};
use crate::volume::error::{Result, VolumeError};
use crate::volume::items::{ExtentItem, InodeItem, extent_key};

/// Extents freed by one set of edits (engine rule 21).
pub(in crate::volume) const STEP_ITEMS: usize = 1000;
/// A block beyond every file.
pub(in crate::volume) const BLOCKS_END: u64 = 1 << 51;

/// Calls `visit` with the first block and the extent, for each that overlaps `from..to`, in order.
pub(in crate::volume) fn overlapping(
    items: &(impl Items + ?Sized),
    ino: InodeNo,
    from: u64,
    to: u64,
    visit: &mut dyn FnMut(u64, ExtentItem<'_>) -> ControlFlow<()>,
) -> Result<()> {
    if from >= to {
        return Ok(());
    }
    let first = from.saturating_sub(u64::from(EXTENT_BLOCKS_MAX) - 1);
    let mut bad = None;
    let mut end_before = 0;
    items.range(extent_key(ino, first), extent_key(ino, to - 1), &mut |key, value| {
        let block = key.offset / BLOCK_SIZE_U64;
        match ExtentItem::decode(value) {
            Ok(extent) if key.offset % BLOCK_SIZE_U64 == 0 && block >= end_before => {
                end_before = block + u64::from(extent.blocks());
                if end_before > from { visit(block, extent) } else { ControlFlow::Continue(()) }
            }
            _ => {
                bad = Some(key.offset);
                ControlFlow::Break(())
            }
        }
    })?;
    match bad {
        None => Ok(()),
        Some(offset) => {
            Err(VolumeError::corrupt_item("an extent item cannot be right", ino).at(ino, offset))
        }
    }
}

/// An extent with bytes of its own.
struct Owned {
    block: u64,
    addr: BlockAddr,
    birth: Generation,
    refs: Vec<u8>,
}

impl Owned {
    fn item(&self) -> ExtentItem<'_> {
        ExtentItem { addr: self.addr, birth: self.birth, refs: &self.refs }
    }
}

/// Clears `from..to`, at most [`STEP_ITEMS`] extents of it: their blocks are killed, what lies
/// outside the range stays. Returns the block up to which the range is clear.
pub(in crate::volume) fn clear(
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &mut InodeItem,
    from: u64,
    to: u64,
) -> Result<u64> {
    let mut found: Vec<Owned> = Vec::new();
    let mut done = to;
    overlapping(txn, ino, from, to, &mut |block, extent| {
        if found.len() == STEP_ITEMS {
            done = block;
            return ControlFlow::Break(());
        }
        let (addr, birth, refs) = (extent.addr, extent.birth, extent.refs.to_vec());
        found.push(Owned { block, addr, birth, refs });
        ControlFlow::Continue(())
    })?;
    for owned in &found {
        let (extent, block) = (owned.item(), owned.block);
        let end = block + u64::from(extent.blocks());
        let cut_from = (from.max(block) - block) as u32;
        let cut_to = (to.min(end) - block) as u32;
        if cut_from == 0 {
            txn.remove(extent_key(ino, block))?;
        } else {
            txn.put(extent_key(ino, block), &extent.slice(0, cut_from).encode())?;
        }
        if cut_to < extent.blocks() {
            let right = extent.slice(cut_to, extent.blocks());
            txn.put(extent_key(ino, block + u64::from(cut_to)), &right.encode())?;
        }
        let killed = extent.slice(cut_from, cut_to);
        txn.kill(killed.addr, killed.blocks(), killed.birth);
        item.blocks = item.blocks.saturating_sub(u64::from(killed.blocks()));
    }
    Ok(done)
}

/// Maps the blocks from `block` on to `extent`, in place of what they mapped to.
pub(in crate::volume) fn replace(
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &mut InodeItem,
    block: u64,
    extent: ExtentItem<'_>,
) -> Result<()> {
    // At most 32 blocks, so at most 32 extents: one step always clears it.
    clear(txn, ino, item, block, block + u64::from(extent.blocks()))?;
    txn.put(extent_key(ino, block), &extent.encode())?;
    item.blocks += u64::from(extent.blocks());
    Ok(())
}
