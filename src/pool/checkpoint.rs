//! The checkpoint: the order of writes of engine.md, one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{ClusterId, Generation, SegmentId, counters};
use crate::block::{Book, Class, Folded, SpaceEntry};
use crate::crypto::LogOuterKey;
use crate::pool::catalog_txn::CatalogTxn;
use crate::pool::core::{Checkpointing, Core, FailOnPanic, Interval};
use crate::pool::due::DueReason;
use crate::pool::items;
use crate::pool::participant::{CutReport, FrozenHead, HeadOut, NextInterval};
use crate::pool::ring::{Appended, Carried};
use crate::pool::shred::ShredScope;
use crate::pool::slots;
use crate::pool::superblock::{Clear, Payload};
use crate::pool::{Pool, PoolError, Serial};
use crate::sys::clock;
use crate::tree::{Tree, Twice};

/// A change of the catalog that goes with a checkpoint.
pub type Edit<'a> = Box<dyn FnOnce(&mut CatalogTxn<'_>, &CutReport) -> Result<(), PoolError> + 'a>;

/// What a checkpoint is to do beside writing what changed.
#[derive(Default)]
pub struct CutPlan<'a> {
    /// Clusters whose current segment ends at the cut, with the segment that follows.
    pub new_segments: Vec<(ClusterId, SegmentId)>,
    /// A change of the catalog, made after the keeper settled the cut. Where it fails, what it did
    /// is undone, the checkpoint goes on, and its error is returned.
    pub edit: Option<Edit<'a>>,
    /// The head of this cluster takes no operation after the cut, keeps no log, and takes part in
    /// no checkpoint after this one.
    pub closing: Option<ClusterId>,
    /// Fewer can read after this than before: both superblock slots are rewritten before it
    /// returns.
    pub narrowing: bool,
}

/// A checkpoint that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointDone {
    /// Which.
    pub generation: Generation,
    /// For a narrowing one: how far what was let go is gone.
    pub shredded: Option<ShredScope>,
}

/// What step 1 found to fold, and what cannot be.
struct Folds {
    folded: Vec<Folded>,
    frozen: Vec<u32>,
    carried: Carried,
    through: Generation,
}

impl Folds {
    /// The regions that need no record up to `through` any more.
    fn released(&self) -> BTreeMap<u32, Generation> {
        let folded = self.folded.iter().map(|f| f.region);
        folded.chain(self.frozen.iter().copied()).map(|no| (no, self.through)).collect()
    }
}

/// What step 2 froze.
struct Cut {
    generation: Generation,
    book: Book,
    heads: Vec<Box<dyn FrozenHead>>,
    next_lo: Arc<LogOuterKey>,
}

/// What step 4 wrote.
struct CatalogWritten {
    tree: Tree,
    root: Option<crate::block::Pointer>,
    forgotten: Vec<u32>,
    blocks: u64,
    /// Promised blocks that dropped logs no longer need.
    unreserve: u64,
    edit: Result<(), PoolError>,
}

impl Pool {
    /// Makes a checkpoint: everything that changed up to its cut is durable when it returns.
    ///
    /// # Errors
    /// The edit's, with the checkpoint made all the same; any other makes the pool read-only.
    pub fn checkpoint(&self, plan: CutPlan<'_>) -> Result<CheckpointDone, PoolError> {
        let mut serial = self.serial.lock();
        self.checkpoint_locked(&mut serial, plan)
    }

    /// Makes `generation` durable, if it is not.
    pub(in crate::pool) fn checkpoint_through(
        &self,
        generation: Generation,
    ) -> Result<(), PoolError> {
        let mut serial = self.serial.lock();
        if self.core.durable_generation() >= generation {
            return Ok(());
        }
        self.checkpoint_locked(&mut serial, CutPlan::default()).map(|_| ())
    }

    pub(in crate::pool) fn checkpoint_locked(
        &self,
        serial: &mut Serial,
        plan: CutPlan<'_>,
    ) -> Result<CheckpointDone, PoolError> {
        self.core.check_writable()?;
        let _on_panic = FailOnPanic(&self.core);
        let _this_thread = Checkpointing::begin();
        let (narrowing, closing) = (plan.narrowing, plan.closing);
        let (generation, edit) = match self.write_checkpoint(serial, plan) {
            Ok(done) => done,
            Err(error) => {
                self.core.node_store.set_book(None);
                self.core.fail(&error);
                return Err(error);
            }
        };
        // Before another checkpoint can begin: its cut would give the head its log back.
        if let Some(cluster) = closing {
            self.unregister(cluster);
        }
        let shredded = if narrowing { Some(self.shred(serial)?) } else { None };
        self.core.space.discard_empty();
        edit?;
        Ok(CheckpointDone { generation, shredded })
    }

