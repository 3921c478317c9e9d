//! One operation on a head: gathered by the caller's closure, applied at once.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Head;
use crate::base::cursor::Writer;
use crate::base::units::Generation;
use crate::block::{BlockRef, Prepared, Run, SpaceEntry};
use crate::pool::DueReason;
use crate::pool::core::{Core, FailOnPanic, Interval};
use crate::pool::log::record::{Claim, Edit, encode_edit};
use crate::pool::log::writer::Group;
use crate::pool::{Kill, PoolError};
use crate::tree::{Key, Tree};

/// Encrypted data with room allocated for it, not yet part of any tree. The room is given back
/// when this is dropped unclaimed.
pub struct DataRun {
    prepared: Arc<Prepared>,
    written: bool,
}

impl DataRun {
    pub(super) fn new(prepared: Prepared) -> Self {
        Self { prepared: Arc::new(prepared), written: false }
    }
    /// The blocks.
    #[must_use]
    pub fn run(&self) -> Run {
        self.prepared.run
    }
    /// Key and tag of each block.
    #[must_use]
    pub fn refs(&self) -> &[BlockRef] {
        &self.prepared.refs
    }
    pub(super) fn prepared(&self) -> &Prepared {
        &self.prepared
    }
    pub(super) const fn mark_written(&mut self) {
        self.written = true;
    }
}

