//! Totals over all regions, and what is kept back so that deletes and checkpoints always work
//! (engine.md, rules 11, 13 and 14).

use crate::base::limits::REGION_BLOCKS;
use crate::base::units::BLOCK_SIZE_U64;
use crate::block::Class;
use crate::block::geometry::{Geometry, SLOTS_BLOCKS};
use crate::block::region::Region;

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

impl Urgency {
    /// What of a reserve of `total` it may not touch.
    const fn keeps(self, total: u64) -> u64 {
        match self {
            Self::Ordinary => total,
            Self::Delete => total / 2,
            Self::Drop => total / 4,
            Self::Checkpoint => 0,
        }
    }
}

/// Empty regions. All have one size but the last, which may be shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::block) struct Empties {
    /// Whole ones.
    pub whole: u64,
    /// Blocks of the short one, where it is empty.
    pub short: u64,
}

impl Empties {
    pub fn add(&mut self, capacity: u32) {
        match u64::from(capacity) {
            REGION_CAPACITY => self.whole += 1,
            short => self.short += short,
        }
    }
    pub fn subtract(&mut self, capacity: u32) {
        match u64::from(capacity) {
            REGION_CAPACITY => self.whole -= 1,
            short => self.short -= short,
        }
    }
}

/// Free blocks, by what they may become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::block) struct Room {
    pub node: u64,
    pub data: u64,
    /// Regions that may become either, each as a whole.
    pub empty: Empties,
}

impl Room {
    fn slot(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Node => &mut self.node,
            Class::Data => &mut self.data,
        }
    }

    /// As it is once an empty region has become one of `class`.
    fn opened(mut self, class: Class, capacity: u32) -> Self {
        self.empty.subtract(capacity);
        *self.slot(class) += u64::from(capacity);
        self
    }

    /// The most data blocks that find room beside `node` blocks of nodes; `None` where not even
    /// those do.
    pub fn data_beside(&self, node: u64) -> Option<u64> {
        let lacking = node.saturating_sub(self.node);
        let ways = [false, true].into_iter().filter_map(|short_is_nodes| {
            let from_short = if short_is_nodes { self.empty.short } else { 0 };
            let whole = lacking.saturating_sub(from_short).div_ceil(REGION_CAPACITY);
            let left = self.empty.whole.checked_sub(whole)?;
            Some(self.data + left * REGION_CAPACITY + self.empty.short - from_short)
        });
        ways.max()
    }

    pub fn fits(&self, node: u64, data: u64) -> bool {
        self.data_beside(node).is_some_and(|room| room >= data)
    }
}

/// Counts over all regions, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::block) struct Totals {
    /// Free in regions whose backing was taken from what is beneath the pool.
    pub ensured: Room,
    /// Free in the others.
    pub sparse: Room,
    pub allocated: u64,
    pub provisional: u64,
    /// Of those, data.
    pub provisional_data: u64,
    pub held: u64,
    pub frozen_regions: u32,
}

impl Totals {
    /// Of a pool in which no region was touched.
    pub fn untouched(geometry: &Geometry) -> Self {
        let mut totals = Self::default();
        (0..geometry.region_count())
            .for_each(|region| totals.sparse.empty.add(geometry.region_capacity(region)));
        totals
    }

    /// Where the free blocks of a region are counted.
    fn room(&mut self, region: &Region) -> &mut Room {
        if region.ensured { &mut self.ensured } else { &mut self.sparse }
    }

    fn provisional_data(region: &Region) -> u64 {
        if region.class == Some(Class::Data) { u64::from(region.provisional) } else { 0 }
    }

    pub fn add(&mut self, region: &Region) {
        let free = u64::from(region.free());
        match region.class {
            _ if region.frozen => self.frozen_regions += 1,
            None => self.room(region).empty.add(region.capacity),
            Some(class) => *self.room(region).slot(class) += free,
        }
        self.allocated += u64::from(region.allocated);
        self.provisional += u64::from(region.provisional);
        self.provisional_data += Self::provisional_data(region);
        self.held += u64::from(region.held_blocks);
    }

