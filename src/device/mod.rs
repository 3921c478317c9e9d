//! Where a pool's bytes stand: a file, a directory with one in it, or a block device.
//!
//! [`Device`] is what the rooms above see: whole blocks of 4 KiB, read and written from many
//! threads at once, durable after a flush. [`sim::SimDevice`] stands in memory and can lose power,
//! [`faulty::Faulty`] fails the Nth request, [`counted::Counted`] counts.
//!
//! What it assumes of the medium, and no more: a sector of 512 bytes is written whole or not at
//! all; writes between two flushes reach the medium in any order, or not at all; what was written
//! before a flush that succeeded stays. It must not know what the bytes mean.

mod error;
mod file;
mod signature;

pub mod counted;
pub mod faulty;
pub mod sim;

#[cfg(test)]
mod conformance;

use std::path::PathBuf;

use crate::base::units::BLOCK_SIZE_U64;

pub use error::{DeviceError, Operation};
pub use file::{IMAGE_NAME, Mode, create, locate, open};
pub use signature::{Found, POOL_SIGNATURE, find_signature};

/// Storage in blocks of 4 KiB. Offsets and lengths are in bytes and multiples of 4096; anything
/// else is [`DeviceError::OutOfRange`]. Buffers aligned to 4096 bytes go to the medium without a
/// copy ([`crate::sys::AlignedBuf`]).
///
/// Any thread may call any method at any time. Two requests that overlap and are in flight
/// together leave either's bytes, block by block; the callers above never make such.
pub trait Device: Send + Sync {
    /// Size in bytes, a multiple of 4096.
    fn size_bytes(&self) -> u64;
    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), DeviceError>;
    /// Writes `buf` from `offset` on; durable only after a flush that begins once this returned.
    ///
    /// # Errors
    /// [`DeviceError`]; the range holds old and new sectors in any mixture then.
    fn write(&self, offset: u64, buf: &[u8]) -> Result<(), DeviceError>;
    /// Makes durable every write that had returned before the call.
    ///
    /// # Errors
    /// [`DeviceError`], also where the device was cut short; nothing may be believed durable then, and
    /// a second try proves nothing.
    fn flush(&self) -> Result<(), DeviceError>;
    /// Says that the range holds nothing of worth. What a read gives afterwards is not defined.
    /// `false`: the medium cannot, and nothing was done.
    ///
    /// # Errors
    /// [`DeviceError`]
    fn discard(&self, offset: u64, len: u64) -> Result<bool, DeviceError>;
    /// Takes the space for the range from a sparse backing file, so that writes to it cannot find
    /// the disk beneath full.
    ///
    /// # Errors
    /// [`DeviceError::NoSpace`] where there is none.
    fn ensure(&self, offset: u64, len: u64) -> Result<(), DeviceError>;
    /// Grows to `new_size` bytes; a block device must already have them.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] where that would shrink, or the block device is smaller;
    /// [`DeviceError::CutShort`]. Where it cannot be made durable, one of [`Operation::Flush`]: that of
    /// a failed flush, whatever failed it.
    fn grow(&self, new_size: u64) -> Result<(), DeviceError>;
    /// Whether its path still leads to it.
    fn standing(&self) -> Standing {
        Standing::InPlace
    }
    /// What stands beneath, for people.
    fn describe(&self) -> DeviceInfo;
}

/// How what is open stands to the path by which it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The path leads to it, or nobody can say.
    InPlace,
    /// The path leads to something else, or nowhere; it has another name.
    Moved,
    /// It has no name any more: it goes when it is closed.
    Removed,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The file or device node; for a simulated one a name.
    pub path: PathBuf,
    /// Whether requests pass the kernel's page cache by (O_DIRECT).
    pub direct: bool,
    /// Whether other processes are kept from writing to it, and from reading it alone.
    pub locked: bool,
    /// What it is.
    pub kind: DeviceKind,
}

/// Kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A file in a directory of its own.
    Directory,
    /// A file.
    File,
    /// A block device.
    BlockDevice,
    /// Memory, in tests.
    Simulated,
}

impl DeviceKind {
    /// As written in JSON and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
            Self::BlockDevice => "block-device",
            Self::Simulated => "simulated",
        }
    }
}

/// That a request lies in whole blocks within the device.
fn check_range(size: u64, offset: u64, len: u64) -> Result<(), DeviceError> {
    let whole = offset.is_multiple_of(BLOCK_SIZE_U64) && len.is_multiple_of(BLOCK_SIZE_U64);
    match offset.checked_add(len) {
        Some(end) if whole && end <= size => Ok(()),
        _ => Err(DeviceError::OutOfRange { offset, len, size }),
    }
}
