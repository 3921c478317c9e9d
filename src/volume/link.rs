//! Names given and taken: link, unlink, rmdir.

use std::sync::Arc;

use crate::base::limits::LINKS_MAX;
use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::attr::{Entry, FileTime, INODE_GENERATION};
use crate::volume::backing::{Edit, Purpose};
use crate::volume::edit::Locked;
use crate::volume::entries::{Found, check_name};
use crate::volume::error::{Result, VolumeError};
use crate::volume::inode::Inode;
use crate::volume::items::{InodeItem, orphan_key};
use crate::volume::write::now;

impl Volume {
    /// Gives an inode another name. Counts a lookup.
    ///
    /// # Errors
    /// `Exists`, `Perm` (a directory), `TooManyLinks`, `NotFound` (the inode has lost its last
    /// name, or the directory has been removed), `NotDirectory`, `NameTooLong`, `NoSpace`,
    /// `ReadOnly`, `Locked`.
    pub fn link(&self, ino: InodeNo, new_parent: InodeNo, new_name: &[u8]) -> Result<Entry> {
        check_name(new_name)?;
        let _visit = self.enter_to_change()?;
        let directory = self.directory(new_parent)?;
        let inode = self.inode(ino)?;
        if inode.item()?.is_dir() {
            return Err(VolumeError::Perm);
        }
        if self.find_entry(&*self.backing.view()?, new_parent, new_name)?.is_some() {
            return Err(VolumeError::Exists);
        }
        let _promise = self.backing.reserve(0, 3, Purpose::Grow)?;
        let change = |txn: &mut dyn Edit, locked: &mut Locked<'_>| {
            if locked.item(new_parent)?.nlink == 0 {
                return Err(VolumeError::NotFound);
            }
            let time = now();
            let item = locked.item(ino)?;
            match item.nlink {
                0 => return Err(VolumeError::NotFound),
                n if n >= LINKS_MAX => return Err(VolumeError::TooManyLinks),
                _ => item.nlink += 1,
            }
            item.ctime = time;
            let kind = item.kind();
            self.insert_entry(txn, new_parent, new_name, ino, kind)?;
            name_added(locked.item(new_parent)?, false, time);
            let state = locked.state(ino)?;
            let attr = state.item()?.attr(ino, state.pages.len() as u64);
            Ok(Entry { attr, generation: INODE_GENERATION })
        };
        // The lookup is counted while the name cannot be taken away again.
        self.edit_then(&[&directory, &inode], change, |_, _| self.lookups.raise(ino))
    }

    /// Takes a name of anything but a directory away. Without names, handles and lookups the inode
    /// is freed.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `NotDirectory`, `NameTooLong`, `NoSpace` (only when even the
    /// reserve for deletions is used up), `ReadOnly`, `Locked`.
    pub fn unlink(&self, parent: InodeNo, name: &[u8]) -> Result<()> {
        self.take_name(parent, name, false)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As [`Volume::unlink`]; `NotEmpty`, `NotDirectory`.
    pub fn rmdir(&self, parent: InodeNo, name: &[u8]) -> Result<()> {
        match name {
            b"." => Err(VolumeError::Invalid),
            b".." => Err(VolumeError::NotEmpty),
            _ => self.take_name(parent, name, true),
        }
    }

    fn take_name(&self, parent: InodeNo, name: &[u8], want_dir: bool) -> Result<()> {
        check_name(name)?;
        let _visit = self.enter_to_change()?;
        let directory = self.directory(parent)?;
        let _promise = self.backing.reserve(0, 4, Purpose::Shrink)?;
        loop {
            let Some(inode) = self.inode_of_name(parent, name)? else {
                return Err(VolumeError::NotFound);
            };
            let done = self.edit(&[&directory, &inode], |txn, locked| {
                let Some(found) = self.find_entry(txn, parent, name)? else {
                    return Err(VolumeError::NotFound);
                };
                if found.entry.ino != inode.ino {
                    return Ok(false);
                }
                match (want_dir, locked.item(inode.ino)?.is_dir()) {
                    (true, false) => return Err(VolumeError::NotDirectory),
                    (false, true) => return Err(VolumeError::IsDirectory),
                    _ => {}
                }
                remove_name(txn, locked, parent, &found, now())?;
                Ok(true)
            })?;
            if done {
                self.free_if_unused(inode.ino);
                return Ok(());
            }
        }
    }

    /// The inode that a name leads to now.
    pub(in crate::volume) fn inode_of_name(
        &self,
        parent: InodeNo,
        name: &[u8],
    ) -> Result<Option<Arc<Inode>>> {
        loop {
            let ino_now = || -> Result<Option<InodeNo>> {
                let view = self.backing.view()?;
                Ok(self.find_entry(&*view, parent, name)?.map(|f| f.entry.ino))
            };
            let Some(ino) = ino_now()? else { return Ok(None) };
            match self.inode(ino) {
                // Gone since we looked; look again, unless the name still leads there.
                Err(VolumeError::Stale) if ino_now()? != Some(ino) => {}
                Err(VolumeError::Stale) => {
                    let what = "a name leads to an inode that is not there";
                    return Err(VolumeError::corrupt_item(what, ino));
                }
                inode => return inode.map(Some),
            }
        }
    }
}

/// A directory has got a name more.
pub(in crate::volume) fn name_added(parent: &mut InodeItem, of_dir: bool, time: FileTime) {
    parent.entries += 1;
    parent.nlink += u32::from(of_dir);
    parent.mtime = time;
    parent.ctime = time;
}

/// A directory has a name less.
pub(in crate::volume) fn name_removed(parent: &mut InodeItem, of_dir: bool, time: FileTime) {
    parent.entries = parent.entries.saturating_sub(1);
    parent.nlink = parent.nlink.saturating_sub(u32::from(of_dir));
    parent.mtime = time;
    parent.ctime = time;
}

/// Removes an entry and what it counts for, on both sides. A directory must be empty.
pub(in crate::volume) fn remove_name(
    txn: &mut dyn Edit,
    locked: &mut Locked<'_>,
    parent: InodeNo,
    found: &Found,
    time: FileTime,
) -> Result<()> {
    let is_dir = locked.item(found.entry.ino)?.is_dir();
    txn.remove(found.key)?;
    name_lost(txn, locked, found.entry.ino, time)?;
    name_removed(locked.item(parent)?, is_dir, time);
    Ok(())
}

/// Counts a name less of an inode, and marks it as an orphan when it was the last.
pub(in crate::volume) fn name_lost(
    txn: &mut dyn Edit,
    locked: &mut Locked<'_>,
    ino: InodeNo,
    time: FileTime,
) -> Result<()> {
    let item = locked.item(ino)?;
    if item.is_dir() {
        if item.entries > 0 {
            return Err(VolumeError::NotEmpty);
        }
        item.nlink = 0;
    } else {
        item.nlink = item.nlink.saturating_sub(1);
    }
    item.ctime = time;
    if item.nlink == 0 {
        txn.put(orphan_key(ino), &[])?;
    }
    Ok(())
}
