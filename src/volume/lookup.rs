//! Finding inodes by name, and what the kernel holds of them.

use std::sync::Arc;

use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::attr::{Attr, Entry, INODE_GENERATION};
use crate::volume::entries::check_name;
use crate::volume::error::{Result, VolumeError};
use crate::volume::inode::Inode;

impl Volume {
    /// The inode of a name. Counts a lookup, which [`Volume::forget`] takes back. `.` and `..` are
    /// found too.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NameTooLong`, `Stale`, `Locked`, `Corrupt`.
    pub fn lookup(&self, parent: InodeNo, name: &[u8]) -> Result<Entry> {
        let _visit = self.enter()?;
        loop {
            let ino = self.resolve(parent, name)?;
            // The name may have gone since, and the inode with it: then look again.
            match self.inode(ino).and_then(|inode| self.count_lookup(&inode)) {
                Err(VolumeError::Stale) if self.resolve(parent, name) == Ok(ino) => {
                    let what = "a name leads to an inode that is not there";
                    return Err(VolumeError::corrupt_item(what, ino));
                }
                Err(VolumeError::Stale) => {}
                answer => return answer,
            }
        }
    }

    fn resolve(&self, parent: InodeNo, name: &[u8]) -> Result<InodeNo> {
        let directory = self.directory(parent)?;
        match name {
            b"." => return Ok(parent),
            b".." => return directory.item().map(|item| InodeNo(item.parent)),
            _ => check_name(name)?,
        }
        let view = self.backing.view()?;
        self.find_entry(&*view, parent, name)?.map(|f| f.entry.ino).ok_or(VolumeError::NotFound)
    }

    /// Attributes, with one lookup counted while the inode certainly is.
    pub(in crate::volume) fn count_lookup(&self, inode: &Arc<Inode>) -> Result<Entry> {
        let state = inode.state.lock();
        if state.dying {
            return Err(VolumeError::Stale);
        }
        let attr = state.item()?.attr(inode.ino, state.pages.len() as u64);
        self.lookups.raise(inode.ino);
        Ok(Entry { attr, generation: INODE_GENERATION })
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

    /// Attributes.
    ///
    /// # Errors
    /// `Stale`, `Locked`, `Corrupt`.
    pub fn getattr(&self, ino: InodeNo) -> Result<Attr> {
        let _visit = self.enter()?;
        self.inode(ino)?.attr()
    }
}
