//! Names given and taken: link, unlink, rmdir.
//!
//! A name is taken away also where the inode that it leads to cannot be read: a damaged file can
//! always be deleted. Then the name goes, counted in its directory, and nothing else: what is left
//! of the inode stays, with no mark to be freed, since nobody knows whether it has other names.

use std::sync::Arc;

use crate::base::limits::LINKS_MAX;
use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::attr::{Entry, FileKind, FileTime};
use crate::volume::backing::{Edit, Purpose};
use crate::volume::edit::Locked;
use crate::volume::entries::{Found, check_name};
use crate::volume::error::{Result, VolumeError};
use crate::volume::inode::Inode;
use crate::volume::items::{InodeItem, inode_key, orphan_key};
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
            Ok(Entry::of(attr))
        };
        // The lookup is counted while the name cannot be taken away again.
        self.edit_then(&[&directory, &inode], change, |_, _| self.lookups.raise(ino))
    }

    /// Takes a name of anything but a directory away. Without names, handles and lookups the inode
    /// is freed, if it can be read.
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
    /// As [`Volume::unlink`]; `NotEmpty`, `NotDirectory`; `Corrupt`, where it cannot be read: what
    /// is in it would be lost from sight.
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
            let target = self.target(parent, name)?.ok_or(VolumeError::NotFound)?;
            let ino = target.ino;
            let take = |target: &Target| self.take_once(&directory, name, target, want_dir);
            if target.taken_by(take)? {
                self.free_if_unused(ino);
                return Ok(());
            }
        }
    }

    /// False: the name leads elsewhere by now, look again.
    fn take_once(
        &self,
        directory: &Arc<Inode>,
        name: &[u8],
        target: &Target,
        want_dir: bool,
    ) -> Result<bool> {
        let parent = directory.ino;
        let inodes: Vec<&Arc<Inode>> = [directory].into_iter().chain(&target.inode).collect();
        self.edit(&inodes, |txn, locked| {
            let found = self.find_entry(txn, parent, name)?.ok_or(VolumeError::NotFound)?;
            if !target.is_at(txn, &found)? {
                return Ok(false);
            }
            let is_dir = target.is_dir(locked, &found)?;
            match (want_dir, is_dir) {
                (true, false) => return Err(VolumeError::NotDirectory),
                (false, true) => return Err(VolumeError::IsDirectory),
                _ => {}
            }
            let time = now();
            txn.remove(found.key)?;
            target.name_lost(txn, locked, time)?;
            name_removed(locked.item(parent)?, is_dir, time);
            Ok(true)
        })
    }

    /// What a name that is to be taken away leads to now.
    pub(in crate::volume) fn target(&self, parent: InodeNo, name: &[u8]) -> Result<Option<Target>> {
        match self.inode_of_name(parent, name) {
            Err(VolumeError::Corrupt { .. }) => {
                let found = self.find_entry(&*self.backing.view()?, parent, name)?;
                Ok(found.map(|found| Target { ino: found.entry.ino, inode: None }))
            }
            found => Ok(found?.map(|inode| Target { ino: inode.ino, inode: Some(inode) })),
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

/// An inode that is to lose a name.
pub(in crate::volume) struct Target {
    pub ino: InodeNo,
    /// `None`: it cannot be read.
    pub inode: Option<Arc<Inode>>,
}

impl Target {
    /// Takes the name away by `change`, which is told to do without the inode where what is stored
    /// of it cannot be read. False: the name leads elsewhere.
    pub fn taken_by(mut self, change: impl Fn(&Self) -> Result<bool>) -> Result<bool> {
        let mut done = change(&self);
        // Known from before, and no change of it can be stored: as if it were not known.
        if matches!(done, Err(VolumeError::Corrupt { .. })) && self.inode.take().is_some() {
            done = if change(&self) == Ok(true) { Ok(true) } else { done };
        }
        if self.inode.is_none() && done == Ok(true) {
            log::warn!(
                "inode {}: it cannot be read, and a name of it was taken away; its blocks stay in \
                 use",
                self.ino
            );
        }
        done
    }

    /// Whether the entry leads here still, and the inode is as it was found. The states are locked.
    pub fn is_at(&self, txn: &dyn Edit, found: &Found) -> Result<bool> {
        if found.entry.ino != self.ino {
            return Ok(false);
        }
        if self.inode.is_some() {
            return Ok(true);
        }
        match txn.get(inode_key(self.ino)) {
            Ok(item) => Ok(item.is_none_or(|bytes| InodeItem::decode(&bytes).is_err())),
            Err(VolumeError::Corrupt { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether it is a directory, which must be one that can be read.
    pub fn is_dir(&self, locked: &mut Locked<'_>, found: &Found) -> Result<bool> {
        match (&self.inode, found.entry.kind) {
            (Some(inode), _) => Ok(locked.item(inode.ino)?.is_dir()),
            (None, FileKind::Directory) => {
                Err(VolumeError::corrupt_item("a directory cannot be read", self.ino))
            }
            (None, _) => Ok(false),
        }
    }

    /// Counts a name less, and marks the inode as an orphan when it was the last. A directory must
    /// be empty.
    pub fn name_lost(
        &self,
        txn: &mut dyn Edit,
        locked: &mut Locked<'_>,
        time: FileTime,
    ) -> Result<()> {
        let Some(inode) = &self.inode else { return Ok(()) };
        let item = locked.item(inode.ino)?;
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
            txn.put(orphan_key(inode.ino), &[])?;
        }
        Ok(())
    }
}
