//! Promises of a whole tree that need many items, or two threads.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::base::{Generation, SegmentId};
use crate::block::memory::MemoryStore;
use crate::block::{BlockError, Pointer};
use crate::tree::node::{Handle, Link, Node};
use crate::tree::page::LEVELS_MAX;
use crate::tree::shape::{self, Shape};
use crate::tree::{Key, NodeDefect, NodeKills, Nodes, Part, Step, Tree, TreeError, Twice};

const SEGMENT: SegmentId = SegmentId(3);

fn nodes(node_bytes: usize) -> (Arc<MemoryStore>, Nodes) {
    let store = Arc::new(MemoryStore::new(node_bytes));
    let nodes = Nodes::new(store.clone(), 64 << 20).unwrap();
    (store, nodes)
}

/// A permutation of 64-bit numbers: random order without randomness.
fn mix(i: u64) -> u64 {
    let x = (i ^ (i >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

struct Builder {
    nodes: Nodes,
    tree: Tree,
    kills: NodeKills,
}

impl Builder {
    fn new(node_bytes: usize) -> Self {
        let (_, nodes) = nodes(node_bytes);
        Self { nodes, tree: Tree::empty(), kills: NodeKills::new() }
    }
    fn put(&mut self, key: Key, value: &[u8]) {
        self.tree.put(&self.nodes, Generation(1), key, value, &mut self.kills).unwrap();
    }
    fn remove(&mut self, key: Key) {
        let old = self.tree.remove(&self.nodes, Generation(1), key, &mut self.kills).unwrap();
        assert!(old.is_some());
    }
    fn shape(&self) -> Shape {
        shape::measure(&self.tree, &self.nodes).unwrap()
    }
    /// Percent of the leaves' room that is used.
    fn fill(&self) -> u64 {
        let shape = self.shape();
        100 * shape.item_bytes / (shape.leaves * self.nodes.node_bytes()) as u64
    }
}

#[test]
fn keys_in_order_leave_full_leaves() {
    let mut b = Builder::new(4096);
    for i in 0..20_000 {
        b.put(Key::new(1, 4, i * 4096), &[7; 56]);
    }
    assert!(b.fill() >= 96, "{}", b.fill());
}

#[test]
fn two_files_that_grow_before_others_leave_full_leaves() {
    let mut b = Builder::new(4096);
    for object in 0..40 {
        b.put(Key::new(object, 0, 0), &[1; 100]);
    }
    for i in 0..10_000 {
        b.put(Key::new(10, 4, i), &[7; 56]);
        b.put(Key::new(20, 4, i), &[7; 56]);
    }
    assert!(b.fill() >= 90, "{}", b.fill());
}

#[test]
fn keys_in_random_order_leave_leaves_two_thirds_full() {
    let mut b = Builder::new(4096);
    for i in 0..20_000 {
        b.put(Key::new(1, 4, mix(i)), &[7; 56]);
    }
    assert!(b.fill() >= 60, "{}", b.fill());
}

#[test]
fn removals_give_space_back() {
    for order in [std::convert::identity, mix] {
        let mut b = Builder::new(1024);
        for i in 0..20_000 {
            b.put(Key::new(1, 4, order(i)), &[7; 30]);
        }
        for i in (0..20_000).filter(|i| i % 20 != 0) {
            b.remove(Key::new(1, 4, order(i)));
        }
        assert_eq!(b.shape().items, 1000);
        assert!(b.fill() >= 25, "{}", b.fill());
        for i in (0..20_000).filter(|i| i % 20 == 0) {
            b.remove(Key::new(1, 4, order(i)));
        }
        assert!(b.tree.is_empty() && b.tree.dirty_nodes() == 0 && b.kills.is_empty());
    }
}

#[test]
fn values_that_shrink_give_space_back() {
    let mut b = Builder::new(1024);
    for i in 0..2000 {
        b.put(Key::new(1, 4, i), &[7; 256]);
    }
    for i in 0..2000 {
        b.put(Key::new(1, 4, i), &[7; 4]);
    }
    assert!(b.fill() >= 25, "{}", b.fill());
}

#[test]
fn a_value_above_a_quarter_of_a_node_is_refused() {
    let mut b = Builder::new(1024);
    b.put(Key::MIN, &[1; 256]);
    let put = b.tree.put(&b.nodes, Generation(1), Key::MAX, &[1; 257], &mut b.kills);
    let expected = TreeError::ValueTooLong { value_bytes: 257, max_bytes: 256 };
    assert_eq!(put.unwrap_err().to_string(), expected.to_string());
    assert_eq!(b.shape().items, 1);
}

#[test]
fn a_version_is_written_while_the_next_is_edited() {
    let (store, nodes) = nodes(512);
    let mut tree = Tree::empty();
    let mut all_kills = Vec::new();
    let count = 3000;
    for round in 1..=12 {
        let mut kills = NodeKills::new();
        for i in (0..count).filter(|i| mix(i * round).is_multiple_of(3)) {
            let value = [round as u8; 20];
            tree.put(&nodes, Generation(round), Key::new(1, 0, i), &value, &mut kills).unwrap();
        }
        let frozen = tree.clone();
        let expected = shape::measure(&frozen, &nodes).unwrap();
        let mut later = NodeKills::new();
        let root = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                frozen.write(&nodes, Generation(round), SEGMENT, Twice::Inner).unwrap().unwrap()
            });
            for i in 0..count {
                let key = Key::new(2, 0, mix(i) % 500);
                let next = Generation(round + 1);
                tree.put(&nodes, next, key, &[round as u8; 9], &mut later).unwrap();
            }
            writer.join().unwrap()
        });
        let reopened = Tree::open(root);
        assert_eq!(shape::measure(&reopened, &nodes).unwrap(), expected);
        all_kills.extend(kills.into_pointers().unwrap());
        tree.settle();
        all_kills.extend(later.into_pointers().unwrap());
    }
    let root = tree.write(&nodes, Generation(13), SEGMENT, Twice::Never).unwrap().unwrap();
    for pointer in all_kills {
        store.free(&pointer).expect("killed once");
    }
    let shape = shape::measure(&Tree::open(root), &nodes).unwrap();
    assert_eq!(shape.leaves + shape.inner_nodes, store.live());
}

