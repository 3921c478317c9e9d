//! The four superblock copies.

use serde::Serialize;

use crate::device::Device;
use crate::pool::superblock::{COPIES, Copy, SLOTS, Unreadable, copy_offset};
use crate::pool::{Pool, PoolError};
use crate::verify::superblocks::read_copy;

/// A wrap of the engine key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineWrapShape {
    /// `file`, `passphrase`, `credential` or `recovery`.
    pub kind: &'static str,
    /// Path of the key file or name of the credential.
    pub name: String,
    /// Memory of the passphrase function in KiB, passes, lanes; none without a passphrase.
    pub kdf: Option<(u32, u32, u32)>,
}

/// What the payload says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PayloadShape {
    /// Block of the catalog's root.
    pub catalog_root: Option<u64>,
    /// Position behind the ring's last record.
    pub ring_head: u64,
    /// Position of the ring's oldest needed record.
    pub ring_tail: u64,
    /// Generation up to which a shred step is due; 0: none.
    pub shred_pending: u64,
    /// Blocks of catalog nodes.
    pub catalog_blocks: u64,
}

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SuperblockShape {
    /// 0 or 1.
    pub slot: u8,
    /// 0 or 1.
    pub copy: u8,
    /// Where it stands, in bytes.
    pub offset_bytes: u64,
    /// `good`, `sealed` (not opened, for want of the key), or what is wrong with it.
    pub state: String,
    /// The clear part, where it can be read.
    pub clear: Option<ClearShape>,
    /// The payload, where it opens.
    pub payload: Option<PayloadShape>,
}

/// The clear part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClearShape {
    /// The pool.
    pub pool_id: String,
    /// Counts accepted rollbacks.
    pub incarnation: u64,
    /// The checkpoint.
    pub generation: u64,
    /// Counts superblock writes.
    pub sequence: u64,
    /// Bytes in every tree node.
    pub node_bytes: u32,
    /// Blocks of the device.
    pub total_blocks: u64,
    /// Blocks of the space ring.
    pub ring_blocks: u32,
    /// Features: compatible, compatible for readers, incompatible.
    pub features: (u64, u64, u64),
    /// Wraps of the engine key.
    pub wraps: Vec<EngineWrapShape>,
}

/// The copies as they are on the device. With an open pool their payloads are shown too.
///
/// # Errors
/// The device's.
pub fn superblocks(
    device: &dyn Device,
    pool: Option<&Pool>,
) -> Result<Vec<SuperblockShape>, PoolError> {
    let places = (0..SLOTS).flat_map(|slot| (0..COPIES).map(move |copy| (slot, copy)));
    places.map(|(slot, copy)| shape(device, pool, slot, copy)).collect()
}

fn shape(
    device: &dyn Device,
    pool: Option<&Pool>,
    slot: u8,
    copy: u8,
) -> Result<SuperblockShape, PoolError> {
    let found = read_copy(device, slot, copy)?;
    let (state, payload) = match (&found, pool) {
        (Err(Unreadable::Nothing), _) => ("nothing stands there".to_owned(), None),
        (Err(Unreadable::Damaged), _) => ("damaged".to_owned(), None),
        (Err(Unreadable::TooNew(what)), _) => (format!("of a later version: {what}"), None),
        (Ok(_), None) => ("sealed".to_owned(), None),
        (Ok(found), Some(pool)) => match pool.open_superblock(found) {
            Ok(facts) => ("good".to_owned(), Some(facts)),
            Err(error) => (error.to_string(), None),
        },
    };
    Ok(SuperblockShape {
        slot,
        copy,
        offset_bytes: copy_offset(slot, copy),
        state,
        clear: found.ok().as_ref().map(clear),
        payload: payload.map(|facts| PayloadShape {
            catalog_root: facts.catalog_root.map(|addr| addr.get()),
            ring_head: facts.ring_head,
            ring_tail: facts.ring_tail,
            shred_pending: facts.shred_pending.get(),
            catalog_blocks: facts.catalog_blocks,
        }),
    })
}

fn clear(copy: &Copy) -> ClearShape {
    let clear = &copy.clear;
    let wraps = clear.wraps.iter().map(|wrap| EngineWrapShape {
        kind: wrap.kind.as_str(),
        name: wrap.name.clone(),
        kdf: wrap.kdf.as_ref().map(|kdf| (kdf.memory_kib, kdf.passes, kdf.lanes)),
    });
    ClearShape {
        pool_id: clear.pool_id.to_string(),
        incarnation: clear.incarnation,
        generation: clear.generation.get(),
        sequence: clear.sequence,
        node_bytes: clear.node_bytes,
        total_blocks: clear.geometry.total_blocks,
        ring_blocks: clear.geometry.ring_blocks,
        features: (clear.compat, clear.ro_compat, clear.incompat),
        wraps: wraps.collect(),
    }
}
