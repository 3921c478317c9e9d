//! Whether deletions left something that is just being freed: who lacks room waits for that.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Who wait at a time; the others are refused, so that a mount's threads are left for what gives room.
const WAITING_MAX: usize = 8;

/// What is known of the work that deletions leave behind.
#[derive(Debug, Default)]
pub(in crate::pool) struct Freeing {
    attended: AtomicBool,
    left: AtomicBool,
    waiting: AtomicUsize,
}

impl Freeing {
    /// Whether somebody frees in the background from here on.
    pub fn set_attended(&self, attended: bool) {
        self.attended.store(attended, Ordering::Release);
    }
    /// Whether there is something to be freed.
    pub fn set_left(&self, left: bool) {
        self.left.store(left, Ordering::Release);
    }
    /// Whether something is being freed.
    pub fn is_under_way(&self) -> bool {
        self.attended.load(Ordering::Acquire) && self.left.load(Ordering::Acquire)
    }
    /// Counts somebody who waits; nobody where there is nothing to wait for, or too many do.
    pub fn enter(&self) -> Option<Waiting<'_>> {
        if !self.is_under_way() {
            return None;
        }
        let waiting = Waiting(self);
        (self.waiting.fetch_add(1, Ordering::AcqRel) < WAITING_MAX).then_some(waiting)
    }
}

/// Somebody who waits.
pub(in crate::pool) struct Waiting<'a>(&'a Freeing);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}
