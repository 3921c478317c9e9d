//! POSIX ACLs (POSIX.1e draft 17, as Linux stores them in xattrs): the kernel decides access by
//! them, we keep them and the mode in step.

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::attr::{Caller, mode_bits};
use crate::volume::backing::Edit;
use crate::volume::error::{Result, VolumeError};
use crate::volume::items::{InodeItem, inode_flags};
use crate::volume::xattr;

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// Entries of one ACL: what fits an attribute.
const ENTRIES_MAX: usize = 8191;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// A valid ACL: owner, named users, group, named groups, mask (where anybody is named), others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Acl(Vec<AclEntry>);

impl Acl {
    fn decode(bytes: &[u8]) -> std::result::Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.u32()? != VERSION {
            return Err(DecodeError::Field("ACL version"));
        }
        let mut entries = Vec::new();
        while r.remaining() > 0 {
            let entry = AclEntry { tag: r.u16()?, perm: r.u16()?, id: r.u32()? };
            if entry.perm > 7 || entries.len() == ENTRIES_MAX {
                return Err(DecodeError::Field("ACL entry"));
            }
            entries.push(entry);
        }
        let acl = Self(entries);
        if acl.is_valid() { Ok(acl) } else { Err(DecodeError::Field("ACL")) }
    }

    /// One of each of owner, group and others, in order; a mask exactly once where anybody is named,
    /// and at most once else. Nobody is named twice.
    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|e| e.tag == tag).count();
        let known = USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER;
        let single = |e: &AclEntry| e.tag.count_ones() == 1 && e.tag & known != 0;
        let named = count(USER) + count(GROUP) > 0;
        let mut names: Vec<(u16, u32)> =
            self.0.iter().filter(|e| e.tag & (USER | GROUP) != 0).map(|e| (e.tag, e.id)).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        self.0.iter().all(single)
            && self.0.is_sorted_by_key(|e| e.tag)
            && [USER_OBJ, GROUP_OBJ, OTHER].into_iter().all(|tag| count(tag) == 1)
            && (count(MASK) == 1 || (count(MASK) == 0 && !named))
            && names.len() == all
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(VERSION);
        for entry in &self.0 {
            w.u16(entry.tag).u16(entry.perm).u32(entry.id);
        }
        w.into_bytes()
    }

    /// Whether a mode says the same.
    fn is_minimal(&self) -> bool {
        self.0.len() == 3
    }

    /// The entry that the mode's group bits stand for.
    fn group_class(&self) -> u16 {
        if self.0.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ }
    }

    fn perm(&self, tag: u16) -> u32 {
        self.0.iter().find(|e| e.tag == tag).map_or(0, |e| u32::from(e.perm))
    }

    /// The mode's nine bits.
    fn mode(&self) -> u32 {
        self.perm(USER_OBJ) << 6 | self.perm(self.group_class()) << 3 | self.perm(OTHER)
    }

    /// Changes the entries that the mode's bits stand for.
    fn set_mode(&mut self, mode: u32) {
        let group = self.group_class();
        for entry in &mut self.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                OTHER => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            entry.perm = (mode >> shift & 7) as u16;
        }
    }
}

fn stored(volume: &Volume, txn: &dyn Edit, ino: InodeNo, name: &[u8]) -> Result<Acl> {
    let bytes = xattr::load(volume, txn, ino, name)?;
    bytes
        .and_then(|b| Acl::decode(&b).ok())
        .ok_or(VolumeError::corrupt_item("a stored ACL cannot be read", ino))
}

/// Sets the access ACL and the mode with it. One that a mode can say is not stored. A group that the
/// caller is not in takes the set-group-ID bit away.
pub(in crate::volume) fn set_access(
    volume: &Volume,
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &mut InodeItem,
    value: &[u8],
    caller: &Caller,
) -> Result<()> {
    if value.is_empty() {
        xattr::remove(volume, txn, ino, item, xattr::ACL_ACCESS)?;
        return Ok(());
    }
    let acl = Acl::decode(value).map_err(|_| VolumeError::Invalid)?;
    item.mode = item.mode & !0o777 | acl.mode();
    if caller.uid != 0 && caller.gid != item.gid {
        item.mode &= !mode_bits::SGID;
    }
    if acl.is_minimal() {
        xattr::remove(volume, txn, ino, item, xattr::ACL_ACCESS)?;
        Ok(())
    } else {
        xattr::store(volume, txn, ino, item, xattr::ACL_ACCESS, &acl.encode())
    }
}

/// Sets a directory's default ACL; empty: removes it.
pub(in crate::volume) fn set_default(
    volume: &Volume,
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &mut InodeItem,
    value: &[u8],
) -> Result<()> {
    if !item.is_dir() {
        return Err(VolumeError::Perm);
    }
    if value.is_empty() {
        xattr::remove(volume, txn, ino, item, xattr::ACL_DEFAULT)?;
        return Ok(());
    }
    let acl = Acl::decode(value).map_err(|_| VolumeError::Invalid)?;
    xattr::store(volume, txn, ino, item, xattr::ACL_DEFAULT, &acl.encode())
}

/// After a change of mode: the ACL's owner, mask and others follow.
pub(in crate::volume) fn follow_mode(
    volume: &Volume,
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &InodeItem,
) -> Result<()> {
    if item.flags & inode_flags::ACL_ACCESS == 0 {
        return Ok(());
    }
    let mut acl = stored(volume, txn, ino, xattr::ACL_ACCESS)?;
    acl.set_mode(item.mode);
    xattr::store(volume, txn, ino, &mut { *item }, xattr::ACL_ACCESS, &acl.encode())
}

/// Gives a new inode what its directory's default ACL says, in place of the umask: the ACL limited
/// by the mode asked for, and the mode limited by the ACL.
pub(in crate::volume) fn inherit(
    volume: &Volume,
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &mut InodeItem,
    default: &[u8],
) -> Result<()> {
    let mut acl = Acl::decode(default)
        .map_err(|_| VolumeError::corrupt_item("a stored ACL cannot be read", ino))?;
    if item.is_dir() {
        xattr::store(volume, txn, ino, item, xattr::ACL_DEFAULT, &acl.encode())?;
    }
    let mode = acl.mode() & item.mode;
    acl.set_mode(mode);
    item.mode = item.mode & !0o777 | mode;
    if !acl.is_minimal() {
        xattr::store(volume, txn, ino, item, xattr::ACL_ACCESS, &acl.encode())?;
    }
    Ok(())
}

/// For `src/fuzzing`: an ACL as a caller or a disk gives it.
#[cfg(any(test, fuzzing))]
pub fn fuzz(bytes: &[u8]) {
    let Ok(mut acl) = Acl::decode(bytes) else { return };
    assert!(acl.encode() == bytes, "an ACL is written as it was read");
    let mode = acl.mode();
    acl.set_mode(!mode);
    assert!(acl.mode() == !mode & 0o777, "an ACL says the mode that it was given");
    assert!(acl.is_valid());
}
