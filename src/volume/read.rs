//! Reading: buffered pages over extents over holes. No lock is held over I/O, so reads run beside
//! each other and beside writes; each sees the file as it was at one instant.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, InodeNo};
use crate::sys::aligned::AlignedBuf;
use crate::volume::Volume;
use crate::volume::backing::Snapshot;
use crate::volume::error::Result;
use crate::volume::extents::overlapping;
use crate::volume::inode::{Inode, Page};
use crate::volume::items::{ExtentItem, REF_BYTES};

/// Bytes answered to one request, whatever it asks for.
const READ_BYTES_MAX: usize = 8 << 20;

/// Blocks that lie together in the file and on the device.
struct Piece {
    addr: BlockAddr,
    refs: Vec<u8>,
    /// First block, relative to the buffer.
    at: usize,
}

/// What a range of a file was at one instant.
pub(in crate::volume) struct Frozen {
    pub view: Box<dyn Snapshot>,
    pub pages: BTreeMap<u64, Arc<Page>>,
    pub size: u64,
}

impl Volume {
    /// Reads `len` bytes at `offset`, fewer at the end of the file. `sink` is called exactly once,
    /// with all of them, when the whole read has succeeded.
    ///
    /// # Errors
    /// [`crate::volume::VolumeError::Corrupt`] names inode, offset and address; `IsDirectory`,
    /// `Stale`, `Locked`, `Io`.
    pub fn read(
        &self,
        ino: InodeNo,
        offset: u64,
        len: usize,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<usize> {
        let _visit = self.enter()?;
        let inode = self.file(ino)?;
        let end = offset.saturating_add(len.min(READ_BYTES_MAX) as u64);
        let first = offset / BLOCK_SIZE_U64;
        let frozen = self.freeze(&inode, first, end.div_ceil(BLOCK_SIZE_U64))?;
        let end = end.min(frozen.size);
        if offset >= end {
            sink(&[]);
            return Ok(0);
        }
        let mut buf = AlignedBuf::new((end.div_ceil(BLOCK_SIZE_U64) - first) as usize * BLOCK_SIZE);
        frozen.fill(ino, first, &mut buf)?;
        let skip = (offset - first * BLOCK_SIZE_U64) as usize;
        let count = (end - offset) as usize;
        sink(&buf[skip..skip + count]);
        Ok(count)
    }

    /// The file as it is now, in a range of blocks.
    pub(in crate::volume) fn freeze(&self, inode: &Inode, from: u64, to: u64) -> Result<Frozen> {
        let state = inode.state.lock();
        let size = state.item()?.size;
        let pages = if from < to {
            state.pages.range(from..to).map(|(b, p)| (*b, Arc::clone(&p.page))).collect()
        } else {
            BTreeMap::new()
        };
        // The view while the state is locked: a drain takes pages out only when they are in it.
        let view = self.backing.view()?;
        drop(state);
        Ok(Frozen { view, pages, size })
    }

    /// A block's content, to change a part of it: `None` where it is a hole. The caller holds the
    /// inode's `op`, so nobody else changes it.
    pub(in crate::volume) fn block_content(
        &self,
        inode: &Inode,
        block: u64,
    ) -> Result<Option<Box<[u8; BLOCK_SIZE]>>> {
        let frozen = self.freeze(inode, block, block + 1)?;
        if let Some(page) = frozen.pages.get(&block) {
            return Ok(Some(page.0.clone()));
        }
        if block * BLOCK_SIZE_U64 >= frozen.size {
            return Ok(None);
        }
        let mut mapped = false;
        overlapping(&*frozen.view, inode.ino, block, block + 1, &mut |_, _| {
            mapped = true;
            ControlFlow::Break(())
        })?;
        if !mapped {
            return Ok(None);
        }
        let mut buf = AlignedBuf::new(BLOCK_SIZE);
        frozen.fill(inode.ino, block, &mut buf)?;
        let mut content = Box::new([0; BLOCK_SIZE]);
        content.copy_from_slice(&buf);
        Ok(Some(content))
    }
}

impl Frozen {
    /// Fills `buf` (zeroed, whole blocks) with the blocks from `first` on.
    pub fn fill(&self, ino: InodeNo, first: u64, buf: &mut [u8]) -> Result<()> {
        let end = first + (buf.len() / BLOCK_SIZE) as u64;
        let mut pieces: Vec<Piece> = Vec::new();
        overlapping(&*self.view, ino, first, end, &mut |block, extent| {
            let from = first.max(block);
            let to = end.min(block + u64::from(extent.blocks()));
            self.plan(block, extent, from, to, first, &mut pieces);
            ControlFlow::Continue(())
        })?;
        for piece in &pieces {
            let start = piece.at * BLOCK_SIZE;
            let len = piece.refs.len() / REF_BYTES * BLOCK_SIZE;
            self.view
                .read_blocks(piece.addr, &piece.refs, &mut buf[start..start + len])
                .map_err(|e| e.at(ino, (first + piece.at as u64) * BLOCK_SIZE_U64))?;
        }
        for (block, page) in self.pages.range(first..end) {
            let start = (block - first) as usize * BLOCK_SIZE;
            buf[start..start + BLOCK_SIZE].copy_from_slice(&page.0[..]);
        }
        Ok(())
    }

    /// Plans to read blocks `from..to` of an extent, but for those that a buffered page covers.
    fn plan(
        &self,
        block: u64,
        extent: ExtentItem<'_>,
        from: u64,
        to: u64,
        first: u64,
        pieces: &mut Vec<Piece>,
    ) {
        let covered = self.pages.range(from..to).map(|(b, _)| *b);
        let mut start = from;
        for stop in covered.chain([to]) {
            if stop > start {
                let part = extent.slice((start - block) as u32, (stop - block) as u32);
                push(pieces, part, (start - first) as usize);
            }
            start = stop + 1;
        }
    }
}

/// Adds a part, to the last piece where it goes on in the file and on the device.
fn push(pieces: &mut Vec<Piece>, part: ExtentItem<'_>, at: usize) {
    if let Some(last) = pieces.last_mut() {
        let blocks = last.refs.len() / REF_BYTES;
        if last.at + blocks == at && last.addr.plus(blocks as u64) == part.addr {
            last.refs.extend_from_slice(part.refs);
            return;
        }
    }
    pieces.push(Piece { addr: part.addr, refs: part.refs.to_vec(), at });
}
