//! SEEK_DATA and SEEK_HOLE, exact to the block, with buffered pages.

use std::ops::ControlFlow;

use crate::base::units::{BLOCK_SIZE_U64, InodeNo};
use crate::volume::Volume;
use crate::volume::attr::Seek;
use crate::volume::error::{Result, VolumeError};
use crate::volume::extents::overlapping;
use crate::volume::read::Frozen;

impl Volume {
    /// The next data or hole at or after `offset`; the end of the file is a hole.
    ///
    /// # Errors
    /// `NoSuchOffset` at or beyond the end, or where no data follows; `IsDirectory`, `Stale`,
    /// `Locked`.
    pub fn lseek(&self, ino: InodeNo, offset: u64, what: Seek) -> Result<u64> {
        let _visit = self.enter()?;
        let inode = self.file(ino)?;
        let first = offset / BLOCK_SIZE_U64;
        let frozen = self.freeze(&inode, first, crate::volume::extents::BLOCKS_END)?;
        if offset >= frozen.size {
            return Err(VolumeError::NoSuchOffset);
        }
        let end = frozen.size.div_ceil(BLOCK_SIZE_U64);
        let block = match what {
            Seek::Data => frozen.next_data(ino, first, end)?.ok_or(VolumeError::NoSuchOffset)?,
            Seek::Hole => frozen.next_hole(ino, first, end)?,
        };
        Ok((block * BLOCK_SIZE_U64).clamp(offset, frozen.size))
    }
}

impl Frozen {
    /// The first block with data in `from..end`.
    pub fn next_data(&self, ino: InodeNo, from: u64, end: u64) -> Result<Option<u64>> {
        let mut first = self.pages.range(from..end.max(from)).next().map(|(block, _)| *block);
        overlapping(&*self.view, ino, from, end, &mut |block, _| {
            let block = block.max(from);
            first = Some(first.map_or(block, |page| page.min(block)));
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    /// The first block without data at or after `from`; `end` where there is none before it.
    pub fn next_hole(&self, ino: InodeNo, from: u64, end: u64) -> Result<u64> {
        let mut at = self.after_pages(from, end);
        overlapping(&*self.view, ino, from, end, &mut |block, extent| {
            if block > at {
                return ControlFlow::Break(());
            }
            at = self.after_pages(at.max(block + u64::from(extent.blocks())), end);
            ControlFlow::Continue(())
        })?;
        Ok(at.min(end))
    }

    fn after_pages(&self, from: u64, end: u64) -> u64 {
        let mut at = from;
        for (block, _) in self.pages.range(from..end.max(from)) {
            if *block != at {
                break;
            }
            at += 1;
        }
        at
    }
}
