//! The pool's space: every region's counts and entries, and the book-keeping of each run from
//! free over provisional, allocated and freed to free again.
//!
//! One lock guards it all; nothing is read or written under it. `allocate.rs` chooses runs,
//! `load.rs` reads maps, `fold.rs` writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::{Generation, SegmentId};
use crate::block::backing::Backing;
use crate::block::geometry::{Geometry, NEVER};
use crate::block::region::{Booked, Delta, Held, Region, RegionItem};
use crate::block::reserve::{Reserve, Totals};
use crate::block::{BlockError, Class, Readers, Run, SpaceEntry};
use crate::device::Device;
use crate::sys::sync::{Mutex, MutexGuard, Rank};

/// The pool's space.
pub struct Space {
    pub(in crate::block) device: Arc<dyn Device>,
    pub(in crate::block) readers: Readers,
    inner: Mutex<Inner>,
    /// Held while a region's backing is made or given back, so that the two never meet; taken
    /// before `inner`.
    pub(in crate::block) backing: Mutex<()>,
}

/// Where the allocator goes on in a class.
#[derive(Clone, Copy, Debug)]
pub(in crate::block) struct Cursor {
    pub region: u32,
    pub at: u32,
}

pub(in crate::block) struct Inner {
    pub geometry: Geometry,
    /// Regions that anything was ever done with; the others are empty.
    pub regions: BTreeMap<u32, Region>,
    pub totals: Totals,
    pub reserve: Reserve,
    pub backing: Backing,
    pub cursors: [Option<Cursor>; 2],
    /// Regions with frees of an interval that are not reusable yet.
    held: BTreeMap<Generation, BTreeSet<u32>>,
    pub durable: Generation,
    /// Counts uses of loaded regions, for eviction.
    pub clock: u64,
}

impl Inner {
    /// Changes a region through `change` and keeps the totals in step.
    pub fn with<R>(&mut self, region: u32, change: impl FnOnce(&mut Region) -> R) -> R {
        let capacity = self.geometry.region_capacity(region);
        let state = self.regions.entry(region).or_insert_with(|| {
            // An untouched region is counted in the totals from the start.
            Region::new(capacity, RegionItem::absent())
        });
        self.totals.subtract(state);
        let result = change(state);
        if state.is_empty() && !state.frozen {
            state.class = None;
        }
        self.totals.add(state);
        result
    }

    /// Gives back what was freed up to `through`.
    fn reap(&mut self, through: Generation) {
        while let Some(entry) = self.held.first_entry().filter(|e| *e.key() <= through) {
            let (generation, regions) = entry.remove_entry();
            for region in regions {
                self.with(region, |state| {
                    let mut given_back = 0;
                    state.held.retain(|held| {
                        if held.generation > generation {
                            return true;
                        }
                        given_back += held.blocks;
                        if let Some(loaded) = &mut state.loaded {
                            loaded.mark(held.start, held.blocks, false);
                        }
                        false
                    });
                    state.held_blocks -= given_back;
                });
            }
        }
    }
}

/// What `status` and statfs show, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceReport {
    /// Blocks that can hold anything at all.
    pub capacity: u64,
    /// Blocks that belong to somebody, or were given out and not yet booked.
    pub used: u64,
    /// Blocks that file data may still take.
    pub free: u64,
    /// Blocks freed and not yet reusable.
    pub pending_free: u64,
    /// Blocks kept back so that deletes and checkpoints work.
    pub reserve: u64,
    /// Regions whose map is rotten; what lies in them is readable, their free space is not used.
    pub frozen_regions: u32,
    /// The filesystem that holds the pool refused more room: `free` is what was taken before.
    pub backing_is_full: bool,
}

impl Space {
    /// The space of a pool whose durable checkpoint is `durable`, with the catalog's region items.
    #[must_use]
    pub fn new(
        device: Arc<dyn Device>,
        geometry: Geometry,
        readers: Readers,
        durable: Generation,
        items: Vec<(u32, RegionItem)>,
    ) -> Self {
        let mut inner = Inner {
            geometry,
            regions: BTreeMap::new(),
            totals: Totals::untouched(&geometry),
            reserve: Reserve::for_geometry(&geometry),
            backing: Backing::default(),
            cursors: [None; 2],
            held: BTreeMap::new(),
            durable,
            clock: 0,
        };
        for (region, item) in items {
            let capacity = geometry.region_capacity(region);
            inner.with(region, |state| *state = Region::new(capacity, item));
        }
        Self {
            device,
            readers,
            inner: Mutex::new(Rank::Space, inner),
            backing: Mutex::new(Rank::Backing, ()),
        }
    }