    pub fn subtract(&mut self, region: &Region) {
        let free = u64::from(region.free());
        match region.class {
            _ if region.frozen => self.frozen_regions -= 1,
            None => self.room(region).empty.subtract(region.capacity),
            Some(class) => *self.room(region).slot(class) -= free,
        }
        self.allocated -= u64::from(region.allocated);
        self.provisional -= u64::from(region.provisional);
        self.provisional_data -= Self::provisional_data(region);
        self.held -= u64::from(region.held_blocks);
    }

    pub const fn used(&self) -> u64 {
        self.allocated + self.provisional
    }

    /// Free blocks, with backing or without.
    pub const fn all(&self) -> Room {
        let (a, b) = (&self.ensured, &self.sparse);
        let empty =
            Empties { whole: a.empty.whole + b.empty.whole, short: a.empty.short + b.empty.short };
        Room { node: a.node + b.node, data: a.data + b.data, empty }
    }
}

/// Why a promise is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::block) enum Refusal {
    /// The pool has no room for it.
    Pool,
    /// The pool has, but no backing for blocks of this class was taken yet.
    Backing(Class),
}

/// What is promised, and what is kept back.
#[derive(Clone, Copy, Debug)]
pub(in crate::block) struct Reserve {
    total: u64,
    /// What of `total` must have its backing before anything is promised to others.
    ahead: u64,
    promised_node: u64,
    promised_data: u64,
    /// What the dirty nodes of all heads will take, together.
    dirty: u64,
}

const REGION_CAPACITY: u64 = REGION_BLOCKS - SLOTS_BLOCKS as u64;
const MIN_BLOCKS: u64 = (64 << 20) / BLOCK_SIZE_U64;
const SMALL_POOL_BLOCKS: u64 = (512 << 20) / BLOCK_SIZE_U64;
/// Least of what is kept with its backing, where the reserve is as much.
const AHEAD_BLOCKS_MIN: u64 = (16 << 20) / BLOCK_SIZE_U64;
/// And its part of a large pool.
const AHEAD_PART: u64 = 1024;
/// What a small operation asks for beside its data: below it nothing can be added.
const SMALL_OPERATION_BLOCKS: u64 = 64;

impl Reserve {
    /// 1/32 of the pool or 64 MiB, whichever is more; of pools below 512 MiB, 1/8.
    pub fn for_geometry(geometry: &Geometry) -> Self {
        let blocks = geometry.total_blocks;
        let total =
            if blocks < SMALL_POOL_BLOCKS { blocks / 8 } else { (blocks / 32).max(MIN_BLOCKS) };
        let ahead = total.min(AHEAD_BLOCKS_MIN.max(blocks / AHEAD_PART));
        Self { total, ahead, promised_node: 0, promised_data: 0, dirty: 0 }
    }

    pub fn regrown(&self, geometry: &Geometry) -> Self {
        let Self { total, ahead, .. } = Self::for_geometry(geometry);
        Self { total, ahead, ..*self }
    }

    pub const fn total_blocks(&self) -> u64 {
        self.total
    }

    /// What nodes will take, whatever else happens.
    const fn node_need(&self) -> u64 {
        self.promised_node + self.dirty
    }

    /// What data will take; what was given out to be written and is not booked yet is promised as
    /// well, and counted once.
    const fn data_need(&self, totals: &Totals) -> u64 {
        self.promised_data.saturating_sub(totals.provisional_data)
    }

    /// Whether a checkpoint may give something back: what is dirty is written, what waits in
    /// buffers is stored, what was freed becomes free.
    pub const fn may_shrink(&self, totals: &Totals) -> bool {
        self.node_need() > 0 || self.promised_data > 0 || totals.held > 0
    }

    /// Blocks that file data may take.
    pub fn data_available(&self, totals: &Totals, backing_is_full: bool) -> u64 {
        let beside = |room: &Room, kept| {
            let nodes = self.node_need() + kept + SMALL_OPERATION_BLOCKS;
            room.data_beside(nodes).unwrap_or(0).saturating_sub(self.data_need(totals))
        };
        let of_pool = beside(&totals.all(), self.total);
        if backing_is_full { of_pool.min(beside(&totals.ensured, self.ahead)) } else { of_pool }
    }

