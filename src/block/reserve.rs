//! Totals over all regions, and what is kept back so that deletes and checkpoints always work
//! (engine.md, rules 11 and 13).

use crate::base::limits::REGION_BLOCKS;
use crate::base::units::BLOCK_SIZE_U64;
use crate::block::geometry::{Geometry, SLOTS_BLOCKS};
use crate::block::region::Region;
use crate::block::{BlockError, Class};

/// Who asks for space: the less it can be refused, the deeper it reaches into the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Whatever adds: writes, creations.
    Ordinary,
    /// Deleting and truncating files: down to half the reserve.
    Delete,
    /// Deleting snapshots and clusters: down to a quarter.
    Drop,
    /// Checkpoints: all of it.
    Checkpoint,
}

/// Counts over all regions, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::block) struct Totals {
    pub node_free: u64,
    pub data_free: u64,
    /// In empty regions, which may become either.
    pub empty_free: u64,
    pub allocated: u64,
    pub provisional: u64,
    pub held: u64,
    pub frozen_regions: u32,
}

impl Totals {
    /// Of a pool in which no region was touched.
    pub fn untouched(geometry: &Geometry) -> Self {
        Self { empty_free: geometry.capacity_blocks(), ..Self::default() }
    }

    fn free_slot(&mut self, region: &Region) -> &mut u64 {
        match region.class {
            None => &mut self.empty_free,
            Some(Class::Node) => &mut self.node_free,
            Some(Class::Data) => &mut self.data_free,
        }
    }

    pub fn add(&mut self, region: &Region) {
        if region.frozen {
            self.frozen_regions += 1;
        } else {
            *self.free_slot(region) += u64::from(region.free());
        }
        self.allocated += u64::from(region.allocated);
        self.provisional += u64::from(region.provisional);
        self.held += u64::from(region.held_blocks);
    }

    pub fn subtract(&mut self, region: &Region) {
        if region.frozen {
            self.frozen_regions -= 1;
        } else {
            *self.free_slot(region) -= u64::from(region.free());
        }
        self.allocated -= u64::from(region.allocated);
        self.provisional -= u64::from(region.provisional);
        self.held -= u64::from(region.held_blocks);
    }

    pub const fn used(&self) -> u64 {
        self.allocated + self.provisional
    }
}

/// What is promised, and what is kept back.
#[derive(Clone, Copy, Debug)]
pub(in crate::block) struct Reserve {
    total: u64,
    promised_node: u64,
    promised_data: u64,
}

const REGION_CAPACITY: u64 = REGION_BLOCKS - SLOTS_BLOCKS as u64;
const MIN_BLOCKS: u64 = (64 << 20) / BLOCK_SIZE_U64;
const SMALL_POOL_BLOCKS: u64 = (512 << 20) / BLOCK_SIZE_U64;

impl Reserve {
    /// 1/32 of the pool or 64 MiB, whichever is more; of pools below 512 MiB, 1/8.
    pub fn for_geometry(geometry: &Geometry) -> Self {
        let blocks = geometry.total_blocks;
        let total =
            if blocks < SMALL_POOL_BLOCKS { blocks / 8 } else { (blocks / 32).max(MIN_BLOCKS) };
        Self { total, promised_node: 0, promised_data: 0 }
    }

    pub fn regrown(&self, geometry: &Geometry) -> Self {
        Self { total: Self::for_geometry(geometry).total, ..*self }
    }

    pub const fn total_blocks(&self) -> u64 {
        self.total
    }

    const fn kept_from(&self, urgency: Urgency) -> u64 {
        match urgency {
            Urgency::Ordinary => self.total,
            Urgency::Delete => self.total / 2,
            Urgency::Drop => self.total / 4,
            Urgency::Checkpoint => 0,
        }
    }

    /// Blocks of empty regions, whole ones, that nodes need beyond the free ones they have.
    fn empty_for_nodes(&self, totals: &Totals, need: u64) -> u64 {
        need.saturating_sub(totals.node_free).div_ceil(REGION_CAPACITY) * REGION_CAPACITY
    }

