//! The words every room shares: ids, units, Encryption Key IDs, key states, limits, time, byte
//! cursors, erasing, checksums, counters and problem codes.
//!
//! Nothing here touches the outside world: no clock, no randomness, no files.

pub mod codec;
pub mod counters;
pub mod crc;
pub mod cursor;
pub mod erase;
pub mod ids;
pub mod key_id;
pub mod key_state;
pub mod limits;
pub mod problem;
pub mod sequence;
pub mod size;
pub mod time;
pub mod units;

pub use ids::{ClusterId, ClusterName, PoolId, SnapshotId};
pub use key_id::EncryptionKeyId;
pub use key_state::{KeyAnswer, KeyState};
pub use problem::ProblemCode;
pub use time::Timestamp;
pub use units::{BLOCK_SIZE, BlockAddr, Generation, InodeNo, LineId, SegmentId};
