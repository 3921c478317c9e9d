//! Writing: small and unaligned parts into the buffer, large aligned ones encrypted straight from
//! the caller's bytes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::base::limits::{EXTENT_BLOCKS_MAX, FILE_BYTES_MAX};
use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64, InodeNo};
use crate::sys;
use crate::volume::Volume;
use crate::volume::attr::FileTime;
use crate::volume::backing::{Edit, Purpose, Reservation, Staged};
use crate::volume::error::{Result, VolumeError};
use crate::volume::extents;
use crate::volume::inode::{Inode, Page};
use crate::volume::items::{ExtentItem, InodeItem, REF_BYTES};

/// Whole blocks in a write from which on they bypass the buffer.
const STRAIGHT_BLOCKS: u64 = 16;

/// Longest that a write waits for what deletions left to be freed.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(5);

/// Time now, as inodes keep it.
pub(in crate::volume) fn now() -> FileTime {
    FileTime::from(sys::clock::now())
}

impl Volume {
    /// Writes all of `data` at `offset`. Space for it is promised when this returns; durable it is
    /// after `fsync`. Clears set-ID bits and `security.capability` unless the caller may keep them.
    ///
    /// # Errors
    /// `TooLarge`, `NoSpace`, `ReadOnly`, `WriteLost`, `Locked`, `Io`, `Corrupt` (where a block
    /// that is changed in part cannot be read); then nothing was written.
    pub fn write(
        &self,
        ino: InodeNo,
        offset: u64,
        data: &[u8],
        caller_may_keep_suid: bool,
    ) -> Result<usize> {
        self.with_room(|| {
            let _visit = self.enter_to_change()?;
            let inode = self.file(ino)?;
            self.write_inode(&inode, offset, data, caller_may_keep_suid)
        })?;
        Ok(data.len())
    }

    /// Does what adds. Where it is refused for want of room while something is being freed, that is
    /// waited for, with no lock held, and it is tried again.
    pub(in crate::volume) fn with_room<R>(&self, mut add: impl FnMut() -> Result<R>) -> Result<R> {
        let begin = sys::clock::monotonic();
        loop {
            match add() {
                Err(VolumeError::NoSpace) if self.backing.wait_for_room(begin + ROOM_WAIT_MAX) => {}
                done => return done,
            }
        }
    }