    /// Steps 1 to 7. The inner result is the edit's.
    fn write_checkpoint(
        &self,
        serial: &mut Serial,
        mut plan: CutPlan<'_>,
    ) -> Result<(Generation, Result<(), PoolError>), PoolError> {
        let (core, narrowing) = (&*self.core, plan.narrowing);
        // 1. With the gate open.
        for participant in self.participants() {
            participant.prepare_cut()?;
        }
        let folds = self.fold(serial)?;
        // 2. The cut.
        let cut = self.cut(serial, &plan)?;
        let (generation, book) = (cut.generation, cut.book.clone());
        // 3. Data.
        core.data.write_images()?;
        // 4. Nodes, roots, catalog.
        core.node_store.set_book(Some(book.clone()));
        let heads = write_heads(cut.heads, &book)?;
        let edit = plan.edit.take();
        let written = self.write_catalog(serial, &folds, heads, plan, edit, &book)?;
        core.node_store.set_book(None);
        // 5. Space.
        let released = folds.released();
        let oldest = core.space.oldest_held_in(&released);
        let entries = book.entries();
        let appended =
            serial.ring.append(&*core.device, generation, &entries, &folds.carried, oldest)?;
        core.flush()?;
        // 6. The superblock.
        let clear = serial.next_clear(generation, core.space.geometry());
        let payload = Payload {
            catalog_root: written.root.clone(),
            ring: appended.state.clone(),
            lo: cut.next_lo.dup(),
            shred_pending: if narrowing { generation } else { serial.payload.shred_pending },
            catalog_blocks: written.blocks,
            created_at: serial.payload.created_at,
        };
        slots::write_slot(&*core.device, &clear, &payload, &serial.slot_key)?;
        // Not acknowledged where somebody's flush failed meanwhile: the next opening decides.
        core.flush()?;
        // 7. It has happened.
        self.commit(serial, clear, payload, appended, &folds, &written, generation);
        Ok((generation, written.edit))
    }

    /// Step 1: the regions whose ring records are overdue, and those that were emptied.
    fn fold(&self, serial: &Serial) -> Result<Folds, PoolError> {
        let space = &self.core.space;
        // Entries of the durable checkpoint and before: known before the catalog is written.
        let through = self.core.durable_generation();
        let overdue = serial.ring.overdue();
        let mut due = space.emptied(through);
        if let Some(overdue) = overdue {
            due.extend(space.fold_candidates(overdue).0);
        }
        due.sort_unstable();
        due.dedup();
        let folded = space.fold(&due, through)?;
        let frozen = overdue.map(|g| space.fold_candidates(g).1).unwrap_or_default();
        let carried = space.carried(&frozen, through);
        Ok(Folds { folded, frozen, carried, through })
    }

    /// Step 2: the gate is closed, and nothing is read or written meanwhile.
    fn cut(&self, serial: &Serial, plan: &CutPlan<'_>) -> Result<Cut, PoolError> {
        let core = &*self.core;
        let mut gate = core.gate.write();
        let generation = gate.generation;
        let next = generation.next();
        let lo = Arc::new(LogOuterKey::random());
        let mut heads = Vec::new();
        for participant in self.participants() {
            let cluster = participant.cluster();
            let segment = plan.new_segments.iter().find(|(c, _)| *c == cluster).map(|(_, s)| *s);
            let is_last = plan.closing == Some(cluster);
            let next = NextInterval { generation: next, lo: lo.clone(), segment, is_last };
            heads.push(participant.cut(&gate, &next)?);
        }
        let limit = serial.ring.limit_bytes().saturating_sub(gate.book.bytes() / 3);
        let book = new_book(&self.core, next, limit);
        let old =
            std::mem::replace(&mut *gate, Interval { generation: next, lo: lo.clone(), book });
        core.readers.advance(next);
        core.due.taken();
        Ok(Cut { generation, book: old.book, heads, next_lo: lo })
    }

