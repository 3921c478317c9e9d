//! A tree beside a plain map, through random edits, cuts, checkpoints, evictions and failures.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use zeroize::Zeroizing;

use crate::base::{BlockAddr, Generation, SegmentId};
use crate::block::memory::MemoryStore;
use crate::block::{BlockError, NodeStore, Pointer};
use crate::tree::node::{Handle, Link, Node};
use crate::tree::walk::Step;
use crate::tree::{Key, NodeKills, Nodes, Tree, Twice, shape};

type Model = BTreeMap<Key, Vec<u8>>;

const SEGMENT: SegmentId = SegmentId(7);

/// A memory store whose reads fail from a moment on.
struct FlakyStore {
    inner: MemoryStore,
    reads_left: AtomicU64,
}

impl FlakyStore {
    fn new(node_bytes: usize) -> Self {
        Self { inner: MemoryStore::new(node_bytes), reads_left: AtomicU64::new(u64::MAX) }
    }
    fn fail_reads_after(&self, reads: u64) {
        self.reads_left.store(reads, Ordering::Relaxed);
    }
}

impl NodeStore for FlakyStore {
    fn node_bytes(&self) -> usize {
        self.inner.node_bytes()
    }
    fn read_node(&self, pointer: &Pointer) -> Result<Zeroizing<Vec<u8>>, BlockError> {
        let take = |left: u64| left.checked_sub(1);
        match self.reads_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => self.inner.read_node(pointer),
            Err(_) => Err(BlockError::Corrupt { what: "node", addr: pointer.addr }),
        }
    }
    fn write_node(
        &self,
        plain: &[u8],
        birth: Generation,
        segment: SegmentId,
        twice: bool,
    ) -> Result<Pointer, BlockError> {
        assert_eq!(segment, SEGMENT);
        self.inner.write_node(plain, birth, segment, twice)
    }
}

/// A version and what it must hold.
struct Version {
    interval: u64,
    tree: Tree,
    model: Model,
}

/// A version between its cut and its checkpoint.
struct Frozen {
    version: Version,
    kills: NodeKills,
}

struct Dead {
    pointer: Pointer,
    killed: u64,
}

struct World {
    store: Arc<FlakyStore>,
    nodes: Nodes,
    interval: u64,
    live: Tree,
    model: Model,
    kills: NodeKills,
    frozen: VecDeque<Frozen>,
    /// Written versions that are held: snapshots, and the latest.
    held: Vec<Version>,
    readers: Vec<Version>,
    dead: Vec<Dead>,
}

impl World {
    fn new(node_bytes: usize, cache_nodes: usize) -> Self {
        let store = Arc::new(FlakyStore::new(node_bytes));
        let nodes = Nodes::new(store.clone(), cache_nodes * (node_bytes + 256)).unwrap();
        Self {
            store,
            nodes,
            interval: 5,
            live: Tree::empty(),
            model: Model::new(),
            kills: NodeKills::new(),
            frozen: VecDeque::new(),
            held: Vec::new(),
            readers: Vec::new(),
            dead: Vec::new(),
        }
    }

    fn put(&mut self, key: Key, value: &[u8]) {
        let interval = Generation(self.interval);
        let old = self.live.put(&self.nodes, interval, key, value, &mut self.kills).unwrap();
        assert_eq!(old, self.model.insert(key, value.to_vec()));
    }

    fn remove(&mut self, key: Key) {
        let interval = Generation(self.interval);
        let old = self.live.remove(&self.nodes, interval, key, &mut self.kills).unwrap();
        assert_eq!(old, self.model.remove(&key));
    }

