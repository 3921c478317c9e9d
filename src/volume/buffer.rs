//! The write buffer of a cluster: small writes wait here and go out in runs.
//!
//! Pages stay in the buffer, and readers find them there, until the edit that maps their blocks is
//! in the tree. A drain ahead of time takes no lock while it encrypts and writes; a page that was
//! changed or dropped meanwhile is told by its version, and its block is freed again. The drain at
//! a cut or commit holds the buffer gate, so nothing changes under it: what it inserts is exactly
//! what was accepted before that instant.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::limits::EXTENT_BLOCKS_MAX;
use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64, InodeNo};
use crate::sys::aligned::AlignedBuf;
use crate::sys::sync::{Mutex, MutexGuard, Rank, RwLock};
use crate::volume::Volume;
use crate::volume::backing::{Buffers, Edit, Reservation, Staged, Transact};
use crate::volume::error::{Result, VolumeError};
use crate::volume::extents;
use crate::volume::inode::{BufferedPage, Inode, Page, State};
use crate::volume::items::{ExtentItem, InodeItem, REF_BYTES, inode_key};

/// Data up to this size rides in the log's record instead of being written to its place first.
const SMALL_BYTES: u64 = 16 << 10;

/// The buffered pages of all inodes, counted.
pub(in crate::volume) struct WriteBuffer {
    /// Shared by what changes buffers or inode items, exclusive at a cut or commit.
    pub gate: RwLock<()>,
    dirty: Mutex<BTreeMap<InodeNo, Arc<Inode>>>,
    bytes: AtomicU64,
    versions: AtomicU64,
    /// Held by the one drain ahead of time that runs.
    drainer: Mutex<()>,
    limit_bytes: u64,
}

impl WriteBuffer {
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            gate: RwLock::new(Rank::BufferGate, ()),
            dirty: Mutex::new(Rank::DirtyInodes, BTreeMap::new()),
            bytes: AtomicU64::new(0),
            versions: AtomicU64::new(0),
            drainer: Mutex::new(Rank::Drainer, ()),
            limit_bytes: limit_bytes as u64,
        }
    }

    /// Buffered bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Inodes with something that the tree has not.
    pub fn dirty_inodes(&self) -> Vec<Arc<Inode>> {
        self.dirty.lock().values().map(Arc::clone).collect()
    }

    /// Puts blocks' new content, and keeps what was promised for it where one of them is new. The
    /// caller holds the gate (shared) and the state.
    pub fn put_pages(
        &self,
        inode: &Arc<Inode>,
        state: &mut State,
        pages: Vec<(u64, Arc<Page>)>,
        promise: impl IntoIterator<Item = Reservation>,
    ) {
        let mut new_bytes = 0;
        for (block, page) in pages {
            let version = self.versions.fetch_add(1, Ordering::Relaxed);
            if state.pages.insert(block, BufferedPage { page, version }).is_none() {
                new_bytes += BLOCK_SIZE_U64;
            }
        }
        if new_bytes > 0 {
            self.bytes.fetch_add(new_bytes, Ordering::Relaxed);
            promise.into_iter().for_each(|one| state.promised.keep(one));
        }
        self.mark(inode);
    }

    /// Books the inode as one that has something to insert.
    pub fn mark(&self, inode: &Arc<Inode>) {
        self.dirty.lock().entry(inode.ino).or_insert_with(|| Arc::clone(inode));
    }

    /// Drops the pages of a range of blocks, and gives back what was promised for them. Returns
    /// their bytes.
    pub fn forget_pages(&self, state: &mut State, blocks: Range<u64>) -> u64 {
        if state.pages.is_empty() {
            return 0;
        }
        // One by one: the rest of the map is not touched, which may be far more.
        let mut gone = 0;
        while let Some((&block, _)) = state.pages.range(blocks.clone()).next() {
            state.pages.remove(&block);
            gone += 1;
        }
        state.promised.shrink_to(state.pages.len());
        let bytes = gone * BLOCK_SIZE_U64;
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        bytes
    }

    /// Takes an inode without pages and unsaved changes off the list.
    pub fn clean(&self, inode: &Inode, state: &State) {
        if state.pages.is_empty() && !state.unsaved {
            self.dirty.lock().remove(&inode.ino);
        }
    }
}

