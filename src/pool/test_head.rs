//! A small head for tests of the pool: files are numbers, each one extent of a fill byte. No log.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::base::cursor::{Reader, Writer};
use crate::base::{BlockAddr, ClusterId, Generation, PoolId, SegmentId, Timestamp};
use crate::block::{BlockRef, Book, Class, Pointer, Run, SpaceEntry};
use crate::crypto::EngineKey;
use crate::device::Device;
use crate::pool::core::{Core, Interval};
use crate::pool::participant::{FrozenHead, HeadOut, NextInterval, Participant};
use crate::pool::{
    self, CatalogTxn, CreateOptions, CutReport, HeadCut, Keeper, Kill, OpenOptions, Pool,
    PoolError, items,
};
use crate::sys::sync::{Mutex, Rank};
use crate::tree::{Key, NodeKills, Step, Tree, Twice};

pub const SEGMENT: SegmentId = SegmentId(16);
const CLUSTER: ClusterId = ClusterId([7; 16]);
const ROOT_KEY: Key = Key::new(0x20 << 56, 0x20, 0);

/// What a test expects: file number -> (fill, blocks).
pub type Model = BTreeMap<u64, (u8, u32)>;

pub fn engine_key() -> EngineKey {
    EngineKey::from_bytes(&[1; 32])
}

pub fn create(device: &Arc<dyn Device>) -> Result<(), PoolError> {
    pool::create(
        device,
        CreateOptions {
            pool_id: PoolId([3; 16]),
            node_bytes: pool::NODE_BYTES,
            engine_key: engine_key(),
            wraps: Vec::new(),
            now: Timestamp::default(),
        },
    )
}

pub fn open(device: &Arc<dyn Device>) -> Result<(Arc<Pool>, Arc<TestHead>), PoolError> {
    let pool = pool::probe(device)?.unlock(engine_key(), OpenOptions::default())?;
    let head = TestHead::open(&pool)?;
    Ok((pool, head))
}

/// Every kill frees at once; the root stands in the catalog as it is.
struct OneCluster;

impl Keeper for OneCluster {
    fn settle(&self, txn: &mut CatalogTxn<'_>, cut: &CutReport) -> Result<(), PoolError> {
        for head in &cut.heads {
            for kill in &head.kills {
                txn.free(kill.run, SEGMENT)?;
            }
            if let Some(root) = &head.root {
                txn.put(ROOT_KEY, root)?;
            }
        }
        Ok(())
    }
}

struct State {
    tree: Tree,
    node_kills: NodeKills,
    kills: Vec<Kill>,
}

pub struct TestHead {
    core: Arc<Core>,
    state: Mutex<State>,
}

struct File {
    run: Run,
    birth: Generation,
    fill: u8,
    refs: Vec<BlockRef>,
}

impl File {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.run.addr.get()).u32(self.run.blocks).u64(self.birth.get()).u8(self.fill);
        self.refs.iter().for_each(|r| r.encode(&mut w));
        w.into_bytes()
    }
    fn decode(bytes: &[u8]) -> Self {
        let mut r = Reader::new(bytes);
        let run = Run { addr: BlockAddr(r.u64().unwrap()), blocks: r.u32().unwrap() };
        let (birth, fill) = (r.generation().unwrap(), r.u8().unwrap());
        let refs = (0..run.blocks).map(|_| BlockRef::decode(&mut r).unwrap()).collect();
        Self { run, birth, fill, refs }
    }
}

const fn file_key(n: u64) -> Key {
    Key::new(n, 1, 0)
}

impl TestHead {
    fn open(pool: &Arc<Pool>) -> Result<Arc<Self>, PoolError> {
        pool.set_keeper(Arc::new(OneCluster));
        let tree = match pool.read_catalog().get(ROOT_KEY)? {
            Some(bytes) if !bytes.is_empty() => {
                Tree::open(Pointer::decode(&mut Reader::new(&bytes)).unwrap())
            }
            _ => Tree::empty(),
        };
        let state = State { tree, node_kills: NodeKills::new(), kills: Vec::new() };
        let head =
            Arc::new(Self { core: pool.core().clone(), state: Mutex::new(Rank::HeadTree, state) });
        pool.register(head.clone())?;
        Ok(head)
    }

    /// Writes a file anew; what it held is let go.
    pub fn write(&self, n: u64, fill: u8, blocks: u32) -> Result<(), PoolError> {
        self.core.throttle()?;
        let run = self.core.space.allocate(Class::Data, blocks, blocks)?;
        let prepared = self.core.data.encrypt(&vec![fill; run.bytes()], run);
        if n.is_multiple_of(2) {
            self.core.data.write_out(&prepared).inspect_err(|error| self.core.fail(error))?;
        }
        let interval = self.core.gate.read();
        let birth = interval.generation;
        let (refs, crcs) = (prepared.refs.clone(), prepared.crcs.clone());
        interval.book.push(SpaceEntry::Alloc { run, segment: SEGMENT, crcs })?;
        prepared.mark_claimed();
        if !n.is_multiple_of(2) {
            self.core.data.put_image(run, &prepared.ciphertext);
        }
        let file = File { run, birth, fill, refs };
        self.edit(&interval, n, Some(&file.encode()))
    }

    pub fn remove(&self, n: u64) -> Result<(), PoolError> {
        self.core.check_writable()?;
        let interval = self.core.gate.read();
        self.edit(&interval, n, None)
    }