#[test]
fn inner_nodes_are_kept_twice_where_asked() {
    for (copies, leaf, inner) in
        [(Twice::Never, false, false), (Twice::Inner, false, true), (Twice::All, true, true)]
    {
        let mut b = Builder::new(512);
        for i in 0..200 {
            b.put(Key::new(1, 0, i), &[1; 20]);
        }
        b.tree.write(&b.nodes, Generation(1), SEGMENT, copies).unwrap();
        b.tree.walk(&b.nodes, &mut |step| {
            let Step::Node { pointer: Some(pointer), node } = step else { panic!() };
            let twice = if node.level() == 0 { leaf } else { inner };
            assert_eq!(pointer.second.is_some(), twice);
            ControlFlow::Continue(())
        });
    }
}

#[test]
fn an_emptied_tree_is_dirty_until_it_is_written() {
    let mut b = Builder::new(512);
    assert!(!b.tree.is_dirty());
    b.put(Key::MIN, b"x");
    assert!(b.tree.is_dirty());
    let root = b.tree.write(&b.nodes, Generation(1), SEGMENT, Twice::Never).unwrap().unwrap();
    let mut tree = Tree::open(root);
    assert!(!tree.is_dirty() && tree.edited().is_none());
    tree.remove(&b.nodes, Generation(2), Key::MIN, &mut b.kills).unwrap();
    assert!(tree.is_dirty() && tree.is_empty() && tree.edited() == Some(Generation(2)));
    let frozen = tree.clone();
    assert!(frozen.write(&b.nodes, Generation(2), SEGMENT, Twice::Never).unwrap().is_none());
    assert!(!tree.is_dirty());
    assert_eq!(b.kills.len(), 1);
}

#[test]
fn a_frozen_node_that_was_never_written_cannot_be_freed() {
    let mut b = Builder::new(512);
    b.put(Key::MIN, b"x");
    let frozen = b.tree.clone();
    b.tree.put(&b.nodes, Generation(2), Key::MIN, b"y", &mut b.kills).unwrap();
    let kills = std::mem::take(&mut b.kills);
    assert!(matches!(kills.into_pointers(), Err(TreeError::NotWritten)));
    assert_eq!(frozen.get(&b.nodes, Key::MIN).unwrap().unwrap(), b"x");
}

#[test]
fn a_node_outside_its_parents_range_or_level_is_corruption() {
    let mut b = Builder::new(512);
    for i in 0..100 {
        b.put(Key::new(1, 0, i), &[1; 20]);
    }
    b.tree.write(&b.nodes, Generation(1), SEGMENT, Twice::Never).unwrap();
    let Some(Link::Live(root)) = &b.tree.root else { panic!("a tree in memory") };
    let pointers: Vec<Pointer> =
        root.node.live().map(|(_, child)| child.place.pointer().unwrap().clone()).collect();
    // The children in another order, and the root as its own child.
    for (from, defect) in
        [(&pointers[1], NodeDefect::Bounds), (root.place.pointer().unwrap(), NodeDefect::Level)]
    {
        let mut forged =
            root.node.settled(|c| Ok::<_, ()>(c.place.pointer().unwrap().clone())).unwrap();
        forged.set_pointer(0, from);
        let store = b.nodes.store();
        let forged = store.write_node(forged.page.bytes(), Generation(2), SEGMENT, false).unwrap();
        b.nodes.wipe();
        let found = Tree::open(forged).get(&b.nodes, Key::new(1, 0, 0)).unwrap_err();
        assert!(matches!(found, TreeError::Corrupt { defect: d, .. } if d == defect), "{found}");
    }
}