/// What one drain inserts for one inode.
struct Target {
    inode: Arc<Inode>,
    /// The item as it is to be stored; `None`: the inode is gone.
    item: Option<InodeItem>,
    pages: Vec<Slot>,
}

struct Slot {
    block: u64,
    page: BufferedPage,
    /// Whether this is still what the block holds.
    current: bool,
}

impl Volume {
    fn collect(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for inode in self.buffer.dirty_inodes() {
            let state = inode.state.lock();
            let pages: Vec<Slot> = state
                .pages
                .iter()
                .map(|(block, page)| Slot { block: *block, page: page.clone(), current: true })
                .collect();
            let item = state.item;
            drop(state);
            targets.push(Target { inode, item, pages });
        }
        targets
    }

    fn stage_targets(&self, targets: &[Target]) -> Result<Vec<Staged>> {
        let count = targets.iter().map(|t| t.pages.len()).sum::<usize>();
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut plain = AlignedBuf::new(count * BLOCK_SIZE);
        let slots = targets.iter().flat_map(|t| &t.pages);
        for (block, slot) in plain.chunks_exact_mut(BLOCK_SIZE).zip(slots) {
            block.copy_from_slice(&slot.page.page.0[..]);
        }
        let staged = self.backing.stage(&plain)?;
        match staged.iter().map(|s| s.blocks() as usize).sum::<usize>() == count {
            true => Ok(staged),
            false => Err(VolumeError::Invalid),
        }
    }

    /// Inserts what is buffered now, in runs, with I/O: called by who filled the buffer, and ahead
    /// of cuts. Holds no state while it encrypts and writes.
    pub(in crate::volume) fn drain_with_io(&self) -> Result<()> {
        let one = self.buffer.drainer.lock();
        self.drain_holding(&one)
    }

    /// By the one that drains ahead of time, as the lock that it holds shows.
    fn drain_holding(&self, _one: &MutexGuard<'_, ()>) -> Result<()> {
        loop {
            let mut targets = self.collect();
            if targets.is_empty() {
                return Ok(());
            }
            let result = self.drain_targets(&mut targets);
            if let Err(error) = &result {
                if self.give_up_unreadable(&targets, error) {
                    continue;
                }
                self.lose(&targets, error);
            }
            return result;
        }
    }

    fn drain_targets(&self, targets: &mut [Target]) -> Result<()> {
        self.check_failed()?;
        let mut staged = self.stage_targets(targets)?;
        if staged.iter().map(|s| u64::from(s.blocks())).sum::<u64>() * BLOCK_SIZE_U64 > SMALL_BYTES
        {
            self.backing.write_out(&mut staged)?;
        }
        let inodes: Vec<Arc<Inode>> = targets.iter().map(|t| Arc::clone(&t.inode)).collect();
        let inodes: Vec<&Arc<Inode>> = inodes.iter().collect();
        let targets = std::cell::RefCell::new(targets);
        self.edit_then(
            &inodes,
            |txn, locked| {
                let mut targets = targets.borrow_mut();
                for target in targets.iter_mut() {
                    let state = locked.state(target.inode.ino)?;
                    target.item = state.item;
                    for slot in &mut target.pages {
                        let now = state.pages.get(&slot.block);
                        slot.current = state.item.is_some()
                            && now.is_some_and(|p| p.version == slot.page.version);
                    }
                }
                insert(txn, &mut targets, staged)?;
                for target in targets.iter() {
                    locked.state(target.inode.ino)?.item = target.item;
                    locked.store(target.inode.ino);
                }
                Ok(())
            },
            |locked, ()| {
                for target in targets.borrow().iter() {
                    if let Ok(state) = locked.state(target.inode.ino) {
                        self.finish(target, state);
                    }
                }
            },
        )
    }

    /// Takes what was inserted out of the buffer.
    fn finish(&self, target: &Target, state: &mut State) {
        for slot in target.pages.iter().filter(|s| s.current) {
            self.buffer.forget_pages(state, slot.block..slot.block + 1);
        }
        state.unsaved = false;
        self.buffer.clean(&target.inode, state);
    }

