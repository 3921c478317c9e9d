//! Changing items: every node on the way is made the interval's own, then edited in place.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::base::Generation;
use crate::block::Pointer;
use crate::tree::balance::{self, Split};
use crate::tree::key::Key;
use crate::tree::kills::NodeKills;
use crate::tree::node::{Child, Handle, Link, Node};
use crate::tree::nodes::{Expected, Nodes};
use crate::tree::page::LEVELS_MAX;
use crate::tree::{Dirty, Tree, TreeError};

impl Tree {
    /// Gives `key` a value, and returns the one that it had.
    ///
    /// `interval` is the interval now; it must be later than that of every cut that this tree was
    /// cloned at. Nodes of earlier intervals that the tree no longer reaches go to `kills`.
    ///
    /// # Errors
    /// [`TreeError::ValueTooLong`], [`TreeError::TooHigh`], and as [`Tree::get`].
    pub fn put(
        &mut self,
        nodes: &Nodes,
        interval: Generation,
        key: Key,
        value: &[u8],
        kills: &mut NodeKills,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        let (value_bytes, max_bytes) = (value.len(), nodes.value_bytes_max());
        if value_bytes > max_bytes {
            return Err(TreeError::ValueTooLong { value_bytes, max_bytes });
        }
        self.enter(interval);
        let mut edit = Edit { nodes, interval, kills, dirty: &mut self.dirty };
        let Some(link) = &mut self.root else {
            let mut leaf = Node::new(nodes.node_bytes(), 0);
            leaf.page.insert(0, key, value);
            self.root = Some(Link::Live(edit.fresh(leaf)));
            self.emptied = None;
            return Ok(None);
        };
        let root = edit.root_mut(link)?;
        let level = root.level();
        if usize::from(level) + 1 >= LEVELS_MAX && !root.page.fits(Pointer::BYTES) {
            return Err(TreeError::TooHigh);
        }
        let done = edit.put(root, Expected::ROOT, key, value)?;
        if let Some(split) = done.split {
            let mut above = Node::new(nodes.node_bytes(), level + 1);
            above.insert_child(0, Key::MIN, link);
            above.insert_child(1, split.separator, &Link::Live(split.right));
            *link = Link::Live(edit.fresh(above));
        } else if done.shrunk {
            edit.lower_root(&mut self.root);
        }
        Ok(done.old)
    }

    /// Removes `key`, and returns the value that it had.
    ///
    /// # Errors
    /// As [`Tree::get`].
    pub fn remove(
        &mut self,
        nodes: &Nodes,
        interval: Generation,
        key: Key,
        kills: &mut NodeKills,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        // Looked up first: what is not there dirties no node.
        if self.get_with(nodes, key, |_| ())?.is_none() {
            return Ok(None);
        }
        self.enter(interval);
        let mut edit = Edit { nodes, interval, kills, dirty: &mut self.dirty };
        let Some(link) = &mut self.root else { return Ok(None) };
        let root = edit.root_mut(link)?;
        let old = edit.remove(root, Expected::ROOT, key)?;
        edit.lower_root(&mut self.root);
        if self.root.is_none() {
            self.emptied = Some(Arc::new(AtomicBool::new(false)));
        }
        Ok(old)
    }

    fn enter(&mut self, interval: Generation) {
        if self.edited != Some(interval) {
            self.edited = Some(interval);
            self.dirty = Dirty::default();
        }
    }
}

/// One edit of one tree.
struct Edit<'a> {
    nodes: &'a Nodes,
    interval: Generation,
    kills: &'a mut NodeKills,
    dirty: &'a mut Dirty,
}

/// What a put did to a node.
struct Done {
    old: Option<Vec<u8>>,
    split: Option<Split>,
    /// The node, or one below it, has less in it than before.
    shrunk: bool,
}

