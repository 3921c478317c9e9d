//! What stands for an inode that cannot be read, so that its name can be shown and taken away.
//!
//! A stand-in has a number of its own, made of the inode's number and the kind that the name's
//! entry states; nothing is kept of it. Whatever is asked of that number, but for attributes, is
//! answered as corruption. So the kernel never takes it for the inode: once that can be read again,
//! its name leads to its own number, and what the kernel believed of the stand-in (an empty file;
//! with the writeback cache no later answer changes a size that it knows) is of no consequence.

use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::attr::{Attr, FileKind, FileTime};
use crate::volume::error::VolumeError;

/// Set in the numbers of stand-ins: those that inodes get count up from 16, and never come near.
const MARK: u64 = 1 << 62;
/// From this bit on stands the kind, as directory entries store it.
const KIND_SHIFT: u32 = 58;
const INODE_MASK: u64 = (1 << KIND_SHIFT) - 1;

const fn number(ino: InodeNo, kind: FileKind) -> InodeNo {
    InodeNo(MARK | ((kind.dirent_type() as u64) << KIND_SHIFT) | (ino.0 & INODE_MASK))
}

/// The inode that a number stands for, and its kind.
const fn stands_for(number: InodeNo) -> Option<(InodeNo, FileKind)> {
    if (number.0 >> KIND_SHIFT) & !0xf != MARK >> KIND_SHIFT {
        return None;
    }
    match FileKind::from_dirent_type(((number.0 >> KIND_SHIFT) & 0xf) as u8) {
        Some(kind) => Some((InodeNo(number.0 & INODE_MASK), kind)),
        None => None,
    }
}

/// Whether this is the number of a stand-in: what is said of it holds for this moment alone.
#[must_use]
pub const fn is_stand_in(number: InodeNo) -> bool {
    stands_for(number).is_some()
}

/// What is answered where more than attributes is asked of a stand-in.
pub(in crate::volume) fn refused(number: InodeNo) -> Option<VolumeError> {
    let (ino, _) = stands_for(number)?;
    Some(VolumeError::corrupt_item("an inode cannot be read", ino))
}

/// Attributes, where this is the number of a stand-in.
pub(in crate::volume) fn attr(number: InodeNo) -> Option<Attr> {
    stands_for(number).map(|(_, kind)| attr_of(number, kind))
}

/// Without permissions: nobody takes it for an empty file that need not be opened to be copied.
const fn attr_of(number: InodeNo, kind: FileKind) -> Attr {
    let time = FileTime { secs: 0, nanos: 0 };
    Attr {
        ino: number,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
    }
}

impl Volume {
    /// Attributes of a stand-in for an inode that cannot be read, with one lookup counted.
    pub(in crate::volume) fn stand_in(&self, ino: InodeNo, kind: FileKind) -> Attr {
        let number = number(ino, kind);
        self.lookups.raise(number);
        attr_of(number, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_tells_what_it_stands_for_and_no_inode_is_taken_for_one() {
        let mut numbers = std::collections::BTreeSet::new();
        for kind in (0..16).filter_map(FileKind::from_dirent_type) {
            for ino in [InodeNo(1), InodeNo(16), InodeNo(INODE_MASK)] {
                let number = number(ino, kind);
                assert_eq!(stands_for(number), Some((ino, kind)));
                assert!(numbers.insert(number) && number.0 < 1 << 63);
            }
        }
        assert_eq!(numbers.len(), 21);
        for ino in [0, 1, 16, INODE_MASK, 1 << 58, MARK - 1, MARK, MARK | (15 << 58), u64::MAX] {
            assert!(!is_stand_in(InodeNo(ino)), "{ino:#x}");
        }
    }
}