    fn edit(&self, interval: &Interval, n: u64, value: Option<&[u8]>) -> Result<(), PoolError> {
        let mut state = self.state.lock();
        let State { tree, node_kills, kills } = &mut *state;
        let (nodes, generation) = (&self.core.nodes, interval.generation);
        let old = match value {
            Some(value) => tree.put(nodes, generation, file_key(n), value, node_kills)?,
            None => tree.remove(nodes, generation, file_key(n), node_kills)?,
        };
        if let Some(old) = old.map(|bytes| File::decode(&bytes)) {
            kills.push(Kill { run: old.run, birth: old.birth });
        }
        self.core.due.note_change();
        Ok(())
    }

    fn files(&self, nodes: &crate::tree::Nodes) -> Result<Vec<(u64, File)>, PoolError> {
        let tree = self.state.lock().tree.clone();
        let mut files = Vec::new();
        tree.range(nodes, Key::MIN, Key::MAX, &mut |key, value| {
            files.push((key.object, File::decode(value)));
            ControlFlow::Continue(())
        })?;
        Ok(files)
    }

    /// Reads everything, and that it is what it should be.
    pub fn contents(&self) -> Result<Model, PoolError> {
        let _guard = self.core.readers.enter();
        let mut model = Model::new();
        for (n, file) in self.files(&self.core.nodes)? {
            let mut bytes = vec![0; file.run.bytes()];
            self.core.data.read(file.run, &file.refs, &mut bytes)?;
            assert!(bytes.iter().all(|b| *b == file.fill), "file {n} holds something else");
            model.insert(n, (file.fill, file.run.blocks));
        }
        Ok(model)
    }
}

impl Participant for TestHead {
    fn cluster(&self) -> ClusterId {
        CLUSTER
    }
    fn prepare_cut(&self) -> Result<(), PoolError> {
        Ok(())
    }
    fn cut(&self, old: &Interval, _: &NextInterval) -> Result<Box<dyn FrozenHead>, PoolError> {
        let mut state = self.state.lock();
        let mut kills = std::mem::take(&mut state.kills);
        for pointer in std::mem::take(&mut state.node_kills).into_pointers()? {
            kills.extend(pointer.runs().map(|run| Kill { run, birth: pointer.birth }));
        }
        let (core, tree) = (self.core.clone(), state.tree.clone());
        Ok(Box::new(Frozen { core, tree, kills, generation: old.generation }))
    }
    fn durable(&self, _: Generation) {
        self.state.lock().tree.settle();
    }
}

struct Frozen {
    core: Arc<Core>,
    tree: Tree,
    kills: Vec<Kill>,
    generation: Generation,
}

impl FrozenHead for Frozen {
    fn write(self: Box<Self>, _: &Book) -> Result<HeadOut, PoolError> {
        let root = self.tree.write(&self.core.nodes, self.generation, SEGMENT, Twice::Inner)?;
        let mut w = Writer::new();
        if let Some(root) = &root {
            root.encode(&mut w);
        }
        let cut = HeadCut {
            cluster: CLUSTER,
            root: (self.tree.edited() == Some(self.generation)).then(|| w.into_bytes()),
            ck_id: 1,
            root_generation: self.generation,
            kills: self.kills,
            allocated: Vec::new(),
            referenced_blocks: 0,
        };
        Ok(HeadOut { cut, log: None })
    }
}

fn add_nodes(found: &mut BTreeSet<u64>, pool: &Pool, tree: &Tree) {
    tree.walk(pool.nodes(), &mut |step| {
        match step {
            Step::Node { pointer: Some(pointer), .. } => {
                for run in pointer.runs() {
                    found.extend(run.addr.get()..run.end().get());
                }
            }
            Step::Node { pointer: None, .. } => {}
            Step::Unreadable { error, .. } => panic!("unreadable: {error}"),
        }
        ControlFlow::Continue(())
    });
}

/// That the region maps hold exactly the blocks that catalog and head reach. Right after a
/// checkpoint, or an opening, with nothing changed since.
pub fn assert_allocated_is_reachable(pool: &Pool, head: &TestHead) {
    let mut reachable = BTreeSet::new();
    add_nodes(&mut reachable, pool, pool.read_catalog().tree());
    add_nodes(&mut reachable, pool, &head.state.lock().tree);
    for (_, file) in head.files(pool.nodes()).unwrap() {
        reachable.extend(file.run.addr.get()..file.run.end().get());
    }
    let mut allocated = BTreeSet::new();
    for region in pool.regions() {
        let start = pool.geometry().region_start(region).get();
        for run in pool.region_map(region).unwrap().runs() {
            let first = start + u64::from(run.start);
            allocated.extend(first..first + u64::from(run.blocks));
        }
    }
    let lost: Vec<_> = allocated.difference(&reachable).take(8).collect();
    let unowned: Vec<_> = reachable.difference(&allocated).take(8).collect();
    assert!(lost.is_empty() && unowned.is_empty(), "leaked {lost:?}, unowned {unowned:?}");
    assert_eq!(pool.space().used, allocated.len() as u64);
}

/// Items that the catalog keeps of regions.
pub fn region_items(pool: &Pool) -> usize {
    items::regions(pool.read_catalog().tree(), pool.nodes(), &pool.geometry()).unwrap().len()
}
