//! Checksums: every allocated block as it is on the device against its region's map. No key is
//! needed, so the data of locked clusters are checked alike. What a fault was reported for already
//! is not reported twice.

use crate::base::SegmentId;
use crate::base::units::BLOCK_SIZE;
use crate::block::Run;
use crate::block::region_map::{MapRun, RegionMap};
use crate::pool::Pool;
use crate::sys::AlignedBuf;
use crate::verify::findings::{Defect, Report};

/// Blocks read at once (1 MiB).
const READ_BLOCKS: u32 = 256;

/// Reads every allocated block, where it is known which those are.
pub(in crate::verify) fn check(pool: &Pool, maps_known: bool, report: &mut Report) {
    for region in pool.regions().into_iter().filter(|_| maps_known) {
        // One that cannot be read was reported before.
        let Ok(map) = pool.region_map(region) else { continue };
        for run in map.runs() {
            check_run(pool, region, &map, run, report);
        }
    }
    let bad_tags = std::mem::take(&mut report.spots.bad_tags);
    for addr in bad_tags {
        report.damage(Defect::Tag { addr });
    }
}

fn check_run(pool: &Pool, region: u32, map: &RegionMap, run: MapRun, report: &mut Report) {
    let first = pool.geometry().region_start(region);
    let mut start = run.start;
    while start < run.start + run.blocks {
        let blocks = (run.start + run.blocks - start).min(READ_BLOCKS);
        let piece = Run { addr: first.plus(u64::from(start)), blocks };
        let range = start as usize..(start + blocks) as usize;
        let crcs = map.crcs().get(range).unwrap_or_default();
        let unchecked = crcs.iter().filter(|crc| **crc == 0).count() as u64;
        report.coverage.blocks_without_checksum += unchecked;
        if unchecked < u64::from(blocks) {
            report.coverage.blocks_checked += u64::from(blocks) - unchecked;
            compare(pool, map, start, piece, run.segment, report);
        }
        start += blocks;
    }
}

fn compare(
    pool: &Pool,
    map: &RegionMap,
    start: u32,
    piece: Run,
    segment: SegmentId,
    report: &mut Report,
) {
    let mut bytes = AlignedBuf::new(piece.blocks as usize * BLOCK_SIZE);
    if let Err(error) = pool.device().read(piece.addr.offset_bytes(), &mut bytes) {
        let (Run { addr, blocks }, why) = (piece, error.to_string());
        report.damage(Defect::Device { addr, blocks, why });
        return;
    }
    for block in map.rotten(start, &bytes) {
        let addr = piece.addr.plus(u64::from(block - start));
        report.spots.bad_tags.remove(&addr);
        if !report.spots.is_in_bad_node(addr) {
            report.damage(Defect::Rot { addr, segment });
        }
    }
}
