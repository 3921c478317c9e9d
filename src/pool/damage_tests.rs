//! Parts of a pool that rot, or that the device does not hand out: what is hit, and what is not.

use std::sync::Arc;

use crate::base::units::BLOCK_SIZE_U64;
use crate::block::Class;
use crate::block::geometry::RING_START;
use crate::device::Device;
use crate::device::sim::SimDevice;
use crate::pool::superblock::copy_offset;
use crate::pool::test_head::{
    Model, TestHead, assert_allocated_is_reachable, create, engine_key, open,
};
use crate::pool::{CutPlan, OpenOptions, Pool, PoolError, PoolState, items, probe};

fn checkpoint(pool: &Pool) {
    pool.checkpoint(CutPlan::default()).unwrap();
}

/// A pool with some files and a map of the region that they lie in, and where on the device that map
/// stands.
fn with_a_map() -> (Arc<SimDevice>, u64) {
    let sim = SimDevice::new(256 << 20);
    let device: Arc<dyn Device> = sim.clone();
    create(&device).unwrap();
    let (pool, head) = open(&device).unwrap();
    for n in 0..20 {
        head.write(n, 3, 4).unwrap();
    }
    checkpoint(&pool);
    let data_item = || {
        let catalog = pool.read_catalog();
        let items = items::regions(catalog.tree(), pool.nodes(), &pool.geometry());
        items.unwrap().into_iter().find(|(_, item)| item.class == Some(Class::Data))
    };
    while data_item().is_none() {
        head.write(400, 4, 1).unwrap();
        checkpoint(&pool);
    }
    let (region, item) = data_item().unwrap();
    let slot = pool.geometry().slot_run(region, item.slot.unwrap().index, 1);
    (sim, slot.addr.offset_bytes())
}

/// Changes the files of [`with_a_map`], until the ring has gone round.
fn live_on(pool: &Pool, head: &TestHead) {
    head.write(500, 7, 4).unwrap();
    for n in 0..10 {
        head.remove(n).unwrap();
    }
    checkpoint(pool);
    for round in 0..600 {
        head.write(501, round as u8, 4).unwrap();
        checkpoint(pool);
    }
    assert!(matches!(pool.state(), PoolState::Degraded(_)), "{:?}", pool.state());
}

fn expected() -> Model {
    let kept = (10..20).map(|n| (n, (3, 4)));
    kept.chain([(400, (4, 1)), (500, (7, 4)), (501, (599u32 as u8, 4))]).collect()
}

#[test]
fn a_rotten_region_map_degrades_the_pool_and_loses_no_file() {
    let (sim, map) = with_a_map();
    let device: Arc<dyn Device> = sim.clone();
    sim.corrupt(map + 9, 4);
    let (pool, head) = open(&device).unwrap();
    live_on(&pool, &head);
    drop((pool, head));
    let (_, head) = open(&device).unwrap();
    assert_eq!(head.contents().unwrap(), expected());
}

#[test]
fn a_region_map_that_cannot_be_read_degrades_the_pool_until_it_can() {
    let (sim, map) = with_a_map();
    let device: Arc<dyn Device> = sim.clone();
    sim.make_unreadable(map);
    let (pool, head) = open(&device).unwrap();
    live_on(&pool, &head);
    drop((pool, head));
    let (pool, head) = open(&device).unwrap();
    checkpoint(&pool);
    assert_eq!(head.contents().unwrap(), expected());
    // What was written down of the region meanwhile is all there.
    sim.make_readable();
    drop((pool, head));
    let (pool, head) = open(&device).unwrap();
    for round in 0..600 {
        head.write(501, round as u8, 4).unwrap();
        checkpoint(&pool);
    }
    assert_eq!(pool.state(), PoolState::Ok);
    assert_eq!(head.contents().unwrap(), expected());
    assert_allocated_is_reachable(&pool, &head);
}

/// Where the next record of the space ring will stand.
fn ring_head(pool: &Pool) -> u64 {
    let serial = pool.serial.lock();
    let blocks = u64::from(serial.clear.geometry.ring_blocks);
    (RING_START + serial.ring.state.head % blocks) * BLOCK_SIZE_U64
}

#[test]
fn a_part_of_the_ring_behind_its_head_that_cannot_be_read_is_nobodys_loss() {
    let (sim, _) = with_a_map();
    let device: Arc<dyn Device> = sim.clone();
    let (pool, head) = open(&device).unwrap();
    let (expected, bad) = (head.contents().unwrap(), ring_head(&pool));
    drop((pool, head));
    sim.make_unreadable(bad);
    for _ in 0..2 {
        let (_pool, head) = open(&device).unwrap();
        assert_eq!(head.contents().unwrap(), expected);
    }
}

/// Where no copy of a superblock slot opens, the ring alone can show that a later state stood in it.
#[test]
fn the_ring_must_be_readable_where_a_superblock_slot_is_lost() {
    let (sim, _) = with_a_map();
    let device: Arc<dyn Device> = sim.clone();
    let (pool, head) = open(&device).unwrap();
    let mut bad = 0;
    for n in 0..2 {
        bad = ring_head(&pool);
        head.write(600 + n, 1, 1).unwrap();
        checkpoint(&pool);
    }
    let newest = pool.serial.lock().clear.index;
    drop((pool, head));
    for copy in 0..2 {
        sim.corrupt(copy_offset(newest, copy) + 100, 1);
    }
    sim.make_unreadable(bad);
    let unlock = |accept_rollback| {
        let options = OpenOptions { accept_rollback, ..OpenOptions::default() };
        probe(&device).unwrap().unlock(engine_key(), options)
    };
    assert!(matches!(unlock(false), Err(PoolError::Io(_))));
    unlock(true).unwrap();
}

#[test]
fn a_pool_whose_file_was_cut_short_is_not_grown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.img");
    let device = crate::device::create(&path, Some(256 << 20)).unwrap();
    create(&device).unwrap();
    let (pool, _head) = open(&device).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(200 << 20).unwrap();
    let error = pool.grow(512 << 20).unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
    assert!(matches!(pool.state(), PoolState::ReadOnly(_)), "{:?}", pool.state());
    assert_eq!(file.metadata().unwrap().len(), 200 << 20);
}