    /// Blocks that file data may take.
    pub fn data_available(&self, totals: &Totals) -> u64 {
        let nodes = self.empty_for_nodes(totals, self.total + self.promised_node);
        let empty = totals.empty_free.saturating_sub(nodes);
        (totals.data_free + empty).saturating_sub(self.promised_data)
    }

    /// Whether data may open an empty region of `capacity` blocks: what nodes need must stay.
    pub fn data_may_open(&self, totals: &Totals, capacity: u32) -> bool {
        let need = self.kept_from(Urgency::Drop) + self.promised_node;
        let nodes = self.empty_for_nodes(totals, need);
        totals.empty_free >= nodes + u64::from(capacity)
            || (nodes == 0 && totals.empty_free >= u64::from(capacity))
    }

    /// Promises `blocks` of `class`.
    pub fn promise(
        &mut self,
        totals: &Totals,
        class: Class,
        blocks: u64,
        urgency: Urgency,
    ) -> Result<(), BlockError> {
        let (node, data) = match class {
            Class::Node => (self.promised_node + blocks, self.promised_data),
            Class::Data => (self.promised_node, self.promised_data + blocks),
        };
        let kept = self.kept_from(urgency);
        let for_nodes = self.empty_for_nodes(totals, node + kept);
        let for_data = data.saturating_sub(totals.data_free);
        if for_nodes + for_data > totals.empty_free {
            return Err(BlockError::Full);
        }
        (self.promised_node, self.promised_data) = (node, data);
        Ok(())
    }

    /// Takes a promise back.
    pub fn unpromise(&mut self, class: Class, blocks: u64) {
        let promised = match class {
            Class::Node => &mut self.promised_node,
            Class::Data => &mut self.promised_data,
        };
        debug_assert!(*promised >= blocks, "more given back than promised");
        *promised = promised.saturating_sub(blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(mib: u64) -> (Geometry, Totals, Reserve) {
        let geometry = Geometry::for_size(mib << 20);
        (geometry, Totals::untouched(&geometry), Reserve::for_geometry(&geometry))
    }

    #[test]
    fn the_reserve_is_kept_in_steps() {
        let (_, totals, reserve) = pool(16 << 10);
        assert_eq!(reserve.total_blocks() * 4096, 512 << 20);
        let ask = |urgency| {
            let free = totals.empty_free;
            let largest = (0..free / 64)
                .map(|n| (free / 64 - n) * 64)
                .find(|n| reserve.clone().promise(&totals, Class::Data, *n, urgency).is_ok());
            largest.unwrap()
        };
        let (ordinary, delete) = (ask(Urgency::Ordinary), ask(Urgency::Delete));
        let (drop, checkpoint) = (ask(Urgency::Drop), ask(Urgency::Checkpoint));
        assert!(ordinary < delete && delete < drop && drop < checkpoint);
        assert!(totals.empty_free - ordinary >= reserve.total_blocks());
    }

    #[test]
    fn data_never_takes_the_last_empty_regions_that_nodes_need() {
        let (geometry, mut totals, reserve) = pool(1024);
        let capacity = geometry.region_capacity(0);
        let mut opened = 0;
        while reserve.data_may_open(&totals, capacity) {
            totals.empty_free -= u64::from(capacity);
            opened += 1;
        }
        assert!(opened > 0 && totals.empty_free >= u64::from(capacity));
    }

    #[test]
    fn what_was_promised_is_not_promised_again() {
        let (_, totals, mut reserve) = pool(1024);
        let before = reserve.data_available(&totals);
        reserve.promise(&totals, Class::Data, before, Urgency::Ordinary).unwrap();
        assert_eq!(reserve.data_available(&totals), 0);
        assert!(reserve.promise(&totals, Class::Data, 1, Urgency::Ordinary).is_err());
        reserve.unpromise(Class::Data, before);
        assert_eq!(reserve.data_available(&totals), before);
    }
}
