//! An inode in memory: its item as it is now, its buffered pages, its handles.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use zeroize::Zeroize;

use crate::base::units::{BLOCK_SIZE, InodeNo};
use crate::sys::sync::{Mutex, Rank};
use crate::volume::Volume;
use crate::volume::attr::Attr;
use crate::volume::backing::Reservation;
use crate::volume::error::{Result, VolumeError};
use crate::volume::items::{InodeItem, inode_key};
use crate::volume::stand_in;

/// One inode. There is never more than one of the same number (see [`crate::volume::cache`]).
pub(in crate::volume) struct Inode {
    pub ino: InodeNo,
    /// Held by what changes the content, over its I/O.
    pub op: Mutex<()>,
    pub state: Mutex<State>,
}

/// What is known of an inode. `item` is the truth, ahead of the tree while `unsaved`.
#[derive(Default)]
pub(in crate::volume) struct State {
    /// `None` until loaded, and after the inode is gone.
    pub item: Option<InodeItem>,
    /// Whether `item` holds changes by buffered writes that the tree has not.
    pub unsaved: bool,
    /// Buffered blocks, by block number in the file.
    pub pages: BTreeMap<u64, BufferedPage>,
    /// Space promised for `pages`.
    pub promised: Promises,
    /// Why accepted data of this inode was lost. Never cleared.
    pub lost: Option<&'static str>,
    /// Open handles.
    pub handles: u32,
    /// Whether it is being freed: no name, no handle, no lookup.
    pub dying: bool,
    /// The block from which on a truncation has extents to free yet: the intent is in the tree.
    /// Nothing may grow the file before they are gone, and the inode stays in memory.
    pub truncating: Option<u64>,
}

/// Space promised for buffered pages, oldest first: never less than they need, and no promise more.
#[derive(Default)]
pub(in crate::volume) struct Promises {
    kept: VecDeque<Reservation>,
    blocks: u64,
}

impl Promises {
    /// Keeps one more.
    pub fn keep(&mut self, promise: Reservation) {
        self.blocks += promise.data_blocks;
        self.kept.push_back(promise);
    }

    /// Gives back what `pages` buffered pages do not need. Promises are not split, so up to one
    /// write's worth stays beyond the need.
    pub fn shrink_to(&mut self, pages: usize) {
        while let Some(oldest) = self.kept.front() {
            let without = self.blocks - oldest.data_blocks;
            if without < pages as u64 {
                return;
            }
            self.blocks = without;
            self.kept.pop_front();
        }
    }

    #[cfg(test)]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }
}

/// A buffered block; a page is never changed, only replaced.
#[derive(Clone)]
pub(in crate::volume) struct BufferedPage {
    pub page: Arc<Page>,
    /// Differs for each content a block had while buffered.
    pub version: u64,
}

/// One block of plaintext, erased when dropped.
pub(in crate::volume) struct Page(pub Box<[u8; BLOCK_SIZE]>);

impl Page {
    pub fn zeroed() -> Self {
        Self(Box::new([0; BLOCK_SIZE]))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl State {
    /// The item of an inode that still is.
    pub fn item(&self) -> Result<&InodeItem> {
        self.item.as_ref().ok_or(VolumeError::Stale)
    }
    /// The same, to change it.
    pub fn item_mut(&mut self) -> Result<&mut InodeItem> {
        self.item.as_mut().ok_or(VolumeError::Stale)
    }
    /// That no accepted data was lost.
    pub fn check_lost(&self) -> Result<()> {
        self.lost.map_or(Ok(()), |why| Err(VolumeError::WriteLost(why)))
    }
}

impl Inode {
    pub fn new(ino: InodeNo) -> Self {
        Self {
            ino,
            op: Mutex::numbered(Rank::InodeOperation, ino.0, ()),
            state: Mutex::numbered(Rank::InodeState, ino.0, State::default()),
        }
    }
    /// Attributes now.
    pub fn attr(&self) -> Result<Attr> {
        let state = self.state.lock();
        Ok(state.item()?.attr(self.ino, state.pages.len() as u64))
    }
    /// The item now.
    pub fn item(&self) -> Result<InodeItem> {
        self.state.lock().item().copied()
    }
}

impl Volume {
    /// The inode, loaded. It stays in memory while the caller holds it.
    ///
    /// The item is read under the inode's own state lock, from a view taken under that lock: who
    /// changes the item holds it until the change is in the tree, so no old item is ever loaded.
    pub(in crate::volume) fn inode(&self, ino: InodeNo) -> Result<Arc<Inode>> {
        if let Some(error) = stand_in::refused(ino) {
            return Err(error);
        }
        let inode = self.inodes.get_or_insert(ino);
        let mut state = inode.state.lock();
        if state.item.is_none() {
            let loaded = match state.dying {
                true => Err(VolumeError::Stale),
                false => self.load_item(ino),
            };
            match loaded {
                Ok(item) => state.item = Some(item),
                Err(error) => {
                    drop(state);
                    self.inodes.remove_unused(inode);
                    return Err(error);
                }
            }
        }
        drop(state);
        Ok(inode)
    }

    fn load_item(&self, ino: InodeNo) -> Result<InodeItem> {
        if ino.0 == 0 {
            return Err(VolumeError::Stale);
        }
        let stored = self.backing.view()?.get(inode_key(ino)).map_err(|error| error.of(ino))?;
        let bytes = stored.ok_or(VolumeError::Stale)?;
        InodeItem::decode(&bytes)
            .map_err(|_| VolumeError::corrupt_item("an inode item cannot be read", ino))
    }

    /// The directory of that number.
    pub(in crate::volume) fn directory(&self, ino: InodeNo) -> Result<Arc<Inode>> {
        let inode = self.inode(ino)?;
        if !inode.item()?.is_dir() {
            return Err(VolumeError::NotDirectory);
        }
        Ok(inode)
    }

    /// The regular file of that number.
    pub(in crate::volume) fn file(&self, ino: InodeNo) -> Result<Arc<Inode>> {
        let inode = self.inode(ino)?;
        let item = inode.item()?;
        match (item.is_file(), item.is_dir()) {
            (true, _) => Ok(inode),
            (_, true) => Err(VolumeError::IsDirectory),
            _ => Err(VolumeError::Invalid),
        }
    }
}
