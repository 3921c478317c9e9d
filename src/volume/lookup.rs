//! Finding inodes by name, and what the kernel holds of them.

use std::sync::Arc;

use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::attr::{Attr, Entry, FileKind, INODE_GENERATION};
use crate::volume::entries::check_name;
use crate::volume::error::{Result, VolumeError};
use crate::volume::inode::Inode;
use crate::volume::stand_in;

impl Volume {
    /// The inode of a name. Counts a lookup, which [`Volume::forget`] takes back. `.` and `..` are
    /// found too. For an inode that cannot be read there is a stand-in, counted and forgotten by
    /// its own number: its name can be seen and taken away.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NameTooLong`, `Stale`, `Locked`, `Io`; `Corrupt`, where the
    /// directory cannot be read.
    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Entry> {
        let _visit = self.enter()?;
        loop {
            let (ino, kind) = self.resolve(parent, name)?;
            // The name may have gone since, and the inode with it: then look again.
            let error = match self.inode(ino).and_then(|inode| self.count_lookup(&inode)) {
                Err(VolumeError::Stale) if self.resolve(parent, name) == Ok((ino, kind)) => {
                    let what = "a name leads to an inode that is not there";
                    VolumeError::corrupt_item(what, ino)
                }
                Err(VolumeError::Stale) => continue,
                Err(error @ VolumeError::Corrupt { .. }) => error,
                answer => return answer,
            };
            let Some(kind) = kind else { return Err(error) };
            let attr = self.stand_in(ino, kind);
            return Ok(Entry { attr, generation: INODE_GENERATION, unreadable: Some(error) });
        }
    }

    /// The inode of a name, and its kind as the entry states it: `.` and `..` have no entry.
    fn resolve(&self, parent: InodeNo, name: &[u8]) -> Result<(InodeNo, Option<FileKind>)> {
        let directory = self.directory(parent)?;
        match name {
            b"." => return Ok((parent, None)),
            b".." => return directory.item().map(|item| (InodeNo(item.parent), None)),
            _ => check_name(name)?,
        }
        let found = self.find_entry(&*self.backing.view()?, parent, name)?;
        found.map(|f| (f.entry.ino, Some(f.entry.kind))).ok_or(VolumeError::NotFound)
    }

    /// Attributes, with one lookup counted while the inode certainly is.
    pub(in crate::volume) fn count_lookup(&self, inode: &Arc<Inode>) -> Result<Entry> {
        let state = inode.state.lock();
        if state.dying {
            return Err(VolumeError::Stale);
        }
        let attr = state.item()?.attr(inode.ino, state.pages.len() as u64);
        self.lookups.raise(inode.ino);
        Ok(Entry::of(attr))
    }

    /// Takes `n` lookups back. An inode without a name, handles and lookups is freed.
    pub fn forget(&self, ino: InodeNo, n: u64) {
        if self.lookups.lower(ino, n) {
            self.free_if_unused(ino);
        }
    }

    /// Takes every lookup and every handle back: the session has ended, and nothing that it held is
    /// held any more.
    pub fn end_session(&self) {
        self.handles.clear(self);
        for ino in self.lookups.clear() {
            self.free_if_unused(ino);
        }
    }

    /// Inodes that the kernel holds by lookups.
    #[must_use]
    pub fn inodes_looked_up(&self) -> usize {
        self.lookups.len()
    }

    /// Attributes, of a stand-in too.
    ///
    /// # Errors
    /// `Stale`, `Locked`, `Corrupt`.
    pub fn getattr(&self, ino: InodeNo) -> Result<Attr> {
        let _visit = self.enter()?;
        match stand_in::attr(ino) {
            Some(attr) => Ok(attr),
            None => self.inode(ino)?.attr(),
        }
    }
}
