//! One region in memory: its counts, the entries that its map slot does not hold yet, what was
//! freed and may not be given out, and, where it is loaded, the owner of each block.

use std::sync::Arc;

use crate::base::Generation;
use crate::base::limits::REGION_BLOCKS;
use crate::block::geometry::{NEVER, SLOTS_BLOCKS};
use crate::block::region_map::{Mismatch, RegionMap};
use crate::block::{Class, SpaceEntry};
use crate::crypto::{BlockKey, Tag};

const WORDS: usize = REGION_BLOCKS as usize / 64;

/// What the catalog keeps of a region: where its map is and what opens it.
#[derive(Clone, Debug)]
pub struct RegionItem {
    /// The map's slot, size in blocks, key and tag; `None` for a region with nothing in it.
    pub slot: Option<SlotRef>,
    /// The map holds every entry up to this interval.
    pub through: Generation,
    /// What the region holds; `None` for one with nothing in it.
    pub class: Option<Class>,
    /// Blocks allocated, as of `through`.
    pub allocated: u32,
}

impl RegionItem {
    /// Of a region that the catalog does not list.
    #[must_use]
    pub const fn absent() -> Self {
        Self { slot: None, through: NEVER, class: None, allocated: 0 }
    }
}

/// A written map.
#[derive(Clone, Debug)]
pub struct SlotRef {
    /// 0 or 1.
    pub index: u8,
    /// Size of the ciphertext in blocks.
    pub blocks: u32,
    /// Opens it.
    pub key: BlockKey,
    /// Over the ciphertext.
    pub tag: Tag,
}

/// An entry as it was booked.
#[derive(Debug, PartialEq, Eq)]
pub struct Booked {
    /// The interval.
    pub generation: Generation,
    /// What the region holds, which recovery needs to know before it has a map.
    pub class: Class,
    /// The entry.
    pub entry: SpaceEntry,
}

/// An entry that the region's durable slot does not hold, and the checkpoint in whose ring record
/// it stands.
#[derive(Clone, Debug)]
pub(in crate::block) struct Delta {
    pub held_in: Generation,
    pub booked: Arc<Booked>,
}

/// Freed blocks that may not be given out yet.
#[derive(Clone, Copy, Debug)]
pub(in crate::block) struct Held {
    pub generation: Generation,
    pub start: u32,
    pub blocks: u32,
}

/// The loaded part of a region: all entries applied.
pub(in crate::block) struct Loaded {
    /// Owner of each block; 0 where it is free.
    pub segments: Vec<u32>,
    /// Blocks that may not be given out: slots, beyond the end, allocated, provisional, held.
    taken: [u64; WORDS],
    /// For eviction.
    pub used_at: u64,
}

impl Loaded {
    pub fn new(map: &RegionMap, blocks: u32, held: &[Held], used_at: u64) -> Self {
        let segments = map.segments().to_vec();
        let mut loaded = Self { segments, taken: [0; WORDS], used_at };
        loaded.mark(0, SLOTS_BLOCKS, true);
        loaded.mark(blocks, REGION_BLOCKS as u32 - blocks, true);
        for run in map.runs() {
            loaded.mark(run.start, run.blocks, true);
        }
        for run in held {
            loaded.mark(run.start, run.blocks, true);
        }
        loaded
    }

    pub fn is_taken(&self, block: u32) -> bool {
        self.taken.get(block as usize / 64).is_none_or(|w| w & (1 << (block % 64)) != 0)
    }

    pub fn mark(&mut self, start: u32, blocks: u32, taken: bool) {
        for block in start..start.saturating_add(blocks).min(REGION_BLOCKS as u32) {
            if let Some(word) = self.taken.get_mut(block as usize / 64) {
                let bit = 1 << (block % 64);
                *word = if taken { *word | bit } else { *word & !bit };
            }
        }
    }

    fn next(&self, from: u32, taken: bool) -> u32 {
        let mut at = from;
        while (at as usize) < WORDS * 64 {
            let word = self.taken[at as usize / 64];
            let word = if taken { word } else { !word } >> (at % 64);
            if word != 0 {
                return at + word.trailing_zeros();
            }
            at = (at / 64 + 1) * 64;
        }
        REGION_BLOCKS as u32
    }

    /// The first free run of at least `min` blocks at or behind `from`, cut to `want`.
    pub fn find(&self, from: u32, want: u32, min: u32) -> Option<(u32, u32)> {
        let mut at = from;
        loop {
            let start = self.next(at, false);
            if start >= REGION_BLOCKS as u32 {
                return None;
            }
            let end = self.next(start, true);
            if end - start >= min {
                return Some((start, want.min(end - start)));
            }
            at = end;
        }
    }

    /// Whether a booked entry agrees with the owners; then changes them.
    pub fn book(&mut self, start: u32, entry: &SpaceEntry) -> Result<(), Mismatch> {
        let blocks = entry.run().blocks;
        let (expected, new) = match entry {
            SpaceEntry::Alloc { segment, .. } => (0, segment.get()),
            SpaceEntry::Free { segment, .. } => (segment.get(), 0),
        };
        let range = start as usize..start as usize + blocks as usize;
        let owners = self.segments.get_mut(range).ok_or(Mismatch { block: start })?;
        if let Some(at) = owners.iter().position(|owner| *owner != expected) {
            return Err(Mismatch { block: start + at as u32 });
        }
        owners.fill(new);
        Ok(())
    }
}