    /// Step 4: all that the catalog has to say of this checkpoint.
    fn write_catalog(
        &self,
        serial: &Serial,
        folds: &Folds,
        heads: Vec<HeadOut>,
        plan: CutPlan<'_>,
        edit: Option<Edit<'_>>,
        book: &Book,
    ) -> Result<CatalogWritten, PoolError> {
        let core = &*self.core;
        let generation = book.generation();
        let tree = self.catalog.read().tree.clone();
        let mut txn = CatalogTxn::new(&core.nodes, &core.space, generation, tree);
        let mut report =
            CutReport { generation, heads: Vec::new(), new_segments: plan.new_segments };
        for out in heads {
            let cluster = out.cut.cluster;
            match &out.log {
                Some(item) => {
                    txn.put(items::log_key(cluster), &items::encode_log(cluster, item))?
                }
                None => txn.remove(items::log_key(cluster))?,
            };
            report.heads.push(out.cut);
        }
        for Folded { region, item } in &folds.folded {
            txn.put(items::region_key(*region), &items::encode_region(item))?;
        }
        let oldest = core.space.oldest_held_in(&folds.released()).unwrap_or(generation);
        let folded = |region: &u32| folds.folded.iter().any(|f| f.region == *region);
        let mut forgotten = core.space.forgettable(oldest);
        forgotten.retain(|region| !folded(region));
        for region in &forgotten {
            txn.remove(items::region_key(*region))?;
        }
        let keeper = self.keeper.lock().clone();
        match keeper {
            Some(keeper) => keeper.settle(&mut txn, &report)?,
            None if report.heads.is_empty() && report.new_segments.is_empty() => {}
            None => return Err(PoolError::Invalid("a head without a keeper of the catalog")),
        }
        txn.apply_frees(book)?;
        let savepoint = txn.savepoint();
        let edit = edit.map_or(Ok(()), |edit| edit(&mut txn, &report));
        if edit.is_err() {
            txn.roll_back(savepoint);
        }
        txn.apply_frees(book)?;
        let CatalogTxn { tree, kills, unreserve, .. } = txn;
        for pointer in kills.into_pointers()? {
            core.nodes.forget(pointer.addr);
            for run in pointer.runs() {
                book.push(SpaceEntry::Free { run, segment: SegmentId::POOL })?;
            }
        }
        let root = tree.write(&core.nodes, generation, SegmentId::POOL, Twice::All)?;
        let blocks = catalog_blocks(serial.payload.catalog_blocks, book);
        Ok(CatalogWritten { tree, root, forgotten, blocks, unreserve, edit })
    }

    /// Step 7: from here on the new state is the one that counts.
    #[expect(clippy::too_many_arguments)]
    fn commit(
        &self,
        serial: &mut Serial,
        clear: Clear,
        payload: Payload,
        appended: Appended,
        folds: &Folds,
        written: &CatalogWritten,
        generation: Generation,
    ) {
        let core = &*self.core;
        serial.clear = clear;
        serial.payload = payload;
        serial.idle = false;
        serial.ring.commit(appended);
        core.space.commit_folds(&folds.folded);
        core.space.commit_carried(&folds.frozen, folds.through, generation);
        core.space.commit_forgotten(&written.forgotten);
        core.space.unreserve(Class::Node, written.unreserve);
        {
            let mut catalog = self.catalog.write();
            catalog.tree = written.tree.clone();
            catalog.tree.settle();
            catalog.generation = generation;
        }
        core.set_durable(generation);
        core.space.set_durable(generation);
        for participant in self.participants() {
            participant.durable(generation);
        }
        *self.last_checkpoint.lock() = clock::now();
        counters::CHECKPOINTS.increment();
    }
}

fn write_heads(heads: Vec<Box<dyn FrozenHead>>, book: &Book) -> Result<Vec<HeadOut>, PoolError> {
    heads.into_iter().map(|head| head.write(book)).collect()
}

/// Blocks of catalog nodes after a checkpoint.
fn catalog_blocks(before: u64, book: &Book) -> u64 {
    let mut blocks = before;
    for booked in book.entries() {
        if booked.class != Class::Node || booked.entry.segment() != SegmentId::POOL {
            continue;
        }
        let run = u64::from(booked.entry.run().blocks);
        match booked.entry {
            SpaceEntry::Alloc { .. } => blocks += run,
            SpaceEntry::Free { .. } => blocks = blocks.saturating_sub(run),
        }
    }
    blocks
}

/// The book of an interval; past its limit a checkpoint is asked for.
pub(in crate::pool) fn new_book(core: &Arc<Core>, generation: Generation, limit: usize) -> Book {
    let weak = Arc::downgrade(core);
    let ask = move || {
        if let Some(core) = weak.upgrade() {
            core.due.request(DueReason::Ring);
        }
    };
    Book::new(core.space.clone(), generation, limit, Box::new(ask))
}
