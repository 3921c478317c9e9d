//! Checking a pool, and showing what is in it.
//!
//! [`check`] compares what is on the device with itself: superblock copies, the space ring, every
//! region's map, the catalog, logs, and the trees whose keys are at hand. What is allocated must be
//! what is reached, in the segment of its birth, once; every block must have the checksum that its
//! map states. [`xray`] prints structure for people who debug.
//!
//! Promises: nothing is written, nothing replayed; any bytes may be there, none make it panic; what
//! could not be covered is said (a locked cluster is checked by checksums and by the counts of its
//! segments alone); no key is shown. It knows no key service: who calls hands over cluster keys.

mod advice;
mod coverage;
mod data;
mod facts;
mod files;
mod findings;
mod hits;
mod logs;
mod names;
mod nodes;
mod owners;
mod pace;
mod regions;
pub mod salvage;
mod scrub;
mod segments;
mod spots;
mod structure;
mod superblocks;
mod trees;
mod volume_items;
mod xattrs;
pub mod xray;

pub use coverage::{Coverage, LogCoverage, LogState, TreeCoverage, TreeState};
pub use findings::{Defect, Finding, Owner, Report, RolledBack, Severity};
pub use hits::{FileHit, Hit, printable};
pub use pace::Pace;
pub use scrub::{Scrub, ScrubTree};
pub use structure::{CheckOptions, ItemRuns, KeySource, check};
pub use volume_items::volume_items;
