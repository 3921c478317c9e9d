//! Open files and directories.
//!
//! A handle keeps its inode in memory and, without a name, alive. Nothing dirty belongs to it: a
//! write can come after its RELEASE. What opened for writing is the snapshot barrier's set.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::units::InodeNo;
use crate::sys::sync::{Mutex, Rank};
use crate::volume::Volume;
use crate::volume::attr::{HandleId, INODE_GENERATION, OpenFlags};
use crate::volume::error::{Result, VolumeError};
use crate::volume::inode::Inode;

/// Handles by number.
pub(in crate::volume) struct Handles {
    table: Mutex<HashMap<HandleId, Handle>>,
    next: AtomicU64,
    /// Handles open for writing, by inode.
    writers: Mutex<BTreeMap<InodeNo, u32>>,
}

struct Handle {
    inode: Arc<Inode>,
    write: bool,
}

impl Handles {
    pub fn new() -> Self {
        Self {
            table: Mutex::new(Rank::Handles, HashMap::new()),
            next: AtomicU64::new(1),
            writers: Mutex::new(Rank::Writers, BTreeMap::new()),
        }
    }

    /// A handle of an inode that still is.
    pub fn add(&self, inode: &Arc<Inode>, write: bool) -> Result<HandleId> {
        {
            let mut state = inode.state.lock();
            if state.dying || state.item.is_none() {
                return Err(VolumeError::Stale);
            }
            state.handles += 1;
            if write {
                *self.writers.lock().entry(inode.ino).or_insert(0) += 1;
            }
        }
        let id = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.table.lock().insert(id, Handle { inode: Arc::clone(inode), write });
        Ok(id)
    }

    /// Takes a handle away; the inode, if it was the last.
    fn remove(&self, id: HandleId) -> Result<Option<InodeNo>> {
        let handle = self.table.lock().remove(&id).ok_or(VolumeError::BadHandle)?;
        let ino = handle.inode.ino;
        if handle.write {
            let mut writers = self.writers.lock();
            if let Some(count) = writers.get_mut(&ino) {
                *count -= 1;
                if *count == 0 {
                    writers.remove(&ino);
                }
            }
        }
        let mut state = handle.inode.state.lock();
        state.handles -= 1;
        Ok((state.handles == 0).then_some(ino))
    }

    /// Takes every handle away.
    pub fn clear(&self, volume: &Volume) {
        let ids: Vec<HandleId> = self.table.lock().keys().copied().collect();
        for id in ids {
            if let Ok(Some(ino)) = self.remove(id) {
                volume.free_if_unused(ino);
            }
        }
    }
}

impl Volume {
    /// Opens a regular file (device files and pipes are the kernel's). The handle counts before
    /// this returns.
    ///
    /// # Errors
    /// `IsDirectory`, `ReadOnly`, `Stale`, `Locked`, and those of a truncation.
    pub fn open(&self, ino: InodeNo, flags: OpenFlags) -> Result<HandleId> {
        let _visit =
            if flags.write || flags.truncate { self.enter_to_change()? } else { self.enter()? };
        let inode = self.file(ino)?;
        let handle = self.handles.add(&inode, flags.write)?;
        if flags.truncate
            && let Err(error) = self.truncate_inode(&inode, 0, &|_| ())
        {
            let _ = self.handles.remove(handle);
            return Err(error);
        }
        Ok(handle)
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`, `Locked`.
    pub fn opendir(&self, ino: InodeNo) -> Result<HandleId> {
        let _visit = self.enter()?;
        self.handles.add(&self.directory(ino)?, false)
    }

    /// Closes a handle of a file or directory. Promises nothing about data.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn release(&self, handle: HandleId) -> Result<()> {
        if let Some(ino) = self.handles.remove(handle)? {
            self.free_if_unused(ino);
        }
        Ok(())
    }

    /// What close(2) reports: whether accepted data of the inode was lost. Writes nothing.
    ///
    /// # Errors
    /// `WriteLost`, `Stale`, `Locked`.
    pub fn flush(&self, ino: InodeNo) -> Result<()> {
        let _visit = self.enter()?;
        self.inode(ino)?.state.lock().check_lost()
    }

    /// Inodes with handles open for writing, with their generations: what the snapshot barrier must
    /// write back. A mapping keeps its handle after close(2).
    #[must_use]
    pub fn write_handles(&self) -> Vec<(InodeNo, u64)> {
        self.handles.writers.lock().keys().map(|ino| (*ino, INODE_GENERATION)).collect()
    }

    /// Open handles.
    #[must_use]
    pub fn open_handles(&self) -> usize {
        self.handles.table.lock().len()
    }
}
