//! Truncation. A file that loses many extents shows its new size at once, with the intent stored in
//! the same edit; the extents go in bounded steps (engine rule 21), before anything can grow the
//! file again: the inode's `op` is held to the end, and where a step fails, whatever changes the
//! file next begins with the steps that are left.

use std::sync::Arc;

use crate::base::limits::FILE_BYTES_MAX;
use crate::base::units::BLOCK_SIZE_U64;
use crate::volume::Volume;
use crate::volume::backing::{Purpose, Reservation};
use crate::volume::error::{Result, VolumeError};
use crate::volume::extents::{self, BLOCKS_END};
use crate::volume::inode::{Inode, Page};
use crate::volume::items::{InodeItem, truncate_key};
use crate::volume::write::now;

/// A page that is to be buffered, and the space promised for it.
pub(in crate::volume) type NewPages = (Vec<(u64, Arc<Page>)>, Option<Reservation>);

impl Volume {
    /// Sets a file's size, and in the same edit what `also` changes. Clears privileges.
    pub(in crate::volume) fn truncate_inode(
        &self,
        inode: &Arc<Inode>,
        size: u64,
        also: &dyn Fn(&mut InodeItem),
    ) -> Result<()> {
        if size > FILE_BYTES_MAX {
            return Err(VolumeError::TooLarge);
        }
        let ino = inode.ino;
        let _op = inode.op.lock();
        inode.state.lock().check_lost()?;
        self.finish_truncation(inode)?;
        self.drop_privileges(inode)?;
        let purpose = if size <= inode.item()?.size { Purpose::Shrink } else { Purpose::Grow };
        let _promise = self.backing.reserve(0, 4, purpose)?;
        // What lies between the new end and the end of its block must read as zeros later on.
        let tail = self.zeroed_part(inode, size, size.next_multiple_of(BLOCK_SIZE_U64), purpose)?;
        let from = size.div_ceil(BLOCK_SIZE_U64);
        let done = self.edit_then(
            &[inode],
            |txn, locked| {
                let mut item = *locked.item(ino)?;
                let done = match size < item.size {
                    true => extents::clear(txn, ino, &mut item, from, BLOCKS_END)?,
                    false => BLOCKS_END,
                };
                if done < BLOCKS_END {
                    txn.put(truncate_key(ino), &from.to_le_bytes())?;
                }
                item.size = size;
                item.mtime = now();
                item.ctime = item.mtime;
                also(&mut item);
                *locked.item(ino)? = item;
                Ok((done, tail))
            },
            |locked, (done, (pages, promise))| {
                if let Ok(state) = locked.state(ino) {
                    state.truncating = (*done < BLOCKS_END).then_some(from);
                    self.buffer.forget_pages(state, from..u64::MAX);
                    if !pages.is_empty() {
                        self.buffer.put_pages(inode, state, std::mem::take(pages), promise.take());
                    }
                    self.buffer.clean(inode, state);
                }
            },
        )?;
        if done.0 < BLOCKS_END { self.truncate_steps(inode, from) } else { Ok(()) }
    }

    /// Ends a truncation of which a step failed: what it left must not show in a file that grows.
    /// The caller holds `op`.
    pub(in crate::volume) fn finish_truncation(&self, inode: &Arc<Inode>) -> Result<()> {
        let from = inode.state.lock().truncating;
        from.map_or(Ok(()), |from| self.truncate_steps(inode, from))
    }

    /// Frees the extents from a block on, step by step, then the intent. The caller holds `op`.
    fn truncate_steps(&self, inode: &Arc<Inode>, from: u64) -> Result<()> {
        let ino = inode.ino;
        loop {
            let _promise = self.backing.reserve(0, 4, Purpose::Shrink)?;
            let done = self.edit_then(
                &[inode],
                |txn, locked| {
                    let item = locked.item(ino)?;
                    let done = extents::clear(txn, ino, item, from, BLOCKS_END)?;
                    if done == BLOCKS_END {
                        txn.remove(truncate_key(ino))?;
                    }
                    Ok(done)
                },
                |locked, done| {
                    if *done == BLOCKS_END
                        && let Ok(state) = locked.state(ino)
                    {
                        state.truncating = None;
                    }
                },
            )?;
            if done == BLOCKS_END {
                return Ok(());
            }
        }
    }

    /// The block that holds `from..to` (bytes, within one block), with those bytes zero; nothing
    /// where it is a hole or the range is empty. The caller holds `op`.
    pub(in crate::volume) fn zeroed_part(
        &self,
        inode: &Inode,
        from: u64,
        to: u64,
        purpose: Purpose,
    ) -> Result<NewPages> {
        let block = from / BLOCK_SIZE_U64;
        if from >= to {
            return Ok((Vec::new(), None));
        }
        let Some(mut content) = self.block_content(inode, block)? else {
            return Ok((Vec::new(), None));
        };
        let start = block * BLOCK_SIZE_U64;
        content[(from - start) as usize..(to - start) as usize].fill(0);
        let promise = self.backing.reserve(1, 2, purpose)?;
        Ok((vec![(block, Arc::new(Page(content)))], Some(promise)))
    }
}
