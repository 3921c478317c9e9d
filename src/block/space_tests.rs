//! Space over a simulated device: what is given out, held, given back, folded and found again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{Generation, SegmentId};
use crate::block::geometry::Geometry;
use crate::block::{
    BlockError, Book, Class, Folded, Readers, RegionItem, Run, Space, SpaceEntry, Urgency,
};
use crate::device::Device;
use crate::device::sim::SimDevice;

const SEGMENT: SegmentId = SegmentId(7);

struct Rig {
    device: Arc<SimDevice>,
    readers: Readers,
    space: Arc<Space>,
}

fn space(device: &Arc<SimDevice>, items: Vec<(u32, RegionItem)>) -> (Readers, Arc<Space>) {
    let readers = Readers::new(Generation(2));
    let geometry = Geometry::for_size(device.size_bytes());
    let space = Space::new(device.clone(), geometry, readers.clone(), Generation(1), items);
    (readers, Arc::new(space))
}

fn rig(mib: u64) -> Rig {
    let device = SimDevice::new(mib << 20);
    let (readers, space) = space(&device, Vec::new());
    Rig { device, readers, space }
}

impl Rig {
    fn book(&self, generation: u64) -> Book {
        Book::new(self.space.clone(), Generation(generation), 1 << 20, Box::new(|| {}))
    }
    /// The cut and the superblock of `generation`.
    fn checkpoint(&self, generation: u64) {
        self.readers.advance(Generation(generation + 1));
        self.space.set_durable(Generation(generation));
    }
}

fn alloc(run: Run) -> SpaceEntry {
    let crcs = (0..run.blocks).map(|i| run.addr.get() as u32 + i).collect();
    SpaceEntry::Alloc { run, segment: SEGMENT, crcs }
}

const fn free(run: Run) -> SpaceEntry {
    SpaceEntry::Free { run, segment: SEGMENT }
}

#[test]
fn a_freed_block_waits_for_the_superblock_and_for_its_readers() {
    let rig = rig(256);
    let book = rig.book(2);
    let run = rig.space.allocate(Class::Data, 8, 8).unwrap();
    book.push(alloc(run)).unwrap();
    let before = rig.space.report();
    let reader = rig.readers.enter();
    book.push(free(run)).unwrap();
    assert_eq!(rig.space.report().pending_free, 8);
    rig.checkpoint(2);
    assert_eq!(rig.space.report().pending_free, 8, "a reader of that time still runs");
    drop(reader);
    let after = rig.space.report();
    assert_eq!((after.pending_free, after.used), (0, before.used - 8));
    // Regions of which nothing is left may take the other class.
    rig.space.allocate(Class::Node, 4, 4).unwrap();
}

#[test]
fn a_block_freed_at_a_cut_waits_until_its_superblock_is_durable() {
    let rig = rig(256);
    let book = rig.book(2);
    let run = rig.space.allocate(Class::Data, 8, 8).unwrap();
    book.push(alloc(run)).unwrap();
    book.push(free(run)).unwrap();
    rig.readers.advance(Generation(3));
    assert_eq!(rig.space.report().pending_free, 8, "the checkpoint is still being written");
    rig.space.set_durable(Generation(2));
    assert_eq!(rig.space.report().pending_free, 0);
}

#[test]
fn a_free_that_the_map_contradicts_is_corruption() {
    let rig = rig(256);
    let book = rig.book(2);
    let run = rig.space.allocate(Class::Data, 8, 8).unwrap();
    assert!(matches!(book.push(free(run)), Err(BlockError::Accounting { .. })), "not booked");
    book.push(alloc(run)).unwrap();
    assert!(matches!(book.push(alloc(run)), Err(BlockError::Accounting { .. })), "booked twice");
    let other = SpaceEntry::Free { run, segment: SegmentId(8) };
    assert!(matches!(book.push(other), Err(BlockError::Accounting { .. })));
    book.push(free(run)).unwrap();
    assert!(matches!(book.push(free(run)), Err(BlockError::Accounting { .. })), "freed twice");
    assert_eq!(book.entries().len(), 2);
}

