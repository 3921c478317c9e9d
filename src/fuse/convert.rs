//! Attributes, times and flags: the volume's words in those of `fuser`, and back. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::base::BLOCK_SIZE;
use crate::base::units::InodeNo;
use crate::volume::{
    AllocateMode, Attr, DirEntry, FileKind, FileTime, OpenFlags, RenameFlags, TimeSet, XattrMode,
    is_stand_in,
};

/// How long the kernel may keep attributes and names: the daemon is the only one who changes them,
/// and each change comes through this kernel or is announced to it.
pub(super) const LIFETIME: Duration = Duration::from_secs(7 * 86_400);

/// How long for this number: not at all for one that only stands for an inode, which can come back.
pub(super) const fn lifetime(number: InodeNo) -> Duration {
    if is_stand_in(number) { Duration::ZERO } else { LIFETIME }
}

pub(super) const fn ino(number: INodeNo) -> InodeNo {
    InodeNo(number.0)
}

pub(super) const fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.get()),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system(attr.atime),
        mtime: to_system(attr.mtime),
        ctime: to_system(attr.ctime),
        crtime: to_system(attr.btime),
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE as u32,
        flags: 0,
    }
}

/// What stands for the attributes of `.` or `..` where they cannot be read, of which the kernel
/// takes the number and the type alone.
pub(super) fn unknown_attr(entry: &DirEntry<'_>) -> FileAttr {
    let (ino, kind) = (INodeNo(entry.ino.get()), file_type(entry.kind));
    FileAttr { ino, kind, nlink: 1, ..no_file() }
}

/// What tells the kernel that a name does not exist, and to remember that.
pub(super) const fn no_file() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn to_system(time: FileTime) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let second =
        if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second
        .and_then(|s| s.checked_add(Duration::from_nanos(time.nanos.into())))
        .unwrap_or(UNIX_EPOCH)
}

/// A time of a request. `fuser` builds a time before 1970 by taking the nanoseconds away from the
/// second instead of adding them; this undoes that.
pub(super) fn from_system(time: SystemTime) -> FileTime {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => FileTime {
            secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: since.subsec_nanos(),
        },
        Err(error) => {
            let before = error.duration();
            FileTime {
                secs: i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs),
                nanos: before.subsec_nanos(),
            }
        }
    }
}

pub(super) fn time_set(time: TimeOrNow) -> TimeSet {
    match time {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(time) => TimeSet::At(from_system(time)),
    }
}

/// How a file is opened. Reading and `O_APPEND` are the kernel's own business: it reads, for
/// partly written pages, through handles that are open for writing only, and knows the end of a
/// file better than we do.
pub(super) const fn open_flags(flags: i32) -> OpenFlags {
    OpenFlags {
        write: flags & libc::O_ACCMODE != libc::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
    }
}

pub(super) const fn rename_flags(flags: fuser::RenameFlags) -> Option<RenameFlags> {
    let known = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;
    let bits = flags.bits();
    if bits & !known != 0 {
        return None;
    }
    Some(RenameFlags {
        noreplace: bits & libc::RENAME_NOREPLACE != 0,
        exchange: bits & libc::RENAME_EXCHANGE != 0,
        whiteout: bits & libc::RENAME_WHITEOUT != 0,
    })
}

pub(super) const fn allocate_mode(mode: i32) -> Option<AllocateMode> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    Some(match mode {
        0 => AllocateMode::Plain,
        KEEP => AllocateMode::KeepSize,
        PUNCH => AllocateMode::PunchHole,
        ZERO => AllocateMode::ZeroRange,
        ZERO_KEEP => AllocateMode::ZeroRangeKeepSize,
        _ => return None,
    })
}

pub(super) const fn xattr_mode(flags: i32) -> Option<XattrMode> {
    match flags {
        0 => Some(XattrMode::Set),
        libc::XATTR_CREATE => Some(XattrMode::Create),
        libc::XATTR_REPLACE => Some(XattrMode::Replace),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn flags_that_are_unknown_are_refused_not_ignored() {
        assert_eq!(allocate_mode(libc::FALLOC_FL_COLLAPSE_RANGE), None);
        assert_eq!(allocate_mode(libc::FALLOC_FL_PUNCH_HOLE), None);
        assert_eq!(xattr_mode(3), None);
        assert_eq!(rename_flags(fuser::RenameFlags::from_bits_retain(8)), None);
    }

    #[test]
    fn reading_is_not_asked_for_and_append_is_left_to_the_kernel() {
        assert!(open_flags(libc::O_WRONLY | libc::O_APPEND).write);
        assert!(open_flags(libc::O_RDWR).write && !open_flags(libc::O_RDONLY).write);
    }

    /// As `fuser` builds the time of a request from the kernel's two numbers.
    fn as_fuser_reads(secs: i64, nanos: u32) -> SystemTime {
        if secs >= 0 {
            UNIX_EPOCH + Duration::new(secs as u64, nanos)
        } else {
            UNIX_EPOCH - Duration::new((-secs) as u64, nanos)
        }
    }

    proptest! {
        #[test]
        fn times_of_requests_arrive_as_the_kernel_sent_them(
            secs in -(1i64 << 62)..(1i64 << 62), nanos in 0u32..1_000_000_000
        ) {
            prop_assert_eq!(from_system(as_fuser_reads(secs, nanos)), FileTime { secs, nanos });
        }

        #[test]
        fn times_of_replies_keep_their_nanoseconds(
            secs in -(1i64 << 62)..(1i64 << 62), nanos in 0u32..1_000_000_000
        ) {
            let time = to_system(FileTime { secs, nanos });
            let exact = match time.duration_since(UNIX_EPOCH) {
                Ok(d) => d.as_nanos() as i128,
                Err(e) => -(e.duration().as_nanos() as i128),
            };
            prop_assert_eq!(exact, i128::from(secs) * 1_000_000_000 + i128::from(nanos));
        }
    }
}
