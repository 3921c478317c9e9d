//! Making a pool.

use std::sync::Arc;

use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64};
use crate::base::{Generation, PoolId, Timestamp, limits};
use crate::block::geometry::{Geometry, RING_START};
use crate::crypto::{EngineKey, EngineWrap, LogOuterKey, RingKey, slot_key};
use crate::device::Device;
use crate::pool::PoolError;
use crate::pool::slots::{self, Slots};
use crate::pool::superblock::{
    COMPAT, COPIES, COPY_BYTES, Clear, INCOMPAT, Payload, RO_COMPAT, RingState, SLOTS, copy_offset,
};
use crate::sys::AlignedBuf;

/// What a new pool is made of.
pub struct CreateOptions {
    /// Its identity: random.
    pub pool_id: PoolId,
    /// Bytes in every tree node: 4, 8, 16 or 32 KiB.
    pub node_bytes: u32,
    /// Its engine key.
    pub engine_key: EngineKey,
    /// Wraps of the engine key, at most 8; without any, only who has the engine key opens the pool.
    pub wraps: Vec<EngineWrap>,
    /// The time.
    pub now: Timestamp,
}

fn check(device: &dyn Device, options: &CreateOptions) -> Result<Geometry, PoolError> {
    let found = device.size_bytes();
    if found < limits::POOL_BYTES_MIN {
        return Err(PoolError::TooSmall { minimum: limits::POOL_BYTES_MIN, found });
    }
    let geometry = Geometry::for_size(found);
    if !geometry.is_valid() {
        return Err(PoolError::Invalid("the device is larger than a pool can be"));
    }
    if !matches!(options.node_bytes, 4096 | 8192 | 16_384 | 32_768) {
        return Err(PoolError::Invalid("the size of nodes"));
    }
    if options.wraps.len() > limits::ENGINE_WRAPS_MAX {
        return Err(PoolError::Invalid("the number of wraps of the engine key"));
    }
    Ok(geometry)
}

/// Makes a pool on all of `device`, durably, with nothing in it.
///
/// # Errors
/// [`PoolError::TooSmall`]; [`PoolError::Exists`] where a pool is, be it damaged or of a later
/// version; [`PoolError::Full`] where the disk beneath is; the device's.
pub fn create(device: &Arc<dyn Device>, options: CreateOptions) -> Result<(), PoolError> {
    match Slots::read(&**device) {
        Err(PoolError::NotAPool) => create_over(device, options),
        Err(error @ PoolError::Io(_)) => Err(error),
        _ => Err(PoolError::Exists),
    }
}

/// As [`create`], but whatever stands on the device is gone.
///
/// # Errors
/// As [`create`], without [`PoolError::Exists`].
pub fn create_over(device: &Arc<dyn Device>, options: CreateOptions) -> Result<(), PoolError> {
    let device = &**device;
    let geometry = check(device, &options)?;
    let header_bytes = geometry.regions_start() * BLOCK_SIZE_U64;
    match device.ensure(0, header_bytes) {
        Err(crate::device::DeviceError::NoSpace) => return Err(PoolError::Full),
        other => other?,
    }
    let nothing = AlignedBuf::new(COPY_BYTES);
    for index in 0..SLOTS {
        for copy in 0..COPIES {
            device.write(copy_offset(index, copy), &nothing)?;
        }
    }
    // Written once, so that later appends find their blocks in place.
    let zeros = AlignedBuf::new(256 * BLOCK_SIZE);
    let mut at = RING_START * BLOCK_SIZE_U64;
    while at < header_bytes {
        let len = (header_bytes - at).min(zeros.len() as u64) as usize;
        device.write(at, zeros.get(..len).unwrap_or(&zeros))?;
        at += len as u64;
    }
    device.flush()?;
    let ring =
        RingState { head: 0, tail: 0, last: [0; 32], before_tail: [0; 32], key: RingKey::random() };
    let payload = Payload {
        catalog_root: None,
        ring,
        lo: LogOuterKey::random(),
        shred_pending: Generation(0),
        catalog_blocks: 0,
        created_at: options.now,
    };
    let key = slot_key(&options.engine_key, None);
    for index in 0..SLOTS {
        let clear = Clear {
            compat: COMPAT,
            ro_compat: RO_COMPAT,
            incompat: INCOMPAT,
            pool_id: options.pool_id,
            incarnation: 1,
            index,
            copy: 0,
            node_bytes: options.node_bytes,
            generation: Generation(1),
            sequence: 1 + u64::from(index),
            epoch_id: [0; 16],
            geometry,
            wraps: options.wraps.clone(),
        };
        slots::write_slot(device, &clear, &payload, &key)?;
        device.flush()?;
        slots::verify_slot(device, &clear, &key)?;
    }
    Ok(())
}
