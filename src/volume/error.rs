//! What an operation on a volume can answer besides success. errno is chosen in `fuse` alone.

use crate::base::cursor::DecodeError;
use crate::base::units::{BlockAddr, InodeNo};

/// Why an operation failed. Each variant says what the caller can do; none carries file content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// No such name, or no such inode.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory is not allowed here.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The name is longer than 255 bytes, or a link's target longer than 4,095.
    #[error("the name is too long")]
    NameTooLong,
    /// The inode has as many names as it can have.
    #[error("too many links")]
    TooManyLinks,
    /// The pool cannot take more. Deleting files or snapshots helps.
    #[error("no space left in the pool")]
    NoSpace,
    /// A snapshot, or a volume that takes no more changes.
    #[error("read-only")]
    ReadOnly,
    /// The pool takes no changes any more, for this reason. Nothing that is still buffered, here or by
    /// the kernel, will be stored.
    #[error("the pool is read-only: {0}")]
    PoolReadOnly(String),
    /// The cluster is locked: its customer key is not usable.
    #[error("the cluster is locked: its customer key is not usable")]
    Locked,
    /// What is stored contradicts itself or its tag. The data named is not to be trusted.
    #[error("corruption: {what}{}", place(*.ino, *.offset, *.addr))]
    Corrupt {
        /// What was found.
        what: &'static str,
        /// The inode, where known.
        ino: Option<InodeNo>,
        /// Offset in the file in bytes, where known.
        offset: Option<u64>,
        /// Address on the device, where known.
        addr: Option<BlockAddr>,
    },
    /// The device failed.
    #[error("the pool's device failed: {0}")]
    Io(String),
    /// An earlier write to this file, or to this volume, was accepted and then lost.
    #[error("an earlier write was lost: {0}")]
    WriteLost(&'static str),
    /// No such extended attribute.
    #[error("no such attribute")]
    NoData,
    /// The caller's buffer is too small.
    #[error("the result does not fit")]
    Range,
    /// Beyond the largest file size.
    #[error("the file would become too large")]
    TooLarge,
    /// An attribute's value, or the list of attributes, is above its bound.
    #[error("the attribute is too large")]
    AttributeTooLarge,
    /// Not supported for this kind of file.
    #[error("not supported")]
    NotSupported,
    /// Arguments that make no sense together.
    #[error("invalid argument")]
    Invalid,
    /// No such handle.
    #[error("no such handle")]
    BadHandle,
    /// The inode is gone.
    #[error("the inode is gone")]
    Stale,
    /// Not permitted.
    #[error("not permitted")]
    Perm,
    /// No data, or no hole, at or after the offset.
    #[error("nothing there")]
    NoSuchOffset,
}

fn place(ino: Option<InodeNo>, offset: Option<u64>, addr: Option<BlockAddr>) -> String {
    let mut text = String::new();
    if let Some(ino) = ino {
        text.push_str(&format!(", inode {ino}"));
    }
    if let Some(offset) = offset {
        text.push_str(&format!(", offset {offset}"));
    }
    if let Some(addr) = addr {
        text.push_str(&format!(", block {addr}"));
    }
    text
}

impl VolumeError {
    /// A stored item that cannot be right.
    #[must_use]
    pub const fn corrupt_item(what: &'static str, ino: InodeNo) -> Self {
        Self::Corrupt { what, ino: Some(ino), offset: None, addr: None }
    }

    /// The same error, with the file and offset it met (known here, not below).
    #[must_use]
    pub fn at(self, file: InodeNo, position: u64) -> Self {
        match self.of(file) {
            Self::Corrupt { what, ino, offset, addr } => {
                Self::Corrupt { what, ino, offset: offset.or(Some(position)), addr }
            }
            other => other,
        }
    }

    /// The same error, with the inode it met.
    #[must_use]
    pub fn of(self, file: InodeNo) -> Self {
        match self {
            Self::Corrupt { what, ino, offset, addr } => {
                Self::Corrupt { what, ino: ino.or(Some(file)), offset, addr }
            }
            other => other,
        }
    }
}

impl From<DecodeError> for VolumeError {
    fn from(_: DecodeError) -> Self {
        Self::Corrupt { what: "an item cannot be read", ino: None, offset: None, addr: None }
    }
}

/// The room's result.
pub type Result<T> = std::result::Result<T, VolumeError>;
