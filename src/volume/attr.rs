//! Plain structs that cross the room's door: attributes, callers, requests to change attributes.

use crate::base::time::Timestamp;
use crate::base::units::InodeNo;
use crate::volume::error::VolumeError;

/// Type bits of a mode (`S_IFMT`) and the permission bits that files carry.
pub mod mode_bits {
    /// Mask of the type.
    pub const TYPE: u32 = 0o170_000;
    /// Mask of the permissions, with set-user-ID, set-group-ID and sticky.
    pub const PERM: u32 = 0o7777;
    /// Set-user-ID.
    pub const SUID: u32 = 0o4000;
    /// Set-group-ID.
    pub const SGID: u32 = 0o2000;
    /// Group execute: with set-group-ID it makes a file privileged.
    pub const GROUP_EXEC: u32 = 0o010;
}

/// What kind of file an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// The type bits of a mode.
    #[must_use]
    pub const fn mode_type(self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDevice => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice => 0o060_000,
            Self::File => 0o100_000,
            Self::Symlink => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }
    /// The kind that the type bits of `mode` name.
    #[must_use]
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & mode_bits::TYPE {
            0o010_000 => Self::Fifo,
            0o020_000 => Self::CharDevice,
            0o040_000 => Self::Directory,
            0o060_000 => Self::BlockDevice,
            0o100_000 => Self::File,
            0o120_000 => Self::Symlink,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }
    /// The type as directory entries store it (`DT_*`).
    #[must_use]
    pub const fn dirent_type(self) -> u8 {
        (self.mode_type() >> 12) as u8
    }
    /// The kind that a stored `DT_*` names.
    #[must_use]
    pub const fn from_dirent_type(byte: u8) -> Option<Self> {
        if byte > 15 { None } else { Self::from_mode((byte as u32) << 12) }
    }
}

/// A file's time: any 64-bit second, before 1970 negative, with nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileTime {
    /// Seconds since 1970-01-01T00:00:00Z, rounded down.
    pub secs: i64,
    /// Nanoseconds after that second, below 1,000,000,000.
    pub nanos: u32,
}

impl From<Timestamp> for FileTime {
    fn from(t: Timestamp) -> Self {
        Self { secs: t.secs(), nanos: t.ns.rem_euclid(1_000_000_000) as u32 }
    }
}

/// Attributes of an inode, as `stat` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number; never used again within the cluster.
    pub ino: InodeNo,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last access; set by the user alone (the volume is `noatime`).
    pub atime: FileTime,
    /// Last change of content.
    pub mtime: FileTime,
    /// Last change of content or attributes.
    pub ctime: FileTime,
    /// Creation.
    pub btime: FileTime,
    /// Kind of file.
    pub kind: FileKind,
    /// Permissions with set-ID and sticky bits, 12 bits.
    pub perm: u16,
    /// Names of the inode; directories count `.` and their subdirectories.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of device files, as the kernel encodes it in 32 bits.
    pub rdev: u32,
}

/// What lookup, create and their like answer: attributes, and a lookup counted for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The inode's attributes.
    pub attr: Attr,
    /// Generation of the inode number: always 1, as numbers are never used again.
    pub generation: u64,
    /// Why the inode cannot be read: the attributes, and their number, only stand for it
    /// ([`crate::volume::is_stand_in`]). Lookup alone answers so.
    pub unreadable: Option<VolumeError>,
}

impl Entry {
    /// Of an inode that can be read.
    pub(in crate::volume) const fn of(attr: Attr) -> Self {
        Self { attr, generation: INODE_GENERATION, unreadable: None }
    }
}

/// Generation that every reply carries.
pub const INODE_GENERATION: u64 = 1;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// File creation mask; where the kernel has applied it already: zero.
    pub umask: u32,
    /// Process.
    pub pid: u32,
}

/// A new value of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// The time at which the daemon handles the request.
    Now,
    /// That time.
    At(FileTime),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permissions (12 bits; type bits are ignored).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeSet>,
    /// Modification time.
    pub mtime: Option<TimeSet>,
    /// Change time, which the kernel keeps itself under its writeback cache.
    pub ctime: Option<FileTime>,
}

/// One entry that `readdir` hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The inode.
    pub ino: InodeNo,
    /// Where to go on after this entry; persistent and stable while names come and go.
    pub cookie: u64,
    /// Kind of file.
    pub kind: FileKind,
    /// The name.
    pub name: &'a [u8],
    /// Attributes, for readdirplus; of an inode that cannot be read those of a stand-in, whose
    /// number they have. A lookup is counted of the number in them for each such entry that the
    /// sink took, except `.` and `..`, which have none where they cannot be read.
    pub attr: Option<Attr>,
}

/// Flags of rename(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RenameFlags {
    /// Fail where the new name exists.
    pub noreplace: bool,
    /// Exchange the two names.
    pub exchange: bool,
    /// Leave a whiteout (character device 0/0) behind.
    pub whiteout: bool,
}

/// How a file is opened. O_APPEND and the access mode's reads are the kernel's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OpenFlags {
    /// Opened for writing, so its dirty pages belong to the snapshot barrier.
    pub write: bool,
    /// O_TRUNC, where the kernel leaves it to us.
    pub truncate: bool,
}

/// A handle to an open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// Modes of fallocate(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllocateMode {
    /// Space must be there; the size grows.
    Plain,
    /// Space must be there; the size stays.
    KeepSize,
    /// The range becomes a hole; the size stays.
    PunchHole,
    /// The range reads as zeros; the size grows.
    ZeroRange,
    /// The range reads as zeros; the size stays.
    ZeroRangeKeepSize,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// SEEK_DATA
    Data,
    /// SEEK_HOLE; the end of the file is one.
    Hole,
}

/// How setxattr(2) treats an attribute that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XattrMode {
    /// Create or replace.
    #[default]
    Set,
    /// XATTR_CREATE: fail where it exists.
    Create,
    /// XATTR_REPLACE: fail where it does not.
    Replace,
}

/// What statfs(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct StatFs {
    /// Blocks of 4 KiB in the pool.
    pub blocks: u64,
    /// Free ones, the reserve included.
    pub blocks_free: u64,
    /// Free ones that writes can take: the reserve is out.
    pub blocks_available: u64,
}
