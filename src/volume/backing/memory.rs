//! A tree and its blocks in memory, with the promises of [`Backing`], a durable copy that a
//! simulated crash returns to, and bookkeeping that fails a test on a double free or a leak.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, Generation};
use crate::sys::sync::{Mutex, Rank, RwLock};
use crate::volume::attr::StatFs;
use crate::volume::backing::{
    Backing, Buffers, Edit, Items, Key, Purpose, Reservation, Snapshot, Staged, Transact, Visit,
};
use crate::volume::error::{Result, VolumeError};
use crate::volume::items::{ExtentItem, REF_BYTES, kind};

type Tree = Arc<BTreeMap<Key, Vec<u8>>>;
type Blocks = Arc<RwLock<HashMap<u64, Arc<[u8]>>>>;

/// A tree in memory.
pub struct MemoryBacking {
    state: Mutex<State>,
    shared: Arc<Shared>,
    gate: RwLock<()>,
    buffers: Mutex<Option<Weak<dyn Buffers>>>,
    capacity_blocks: u64,
    writable: bool,
    /// Commits and stagings that still succeed, for tests of failures; `u64::MAX`: all.
    pub io_budget: AtomicU64,
    /// Promises of space to shrink that are still given, likewise.
    pub shrink_budget: AtomicU64,
    /// The inode whose items can be neither read nor changed, for tests of corruption; 0: none.
    pub unreadable: AtomicU64,
    /// Whether it is the device that fails where they are.
    pub device_fails: AtomicBool,
}

struct Shared {
    blocks: Blocks,
    /// Allocated, claimed or staged blocks.
    taken: Mutex<BTreeSet<u64>>,
    promised: AtomicU64,
}

#[derive(Clone)]
struct State {
    items: Tree,
    claimed: BTreeSet<u64>,
    next: u64,
    generation: u64,
    durable: Tree,
    durable_claimed: BTreeSet<u64>,
}

struct Token {
    run: std::ops::Range<u64>,
    shared: Arc<Shared>,
    claimed: AtomicBool,
}

impl Drop for Token {
    fn drop(&mut self) {
        if !self.claimed.load(Ordering::Relaxed) {
            let mut taken = self.shared.taken.lock();
            self.run.clone().for_each(|b| {
                taken.remove(&b);
            });
        }
    }
}

fn reference(addr: u64) -> [u8; REF_BYTES] {
    let mut bytes = [0u8; REF_BYTES];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[40..].copy_from_slice(&(!addr).to_le_bytes());
    bytes
}

impl MemoryBacking {
    /// An empty tree over a device of that many blocks.
    #[must_use]
    pub fn new(capacity_blocks: u64) -> Arc<Self> {
        Self::from_items(
            capacity_blocks,
            Tree::default(),
            BTreeSet::new(),
            Blocks::new(RwLock::new(Rank::MemoryBlocks, HashMap::new())),
            (1, 17),
        )
    }

