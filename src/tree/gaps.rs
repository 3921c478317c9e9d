//! Items in order where some cannot be had: for those who take what is left of a damaged tree.

use std::ops::ControlFlow;

use crate::tree::descend::Held;
use crate::tree::key::Key;
use crate::tree::nodes::{Expected, Nodes};
use crate::tree::{Tree, TreeError};

/// What a range meets that goes on behind nodes that cannot be read.
pub enum Part<'a> {
    /// An item.
    Item(Key, &'a [u8]),
    /// A node that cannot be read, with all that is below it.
    Gap {
        /// The smallest key that may be among what is missing.
        lower: Key,
        /// The first key behind it; `None`: no end.
        upper: Option<Key>,
        /// Why not.
        error: TreeError,
    },
}

impl Tree {
    /// As [`Tree::range`], going on behind what cannot be read. Whether all was read; what is left
    /// when `visit` breaks off counts as read.
    pub fn range_with_gaps(
        &self,
        nodes: &Nodes,
        from: Key,
        to: Key,
        visit: &mut dyn FnMut(Part<'_>) -> ControlFlow<()>,
    ) -> bool {
        let Some(root) = self.root.as_ref().filter(|_| from <= to) else { return true };
        let mut gaps = Gaps { nodes, from, to, visit, whole: true };
        // The outcome says only whether the visitor broke off, which it knows.
        let _ = match Held::root(root, nodes) {
            Ok(root) => gaps.forward(&root, &Expected::ROOT),
            Err(error) => gaps.gap(&Expected::ROOT, error),
        };
        gaps.whole
    }
}

struct Gaps<'a> {
    nodes: &'a Nodes,
    from: Key,
    to: Key,
    visit: &'a mut dyn FnMut(Part<'_>) -> ControlFlow<()>,
    whole: bool,
}

impl Gaps<'_> {
    fn gap(&mut self, expected: &Expected, error: TreeError) -> ControlFlow<()> {
        self.whole = false;
        let Expected { lower, upper, .. } = *expected;
        (self.visit)(Part::Gap { lower, upper, error })
    }

    // Recursion ends at the leaves: every step is one level down, and levels are checked.
    fn forward(&mut self, node: &Held<'_>, expected: &Expected) -> ControlFlow<()> {
        let first = if node.is_leaf() {
            node.page.find(self.from).unwrap_or_else(|i| i)
        } else {
            node.child_for(self.from)
        };
        for i in first..node.count() {
            let key = node.key(i);
            // The first child of an inner node may hold keys below its separator.
            if key > self.to && (node.is_leaf() || i > first) {
                break;
            }
            if node.is_leaf() {
                (self.visit)(Part::Item(key, node.value(i)))?;
                continue;
            }
            let below = expected.of_child(node, i);
            match node.child(i, self.nodes, &below) {
                Ok(child) => self.forward(&child, &below)?,
                Err(error) => self.gap(&below, error)?,
            }
        }
        ControlFlow::Continue(())
    }
}