impl Edit<'_> {
    fn fresh(&mut self, node: Node) -> Arc<Handle> {
        *self.dirty.of(&node) += 1;
        Handle::fresh(self.interval, node)
    }

    /// A version of the node on disk that may be edited.
    fn load_fresh(
        &mut self,
        pointer: &Pointer,
        expected: &Expected,
    ) -> Result<Arc<Handle>, TreeError> {
        let node = self.nodes.load(pointer, expected)?;
        self.kills.push(pointer.clone());
        Ok(self.fresh((*node).clone()))
    }

    /// Whether the node belongs to an earlier version, which a checkpoint wrote or will write.
    fn is_frozen(&self, handle: &Handle) -> bool {
        handle.interval != self.interval || handle.place.pointer().is_some()
    }

    /// Makes the node one that may be edited: its own where it is frozen or shared.
    fn thaw<'h>(&mut self, handle: &'h mut Arc<Handle>) -> &'h mut Node {
        if self.is_frozen(handle) {
            self.kills.push_frozen(handle.place.clone());
            *handle = self.fresh((*handle.node).clone());
        } else if handle.editable().is_none() {
            // A reader holds it. It was never written and never will be: nothing to kill.
            *handle = Handle::fresh(self.interval, (*handle.node).clone());
        }
        handle.editable().expect("a handle that was just made has one holder")
    }

    fn root_mut<'l>(&mut self, link: &'l mut Link) -> Result<&'l mut Node, TreeError> {
        if let Link::Disk(pointer) = link {
            *link = Link::Live(self.load_fresh(pointer, &Expected::ROOT)?);
        }
        match link {
            Link::Live(handle) => Ok(self.thaw(handle)),
            Link::Disk(_) => unreachable!("replaced above"),
        }
    }

    /// Child `i` of `parent`, to edit. Where it cannot be loaded nothing has changed.
    fn child_mut<'p>(
        &mut self,
        parent: &'p mut Node,
        i: usize,
        of_parent: &Expected,
    ) -> Result<&'p mut Node, TreeError> {
        if let Child::Disk(pointer) = parent.child(i) {
            let handle = self.load_fresh(&pointer, &of_parent.of_child(parent, i))?;
            parent.set_live(i, handle);
        }
        let handle = parent.live_mut(i).expect("a child that is not on disk is in memory");
        Ok(self.thaw(handle))
    }

    /// Gives up the node that `link` leads to, but not what it leads to in turn.
    fn kill(&mut self, link: Link) {
        match link {
            Link::Disk(pointer) => self.kills.push(pointer),
            Link::Live(handle) if self.is_frozen(&handle) => {
                self.kills.push_frozen(handle.place.clone());
            }
            Link::Live(handle) => {
                let count = self.dirty.of(&handle.node);
                *count = count.saturating_sub(1);
            }
        }
    }

    fn put(
        &mut self,
        node: &mut Node,
        expected: Expected,
        key: Key,
        value: &[u8],
    ) -> Result<Done, TreeError> {
        if node.is_leaf() {
            return Ok(self.put_in_leaf(node, key, value));
        }
        let i = node.child_for(key);
        let below = expected.of_child(node, i);
        let child = self.child_mut(node, i, &expected)?;
        let mut done = self.put(child, below, key, value)?;
        if let Some(split) = done.split.take() {
            lower_first(node, &expected);
            if node.page.fits(Pointer::BYTES) {
                node.insert_child(i + 1, split.separator, &Link::Live(split.right));
            } else {
                self.dirty.inner += 1;
                done.split = Some(balance::split_inner(node, self.interval, i + 1, split));
            }
        } else if done.shrunk {
            self.join_child(node, i, &expected);
        }
        Ok(done)
    }

    fn put_in_leaf(&mut self, leaf: &mut Node, key: Key, value: &[u8]) -> Done {
        let (at, old) = match leaf.page.find(key) {
            Ok(at) => {
                let old = leaf.value(at).to_vec();
                if leaf.used_bytes() - old.len() + value.len() <= leaf.capacity_bytes() {
                    leaf.page.replace(at, value);
                    let shrunk = value.len() < old.len();
                    return Done { old: Some(old), split: None, shrunk };
                }
                leaf.remove(at);
                (at, Some(old))
            }
            Err(at) => (at, None),
        };
        if leaf.page.fits(value.len()) {
            leaf.page.insert(at, key, value);
            return Done { old, split: None, shrunk: false };
        }
        self.dirty.leaves += 1;
        let split = Some(balance::split_leaf(leaf, self.interval, at, key, value));
        Done { old, split, shrunk: false }
    }

    fn remove(
        &mut self,
        node: &mut Node,
        expected: Expected,
        key: Key,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        if node.is_leaf() {
            let Ok(at) = node.page.find(key) else { return Ok(None) };
            let old = node.value(at).to_vec();
            node.remove(at);
            return Ok(Some(old));
        }
        let i = node.child_for(key);
        let below = expected.of_child(node, i);
        let child = self.child_mut(node, i, &expected)?;
        let old = self.remove(child, below, key)?;
        self.join_child(node, i, &expected);
        Ok(old)
    }

    /// Takes child `i`, which lost something, out where it is empty, and joins it with a neighbour
    /// where it is nearly so.
    fn join_child(&mut self, parent: &mut Node, i: usize, expected: &Expected) {
        let Some(child) = parent.live_mut(i) else { return };
        if child.node.count() == 0 {
            let link = parent.link(i);
            parent.remove(i);
            self.kill(link);
        } else if balance::is_underfull(child.node.used_bytes(), &child.node)
            && let Some(j) = balance::sibling(parent, i)
        {
            // A neighbour that cannot be read is left alone: the edit itself did not need it, and
            // whoever reads it is told.
            let _ = self.join_neighbours(parent, i.min(j), i.max(j), expected);
        }
    }

    fn join_neighbours(
        &mut self,
        parent: &mut Node,
        left: usize,
        right: usize,
        expected: &Expected,
    ) -> Result<(), TreeError> {
        let separator = parent.key(right);
        let load = |parent: &Node, i| match parent.child(i) {
            Child::Live(handle) => Ok(handle.node.clone()),
            Child::Disk(pointer) => self.nodes.load(&pointer, &expected.of_child(parent, i)),
        };
        let used_bytes = load(parent, left)?.used_bytes() + load(parent, right)?.used_bytes();
        let taken = load(parent, right)?;
        if balance::fit_in_one(used_bytes, &taken) {
            let kept = self.child_mut(parent, left, expected)?;
            balance::join(kept, &taken, separator);
            let link = parent.link(right);
            parent.remove(right);
            self.kill(link);
        } else {
            drop(taken);
            self.child_mut(parent, left, expected)?;
            self.child_mut(parent, right, expected)?;
            let (new_left, new_right) = {
                let [left, right] = [left, right].map(|i| load_live(parent, i));
                balance::even_out(left, right, separator)
            };
            lower_first(parent, expected);
            parent.page.set_key(right, new_right.key(0));
            *self.child_mut(parent, left, expected)? = new_left;
            *self.child_mut(parent, right, expected)? = new_right;
        }
        Ok(())
    }

    /// Takes the root out where it is empty or has a single child, which is the root then.
    fn lower_root(&mut self, root: &mut Option<Link>) {
        while let Some(Link::Live(handle)) = root {
            let below = match (handle.node.count(), handle.node.is_leaf()) {
                (0, _) => None,
                (1, false) => Some(handle.node.link(0)),
                _ => return,
            };
            if let Some(link) = std::mem::replace(root, below) {
                self.kill(link);
            }
        }
    }
}

/// The first child also holds keys below its separator. Before another separator may come from
/// among those, it is lowered to where the node's range begins.
fn lower_first(node: &mut Node, expected: &Expected) {
    node.page.set_key(0, expected.lower);
}

fn load_live(parent: &Node, i: usize) -> &Node {
    match parent.child(i) {
        Child::Live(handle) => &handle.node,
        Child::Disk(_) => unreachable!("both neighbours were made editable"),
    }
}