    fn from_items(
        capacity_blocks: u64,
        items: Tree,
        claimed: BTreeSet<u64>,
        blocks: Blocks,
        (next, generation): (u64, u64),
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(
                Rank::HeadTree,
                State {
                    durable: Arc::clone(&items),
                    durable_claimed: claimed.clone(),
                    items,
                    claimed: claimed.clone(),
                    next,
                    generation,
                },
            ),
            shared: Arc::new(Shared {
                blocks,
                taken: Mutex::new(Rank::Space, claimed),
                promised: AtomicU64::new(0),
            }),
            gate: RwLock::new(Rank::Gate, ()),
            buffers: Mutex::new(Rank::HeadBuffers, None),
            capacity_blocks,
            writable: true,
            io_budget: AtomicU64::new(u64::MAX),
            shrink_budget: AtomicU64::new(u64::MAX),
            unreadable: AtomicU64::new(0),
            device_fails: AtomicBool::new(false),
        })
    }

    /// What is left after a crash: the state of the last commit.
    #[must_use]
    pub fn crashed(&self) -> Arc<Self> {
        let state = self.state.lock();
        Self::from_items(
            self.capacity_blocks,
            Arc::clone(&state.durable),
            state.durable_claimed.clone(),
            Arc::clone(&self.shared.blocks),
            (state.next, state.generation + 16),
        )
    }

    /// The tree as it is now, read-only for good.
    #[must_use]
    pub fn snapshot(&self) -> Arc<dyn Backing> {
        let items = Arc::clone(&self.state.lock().items);
        let (claimed, blocks) = (BTreeSet::new(), Arc::clone(&self.shared.blocks));
        let mut copy = Self::from_items(self.capacity_blocks, items, claimed, blocks, (1, 17));
        if let Some(copy) = Arc::get_mut(&mut copy) {
            copy.writable = false;
        }
        copy
    }

    /// A cut as a checkpoint makes it: buffers drained, a new interval, everything durable.
    ///
    /// # Errors
    /// What the buffers report.
    pub fn checkpoint(&self) -> Result<()> {
        let buffers = self.buffers.lock().as_ref().and_then(Weak::upgrade);
        if let Some(buffers) = &buffers {
            buffers.drain_ahead()?;
        }
        let _closed = self.gate.write();
        if let Some(buffers) = &buffers {
            let mut run: Box<Transact<'_>> = Box::new(|edit| self.apply(edit));
            buffers.drain_gated(&mut *run)?;
        }
        let mut state = self.state.lock();
        state.durable = Arc::clone(&state.items);
        state.durable_claimed = state.claimed.clone();
        state.generation += 1;
        Ok(())
    }

    fn apply(&self, edit: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()> {
        let (base, generation) = {
            let state = self.state.lock();
            (Arc::clone(&state.items), state.generation)
        };
        let mut txn = MemoryTxn {
            backing: self,
            base,
            edits: BTreeMap::new(),
            claims: Vec::new(),
            kills: Vec::new(),
            generation,
        };
        edit(&mut txn)?;
        let MemoryTxn { edits, claims, kills, base, .. } = txn;
        drop(base);
        let mut state = self.state.lock();
        let items = Arc::make_mut(&mut state.items);
        for (key, value) in edits {
            match value {
                Some(value) => items.insert(key, value),
                None => items.remove(&key),
            };
        }
        for token in claims.iter().filter_map(|s| s.token.downcast_ref::<Token>()) {
            token.claimed.store(true, Ordering::Relaxed);
            for block in token.run.clone() {
                assert!(state.claimed.insert(block), "block {block} claimed twice");
            }
        }
        let mut taken = self.shared.taken.lock();
        for block in kills.into_iter().flatten() {
            assert!(state.claimed.remove(&block), "block {block} freed but not allocated");
            // Reuse is not modelled: a view may still read it. The space counts as free at once.
            taken.remove(&block);
        }
        Ok(())
    }

    fn bad(&self) -> Option<Bad> {
        let object = self.unreadable.load(Ordering::Relaxed);
        let device_fails = self.device_fails.load(Ordering::Relaxed);
        (object != 0).then_some(Bad { object, device_fails })
    }

    fn spend(&self) -> Result<()> {
        let left = self.io_budget.load(Ordering::Relaxed);
        if left == 0 {
            return Err(VolumeError::Io("injected".into()));
        }
        if left != u64::MAX {
            self.io_budget.store(left - 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Checks that the claimed blocks are exactly those that extents refer to.
    ///
    /// # Errors
    /// A line that names the first difference.
    pub fn check_space(&self) -> std::result::Result<(), String> {
        let state = self.state.lock();
        let mut reached = BTreeSet::new();
        for (key, value) in state.items.iter().filter(|(k, _)| k.kind == kind::EXTENT) {
            let extent = ExtentItem::decode(value).map_err(|e| format!("{key:?}: {e}"))?;
            for block in extent.addr.0..extent.addr.0 + u64::from(extent.blocks()) {
                if !reached.insert(block) {
                    return Err(format!("block {block} is reached twice"));
                }
            }
        }
        match reached.symmetric_difference(&state.claimed).next() {
            None => Ok(()),
            Some(b) => Err(format!("block {b}: reached or allocated, not both")),
        }
    }

    /// Items in the tree, of one kind.
    #[must_use]
    pub fn count_items(&self, of_kind: u8) -> usize {
        self.state.lock().items.keys().filter(|k| k.kind == of_kind).count()
    }
}

struct MemoryView {
    items: Tree,
    blocks: Blocks,
    bad: Option<Bad>,
}

/// An inode whose items are on a bad node.
#[derive(Clone, Copy)]
struct Bad {
    object: u64,
    device_fails: bool,
}

/// That `key` is not on the bad node.
fn check_node(bad: Option<Bad>, key: Key) -> Result<()> {
    let what = "a node does not match its tag";
    match bad.filter(|bad| bad.object == key.object) {
        None => Ok(()),
        Some(bad) if bad.device_fails => Err(VolumeError::Io("injected".into())),
        Some(_) => Err(VolumeError::Corrupt { what, ino: None, offset: None, addr: None }),
    }
}

fn range_of(
    items: &BTreeMap<Key, Vec<u8>>,
    from: Key,
    to: Key,
    bad: Option<Bad>,
    visit: &mut Visit<'_>,
) -> Result<()> {
    if from <= to {
        for (key, value) in items.range(from..=to) {
            check_node(bad, *key)?;
            if visit(*key, value) == ControlFlow::Break(()) {
                break;
            }
        }
    }
    Ok(())
}

impl Items for MemoryView {
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        check_node(self.bad, key)?;
        Ok(self.items.get(&key).cloned())
    }
    fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<()> {
        range_of(&self.items, from, to, self.bad, visit)
    }
}

impl Snapshot for MemoryView {
    fn read_blocks(&self, addr: BlockAddr, refs: &[u8], out: &mut [u8]) -> Result<()> {
        let blocks = self.blocks.read();
        let chunks = refs.chunks_exact(REF_BYTES).zip(out.chunks_exact_mut(BLOCK_SIZE));
        for (i, (tag, out)) in chunks.enumerate() {
            let at = addr.0 + i as u64;
            let stored =
                blocks.get(&at).filter(|_| *tag == reference(at)).ok_or(VolumeError::Corrupt {
                    what: "a block does not match its tag",
                    ino: None,
                    offset: None,
                    addr: Some(BlockAddr(at)),
                })?;
            out.copy_from_slice(stored);
        }
        Ok(())
    }
}

struct MemoryTxn<'a> {
    backing: &'a MemoryBacking,
    base: Tree,
    edits: BTreeMap<Key, Option<Vec<u8>>>,
    claims: Vec<Staged>,
    kills: Vec<std::ops::Range<u64>>,
    generation: u64,
}

impl Items for MemoryTxn<'_> {
    fn get(&self, key: Key) -> Result<Option<Vec<u8>>> {
        check_node(self.backing.bad(), key)?;
        match self.edits.get(&key) {
            Some(edit) => Ok(edit.clone()),
            None => Ok(self.base.get(&key).cloned()),
        }
    }
    fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) -> Result<()> {
        if from > to {
            return Ok(());
        }
        let mut merged: BTreeMap<Key, Vec<u8>> =
            self.base.range(from..=to).map(|(k, v)| (*k, v.clone())).collect();
        for (key, edit) in self.edits.range(from..=to) {
            match edit {
                Some(value) => merged.insert(*key, value.clone()),
                None => merged.remove(key),
            };
        }
        range_of(&merged, from, to, self.backing.bad(), visit)
    }
}