#[test]
fn a_released_run_leaves_no_trace() {
    let rig = rig(256);
    let before = rig.space.report();
    let first = rig.space.allocate(Class::Data, 100, 1).unwrap();
    rig.space.release(first);
    assert_eq!(rig.space.report(), before);
    assert_eq!(rig.space.oldest_held_in(&BTreeMap::new()), None);
}

#[test]
fn allocation_goes_front_to_back_and_never_gives_a_block_twice() {
    let rig = rig(256);
    let mut seen = std::collections::BTreeSet::new();
    let mut last = 0;
    while let Ok(run) = rig.space.allocate(Class::Data, 100, 1) {
        if run.addr.get() < last {
            assert_ne!(run.blocks, 0);
        }
        last = run.addr.get();
        for block in run.addr.get()..run.end().get() {
            assert!(seen.insert(block), "block {block} was given out twice");
        }
    }
    // What nodes need is still there.
    rig.space.allocate(Class::Node, 4, 4).unwrap();
    let figures = rig.space.report();
    assert_eq!(figures.free, 0);
    assert!(rig.space.reserve(Class::Data, 1, Urgency::Ordinary).is_err());
}

#[test]
fn folded_maps_bring_back_the_same_space_and_slots_alternate() {
    let rig = rig(256);
    let book = rig.book(2);
    let runs: Vec<Run> = (0..50)
        .map(|i| {
            let run = rig.space.allocate(Class::Data, 1 + i % 5, 1).unwrap();
            book.push(alloc(run)).unwrap();
            run
        })
        .collect();
    rig.checkpoint(2);
    let book = rig.book(3);
    let (sound, frozen) = rig.space.fold_candidates(Generation(2));
    assert!(frozen.is_empty() && sound.len() == 1);
    let first = rig.space.fold(&sound, Generation(2)).unwrap();
    for run in runs.iter().step_by(2) {
        book.push(free(*run)).unwrap();
    }
    rig.checkpoint(3);
    rig.space.commit_folds(&first);
    let second = rig.space.fold(&sound, Generation(3)).unwrap();
    let index = |folded: &[Folded]| folded[0].item.slot.as_ref().unwrap().index;
    assert_ne!(index(&first), index(&second), "the durable slot must not be written");
    rig.space.commit_folds(&second);
    assert_eq!(rig.space.oldest_held_in(&BTreeMap::new()), None);

    let items = second.iter().map(|f| (f.region, f.item.clone())).collect();
    let (_, reopened) = space(&rig.device, items);
    let (was, now) = (rig.space.report(), reopened.report());
    assert_eq!((was.used, was.free), (now.used, now.free));
    let again = reopened.region_map(sound[0]).unwrap();
    assert!(again == rig.space.region_map(sound[0]).unwrap());
    // The blocks that are left are not given out.
    let left: Vec<Run> = runs.iter().skip(1).step_by(2).copied().collect();
    for _ in 0..200 {
        let run = reopened.allocate(Class::Data, 7, 1).unwrap();
        assert!(left.iter().all(|l| !l.overlaps(&run)));
    }
}

/// A region of which the map was written, and some of its blocks.
struct FoldedRegion {
    rig: Rig,
    run: Run,
    region: u32,
    items: Vec<(u32, RegionItem)>,
    /// Where on the device the map stands, in bytes.
    at: u64,
}

fn folded_region() -> FoldedRegion {
    let rig = rig(256);
    let book = rig.book(2);
    let run = rig.space.allocate(Class::Data, 8, 8).unwrap();
    book.push(alloc(run)).unwrap();
    rig.checkpoint(2);
    let (region, _) = rig.space.geometry().locate(run).unwrap();
    let folded = rig.space.fold(&[region], Generation(2)).unwrap();
    let slot = folded[0].item.slot.as_ref().unwrap();
    let at = rig.space.geometry().slot_run(region, slot.index, 1).addr.offset_bytes();
    let items = folded.iter().map(|f| (f.region, f.item.clone())).collect();
    FoldedRegion { rig, run, region, items, at }
}

