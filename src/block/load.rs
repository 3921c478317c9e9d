//! Reading regions' maps: verified against the catalog's item, brought up to date by the entries
//! that came later, and checked by them. What does not fit freezes the region.

use crate::base::Generation;
use crate::block::region::{Delta, Loaded, RegionItem};
use crate::block::region_map::{MapRun, RegionMap};
use crate::block::space::Inner;
use crate::block::{BlockError, Run, Space};
use crate::crypto::{BlockKind, decrypt_block};
use crate::sys::AlignedBuf;

/// Regions kept loaded; each takes some 66 KiB.
const LOADED_MAX: usize = 192;

impl Inner {
    /// Unloads what was not used for longest, except regions that somebody allocates from.
    fn evict(&mut self) {
        let pinned: Vec<u32> = self.cursors.iter().flatten().map(|c| c.region).collect();
        let mut loaded: Vec<(u64, u32)> = self
            .regions
            .iter()
            .filter(|(no, state)| state.provisional == 0 && !pinned.contains(no))
            .filter_map(|(no, state)| state.loaded.as_ref().map(|l| (l.used_at, *no)))
            .collect();
        let count = self.regions.values().filter(|state| state.loaded.is_some()).count();
        loaded.sort_unstable();
        for (_, region) in loaded.into_iter().take(count.saturating_sub(LOADED_MAX)) {
            if let Some(state) = self.regions.get_mut(&region) {
                state.loaded = None;
            }
        }
    }

    /// The region's map cannot be trusted: nothing is given out from it or folded into it.
    pub fn freeze(&mut self, region: u32) {
        self.with(region, |state| {
            if !state.frozen {
                log::error!("region {region}: its space map is lost; its free space is not used");
            }
            state.frozen = true;
        });
    }
}

impl Space {
    /// The map as the durable item's slot holds it. One that the device does not hand out is as good
    /// as a rotten one.
    fn read_slot(&self, region: u32, item: &RegionItem) -> Result<RegionMap, BlockError> {
        let Some(slot) = &item.slot else {
            return Ok(RegionMap::empty());
        };
        let run = self.geometry().slot_run(region, slot.index, slot.blocks);
        let corrupt = BlockError::Corrupt { what: "region map", addr: run.addr };
        let mut buf = AlignedBuf::new(run.bytes());
        match self.device.read(run.addr.offset_bytes(), &mut buf) {
            // One bad sector must not keep the pool from making checkpoints, nor from being opened.
            Err(error) if error.is_failed_read() => {
                log::error!("region {region}: its space map cannot be read: {error}");
                return Err(corrupt);
            }
            read => read?,
        }
        if decrypt_block(&slot.key, BlockKind::Map, &mut buf, &slot.tag).is_err() {
            crate::base::counters::BLOCKS_CORRUPT.increment();
            return Err(corrupt);
        }
        RegionMap::decode(&buf, region, item.through).map_err(|_| corrupt)
    }

    /// The map as of the entries up to `through`, with the entries themselves checked on the way.
    pub(in crate::block) fn map_at(
        &self,
        region: u32,
        item: &RegionItem,
        deltas: &[Delta],
        through: Generation,
    ) -> Result<RegionMap, BlockError> {
        let mut map = self.read_slot(region, item)?;
        let geometry = self.geometry();
        for delta in deltas {
            let booked = &delta.booked;
            if booked.generation <= item.through || booked.generation > through {
                continue;
            }
            let (_, start) = geometry.locate(booked.entry.run())?;
            map.apply(start, &booked.entry).map_err(|mismatch| BlockError::Accounting {
                addr: geometry.region_start(region).plus(u64::from(mismatch.block)),
                segment: booked.entry.segment(),
            })?;
        }
        Ok(map)
    }

    /// A region's map with every entry applied, and how many entries that were.
    fn current_map(&self, region: u32) -> Result<(RegionMap, Generation, usize), BlockError> {
        let (item, deltas) = {
            let mut inner = self.lock();
            inner.with(region, |state| (state.item.clone(), state.deltas.clone()))
        };
        let map = self.map_at(region, &item, &deltas, Generation(u64::MAX))?;
        Ok((map, item.through, deltas.len()))
    }

    /// Loads a region's map, if it is not.
    ///
    /// # Errors
    /// [`BlockError::Corrupt`], [`BlockError::Accounting`]: the region is frozen from here on; the
    /// device's errors.
    pub(in crate::block) fn load(&self, region: u32) -> Result<(), BlockError> {
        loop {
            let read = self.current_map(region);
            let mut inner = self.lock();
            let (map, through, entries) = match read {
                Ok(read) => read,
                Err(error @ BlockError::Device(_)) => return Err(error),
                Err(error) => {
                    inner.freeze(region);
                    return Err(error);
                }
            };
            inner.clock += 1;
            let clock = inner.clock;
            let blocks = inner.geometry.region_blocks(region);
            let addr = inner.geometry.region_start(region);
            let installed = inner.with(region, |state| {
                if state.loaded.is_some() {
                    return Some(true);
                }
                if state.item.through != through || state.deltas.len() != entries {
                    return None;
                }
                if map.allocated() != state.allocated {
                    return Some(false);
                }
                state.loaded = Some(Box::new(Loaded::new(&map, blocks, &state.held, clock)));
                Some(true)
            });
            match installed {
                Some(true) => {
                    inner.evict();
                    return Ok(());
                }
                Some(false) => {
                    inner.freeze(region);
                    return Err(BlockError::Corrupt { what: "region map", addr });
                }
                None => {}
            }
        }
    }

    /// What stands in a region now, entries of open intervals included: for sweeps, scrub, check.
    ///
    /// # Errors
    /// As `load`: a rotten map is an error, never a guess.
    pub fn region_map(&self, region: u32) -> Result<RegionMap, BlockError> {
        self.current_map(region).map(|(map, _, _)| map)
    }

    /// The runs of a region map as addresses on the device.
    #[must_use]
    pub fn run_of(&self, region: u32, run: &MapRun) -> Run {
        let addr = self.geometry().region_start(region).plus(u64::from(run.start));
        Run { addr, blocks: run.blocks }
    }
}
