//! Telling the kernel to forget what it has cached.
//!
//! Forgetting pages makes the kernel write dirty ones to us first, and can wait for a page that
//! another request holds: so pages are never forgotten from a request's handler, and never with a
//! lock held that a handler could want. Attributes are forgotten without waiting, still by a
//! thread of their own.

use std::collections::BTreeSet;
use std::io;
use std::sync::OnceLock;

use fuser::{INodeNo, Notifier};

use crate::base::units::InodeNo;
use crate::sys::sync::{Condvar, Mutex, Rank};

#[derive(Debug, Default)]
struct Queue {
    attributes: BTreeSet<u64>,
    closed: bool,
}

/// The kernel's ear, for one session.
#[derive(Debug)]
pub(super) struct Invalidator {
    notifier: OnceLock<Notifier>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Default for Invalidator {
    fn default() -> Self {
        let queue = Mutex::new(Rank::Invalidations, Queue::default());
        Self { notifier: OnceLock::new(), queue, changed: Condvar::new() }
    }
}

impl Invalidator {
    /// The session has begun.
    pub(super) fn connect(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// The kernel shall ask again for the attributes of `ino`, soon; returns at once. Bounded by
    /// the inodes that have privileges to lose.
    pub(super) fn attributes(&self, ino: u64) {
        self.queue.lock().attributes.insert(ino);
        self.changed.notify_one();
    }

    /// Carries out what [`Invalidator::attributes`] asks for, until [`Invalidator::close`].
    pub(super) fn serve(&self) {
        loop {
            let idle = |queue: &mut Queue| queue.attributes.is_empty() && !queue.closed;
            let mut queue = self.changed.wait_while(self.queue.lock(), idle);
            if queue.closed {
                return;
            }
            let Some(ino) = queue.attributes.pop_first() else { continue };
            drop(queue);
            // A negative offset: attributes alone, no pages.
            if let Some(notifier) = self.notifier.get()
                && let Err(error) = notifier.inval_inode(INodeNo(ino), -1, 0)
            {
                log::debug!("attributes of inode {ino} stay in the kernel's cache: {error}");
            }
        }
    }

    /// The session is over.
    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
    }

    /// Makes the kernel write the dirty pages of `ino`, stored through mappings or not, and forget
    /// them all. Returns when they are written; can wait for as long as any request takes.
    ///
    /// # Errors
    /// The connection is gone.
    pub(super) fn pages(&self, ino: InodeNo) -> io::Result<()> {
        match self.notifier.get() {
            Some(notifier) => notifier.inval_inode(INodeNo(ino.get()), 0, 0),
            None => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn serving_ends_with_the_session_and_work_without_one_is_harmless() {
        let invalidator = Arc::new(Invalidator::default());
        let theirs = Arc::clone(&invalidator);
        let server = crate::sys::threads::spawn("invalidate", move || theirs.serve());
        invalidator.attributes(5);
        assert!(invalidator.pages(InodeNo(5)).is_err());
        invalidator.close();
        server.join().unwrap();
    }
}