#[test]
fn a_rotten_map_freezes_its_region_and_is_never_guessed() {
    let FoldedRegion { rig, region, items, at, .. } = folded_region();
    let mut block = [0u8; 4096];
    rig.device.read(at, &mut block).unwrap();
    block[100] ^= 1;
    rig.device.write(at, &block).unwrap();
    let (_, reopened) = space(&rig.device, items);
    assert!(matches!(reopened.region_map(region), Err(BlockError::Corrupt { .. })));
    let given = reopened.allocate(Class::Data, 8, 8).unwrap();
    assert_ne!(reopened.geometry().locate(given).unwrap().0, region);
    assert_eq!(reopened.report().frozen_regions, 1);
}

#[test]
fn a_map_that_cannot_be_read_freezes_its_region_until_the_next_opening() {
    let FoldedRegion { rig, run, region, items, at } = folded_region();
    rig.device.make_unreadable(at);
    // By a fold.
    let (_, reopened) = space(&rig.device, items.clone());
    assert!(reopened.fold(&[region], Generation(2)).unwrap().is_empty());
    assert_eq!(reopened.report().frozen_regions, 1);
    // By an allocation.
    let (_, reopened) = space(&rig.device, items.clone());
    let given = reopened.allocate(Class::Data, 8, 8).unwrap();
    assert_ne!(reopened.geometry().locate(given).unwrap().0, region);
    assert_eq!(reopened.report().frozen_regions, 1);
    // By what a log claims.
    let (_, reopened) = space(&rig.device, items.clone());
    reopened.take(Class::Data, Run { addr: run.end(), blocks: 4 }).unwrap();
    assert_eq!(reopened.report().frozen_regions, 1);
    rig.device.make_readable();
    reopened.region_map(region).unwrap();
    assert_eq!(reopened.report().frozen_regions, 1, "what was taken unseen may be anybody's");
    let (_, reopened) = space(&rig.device, items);
    let given = reopened.allocate(Class::Data, 8, 8).unwrap();
    assert_eq!(reopened.geometry().locate(given).unwrap().0, region);
}

#[test]
fn entries_of_a_frozen_region_are_carried_once() {
    let rig = rig(256);
    let book = rig.book(2);
    let run = rig.space.allocate(Class::Data, 8, 8).unwrap();
    book.push(alloc(run)).unwrap();
    rig.checkpoint(2);
    let (region, _) = rig.space.geometry().locate(run).unwrap();
    let carried = rig.space.carried(&[region], Generation(2));
    rig.space.commit_carried(&[region], Generation(2), Generation(3));

    let (_, reopened) = space(&rig.device, Vec::new());
    for entry in &carried[&region] {
        reopened.replay(Generation(2), entry.clone()).unwrap();
    }
    reopened.replay_carried(region, Generation(2));
    for entry in &carried[&region] {
        reopened.replay(Generation(3), entry.clone()).unwrap();
    }
    assert_eq!(reopened.report().used, 8);
    assert_eq!(reopened.oldest_held_in(&BTreeMap::new()), Some(Generation(3)));
}

#[test]
fn an_emptied_region_is_discarded_and_taken_again() {
    let rig = rig(256);
    // What the reserve stands on.
    rig.space.secure().unwrap();
    rig.space.allocate(Class::Node, 4, 4).unwrap();
    let book = rig.book(2);
    let run = rig.space.allocate(Class::Data, 8, 8).unwrap();
    book.push(alloc(run)).unwrap();
    rig.checkpoint(2);
    let (region, _) = rig.space.geometry().locate(run).unwrap();
    rig.space.commit_folds(&rig.space.fold(&[region], Generation(2)).unwrap());
    rig.book(3).push(free(run)).unwrap();
    rig.checkpoint(3);
    assert_eq!(rig.space.discard_empty(), 0, "the durable map still names it");
    assert_eq!(rig.space.emptied(Generation(3)), [region]);
    let folded = rig.space.fold(&[region], Generation(3)).unwrap();
    assert!(folded[0].item.slot.is_none());
    rig.space.commit_folds(&folded);
    assert_eq!(rig.space.discard_empty(), 1);
    assert_eq!(rig.space.discard_empty(), 0);
    assert_eq!(rig.space.forgettable(Generation(4)), [region]);
    assert_eq!(rig.space.forgettable(Generation(3)), Vec::<u32>::new());
    let again = rig.space.allocate(Class::Node, 4, 4).unwrap();
    rig.book(4).push(SpaceEntry::Alloc { run: again, segment: SEGMENT, crcs: vec![1; 4] }).unwrap();
}

