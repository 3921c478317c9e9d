//! The four superblock copies, and the ring that the newest one names.

use crate::pool::superblock::{COPIES, COPY_BYTES, Copy, SLOTS, Unreadable, copy_offset};
use crate::pool::{Pool, PoolError};
use crate::sys::AlignedBuf;
use crate::verify::findings::{Defect, Report, RolledBack, Severity};

/// One copy as the device has it.
pub(in crate::verify) fn read_copy(
    device: &dyn crate::device::Device,
    slot: u8,
    copy: u8,
) -> Result<Result<Copy, Unreadable>, PoolError> {
    let mut buf = AlignedBuf::new(COPY_BYTES);
    device.read(copy_offset(slot, copy), &mut buf)?;
    Ok(Copy::decode(&buf))
}

fn defect_of(pool: &Pool, slot: u8, copy: u8) -> Option<&'static str> {
    match read_copy(&**pool.device(), slot, copy) {
        Err(_) => Some("it cannot be read from the device"),
        Ok(Err(Unreadable::Nothing)) => Some("no superblock stands there"),
        Ok(Err(Unreadable::Damaged)) => Some("it is damaged"),
        Ok(Err(Unreadable::TooNew(_))) => Some("a later version wrote it"),
        Ok(Ok(found)) if (found.clear.index, found.clear.copy) != (slot, copy) => {
            Some("it is that of another place")
        }
        Ok(Ok(found)) if found.clear.pool_id != pool.id() => Some("it is that of another pool"),
        Ok(Ok(found)) if pool.open_superblock(&found).is_err() => Some("its payload does not open"),
        Ok(Ok(_)) => None,
    }
}

/// The write sequence of a good copy.
fn sequence_of(pool: &Pool, slot: u8, copy: u8) -> Option<u64> {
    let found = read_copy(&**pool.device(), slot, copy).ok()?.ok()?;
    pool.open_superblock(&found).is_ok().then_some(found.clear.sequence)
}

/// Superblock copies and ring. A pool that was opened has one good copy of its newest slot, so a
/// bad one is written anew by the next opening or checkpoint. Whether the ring could be read: without
/// it nobody knows what is in use.
pub(in crate::verify) fn check(pool: &Pool, report: &mut Report) -> bool {
    for slot in 0..SLOTS {
        let newest = (0..COPIES).filter_map(|copy| sequence_of(pool, slot, copy)).max();
        for copy in 0..COPIES {
            let older = sequence_of(pool, slot, copy) < newest;
            let stale = older.then_some("it is older than the other copy");
            match defect_of(pool, slot, copy).or(stale) {
                None => report.coverage.superblock_copies += 1,
                Some(why) => {
                    report.add(Severity::Repairable, Defect::Superblock { slot, copy, why });
                }
            }
        }
    }
    if let Ok(Some(seen)) = pool.later_state() {
        let found = pool.generation();
        report.rolled_back = Some(RolledBack { found, seen });
    }
    match pool.ring_records() {
        Ok(records) => {
            report.coverage.ring_records = records.len() as u64;
            true
        }
        Err(error) => {
            report.damage(Defect::Ring { why: error.to_string() });
            false
        }
    }
}
