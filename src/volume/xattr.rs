//! Extended attributes.
//!
//! Key: 48 bits of the keyed hash of the name, 8 bits that tell names of the same hash apart, 8
//! bits of chunk. Chunk 0 holds `value length u32, name length u8, name` before the value's first
//! bytes; values longer than a chunk go on in chunks 1 to 21. The inode's flags say what there is,
//! so that what is asked for before every write is answered from memory.

use std::ops::ControlFlow;

use crate::base::cursor::Writer;
use crate::base::limits::{NAME_BYTES_MAX, XATTR_LIST_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::acl;
use crate::volume::attr::{Caller, XattrMode};
use crate::volume::backing::{Edit, Items, Key, Purpose};
use crate::volume::error::{Result, VolumeError};
use crate::volume::items::{CHUNK_BYTES, InodeItem, XattrHead, inode_flags, kind, xattr_base};
use crate::volume::write::now;

/// Name of file capabilities.
pub(in crate::volume) const CAPABILITY: &[u8] = b"security.capability";
/// Name of the access ACL.
pub(in crate::volume) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
/// Name of a directory's default ACL.
pub(in crate::volume) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

const fn key(ino: InodeNo, offset: u64) -> Key {
    Key { object: ino.0, kind: kind::XATTR, offset }
}

/// The flag that stands for an attribute of that name.
fn flag_of(name: &[u8]) -> u32 {
    match name {
        CAPABILITY => inode_flags::CAPABILITY,
        ACL_ACCESS => inode_flags::ACL_ACCESS,
        ACL_DEFAULT => inode_flags::ACL_DEFAULT,
        _ => 0,
    }
}

fn corrupt(ino: InodeNo) -> VolumeError {
    VolumeError::corrupt_item("an extended attribute cannot be read", ino)
}

struct Found {
    /// Key offset of chunk 0.
    at: u64,
    len: usize,
    value: Vec<u8>,
}

fn find(
    volume: &Volume,
    items: &(impl Items + ?Sized),
    ino: InodeNo,
    name: &[u8],
) -> Result<(Option<Found>, Option<u64>)> {
    let base = xattr_base(volume.backing.name_hash(ino.0, name));
    let mut found: Option<Found> = None;
    let mut free = Some(base);
    let mut bad = false;
    items.range(key(ino, base), key(ino, base | 0xffff), &mut |at, bytes| {
        let chunk = at.offset & 0xff;
        if chunk == 0 {
            if found.is_some() {
                return ControlFlow::Break(());
            }
            if free == Some(at.offset) {
                free = Some(at.offset + 0x100).filter(|next| *next <= base | 0xffff);
            }
            match XattrHead::decode(bytes) {
                Ok(head) if head.name == name => {
                    let (len, value) = (head.value_bytes, head.first.to_vec());
                    found = Some(Found { at: at.offset, len, value });
                }
                Ok(_) => {}
                Err(_) => bad = true,
            }
        } else if let Some(found) = &mut found
            && found.at == at.offset & !0xff
        {
            found.value.extend_from_slice(bytes);
        }
        if bad { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if bad || found.as_ref().is_some_and(|f| f.value.len() != f.len) {
        return Err(corrupt(ino));
    }
    Ok((found, free))
}

/// The value of an attribute.
pub(in crate::volume) fn load(
    volume: &Volume,
    items: &(impl Items + ?Sized),
    ino: InodeNo,
    name: &[u8],
) -> Result<Option<Vec<u8>>> {
    Ok(find(volume, items, ino, name)?.0.map(|f| f.value))
}

fn remove_chunks(txn: &mut dyn Edit, ino: InodeNo, found: &Found) -> Result<()> {
    for chunk in 0..found.len.div_ceil(CHUNK_BYTES).max(1) as u64 {
        txn.remove(key(ino, found.at | chunk))?;
    }
    Ok(())
}

/// Sets an attribute.
pub(in crate::volume) fn store(
    volume: &Volume,
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &mut InodeItem,
    name: &[u8],
    value: &[u8],
) -> Result<()> {
    let (found, free) = find(volume, txn, ino, name)?;
    let at = match &found {
        Some(found) => {
            remove_chunks(txn, ino, found)?;
            found.at
        }
        None => free.ok_or(VolumeError::NoSpace)?,
    };
    let mut head = Writer::new();
    head.u32(value.len() as u32).u8(name.len() as u8).bytes(name);
    let mut parts = value.chunks(CHUNK_BYTES);
    head.bytes(parts.next().unwrap_or_default());
    txn.put(key(ino, at), &head.into_bytes())?;
    for (chunk, part) in (1..).zip(parts) {
        txn.put(key(ino, at | chunk), part)?;
    }
    item.flags |= inode_flags::XATTRS | flag_of(name);
    Ok(())
}

/// Removes an attribute; whether it was there.
pub(in crate::volume) fn remove(
    volume: &Volume,
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &mut InodeItem,
    name: &[u8],
) -> Result<bool> {
    let (Some(found), _) = find(volume, txn, ino, name)? else { return Ok(false) };
    remove_chunks(txn, ino, &found)?;
    item.flags &= !flag_of(name);
    let mut any = false;
    txn.range(key(ino, 0), key(ino, u64::MAX), &mut |_, _| {
        any = true;
        ControlFlow::Break(())
    })?;
    if !any {
        item.flags &= !inode_flags::XATTRS;
    }
    Ok(true)
}

/// Removes `security.capability`, where there is one.
pub(in crate::volume) fn remove_capability(
    volume: &Volume,
    txn: &mut dyn Edit,
    ino: InodeNo,
    item: &mut InodeItem,
) -> Result<()> {
    if item.flags & inode_flags::CAPABILITY != 0 {
        remove(volume, txn, ino, item, CAPABILITY)?;
    }
    Ok(())
}

/// All names, each followed by a NUL.
fn list(items: &(impl Items + ?Sized), ino: InodeNo) -> Result<Vec<u8>> {
    let mut names = Vec::new();
    let mut bad = false;
    items.range(key(ino, 0), key(ino, u64::MAX), &mut |at, bytes| {
        if at.offset & 0xff == 0 {
            match XattrHead::decode(bytes) {
                Ok(head) => {
                    names.extend_from_slice(head.name);
                    names.push(0);
                }
                Err(_) => bad = true,
            }
        }
        if bad { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if bad { Err(corrupt(ino)) } else { Ok(names) }
}

/// That a name is one that can be stored: `system.` holds the ACLs alone.
fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(VolumeError::Range);
    }
    let acl = name == ACL_ACCESS || name == ACL_DEFAULT;
    let spaces = [&b"user."[..], b"trusted.", b"security."];
    match acl || spaces.iter().any(|s| name.len() > s.len() && name.starts_with(s)) {
        true => Ok(()),
        false => Err(VolumeError::NotSupported),
    }
}

impl Volume {
    /// Sets an extended attribute. The access ACL changes the mode with it.
    ///
    /// # Errors
    /// `Exists`, `NoData` (by mode), `AttributeTooLarge`, `Range` (the name), `NotSupported` (its
    /// namespace), `Invalid` (no ACL), `Perm` (a default ACL of a file), `NoSpace`, `ReadOnly`,
    /// `Stale`, `Locked`.
    pub fn setxattr(
        &self,
        ino: InodeNo,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        caller: &Caller,
    ) -> Result<()> {
        check_name(name)?;
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return Err(VolumeError::AttributeTooLarge);
        }
        let _visit = self.enter_to_change()?;
        let inode = self.inode(ino)?;
        let chunks = value.len().div_ceil(CHUNK_BYTES) as u64;
        let _promise = self.backing.reserve(0, chunks + 3, Purpose::Grow)?;
        self.edit(&[&inode], |txn, locked| {
            let mut item = *locked.item(ino)?;
            let exists = find(self, txn, ino, name)?.0.is_some();
            match (mode, exists) {
                (XattrMode::Create, true) => return Err(VolumeError::Exists),
                (XattrMode::Replace, false) => return Err(VolumeError::NoData),
                _ => {}
            }
            if !exists && list(txn, ino)?.len() + name.len() + 1 > XATTR_LIST_BYTES_MAX {
                return Err(VolumeError::NoSpace);
            }
            match name {
                ACL_ACCESS => acl::set_access(self, txn, ino, &mut item, value, caller)?,
                ACL_DEFAULT => acl::set_default(self, txn, ino, &mut item, value)?,
                _ => store(self, txn, ino, &mut item, name, value)?,
            }
            item.ctime = now();
            *locked.item(ino)? = item;
            Ok(())
        })
    }

    /// An extended attribute's value.
    ///
    /// # Errors
    /// `NoData`, `NotSupported`, `Range`, `Stale`, `Locked`, `Corrupt`.
    pub fn getxattr(&self, ino: InodeNo, name: &[u8]) -> Result<Vec<u8>> {
        check_name(name)?;
        let _visit = self.enter()?;
        let item = self.inode(ino)?.item()?;
        let flag = flag_of(name) | inode_flags::XATTRS;
        if item.flags & flag != flag {
            return Err(VolumeError::NoData);
        }
        load(self, &*self.backing.view()?, ino, name)?.ok_or(VolumeError::NoData)
    }

    /// The names of all extended attributes, each followed by a NUL.
    ///
    /// # Errors
    /// `Stale`, `Locked`, `Corrupt`.
    pub fn listxattr(&self, ino: InodeNo) -> Result<Vec<u8>> {
        let _visit = self.enter()?;
        if self.inode(ino)?.item()?.flags & inode_flags::XATTRS == 0 {
            return Ok(Vec::new());
        }
        list(&*self.backing.view()?, ino)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoData`, `NotSupported`, `Range`, `NoSpace`, `ReadOnly`, `Stale`, `Locked`.
    pub fn removexattr(&self, ino: InodeNo, name: &[u8]) -> Result<()> {
        check_name(name)?;
        let _visit = self.enter_to_change()?;
        let inode = self.inode(ino)?;
        let _promise = self.backing.reserve(0, 3, Purpose::Shrink)?;
        self.edit(&[&inode], |txn, locked| {
            let mut item = *locked.item(ino)?;
            if !remove(self, txn, ino, &mut item, name)? {
                return Err(VolumeError::NoData);
            }
            item.ctime = now();
            *locked.item(ino)? = item;
            Ok(())
        })
    }
}
