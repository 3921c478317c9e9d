//! Who may still read what a later checkpoint freed (engine.md, rule 12).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::Generation;
use crate::sys::sync::{Mutex, Rank};

#[derive(Debug, Default)]
struct Inner {
    open: Generation,
    active: BTreeMap<Generation, usize>,
}

/// The readers that run, by the interval in which they entered.
#[derive(Clone, Debug)]
pub struct Readers(Arc<Mutex<Inner>>);

impl Readers {
    /// No reader, in the open interval `open`.
    #[must_use]
    pub fn new(open: Generation) -> Self {
        Self(Arc::new(Mutex::new(Rank::Readers, Inner { open, active: BTreeMap::new() })))
    }

    /// Enters now. Take the guard first and clone the root after it: then nothing that the root
    /// reaches is given out again before the guard goes.
    #[must_use]
    pub fn enter(&self) -> ReadGuard {
        let mut inner = self.0.lock();
        let generation = inner.open;
        *inner.active.entry(generation).or_default() += 1;
        ReadGuard { readers: Some(self.clone()), generation }
    }

    /// Enters as of the interval `generation`, for a tree that reaches what is freed in it and
    /// later, and nothing that was freed before. The caller keeps the frees of that interval from
    /// becoming durable until this returns.
    #[must_use]
    pub fn enter_at(&self, generation: Generation) -> ReadGuard {
        *self.0.lock().active.entry(generation).or_default() += 1;
        ReadGuard { readers: Some(self.clone()), generation }
    }

    /// A cut opened the interval `open`.
    pub fn advance(&self, open: Generation) {
        self.0.lock().open = open;
    }

    /// The last interval whose frees no reader can reach: below the oldest that runs.
    #[must_use]
    pub fn unreachable_through(&self) -> Generation {
        let inner = self.0.lock();
        let oldest = inner.active.keys().next().copied().unwrap_or(inner.open);
        Generation(oldest.get().saturating_sub(1))
    }
}

/// A reader that runs; it leaves when dropped.
#[derive(Debug)]
pub struct ReadGuard {
    readers: Option<Readers>,
    generation: Generation,
}

impl ReadGuard {
    /// For a reader of what something else keeps from being freed, such as a snapshot that is not
    /// deleted while it is mounted: it may run for days, and holds nothing back.
    #[must_use]
    pub const fn of_what_is_kept() -> Self {
        Self { readers: None, generation: Generation(0) }
    }
    /// The interval in which it entered.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        let Some(readers) = &self.readers else {
            return;
        };
        let mut inner = readers.0.lock();
        if let Some(count) = inner.active.get_mut(&self.generation) {
            *count -= 1;
            if *count == 0 {
                inner.active.remove(&self.generation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_holds_what_was_freed_since_it_entered() {
        let readers = Readers::new(Generation(10));
        assert_eq!(readers.unreachable_through(), Generation(9));
        let first = readers.enter();
        readers.advance(Generation(11));
        let second = readers.enter();
        readers.advance(Generation(12));
        assert_eq!(readers.unreachable_through(), Generation(9));
        drop(first);
        assert_eq!(readers.unreachable_through(), Generation(10));
        drop(second);
        let kept = ReadGuard::of_what_is_kept();
        assert_eq!(readers.unreachable_through(), Generation(11));
        drop(kept);
    }

    #[test]
    fn a_reader_of_an_older_tree_holds_what_was_freed_since_that_tree() {
        let readers = Readers::new(Generation(10));
        readers.advance(Generation(11));
        let late = readers.enter_at(Generation(10));
        assert_eq!(readers.unreachable_through(), Generation(9));
        drop(late);
        assert_eq!(readers.unreachable_through(), Generation(10));
    }
}
