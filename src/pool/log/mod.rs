//! The intent log: what makes `fsync` fast between checkpoints (docs/format.md, "Intent log").
//!
//! One totally ordered log per mounted cluster, in a fixed, pre-written area of two halves. A
//! record holds *results*, never requests: edits of tree items, the blocks they claim, the blocks
//! they let go. The outer part of a record is sealed under a key of the engine layer and lists
//! what it claims, so that a pool with a locked cluster still opens and loses none of that
//! cluster's acknowledged writes; the inner part, with the edits, is sealed under a key that only
//! the cluster key leads to.
//!
//! Promises: what [`writer::LogWriter::commit`] returned `Ok` for is found again from the durable
//! superblock, whichever checkpoint was under way; records form a prefix of what was acknowledged.
//! This module knows nothing of files, names or customer keys.

pub mod item;
pub mod record;
pub mod scan;
pub(in crate::pool) mod writer;

pub use item::{LogItem, Outstanding};
pub use scan::{Scan, ScanRequest, ScannedRecord, scan, scan_prefix};
