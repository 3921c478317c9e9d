//! The invariants of a tree, and what it looks like.

use crate::base::BlockAddr;
use crate::tree::node::{Child, Handle, Link, Node};
use crate::tree::nodes::{Expected, Nodes};
use crate::tree::page::NodeDefect;
use crate::tree::{Tree, TreeError};

/// What a tree looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Levels, the leaves' included.
    pub levels: usize,
    /// Nodes above the leaves.
    pub inner_nodes: usize,
    /// Leaves.
    pub leaves: usize,
    /// Items.
    pub items: u64,
    /// Bytes that the items take in the leaves, their slots included.
    pub item_bytes: u64,
}

/// Measures a tree and checks it: levels, order and ranges of keys, children, intervals. Reads every
/// node.
///
/// # Errors
/// The first node that cannot be read, or that breaks an invariant. A node in memory has the
/// address 0.
pub fn measure(tree: &Tree, nodes: &Nodes) -> Result<Shape, TreeError> {
    let mut shape = Shape::default();
    match &tree.root {
        None => {}
        Some(Link::Live(root)) => shape.add_live(nodes, root, &Expected::ROOT)?,
        Some(Link::Disk(root)) => {
            shape.add(nodes, &nodes.read_uncached(root, &Expected::ROOT)?, &Expected::ROOT)?;
        }
    }
    Ok(shape)
}

impl Shape {
    fn add_live(
        &mut self,
        nodes: &Nodes,
        handle: &Handle,
        expected: &Expected,
    ) -> Result<(), TreeError> {
        let broken = |defect| TreeError::Corrupt { addr: BlockAddr(0), defect };
        expected.check(&handle.node).map_err(broken)?;
        // A node changes when a child does, and is written after it.
        for (_, child) in handle.node.live() {
            let older = child.interval <= handle.interval;
            let written_first = handle.place.pointer().is_none() || child.place.pointer().is_some();
            if !older || !written_first {
                return Err(broken(NodeDefect::Pointer));
            }
        }
        self.add(nodes, &handle.node, expected)
    }

    fn add(&mut self, nodes: &Nodes, node: &Node, expected: &Expected) -> Result<(), TreeError> {
        self.levels = self.levels.max(usize::from(node.level()) + 1);
        if node.is_leaf() {
            self.leaves += 1;
            self.items += node.count() as u64;
            self.item_bytes += node.used_bytes() as u64;
            return Ok(());
        }
        self.inner_nodes += 1;
        for i in 0..node.count() {
            let below = expected.of_child(node, i);
            match node.child(i) {
                Child::Live(child) => self.add_live(nodes, child, &below)?,
                Child::Disk(p) => self.add(nodes, &nodes.read_uncached(&p, &below)?, &below)?,
            }
        }
        Ok(())
    }
}
