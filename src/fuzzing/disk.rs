//! Readers of what stands in a pool, behind its seals.

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::{BLOCK_SIZE, Generation, crc};
use crate::block::region_map::RegionMap;
use crate::block::{BlockRef, Pointer};
use crate::catalog::{self, ClusterRecord, Meta, SnapshotRecord, Tombstone};
use crate::crypto::{EngineWrap, HeaderKeys, KdfParams, Wrap};
use crate::fuzzing::{comes_back, resealed};
use crate::pool::items;
use crate::pool::log::LogItem;
use crate::pool::log::record::{Edit, Frame, Outer, decode_edits, encode_edit};
use crate::pool::superblock::{Copy, Payload};
use crate::tree::Node;
use crate::volume::items::{Dirent, ExtentItem, InodeItem, REF_BYTES, XattrHead};

const NODE_BYTES: usize = 16 << 10;

/// A value that stands at the front of bytes, and the bytes that it becomes.
fn part<T>(
    bytes: &[u8],
    read: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
    write: impl Fn(&T, &mut Writer),
) {
    comes_back(
        bytes,
        |bytes| read(&mut Reader::new(bytes)).ok(),
        |value| {
            let mut out = Writer::new();
            write(value, &mut out);
            out.into_bytes()
        },
    );
}

fn whole<T, B: AsRef<[u8]>>(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> Result<T, DecodeError>,
    write: impl Fn(&T) -> B,
) {
    comes_back(bytes, |bytes| read(bytes).ok(), |value| write(value).as_ref().to_vec());
}

/// The values of items of every sort, and the parts of log records.
pub(super) fn values(bytes: &[u8]) {
    volume_items(bytes);
    whole(bytes, items::decode_region, items::encode_region);
    whole(bytes, items::decode_log, |(cluster, item)| items::encode_log(*cluster, item));
    whole(bytes, LogItem::decode, LogItem::encode);
    whole(bytes, ClusterRecord::decode, ClusterRecord::encode);
    whole(bytes, SnapshotRecord::decode, SnapshotRecord::encode);
    whole(bytes, Tombstone::decode, |list| Tombstone::encode(list));
    whole(bytes, Meta::decode, Meta::encode);
    let _ = (catalog::decode_segment(bytes), catalog::decode_line(bytes));
    assert!(catalog::decode_cell_size(bytes).is_ok() == (bytes.len() == 8 && bytes != [0; 8]));
    assert!(catalog::decode_cell_run(bytes).is_ok() == (bytes.len() == 4 && bytes != [0; 4]));
    part(bytes, Pointer::decode, Pointer::encode);
    part(bytes, BlockRef::decode, BlockRef::encode);
    part(bytes, Wrap::decode, Wrap::encode);
    part(bytes, EngineWrap::decode, EngineWrap::encode);
    part(bytes, HeaderKeys::decode, HeaderKeys::encode);
    part(bytes, KdfParams::decode, KdfParams::encode);
    whole(bytes, Frame::decode, Frame::encode);
    whole(bytes, Outer::decode, Outer::encode);
    whole(bytes, decode_edits, |edits: &Vec<Edit>| {
        let mut out = Writer::new();
        edits.iter().for_each(|edit| encode_edit(&mut out, edit));
        out.into_bytes()
    });
    whole(bytes, Payload::decode, Payload::encode);
}

fn volume_items(bytes: &[u8]) {
    whole(bytes, InodeItem::decode, InodeItem::encode);
    whole(bytes, Dirent::decode, Dirent::encode);
    if let Ok(extent) = ExtentItem::decode(bytes) {
        assert_eq!(extent.encode(), bytes, "an extent is canonical");
        assert!((1..=32).contains(&extent.blocks()));
        let rest = extent.slice(1, u32::MAX);
        assert_eq!(rest.refs.len(), extent.refs.len() - REF_BYTES);
    }
    if let Ok(head) = XattrHead::decode(bytes) {
        assert!(head.first.len() <= head.value_bytes && !head.name.is_empty());
    }
}

/// A node's bytes; short inputs stand at its front.
pub(super) fn node(bytes: &[u8]) {
    for node_bytes in [bytes.len(), NODE_BYTES] {
        let mut all = bytes.to_vec();
        all.resize(node_bytes, 0);
        let Ok(node) = Node::decode(&all, node_bytes) else { continue };
        assert!(node.count() > 0 && node.used_bytes() <= node.capacity_bytes());
        for i in 1..node.count() {
            assert!(node.key(i - 1) < node.key(i), "keys are in order");
        }
        let values: usize = (0..node.count()).map(|i| node.value(i).len()).sum();
        assert!(values <= node.used_bytes());
    }
}

/// A copy of a superblock whose checksum is right.
pub(super) fn superblock(bytes: &[u8]) {
    let _ = Copy::decode(bytes);
    let mut all = bytes.to_vec();
    all.resize(NODE_BYTES - 4, 0);
    let sum = crc::crc32c(&all).to_le_bytes();
    all.extend_from_slice(&sum);
    if let Ok(copy) = Copy::decode(&all) {
        let geometry = copy.clear.geometry;
        assert!(geometry.is_valid() && u64::from(geometry.ring_blocks) < geometry.total_blocks);
    }
}

/// A region's map, as whole blocks.
pub(super) fn map(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK_SIZE), 0);
    let bytes = bytes.as_slice();
    // Region and interval as the map states them: else only their comparison is reached.
    let mut r = Reader::new(bytes.get(8..).unwrap_or_default());
    let (region, _, through) = (r.u32(), r.u32(), r.u64());
    let region = region.unwrap_or(5);
    let through = Generation(through.unwrap_or(7));
    let Ok(map) = RegionMap::decode(bytes, region, through) else { return };
    assert_eq!(map.encode(region, through), bytes, "a map is canonical");
    let blocks: u32 = map.runs().iter().map(|run| run.blocks).sum();
    assert_eq!(blocks, map.allocated());
}

fn heard(sorts: &[&str]) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = resealed::overheard()
        .into_iter()
        .filter(|(sort, _)| sorts.contains(sort))
        .map(|(_, bytes)| bytes)
        .collect();
    found.sort_unstable_by_key(Vec::len);
    found.dedup_by_key(|bytes| bytes.len());
    found
}

pub(super) fn value_seeds() -> Vec<Vec<u8>> {
    let mut seeds = heard(&["slot", "log-outer", "log-inner", "root", "ring"]);
    for node in heard_nodes() {
        seeds.extend((0..node.count()).map(|i| node.value(i).to_vec()));
    }
    seeds.sort_unstable_by_key(Vec::len);
    seeds.dedup_by_key(|bytes| bytes.len());
    seeds
}

fn heard_nodes() -> Vec<Node> {
    let nodes = resealed::overheard().into_iter().filter(|(sort, _)| *sort == "node");
    nodes.filter_map(|(_, bytes)| Node::decode(&bytes, NODE_BYTES).ok()).collect()
}

pub(super) fn node_seeds() -> Vec<Vec<u8>> {
    let nodes = resealed::overheard().into_iter().filter(|(sort, _)| *sort == "node");
    nodes.map(|(_, bytes)| bytes).take(12).collect()
}

pub(super) fn superblock_seeds() -> Vec<Vec<u8>> {
    resealed::superblocks()
}

pub(super) fn map_seeds() -> Vec<Vec<u8>> {
    let mut seeds = heard(&["map"]);
    seeds.push(RegionMap::empty().encode(5, Generation(7)));
    seeds
}