    pub(in crate::block) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// The lock, with what became reusable given back.
    pub(in crate::block) fn lock_reaped(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock();
        // After `durable` is known: whoever reads the tree before that one has entered by then.
        let through = inner.durable.min(self.readers.unreachable_through());
        inner.reap(through);
        inner
    }

    /// Where things lie.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.inner.lock().geometry
    }

    /// Books an entry of the interval `generation`: from here on the run belongs to the segment, or
    /// waits to become reusable.
    ///
    /// # Errors
    /// [`BlockError::Accounting`] where the run was not given out, or the map names another owner;
    /// [`BlockError::OutOfRange`].
    pub(in crate::block) fn book(
        &self,
        generation: Generation,
        entry: SpaceEntry,
    ) -> Result<Arc<Booked>, BlockError> {
        let run = entry.run();
        let mut inner = self.inner.lock();
        let (region, start) = inner.geometry.locate(run)?;
        let wrong = BlockError::Accounting { addr: run.addr, segment: entry.segment() };
        if entry.segment().get() == 0 {
            return Err(wrong);
        }
        let alloc = matches!(entry, SpaceEntry::Alloc { .. });
        let booked = inner.with(region, |state| {
            let class = state.class?;
            let enough = if alloc {
                state.provisional >= run.blocks && (state.loaded.is_some() || state.frozen)
            } else {
                state.allocated >= run.blocks
            };
            if !enough || state.loaded.as_mut().is_some_and(|l| l.book(start, &entry).is_err()) {
                return None;
            }
            if alloc {
                state.provisional -= run.blocks;
                state.allocated += run.blocks;
            } else {
                state.allocated -= run.blocks;
                state.held_blocks += run.blocks;
                state.held.push(Held { generation, start, blocks: run.blocks });
            }
            let booked = Arc::new(Booked { generation, class, entry });
            state.push(Delta { held_in: generation, booked: booked.clone() });
            Some(booked)
        });
        let booked = booked.ok_or(wrong)?;
        if !alloc {
            inner.held.entry(generation).or_default().insert(region);
        }
        Ok(booked)
    }

    /// Gives a provisional run back: it was never booked, so nothing knows of it.
    pub fn release(&self, run: Run) {
        let mut inner = self.inner.lock();
        let Ok((region, start)) = inner.geometry.locate(run) else {
            return;
        };
        inner.with(region, |state| {
            debug_assert!(state.provisional >= run.blocks, "released what was not provisional");
            if state.provisional >= run.blocks {
                state.provisional -= run.blocks;
                if let Some(loaded) = &mut state.loaded {
                    loaded.mark(start, run.blocks, false);
                }
            }
        });
    }

    /// Takes in an entry of the space ring when the pool is opened, oldest first. `held_in` is the
    /// checkpoint whose record it stands in.
    ///
    /// # Errors
    /// [`BlockError::OutOfRange`]; [`BlockError::Accounting`] where counts cannot be right.
    pub fn replay(&self, held_in: Generation, booked: Arc<Booked>) -> Result<(), BlockError> {
        let run = booked.entry.run();
        let mut inner = self.inner.lock();
        let (region, _) = inner.geometry.locate(run)?;
        let fits = inner.with(region, |state| {
            if booked.generation <= state.item.through {
                return true;
            }
            match &booked.entry {
                SpaceEntry::Alloc { .. } => {
                    state.allocated += run.blocks;
                    state.class = Some(booked.class);
                }
                SpaceEntry::Free { .. } if state.allocated >= run.blocks => {
                    state.allocated -= run.blocks;
                }
                SpaceEntry::Free { .. } => return false,
            }
            (state.backed, state.used) = (true, true);
            state.push(Delta { held_in, booked: booked.clone() });
            state.allocated <= state.capacity
        });
        let wrong = BlockError::Accounting { addr: run.addr, segment: booked.entry.segment() };
        if fits { Ok(()) } else { Err(wrong) }
    }

    /// A record carries all of a region's entries up to `through` again: those read before are the
    /// same ones, and are dropped.
    pub fn replay_carried(&self, region: u32, through: Generation) {
        let mut inner = self.inner.lock();
        if !inner.regions.contains_key(&region) {
            return;
        }
        inner.with(region, |state| {
            for delta in state.deltas.iter().filter(|d| d.booked.generation <= through).rev() {
                let blocks = delta.booked.entry.run().blocks;
                match delta.booked.entry {
                    SpaceEntry::Alloc { .. } => state.allocated -= blocks.min(state.allocated),
                    SpaceEntry::Free { .. } => state.allocated += blocks,
                }
            }
            state.forget_through(through);
        });
    }

    /// The superblock of `generation` is durable: what was freed in it may be given out again once
    /// no reader is left.
    pub fn set_durable(&self, generation: Generation) {
        {
            let mut inner = self.inner.lock();
            inner.durable = generation;
            inner.backing.ask_again();
        }
        drop(self.lock_reaped());
    }

    /// The pool now ends at `total_blocks`.
    pub fn grow(&self, total_blocks: u64) {
        // Nobody takes the backing of a region meanwhile whose length he has seen.
        let _backing = self.backing.lock();
        let mut inner = self.inner.lock();
        let old = inner.geometry;
        let new = old.with_blocks(total_blocks);
        let last = old.region_count().checked_sub(1);
        if let Some(last) = last {
            // From here on in memory, so that it is counted as what it becomes.
            inner.with(last, |_| {});
        }
        inner.geometry = new;
        inner.reserve = inner.reserve.regrown(&new);
        for region in old.region_count()..new.region_count() {
            inner.totals.sparse.empty.add(new.region_capacity(region));
        }
        let Some(last) = last else { return };
        let (was, now) = (old.region_blocks(last), new.region_blocks(last));
        if was == now {
            return;
        }
        inner.with(last, |state| {
            state.capacity += now - was;
            state.ensured = false;
            if let Some(loaded) = &mut state.loaded {
                loaded.mark(was, now - was, false);
            }
        });
    }

    /// Figures for statfs and `status`.
    #[must_use]
    pub fn report(&self) -> SpaceReport {
        let inner = self.lock_reaped();
        let totals = &inner.totals;
        SpaceReport {
            capacity: inner.geometry.capacity_blocks(),
            used: totals.used(),
            free: inner.reserve.data_available(totals, inner.backing.is_full),
            pending_free: totals.held,
            reserve: inner.reserve.total_blocks(),
            frozen_regions: totals.frozen_regions,
            backing_is_full: inner.backing.is_full,
        }
    }

    /// Blocks that belong to somebody, by class: node, data.
    #[must_use]
    pub fn allocated(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        let of = |class| {
            let regions = inner.regions.values().filter(|r| r.class == Some(class));
            regions.map(|r| u64::from(r.allocated)).sum()
        };
        (of(Class::Node), of(Class::Data))
    }

    /// Every region that anything was ever done with.
    #[must_use]
    pub fn regions(&self) -> Vec<u32> {
        self.inner.lock().regions.keys().copied().collect()
    }

    /// Whether nothing contradicts that `run` belongs to `segment`, as far as it is in memory.
    ///
    /// # Errors
    /// [`BlockError::Accounting`], [`BlockError::OutOfRange`]
    pub fn check_free(&self, run: Run, segment: SegmentId) -> Result<(), BlockError> {
        let inner = self.inner.lock();
        let (region, start) = inner.geometry.locate(run)?;
        let wrong = BlockError::Accounting { addr: run.addr, segment };
        let state = inner.regions.get(&region).ok_or(wrong)?;
        let range = start as usize..(start + run.blocks) as usize;
        let owners = state.loaded.as_ref().and_then(|l| l.segments.get(range));
        if owners.is_none_or(|o| o.iter().all(|owner| *owner == segment.get())) {
            Ok(())
        } else {
            Err(BlockError::Accounting { addr: run.addr, segment })
        }
    }

    /// The checkpoint whose ring record is the oldest still needed, once `folded` regions no longer
    /// need any up to `through`.
    #[must_use]
    pub fn oldest_held_in(&self, folded: &BTreeMap<u32, Generation>) -> Option<Generation> {
        let inner = self.inner.lock();
        let oldest = inner.regions.iter().filter_map(|(no, state)| match folded.get(no) {
            None => state.oldest_held_in(),
            Some(through) => {
                let left = state.deltas.iter().find(|d| d.booked.generation > *through);
                left.map(|d| d.held_in)
            }
        });
        oldest.min().filter(|g| *g > NEVER)
    }
}
