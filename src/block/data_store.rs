//! Data blocks: encryption under fresh keys, writes to their place now or later, verified reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::units::BLOCK_SIZE;
use crate::base::{BlockAddr, counters, crc};
use crate::block::{BlockError, BlockRef, Run, Space};
use crate::crypto::{BlockKind, decrypt_block, encrypt_block, new_block_key};
use crate::device::Device;
use crate::sys::AlignedBuf;
use crate::sys::sync::{Mutex, Rank};

/// Images beyond this should be written to their place.
pub const IMAGE_BYTES_MAX: usize = 8 << 20;
/// One write of gathered images.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// Data that is allocated and encrypted, and not yet written. Dropped without being claimed, its
/// run goes back.
pub struct Prepared {
    /// Where it belongs.
    pub run: Run,
    /// Key and tag of each block.
    pub refs: Vec<BlockRef>,
    /// CRC-32C of each block's ciphertext.
    pub crcs: Vec<u32>,
    /// What goes to the device.
    pub ciphertext: AlignedBuf,
    space: Arc<Space>,
    claimed: AtomicBool,
}

impl Prepared {
    /// The run was booked: it is no longer given back when this is dropped.
    pub fn mark_claimed(&self) {
        self.claimed.store(true, Ordering::Release);
    }
    /// Whether it was.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Acquire)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.is_claimed() {
            self.space.release(self.run);
        }
    }
}

type Image = Arc<[u8]>;

/// Data blocks of a pool.
pub struct DataStore {
    device: Arc<dyn Device>,
    space: Arc<Space>,
    /// Ciphertext of blocks whose write to their place is outstanding, by address.
    images: Mutex<BTreeMap<u64, Image>>,
    /// Held over a write of images, so that none is still under way when the next one is done: a
    /// late write could otherwise hit a block that was given out again.
    writing: Mutex<()>,
}

impl DataStore {
    /// The data blocks of a pool on `device`.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, space: Arc<Space>) -> Self {
        Self {
            device,
            space,
            images: Mutex::new(Rank::Images, BTreeMap::new()),
            writing: Mutex::new(Rank::ImageWriting, ()),
        }
    }

    /// Encrypts `plain`, which is as long as `run`, each block under a fresh key. `run` was just
    /// allocated, and belongs to the result.
    #[must_use]
    pub fn encrypt(&self, plain: &[u8], run: Run) -> Prepared {
        assert_eq!(plain.len(), run.bytes(), "data of another length than its run");
        let mut ciphertext = AlignedBuf::from_slice(plain);
        let mut refs = Vec::with_capacity(run.blocks as usize);
        for block in ciphertext.chunks_exact_mut(BLOCK_SIZE) {
            let key = new_block_key();
            let tag = encrypt_block(&key, BlockKind::Data, block);
            refs.push(BlockRef { key, tag });
        }
        let crcs = crc::crc32c_blocks(&ciphertext);
        let (space, claimed) = (self.space.clone(), AtomicBool::new(false));
        Prepared { run, refs, crcs, ciphertext, space, claimed }
    }

    /// Writes data to its place now. An image of it is no longer kept then.
    ///
    /// # Errors
    /// The device's.
    pub fn write_out(&self, prepared: &Prepared) -> Result<(), BlockError> {
        let run = prepared.run;
        self.device.write(run.addr.offset_bytes(), &prepared.ciphertext)?;
        let mut images = self.images.lock();
        for addr in run.addr.get()..run.end().get() {
            images.remove(&addr);
        }
        Ok(())
    }

    /// Keeps claimed data in memory until the next [`DataStore::write_images`]; reads find it.
    pub fn put_image(&self, run: Run, ciphertext: &[u8]) {
        let blocks = ciphertext.chunks_exact(BLOCK_SIZE);
        let mut images = self.images.lock();
        for (addr, block) in (run.addr.get()..).zip(blocks) {
            images.insert(addr, Arc::from(block));
        }
    }

    /// Bytes of images kept.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        self.images.lock().len() * BLOCK_SIZE
    }

    /// The images kept of a run, one for each block; `None` for a block that is in its place.
    #[must_use]
    pub fn images(&self, run: Run) -> Vec<Option<Image>> {
        let images = self.images.lock();
        let addrs = run.addr.get()..run.end().get();
        addrs.map(|addr| images.get(&addr).cloned()).collect()
    }

    /// Writes every image that is kept now to its place, neighbours together.
    ///
    /// # Errors
    /// The device's; the images stay.
    pub fn write_images(&self) -> Result<(), BlockError> {
        let _writing = self.writing.lock();
        let kept: Vec<(u64, Image)> =
            self.images.lock().iter().map(|(addr, image)| (*addr, image.clone())).collect();
        let mut rest = kept.as_slice();
        while let Some((first, _)) = rest.first() {
            let neighbours = rest
                .iter()
                .zip(*first..)
                .take(WRITE_BYTES_MAX / BLOCK_SIZE)
                .take_while(|((addr, _), expected)| addr == expected)
                .count();
            let (group, behind) = rest.split_at(neighbours);
            let mut buf = AlignedBuf::new(group.len() * BLOCK_SIZE);
            for (block, (_, image)) in buf.chunks_exact_mut(BLOCK_SIZE).zip(group) {
                block.copy_from_slice(image);
            }
            self.device.write(BlockAddr(*first).offset_bytes(), &buf)?;
            rest = behind;
        }
        let mut images = self.images.lock();
        for (addr, written) in &kept {
            // Put again meanwhile? Then the new one is still to be written.
            if images.get(addr).is_some_and(|now| Arc::ptr_eq(now, written)) {
                images.remove(addr);
            }
        }
        Ok(())
    }

    /// Reads a run of blocks with these references, images first, verifies and decrypts. `out`
    /// should be aligned, which saves a copy, and is zero after an error.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`] with the first block that does not carry its tag; the device's.
    pub fn read(&self, run: Run, refs: &[BlockRef], out: &mut [u8]) -> Result<(), BlockError> {
        assert_eq!((refs.len(), out.len()), (run.blocks as usize, run.bytes()), "lengths differ");
        let blocks = u64::from(run.blocks);
        let end = run.addr.get().saturating_add(blocks);
        if end > self.space.geometry().total_blocks {
            return Err(BlockError::OutOfRange { addr: run.addr });
        }
        let result = self.read_into(run, refs, out);
        if result.is_err() {
            out.fill(0);
        }
        result
    }

    fn read_into(&self, run: Run, refs: &[BlockRef], out: &mut [u8]) -> Result<(), BlockError> {
        // Looked up before the device is read: an image goes only once it stands there.
        let images = self.images(run);
        if images.iter().any(Option::is_none) {
            self.device.read(run.addr.offset_bytes(), out)?;
        }
        for (block, image) in out.chunks_exact_mut(BLOCK_SIZE).zip(&images) {
            if let Some(image) = image {
                block.copy_from_slice(image);
            }
        }
        for ((block, reference), at) in out.chunks_exact_mut(BLOCK_SIZE).zip(refs).zip(0..) {
            if decrypt_block(&reference.key, BlockKind::Data, block, &reference.tag).is_err() {
                counters::BLOCKS_CORRUPT.increment();
                return Err(BlockError::Corrupt { what: "data", addr: run.addr.plus(at) });
            }
        }
        Ok(())
    }
}
