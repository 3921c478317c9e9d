//! Every bound in one place. What comes from outside is checked against these before it is used.

/// Bytes in a cluster's name or a local key's name.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;
/// Bytes in an Encryption Key ID.
pub const KEY_ID_BYTES_MAX: usize = 2048;
/// Bytes in a file name (POSIX `NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes in a symbolic link's target (`PATH_MAX` without its NUL).
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Bytes in an extended attribute's value (Linux `XATTR_SIZE_MAX`).
pub const XATTR_VALUE_BYTES_MAX: usize = 65_536;
/// Bytes in the list of a file's extended attribute names (Linux `XATTR_LIST_MAX`).
pub const XATTR_LIST_BYTES_MAX: usize = 65_536;
/// Hard links to one inode.
pub const LINKS_MAX: u32 = 65_000;
/// Largest file size and offset.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Blocks in one tree node (32 KiB).
pub const NODE_BLOCKS_MAX: u32 = 8;
/// Blocks in one extent (128 KiB).
pub const EXTENT_BLOCKS_MAX: u32 = 32;
/// Blocks in a region (64 MiB).
pub const REGION_BLOCKS: u64 = 16_384;
/// Wraps of the engine key in a superblock slot.
pub const ENGINE_WRAPS_MAX: usize = 8;
/// Wraps of a cluster key in a header.
pub const HEADER_WRAPS_MAX: usize = 8;
/// Bytes in a snapshot's description.
pub const DESCRIPTION_BYTES_MAX: usize = 1024;
/// Days that a snapshot's retention may be: a hundred years, as dates reach to 2262.
pub const RETENTION_DAYS_MAX: u64 = 36_500;
/// Bytes in a request's body on the control socket.
pub const REQUEST_BODY_BYTES_MAX: usize = 1 << 20;
/// Connections served at once on the control socket.
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes in the path of a Unix socket.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Smallest pool.
pub const POOL_BYTES_MIN: u64 = 256 << 20;
/// Bytes in one intent-log record's payload; larger operations become a checkpoint.
pub const LOG_RECORD_BYTES_MAX: usize = 1 << 20;

const _: () = assert!(REGION_BLOCKS * 4096 == 64 << 20);
const _: () = assert!(EXTENT_BLOCKS_MAX as u64 * 4096 == 128 << 10);
