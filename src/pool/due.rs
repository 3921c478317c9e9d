//! When the next checkpoint is due.

use std::time::Duration;

use crate::sys::clock;
use crate::sys::sync::{Condvar, Mutex, Rank};

/// Why a checkpoint is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DueReason {
    /// Dirty nodes reached their limit.
    Dirty,
    /// A log is half full.
    Log,
    /// The interval's space entries reached a third of the ring.
    Ring,
    /// Somebody waits for it.
    Waiter,
    /// Frees wait, and space is short.
    Space,
}

#[derive(Debug, Default)]
struct State {
    requested: Option<DueReason>,
    changed_at: Option<Duration>,
    closing: bool,
}

/// Gathers the reasons for a checkpoint and wakes whoever makes them.
#[derive(Debug)]
pub struct Due {
    state: Mutex<State>,
    changed: Condvar,
    interval: Duration,
}

impl Due {
    /// Checkpoints `interval` after the first change, unless something asks for one earlier.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { state: Mutex::new(Rank::Due, State::default()), changed: Condvar::new(), interval }
    }

    /// Asks for a checkpoint now.
    pub fn request(&self, reason: DueReason) {
        self.state.lock().requested.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// Something changed that only a checkpoint writes; the clock runs from the first change.
    pub fn note_change(&self) {
        let mut state = self.state.lock();
        if state.changed_at.is_none() {
            state.changed_at = Some(clock::monotonic());
            self.changed.notify_all();
        }
    }

    /// A cut took everything up to now.
    pub fn taken(&self) {
        let mut state = self.state.lock();
        state.requested = None;
        state.changed_at = None;
    }

    /// Nobody need wait any more.
    pub fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    /// Waits until a checkpoint is due, for `timeout` at most. Whether one is.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> bool {
        let deadline = clock::monotonic() + timeout;
        let mut state = self.state.lock();
        loop {
            let now = clock::monotonic();
            let due_at = state.changed_at.map(|at| at + self.interval);
            if state.requested.is_some() || due_at.is_some_and(|at| at <= now) {
                return true;
            }
            if state.closing || now >= deadline {
                return false;
            }
            let until = due_at.map_or(deadline, |at| at.min(deadline));
            state = self.changed.wait_timeout(state, until - now).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_on_request_or_after_the_interval_but_never_when_nothing_changed() {
        let due = Due::new(Duration::from_millis(20));
        assert!(!due.wait(Duration::from_millis(30)));
        due.note_change();
        assert!(due.wait(Duration::from_secs(5)));
        due.taken();
        assert!(!due.wait(Duration::ZERO));
        due.request(DueReason::Log);
        assert!(due.wait(Duration::ZERO));
    }
}
