//! The items and blocks of one tree, as far as they can be had: the tree of a checkpoint, with what
//! the cluster's log adds to it.

use std::ops::ControlFlow;

use zeroize::Zeroizing;

use crate::base::BlockAddr;
use crate::base::cursor::Reader;
use crate::base::units::BLOCK_SIZE;
use crate::block::BlockRef;
use crate::crypto::{BlockKind, decrypt_block};
use crate::pool::{LogRemains, View};
use crate::tree::{Key, Part};
use crate::volume::items::ExtentItem;

/// A tree to be copied.
pub(super) struct Source {
    view: View,
    log: LogRemains,
}

/// Keys whose items cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub lower: Key,
    /// The first key behind it; `None`: no end.
    pub upper: Option<Key>,
}

impl Gap {
    pub fn contains(&self, key: Key) -> bool {
        self.lower <= key && self.upper.is_none_or(|upper| key < upper)
    }
}

/// What stands in a range.
pub(super) enum Met<'a> {
    Item(Key, &'a [u8]),
    Gap(Gap),
}

/// One item.
pub(super) enum Got {
    Item(Zeroizing<Vec<u8>>),
    Absent,
    Lost,
}

type Visit<'a> = dyn FnMut(Met<'_>) -> ControlFlow<()> + 'a;

impl Source {
    pub const fn new(view: View, log: LogRemains) -> Self {
        Self { view, log }
    }

    /// Records of the log that it holds.
    pub const fn log_records(&self) -> u64 {
        self.log.records
    }

    /// Whether there is a way into the tree at all.
    pub fn is_readable(&self) -> bool {
        let mut readable = true;
        let _ = self.view.range_with_gaps(Key::MIN, Key::MIN, &mut |part| {
            if let Part::Gap { lower: Key::MIN, upper: None, .. } = part {
                readable = false;
            }
            ControlFlow::Continue(())
        });
        readable
    }

    /// Hands over the items from `from` to `to`, both included, in order, and the gaps among them,
    /// until `visit` breaks off. A gap comes before items that the log has of it.
    pub fn range(&self, from: Key, to: Key, visit: &mut Visit<'_>) {
        if from > to {
            return;
        }
        let mut own = self.log.edits.range(from..=to).peekable();
        let mut ended = false;
        let _ = self.view.range_with_gaps(from, to, &mut |part| {
            let (key, value) = match part {
                Part::Item(key, value) => (key, value),
                Part::Gap { lower, upper, .. } => {
                    let flow = visit(Met::Gap(Gap { lower, upper }));
                    ended |= flow.is_break();
                    return flow;
                }
            };
            while let Some((earlier, edit)) = own.next_if(|(own, _)| **own < key) {
                if let Some(value) = edit
                    && visit(Met::Item(*earlier, value)).is_break()
                {
                    ended = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match own.next_if(|(own, _)| **own == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((_, Some(changed))) => visit(Met::Item(key, changed)),
                None => visit(Met::Item(key, value)),
            };
            ended |= flow.is_break();
            flow
        });
        for (key, edit) in own {
            if ended {
                return;
            }
            if let Some(value) = edit {
                ended = visit(Met::Item(*key, value)).is_break();
            }
        }
    }

    /// The item of that key.
    pub fn get(&self, key: Key) -> Got {
        // What the log says, the tree need not.
        match self.log.edits.get(&key) {
            Some(Some(value)) => return Got::Item(value.clone()),
            Some(None) => return Got::Absent,
            None => {}
        }
        let mut got = Got::Absent;
        self.range(key, key, &mut |met| {
            got = match met {
                Met::Item(_, value) => Got::Item(Zeroizing::new(value.to_vec())),
                Met::Gap(_) => Got::Lost,
            };
            ControlFlow::Break(())
        });
        got
    }

    /// Reads the blocks of an extent into `out`, one for each reference; which of them can be had
    /// and are what was written. What cannot is zero.
    pub fn read(&self, extent: &ExtentItem<'_>, out: &mut [u8]) -> Vec<bool> {
        let mut from = Reader::new(extent.refs);
        let refs: Vec<BlockRef> =
            (0..extent.blocks()).map_while(|_| BlockRef::decode(&mut from).ok()).collect();
        if self.view.read_blocks(extent.addr, &refs, out).is_ok() {
            return vec![true; refs.len()];
        }
        let blocks = refs.iter().zip(out.chunks_exact_mut(BLOCK_SIZE)).zip(0..);
        let read = |((reference, block), at): ((&BlockRef, &mut [u8]), u64)| {
            let addr = extent.addr.plus(at);
            self.view.read_blocks(addr, std::slice::from_ref(reference), block).is_ok()
                || self.read_image(addr, reference, block)
        };
        blocks.map(read).collect()
    }

    /// A block that the log carries, and that may not have reached its place.
    fn read_image(&self, addr: BlockAddr, reference: &BlockRef, block: &mut [u8]) -> bool {
        let Some(image) = self.log.images.get(&addr) else { return false };
        block.copy_from_slice(image);
        let good = decrypt_block(&reference.key, BlockKind::Data, block, &reference.tag).is_ok();
        if !good {
            block.fill(0);
        }
        good
    }
}
