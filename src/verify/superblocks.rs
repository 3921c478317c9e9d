//! The four superblock copies, and the ring that the newest one names.

use crate::pool::superblock::{COPIES, COPY_BYTES, Copy, SLOTS, Unreadable, copy_offset};
use crate::pool::{Pool, PoolError};
use crate::sys::AlignedBuf;
use crate::verify::findings::{Defect, Report, Severity};

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

/// Superblock copies and ring. A pool that was opened has one good copy of its newest slot, so a
/// bad one is written anew by the next opening or checkpoint.
pub(in crate::verify) fn check(pool: &Pool, report: &mut Report) {
    for slot in 0..SLOTS {
        for copy in 0..COPIES {
            match defect_of(pool, slot, copy) {
                None => report.coverage.superblock_copies += 1,
                Some(why) => {
                    report.add(Severity::Repairable, Defect::Superblock { slot, copy, why });
                }
            }
        }
    }
    match pool.ring_records() {
        Ok(records) => report.coverage.ring_records = records.len() as u64,
        Err(error) => report.damage(Defect::Ring { why: error.to_string() }),
    }
}
