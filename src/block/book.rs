//! The book of one interval: every space entry that its checkpoint appends to the space ring.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::{Generation, SegmentId};
use crate::block::region::Booked;
use crate::block::{BlockError, Space, SpaceEntry};
use crate::sys::sync::{Mutex, Rank};

/// Bytes of an entry in the ring, beside its checksums.
pub(in crate::block) const ENTRY_BYTES: usize = 20;

struct Inner {
    generation: Generation,
    space: Arc<Space>,
    entries: Mutex<Vec<Arc<Booked>>>,
    bytes: AtomicUsize,
    limit_bytes: usize,
    on_limit: Box<dyn Fn() + Send + Sync>,
}

/// The book of one interval; clones are the same book.
#[derive(Clone)]
pub struct Book(Arc<Inner>);

impl Book {
    /// An empty book of `generation`. `on_limit` is called once, when the entries pass
    /// `limit_bytes`: time for a checkpoint.
    #[must_use]
    pub fn new(
        space: Arc<Space>,
        generation: Generation,
        limit_bytes: usize,
        on_limit: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let (entries, bytes) = (Mutex::new(Rank::Book, Vec::new()), AtomicUsize::new(0));
        Self(Arc::new(Inner { generation, space, entries, bytes, limit_bytes, on_limit }))
    }

    /// The interval.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.0.generation
    }

    /// Books an entry: the run, until now provisional, is the segment's; or the run waits to become
    /// reusable.
    ///
    /// # Errors
    /// [`BlockError::Accounting`] where the run was not given out, or the map names another owner;
    /// [`BlockError::OutOfRange`].
    pub fn push(&self, entry: SpaceEntry) -> Result<(), BlockError> {
        let crcs = match &entry {
            SpaceEntry::Alloc { crcs, .. } => crcs.len(),
            SpaceEntry::Free { .. } => 0,
        };
        let mut entries = self.0.entries.lock();
        entries.push(self.0.space.book(self.0.generation, entry)?);
        drop(entries);
        self.count(ENTRY_BYTES + 4 * crcs);
        Ok(())
    }

    /// Counts frees that are not booked yet and will be: room for them must be left in the ring.
    pub fn expect_frees(&self, count: usize) {
        self.count(ENTRY_BYTES * count);
    }

    fn count(&self, added: usize) {
        let before = self.0.bytes.fetch_add(added, Ordering::Relaxed);
        if before < self.0.limit_bytes && before + added >= self.0.limit_bytes {
            (self.0.on_limit)();
        }
    }

    /// Bytes that the entries take in the ring.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether so much was booked that whoever adds more must wait for a checkpoint first: half as
    /// much again as where one was asked for.
    #[must_use]
    pub fn is_over_limit(&self) -> bool {
        self.bytes() > self.0.limit_bytes.saturating_mul(3) / 2
    }

    /// Whether nothing was booked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.entries.lock().is_empty()
    }

    /// Blocks booked to `segment`.
    #[must_use]
    pub fn allocated_blocks(&self, segment: SegmentId) -> u64 {
        let entries = self.0.entries.lock();
        let of_segment = entries.iter().filter_map(|booked| match &booked.entry {
            SpaceEntry::Alloc { run, segment: s, .. } if *s == segment => {
                Some(u64::from(run.blocks))
            }
            _ => None,
        });
        of_segment.sum()
    }

    /// The entries so far, in order.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<Booked>> {
        self.0.entries.lock().clone()
    }
}
