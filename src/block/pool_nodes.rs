//! Tree nodes on the pool's device.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::units::BLOCK_SIZE;
use crate::base::{BlockAddr, Generation, SegmentId, counters, crc};
use crate::block::{BlockError, Book, Class, NodeStore, Pointer, Run, Space, SpaceEntry};
use crate::crypto::{BlockKind, decrypt_block, encrypt_block, new_block_key};
use crate::device::Device;
use crate::sys::AlignedBuf;
use crate::sys::sync::{Mutex, Rank};

/// Tree nodes of a pool. Nodes are written by checkpoints only, one checkpoint at a time: what is
/// written is booked to the checkpoint's interval.
pub struct PoolNodes {
    device: Arc<dyn Device>,
    space: Arc<Space>,
    node_bytes: usize,
    writing: Mutex<Option<Book>>,
}

impl PoolNodes {
    /// Nodes of `node_bytes`, a multiple of 4096.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, space: Arc<Space>, node_bytes: usize) -> Self {
        Self { device, space, node_bytes, writing: Mutex::new(Rank::NodeBook, None) }
    }

    /// A checkpoint writes nodes from here on, or no longer.
    pub fn set_book(&self, book: Option<Book>) {
        *self.writing.lock() = book;
    }

    const fn node_blocks(&self) -> u32 {
        (self.node_bytes / BLOCK_SIZE) as u32
    }

    fn read_copy(&self, run: Run, pointer: &Pointer) -> Result<Zeroizing<Vec<u8>>, BlockError> {
        let end = run.addr.get().saturating_add(u64::from(run.blocks));
        if end > self.space.geometry().total_blocks || run.blocks != self.node_blocks() {
            return Err(BlockError::OutOfRange { addr: run.addr });
        }
        let mut buf = AlignedBuf::new(run.bytes());
        self.device.read(run.addr.offset_bytes(), &mut buf)?;
        if decrypt_block(&pointer.key, BlockKind::Node, &mut buf, &pointer.tag).is_err() {
            counters::BLOCKS_CORRUPT.increment();
            return Err(BlockError::Corrupt { what: "node", addr: run.addr });
        }
        Ok(Zeroizing::new(buf.to_vec()))
    }

    fn write_copy(
        &self,
        ciphertext: &[u8],
        crcs: &[u32],
        book: &Book,
        segment: SegmentId,
    ) -> Result<Run, BlockError> {
        let blocks = self.node_blocks();
        let run = self.space.allocate(Class::Node, blocks, blocks)?;
        let written = self.device.write(run.addr.offset_bytes(), ciphertext);
        let written = written
            .map_err(BlockError::from)
            .and_then(|()| book.push(SpaceEntry::Alloc { run, segment, crcs: crcs.to_vec() }));
        match written {
            Ok(()) => Ok(run),
            Err(error) => {
                self.space.release(run);
                Err(error)
            }
        }
    }
}

impl NodeStore for PoolNodes {
    fn node_bytes(&self) -> usize {
        self.node_bytes
    }

    fn read_node(&self, pointer: &Pointer) -> Result<Zeroizing<Vec<u8>>, BlockError> {
        let first = self.read_copy(pointer.run(), pointer);
        let Some(second) = pointer.second else {
            return first;
        };
        first.or_else(|error| {
            let run = Run { addr: second, blocks: pointer.blocks };
            let node = self.read_copy(run, pointer)?;
            log::warn!("{error}; its second copy, at block {second}, is good");
            Ok(node)
        })
    }

    fn mend_node(&self, bad: &Pointer, good: BlockAddr) -> Result<(), BlockError> {
        let run = Run { addr: good, blocks: bad.blocks };
        // Both copies are the same bytes (docs/decisions/002): they are written as they are.
        self.read_copy(run, bad)?;
        let mut ciphertext = AlignedBuf::new(run.bytes());
        self.device.read(run.addr.offset_bytes(), &mut ciphertext)?;
        self.device.write(bad.addr.offset_bytes(), &ciphertext)?;
        self.read_copy(bad.run(), bad).map(drop)
    }

    fn write_node(
        &self,
        plain: &[u8],
        birth: Generation,
        segment: SegmentId,
        twice: bool,
    ) -> Result<Pointer, BlockError> {
        assert_eq!(plain.len(), self.node_bytes, "a node of another size");
        let book = self.writing.lock().clone();
        let book = book.filter(|b| b.generation() == birth).ok_or(BlockError::NoCheckpoint)?;
        let mut buf = AlignedBuf::from_slice(plain);
        let key = new_block_key();
        let tag = encrypt_block(&key, BlockKind::Node, &mut buf);
        let crcs = crc::crc32c_blocks(&buf);
        let first = self.write_copy(&buf, &crcs, &book, segment)?;
        let second =
            if twice { Some(self.write_copy(&buf, &crcs, &book, segment)?.addr) } else { None };
        let blocks = self.node_blocks();
        Ok(Pointer { addr: first.addr, second, blocks, birth, key, tag })
    }
}
