//! Where each kind of item stands in the catalog tree (docs/format.md, "Catalog").
//!
//! Kinds 0x20 and above are this room's. But for cell runs, whose key needs all 64 bits of the
//! object for two segments, the object's top byte repeats the kind, so that the items of one kind
//! stand together.

use crate::base::cursor::DecodeError;
use crate::base::{BlockAddr, ClusterId, LineId, SegmentId, SnapshotId};
pub(in crate::catalog) use crate::tree::Key;

const META: u8 = 0x20;
const CLUSTER: u8 = 0x21;
const SNAPSHOT: u8 = 0x22;
const SEGMENT: u8 = 0x23;
const LINE: u8 = 0x24;
const CELL: u8 = 0x25;
const CELL_RUN: u8 = 0x26;
const TOMBSTONE: u8 = 0x27;

const fn table(kind: u8, number: u32, offset: u64) -> Key {
    Key { object: (kind as u64) << 56 | number as u64, kind, offset }
}

const fn whole(kind: u8) -> (Key, Key) {
    (table(kind, 0, 0), table(kind, 0, u64::MAX))
}

/// The room's counters.
pub(in crate::catalog) const fn meta() -> Key {
    table(META, 0, 0)
}

/// First eight bytes of a cluster's id, most significant first: its place in the tree. The item
/// itself holds the whole id.
const fn cluster_number(id: ClusterId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = id.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// A cluster's head.
pub(in crate::catalog) const fn cluster(id: ClusterId) -> Key {
    table(CLUSTER, 0, cluster_number(id))
}
/// All heads.
pub(in crate::catalog) const fn clusters() -> (Key, Key) {
    whole(CLUSTER)
}
/// A snapshot's header.
pub(in crate::catalog) const fn snapshot(id: SnapshotId) -> Key {
    table(SNAPSHOT, 0, id.0)
}
/// All snapshots.
pub(in crate::catalog) const fn snapshots() -> (Key, Key) {
    whole(SNAPSHOT)
}
/// A segment.
pub(in crate::catalog) const fn segment(id: SegmentId) -> Key {
    table(SEGMENT, 0, id.0 as u64)
}
/// All segments.
pub(in crate::catalog) const fn segments() -> (Key, Key) {
    whole(SEGMENT)
}
/// A line.
pub(in crate::catalog) const fn line(id: LineId) -> Key {
    table(LINE, 0, id.0 as u64)
}
/// All lines.
pub(in crate::catalog) const fn lines() -> (Key, Key) {
    whole(LINE)
}
/// The size of a cell.
pub(in crate::catalog) const fn cell(death: SegmentId, birth: SegmentId) -> Key {
    table(CELL, death.0, birth.0 as u64)
}
/// One run in a cell.
pub(in crate::catalog) const fn cell_run(
    death: SegmentId,
    birth: SegmentId,
    addr: BlockAddr,
) -> Key {
    Key { object: (death.0 as u64) << 32 | birth.0 as u64, kind: CELL_RUN, offset: addr.0 }
}
/// All runs of a cell.
pub(in crate::catalog) const fn cell_runs(death: SegmentId, birth: SegmentId) -> (Key, Key) {
    (cell_run(death, birth, BlockAddr(0)), cell_run(death, birth, BlockAddr(u64::MAX)))
}
/// The tombstones of deleted customer keys whose fingerprints begin alike.
pub(in crate::catalog) const fn tombstone(fingerprint: &[u8; 16]) -> Key {
    let [a, b, c, d, e, f, g, h, ..] = *fingerprint;
    table(TOMBSTONE, 0, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}
/// All tombstones.
pub(in crate::catalog) const fn tombstones() -> (Key, Key) {
    whole(TOMBSTONE)
}

/// What stands at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::catalog) enum Place {
    Meta,
    Cluster,
    Snapshot,
    /// A later chunk of a cluster's or snapshot's record.
    Chunk,
    Segment(SegmentId),
    Line(LineId),
    Cell {
        death: SegmentId,
        birth: SegmentId,
    },
    CellRun {
        death: SegmentId,
        birth: SegmentId,
    },
    Tombstones,
}

/// What stands at `key`.
///
/// # Errors
/// [`DecodeError::Field`] for a key that nothing of this room has.
pub(in crate::catalog) fn place(key: Key) -> Result<Place, DecodeError> {
    let strange = DecodeError::Field("catalog key");
    let low = |number: u64| u32::try_from(number).map_err(|_| strange);
    let (high, number) = ((key.object >> 32) as u32, key.object as u32);
    if key.kind == CELL_RUN {
        return Ok(Place::CellRun { death: SegmentId(high), birth: SegmentId(number) });
    }
    if high != u32::from(key.kind) << 24 {
        return Err(strange);
    }
    match (key.kind, number) {
        (META, 0) if key.offset == 0 => Ok(Place::Meta),
        (CLUSTER, 0) => Ok(Place::Cluster),
        (SNAPSHOT, 0) => Ok(Place::Snapshot),
        (CLUSTER | SNAPSHOT, _) => Ok(Place::Chunk),
        (SEGMENT, 0) => Ok(Place::Segment(SegmentId(low(key.offset)?))),
        (LINE, 0) => Ok(Place::Line(LineId(low(key.offset)?))),
        (CELL, death) => {
            Ok(Place::Cell { death: SegmentId(death), birth: SegmentId(low(key.offset)?) })
        }
        (TOMBSTONE, 0) => Ok(Place::Tombstones),
        _ => Err(strange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_leads_back_to_its_place() {
        let (death, birth) = (SegmentId(77), SegmentId(33));
        let id = ClusterId([9; 16]);
        for (key, expected) in [
            (meta(), Place::Meta),
            (cluster(id), Place::Cluster),
            (snapshot(SnapshotId(u64::MAX)), Place::Snapshot),
            (Key { object: cluster(id).object | 3, ..cluster(id) }, Place::Chunk),
            (segment(death), Place::Segment(death)),
            (line(LineId(5)), Place::Line(LineId(5))),
            (cell(death, birth), Place::Cell { death, birth }),
            (cell_run(death, birth, BlockAddr(1)), Place::CellRun { death, birth }),
            (tombstone(&[4; 16]), Place::Tombstones),
        ] {
            assert_eq!(place(key), Ok(expected), "{key:?}");
        }
        assert!(place(Key { object: 0, kind: META, offset: 0 }).is_err());
        assert!(place(Key { object: 0x28 << 56, kind: 0x28, offset: 0 }).is_err());
        assert!(place(Key { offset: 1 << 32, ..segment(death) }).is_err());
    }
}