/// One region.
pub(in crate::block) struct Region {
    /// Blocks that can be allocated, the taken ones included.
    pub capacity: u32,
    /// What it holds; `None` while it is empty.
    pub class: Option<Class>,
    /// Blocks that belong to somebody, entries of open intervals included.
    pub allocated: u32,
    /// Blocks given out and not yet booked.
    pub provisional: u32,
    /// Blocks freed and not yet reusable.
    pub held_blocks: u32,
    pub held: Vec<Held>,
    /// What the durable catalog says.
    pub item: RegionItem,
    /// Ordered by interval.
    pub deltas: Vec<Delta>,
    pub loaded: Option<Box<Loaded>>,
    /// The backing exists: taken since the pool was opened or the region discarded.
    pub ensured: bool,
    /// The backing may exist, so that a discard of the empty region gives something back.
    pub backed: bool,
    /// Something was written in it: a discard makes it unreadable too.
    pub used: bool,
    /// Its map is rotten, cannot be read, or contradicts the entries: nothing is given out or folded
    /// until the pool is opened again.
    pub frozen: bool,
}

impl Region {
    pub const fn new(capacity: u32, item: RegionItem) -> Self {
        Self {
            capacity,
            class: item.class,
            allocated: item.allocated,
            provisional: 0,
            held_blocks: 0,
            held: Vec::new(),
            backed: item.slot.is_some(),
            used: item.slot.is_some(),
            item,
            deltas: Vec::new(),
            loaded: None,
            ensured: false,
            frozen: false,
        }
    }

    pub const fn free(&self) -> u32 {
        let taken = self.allocated + self.provisional + self.held_blocks;
        self.capacity.saturating_sub(taken)
    }

    pub const fn is_empty(&self) -> bool {
        self.allocated == 0 && self.provisional == 0 && self.held_blocks == 0
    }

    /// Whether it may be opened for either class.
    pub const fn is_fresh(&self) -> bool {
        self.class.is_none() && !self.frozen
    }

    /// Whether neither blocks nor a map of it are in use, now or in the durable state.
    pub const fn has_nothing(&self) -> bool {
        self.is_empty() && self.deltas.is_empty() && self.item.slot.is_none()
    }

    /// Keeps the entries ordered by interval: those of a checkpoint under way may come behind the
    /// first of the interval after it.
    pub fn push(&mut self, delta: Delta) {
        let generation = delta.booked.generation;
        let at = self.deltas.partition_point(|d| d.booked.generation <= generation);
        self.deltas.insert(at, delta);
    }

    /// Forgets the entries up to `through`, and the room that they took: a region has many of them
    /// for a while, and then for long few.
    pub fn forget_through(&mut self, through: Generation) {
        self.deltas.retain(|d| d.booked.generation > through);
        if self.deltas.len() < self.deltas.capacity() / 4 {
            self.deltas.shrink_to(self.deltas.len() * 2);
        }
    }

    /// The oldest checkpoint whose ring record is still needed for this region.
    pub fn oldest_held_in(&self) -> Option<Generation> {
        if self.frozen {
            return self.deltas.iter().map(|d| d.held_in).min();
        }
        self.deltas.first().map(|d| d.held_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockAddr, SegmentId};
    use crate::block::Run;

    #[test]
    fn finds_the_first_run_that_is_long_enough() {
        let mut loaded = Loaded::new(&RegionMap::empty(), 1024, &[], 0);
        assert_eq!(loaded.find(0, 10, 1), Some((64, 10)));
        loaded.mark(64, 100, true);
        loaded.mark(70, 3, false);
        assert_eq!(loaded.find(64, 10, 1), Some((70, 3)));
        assert_eq!(loaded.find(64, 10, 4), Some((164, 10)));
        assert_eq!(loaded.find(64, 4096, 860), Some((164, 860)));
        assert_eq!(loaded.find(64, 4096, 861), None);
        assert_eq!(loaded.find(1024, 1, 1), None);
    }

    #[test]
    fn entries_that_are_forgotten_take_no_room() {
        let mut region = Region::new(16_384, RegionItem::absent());
        for number in 1..=4096 {
            let run = Run { addr: BlockAddr(number), blocks: 1 };
            let entry = SpaceEntry::Free { run, segment: SegmentId(4) };
            let (class, generation) = (Class::Data, Generation(number.div_ceil(4000)));
            let booked = Arc::new(Booked { generation, class, entry });
            region.push(Delta { held_in: generation, booked });
        }
        region.forget_through(Generation(1));
        assert_eq!(region.deltas.len(), 96);
        assert!(region.deltas.capacity() < 256, "room for {}", region.deltas.capacity());
    }

    #[test]
    fn owners_are_checked_when_booked() {
        let mut loaded = Loaded::new(&RegionMap::empty(), 16_384, &[], 0);
        let run = Run { addr: BlockAddr(100), blocks: 2 };
        let segment = SegmentId(4);
        let alloc = SpaceEntry::Alloc { run, segment, crcs: vec![1, 2] };
        loaded.book(100, &alloc).unwrap();
        assert_eq!(loaded.book(100, &alloc), Err(Mismatch { block: 100 }));
        let other = SpaceEntry::Free { run, segment: SegmentId(5) };
        assert_eq!(loaded.book(100, &other), Err(Mismatch { block: 100 }));
        loaded.book(100, &SpaceEntry::Free { run, segment }).unwrap();
    }
}