#[test]
fn an_emptied_region_that_the_reserve_stands_on_keeps_its_backing() {
    let rig = rig(256);
    rig.space.secure().unwrap();
    let book = rig.book(2);
    let run = rig.space.allocate(Class::Data, 8, 8).unwrap();
    book.push(alloc(run)).unwrap();
    rig.checkpoint(2);
    rig.book(3).push(free(run)).unwrap();
    rig.checkpoint(3);
    let (region, _) = rig.space.geometry().locate(run).unwrap();
    rig.space.commit_folds(&rig.space.fold(&[region], Generation(3)).unwrap());
    assert_eq!(rig.space.discard_empty(), 0, "deletions and checkpoints need it");
    // With another one in its place it is given back.
    let nodes = rig.space.allocate(Class::Node, 4, 4).unwrap();
    rig.space.release(nodes);
    rig.space.reserve(Class::Data, 1, Urgency::Ordinary).unwrap();
    rig.space.unreserve(Class::Data, 1);
    assert_eq!(rig.space.discard_empty(), 1);
}

#[test]
fn a_full_disk_beneath_is_an_ordinary_full() {
    let rig = rig(256);
    rig.device.limit_backing(Some(70 << 20));
    let first = rig.space.allocate(Class::Data, 8, 8).unwrap();
    assert!(matches!(rig.space.allocate(Class::Node, 4, 4), Err(BlockError::Full)));
    rig.space.release(first);
}

#[test]
fn a_grown_pool_has_the_new_space_at_once() {
    let rig = rig(256);
    while rig.space.allocate(Class::Data, 1000, 1).is_ok() {}
    let before = rig.space.report();
    rig.device.grow(512 << 20).unwrap();
    rig.space.grow((512 << 20) / 4096);
    let after = rig.space.report();
    assert!(after.capacity >= before.capacity + 3 * 16_320);
    let run = rig.space.allocate(Class::Data, 1000, 1).unwrap();
    assert!(run.end().offset_bytes() <= 512 << 20);
}

#[test]
fn claims_of_a_log_are_taken_where_they_are_and_overlap_is_corruption() {
    let rig = rig(256);
    let first = rig.space.allocate(Class::Data, 8, 8).unwrap();
    rig.book(2).push(alloc(first)).unwrap();
    let behind = Run { addr: first.end(), blocks: 4 };
    rig.space.take(Class::Data, behind).unwrap();
    rig.book(2).push(alloc(behind)).unwrap();
    assert!(rig.space.take(Class::Data, behind).is_err());
    assert!(rig.space.take(Class::Data, first).is_err());
    assert!(rig.space.take(Class::Node, Run { addr: behind.end(), blocks: 4 }).is_err());
}

#[test]
fn a_block_that_is_not_what_its_pointer_says_is_never_handed_out() {
    let rig = rig(256);
    let data = crate::block::DataStore::new(rig.device.clone(), rig.space.clone());
    let run = rig.space.allocate(Class::Data, 2, 2).unwrap();
    let prepared = data.encrypt(&[7; 8192], run);
    data.write_out(&prepared).unwrap();
    let mut out = [0; 8192];
    data.read(run, &prepared.refs, &mut out).unwrap();
    rig.device.corrupt(run.addr.plus(1).offset_bytes() + 5, 1);
    let read = data.read(run, &prepared.refs, &mut out);
    assert!(matches!(read, Err(BlockError::Corrupt { addr, .. }) if addr == run.addr.plus(1)));

    let nodes = crate::block::PoolNodes::new(rig.device.clone(), rig.space.clone(), 16_384);
    nodes.set_book(Some(rig.book(2)));
    use crate::block::NodeStore;
    let pointer = nodes.write_node(&[9; 16_384], Generation(2), SEGMENT, true).unwrap();
    rig.device.corrupt(pointer.addr.offset_bytes() + 9, 1);
    assert_eq!(nodes.read_node(&pointer).unwrap()[..], [9; 16_384], "the second copy");
    rig.device.corrupt(pointer.second.unwrap().offset_bytes() + 9, 1);
    assert!(matches!(nodes.read_node(&pointer), Err(BlockError::Corrupt { .. })));
}
