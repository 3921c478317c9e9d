//! Folding: a region's entries go from the space ring into its map (engine.md, rules 9 and 10).
//!
//! A fold writes the slot that the *durable* item does not name, and counts only once the superblock
//! whose catalog names it is durable: until then the old slot and all entries stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::Generation;
use crate::block::region::{Booked, RegionItem, SlotRef};
use crate::block::{BlockError, Space};
use crate::crypto::{BlockKind, encrypt_block, new_block_key};
use crate::sys::AlignedBuf;

/// A region whose map was written, or that was found empty.
#[derive(Clone, Debug)]
pub struct Folded {
    /// The region.
    pub region: u32,
    /// What the catalog has to say of it from this checkpoint on.
    pub item: RegionItem,
}

impl Space {
    /// The regions with entries in ring records of checkpoints up to `through`: all of them must be
    /// folded, or carried, before those records are let go. And the frozen ones among them.
    #[must_use]
    pub fn fold_candidates(&self, through: Generation) -> (Vec<u32>, Vec<u32>) {
        let inner = self.lock();
        let due = inner
            .regions
            .iter()
            .filter(|(_, state)| state.oldest_held_in().is_some_and(|oldest| oldest <= through));
        let (frozen, sound): (Vec<_>, Vec<_>) = due.partition(|(_, state)| state.frozen);
        let numbers = |list: Vec<(&u32, _)>| list.into_iter().map(|(no, _)| *no).collect();
        (numbers(sound), numbers(frozen))
    }

    /// The regions that were emptied and whose entries all belong to intervals up to `through`.
    #[must_use]
    pub fn emptied(&self, through: Generation) -> Vec<u32> {
        let inner = self.lock();
        let emptied = inner.regions.iter().filter(|(_, state)| {
            let settled = state.deltas.last().is_none_or(|d| d.booked.generation <= through);
            let something = state.item.slot.is_some() || !state.deltas.is_empty();
            state.allocated == 0 && settled && something && !state.frozen
        });
        emptied.map(|(no, _)| *no).collect()
    }

    /// Writes the maps of `regions` as of `through`. A region whose map turns out corrupt, or cannot
    /// be read, is frozen and left out.
    ///
    /// # Errors
    /// The device's, where a map cannot be written.
    pub fn fold(&self, regions: &[u32], through: Generation) -> Result<Vec<Folded>, BlockError> {
        let mut folded = Vec::new();
        for region in regions {
            match self.fold_one(*region, through) {
                Ok(item) => folded.push(Folded { region: *region, item }),
                Err(error @ BlockError::Device(_)) => return Err(error),
                Err(_) => self.lock().freeze(*region),
            }
        }
        Ok(folded)
    }

    fn fold_one(&self, region: u32, through: Generation) -> Result<RegionItem, BlockError> {
        let (item, deltas, class) = {
            let mut inner = self.lock();
            inner.with(region, |s| (s.item.clone(), s.deltas.clone(), s.class))
        };
        let map = self.map_at(region, &item, &deltas, through)?;
        let allocated = map.allocated();
        if allocated == 0 {
            return Ok(RegionItem { slot: None, through, class: None, allocated });
        }
        let last = deltas.iter().rev().find(|d| d.booked.generation <= through);
        let class = class.or(last.map(|d| d.booked.class)).or(item.class);
        let index = item.slot.as_ref().map_or(0, |slot| 1 - slot.index.min(1));
        let mut buf = AlignedBuf::from_slice(&map.encode(region, through));
        let key = new_block_key();
        let tag = encrypt_block(&key, BlockKind::Map, &mut buf);
        let blocks = (buf.len() / crate::base::BLOCK_SIZE) as u32;
        let run = self.geometry().slot_run(region, index, blocks);
        self.device.write(run.addr.offset_bytes(), &buf)?;
        let slot = Some(SlotRef { index, blocks, key, tag });
        Ok(RegionItem { slot, through, class, allocated })
    }

    /// The superblock that names these folds is durable.
    pub fn commit_folds(&self, folded: &[Folded]) {
        let mut inner = self.lock();
        for Folded { region, item } in folded {
            inner.with(*region, |state| {
                state.item = item.clone();
                state.forget_through(item.through);
            });
        }
    }

    /// The entries of frozen regions up to `through`, to be carried into a new ring record.
    #[must_use]
    pub fn carried(&self, regions: &[u32], through: Generation) -> BTreeMap<u32, Vec<Arc<Booked>>> {
        let inner = self.lock();
        let entries = |region: &u32| {
            let state = inner.regions.get(region)?;
            let deltas = state.deltas.iter().filter(|d| d.booked.generation <= through);
            Some((*region, deltas.map(|d| d.booked.clone()).collect()))
        };
        regions.iter().filter_map(entries).collect()
    }

    /// The carried entries now stand in the record of checkpoint `held_in`, which is durable.
    pub fn commit_carried(&self, regions: &[u32], through: Generation, held_in: Generation) {
        let mut inner = self.lock();
        for region in regions {
            inner.with(*region, |state| {
                for delta in state.deltas.iter_mut().filter(|d| d.booked.generation <= through) {
                    delta.held_in = held_in;
                }
            });
        }
    }

    /// Items that say nothing any more: of empty regions, older than every ring record from
    /// `oldest_record` on.
    #[must_use]
    pub fn forgettable(&self, oldest_record: Generation) -> Vec<u32> {
        let inner = self.lock();
        let forgettable = inner.regions.iter().filter(|(_, state)| {
            let listed = state.item.through > crate::block::geometry::NEVER;
            listed && state.item.slot.is_none() && state.item.through < oldest_record
        });
        forgettable.map(|(no, _)| *no).collect()
    }

    /// The catalog no longer lists these regions, durably.
    pub fn commit_forgotten(&self, regions: &[u32]) {
        let mut inner = self.lock();
        for region in regions {
            inner.with(*region, |state| state.item = RegionItem::absent());
        }
    }
}
