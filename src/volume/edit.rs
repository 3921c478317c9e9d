//! One atomic change of items and of the inodes in memory that belong to them.

use std::sync::Arc;

use crate::base::units::InodeNo;
use crate::sys::sync::{MutexGuard, RwLockReadGuard};
use crate::volume::Volume;
use crate::volume::backing::Edit;
use crate::volume::error::{Result, VolumeError};
use crate::volume::inode::{Inode, State};
use crate::volume::items::{InodeItem, inode_key};

/// The states of the inodes of one change. Unless the change came through, their items are put
/// back as they were when this is dropped.
pub(in crate::volume) struct Locked<'a> {
    states: Vec<LockedState<'a>>,
    through: bool,
}

struct LockedState<'a> {
    ino: InodeNo,
    before: Option<InodeItem>,
    /// Whether the item is stored though it did not change.
    store: bool,
    state: MutexGuard<'a, State>,
}

impl<'a> Locked<'a> {
    /// Locks in ascending order of number; one that is named twice once.
    fn lock(inodes: &[&'a Arc<Inode>]) -> Self {
        let mut sorted = inodes.to_vec();
        sorted.sort_by_key(|inode| inode.ino);
        sorted.dedup_by_key(|inode| inode.ino);
        let states = sorted
            .into_iter()
            .map(|inode| {
                let state = inode.state.lock();
                LockedState { ino: inode.ino, before: state.item, store: false, state }
            })
            .collect();
        Self { states, through: false }
    }

    /// The state of one of the inodes.
    pub fn state(&mut self, ino: InodeNo) -> Result<&mut State> {
        self.states
            .iter_mut()
            .find(|s| s.ino == ino)
            .map(|s| &mut *s.state)
            .ok_or(VolumeError::Stale)
    }

    /// The item of one of the inodes.
    pub fn item(&mut self, ino: InodeNo) -> Result<&mut InodeItem> {
        self.state(ino)?.item_mut()
    }

    /// Stores an inode's item even if this change does not alter it.
    pub fn store(&mut self, ino: InodeNo) {
        self.states.iter_mut().filter(|s| s.ino == ino).for_each(|s| s.store = true);
    }

    fn put_changed(&self, txn: &mut dyn Edit) -> Result<()> {
        for locked in &self.states {
            match locked.state.item {
                Some(item) if locked.store || locked.before != Some(item) => {
                    txn.put(inode_key(locked.ino), &item.encode())?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if !self.through {
            for locked in &mut self.states {
                locked.state.item = locked.before;
            }
        }
    }
}

impl Volume {
    /// Runs `change` as one atomic set of edits, with the states of `inodes` locked until the edits
    /// are in the tree. Items that it changes in memory are stored with them, and put back if the
    /// change fails.
    pub(in crate::volume) fn edit<R>(
        &self,
        inodes: &[&Arc<Inode>],
        change: impl FnOnce(&mut dyn Edit, &mut Locked<'_>) -> Result<R>,
    ) -> Result<R> {
        self.edit_then(inodes, change, |_, _| ())
    }

    /// The same; `after` runs when the edits are in the tree, before the states are unlocked: for
    /// changes of the buffers.
    pub(in crate::volume) fn edit_then<R>(
        &self,
        inodes: &[&Arc<Inode>],
        change: impl FnOnce(&mut dyn Edit, &mut Locked<'_>) -> Result<R>,
        after: impl FnOnce(&mut Locked<'_>, &mut R),
    ) -> Result<R> {
        let mut change = Some(change);
        let mut held: Option<(Locked<'_>, RwLockReadGuard<'_, ()>)> = None;
        let mut answer = None;
        self.backing.transact(&mut |txn| {
            let change = change.take().ok_or(VolumeError::Invalid)?;
            let gate = self.buffer.gate.read();
            let (locked, _gate) = held.insert((Locked::lock(inodes), gate));
            txn.refresh();
            let result = change(txn, locked)?;
            locked.put_changed(txn)?;
            answer = Some(result);
            Ok(())
        })?;
        let (Some((mut locked, _gate)), Some(mut answer)) = (held, answer) else {
            return Err(VolumeError::Invalid);
        };
        locked.through = true;
        after(&mut locked, &mut answer);
        Ok(answer)
    }
}
