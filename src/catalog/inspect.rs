//! Every item of the catalog, decoded, for whoever checks a pool.

use std::ops::ControlFlow;

use crate::base::cursor::DecodeError;
use crate::base::{LineId, SegmentId};
use crate::block::Run;
use crate::catalog::error::CatalogError;
use crate::catalog::header::{ClusterRecord, SnapshotRecord, Tombstone};
use crate::catalog::pool_storage::ViewItems;
use crate::catalog::segments::{Line, Segment};
use crate::catalog::state::{CLUSTER, SNAPSHOT, State};
use crate::catalog::table_items::{Meta, decode_line, decode_segment};
use crate::catalog::{cells, keys, records};
use crate::pool::CatalogView;
use crate::tree::{Key, Part};

/// One item, or record of several items.
pub enum Item {
    /// The counters.
    Meta(Meta),
    /// A cluster's head.
    Cluster(Box<ClusterRecord>),
    /// A snapshot.
    Snapshot(Box<SnapshotRecord>),
    /// A segment, without its branches.
    Segment(SegmentId, Segment),
    /// A line, without its segments and holders.
    Line(LineId, Line),
    /// The size of a cell, in blocks.
    Cell {
        /// Segment of the kills.
        death: SegmentId,
        /// Segment of the births.
        birth: SegmentId,
        /// How many.
        blocks: u64,
    },
    /// A run in a cell.
    CellRun {
        /// Segment of the kill.
        death: SegmentId,
        /// Segment of the birth.
        birth: SegmentId,
        /// The blocks.
        run: Run,
    },
    /// Deleted customer keys.
    Tombstones(Vec<Tombstone>),
}

/// An item that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("catalog item {key:?}: {error}")]
pub struct BadItem {
    /// Its key.
    pub key: Key,
    /// What is wrong with it.
    pub error: DecodeError,
}

/// Hands every item of the catalog to `visit`, but for the pool's own. An item that cannot be
/// decoded is handed over as such, and the visit goes on; so it does behind a node that cannot be
/// read. Whether every node could be.
pub fn visit_items(view: CatalogView, visit: &mut dyn FnMut(Result<Item, BadItem>)) -> bool {
    let items = ViewItems(view);
    let mut long = Vec::new();
    let mut whole = items.0.range_with_gaps(Key::MIN, Key::MAX, &mut |part| {
        let Part::Item(key, value) = part else { return ControlFlow::Continue(()) };
        if key.kind < crate::pool::CATALOG_KINDS {
            return ControlFlow::Continue(());
        }
        match keys::place(key) {
            Ok(keys::Place::Cluster | keys::Place::Snapshot) => long.push(key),
            Ok(keys::Place::Chunk) => {}
            Ok(place) => {
                visit(decode(place, key, value).map_err(|error| BadItem { key, error }));
            }
            Err(error) => visit(Err(BadItem { key, error })),
        }
        ControlFlow::Continue(())
    });
    for key in long {
        match record(&items, key) {
            Ok(item) => visit(Ok(item)),
            Err(CatalogError::Item { source, .. }) => visit(Err(BadItem { key, error: source })),
            // Of a record in several items, one stands in a node that cannot be read.
            Err(CatalogError::Pool(_)) => whole = false,
            Err(_) => visit(Err(BadItem { key, error: DecodeError::Field("record") })),
        }
    }
    whole
}

/// The deleted customer keys that can be read; whether those are all.
#[must_use]
pub fn tombstones_left(view: &CatalogView) -> (Vec<Tombstone>, bool) {
    let (mut found, mut whole) = (Vec::new(), true);
    let (from, to) = keys::tombstones();
    let all_read = view.range_with_gaps(from, to, &mut |part| {
        match part {
            Part::Item(_, value) => match Tombstone::decode(value) {
                Ok(some) => found.extend(some),
                Err(_) => whole = false,
            },
            Part::Gap { .. } => {}
        }
        ControlFlow::Continue(())
    });
    (found, whole && all_read)
}

fn decode(place: keys::Place, key: Key, value: &[u8]) -> Result<Item, DecodeError> {
    Ok(match place {
        keys::Place::Meta => Item::Meta(Meta::decode(value)?),
        keys::Place::Segment(id) => Item::Segment(id, decode_segment(value)?),
        keys::Place::Line(id) => Item::Line(id, decode_line(value)?),
        keys::Place::Cell { death, birth } => {
            Item::Cell { death, birth, blocks: cells::decode_size(value)? }
        }
        keys::Place::CellRun { death, birth } => {
            Item::CellRun { death, birth, run: cells::run_of(key, value)? }
        }
        keys::Place::Tombstones => Item::Tombstones(Tombstone::decode(value)?),
        keys::Place::Cluster | keys::Place::Snapshot | keys::Place::Chunk => {
            return Err(DecodeError::Field("record"));
        }
    })
}

/// The record whose first chunk stands at `key`, which must be its own place.
fn record(items: &ViewItems, key: Key) -> Result<Item, CatalogError> {
    let elsewhere = |what| CatalogError::Item { what, source: DecodeError::Field("place") };
    if key.kind == keys::clusters().0.kind {
        let bytes = records::get(items, CLUSTER, key)?.ok_or_else(|| elsewhere(CLUSTER))?;
        let record = ClusterRecord::decode(&bytes).map_err(CatalogError::item(CLUSTER))?;
        if keys::cluster(record.id) != key {
            return Err(elsewhere(CLUSTER));
        }
        return Ok(Item::Cluster(Box::new(record)));
    }
    let bytes = records::get(items, SNAPSHOT, key)?.ok_or_else(|| elsewhere(SNAPSHOT))?;
    let record = SnapshotRecord::decode(&bytes).map_err(CatalogError::item(SNAPSHOT))?;
    if keys::snapshot(record.id) != key {
        return Err(elsewhere(SNAPSHOT));
    }
    Ok(Item::Snapshot(Box::new(record)))
}

/// That clusters, snapshots, segments and lines agree with each other, as [`super::Catalog::open`]
/// demands.
///
/// # Errors
/// The first contradiction; the tree's errors.
pub fn check_table(view: CatalogView) -> Result<(), CatalogError> {
    State::load(&ViewItems(view)).map(|_| ())
}
