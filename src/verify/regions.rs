//! Each region's map against the item that names it.

use std::ops::ControlFlow;

use crate::block::RegionItem;
use crate::block::region_map::RegionMap;
use crate::crypto::{BlockKind, decrypt_block};
use crate::pool::{Pool, PoolError, items};
use crate::sys::AlignedBuf;
use crate::verify::findings::{Defect, Report};

/// The items of all regions that the catalog lists, by number; those that cannot be decoded are
/// findings.
pub(in crate::verify) fn region_items(
    pool: &Pool,
    bad: &mut dyn FnMut(u64, String),
) -> Result<Vec<(u32, RegionItem)>, PoolError> {
    let (from, to) = (items::region_key(0), items::region_key(u32::MAX));
    let count = pool.geometry().region_count();
    let mut found = Vec::new();
    pool.read_catalog().range(from, to, &mut |key, value| {
        let region = u32::try_from(key.offset).ok().filter(|region| *region < count);
        match (region, items::decode_region(value)) {
            (Some(region), Ok(item)) => found.push((region, item)),
            (None, _) => bad(key.offset, "there is no such region".to_owned()),
            (_, Err(error)) => bad(key.offset, error.to_string()),
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The map in the slot that an item names, as it is on the device.
pub(in crate::verify) fn read_slot(
    pool: &Pool,
    region: u32,
    item: &RegionItem,
) -> Result<RegionMap, String> {
    let Some(slot) = &item.slot else {
        return Ok(RegionMap::empty());
    };
    let run = pool.geometry().slot_run(region, slot.index, slot.blocks);
    let mut buf = AlignedBuf::new(run.bytes());
    pool.device().read(run.addr.offset_bytes(), &mut buf).map_err(|error| error.to_string())?;
    decrypt_block(&slot.key, BlockKind::Map, &mut buf, &slot.tag)
        .map_err(|_| format!("its map (block {}) does not have its tag", run.addr))?;
    RegionMap::decode(&buf, region, item.through)
        .map_err(|error| format!("its map (block {}): {error}", run.addr))
}

/// Every map as of its item: it opens, is canonical, and counts what the item counts.
pub(in crate::verify) fn check(pool: &Pool, report: &mut Report) {
    let mut bad = |region: u64, why| {
        report.damage(Defect::Region { region: u32::try_from(region).unwrap_or(u32::MAX), why });
    };
    let items = match region_items(pool, &mut bad) {
        Ok(items) => items,
        Err(error) => {
            report.damage(Defect::Catalog { why: error.to_string() });
            return;
        }
    };
    for (region, item) in items {
        match read_slot(pool, region, &item) {
            Ok(map) if map.allocated() == item.allocated => {}
            Ok(map) => {
                let (stated, counted) = (item.allocated.into(), map.allocated().into());
                report.damage(Defect::Count { what: format!("region {region}"), stated, counted });
            }
            Err(why) => report.damage(Defect::Region { region, why }),
        }
    }
}
