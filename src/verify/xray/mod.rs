//! What stands on the device, shown for people: structure and numbers, no key, no name of a file,
//! no content.
//!
//! Everything is read as the last checkpoint left it; nothing is replayed or written.

mod header;
mod log;
mod node;
mod region;
mod superblock;

pub use header::{HeaderOf, HeaderShape, WrapShape, header};
pub use log::{LogShape, OutstandingShape, RecordShape, logs};
pub use node::{ChildShape, ItemShape, NodeShape, NodeSummary, node, nodes};
pub use region::{RegionShape, RunShape, region, regions};
pub use superblock::{ClearShape, EngineWrapShape, PayloadShape, SuperblockShape, superblocks};
