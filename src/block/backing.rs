//! Backing: room that a region takes from the filesystem beneath a sparse pool before anything of it
//! is promised (engine.md, rules 13 and 14).
//!
//! A promise counts what has its backing, and nothing else. Backing is taken ahead, a region at a
//! time, by whoever asks for a promise that needs more; where it is refused, the disk beneath counts
//! as full until a region is given again, and whoever asked is told before anything was accepted.

use std::time::Duration;

use crate::block::allocate::Tried;
use crate::block::reserve::{Refusal, Urgency};
use crate::block::space::Inner;
use crate::block::{BlockError, Class, Run, Space};
use crate::device::DeviceError;
use crate::sys::clock;

/// A disk that refused a region is not asked for another for so long.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Refusals after which a call gives up.
const REFUSALS_MAX: u32 = 2;

/// What is known of the room beneath the pool.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::block) struct Backing {
    /// It refused a region, and has given none since.
    pub is_full: bool,
    /// When it is to be asked again.
    ask_after: Option<Duration>,
}

impl Backing {
    fn refused(&mut self) {
        if !self.is_full {
            log::warn!("the filesystem that holds the pool is full");
        }
        self.is_full = true;
        self.ask_after = Some(clock::monotonic() + ASK_AGAIN_AFTER);
    }

    fn given(&mut self) {
        if self.is_full {
            log::info!("the filesystem that holds the pool has room again");
        }
        *self = Self::default();
    }

    /// Something may have changed: the next one who needs a region asks.
    pub const fn ask_again(&mut self) {
        self.ask_after = None;
    }

    fn may_be_asked(&self) -> bool {
        self.ask_after.is_none_or(|at| clock::monotonic() >= at)
    }
}

impl Inner {
    /// The first empty region without backing that `fits`, if the disk beneath may be asked.
    pub fn fresh_without_backing(&self, fits: impl Fn(&u32) -> bool) -> Option<u32> {
        if !self.backing.may_be_asked() {
            return None;
        }
        let is_fresh =
            |no: &u32| self.regions.get(no).is_none_or(|state| state.is_fresh() && !state.ensured);
        (0..self.geometry.region_count()).find(|no| is_fresh(no) && fits(no))
    }

    /// The region whose backing gives `class` the most.
    fn to_ensure(&self, class: Class, tried: &Tried) -> Option<u32> {
        let started = self.regions.iter().filter(|(no, state)| {
            let of_class = state.class == Some(class) && !state.frozen;
            of_class && !state.ensured && state.free() > 0 && !tried.contains(no)
        });
        let started = started.max_by_key(|(_, state)| state.free()).map(|(no, _)| *no);
        started.or_else(|| self.fresh_without_backing(|no| !tried.contains(no)))
    }
}

impl Space {
    /// Promises `blocks` of `class`: later allocations of as many find room, in the pool and beneath
    /// it.
    ///
    /// # Errors
    /// [`BlockError::Full`]; the device's.
    pub fn reserve(&self, class: Class, blocks: u64, urgency: Urgency) -> Result<(), BlockError> {
        let (mut tried, mut refusals) = (Tried::new(), 0);
        loop {
            let region = {
                let mut inner = self.lock_reaped();
                let totals = inner.totals;
                match inner.reserve.promise(&totals, class, blocks, urgency) {
                    Ok(()) => return Ok(()),
                    Err(Refusal::Pool) => return Err(BlockError::Full),
                    Err(Refusal::Backing(lacking)) => inner.to_ensure(lacking, &tried),
                }
            };
            let region = region.ok_or(BlockError::Full)?;
            if !self.ensure(region)? {
                tried.insert(region);
                refusals += 1;
            }
            if refusals == REFUSALS_MAX {
                return Err(BlockError::Full);
            }
        }
    }

    /// Promises what was accepted before, whatever is left. Whether there is room for it.
    pub fn promise_anyway(&self, class: Class, blocks: u64) -> bool {
        let mut inner = self.lock_reaped();
        let totals = inner.totals;
        inner.reserve.promise_anyway(&totals, class, blocks)
    }

    /// Gives a promise back: it was kept, or is no longer needed.
    pub fn unreserve(&self, class: Class, blocks: u64) {
        self.lock().reserve.unpromise(class, blocks);
    }

    /// The dirty nodes of a head will take `now` blocks instead of `before`. All heads' are promised
    /// together.
    pub fn change_dirty(&self, before: u64, now: u64) {
        if before != now {
            self.lock().reserve.change_dirty(before, now);
        }
    }

    /// Whether a checkpoint may make room for a promise that was refused.
    #[must_use]
    pub fn may_gain(&self) -> bool {
        let inner = self.lock();
        inner.reserve.may_shrink(&inner.totals)
    }

