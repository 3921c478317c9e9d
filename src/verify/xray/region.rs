//! Region maps.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::block::{Class, RegionItem};
use crate::pool::{Pool, PoolError};
use crate::verify::regions::{read_slot, region_items};

/// A stretch of blocks of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunShape {
    /// First block on the device.
    pub addr: u64,
    /// How many.
    pub blocks: u32,
    /// Whose they are.
    pub segment: u32,
    /// How many of them have no checksum.
    pub without_checksum: u32,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionShape {
    /// Its number.
    pub region: u32,
    /// First block.
    pub start: u64,
    /// Blocks that can be allocated.
    pub capacity_blocks: u32,
    /// `node`, `data` or `empty`, as the catalog has it.
    pub class: &'static str,
    /// The slot of its map, with the map's size in blocks.
    pub slot: Option<(u8, u32)>,
    /// The map holds every change up to this checkpoint.
    pub through: u64,
    /// Blocks allocated as of then.
    pub allocated_in_map: u32,
    /// Blocks allocated, changes in the space ring included.
    pub allocated: Option<u32>,
    /// What is wrong with the map.
    pub error: Option<String>,
    /// Its stretches, the ring's changes included; only where one region was asked for.
    pub runs: Vec<RunShape>,
}

/// Every region that the catalog or the ring knows, a line each.
///
/// # Errors
/// The tree's.
pub fn regions(pool: &Pool) -> Result<Vec<RegionShape>, PoolError> {
    let items = Items::read(pool)?;
    Ok(pool.regions().into_iter().map(|region| shape(pool, &items, region, false)).collect())
}

/// One region with its stretches; `None` where the pool has no such region.
///
/// # Errors
/// The tree's.
pub fn region(pool: &Pool, region: u32) -> Result<Option<RegionShape>, PoolError> {
    if region >= pool.geometry().region_count() {
        return Ok(None);
    }
    Ok(Some(shape(pool, &Items::read(pool)?, region, true)))
}

/// What the catalog has of regions.
struct Items {
    good: BTreeMap<u32, RegionItem>,
    bad: BTreeMap<u64, String>,
}

impl Items {
    fn read(pool: &Pool) -> Result<Self, PoolError> {
        let mut bad = BTreeMap::new();
        let good = region_items(pool, &mut |region, why| drop(bad.insert(region, why)))?;
        Ok(Self { good: good.into_iter().collect(), bad })
    }
}

fn shape(pool: &Pool, items: &Items, region: u32, with_runs: bool) -> RegionShape {
    let geometry = pool.geometry();
    let mut error = items.bad.get(&u64::from(region)).cloned();
    let item = items.good.get(&region);
    if let Some(item) = item
        && let Err(why) = read_slot(pool, region, item)
    {
        error = Some(why);
    }
    let map = pool.region_map(region);
    let first = geometry.region_start(region);
    let mut runs = Vec::new();
    if let (Ok(map), true) = (&map, with_runs) {
        for run in map.runs() {
            let range = run.start as usize..(run.start + run.blocks) as usize;
            let crcs = map.crcs().get(range).unwrap_or_default();
            runs.push(RunShape {
                addr: first.plus(u64::from(run.start)).get(),
                blocks: run.blocks,
                segment: run.segment.get(),
                without_checksum: crcs.iter().filter(|crc| **crc == 0).count() as u32,
            });
        }
    }
    let slot = item.and_then(|item| item.slot.as_ref());
    RegionShape {
        region,
        start: first.get(),
        capacity_blocks: geometry.region_capacity(region),
        class: match item.and_then(|item| item.class) {
            Some(Class::Node) => "node",
            Some(Class::Data) => "data",
            None => "empty",
        },
        slot: slot.map(|slot| (slot.index, slot.blocks)),
        through: item.map_or(0, |item| item.through.get()),
        allocated_in_map: item.map_or(0, |item| item.allocated),
        allocated: map.as_ref().ok().map(crate::block::region_map::RegionMap::allocated),
        error: error.or_else(|| map.err().map(|error| error.to_string())),
        runs,
    }
}