    /// An edit whose reads fail at some point: it happens or it does not.
    fn edit_with_failing_reads(&mut self, key: Key, value: Option<&[u8]>, reads: u64) {
        let interval = Generation(self.interval);
        self.store.fail_reads_after(reads);
        let done = match value {
            Some(value) => self.live.put(&self.nodes, interval, key, value, &mut self.kills),
            None => self.live.remove(&self.nodes, interval, key, &mut self.kills),
        };
        self.store.fail_reads_after(u64::MAX);
        if let Ok(old) = done {
            let expected = match value {
                Some(value) => self.model.insert(key, value.to_vec()),
                None => self.model.remove(&key),
            };
            assert_eq!(old, expected);
        }
    }

    fn cut(&mut self) {
        let version =
            Version { interval: self.interval, tree: self.live.clone(), model: self.model.clone() };
        let kills = std::mem::take(&mut self.kills);
        self.frozen.push_back(Frozen { version, kills });
        self.interval += 1;
    }

    /// Writes the oldest frozen version; its kills then count.
    fn checkpoint(&mut self, fail_after: Option<u64>) {
        let Some(Frozen { version, kills }) = self.frozen.pop_front() else { return };
        let generation = Generation(version.interval);
        if fail_after.is_some() {
            self.store.inner.fail_after(fail_after);
            let _ = version.tree.write(&self.nodes, generation, SEGMENT, Twice::Inner);
            self.store.inner.fail_after(None);
        }
        let root = version.tree.write(&self.nodes, generation, SEGMENT, Twice::Inner).unwrap();
        assert!(!version.tree.is_dirty());
        for pointer in kills.into_pointers().unwrap() {
            assert!(pointer.birth < generation, "a node killed in the interval of its birth");
            self.dead.push(Dead { pointer, killed: version.interval });
        }
        let tree = root.map_or_else(Tree::empty, Tree::open);
        self.held.push(Version { tree, ..version });
        self.free_dead();
    }

    fn free_dead(&mut self) {
        let (held, readers) = (&self.held, &self.readers);
        let store = &self.store;
        let nodes = &self.nodes;
        self.dead.retain(|dead| {
            let born = dead.pointer.birth.get();
            let needed = held.iter().any(|v| (born..dead.killed).contains(&v.interval))
                || readers.iter().any(|r| (born..=dead.killed).contains(&r.interval));
            if !needed {
                store.inner.free(&dead.pointer).expect("freed once");
                nodes.forget(dead.pointer.addr);
            }
            needed
        });
    }

    fn drop_held(&mut self, index: usize) {
        // The latest stays: the next checkpoint stands on it.
        if self.held.len() > 1 {
            let index = index % (self.held.len() - 1);
            self.held.remove(index);
            self.free_dead();
        }
    }

    fn reopen(&mut self) {
        self.cut();
        while !self.frozen.is_empty() {
            self.checkpoint(None);
        }
        self.live = self.held.last().unwrap().tree.clone();
        assert!(!self.live.is_dirty());
        self.nodes.wipe();
    }

    fn check(&self) {
        check_version(&self.nodes, &self.live, &self.model);
        for frozen in &self.frozen {
            check_version(&self.nodes, &frozen.version.tree, &frozen.version.model);
        }
        for version in self.held.iter().chain(&self.readers) {
            check_version(&self.nodes, &version.tree, &version.model);
        }
        let (nodes, copies) = own_nodes(&self.live, self.live.edited());
        assert_eq!((self.live.dirty_nodes(), self.live.dirty_copies()), (nodes, copies));
        if self.readers.is_empty() {
            self.check_space();
        }
    }

    /// Nodes in the store are those that a written version reaches, no more and no fewer.
    fn check_space(&self) {
        let mut reached = BTreeSet::new();
        for version in &self.held {
            reach(&self.nodes, &version.tree, &mut reached);
        }
        assert_eq!(reached.len(), self.store.inner.live(), "nodes reached, nodes in the store");
    }
}

fn reach(nodes: &Nodes, tree: &Tree, reached: &mut BTreeSet<BlockAddr>) {
    tree.walk(nodes, &mut |step| {
        match step {
            Step::Node { pointer, .. } => reached.extend(pointer.map(|p| p.addr)),
            Step::Unreadable { error, .. } => panic!("{error}"),
        }
        ControlFlow::Continue(())
    });
}

