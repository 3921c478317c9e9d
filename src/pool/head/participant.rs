//! A head at a checkpoint: the cut, the frozen tree, what it hands over.

use std::sync::Arc;

use super::{CutRunner, Drain, Head, Identity};
use crate::base::ids::ClusterId;
use crate::base::units::{Generation, SegmentId};
use crate::block::Book;
use crate::crypto::NameHashKey;
use crate::pool::core::Interval;
use crate::pool::log::LogItem;
use crate::pool::participant::{FrozenHead, HeadCut, HeadOut, NextInterval, Participant};
use crate::pool::root::{Root, RootContext, seal_root};
use crate::pool::{Kill, PoolError};
use crate::tree::{Tree, Twice};

impl Participant for Head {
    fn cluster(&self) -> ClusterId {
        self.cluster
    }

    fn prepare_cut(&self) -> Result<(), PoolError> {
        self.drain(Drain::Ahead)
    }

    fn cut(&self, old: &Interval, next: &NextInterval) -> Result<Box<dyn FrozenHead>, PoolError> {
        let head = self.me.upgrade().ok_or(PoolError::Wiped)?;
        let buffers = self.buffers.read().as_ref().and_then(std::sync::Weak::upgrade);
        if let Some(buffers) = buffers {
            buffers.drain_at_cut(&mut CutRunner { head: self, interval: old })?;
        }
        if next.is_last {
            self.closed.store(true, std::sync::atomic::Ordering::Release);
        }
        let mut state = self.state.write();
        let mut kills = std::mem::take(&mut state.kills);
        let nodes = std::mem::take(&mut state.node_kills).into_pointers()?;
        for pointer in nodes {
            for run in pointer.runs() {
                state.referenced_blocks =
                    state.referenced_blocks.saturating_sub(u64::from(run.blocks));
                kills.push(Kill { run, birth: pointer.birth });
            }
        }
        let frozen = Frozen {
            is_last: next.is_last,
            identity: Arc::clone(&self.identity.read()),
            head,
            tree: state.tree.clone(),
            dirty_blocks: state.take_dirty(&self.core).blocks,
            changed: std::mem::take(&mut state.dirty),
            kills,
            claimed: std::mem::take(&mut state.claimed),
            segment: state.segment,
            next_segment: next.segment.unwrap_or(state.segment),
            referenced_blocks: state.referenced_blocks,
            generation: old.generation,
            root_generation: state.root_generation,
            half: self.log.cut(next.generation, Arc::clone(&next.lo)),
        };
        if frozen.changed {
            state.root_generation = old.generation;
        }
        if let Some(segment) = next.segment {
            state.segment = segment;
        }
        Ok(Box::new(frozen))
    }

    fn durable(&self, generation: Generation) {
        self.state.write().tree.settle();
        self.log.durable(generation);
    }
}

/// A head's state at one cut.
struct Frozen {
    head: Arc<Head>,
    is_last: bool,
    identity: Arc<Identity>,
    tree: Tree,
    /// Promised to the nodes that are to be written.
    dirty_blocks: u64,
    changed: bool,
    kills: Vec<Kill>,
    claimed: Vec<(SegmentId, u64)>,
    segment: SegmentId,
    next_segment: SegmentId,
    referenced_blocks: u64,
    generation: Generation,
    root_generation: Generation,
    half: u8,
}

impl FrozenHead for Frozen {
    fn write(mut self: Box<Self>, book: &Book) -> Result<HeadOut, PoolError> {
        let head = Arc::clone(&self.head);
        let before = book.allocated_blocks(self.segment);
        let root = if self.changed {
            let nodes = &head.core.nodes;
            let pointer = self.tree.write(nodes, self.generation, self.segment, Twice::Inner)?;
            self.root_generation = self.generation;
            let context = RootContext {
                pool: head.core.pool_id,
                cluster: head.cluster,
                ck_id: self.identity.ck_id,
                generation: self.generation,
            };
            let name_key = NameHashKey::from_bytes(head.name_key.bytes());
            Some(seal_root(&self.identity.key, &context, &Root { pointer, name_key }))
        } else {
            None
        };
        head.core.space.change_dirty(self.dirty_blocks, 0);
        let written = book.allocated_blocks(self.segment) - before;
        head.state.write().referenced_blocks += written;
        let mut allocated = std::mem::take(&mut self.claimed);
        if written > 0 {
            allocated.push((self.segment, written));
        }
        let cut = HeadCut {
            cluster: head.cluster,
            ck_id: self.identity.ck_id,
            root,
            root_generation: self.root_generation,
            kills: std::mem::take(&mut self.kills),
            allocated,
            referenced_blocks: self.referenced_blocks + written,
        };
        let log = (!self.is_last).then(|| LogItem {
            area: head.log_area,
            half: self.half,
            segment: self.next_segment,
            sealed_seed: self.identity.sealed_seed.clone(),
            outstanding: None,
        });
        Ok(HeadOut { cut, log })
    }
}
