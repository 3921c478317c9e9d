//! fallocate: holes punched, ranges zeroed, space asked for.
//!
//! Blocks are never rewritten in place, so space cannot be tied to a range in advance: the plain
//! modes check that it is there, and grow the file (docs/semantics.md).

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::base::limits::FILE_BYTES_MAX;
use crate::base::units::{BLOCK_SIZE_U64, InodeNo};
use crate::volume::Volume;
use crate::volume::attr::AllocateMode;
use crate::volume::backing::Purpose;
use crate::volume::error::{Result, VolumeError};
use crate::volume::extents;
use crate::volume::inode::Inode;
use crate::volume::write::now;

impl Volume {
    /// Allocates, punches or zeroes `len` bytes from `offset` on. Clears privileges.
    ///
    /// # Errors
    /// `Invalid` (no length), `TooLarge`, `NoSpace`, `IsDirectory`, `ReadOnly`, `Stale`, `Locked`,
    /// `WriteLost`.
    pub fn fallocate(&self, ino: InodeNo, offset: u64, len: u64, mode: AllocateMode) -> Result<()> {
        let _visit = self.enter_to_change()?;
        let inode = self.file(ino)?;
        if len == 0 {
            return Err(VolumeError::Invalid);
        }
        let end = offset.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(VolumeError::TooLarge)?;
        let _op = inode.op.lock();
        inode.state.lock().check_lost()?;
        self.finish_truncation(&inode)?;
        self.drop_privileges(&inode)?;
        match mode {
            AllocateMode::Plain => {
                self.check_space(&inode, offset, end)?;
                self.grow(&inode, end)
            }
            AllocateMode::KeepSize => self.check_space(&inode, offset, end),
            AllocateMode::PunchHole | AllocateMode::ZeroRangeKeepSize => {
                self.zero_range(&inode, offset, end, false)
            }
            AllocateMode::ZeroRange => self.zero_range(&inode, offset, end, true),
        }
    }

    /// That the blocks which the range still lacks could be written now.
    fn check_space(&self, inode: &Inode, from: u64, to: u64) -> Result<()> {
        let (first, last) = (from / BLOCK_SIZE_U64, to.div_ceil(BLOCK_SIZE_U64));
        let lacking = last - first;
        if lacking > self.backing.space().blocks {
            return Err(VolumeError::NoSpace);
        }
        let mut mapped = 0;
        let view = self.backing.view()?;
        extents::overlapping(&*view, inode.ino, first, last, &mut |block, extent| {
            let end = block + u64::from(extent.blocks());
            mapped += end.min(last) - block.max(first);
            ControlFlow::Continue(())
        })?;
        self.backing.reserve(lacking - mapped.min(lacking), 1, Purpose::Grow).map(drop)
    }

    fn grow(&self, inode: &Arc<Inode>, size: u64) -> Result<()> {
        let _promise = self.backing.reserve(0, 1, Purpose::Grow)?;
        self.edit(&[inode], |_, locked| {
            let item = locked.item(inode.ino)?;
            if size > item.size {
                item.size = size;
                item.mtime = now();
            }
            item.ctime = now();
            Ok(())
        })
    }

    /// Makes a range read as zeros, in bounded steps. The caller holds `op`.
    pub(in crate::volume) fn zero_range(
        &self,
        inode: &Arc<Inode>,
        from: u64,
        to: u64,
        grow: bool,
    ) -> Result<()> {
        let ino = inode.ino;
        let first = from.div_ceil(BLOCK_SIZE_U64);
        let last = to / BLOCK_SIZE_U64;
        let _promise = self.backing.reserve(0, 4, Purpose::Shrink)?;
        let (mut pages, mut promises) = if first > last {
            let part = self.zeroed_part(inode, from, to, Purpose::Shrink)?;
            (part.0, Vec::from_iter(part.1))
        } else {
            let head = self.zeroed_part(inode, from, first * BLOCK_SIZE_U64, Purpose::Shrink)?;
            let tail = self.zeroed_part(inode, last * BLOCK_SIZE_U64, to, Purpose::Shrink)?;
            (head.0.into_iter().chain(tail.0).collect(), head.1.into_iter().chain(tail.1).collect())
        };
        let mut at = first;
        loop {
            at = self.edit_then(
                &[inode],
                |txn, locked| {
                    let mut item = *locked.item(ino)?;
                    let done = extents::clear(txn, ino, &mut item, at, last)?.max(at);
                    if grow {
                        item.size = item.size.max(to);
                    }
                    item.mtime = now();
                    item.ctime = item.mtime;
                    *locked.item(ino)? = item;
                    Ok(done)
                },
                |locked, done| {
                    if let Ok(state) = locked.state(ino) {
                        // Only as far as the tree is clear: older content must not show again.
                        self.buffer.forget_pages(state, at..(*done).max(at));
                        if !pages.is_empty() {
                            let pages = std::mem::take(&mut pages);
                            let promises = std::mem::take(&mut promises);
                            self.buffer.put_pages(inode, state, pages, promises);
                        }
                        self.buffer.clean(inode, state);
                    }
                },
            )?;
            if at >= last {
                return Ok(());
            }
        }
    }
}