    /// Takes the backing that deletions and checkpoints need, as far as it is to be had: while there
    /// is room beneath the pool, not when there is none.
    ///
    /// # Errors
    /// The device's.
    pub fn secure(&self) -> Result<(), BlockError> {
        for urgency in [Urgency::Drop, Urgency::Delete, Urgency::Ordinary] {
            match self.reserve(Class::Node, 0, urgency) {
                Ok(()) => {}
                Err(BlockError::Full) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where the disk beneath was full, finds out whether it still is.
    ///
    /// # Errors
    /// The device's.
    pub fn look_for_backing(&self) -> Result<(), BlockError> {
        let region = {
            let inner = self.lock();
            inner.backing.is_full.then(|| inner.fresh_without_backing(|_| true)).flatten()
        };
        region.map_or(Ok(()), |region| self.ensure(region).map(|_| ()))
    }

    /// Makes sure that the region's blocks have something beneath them, its slots included. False
    /// where what is beneath is full.
    pub(in crate::block) fn ensure(&self, region: u32) -> Result<bool, BlockError> {
        let _backing = self.backing.lock();
        let (start, blocks, is_unused) = {
            let mut inner = self.lock();
            let (ensured, unused) = inner.with(region, |s| (s.ensured, s.has_nothing()));
            if ensured {
                return Ok(true);
            }
            let geometry = inner.geometry;
            (geometry.region_start(region), geometry.region_blocks(region), unused)
        };
        let run = Run { addr: start, blocks };
        let (offset, len) = (start.offset_bytes(), run.bytes() as u64);
        let result = self.device.ensure(offset, len);
        if is_unused && matches!(result, Err(DeviceError::NoSpace)) {
            // Part of it may have been given, and is of no use.
            let _ = self.device.discard(offset, len).inspect_err(|error| {
                log::debug!("region {region} was not discarded: {error}");
            });
        }
        let mut inner = self.lock();
        let ok = result.is_ok();
        let is_new = inner.with(region, |state| {
            let is_new = ok && !state.backed;
            state.ensured = ok;
            state.backed |= ok;
            is_new
        });
        match result {
            Ok(()) => {
                if is_new {
                    inner.backing.given();
                }
                Ok(true)
            }
            Err(DeviceError::NoSpace) => {
                inner.backing.refused();
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Before the pool grows to `total_blocks`: takes what its last region needs in addition. Else its
    /// backing would be asked for once it is counted on, and refused.
    ///
    /// # Errors
    /// The device's: [`DeviceError::NoSpace`] where there is no room beneath.
    pub fn back_growth(&self, total_blocks: u64) -> Result<(), BlockError> {
        let _backing = self.backing.lock();
        let old = self.geometry();
        let new = old.with_blocks(total_blocks);
        let Some(last) = old.region_count().checked_sub(1) else { return Ok(()) };
        let (start, was, now) =
            (old.region_start(last), old.region_blocks(last), new.region_blocks(last));
        if was == now {
            return Ok(());
        }
        let whole = Run { addr: start, blocks: now };
        let result = self.device.ensure(start.offset_bytes(), whole.bytes() as u64);
        if matches!(result, Err(DeviceError::NoSpace)) {
            // Part of it may have been given, and is nobody's.
            let more = Run { addr: start.plus(u64::from(was)), blocks: now - was };
            let _ = self.device.discard(more.addr.offset_bytes(), more.bytes() as u64).inspect_err(
                |error| {
                    log::debug!("what would have been region {last} was not discarded: {error}")
                },
            );
        }
        Ok(result?)
    }

    /// Gives the backing of wholly empty regions back, but for what promises and the reserve stand
    /// on. A device that cannot is no error. How many were discarded.
    pub fn discard_empty(&self) -> usize {
        let mut discarded = 0;
        loop {
            let _backing = self.backing.lock();
            let (region, run) = {
                let mut inner = self.lock_reaped();
                let spare = |state: &crate::block::region::Region| {
                    !state.ensured || inner.reserve.can_spare(&inner.totals, state.capacity)
                };
                let mut regions = inner.regions.iter();
                let empty =
                    regions.find(|(_, s)| s.has_nothing() && s.used && s.backed && spare(s));
                let Some(region) = empty.map(|(no, _)| *no) else {
                    return discarded;
                };
                inner.with(region, |state| {
                    state.backed = false;
                    state.ensured = false;
                    state.used = false;
                });
                let geometry = inner.geometry;
                let blocks = geometry.region_blocks(region);
                (region, Run { addr: geometry.region_start(region), blocks })
            };
            let result = self.device.discard(run.addr.offset_bytes(), run.bytes() as u64);
            match result {
                Ok(given_back) => {
                    discarded += usize::from(given_back);
                    self.lock().backing.ask_again();
                }
                Err(error) => log::debug!("region {region} was not discarded: {error}"),
            }
        }
    }
}
