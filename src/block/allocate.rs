//! Choosing runs: a started region at least half empty, else a fresh one, else the emptiest; each
//! filled front to back.

use std::collections::HashSet;

use crate::block::space::{Cursor, Inner};
use crate::block::{BlockError, Class, Run, Space};

/// What the lock's holder must do before it can go on, without the lock.
enum Step {
    Done(Run),
    Load(u32),
    Ensure(u32),
}

/// Regions that a call found no use for: scanned whole, unreadable or without backing.
pub(in crate::block) type Tried = HashSet<u32>;

const fn index(class: Class) -> usize {
    match class {
        Class::Node => 0,
        Class::Data => 1,
    }
}

impl Inner {
    /// The region to go on with once the cursor's is used up.
    fn choose(&self, class: Class, min: u32, tried: &Tried) -> Option<u32> {
        let started = self.regions.iter().filter(|(no, state)| {
            let usable = state.free() >= min && !tried.contains(no);
            !state.frozen && state.class == Some(class) && usable
        });
        let started = started.max_by_key(|(no, state)| (state.free(), std::cmp::Reverse(**no)));
        if let Some((no, state)) = started
            && state.free() >= state.capacity / 2
        {
            return Some(*no);
        }
        let may_open = |no: &u32, ensured: bool| {
            let capacity = self.geometry.region_capacity(*no);
            let fits = capacity >= min && !tried.contains(no);
            let region = (capacity, ensured);
            fits && self.reserve.may_open(&self.totals, class, region, started.is_some())
        };
        let ensured = self.regions.iter().filter(|(_, state)| state.is_fresh() && state.ensured);
        let ensured = ensured.map(|(no, _)| *no).find(|no| may_open(no, true));
        let fresh = ensured.or_else(|| self.fresh_without_backing(|no| may_open(no, false)));
        fresh.or(started.map(|(no, _)| *no))
    }

    fn cursor_is_usable(&self, cursor: Cursor, class: Class, tried: &Tried) -> bool {
        let state = self.regions.get(&cursor.region);
        state.is_some_and(|state| {
            state.class == Some(class) && !state.frozen && !tried.contains(&cursor.region)
        })
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
                    state.used = true;
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
                    }
                }
            }
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
                    state.used = true;
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
}