    /// Whether an allocation of `class` may open an empty region, or has to do with the started
    /// ones, if they have room: nothing that is promised or kept may lose its room by it.
    pub fn may_open(
        &self,
        totals: &Totals,
        class: Class,
        region: (u32, bool),
        has_other_room: bool,
    ) -> bool {
        let (capacity, ensured) = region;
        let fits = |room: Room, kept| {
            let room = room.opened(class, capacity);
            room.fits(self.node_need() + kept, self.data_need(totals))
        };
        match class {
            _ if has_other_room => {
                fits(totals.all(), self.total) && (!ensured || fits(totals.ensured, self.ahead))
            }
            // Whoever stores what was accepted stands on a promise.
            Class::Node => true,
            Class::Data if self.promised_data > 0 => true,
            Class::Data => fits(totals.all(), Urgency::Drop.keeps(self.total)),
        }
    }

    /// Whether what is promised and kept has its backing without this empty region.
    pub fn can_spare(&self, totals: &Totals, capacity: u32) -> bool {
        let mut room = totals.ensured;
        room.empty.subtract(capacity);
        room.fits(self.node_need() + self.ahead, self.data_need(totals))
    }

    /// Promises `blocks` of `class`: in the pool, and with its backing.
    pub fn promise(
        &mut self,
        totals: &Totals,
        class: Class,
        blocks: u64,
        urgency: Urgency,
    ) -> Result<(), Refusal> {
        let (more_node, more_data) = match class {
            Class::Node => (blocks, 0),
            Class::Data => (0, blocks),
        };
        let node = self.node_need() + more_node;
        let data = self.data_need(totals) + more_data;
        if !totals.all().fits(node + urgency.keeps(self.total), data) {
            return Err(Refusal::Pool);
        }
        let node = node + urgency.keeps(self.ahead);
        if !totals.ensured.fits(node, 0) {
            return Err(Refusal::Backing(Class::Node));
        }
        if !totals.ensured.fits(node, data) {
            return Err(Refusal::Backing(Class::Data));
        }
        *self.promised(class) += blocks;
        Ok(())
    }

    /// Promises without asking: it was accepted before. Whether there is room for it.
    pub fn promise_anyway(&mut self, totals: &Totals, class: Class, blocks: u64) -> bool {
        *self.promised(class) += blocks;
        totals.all().fits(self.node_need(), self.data_need(totals))
    }

