//! Directory entries in the tree.
//!
//! An entry's key is its cookie: bit 62 set, 54 bits of the keyed hash of its name, 8 bits that
//! tell names of the same hash apart. So cookies fit a signed 64-bit offset, are never 0, 1 or 2
//! (`.` and `..`), and stay what they are until the name goes.

use std::ops::ControlFlow;

use crate::base::limits::NAME_BYTES_MAX;
use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::attr::FileKind;
use crate::volume::backing::{Edit, Items, Key};
use crate::volume::error::{Result, VolumeError};
use crate::volume::items::{Dirent, dirent_key, first_cookie};

/// Largest cookie of an entry.
pub(in crate::volume) const COOKIE_MAX: u64 = (1 << 63) - 1;

/// That `name` can be a name: 1 to 255 bytes, without `/` and NUL, not `.` or `..`.
pub(in crate::volume) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(VolumeError::NameTooLong);
    }
    let bad = name.is_empty() || name == b"." || name == b".." || name.contains(&b'/');
    if bad || name.contains(&0) { Err(VolumeError::Invalid) } else { Ok(()) }
}

/// An entry and its key.
pub(in crate::volume) struct Found {
    pub key: Key,
    pub entry: Dirent,
}

impl Volume {
    fn cookies(&self, parent: InodeNo, name: &[u8]) -> (u64, u64) {
        let hash = self.backing.name_hash(parent.0, name);
        let first = first_cookie(hash);
        (first, first | 0xff)
    }

    /// The entry of that name.
    pub(in crate::volume) fn find_entry(
        &self,
        items: &(impl Items + ?Sized),
        parent: InodeNo,
        name: &[u8],
    ) -> Result<Option<Found>> {
        let (first, last) = self.cookies(parent, name);
        let mut found = Ok(None);
        items.range(dirent_key(parent, first), dirent_key(parent, last), &mut |key, value| {
            match Dirent::decode(value) {
                Ok(entry) if entry.name == name => found = Ok(Some(Found { key, entry })),
                Ok(_) => return ControlFlow::Continue(()),
                Err(_) => found = Err(corrupt(parent)),
            }
            ControlFlow::Break(())
        })?;
        found
    }

    /// Adds an entry, whose name must not be there.
    pub(in crate::volume) fn insert_entry(
        &self,
        txn: &mut dyn Edit,
        parent: InodeNo,
        name: &[u8],
        ino: InodeNo,
        kind: FileKind,
    ) -> Result<()> {
        let (first, last) = self.cookies(parent, name);
        let mut free = Some(first);
        let mut taken = false;
        let mut bad = false;
        txn.range(dirent_key(parent, first), dirent_key(parent, last), &mut |key, value| {
            match Dirent::decode(value) {
                Ok(entry) => taken |= entry.name == name,
                Err(_) => bad = true,
            }
            if free == Some(key.offset) {
                free = Some(key.offset + 1).filter(|next| *next <= last);
            }
            ControlFlow::Continue(())
        })?;
        match (bad, taken, free) {
            (true, ..) => Err(corrupt(parent)),
            (_, true, _) => Err(VolumeError::Exists),
            // 256 names of one keyed 54-bit hash do not happen by chance.
            (.., None) => Err(VolumeError::NoSpace),
            (.., Some(cookie)) => {
                let entry = Dirent { ino, kind, name: name.to_vec() };
                txn.put(dirent_key(parent, cookie), &entry.encode())
            }
        }
    }
}

/// Points an entry that is there to another inode; its cookie stays.
pub(in crate::volume) fn retarget_entry(
    txn: &mut dyn Edit,
    found: &Found,
    ino: InodeNo,
    kind: FileKind,
) -> Result<()> {
    let entry = Dirent { ino, kind, name: found.entry.name.clone() };
    txn.put(found.key, &entry.encode())
}

/// A directory whose entries cannot be read.
pub(in crate::volume) fn corrupt(parent: InodeNo) -> VolumeError {
    VolumeError::corrupt_item("a directory entry cannot be read", parent)
}
