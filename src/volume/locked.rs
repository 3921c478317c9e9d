//! Locked: every operation answers so, and none is under way when locking returns.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::sync::{Condvar, Mutex, Rank};
use crate::volume::Volume;
use crate::volume::error::{Result, VolumeError};

/// Set in the count of operations when nobody may come in any more.
const LOCKED: u64 = 1 << 63;

/// Who is inside, and whether anybody may come in.
pub(in crate::volume) struct Presence {
    /// Operations under way, and [`LOCKED`].
    inside: AtomicU64,
    waiting: Mutex<()>,
    left: Condvar,
}

impl Default for Presence {
    fn default() -> Self {
        let waiting = Mutex::new(Rank::Presence, ());
        Self { inside: AtomicU64::new(0), waiting, left: Condvar::new() }
    }
}

/// An operation under way.
pub(in crate::volume) struct Visit<'a>(&'a Presence);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.0.inside.fetch_sub(1, Ordering::AcqRel) == LOCKED | 1 {
            // With the lock, so that who found us still inside is waiting by now.
            let _waiting = self.0.waiting.lock();
            self.0.left.notify_all();
        }
    }
}

impl Volume {
    /// Begins an operation that reads.
    pub(in crate::volume) fn enter(&self) -> Result<Visit<'_>> {
        let before = self.presence.inside.fetch_add(1, Ordering::AcqRel);
        let visit = Visit(&self.presence);
        if before & LOCKED == 0 { Ok(visit) } else { Err(VolumeError::Locked) }
    }

    /// Begins an operation that changes something.
    pub(in crate::volume) fn enter_to_change(&self) -> Result<Visit<'_>> {
        let visit = self.enter()?;
        if !self.backing.writable() {
            return Err(VolumeError::ReadOnly);
        }
        self.check_stopped()?;
        self.check_failed()?;
        Ok(visit)
    }

    /// That no accepted data was lost.
    pub(in crate::volume) fn check_failed(&self) -> Result<()> {
        self.failed.get().map_or(Ok(()), |why| Err(VolumeError::WriteLost(why)))
    }

    /// Locks the volume: from now on every operation answers [`VolumeError::Locked`]. Returns when
    /// those under way have ended, and what is kept in memory of files that nobody has open is
    /// gone. Buffered data is kept, for the checkpoint that follows, until [`Volume::discard`].
    pub fn set_locked(&self) {
        let presence = &self.presence;
        presence.inside.fetch_or(LOCKED, Ordering::AcqRel);
        let waiting = presence.waiting.lock();
        let inside = |_: &mut ()| presence.inside.load(Ordering::Acquire) != LOCKED;
        drop(presence.left.wait_while(waiting, inside));
        self.inodes.clear_unused();
    }

    /// Whether the volume is locked.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.presence.inside.load(Ordering::Acquire) & LOCKED != 0
    }

    /// Drops buffered data that no checkpoint will take any more, erasing it, and marks its inodes:
    /// what was accepted and not made durable is lost, and their fsyncs say so. Returns the bytes
    /// dropped.
    pub fn discard(&self) -> u64 {
        let mut bytes = 0;
        for inode in self.buffer.dirty_inodes() {
            let _gate = self.buffer.gate.read();
            let mut state = inode.state.lock();
            if !state.pages.is_empty() || state.unsaved {
                state.lost = Some("dropped when the cluster was locked");
            }
            bytes += self.buffer.forget_pages(&mut state, 0..u64::MAX);
            state.unsaved = false;
            self.buffer.clean(&inode, &state);
        }
        bytes
    }
}
