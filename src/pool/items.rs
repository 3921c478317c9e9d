//! The pool's own items in the catalog tree (docs/format.md, "Catalog"): object 0, kinds below 0x20.

use std::ops::ControlFlow;

use zeroize::Zeroizing;

use crate::base::ClusterId;
use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::block::geometry::{Geometry, SLOT_BLOCKS};
use crate::block::{Class, RegionItem, SlotRef};
use crate::crypto::{BlockKey, Tag};
use crate::pool::PoolError;
use crate::pool::log::LogItem;
use crate::tree::{Key, Nodes, Tree};

/// Object of every item of the pool itself.
pub const POOL_OBJECT: u64 = 0;
/// First kind that belongs to the catalog.
pub const CATALOG_KINDS: u8 = 0x20;
/// Regions, by number: slot u8 (0, 1; 255 none) | class u8 (0 none, 1 node, 2 data) | blocks u16
/// | allocated u32 | through u64 | key (32) | tag (16).
pub const KIND_REGION: u8 = 0x01;
/// Logs, by the first 8 bytes of the cluster's id: cluster id (16) | log item.
pub const KIND_LOG: u8 = 0x02;

const NO_SLOT: u8 = 255;

/// The key of a region's item.
#[must_use]
pub const fn region_key(region: u32) -> Key {
    Key::new(POOL_OBJECT, KIND_REGION, region as u64)
}

/// The key of a cluster's log item.
#[must_use]
pub fn log_key(cluster: ClusterId) -> Key {
    let first = cluster.as_bytes().first_chunk().copied().unwrap_or_default();
    Key::new(POOL_OBJECT, KIND_LOG, u64::from_le_bytes(first))
}

/// A region's item.
#[must_use]
pub fn encode_region(item: &RegionItem) -> Zeroizing<Vec<u8>> {
    let mut w = Writer::new();
    let class = match item.class {
        None => 0,
        Some(Class::Node) => 1,
        Some(Class::Data) => 2,
    };
    let slot = item.slot.as_ref();
    w.u8(slot.map_or(NO_SLOT, |s| s.index)).u8(class);
    w.u16(slot.map_or(0, |s| s.blocks as u16)).u32(item.allocated).u64(item.through.get());
    match slot {
        Some(slot) => w.bytes(&slot.key.0).bytes(&slot.tag.0),
        None => w.bytes(&[0; 48]),
    };
    w.into_secret()
}

/// The item of a region.
///
/// # Errors
/// [`DecodeError`] for anything but what [`encode_region`] writes.
pub fn decode_region(bytes: &[u8]) -> Result<RegionItem, DecodeError> {
    let mut r = Reader::new(bytes);
    let index = r.u8()?;
    let class = match r.u8()? {
        0 => None,
        1 => Some(Class::Node),
        2 => Some(Class::Data),
        _ => return Err(DecodeError::Field("region class")),
    };
    let (blocks, allocated, through) = (u32::from(r.u16()?), r.u32()?, r.generation()?);
    let (key, tag) = (BlockKey(r.array()?), Tag(r.array()?));
    r.finish()?;
    let slot = match index {
        0 | 1 if (1..=SLOT_BLOCKS).contains(&blocks) && class.is_some() && allocated > 0 => {
            Some(SlotRef { index, blocks, key, tag })
        }
        NO_SLOT if blocks == 0 && class.is_none() && allocated == 0 => {
            if key.0 != [0; 32] || tag.0 != [0; 16] {
                return Err(DecodeError::Reserved);
            }
            None
        }
        _ => return Err(DecodeError::Field("region slot")),
    };
    Ok(RegionItem { slot, through, class, allocated })
}

/// A cluster's log item.
#[must_use]
pub fn encode_log(cluster: ClusterId, item: &LogItem) -> Zeroizing<Vec<u8>> {
    let mut w = Writer::new();
    w.bytes(cluster.as_bytes()).bytes(&item.encode());
    w.into_secret()
}

/// The log item that `bytes` hold, and whose it is.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_log(bytes: &[u8]) -> Result<(ClusterId, LogItem), DecodeError> {
    let mut r = Reader::new(bytes);
    let cluster = ClusterId(r.array()?);
    Ok((cluster, LogItem::decode(r.bytes(r.remaining())?)?))
}

fn all(tree: &Tree, nodes: &Nodes, kind: u8) -> Result<Vec<(Key, Vec<u8>)>, PoolError> {
    let mut found = Vec::new();
    let from = Key::new(POOL_OBJECT, kind, 0);
    let to = Key::new(POOL_OBJECT, kind, u64::MAX);
    tree.range(nodes, from, to, &mut |key, value| {
        found.push((key, value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Every region that the catalog lists.
///
/// # Errors
/// [`PoolError::Corrupt`]; the tree's.
pub fn regions(
    tree: &Tree,
    nodes: &Nodes,
    geometry: &Geometry,
) -> Result<Vec<(u32, RegionItem)>, PoolError> {
    let decode = |(key, value): (Key, Vec<u8>)| {
        let corrupt = || PoolError::undecodable("region item");
        let region = u32::try_from(key.offset).map_err(|_| corrupt())?;
        let item = decode_region(&value).map_err(|_| corrupt())?;
        let fits = item.allocated <= geometry.region_capacity(region);
        let exists = region < geometry.region_count();
        if fits && exists { Ok((region, item)) } else { Err(corrupt()) }
    };
    all(tree, nodes, KIND_REGION)?.into_iter().map(decode).collect()
}

/// Every log that the catalog lists.
///
/// # Errors
/// [`PoolError::Corrupt`]; the tree's.
pub fn logs(tree: &Tree, nodes: &Nodes) -> Result<Vec<(ClusterId, LogItem)>, PoolError> {
    let decode = |(_, value): (Key, Vec<u8>)| {
        decode_log(&value).map_err(|_| PoolError::undecodable("log item"))
    };
    all(tree, nodes, KIND_LOG)?.into_iter().map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Generation;

    #[test]
    fn region_items_come_back_and_others_are_refused() {
        let slot = SlotRef { index: 1, blocks: 3, key: BlockKey([2; 32]), tag: Tag([3; 16]) };
        let full = RegionItem {
            slot: Some(slot),
            through: Generation(9),
            class: Some(Class::Data),
            allocated: 5,
        };
        let gone = RegionItem { slot: None, class: None, allocated: 0, ..full.clone() };
        for item in [full.clone(), gone] {
            let bytes = encode_region(&item);
            assert_eq!(bytes.len(), 64);
            assert_eq!(encode_region(&decode_region(&bytes).unwrap()), bytes);
        }
        for (at, value) in [(0, 2), (0, 255), (1, 0), (1, 3), (2, 33), (2, 0), (4, 0)] {
            let mut bad = encode_region(&full);
            bad[at] = value;
            assert!(decode_region(&bad).is_err(), "byte {at} = {value}");
        }
    }
}