    const fn promised(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Node => &mut self.promised_node,
            Class::Data => &mut self.promised_data,
        }
    }

    /// Takes a promise back.
    pub fn unpromise(&mut self, class: Class, blocks: u64) {
        let promised = self.promised(class);
        debug_assert!(*promised >= blocks, "more given back than promised");
        *promised = promised.saturating_sub(blocks);
    }

    /// The dirty nodes of one head will take `now` blocks instead of `before`.
    pub fn change_dirty(&mut self, before: u64, now: u64) {
        debug_assert!(self.dirty >= before, "more dirty nodes written than there were");
        self.dirty = self.dirty.saturating_sub(before) + now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool all of whose regions have their backing.
    fn pool(mib: u64) -> (Geometry, Totals, Reserve) {
        let geometry = Geometry::for_size(mib << 20);
        let totals = Totals::untouched(&geometry);
        let totals = Totals { ensured: totals.sparse, sparse: Room::default(), ..totals };
        (geometry, totals, Reserve::for_geometry(&geometry))
    }

    fn largest(totals: &Totals, reserve: Reserve, class: Class, urgency: Urgency) -> u64 {
        let fits = |n: u64| reserve.clone().promise(totals, class, n, urgency).is_ok();
        let (mut low, mut high) = (0, 1 << 40);
        while low + 1 < high {
            let middle = (low + high) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        low
    }

    #[test]
    fn the_reserve_is_kept_in_steps() {
        let (geometry, totals, reserve) = pool(16 << 10);
        assert_eq!(reserve.total_blocks() * 4096, 512 << 20);
        let ask = |urgency| largest(&totals, reserve, Class::Data, urgency);
        let (ordinary, delete) = (ask(Urgency::Ordinary), ask(Urgency::Delete));
        let (drop, checkpoint) = (ask(Urgency::Drop), ask(Urgency::Checkpoint));
        assert!(ordinary < delete && delete < drop && drop < checkpoint);
        assert!(geometry.capacity_blocks() - ordinary >= reserve.total_blocks());
    }

    #[test]
    fn data_never_takes_the_last_empty_regions_that_nodes_need() {
        let (geometry, mut totals, reserve) = pool(1024);
        let capacity = geometry.region_capacity(0);
        let mut opened = 0;
        let region = (capacity, true);
        while totals.ensured.empty.whole > 0
            && reserve.may_open(&totals, Class::Data, region, false)
        {
            totals.ensured = totals.ensured.opened(Class::Data, capacity);
            totals.ensured.data = 0;
            opened += 1;
        }
        assert!(opened > 0);
        assert!(totals.ensured.fits(Urgency::Drop.keeps(reserve.total_blocks()), 0));
    }

    #[test]
    fn a_class_with_room_opens_no_region_that_the_other_was_promised() {
        let (geometry, mut totals, mut reserve) = pool(1024);
        let whole = (geometry.region_capacity(0), true);
        totals.ensured.empty = Empties { whole: 1, short: 0 };
        totals.ensured.node = reserve.total_blocks() + 100;
        reserve.promise(&totals, Class::Data, 5, Urgency::Ordinary).unwrap();
        assert!(!reserve.may_open(&totals, Class::Node, whole, true));
        totals.ensured.empty.whole = 2;
        assert!(reserve.may_open(&totals, Class::Node, whole, true));
        reserve.unpromise(Class::Data, 5);
        totals.ensured = Room { node: 10, data: 100, empty: Empties { whole: 2, short: 0 } };
        assert!(!reserve.may_open(&totals, Class::Data, whole, true), "nodes would lack room");
    }

    #[test]
    fn what_was_promised_is_not_promised_again() {
        let (_, totals, mut reserve) = pool(1024);
        let before = reserve.data_available(&totals, false);
        reserve.promise(&totals, Class::Data, before, Urgency::Ordinary).unwrap();
        assert_eq!(reserve.data_available(&totals, false), 0);
        let rest = largest(&totals, reserve, Class::Data, Urgency::Ordinary);
        assert!(reserve.promise(&totals, Class::Data, rest + 1, Urgency::Ordinary).is_err());
        reserve.unpromise(Class::Data, before);
        assert_eq!(reserve.data_available(&totals, false), before);
    }

    #[test]
    fn the_dirty_nodes_of_all_heads_count_together() {
        let (_, totals, mut reserve) = pool(1024);
        let before = largest(&totals, reserve, Class::Node, Urgency::Ordinary);
        reserve.change_dirty(0, 1000);
        reserve.change_dirty(0, 500);
        assert_eq!(largest(&totals, reserve, Class::Node, Urgency::Ordinary), before - 1500);
        reserve.change_dirty(1000, 0);
        assert_eq!(largest(&totals, reserve, Class::Node, Urgency::Ordinary), before - 500);
    }

    #[test]
    fn the_short_last_region_serves_nodes_or_data_as_it_fits() {
        let room = |short| Room { node: 0, data: 0, empty: Empties { whole: 1, short } };
        assert!(room(500).fits(500, REGION_CAPACITY));
        assert!(room(500).fits(REGION_CAPACITY, 500));
        assert!(room(500).fits(REGION_CAPACITY + 500, 0));
        assert!(!room(500).fits(501, 501));
        assert!(!room(500).fits(REGION_CAPACITY + 501, 0));
    }

    #[test]
    fn only_what_has_its_backing_is_promised() {
        let geometry = Geometry::for_size(1 << 30);
        let mut totals = Totals::untouched(&geometry);
        let mut reserve = Reserve::for_geometry(&geometry);
        let ask = |reserve: &mut Reserve, totals: &Totals| {
            reserve.promise(totals, Class::Data, 10, Urgency::Ordinary)
        };
        assert_eq!(ask(&mut reserve, &totals), Err(Refusal::Backing(Class::Node)));
        totals.sparse.empty.whole -= 1;
        totals.ensured.empty.whole += 1;
        assert_eq!(ask(&mut reserve, &totals), Err(Refusal::Backing(Class::Data)));
        totals.sparse.empty.whole -= 1;
        totals.ensured.empty.whole += 1;
        assert_eq!(ask(&mut reserve, &totals), Ok(()));
        let (open, full) = (false, true);
        assert!(reserve.data_available(&totals, open) > 2 * REGION_CAPACITY);
        assert!(reserve.data_available(&totals, full) < REGION_CAPACITY);
        assert!(!reserve.can_spare(&totals, REGION_CAPACITY as u32));
    }
}
