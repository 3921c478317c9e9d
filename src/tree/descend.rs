//! Finding items: from the root to a leaf, and along the leaves.

use std::ops::{ControlFlow, Deref};
use std::sync::Arc;

use crate::tree::balance;
use crate::tree::gaps::Part;
use crate::tree::key::Key;
use crate::tree::node::{Child, Link, Node};
use crate::tree::nodes::{Expected, Nodes};
use crate::tree::{Tree, TreeError};

/// A node on the way down.
pub(in crate::tree) enum Held<'a> {
    /// In the tree's own memory.
    Live(&'a Node),
    /// From the cache.
    Loaded(Arc<Node>),
}

impl Deref for Held<'_> {
    type Target = Node;
    fn deref(&self) -> &Node {
        match self {
            Self::Live(node) => node,
            Self::Loaded(node) => node,
        }
    }
}

impl<'a> Held<'a> {
    pub fn root(link: &'a Link, nodes: &Nodes) -> Result<Self, TreeError> {
        match link {
            Link::Live(handle) => Ok(Held::Live(&handle.node)),
            Link::Disk(pointer) => nodes.load(pointer, &Expected::ROOT).map(Held::Loaded),
        }
    }

    /// Child `i`, of which `expected` holds.
    pub fn child(&self, i: usize, nodes: &Nodes, expected: &Expected) -> Result<Self, TreeError> {
        match self {
            Held::Live(node) => match node.child(i) {
                Child::Live(handle) => Ok(Held::Live(&handle.node)),
                Child::Disk(pointer) => nodes.load(&pointer, expected).map(Held::Loaded),
            },
            Held::Loaded(node) => match node.child(i) {
                Child::Live(handle) => Ok(Held::Loaded(handle.node.clone())),
                Child::Disk(pointer) => nodes.load(&pointer, expected).map(Held::Loaded),
            },
        }
    }
}

impl Tree {
    /// The value of `key`.
    ///
    /// # Errors
    /// Of reading a node: [`TreeError::Block`], [`TreeError::Corrupt`].
    pub fn get(&self, nodes: &Nodes, key: Key) -> Result<Option<Vec<u8>>, TreeError> {
        self.get_with(nodes, key, <[u8]>::to_vec)
    }

    /// What `f` makes of the value of `key`, which is not copied.
    ///
    /// # Errors
    /// As [`Tree::get`].
    pub fn get_with<R>(
        &self,
        nodes: &Nodes,
        key: Key,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, TreeError> {
        let Some(root) = &self.root else { return Ok(None) };
        let mut node = Held::root(root, nodes)?;
        let mut expected = Expected::ROOT;
        while !node.is_leaf() {
            let i = node.child_for(key);
            expected = expected.of_child(&node, i);
            node = node.child(i, nodes, &expected)?;
        }
        Ok(node.page.find(key).ok().map(|i| f(node.value(i))))
    }

    /// Hands items to `visit` in ascending order, from `from` to `to`, both included, until it
    /// breaks off.
    ///
    /// # Errors
    /// As [`Tree::get`]; items before the unreadable node have been visited.
    pub fn range(
        &self,
        nodes: &Nodes,
        from: Key,
        to: Key,
        visit: &mut dyn FnMut(Key, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        let mut unreadable = None;
        self.range_with_gaps(nodes, from, to, &mut |part| match part {
            Part::Item(key, value) => visit(key, value),
            Part::Gap { error, .. } => {
                unreadable = Some(error);
                ControlFlow::Break(())
            }
        });
        unreadable.map_or(Ok(()), Err)
    }

    /// As [`Tree::range`], in descending order.
    ///
    /// # Errors
    /// As [`Tree::range`].
    pub fn range_back(
        &self,
        nodes: &Nodes,
        from: Key,
        to: Key,
        visit: &mut dyn FnMut(Key, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), TreeError> {
        let Some(root) = self.root.as_ref().filter(|_| from <= to) else { return Ok(()) };
        let root = Held::root(root, nodes)?;
        let mut range = Backward { nodes, from, to, visit };
        range.backward(&root, &Expected::ROOT).map(|_| ())
    }

    /// The item with the greatest key that is not above `key`. With [`Key::previous`] this steps
    /// backwards.
    ///
    /// # Errors
    /// As [`Tree::get`].
    pub fn last_before(
        &self,
        nodes: &Nodes,
        key: Key,
    ) -> Result<Option<(Key, Vec<u8>)>, TreeError> {
        let mut found = None;
        self.range_back(nodes, Key::MIN, key, &mut |key, value| {
            found = Some((key, value.to_vec()));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Loads what an edit of `key` needs, so that the edit finds it in the cache: the way to its
    /// leaf, and a neighbour that the leaf is merged with if the item is removed.
    ///
    /// # Errors
    /// As [`Tree::get`].
    pub fn touch(&self, nodes: &Nodes, key: Key) -> Result<(), TreeError> {
        let Some(root) = &self.root else { return Ok(()) };
        let mut node = Held::root(root, nodes)?;
        let mut expected = Expected::ROOT;
        while !node.is_leaf() {
            let i = node.child_for(key);
            let below = expected.of_child(&node, i);
            let child = node.child(i, nodes, &below)?;
            if child.is_leaf()
                && let Ok(at) = child.page.find(key)
                && balance::is_underfull(child.used_bytes() - child.page.item_bytes(at), &child)
                && let Some(j) = balance::sibling(&node, i)
            {
                // One that cannot be read is left alone, by the edit too.
                let _ = node.child(j, nodes, &expected.of_child(&node, j));
            }
            (node, expected) = (child, below);
        }
        Ok(())
    }
}

struct Backward<'a> {
    nodes: &'a Nodes,
    from: Key,
    to: Key,
    visit: &'a mut dyn FnMut(Key, &[u8]) -> ControlFlow<()>,
}

impl Backward<'_> {
    // Recursion ends at the leaves: every step is one level down, and levels are checked.
    fn backward(&mut self, node: &Held, expected: &Expected) -> Result<ControlFlow<()>, TreeError> {
        let end = if node.is_leaf() {
            node.page.find(self.to).map_or_else(|i| i, |i| i + 1)
        } else {
            node.child_for(self.to) + 1
        };
        for i in (0..end).rev() {
            let key = node.key(i);
            let flow = if node.is_leaf() {
                if key < self.from {
                    break;
                }
                (self.visit)(key, node.value(i))
            } else {
                let below = expected.of_child(node, i);
                self.backward(&node.child(i, self.nodes, &below)?, &below)?
            };
            if flow.is_break() {
                return Ok(flow);
            }
            // What stands before child `i` is below its separator.
            if !node.is_leaf() && key <= self.from {
                break;
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