    /// After a drain failed: what was accepted can not be kept. The error sticks to each inode with
    /// changes, and the volume takes no more.
    fn lose(&self, targets: &[Target], error: &VolumeError) {
        if *error == VolumeError::Locked {
            return;
        }
        const WHY: &str = "buffered data could not be stored";
        let _ = self.failed.set(WHY);
        for target in targets {
            target.inode.state.lock().lost.get_or_insert(WHY);
        }
    }

    /// After a drain met corruption: inodes of which the part of the tree cannot be read that their
    /// pages belong into lose what was buffered for them, and keep the error. Whether there were
    /// any, so that the others are worth another try: a node that rots in one place must not stop
    /// the whole cluster, and the pool with it.
    fn give_up_unreadable(&self, targets: &[Target], error: &VolumeError) -> bool {
        if !matches!(error, VolumeError::Corrupt { .. }) {
            return false;
        }
        let Ok(view) = self.backing.view() else { return false };
        let mut any = false;
        for target in targets {
            let ino = target.inode.ino;
            let from = target.pages.first().map_or(0, |slot| slot.block);
            let to = target.pages.last().map_or(0, |slot| slot.block + 1);
            let readable = |found: Result<()>| !matches!(found, Err(VolumeError::Corrupt { .. }));
            let go_on = &mut |_, _: ExtentItem<'_>| ControlFlow::Continue(());
            if readable(view.get(inode_key(ino)).map(drop))
                && readable(extents::overlapping(&*view, ino, from, to, go_on))
            {
                continue;
            }
            any = true;
            log::error!(
                "inode {ino}: buffered data are lost, where they belong is corrupt: {error}"
            );
            let mut state = target.inode.state.lock();
            state.lost.get_or_insert("buffered data belong where the tree is corrupt");
            self.buffer.forget_pages(&mut state, 0..u64::MAX);
            state.unsaved = false;
            self.buffer.clean(&target.inode, &state);
        }
        any
    }

    /// After a write was accepted: drains where the buffer is full. One thread drains; others go on
    /// until twice the limit, then wait for it.
    pub(in crate::volume) fn relieve(&self) -> Result<()> {
        let bytes = self.buffer.bytes();
        if bytes < self.buffer.limit_bytes {
            return Ok(());
        }
        if bytes < 2 * self.buffer.limit_bytes && self.buffer.drainer.try_lock().is_none() {
            return Ok(());
        }
        self.drain_with_io()
    }
}

/// All that is buffered, encrypted, with the buffer gate held exclusively.
#[derive(Default)]
struct Gathered {
    targets: Vec<Target>,
    staged: Vec<Staged>,
}

impl Gathered {
    fn insert(&mut self, txn: &mut dyn Edit) -> Result<()> {
        txn.refresh();
        insert(txn, &mut self.targets, std::mem::take(&mut self.staged))?;
        for target in &self.targets {
            if let Some(item) = &target.item {
                txn.put(inode_key(target.inode.ino), &item.encode())?;
            }
        }
        Ok(())
    }
}

impl Volume {
    fn gather(&self, gathered: &mut Gathered) -> Result<()> {
        gathered.targets = self.collect();
        if !gathered.targets.is_empty() {
            self.check_failed()?;
            gathered.staged = self.stage_targets(&gathered.targets)?;
        }
        Ok(())
    }

    /// The edits are in the tree, or failed; the buffer gate is still held.
    fn settle(&self, gathered: &Gathered, result: &Result<()>) {
        match result {
            Err(error) => self.lose(&gathered.targets, error),
            Ok(()) => {
                for target in &gathered.targets {
                    let mut state = target.inode.state.lock();
                    state.item = target.item;
                    self.finish(target, &mut state);
                }
            }
        }
    }
}

impl Buffers for Volume {
    fn drain_gated(&self, transact: &mut Transact<'_>) -> Result<()> {
        let _exclusive = self.buffer.gate.write();
        loop {
            let mut gathered = Gathered::default();
            let gather = self.gather(&mut gathered);
            let result = gather.and_then(|()| match gathered.targets.is_empty() {
                true => Ok(()),
                false => transact(&mut |txn| gathered.insert(txn)),
            });
            if result.as_ref().is_err_and(|e| self.give_up_unreadable(&gathered.targets, e)) {
                continue;
            }
            self.settle(&gathered, &result);
            return result;
        }
    }

