//! Where nodes are divided, and when they are joined.
//!
//! A full node is divided so that keys that arrive in order leave full nodes behind; any other is
//! divided in the middle. A node that a removal leaves a quarter full is joined with a neighbour, or
//! takes items from it, so space stays in proportion to what is stored.

use std::sync::Arc;

use crate::base::Generation;
use crate::tree::key::Key;
use crate::tree::node::{Handle, Link, Node};

/// A node that did not take one more item, and is two now: what its parent must be told.
pub(in crate::tree) struct Split {
    pub separator: Key,
    pub right: Arc<Handle>,
}

/// Whether `used_bytes` of a node such as `node` are so few that it should be joined.
pub(in crate::tree) fn is_underfull(used_bytes: usize, node: &Node) -> bool {
    used_bytes < node.capacity_bytes() / 4
}

/// Whether two neighbours that take `used_bytes` together become one: with room left, so that the
/// next insert does not divide it again.
pub(in crate::tree) fn fit_in_one(used_bytes: usize, node: &Node) -> bool {
    used_bytes <= node.capacity_bytes() / 4 * 3
}

/// The neighbour that child `i` is joined with: better one that is in memory already.
pub(in crate::tree) fn sibling(parent: &Node, i: usize) -> Option<usize> {
    let left = i.checked_sub(1);
    let right = Some(i + 1).filter(|j| *j < parent.count());
    let dirty = |j: &Option<usize>| j.is_some_and(|j| parent.is_live(j));
    [left, right].into_iter().find(dirty).flatten().or(left).or(right)
}

/// Puts an item into a leaf that has no room for it at `at`, which becomes two.
pub(in crate::tree) fn split_leaf(
    leaf: &mut Node,
    interval: Generation,
    at: usize,
    key: Key,
    value: &[u8],
) -> Split {
    let new_bytes = crate::tree::page::SLOT_BYTES + value.len();
    let cut = run_end(leaf, at, key, new_bytes).unwrap_or_else(|| middle(leaf, at, new_bytes));
    let mut right = leaf.split_off(if cut <= at { cut } else { cut - 1 });
    if cut <= at {
        right.page.insert(at - cut, key, value);
    } else {
        leaf.page.insert(at, key, value);
    }
    Split { separator: right.key(0), right: Handle::fresh(interval, right) }
}

/// Puts a child into an inner node that has no room for it at `at`, which becomes two.
pub(in crate::tree) fn split_inner(
    node: &mut Node,
    interval: Generation,
    at: usize,
    child: Split,
) -> Split {
    let at_end = at == node.count();
    let cut = if at_end { at } else { middle(node, at, crate::tree::node::CHILD_BYTES) };
    let mut right = node.split_off(if cut <= at { cut } else { cut - 1 });
    let link = Link::Live(child.right);
    if cut <= at {
        right.insert_child(at - cut, child.separator, &link);
    } else {
        node.insert_child(at, child.separator, &link);
    }
    Split { separator: right.key(0), right: Handle::fresh(interval, right) }
}

/// Where to divide, counted with the new item, if that one continues a run of keys of one object
/// and kind at the end of the node or before another run: files that grow leave full leaves, also
/// where their neighbours' items stand behind them.
fn run_end(leaf: &Node, at: usize, key: Key, new_bytes: usize) -> Option<usize> {
    if at == leaf.count() {
        return Some(at);
    }
    let continues = at > 0 && leaf.key(at - 1).same_run(key);
    if !continues || leaf.key(at).same_run(key) {
        return None;
    }
    let before: usize = (0..at).map(|i| leaf.page.item_bytes(i)).sum();
    // Behind the new item if it fits: then the run ends its leaf, and goes on as at the right edge.
    Some(if before + new_bytes <= leaf.capacity_bytes() { at + 1 } else { at })
}

/// Where to divide, counted with a new item of `new_bytes` at `at`, so that both parts are as equal
/// as can be. Each part is at least one item; both fit, since no item is above a third of a node.
fn middle(node: &Node, at: usize, new_bytes: usize) -> usize {
    let total = node.used_bytes() + new_bytes;
    let (mut left, mut best, mut best_gap) = (0, 1, usize::MAX);
    for cut in 1..=node.count() {
        let i = cut - 1; // the item that this cut adds to the left part
        left += match i.cmp(&at) {
            std::cmp::Ordering::Less => node.page.item_bytes(i),
            std::cmp::Ordering::Equal => new_bytes,
            std::cmp::Ordering::Greater => node.page.item_bytes(i - 1),
        };
        let gap = (2 * left).abs_diff(total);
        if gap < best_gap {
            (best, best_gap) = (cut, gap);
        }
    }
    best
}

/// Appends the right neighbour's items to `left`. `separator` is the parent's for the right one.
pub(in crate::tree) fn join(left: &mut Node, right: &Node, separator: Key) {
    let seam = left.count();
    left.extend(right, 0..right.count());
    lower_seam(left, seam, separator);
}

/// Two neighbours' items, divided evenly anew.
pub(in crate::tree) fn even_out(left: &Node, right: &Node, separator: Key) -> (Node, Node) {
    let node_bytes = left.page.bytes().len();
    let half = (left.used_bytes() + right.used_bytes()) / 2;
    let (mut new_left, mut new_right) =
        (Node::new(node_bytes, left.level()), Node::new(node_bytes, left.level()));
    let mut taken = 0;
    let mut take_while = |node: &Node| {
        (0..node.count())
            .take_while(|i| {
                // An item goes left if its middle lies left of the middle of all.
                let bytes = node.page.item_bytes(*i);
                let goes = taken + bytes / 2 <= half;
                taken += if goes { bytes } else { 0 };
                goes
            })
            .count()
    };
    let from_left = take_while(left);
    new_left.extend(left, 0..from_left);
    if from_left < left.count() {
        new_right.extend(left, from_left..left.count());
        new_right.extend(right, 0..right.count());
        lower_seam(&mut new_right, left.count() - from_left, separator);
    } else {
        let from_right = take_while(right).min(right.count() - 1);
        new_left.extend(right, 0..from_right);
        new_right.extend(right, from_right..right.count());
        if from_right > 0 {
            lower_seam(&mut new_left, left.count(), separator);
        } else {
            lower_seam(&mut new_right, 0, separator);
        }
    }
    (new_left, new_right)
}

/// The first child of a node also takes the keys below its own separator, down to the parent's.
/// Where it is no longer first, its separator must say so.
fn lower_seam(node: &mut Node, seam: usize, separator: Key) {
    if !node.is_leaf() {
        node.page.set_key(seam, separator);
    }
}
