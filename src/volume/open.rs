//! Opening a volume: making an empty tree's root, checking the version, taking up what was left
//! half done.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock, Weak};

use crate::base::units::InodeNo;
use crate::sys::sync::{Mutex, Rank};
use crate::volume::attr::FileKind;
use crate::volume::backing::{Backing, Buffers, Purpose};
use crate::volume::buffer::WriteBuffer;
use crate::volume::cache::{InodeCache, LookupCounts};
use crate::volume::error::{Result, VolumeError};
use crate::volume::handles::Handles;
use crate::volume::items::{
    FIRST_INODE, InodeItem, NEXT_INODE_KEY, ROOT_INODE, VOLUME_KEY, VOLUME_VERSION, inode_key,
    truncate_key,
};
use crate::volume::locked::Presence;
use crate::volume::write::now;
use crate::volume::{Volume, VolumeOptions};

/// Inode numbers taken from the tree at once. A crash loses the rest of them: they are never used.
const NUMBERS_BATCH: u64 = 1024;

/// Inode numbers that may be handed out.
#[derive(Default)]
pub(in crate::volume) struct InodeNumbers {
    next: u64,
    end: u64,
}

impl Volume {
    /// Opens a volume over its tree. A writable tree without items gets its root directory; orphans
    /// and truncations that were under way are finished.
    ///
    /// # Errors
    /// `NotSupported` for a tree of a newer version; `Corrupt`, `Io`, `NoSpace`, `Locked`.
    pub fn open_backing(backing: Arc<dyn Backing>, options: VolumeOptions) -> Result<Arc<Self>> {
        let volume = Arc::new(Self {
            inodes: InodeCache::new(options.cached_inodes),
            lookups: LookupCounts::new(),
            handles: Handles::new(),
            buffer: WriteBuffer::new(options.buffer_bytes),
            numbers: Mutex::new(Rank::InodeNumbers, InodeNumbers::default()),
            renames: Mutex::new(Rank::Renames, ()),
            presence: Presence::default(),
            reaper: Arc::default(),
            failed: OnceLock::new(),
            stopped: OnceLock::new(),
            backing,
            options,
        });
        let writable = volume.backing.writable();
        match volume.backing.view()?.get(VOLUME_KEY)? {
            None if writable => volume.make_root()?,
            None => return Err(volume_item_missing()),
            Some(bytes) => check_version(&bytes)?,
        }
        if writable {
            let weak: Weak<Self> = Arc::downgrade(&volume);
            volume.backing.set_buffers(weak as Weak<dyn Buffers>);
            let next = volume.next_inode()?.max(volume.options.inode_floor);
            *volume.numbers.lock() = InodeNumbers { next, end: next };
            volume.finish_truncations()?;
            volume.queue_orphans()?;
            if volume.options.background {
                volume.start_reaper();
            }
        }
        Ok(volume)
    }

    /// Above every inode number that this tree ever gave out.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn next_inode(&self) -> Result<u64> {
        let next = self.backing.view()?.get(NEXT_INODE_KEY)?;
        let next = next.as_deref().and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        next.ok_or_else(volume_item_missing)
    }

    fn make_root(&self) -> Result<()> {
        let mode = FileKind::Directory.mode_type() | 0o755;
        let (uid, gid) = (self.options.root_uid, self.options.root_gid);
        let fresh = InodeItem::new(mode, uid, gid, now());
        let root = InodeItem { nlink: 2, parent: ROOT_INODE.0, ..fresh };
        let _promise = self.backing.reserve(0, 3, Purpose::Grow)?;
        self.edit(&[], |txn, _| {
            txn.put(VOLUME_KEY, &VOLUME_VERSION.to_le_bytes())?;
            txn.put(NEXT_INODE_KEY, &FIRST_INODE.to_le_bytes())?;
            txn.put(inode_key(ROOT_INODE), &root.encode())
        })
    }

    /// An inode number that was never used before.
    pub(in crate::volume) fn new_number(&self) -> Result<InodeNo> {
        let mut numbers = self.numbers.lock();
        if numbers.next == numbers.end {
            let end = numbers.end.checked_add(NUMBERS_BATCH).ok_or(VolumeError::NoSpace)?;
            self.edit(&[], |txn, _| txn.put(NEXT_INODE_KEY, &end.to_le_bytes()))?;
            numbers.end = end;
        }
        let ino = InodeNo(numbers.next);
        numbers.next += 1;
        Ok(ino)
    }

    fn finish_truncations(&self) -> Result<()> {
        let mut found = Vec::new();
        let (first, last) = (truncate_key(InodeNo(0)), truncate_key(InodeNo(u64::MAX)));
        self.backing.view()?.range(first, last, &mut |key, value| {
            let from: Option<[u8; 8]> = value.try_into().ok();
            found.push((InodeNo(key.offset), from.map(u64::from_le_bytes)));
            ControlFlow::Continue(())
        })?;
        for (ino, from) in found {
            let from = from.ok_or(VolumeError::corrupt_item("a truncation cannot be read", ino))?;
            let finished = self.inode(ino).and_then(|inode| {
                let _op = inode.op.lock();
                inode.state.lock().truncating = Some(from);
                self.finish_truncation(&inode)
            });
            match finished {
                // The next change of the file tries again.
                Err(error @ (VolumeError::NoSpace | VolumeError::Corrupt { .. })) => {
                    log::warn!("inode {ino}: a truncation cannot be finished yet: {error}");
                }
                done => done?,
            }
        }
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.reaper.end();
    }
}

fn volume_item_missing() -> VolumeError {
    VolumeError::Corrupt {
        what: "the volume's own items are missing",
        ino: None,
        offset: None,
        addr: None,
    }
}

fn check_version(bytes: &[u8]) -> Result<()> {
    match <[u8; 2]>::try_from(bytes).map(u16::from_le_bytes) {
        Ok(VOLUME_VERSION) => Ok(()),
        Ok(_) => Err(VolumeError::NotSupported),
        Err(_) => Err(volume_item_missing()),
    }
}