impl Edit for MemoryTxn<'_> {
    fn generation(&self) -> Generation {
        Generation(self.generation)
    }
    fn put(&mut self, key: Key, value: &[u8]) -> Result<()> {
        assert!(value.len() <= 4096, "a value of {} bytes does not fit a node", value.len());
        check_node(self.backing.bad(), key)?;
        self.edits.insert(key, Some(value.to_vec()));
        Ok(())
    }
    fn remove(&mut self, key: Key) -> Result<()> {
        check_node(self.backing.bad(), key)?;
        self.edits.insert(key, None);
        Ok(())
    }
    fn refresh(&mut self) {
        self.base = Arc::clone(&self.backing.state.lock().items);
    }
    fn claim(&mut self, staged: Staged) {
        self.claims.push(staged);
    }
    fn kill(&mut self, addr: BlockAddr, blocks: u32, birth: Generation) {
        assert!(birth.0 <= self.generation, "born after its death");
        self.kills.push(addr.0..addr.0 + u64::from(blocks));
    }
}

impl Backing for MemoryBacking {
    fn writable(&self) -> bool {
        self.writable
    }
    fn view(&self) -> Result<Box<dyn Snapshot>> {
        let items = Arc::clone(&self.state.lock().items);
        let blocks = Arc::clone(&self.shared.blocks);
        Ok(Box::new(MemoryView { items, blocks, bad: self.bad() }))
    }
    fn transact(&self, edit: &mut dyn FnMut(&mut dyn Edit) -> Result<()>) -> Result<()> {
        let _open = self.gate.read();
        self.apply(edit)
    }
    fn between_cuts(&self, accept: &mut dyn FnMut()) {
        let _open = self.gate.read();
        accept();
    }
    fn stage(&self, plain: &[u8]) -> Result<Vec<Staged>> {
        self.spend()?;
        assert_eq!(plain.len() % BLOCK_SIZE, 0);
        let count = (plain.len() / BLOCK_SIZE) as u64;
        let mut state = self.state.lock();
        let mut taken = self.shared.taken.lock();
        if taken.len() as u64 + count > self.capacity_blocks {
            return Err(VolumeError::NoSpace);
        }
        // Runs of uneven length, as a fragmented device gives them.
        let mut out = Vec::new();
        let mut chunks = plain.chunks_exact(BLOCK_SIZE);
        let mut left = count;
        while left > 0 {
            let length = left.min(1 + (state.next * 7) % 45);
            let run = state.next..state.next + length;
            state.next += length + (length & 1);
            let mut refs = Vec::new();
            let mut blocks = self.shared.blocks.write();
            for (addr, chunk) in run.clone().zip(&mut chunks) {
                blocks.insert(addr, Arc::from(chunk));
                taken.insert(addr);
                refs.extend_from_slice(&reference(addr));
            }
            left -= length;
            let shared = Arc::clone(&self.shared);
            let token = Token { run: run.clone(), shared, claimed: AtomicBool::new(false) };
            out.push(Staged { addr: BlockAddr(run.start), refs, token: Box::new(token) });
        }
        Ok(out)
    }
    fn write_out(&self, _: &mut [Staged]) -> Result<()> {
        self.spend()
    }
    fn reserve(&self, data_blocks: u64, _: u64, purpose: Purpose) -> Result<Reservation> {
        if purpose == Purpose::Shrink {
            match self.shrink_budget.load(Ordering::Relaxed) {
                0 => return Err(VolumeError::NoSpace),
                u64::MAX => {}
                left => self.shrink_budget.store(left - 1, Ordering::Relaxed),
            }
            return Ok(Reservation { data_blocks, promise: None });
        }
        let taken = self.shared.taken.lock().len() as u64;
        let promised = self.shared.promised.load(Ordering::Relaxed);
        if taken + promised + data_blocks + 8 > self.capacity_blocks {
            return Err(VolumeError::NoSpace);
        }
        self.shared.promised.fetch_add(data_blocks, Ordering::Relaxed);
        let promise = Promise(data_blocks, Arc::clone(&self.shared));
        Ok(Reservation { data_blocks, promise: Some(Box::new(promise)) })
    }
    fn commit(&self) -> Result<()> {
        self.spend()?;
        let mut keep = || {
            let mut state = self.state.lock();
            state.durable = Arc::clone(&state.items);
            state.durable_claimed = state.claimed.clone();
        };
        let buffers = self.buffers.lock().as_ref().and_then(Weak::upgrade);
        match buffers {
            Some(buffers) => buffers.drain_for_commit(&mut keep),
            None => {
                keep();
                Ok(())
            }
        }
    }
    fn name_hash(&self, parent: u64, name: &[u8]) -> u64 {
        // Names that begin with "collide" all hash alike, so that tests meet collisions.
        let mut hasher = std::hash::DefaultHasher::new();
        (parent, name.strip_prefix(b"collide").map_or(name, |_| b"collide")).hash(&mut hasher);
        hasher.finish()
    }
    fn set_buffers(&self, buffers: Weak<dyn Buffers>) {
        *self.buffers.lock() = Some(buffers);
    }
    fn space(&self) -> StatFs {
        let taken = self.shared.taken.lock().len() as u64;
        let free = self.capacity_blocks.saturating_sub(taken);
        let promised = self.shared.promised.load(Ordering::Relaxed);
        StatFs {
            blocks: self.capacity_blocks,
            blocks_free: free,
            blocks_available: free.saturating_sub(promised + 8),
        }
    }
}

struct Promise(u64, Arc<Shared>);

impl Drop for Promise {
    fn drop(&mut self) {
        self.1.promised.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Bytes of the device, for tests that fill it.
#[must_use]
pub const fn bytes_of(blocks: u64) -> u64 {
    blocks * BLOCK_SIZE_U64
}
