//! Nodes that a tree gave up, for whoever decides when their space is free.

use std::sync::Arc;

use crate::block::Pointer;
use crate::tree::TreeError;
use crate::tree::node::Place;

/// Nodes of earlier intervals that a tree no longer reaches. Other versions still may.
#[derive(Default)]
pub struct NodeKills {
    killed: Vec<Killed>,
}

enum Killed {
    Written(Pointer),
    /// Frozen in an earlier interval whose checkpoint may still be writing it.
    Frozen(Arc<Place>),
}

impl NodeKills {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { killed: Vec::new() }
    }
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.killed.len()
    }
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.killed.is_empty()
    }
    /// Takes those of `other` over.
    pub fn append(&mut self, mut other: Self) {
        self.killed.append(&mut other.killed);
    }
    /// Forgets all but the first `len`: with a clone of the tree made when there were `len`, this
    /// undoes the edits since.
    pub fn truncate(&mut self, len: usize) {
        self.killed.truncate(len);
    }

    /// Their pointers. Called at a cut, when the checkpoint of every earlier interval is written.
    ///
    /// # Errors
    /// [`TreeError::NotWritten`], where that checkpoint failed: its nodes have no place.
    pub fn into_pointers(self) -> Result<Vec<Pointer>, TreeError> {
        let pointer = |killed| match killed {
            Killed::Written(pointer) => Ok(pointer),
            Killed::Frozen(place) => place.pointer().cloned().ok_or(TreeError::NotWritten),
        };
        self.killed.into_iter().map(pointer).collect()
    }

    pub(in crate::tree) fn push(&mut self, pointer: Pointer) {
        self.killed.push(Killed::Written(pointer));
    }
    pub(in crate::tree) fn push_frozen(&mut self, place: Arc<Place>) {
        self.killed.push(Killed::Frozen(place));
    }
}