fn all_items(nodes: &Nodes, tree: &Tree) -> Model {
    let mut items = Model::new();
    let mut last = None;
    tree.range(nodes, Key::MIN, Key::MAX, &mut |key, value| {
        assert!(last < Some(key), "ascending");
        last = Some(key);
        items.insert(key, value.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    items
}

fn check_version(nodes: &Nodes, tree: &Tree, model: &Model) {
    assert_eq!(&all_items(nodes, tree), model);
    assert_eq!(tree.is_empty(), model.is_empty());
    let shape = shape::measure(tree, nodes).unwrap();
    assert_eq!(shape.items, model.len() as u64);
}

/// Nodes in memory of that interval.
fn own_nodes(tree: &Tree, interval: Option<Generation>) -> (usize, usize) {
    fn count(handle: &Handle, interval: Option<Generation>) -> (usize, usize) {
        let copies = if handle.node.is_leaf() { 1 } else { 2 };
        let own = if Some(handle.interval) == interval { (1, copies) } else { (0, 0) };
        let below = handle.node.live().map(|(_, child)| count(child, interval));
        below.fold(own, |sum, c| (sum.0 + c.0, sum.1 + c.1))
    }
    match &tree.root {
        Some(Link::Live(root)) => count(root, interval),
        _ => (0, 0),
    }
}

/// Links in memory to nodes that were written.
fn pinned(tree: &Tree) -> usize {
    fn count(node: &Node) -> usize {
        let written = |child: &Handle| usize::from(child.place.pointer().is_some());
        node.live().map(|(_, child)| written(child) + count(&child.node)).sum()
    }
    match &tree.root {
        Some(Link::Live(root)) => usize::from(root.place.pointer().is_some()) + count(&root.node),
        _ => 0,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put(Key, usize),
    PutRun(Key, u8, usize),
    Remove(Key),
    RemoveRange(Key, u8),
    FailingEdit(Key, Option<usize>, u64),
    Cut,
    Checkpoint(Option<u64>),
    Settle,
    Wipe,
    Reopen,
    DropHeld(usize),
    Read,
    EndRead,
    Compare(Key, Key),
}

fn key() -> impl Strategy<Value = Key> {
    let object = prop_oneof![4 => 1u64..4, 1 => Just(0), 1 => Just(u64::MAX)];
    let offset = prop_oneof![8 => 0u64..120, 1 => Just(u64::MAX)];
    (object, 0u8..2, offset).prop_map(|(o, k, f)| Key::new(o, k, f))
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0usize..40, 2 => 40usize..=128, 1 => Just(128)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (key(), length()).prop_map(|(k, l)| Op::Put(k, l)),
        4 => (key(), 1u8..60, length()).prop_map(|(k, n, l)| Op::PutRun(k, n, l)),
        6 => key().prop_map(Op::Remove),
        4 => (key(), 1u8..100).prop_map(|(k, n)| Op::RemoveRange(k, n)),
        2 => (key(), proptest::option::of(length()), 0u64..5)
            .prop_map(|(k, v, n)| Op::FailingEdit(k, v, n)),
        3 => Just(Op::Cut),
        4 => proptest::option::weighted(0.3, 0u64..12).prop_map(Op::Checkpoint),
        2 => Just(Op::Settle),
        2 => Just(Op::Wipe),
        1 => Just(Op::Reopen),
        2 => (0usize..8).prop_map(Op::DropHeld),
        1 => Just(Op::Read),
        2 => Just(Op::EndRead),
        3 => (key(), key()).prop_map(|(a, b)| Op::Compare(a, b)),
    ]
}

fn value(key: Key, length: usize, salt: u64) -> Vec<u8> {
    let seed = key.offset.wrapping_mul(31).wrapping_add(key.object).wrapping_add(salt);
    (0..length).map(|i| seed.wrapping_add(i as u64) as u8 | 1).collect()
}

fn compare(world: &World, from: Key, to: Key) {
    let World { nodes, live, model, .. } = world;
    assert_eq!(live.get(nodes, from).unwrap().as_ref(), model.get(&from));
    live.touch(nodes, from).unwrap();
    let before = model.range(..=to).next_back().map(|(k, v)| (*k, v.clone()));
    assert_eq!(live.last_before(nodes, to).unwrap(), before);
    let mut forward = Vec::new();
    live.range(nodes, from, to, &mut |key, value| {
        forward.push((key, value.to_vec()));
        if forward.len() < 30 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .unwrap();
    let mut backward = Vec::new();
    live.range_back(nodes, from, to, &mut |key, value| {
        backward.push((key, value.to_vec()));
        if backward.len() < 30 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .unwrap();
    let within = |k: &Key| (from..=to).contains(k);
    let mut expected: Vec<_> = model.clone().into_iter().filter(|(k, _)| within(k)).collect();
    assert_eq!(forward, expected[..expected.len().min(30)]);
    expected.reverse();
    assert_eq!(backward, expected[..expected.len().min(30)]);
}

fn run(world: &mut World, step: usize, op: &Op) {
    let salt = step as u64 * 7;
    match *op {
        Op::Put(key, length) => world.put(key, &value(key, length, salt)),
        Op::PutRun(key, count, length) => {
            for i in 0..u64::from(count) {
                let key = Key { offset: key.offset.wrapping_add(i), ..key };
                world.put(key, &value(key, length, salt));
            }
        }
        Op::Remove(key) => world.remove(key),
        Op::RemoveRange(key, count) => {
            for i in 0..u64::from(count) {
                world.remove(Key { offset: key.offset.wrapping_add(i), ..key });
            }
        }
        Op::FailingEdit(key, length, reads) => {
            let value = length.map(|length| value(key, length, salt));
            world.edit_with_failing_reads(key, value.as_deref(), reads);
        }
        Op::Cut if world.frozen.len() < 3 => world.cut(),
        Op::Cut => {}
        Op::Checkpoint(fail_after) => world.checkpoint(fail_after),
        Op::Settle => {
            world.live.settle();
            assert_eq!(pinned(&world.live), 0);
        }
        Op::Wipe => world.nodes.wipe(),
        Op::Reopen => world.reopen(),
        Op::DropHeld(index) => world.drop_held(index),
        Op::Read => world.readers.push(Version {
            interval: world.interval,
            tree: world.live.clone(),
            model: world.model.clone(),
        }),
        Op::EndRead => {
            if let Some(reader) = world.readers.pop() {
                check_version(&world.nodes, &reader.tree, &reader.model);
                world.free_dead();
            }
        }
        Op::Compare(from, to) => compare(world, from, to),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_version_is_its_map_and_the_store_holds_what_versions_reach(
        node_bytes in prop_oneof![2 => Just(512usize), 1 => Just(768), 1 => Just(4096)],
        cache_nodes in prop_oneof![Just(1usize), Just(20), Just(10_000)],
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(node_bytes, cache_nodes);
        for (step, op) in ops.iter().enumerate() {
            run(&mut world, step, op);
            if step % 8 == 0 {
                world.check();
            }
        }
        world.check();
        // To the end: all written, all readers gone, all but the latest version dropped.
        world.readers.clear();
        world.reopen();
        while world.held.len() > 1 {
            world.drop_held(0);
        }
        world.free_dead();
        world.check();
        prop_assert!(world.dead.is_empty());
        // And an emptied tree leaves an empty store.
        let keys: Vec<_> = world.model.keys().copied().collect();
        for key in keys {
            world.remove(key);
        }
        world.reopen();
        while world.held.len() > 1 {
            world.drop_held(0);
        }
        prop_assert_eq!(world.store.inner.live(), 0);
    }
}