    fn drain_ahead(&self) -> Result<()> {
        if self.buffer.bytes() <= SMALL_BYTES {
            return Ok(());
        }
        // Whoever drains may wait for the very checkpoint that asks for this.
        match self.buffer.drainer.try_lock() {
            None => Ok(()),
            Some(one) => self.drain_holding(&one),
        }
    }

    fn drain_for_commit(&self, mark: &mut dyn FnMut()) -> Result<()> {
        // What is much goes out with I/O while others go on; only the rest is inserted alone.
        if self.buffer.bytes() > SMALL_BYTES {
            self.drain_with_io()?;
        }
        loop {
            let mut gathered = Gathered::default();
            let mut exclusive = None;
            // The buffer gate is taken inside the interval gate, as everywhere, and held until the
            // mark.
            let result = self.backing.transact(&mut |txn| {
                exclusive = Some(self.buffer.gate.write());
                self.gather(&mut gathered)?;
                gathered.insert(txn)
            });
            if result.as_ref().is_err_and(|e| self.give_up_unreadable(&gathered.targets, e)) {
                continue;
            }
            self.settle(&gathered, &result);
            result?;
            mark();
            drop(exclusive);
            return Ok(());
        }
    }
}

/// Maps the current pages of all targets to their staged blocks, in order.
fn insert(txn: &mut dyn Edit, targets: &mut [Target], staged: Vec<Staged>) -> Result<()> {
    let places: Vec<(usize, u64, bool)> = targets
        .iter()
        .enumerate()
        .flat_map(|(i, t)| t.pages.iter().map(move |s| (i, s.block, s.current)))
        .collect();
    let mut rest = &places[..];
    for run in staged {
        let (here, after) =
            rest.split_at_checked(run.blocks() as usize).ok_or(VolumeError::Invalid)?;
        rest = after;
        if here.iter().any(|place| place.2) {
            insert_run(txn, targets, &run, here)?;
            txn.claim(run);
        }
    }
    Ok(())
}

fn insert_run(
    txn: &mut dyn Edit,
    targets: &mut [Target],
    run: &Staged,
    places: &[(usize, u64, bool)],
) -> Result<()> {
    let birth = txn.generation();
    let mut at = 0;
    while let Some(&(target, block, current)) = places.get(at) {
        let addr = run.addr.plus(at as u64);
        if !current {
            txn.kill(addr, 1, birth);
            at += 1;
            continue;
        }
        let blocks = places[at..]
            .iter()
            .enumerate()
            .take(EXTENT_BLOCKS_MAX as usize)
            .take_while(|(i, place)| **place == (target, block + *i as u64, true))
            .count();
        let refs = &run.refs[at * REF_BYTES..(at + blocks) * REF_BYTES];
        let ino = targets[target].inode.ino;
        if let Some(item) = &mut targets[target].item {
            extents::replace(txn, ino, item, block, ExtentItem { addr, birth, refs })?;
        }
        at += blocks;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::base::units::BLOCK_SIZE_U64;
    use crate::volume::tests::{Rig, pattern};

    #[test]
    fn promises_go_back_as_pages_are_cleaned_though_writers_never_let_the_file_be_clean() {
        let rig = Rig::new();
        let ino = rig.file("busy");
        for block in 0..200 {
            rig.write(ino, block * BLOCK_SIZE_U64, &pattern(block, 4096));
            let mut targets = rig.volume.collect();
            rig.write(ino, (block + 1) * BLOCK_SIZE_U64, &pattern(block, 4096));
            rig.volume.drain_targets(&mut targets).unwrap();
            let inode = rig.volume.inode(ino).unwrap();
            let state = inode.state.lock();
            assert_eq!((state.pages.len(), state.promised.blocks()), (1, 1));
        }
        rig.check();
        let inode = rig.volume.inode(ino).unwrap();
        assert_eq!(inode.state.lock().promised.blocks(), 0);
    }
}
