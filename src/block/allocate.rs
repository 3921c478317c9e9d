//! Choosing runs: a started region at least half empty, else a fresh one, else the emptiest; each
//! filled front to back.

use std::collections::HashSet;

use crate::block::reserve::Urgency;
use crate::block::space::{Cursor, Inner};
use crate::block::{BlockError, Class, Run, Space};
use crate::device::DeviceError;

/// What the lock's holder must do before it can go on, without the lock.
enum Step {
    Done(Run),
    Load(u32),
    Ensure(u32),
}

/// Regions that a call found no use for: scanned whole, unreadable or without backing.
type Tried = HashSet<u32>;

/// Refusals of room beneath the pool after which the disk counts as full for this call.
const REFUSALS_MAX: u32 = 2;

const fn index(class: Class) -> usize {
    match class {
        Class::Node => 0,
        Class::Data => 1,
    }
}

impl Inner {
    /// The region to go on with once the cursor's is used up.
    fn choose(&self, class: Class, min: u32, tried: &Tried) -> Option<u32> {
        let usable = |no: &u32, free: u32| free >= min && !tried.contains(no);
        let started = self.regions.iter().filter(|(no, state)| {
            !state.frozen && state.class == Some(class) && usable(no, state.free())
        });
        let started = started.max_by_key(|(no, state)| (state.free(), std::cmp::Reverse(**no)));
        if let Some((no, state)) = started
            && state.free() >= state.capacity / 2
        {
            return Some(*no);
        }
        let fresh = (0..self.geometry.region_count()).find(|no| {
            let capacity = self.geometry.region_capacity(*no);
            let empty =
                self.regions.get(no).is_none_or(|state| state.class.is_none() && !state.frozen);
            let allowed =
                class == Class::Node || self.reserve.data_may_open(&self.totals, capacity);
            empty && allowed && usable(no, capacity)
        });
        fresh.or(started.map(|(no, _)| *no))
    }

    fn cursor_is_usable(&self, cursor: Cursor, class: Class, tried: &Tried) -> bool {
        let state = self.regions.get(&cursor.region);
        state.is_some_and(|state| {
            state.class == Some(class) && !state.frozen && !tried.contains(&cursor.region)
        })
    }

    /// Leaves out all regions that would need room beneath the pool: asking for each of them takes
    /// long in a large sparse pool on a full disk.
    fn give_up_unbacked(&self, tried: &mut Tried) {
        let unbacked = |no: &u32| {
            self.regions.get(no).is_none_or(|state| state.class.is_none() && !state.backed)
        };
        tried.extend((0..self.geometry.region_count()).filter(unbacked));
    }

    fn step(
        &mut self,
        class: Class,
        want: u32,
        min: u32,
        tried: &mut Tried,
    ) -> Result<Step, BlockError> {
        loop {
            let cursor = self.cursors[index(class)];
            let cursor = match cursor.filter(|c| self.cursor_is_usable(*c, class, tried)) {
                Some(cursor) => cursor,
                None => {
                    let region = self.choose(class, min, tried).ok_or(BlockError::Full)?;
                    Cursor { region, at: 0 }
                }
            };
            self.clock += 1;
            let clock = self.clock;
            let found = self.with(cursor.region, |state| {
                let Some(loaded) = &mut state.loaded else {
                    return Err(Step::Load(cursor.region));
                };
                if !state.ensured {
                    return Err(Step::Ensure(cursor.region));
                }
                loaded.used_at = clock;
                let found = loaded.find(cursor.at, want, min);
                if let Some((start, blocks)) = found {
                    loaded.mark(start, blocks, true);
                    state.provisional += blocks;
                    state.class = Some(class);
                }
                Ok(found)
            });
            match found {
                Err(step) => return Ok(step),
                Ok(Some((start, blocks))) => {
                    let at = start + blocks;
                    self.cursors[index(class)] = Some(Cursor { region: cursor.region, at });
                    let addr = self.geometry.region_start(cursor.region).plus(u64::from(start));
                    return Ok(Step::Done(Run { addr, blocks }));
                }
                Ok(None) => {
                    self.cursors[index(class)] = None;
                    if cursor.at == 0 {
                        tried.insert(cursor.region);
                    }
                }
            }
        }
    }
}

