//! Where things lie on the device (docs/format.md, "Layout of the device").
//!
//! ```text
//! 0 .. 4 MiB        superblock copies at 0, 1, 2 and 3 MiB
//! 4 MiB ..          the space ring
//! regions_start ..  regions of 64 MiB; the last may be shorter. Each begins with its two map slots
//! ```

use crate::base::limits::REGION_BLOCKS;
use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{BlockAddr, Generation};
use crate::block::{BlockError, Run};

/// First block of the space ring.
pub const RING_START: u64 = (4 << 20) / BLOCK_SIZE_U64;
/// Blocks in one map slot: 128 KiB.
pub const SLOT_BLOCKS: u32 = 32;
/// Blocks at a region's start that are never allocated: its two slots.
pub const SLOTS_BLOCKS: u32 = 2 * SLOT_BLOCKS;
/// A shorter rest at the device's end is not used.
pub const REGION_BLOCKS_MIN: u64 = 1024;

const RING_BYTES_MIN: u64 = 4 << 20;
const RING_BYTES_MAX: u64 = 64 << 20;
const MIB: u64 = 1 << 20;

/// Where things lie; stands in the superblock. The ring's size stays when the pool grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks in the space ring.
    pub ring_blocks: u32,
    /// Blocks on the device.
    pub total_blocks: u64,
}

impl Geometry {
    /// The same of a pool that has grown to `total_blocks`.
    #[must_use]
    pub fn with_blocks(self, total_blocks: u64) -> Self {
        Self { total_blocks: total_blocks.max(self.total_blocks), ..self }
    }

    /// The layout of a new pool on a device of `size_bytes`.
    #[must_use]
    pub fn for_size(size_bytes: u64) -> Self {
        let ring = (size_bytes / 256).clamp(RING_BYTES_MIN, RING_BYTES_MAX) / MIB * MIB;
        let ring_blocks = (ring / BLOCK_SIZE_U64) as u32;
        Self { ring_blocks, total_blocks: size_bytes / BLOCK_SIZE_U64 }
    }

    /// Whether a superblock may state this.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let ring = u64::from(self.ring_blocks) * BLOCK_SIZE_U64;
        (RING_BYTES_MIN..=RING_BYTES_MAX).contains(&ring)
            && self.total_blocks >= self.regions_start() + REGION_BLOCKS
            // Regions are numbered by 32 bits.
            && self.total_blocks < u64::from(u32::MAX) * REGION_BLOCKS
    }

    /// First block of the first region.
    #[must_use]
    pub const fn regions_start(&self) -> u64 {
        RING_START + self.ring_blocks as u64
    }

    /// Regions, a usable rest at the end included.
    #[must_use]
    pub const fn region_count(&self) -> u32 {
        let blocks = self.total_blocks.saturating_sub(self.regions_start());
        let rest = blocks % REGION_BLOCKS;
        (blocks / REGION_BLOCKS) as u32 + (rest >= REGION_BLOCKS_MIN) as u32
    }

    /// First block of a region.
    #[must_use]
    pub const fn region_start(&self, region: u32) -> BlockAddr {
        BlockAddr(self.regions_start() + region as u64 * REGION_BLOCKS)
    }

    /// Blocks in a region, its slots included; 0 where there is none.
    #[must_use]
    pub const fn region_blocks(&self, region: u32) -> u32 {
        if region >= self.region_count() {
            return 0;
        }
        let left = self.total_blocks - self.region_start(region).get();
        (if left < REGION_BLOCKS { left } else { REGION_BLOCKS }) as u32
    }

    /// Blocks of a region that can be allocated.
    #[must_use]
    pub const fn region_capacity(&self, region: u32) -> u32 {
        self.region_blocks(region).saturating_sub(SLOTS_BLOCKS)
    }

    /// Blocks of all regions that can be allocated.
    #[must_use]
    pub fn capacity_blocks(&self) -> u64 {
        match self.region_count().checked_sub(1) {
            None => 0,
            Some(last) => {
                u64::from(last) * (REGION_BLOCKS - u64::from(SLOTS_BLOCKS))
                    + u64::from(self.region_capacity(last))
            }
        }
    }

    /// The region that holds `run` whole, and where in it the run begins.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`] where it lies outside, across regions, or in a region's slots.
    pub fn locate(&self, run: Run) -> Result<(u32, u32), BlockError> {
        let outside = BlockError::OutOfRange { addr: run.addr };
        let Some(at) = run.addr.get().checked_sub(self.regions_start()) else {
            return Err(outside);
        };
        let region = u32::try_from(at / REGION_BLOCKS).unwrap_or(u32::MAX);
        let start = (at % REGION_BLOCKS) as u32;
        let fits = run.blocks >= 1
            && start >= SLOTS_BLOCKS
            && u64::from(start) + u64::from(run.blocks) <= u64::from(self.region_blocks(region));
        if fits { Ok((region, start)) } else { Err(outside) }
    }

    /// The blocks of a region's slot 0 or 1 that hold a map of `blocks`.
    #[must_use]
    pub fn slot_run(&self, region: u32, slot: u8, blocks: u32) -> Run {
        let addr = self.region_start(region).plus(u64::from(slot) * u64::from(SLOT_BLOCKS));
        Run { addr, blocks }
    }
}

/// `through` of a region that no checkpoint folded yet.
pub const NEVER: Generation = Generation(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_lies_in_one_place() {
        let g = Geometry::for_size(256 << 20);
        assert!(g.is_valid());
        assert_eq!(g.region_count(), 4);
        assert_eq!(g.region_blocks(3), 16_384 - 2048);
        assert_eq!(g.region_start(3).get() + u64::from(g.region_blocks(3)), g.total_blocks);
        let total: u64 = (0..4).map(|r| u64::from(g.region_capacity(r))).sum();
        assert_eq!(total, g.capacity_blocks());
        let first = g.region_start(1).plus(u64::from(SLOTS_BLOCKS));
        assert_eq!(g.locate(Run { addr: first, blocks: 1 }).unwrap(), (1, SLOTS_BLOCKS));
    }

    #[test]
    fn runs_outside_or_across_or_in_slots_are_refused() {
        let g = Geometry::for_size(256 << 20);
        let slots = g.region_start(1).plus(3);
        let end_of_first = BlockAddr(g.region_start(1).get() - 1);
        for run in [
            Run { addr: BlockAddr(0), blocks: 1 },
            Run { addr: BlockAddr(RING_START), blocks: 1 },
            Run { addr: slots, blocks: 1 },
            Run { addr: end_of_first, blocks: 2 },
            Run { addr: BlockAddr(g.total_blocks), blocks: 1 },
            Run { addr: BlockAddr(u64::MAX), blocks: u32::MAX },
            Run { addr: g.region_start(2).plus(70), blocks: 0 },
        ] {
            assert!(g.locate(run).is_err(), "{run:?}");
        }
    }

    #[test]
    fn more_regions_than_numbers_are_refused() {
        let of = |total_blocks| Geometry { total_blocks, ..Geometry::for_size(1 << 40) };
        let max = u64::from(u32::MAX) * REGION_BLOCKS;
        assert!(of(max - 1).is_valid());
        assert!([max, 1 << 50, u64::MAX].into_iter().all(|total| !of(total).is_valid()));
    }

    #[test]
    fn a_terabyte_has_a_bounded_ring() {
        let g = Geometry::for_size(1 << 40);
        assert_eq!(u64::from(g.ring_blocks) * BLOCK_SIZE_U64, 64 << 20);
        assert!(g.region_count() >= 16_382);
    }
}
