//! Freeing inodes that have lost their last name: at once where they are small, in bounded steps
//! by a thread of the volume's own where they are large (engine rule 21), and when the head is
//! opened after a crash.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::base::units::InodeNo;
use crate::sys::sync::{Condvar, Mutex, Rank};
use crate::sys::threads;
use crate::volume::Volume;
use crate::volume::backing::{Edit, Key, Purpose};
use crate::volume::error::{Result, VolumeError};
use crate::volume::extents::{self, BLOCKS_END, STEP_ITEMS};
use crate::volume::inode::Inode;
use crate::volume::items::{kind, orphan_key, truncate_key};

/// Rest after a step that failed: space may come back, and so may the device.
const REST: Duration = Duration::from_secs(1);

/// Inodes that wait to be freed, in order.
pub(in crate::volume) struct Reaper {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<InodeNo>,
    ended: bool,
}

impl Default for Reaper {
    fn default() -> Self {
        Self { queue: Mutex::new(Rank::ReaperQueue, Queue::default()), more: Condvar::new() }
    }
}

impl Reaper {
    fn add(&self, ino: InodeNo) {
        self.queue.lock().waiting.push_back(ino);
        self.more.notify_one();
    }

    /// Ends the thread.
    pub fn end(&self) {
        self.queue.lock().ended = true;
        self.more.notify_all();
    }

    /// Waits for something to do: false at the end.
    fn wait(&self) -> bool {
        let queue = self.queue.lock();
        !self.more.wait_while(queue, |q| q.waiting.is_empty() && !q.ended).ended
    }

    /// Waits a while, or until the end.
    fn rest(&self) {
        let queue = self.queue.lock();
        let _ = self.more.wait_timeout_while(queue, REST, |q| !q.ended);
    }
}

impl Volume {
    /// Starts the thread that frees what is queued. It holds the volume only while it works.
    pub(in crate::volume) fn start_reaper(self: &Arc<Self>) {
        let volume: Weak<Self> = Arc::downgrade(self);
        let reaper = Arc::clone(&self.reaper);
        threads::spawn("volume-reaper", move || {
            while reaper.wait() {
                let Some(volume) = volume.upgrade() else { return };
                let step = volume.background_step();
                drop(volume);
                match step {
                    Ok(_) => {}
                    // Nothing changes any more; what is left is found at the next opening.
                    Err(
                        VolumeError::ReadOnly
                        | VolumeError::PoolReadOnly(_)
                        | VolumeError::Locked
                        | VolumeError::WriteLost(_),
                    ) => return,
                    Err(_) => reaper.rest(),
                }
            }
        });
    }

    /// Queues every orphan that a crash or a snapshot left.
    pub(in crate::volume) fn queue_orphans(&self) -> Result<()> {
        let mut found = Vec::new();
        let view = self.backing.view()?;
        view.range(orphan_key(InodeNo(0)), orphan_key(InodeNo(u64::MAX)), &mut |key, _| {
            found.push(InodeNo(key.offset));
            ControlFlow::Continue(())
        })?;
        found.into_iter().for_each(|ino| {
            if let Ok(inode) = self.inode(ino) {
                inode.state.lock().dying = true;
                self.reaper.add(ino);
            }
        });
        Ok(())
    }

    /// One bounded step of freeing. Whether there is more to do. An inode whose step failed stays
    /// queued, behind the others.
    ///
    /// # Errors
    /// The pool's.
    pub fn background_step(&self) -> Result<bool> {
        let _visit = self.enter_to_change()?;
        let next = self.reaper.queue.lock().waiting.pop_front();
        let Some(ino) = next else { return Ok(false) };
        let step = match self.dying_inode(ino) {
            Ok(inode) => self.free_step(&inode),
            Err(VolumeError::Stale) => Ok(true),
            Err(error) => Err(error),
        };
        if !matches!(step, Ok(true)) {
            self.reaper.add(ino);
        }
        step?;
        Ok(!self.reaper.queue.lock().waiting.is_empty())
    }

    fn dying_inode(&self, ino: InodeNo) -> Result<Arc<Inode>> {
        let known = self.inodes.peek(ino).filter(|inode| inode.state.lock().dying);
        if let Some(inode) = known {
            return Ok(inode);
        }
        // Queued at opening, and out of the cache since.
        let inode = self.inode(ino)?;
        inode.state.lock().dying = true;
        Ok(inode)
    }

    /// Frees an inode that has no name, no handle and no lookup. Errors are left to the next
    /// opening: the orphan's mark is in the tree.
    pub(in crate::volume) fn free_if_unused(&self, ino: InodeNo) {
        let Ok(_visit) = self.enter_to_change() else { return };
        // The cache keeps inodes without a name.
        let Some(inode) = self.inodes.peek(ino) else { return };
        {
            let mut state = inode.state.lock();
            let named = state.item.is_none_or(|item| item.nlink > 0);
            if named || state.dying || state.handles > 0 || self.lookups.holds(ino) {
                return;
            }
            state.dying = true;
        }
        match self.free_step(&inode) {
            Ok(true) => {}
            Ok(false) | Err(_) => self.reaper.add(ino),
        }
    }

    /// Frees one step's worth of a dying inode; whether it is gone.
    fn free_step(&self, inode: &Arc<Inode>) -> Result<bool> {
        let ino = inode.ino;
        let _op = inode.op.lock();
        let _promise = self.backing.reserve(0, 4, Purpose::Shrink)?;
        let gone = self.edit_then(
            &[inode],
            |txn, locked| {
                let Some(mut item) = locked.state(ino)?.item else { return Ok(true) };
                let done = extents::clear(txn, ino, &mut item, 0, BLOCKS_END)?;
                if done < BLOCKS_END || !remove_items(txn, ino)? {
                    locked.state(ino)?.item = Some(item);
                    return Ok(false);
                }
                txn.remove(orphan_key(ino))?;
                txn.remove(truncate_key(ino))?;
                locked.state(ino)?.item = None;
                Ok(true)
            },
            |locked, gone| {
                if let Ok(state) = locked.state(ino)
                    && *gone
                {
                    self.buffer.forget_pages(state, 0..u64::MAX);
                    state.unsaved = false;
                    state.truncating = None;
                    self.buffer.clean(inode, state);
                }
            },
        )?;
        Ok(gone)
    }
}

/// Removes an inode's items but for extents, a step's worth; whether none is left.
fn remove_items(txn: &mut dyn Edit, ino: InodeNo) -> Result<bool> {
    let mut keys = Vec::new();
    let first = Key { object: ino.0, kind: 0, offset: 0 };
    let last = Key { object: ino.0, kind: kind::EXTENT - 1, offset: u64::MAX };
    txn.range(first, last, &mut |key, _| {
        keys.push(key);
        if keys.len() > STEP_ITEMS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let more = keys.len() > STEP_ITEMS;
    for key in keys.into_iter().take(STEP_ITEMS) {
        // The inode item goes last, with the orphan's mark.
        if !more || key.kind != kind::INODE {
            txn.remove(key)?;
        }
    }
    Ok(!more)
}
