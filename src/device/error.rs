//! What can go wrong with a device, by what the caller must do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::sys::own_directory::NotOwn;

/// A request to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening or creating it.
    Open,
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// A discard.
    Discard,
    /// Taking space from the filesystem beneath.
    Ensure,
    /// Growing.
    Grow,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::Ensure => "allocation",
            Self::Grow => "growth",
        })
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The medium failed. Report it; do not retry.
    #[error("{op} at byte {offset} failed: {source}")]
    Io {
        /// What was asked.
        op: Operation,
        /// Where.
        offset: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The filesystem beneath is full. The pool stays as it was.
    #[error("the filesystem that holds the pool is full")]
    NoSpace,
    /// Beyond the end, or not in whole blocks: a defect, or a pool that was cut short.
    #[error("{len} bytes at byte {offset} are outside of the device of {size} bytes")]
    OutOfRange {
        /// Start of the request.
        offset: u64,
        /// Its length.
        len: u64,
        /// The device's size.
        size: u64,
    },
    /// It is shorter than it was when it was opened: a file that was truncated, a smaller volume.
    #[error("the device has {found} bytes and had {size}: it was cut short")]
    CutShort {
        /// What it had.
        size: u64,
        /// What it has.
        found: u64,
    },
    /// Another machine took the device over. Never write again.
    #[error("the device was taken over by another machine")]
    LeaseLost,
    /// Another process has it open for writing.
    #[error("{} is in use by another process", path.display())]
    Busy {
        /// The file or device node.
        path: PathBuf,
    },
    /// Nothing is there.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The path as given, or the image in it.
        path: PathBuf,
    },
    /// Creating, and something is there.
    #[error("{} exists", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others could exchange the image.
    #[error(transparent)]
    NotOwn(#[from] NotOwn),
    /// Neither a directory, a file nor a block device.
    #[error("{} is neither a directory, a file nor a block device", path.display())]
    Unsuitable {
        /// The path as given.
        path: PathBuf,
    },
}

impl DeviceError {
    /// Whether the medium does not hand out what stands there, as of a bad sector: what was asked for
    /// is lost as if it had rotted, and nothing else is.
    #[must_use]
    pub const fn is_failed_read(&self) -> bool {
        matches!(self, Self::Io { op: Operation::Read, .. })
    }
}
