//! Durability: fsync of files and directories.

use crate::base::units::InodeNo;
use crate::volume::Volume;
use crate::volume::error::{Result, VolumeError};

impl Volume {
    /// Makes durable everything of this volume that was acknowledged before the call, the inode's
    /// data and attributes among it; `datasync` promises no less.
    ///
    /// # Errors
    /// `WriteLost` from the first failure on, for good; `PoolReadOnly`, `Io`, `Stale`, `Locked`.
    pub fn fsync(&self, ino: InodeNo, _datasync: bool) -> Result<()> {
        let _visit = self.enter()?;
        let inode = self.inode(ino)?;
        if !self.backing.writable() {
            return Ok(());
        }
        inode.state.lock().check_lost()?;
        self.commit()?;
        inode.state.lock().check_lost()
    }

    /// The same for a directory.
    ///
    /// # Errors
    /// As [`Volume::fsync`].
    pub fn fsyncdir(&self, ino: InodeNo, datasync: bool) -> Result<()> {
        self.fsync(ino, datasync)
    }

    /// Makes durable everything that was acknowledged before the call.
    ///
    /// # Errors
    /// As [`Volume::fsync`].
    pub fn sync(&self) -> Result<()> {
        let _visit = self.enter()?;
        if self.backing.writable() { self.commit() } else { Ok(()) }
    }

    fn commit(&self) -> Result<()> {
        self.check_failed()?;
        let result = self.backing.commit();
        match &result {
            Ok(()) | Err(VolumeError::Locked) => {}
            Err(_) => {
                let _ = self.failed.set("a commit failed");
            }
        }
        result
    }
}
