//! The pool: superblocks, opening and recovery, checkpoints, the space ring, heads and their logs.
//!
//! A pool moves from one durable state to the next by checkpoints ([`Pool::checkpoint`]), each
//! decided by one superblock write; between them a head's log makes single operations durable.
//! Promises: after a crash the pool is as the last durable superblock says, plus what logs hold;
//! nothing that a durable state reaches is written again; an error of the device is reported, never
//! retried, and ends in a pool that takes no changes. Everything up to a cluster's replay works
//! without any customer key.
//!
//! It knows trees, segments and clusters' ids, but nothing of files, names or key services.
//!
//! Its locks stand in [`crate::sys::sync::Rank`], from `Checkpoint` on.

mod catalog_txn;
mod checkpoint;
pub(in crate::pool) mod core;
mod create;
mod due;
mod error;
mod flushes;
mod freeing;
mod handle;
mod head;
mod inspect;
pub mod items;
pub mod log;
mod open;
pub(in crate::pool) mod participant;
mod recover;
mod ring;
pub mod root;
mod shred;
mod slots;
pub mod superblock;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod flush_tests;
#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod test_head;

/// What a snapshot's reader hashes names with.
pub use crate::crypto::{NameHashKey, name_hash};
pub use catalog_txn::{CatalogTxn, CatalogView};
pub use checkpoint::{CheckpointDone, CutPlan, Edit};
pub use create::{CreateOptions, create, create_over};
pub use due::DueReason;
pub use error::PoolError;
use handle::Serial;
pub use handle::{Pool, PoolState};
pub use head::{
    Buffers, CutRunner, DataRun, Drain, Head, LogRemains, OpenHead, Reservation, Txn, View,
};
pub use inspect::{PayloadFacts, RingRecord};
pub use items::CATALOG_KINDS;
pub use open::{OpenOptions, Remains, Sealed, probe, probe_remains};
pub use participant::{CutReport, HeadCut, Keeper, Kill, SealedRootBytes};
pub use shred::ShredScope;

/// Bytes in every tree node of a new pool.
pub const NODE_BYTES: u32 = 16_384;