/// What one operation does. Nothing of it can be seen before it is applied.
pub struct Txn<'a> {
    head: &'a Head,
    interval: &'a Interval,
    /// The tree that it looks at, from the first look on. Not before: a clone that is only kept
    /// while its owner waits makes others copy the nodes that they edit.
    base: OnceCell<Tree>,
    edits: BTreeMap<Key, Option<Vec<u8>>>,
    claims: Vec<DataRun>,
    kills: Vec<Kill>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(head: &'a Head, interval: &'a Interval) -> Self {
        let base = OnceCell::new();
        Self { head, interval, base, edits: BTreeMap::new(), claims: Vec::new(), kills: Vec::new() }
    }

    /// The current interval: the birth of whatever is claimed.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.interval.generation
    }

    /// Looks at the tree as it stands now. To be called first, once the caller holds the locks of
    /// what it is about to change: the transaction began before it waited for them.
    pub fn refresh(&mut self) {
        self.base = OnceCell::new();
    }

    fn base(&self) -> &Tree {
        self.base.get_or_init(|| self.head.state.read().tree.clone())
    }

    /// The item of that key, this operation's own edits included.
    ///
    /// # Errors
    /// Corruption, device errors.
    pub fn get(&self, key: Key) -> Result<Option<Vec<u8>>, PoolError> {
        match self.edits.get(&key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.base().get(&self.head.core.nodes, key)?),
        }
    }

    /// Calls `f` with each item from `from` to `to`, both inclusive, in order, until it breaks;
    /// this operation's own edits included.
    ///
    /// # Errors
    /// Corruption, device errors.
    pub fn range(
        &self,
        from: Key,
        to: Key,
        f: &mut dyn FnMut(Key, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), PoolError> {
        if from > to {
            return Ok(());
        }
        let mut own = self.edits.range(from..=to).peekable();
        let mut stopped = false;
        self.base().range(&self.head.core.nodes, from, to, &mut |key, value| {
            while let Some((k, v)) = own.next_if(|(k, _)| **k < key) {
                if v.as_ref().is_some_and(|v| f(*k, v).is_break()) {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match own.next_if(|(k, _)| **k == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((_, Some(changed))) => f(key, changed),
                None => f(key, value),
            };
            stopped = flow.is_break();
            flow
        })?;
        if stopped {
            return Ok(());
        }
        for (key, value) in own {
            if value.as_ref().is_some_and(|v| f(*key, v).is_break()) {
                break;
            }
        }
        Ok(())
    }

    /// The item with the greatest key that is not above `key` and not below `floor`; this
    /// operation's own edits included.
    ///
    /// # Errors
    /// Corruption, device errors.
    pub fn last_before(&self, key: Key, floor: Key) -> Result<Option<(Key, Vec<u8>)>, PoolError> {
        let own = self.edits.range(floor..=key).rev().find_map(|(k, v)| Some((*k, v.clone()?)));
        let mut at = key;
        let base = loop {
            match self.base().last_before(&self.head.core.nodes, at)? {
                Some((k, v)) if k >= floor => {
                    if !self.edits.contains_key(&k) {
                        break Some((k, v));
                    }
                    match k.previous() {
                        Some(before) => at = before,
                        None => break None,
                    }
                }
                _ => break None,
            }
        };
        Ok(match (own, base) {
            (Some(a), Some(b)) => Some(if a.0 > b.0 { a } else { b }),
            (a, b) => a.or(b),
        })
    }

    /// Sets an item.
    pub fn put(&mut self, key: Key, value: Vec<u8>) {
        self.edits.insert(key, Some(value));
    }

    /// Removes an item, if it is there.
    pub fn remove(&mut self, key: Key) {
        self.edits.insert(key, None);
    }

    /// Makes prepared data part of the tree's segment; the caller puts the items that point to it.
    pub fn claim(&mut self, run: DataRun) {
        self.claims.push(run);
    }

    /// Lets go of blocks born in interval `birth`, to which no item points after this operation.
    pub fn kill(&mut self, run: Run, birth: Generation) {
        self.kills.push(Kill { run, birth });
    }

    /// Everything at once: tree, book of space, log.
    pub(super) fn apply(mut self) -> Result<(), PoolError> {
        if self.edits.is_empty() && self.claims.is_empty() && self.kills.is_empty() {
            return Ok(());
        }
        let core = &self.head.core;
        for key in self.edits.keys() {
            self.base().touch(&core.nodes, *key)?;
        }
        let mut group = Group {
            number: 0,
            generation: self.interval.generation,
            edits: Vec::new(),
            edit_count: self.edits.len() as u64,
            claims: Vec::new(),
            images: Vec::new(),
            kills: std::mem::take(&mut self.kills),
        };
        let mut writer = Writer::new();
        let edits: Vec<Edit> = std::mem::take(&mut self.edits)
            .into_iter()
            .map(|(key, value)| Edit { key, value })
            .collect();
        edits.iter().for_each(|edit| encode_edit(&mut writer, edit));
        group.edits = writer.into_bytes();
        // The snapshot must not keep the tree's nodes shared while they are edited.
        drop(self.base.take());
        let _on_panic = FailOnPanic(core);
        let mut state = self.head.state.write();
        let done = edits
            .iter()
            .try_for_each(|edit| state.edit(core, self.interval.generation, edit))
            .and_then(|()| self.book(&mut state, &mut group));
        if let Err(error) = done {
            // Half an operation is in the tree: it must never reach the disk.
            core.fail(&format!("an operation could not be applied whole: {error}"));
            return Err(error);
        }
        self.head.log.append(group);
        state.note_dirty(core);
        drop(state);
        let dirty_nodes = core.dirty_nodes.load(Ordering::Relaxed);
        core.due.note_change();
        if dirty_nodes >= core.dirty_nodes_max {
            core.due.request(DueReason::Dirty);
        }
        Ok(())
    }

    fn book(&mut self, state: &mut super::TreeState, group: &mut Group) -> Result<(), PoolError> {
        let segment = state.segment;
        let mut claimed = 0;
        for DataRun { prepared, written } in self.claims.drain(..) {
            claimed += u64::from(prepared.run.blocks);
            self.interval.book.push(SpaceEntry::Alloc {
                run: prepared.run,
                segment,
                crcs: prepared.crcs.clone(),
            })?;
            prepared.mark_claimed();
            if written {
                group.claims.push(Claim { run: prepared.run, crcs: prepared.crcs.clone() });
            } else {
                self.head.core.data.put_image(prepared.run, &prepared.ciphertext);
                group.images.push(prepared);
            }
        }
        let killed: u64 = group.kills.iter().map(|k| u64::from(k.run.blocks)).sum();
        // Each becomes an entry of the space ring when the catalog settles the cut.
        self.interval.book.expect_frees(group.kills.len());
        state.kills.extend_from_slice(&group.kills);
        state.note_claimed(segment, claimed);
        state.referenced_blocks = (state.referenced_blocks + claimed).saturating_sub(killed);
        Ok(())
    }
}

impl super::TreeState {
    /// One edit of the live tree.
    pub(super) fn edit(
        &mut self,
        core: &Core,
        interval: Generation,
        edit: &Edit,
    ) -> Result<(), PoolError> {
        let Self { tree, node_kills, dirty, .. } = self;
        *dirty = true;
        match &edit.value {
            Some(value) => tree.put(&core.nodes, interval, edit.key, value, node_kills)?,
            None => tree.remove(&core.nodes, interval, edit.key, node_kills)?,
        };
        Ok(())
    }

    pub(super) fn note_claimed(&mut self, segment: crate::base::units::SegmentId, blocks: u64) {
        if blocks == 0 {
            return;
        }
        match self.claimed.iter_mut().find(|c| c.0 == segment) {
            Some(c) => c.1 += blocks,
            None => self.claimed.push((segment, blocks)),
        }
    }
}
