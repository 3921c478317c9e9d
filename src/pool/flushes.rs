//! Flushes of the device that are under way.
//!
//! Of two flushes that are under way together one may fail and the other succeed: the kernel tells a
//! failed write-back to one caller only, a disk a lost cache to one command. What the one that failed
//! lost may be what the other was to make durable. So a success counts only once every flush that
//! began before it ended has ended too, and its failure is written down.

use crate::sys::sync::{Rank, RwLock, RwLockReadGuard};

/// The flushes that are under way: each shares the lock until its failure, if any, is written down.
pub(in crate::pool) struct Flushes(RwLock<()>);

impl Flushes {
    /// None is.
    pub fn new() -> Self {
        Self(RwLock::new(Rank::Flushes, ()))
    }

    /// One is under way for as long as the result lives.
    #[must_use]
    pub fn begin(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read()
    }

    /// Waits until every flush that has begun by now has ended. One that begins meanwhile waits too.
    pub fn wait(&self) {
        drop(self.0.write());
    }
}
