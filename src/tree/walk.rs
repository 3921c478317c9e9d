//! Every node of a tree, for those who check one.

use std::ops::ControlFlow;

use crate::block::Pointer;
use crate::tree::node::{Child, Link, Node};
use crate::tree::nodes::{Expected, Nodes};
use crate::tree::{Key, Tree, TreeError};

/// What a walk meets.
pub enum Step<'a> {
    /// A node, before those below it.
    Node {
        /// Where it was read from; `None` for a node that was not written yet.
        pointer: Option<&'a Pointer>,
        /// The node.
        node: &'a Node,
    },
    /// A node that cannot be read. What is below it is not visited.
    Unreadable {
        /// Where it should be.
        pointer: &'a Pointer,
        /// The level it should have; `None` for the root.
        level: Option<u8>,
        /// The smallest key that it may hold.
        lower: Key,
        /// The first key behind those that it may hold; `None`: no end.
        upper: Option<Key>,
        /// Why not.
        error: TreeError,
    },
}

impl Tree {
    /// Hands every node to `visit`, parents before children, in the order of keys, until it breaks
    /// off. Nodes are read from the store and checked, whether the cache has them or not; the cache
    /// is left as it is.
    pub fn walk(&self, nodes: &Nodes, visit: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>) {
        // The outcome says only whether the visitor broke off, which it knows.
        let _ = match &self.root {
            None => ControlFlow::Continue(()),
            Some(Link::Live(root)) => {
                walk_node(nodes, root.place.pointer(), &root.node, &Expected::ROOT, visit)
            }
            Some(Link::Disk(root)) => walk_disk(nodes, root, &Expected::ROOT, visit),
        };
    }
}

fn walk_disk(
    nodes: &Nodes,
    pointer: &Pointer,
    expected: &Expected,
    visit: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match nodes.read_uncached(pointer, expected) {
        Ok(node) => walk_node(nodes, Some(pointer), &node, expected, visit),
        Err(error) => {
            let Expected { level, lower, upper } = *expected;
            visit(Step::Unreadable { pointer, level, lower, upper, error })
        }
    }
}

// Recursion ends at the leaves: every step is one level down, and levels are checked.
fn walk_node(
    nodes: &Nodes,
    pointer: Option<&Pointer>,
    node: &Node,
    expected: &Expected,
    visit: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    visit(Step::Node { pointer, node })?;
    if node.is_leaf() {
        return ControlFlow::Continue(());
    }
    for i in 0..node.count() {
        let below = expected.of_child(node, i);
        match node.child(i) {
            Child::Live(child) => {
                walk_node(nodes, child.place.pointer(), &child.node, &below, visit)?;
            }
            Child::Disk(pointer) => walk_disk(nodes, &pointer, &below, visit)?,
        }
    }
    ControlFlow::Continue(())
}