#[test]
fn a_tree_does_not_grow_above_its_highest_level() {
    let (_, nodes) = nodes(512);
    // A chain of nodes with one child each, up to a full root at the highest level.
    let mut leaf = Node::new(512, 0);
    leaf.page.insert(0, Key::MIN, b"x");
    let mut link = Link::Live(Handle::fresh(Generation(1), leaf));
    for level in 1..LEVELS_MAX {
        let mut node = Node::new(512, level as u8);
        node.insert_child(0, Key::MIN, &link);
        let full = level + 1 == LEVELS_MAX;
        while full && node.page.fits(Pointer::BYTES) {
            let at = node.count();
            node.insert_child(at, Key::new(at as u64, 0, 0), &link);
        }
        link = Link::Live(Handle::fresh(Generation(1), node));
    }
    let mut tree = Tree { root: Some(link), ..Tree::default() };
    let mut kills = NodeKills::new();
    let put = tree.put(&nodes, Generation(1), Key::new(0, 0, 1), b"y", &mut kills);
    assert!(matches!(put, Err(TreeError::TooHigh)));
    assert_eq!(tree.get(&nodes, Key::MIN).unwrap().unwrap(), b"x");
}

#[test]
fn a_missing_node_is_an_error_that_names_it() {
    let mut b = Builder::new(512);
    b.put(Key::MIN, b"x");
    let mut root = b.tree.write(&b.nodes, Generation(1), SEGMENT, Twice::Never).unwrap().unwrap();
    root.addr = root.addr.plus(1000);
    let found = Tree::open(root.clone()).get(&b.nodes, Key::MIN).unwrap_err();
    let TreeError::Block(BlockError::OutOfRange { addr }) = found else { panic!("{found}") };
    assert_eq!(addr, root.addr);
}

#[test]
fn a_range_goes_on_behind_what_cannot_be_read_and_says_where() {
    let (store, nodes) = nodes(512);
    let mut tree = Tree::empty();
    let mut kills = NodeKills::new();
    let key = |i: u64| Key::new(i, 1, 0);
    for i in 0..2000 {
        tree.put(&nodes, Generation(1), key(i), &i.to_le_bytes(), &mut kills).unwrap();
    }
    let root = tree.write(&nodes, Generation(1), SEGMENT, Twice::Never).unwrap().unwrap();
    let tree = Tree::open(root);
    let mut leaves = Vec::new();
    tree.walk(&nodes, &mut |step| {
        if let Step::Node { pointer: Some(pointer), node } = step
            && node.level() == 0
        {
            leaves.push((pointer.clone(), node.key(0).object, node.count() as u64));
        }
        ControlFlow::Continue(())
    });
    let gone: Vec<_> = [3, 4, leaves.len() - 1].map(|i| leaves[i].clone()).to_vec();
    gone.iter().for_each(|(pointer, ..)| store.free(pointer).unwrap());
    nodes.wipe();
    let (mut met, mut gaps) = (Vec::new(), Vec::new());
    let whole = tree.range_with_gaps(&nodes, Key::MIN, Key::MAX, &mut |part| {
        match part {
            Part::Item(key, _) => met.push(key.object),
            Part::Gap { lower, upper, .. } => gaps.push((lower.object, upper.map(|u| u.object))),
        }
        ControlFlow::Continue(())
    });
    assert!(!whole);
    let is_gone = |i: &u64| gone.iter().any(|(_, from, count)| (*from..from + count).contains(i));
    assert_eq!(met, (0..2000).filter(|i| !is_gone(i)).collect::<Vec<u64>>());
    let ends = |(_, from, count): &(Pointer, u64, u64)| (*from, Some(from + count));
    let mut wanted: Vec<_> = gone.iter().map(ends).collect();
    wanted[2].1 = None;
    assert_eq!(gaps, wanted);
    // What is asked for lies beside them.
    assert!(tree.range_with_gaps(&nodes, key(0), key(gone[0].1 - 1), &mut |_| {
        ControlFlow::Continue(())
    }));
}