    pub(in crate::volume) fn write_inode(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        data: &[u8],
        keep_privileges: bool,
    ) -> Result<()> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(VolumeError::TooLarge)?;
        if data.is_empty() {
            return Ok(());
        }
        let body = straight_part(offset, end);
        // Before the inode is locked, so that large writes to one file are encrypted side by side.
        let straight = self.stage_straight(offset, data, &body)?;
        {
            let _op = inode.op.lock();
            inode.state.lock().check_lost()?;
            self.finish_truncation(inode)?;
            if !keep_privileges {
                self.drop_privileges(inode)?;
            }
            let pages = self.edge_pages(inode, offset, data, &body)?;
            let promise = match pages.len() as u64 {
                0 => None,
                n => Some(self.backing.reserve(n, n + 1, Purpose::Grow)?),
            };
            match straight {
                None => self.accept(inode, end, pages, promise)?,
                Some((staged, _promise)) => {
                    self.accept_straight(inode, end, body, staged, pages, promise)?;
                }
            }
        }
        // A failure to drain is the failure of what was buffered; it sticks to those inodes.
        let _ = self.relieve();
        inode.state.lock().check_lost()
    }

    fn stage_straight(
        &self,
        offset: u64,
        data: &[u8],
        body: &Range<u64>,
    ) -> Result<Option<(Vec<Staged>, Reservation)>> {
        if body.is_empty() {
            return Ok(None);
        }
        let blocks = body.end - body.start;
        let items = blocks.div_ceil(u64::from(EXTENT_BLOCKS_MAX)) + 2;
        let promise = self.backing.reserve(blocks, items, Purpose::Grow)?;
        let from = (body.start * BLOCK_SIZE_U64 - offset) as usize;
        let mut staged = self.backing.stage(&data[from..from + blocks as usize * BLOCK_SIZE])?;
        self.backing.write_out(&mut staged)?;
        Ok(Some((staged, promise)))
    }

    /// New pages for the blocks that `body` leaves out.
    fn edge_pages(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        data: &[u8],
        body: &Range<u64>,
    ) -> Result<Vec<(u64, Arc<Page>)>> {
        let end = offset + data.len() as u64;
        let blocks = offset / BLOCK_SIZE_U64..end.div_ceil(BLOCK_SIZE_U64);
        let mut pages = Vec::new();
        for block in blocks.filter(|b| !body.contains(b)) {
            let start = block * BLOCK_SIZE_U64;
            let from = offset.max(start);
            let to = end.min(start + BLOCK_SIZE_U64);
            let part = &data[(from - offset) as usize..(to - offset) as usize];
            let mut page = match part.len() == BLOCK_SIZE {
                true => Page::zeroed(),
                false => self.block_content(inode, block)?.map_or_else(Page::zeroed, Page),
            };
            page.0[(from - start) as usize..(to - start) as usize].copy_from_slice(part);
            pages.push((block, Arc::new(page)));
        }
        Ok(pages)
    }

    fn accept(
        &self,
        inode: &Arc<Inode>,
        end: u64,
        pages: Vec<(u64, Arc<Page>)>,
        promise: Option<Reservation>,
    ) -> Result<()> {
        let mut accepted = Err(VolumeError::Stale);
        let mut new = Some((pages, promise));
        self.backing.between_cuts(&mut || {
            let _gate = self.buffer.gate.read();
            let mut state = inode.state.lock();
            accepted = state.item_mut().map(|item| grow_to(item, end));
            if let (Ok(()), Some((pages, promise))) = (&accepted, new.take()) {
                state.unsaved = true;
                self.buffer.put_pages(inode, &mut state, pages, promise);
            }
        });
        accepted
    }

    fn accept_straight(
        &self,
        inode: &Arc<Inode>,
        end: u64,
        body: Range<u64>,
        staged: Vec<Staged>,
        pages: Vec<(u64, Arc<Page>)>,
        promise: Option<Reservation>,
    ) -> Result<()> {
        let ino = inode.ino;
        self.edit_then(
            &[inode],
            |txn, locked| {
                let item = locked.item(ino)?;
                map_staged(txn, ino, item, body.start, staged)?;
                grow_to(item, end);
                Ok((pages, promise))
            },
            |locked, (pages, promise)| {
                if let Ok(state) = locked.state(ino) {
                    self.buffer.forget_pages(state, body.clone());
                    self.buffer.put_pages(inode, state, std::mem::take(pages), promise.take());
                }
            },
        )
        .map(|_| ())
    }
}

/// The whole blocks of a write, where there are enough of them to bypass the buffer.
fn straight_part(offset: u64, end: u64) -> Range<u64> {
    let body = offset.div_ceil(BLOCK_SIZE_U64)..end / BLOCK_SIZE_U64;
    match body.end.saturating_sub(body.start) >= STRAIGHT_BLOCKS {
        true => body,
        false => 0..0,
    }
}

/// A write up to `end` changes size and times.
fn grow_to(item: &mut InodeItem, end: u64) {
    item.size = item.size.max(end);
    item.mtime = now();
    item.ctime = item.mtime;
}

/// Claims staged runs and maps the blocks from `block` on to them, in order.
pub(in crate::volume) fn map_staged(
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &mut InodeItem,
    mut block: u64,
    staged: Vec<Staged>,
) -> Result<()> {
    let birth = txn.generation();
    for run in staged {
        let mut addr = run.addr;
        for refs in run.refs.chunks(EXTENT_BLOCKS_MAX as usize * REF_BYTES) {
            let extent = ExtentItem { addr, birth, refs };
            extents::replace(txn, ino, item, block, extent)?;
            addr = addr.plus(u64::from(extent.blocks()));
            block += u64::from(extent.blocks());
        }
        txn.claim(run);
    }
    Ok(())
}