impl Space {
    /// A run of `class` of at most `want` blocks and at least `min`, in memory only: it is nobody's
    /// until it is booked, and must be booked or released.
    ///
    /// # Errors
    /// [`BlockError::Full`] where no such run is left, on the pool or beneath it; the device's.
    pub fn allocate(&self, class: Class, want: u32, min: u32) -> Result<Run, BlockError> {
        debug_assert!(min >= 1 && want >= min);
        let mut tried = Tried::new();
        let mut refused = 0;
        loop {
            let step = self.lock_reaped().step(class, want, min, &mut tried)?;
            match step {
                Step::Done(run) => return Ok(run),
                Step::Load(region) => match self.load(region) {
                    Ok(()) => {}
                    Err(error @ BlockError::Device(_)) => return Err(error),
                    Err(_) => {
                        tried.insert(region);
                    }
                },
                Step::Ensure(region) => {
                    if !self.ensure(region)? {
                        tried.insert(region);
                        refused += 1;
                    }
                    if refused == REFUSALS_MAX {
                        self.lock().give_up_unbacked(&mut tried);
                    }
                }
            }
        }
    }

    /// Makes sure that the region's blocks have something beneath them, its slots included. False
    /// where what is beneath is full.
    fn ensure(&self, region: u32) -> Result<bool, BlockError> {
        let _backing = self.backing.lock();
        let (start, blocks) = {
            let mut inner = self.lock();
            if inner.with(region, |state| state.ensured) {
                return Ok(true);
            }
            (inner.geometry.region_start(region), inner.geometry.region_blocks(region))
        };
        let run = Run { addr: start, blocks };
        let result = self.device.ensure(start.offset_bytes(), run.bytes() as u64);
        let mut inner = self.lock();
        inner.with(region, |state| {
            state.ensured = result.is_ok();
            state.backed |= result.is_ok();
        });
        match result {
            Ok(()) => Ok(true),
            Err(DeviceError::NoSpace) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a certain run, which must be free: what the log claims when the pool is opened. Of a
    /// region whose map is corrupt it is taken unseen: what was acknowledged must not be lost with
    /// the map.
    ///
    /// # Errors
    /// [`BlockError::Accounting`] where a block of it is not free; as [`Space::load`].
    pub fn take(&self, class: Class, run: Run) -> Result<(), BlockError> {
        loop {
            let mut inner = self.lock_reaped();
            let (region, start) = inner.geometry.locate(run)?;
            let taken = inner.with(region, |state| {
                let loaded = state.loaded.as_mut()?;
                let fits = state.class.is_none_or(|c| c == class);
                let free = (start..start + run.blocks).all(|block| !loaded.is_taken(block));
                if fits && free {
                    loaded.mark(start, run.blocks, true);
                    state.provisional += run.blocks;
                    state.class = Some(class);
                }
                Some(fits && free)
            });
            drop(inner);
            match taken {
                Some(true) => return Ok(()),
                Some(false) => {
                    let segment = crate::base::SegmentId::POOL;
                    return Err(BlockError::Accounting { addr: run.addr, segment });
                }
                None => match self.load(region) {
                    Ok(()) => {}
                    Err(error @ BlockError::Device(_)) => return Err(error),
                    // Nothing is given out from a region whose map is corrupt, so nobody else can
                    // have got the run since; that it was free before is not known.
                    Err(_) => {
                        self.lock().with(region, |state| state.provisional += run.blocks);
                        return Ok(());
                    }
                },
            }
        }
    }

    /// Promises `blocks` of `class`: later allocations of as many find room.
    ///
    /// # Errors
    /// [`BlockError::Full`]
    pub fn reserve(&self, class: Class, blocks: u64, urgency: Urgency) -> Result<(), BlockError> {
        let mut inner = self.lock_reaped();
        let totals = inner.totals;
        inner.reserve.promise(&totals, class, blocks, urgency)
    }

    /// Gives a promise back: it was kept, or is no longer needed.
    pub fn unreserve(&self, class: Class, blocks: u64) {
        self.lock().reserve.unpromise(class, blocks);
    }
}
