//! Newtypes for what must not be mixed: addresses, generations, segments, inode numbers.

use std::fmt;

/// Bytes in one block, the unit of allocation, encryption and checksums.
pub const BLOCK_SIZE: usize = 4096;
/// The same as a `u64`, for arithmetic on offsets.
pub const BLOCK_SIZE_U64: u64 = BLOCK_SIZE as u64;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);
        impl $name {
            /// The bare number.
            #[must_use]
            pub const fn get(self) -> $int {
                self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

unit!(
    /// Address of a block on the pool's device, in blocks of 4 KiB from its start.
    BlockAddr,
    u64
);
unit!(
    /// Number of the interval between two checkpoints. Never repeats within a pool (docs/format.md).
    Generation,
    u64
);
unit!(
    /// One line of history between two cuts: what a run in a region map is accounted to.
    SegmentId,
    u32
);
unit!(
    /// A line of history: the chain of segments of one head, or of what is left of it.
    LineId,
    u32
);
unit!(
    /// Inode number: 64 bits, persistent, never used again within a cluster.
    InodeNo,
    u64
);

impl BlockAddr {
    /// The last address that is taken from outside: its offset in bytes, and that of every block
    /// that a run of up to 2^32 blocks reaches from there, can be counted.
    const LAST: u64 = u64::MAX / BLOCK_SIZE_U64 - (1 << 32);

    /// The address that bytes from outside state, where there can be one.
    #[must_use]
    pub const fn checked(addr: u64) -> Option<Self> {
        if addr <= Self::LAST { Some(Self(addr)) } else { None }
    }
    /// Offset of the block on the device, in bytes.
    #[must_use]
    pub const fn offset_bytes(self) -> u64 {
        self.0 * BLOCK_SIZE_U64
    }
    /// The address `blocks` further on.
    #[must_use]
    pub const fn plus(self, blocks: u64) -> Self {
        Self(self.0 + blocks)
    }
}

impl Generation {
    /// The next interval.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// How a pool that was put back stands to what was seen of it. Where its number is no smaller, it
/// is not an earlier state but one of a history that was given up: a rollback was accepted since.
#[must_use]
pub fn put_back(found: u64, seen: u64) -> String {
    if found < seen {
        format!("{found}, and {seen} was seen before")
    } else {
        format!("{found}, and another history of this pool was accepted since")
    }
}

impl SegmentId {
    /// The segment of the pool's own blocks: catalog nodes.
    pub const POOL: Self = Self(1);
}
