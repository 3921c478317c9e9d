//! The meaning of the catalog tree: clusters and their heads, snapshots and their headers, who
//! holds which stretch of history, and what may be freed when somebody lets go.
//!
//! Promises: taking a snapshot calls no key provider (this room cannot import `keys`) and needs no
//! customer key; a header is self-contained, so clone, rotate, delete the origin and reopen work in
//! any order; space is accounted and reclaimed without any customer key; what deleting a snapshot
//! would free is said before and is exact. Every change is one checkpoint.
//!
//! It knows nothing of files, mounts or key providers.

mod cells;
mod cluster;
mod error;
mod front;
mod header;
mod heads;
mod info;
mod inspect;
mod keeper;
mod key_usage;
mod keys;
mod kills;
mod lines;
mod look;
mod pool_storage;
mod records;
mod restore;
mod rewrap;
mod segments;
mod sizes;
mod snapshot;
mod state;
mod steps;
mod storage;
mod table_items;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod ops_tests;

pub use cells::{decode_run as decode_cell_run, decode_size as decode_cell_size};
pub use cluster::NewCluster;
pub use error::CatalogError;
pub use front::{Catalog, ClusterDeleted};
pub use header::{
    ClusterRecord, Frequency, Header, Origin, SnapshotKind, SnapshotRecord, Tombstone,
};
pub use heads::{OpenSnapshot, Replacement, SnapshotReader, reseal_root};
pub use info::{ClusterInfo, KeyRef, SnapshotInfo};
pub use inspect::{BadItem, Item, check_table, tombstones_left, visit_items};
pub use key_usage::KeyUse;
pub use look::WorkLeft;
pub use restore::InPlace;
pub use rewrap::Target;
pub use segments::{Counters, Line, Segment, TableError};
pub use snapshot::NewSnapshot;
pub use steps::Budget;
pub use table_items::{Meta, decode_line, decode_segment};
