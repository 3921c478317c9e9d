//! Writing a frozen tree, and letting go of what was written.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::{Generation, SegmentId};
use crate::block::Pointer;
use crate::tree::node::{Handle, Link, Node};
use crate::tree::nodes::Nodes;
use crate::tree::{Dirty, Tree, TreeError};

/// Which nodes are kept in two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twice {
    /// None.
    Never,
    /// Those above the leaves.
    Inner,
    /// All.
    All,
}

impl Tree {
    /// Writes every node that was not written yet, children first, and returns the root's pointer
    /// (`None`: no items). Called on a clone made at a cut, while the original may be edited in a
    /// later interval. After an error it may be called again: what was written is not written
    /// twice.
    ///
    /// # Errors
    /// [`TreeError::Block`]
    pub fn write(
        &self,
        nodes: &Nodes,
        generation: Generation,
        segment: SegmentId,
        copies: Twice,
    ) -> Result<Option<Pointer>, TreeError> {
        match &self.root {
            None => {
                if let Some(written) = &self.emptied {
                    written.store(true, Ordering::Release);
                }
                Ok(None)
            }
            Some(Link::Disk(pointer)) => Ok(Some(pointer.clone())),
            Some(Link::Live(root)) => {
                Flush { nodes, generation, segment, copies }.write(root).map(Some)
            }
        }
    }

    /// Makes links to nodes that were written links to disk, so that memory does not hold them
    /// beside the cache. Called once their checkpoint is durable; the time it takes is in
    /// proportion to the nodes dirty now.
    pub fn settle(&mut self) {
        match &mut self.root {
            None | Some(Link::Disk(_)) => {}
            Some(Link::Live(root)) => match root.place.pointer() {
                Some(pointer) => {
                    self.root = Some(Link::Disk(pointer.clone()));
                    self.dirty = Dirty::default();
                }
                None => settle_below(root),
            },
        }
    }
}

struct Flush<'a> {
    nodes: &'a Nodes,
    generation: Generation,
    segment: SegmentId,
    copies: Twice,
}

impl Flush<'_> {
    // Recursion ends at the leaves; locks are taken downwards, level by level.
    fn write(&self, handle: &Handle) -> Result<Pointer, TreeError> {
        let _writing = handle.place.begin();
        if let Some(pointer) = handle.place.pointer() {
            return Ok(pointer.clone());
        }
        let node = if handle.node.is_leaf() {
            handle.node.clone()
        } else {
            // The copy that the cache gets holds no child in memory.
            Arc::new(handle.node.settled(|child| self.write(child))?)
        };
        let twice = match self.copies {
            Twice::Never => false,
            Twice::Inner => !node.is_leaf(),
            Twice::All => true,
        };
        let bytes = node.page.bytes();
        let pointer = self.nodes.store().write_node(bytes, self.generation, self.segment, twice)?;
        handle.place.fill(pointer.clone());
        self.nodes.keep(&pointer, node);
        Ok(pointer)
    }
}

/// Settles what is below a node that was not written yet.
fn settle_below(handle: &mut Arc<Handle>) {
    if handle.node.is_leaf() || !has_written_below(&handle.node) {
        return;
    }
    if handle.unshared().is_none() {
        // A reader, or a version not yet written, holds it. The copy is the same node: whichever
        // is written first gives both their place.
        *handle = Arc::new(Handle {
            interval: handle.interval,
            node: Arc::new((*handle.node).clone()),
            place: handle.place.clone(),
        });
    }
    let node = handle.unshared().expect("a handle that was just made has one holder");
    for i in 0..node.count() {
        let Some(child) = node.live_mut(i) else { continue };
        match child.place.pointer().cloned() {
            Some(pointer) => node.set_pointer(i, &pointer),
            None => settle_below(child),
        }
    }
}

fn has_written_below(node: &Node) -> bool {
    node.live().any(|(_, child)| {
        child.place.pointer().is_some() || (!child.node.is_leaf() && has_written_below(&child.node))
    })
}
