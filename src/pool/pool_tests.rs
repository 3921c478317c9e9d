//! The pool without crashes: state comes back, costs are what they should be, damage is told.

use std::sync::Arc;

use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{Generation, SegmentId};
use crate::crypto::{EngineKey, EngineWrap, slot_key};
use crate::device::counted::Counted;
use crate::device::faulty::{Fault, Faulty};
use crate::device::sim::SimDevice;
use crate::device::{Device, Operation};
use crate::pool::superblock::{COPY_BYTES, Clear, SLOTS, copy_offset};
use crate::pool::test_head::{
    Model, assert_allocated_is_reachable, create, engine_key, open, region_items,
};
use crate::pool::{CutPlan, OpenOptions, PoolError, PoolState, probe};
use crate::sys::clock;
use crate::tree::Key;

const KEY: Key = Key::new(0x21 << 56, 0x21, 0);

fn device(mib: u64) -> (Arc<SimDevice>, Arc<dyn Device>) {
    let sim = SimDevice::new(mib << 20);
    let device: Arc<dyn Device> = sim.clone();
    create(&device).unwrap();
    (sim, device)
}

fn checkpoint(pool: &crate::pool::Pool) -> Generation {
    pool.checkpoint(CutPlan::default()).unwrap().generation
}

#[test]
fn what_a_checkpoint_wrote_is_there_again_and_generations_never_repeat() {
    let (_, device) = device(256);
    let mut seen = Generation(1);
    let mut model = Model::new();
    for round in 0..6u64 {
        let (pool, head) = open(&device).unwrap();
        assert!(pool.generation() >= Generation(seen.get() + 16));
        assert_eq!(head.contents().unwrap(), model);
        for n in 0..40 {
            let (fill, blocks) = ((round * 40 + n) as u8, 1 + (n % 9) as u32);
            head.write(n, fill, blocks).unwrap();
            model.insert(n, (fill, blocks));
        }
        for n in (0..40).step_by(3) {
            head.remove(n).unwrap();
            model.remove(&n);
        }
        seen = checkpoint(&pool);
        assert_eq!(head.contents().unwrap(), model);
        assert_allocated_is_reachable(&pool, &head);
        head.write(1000, 1, 3).unwrap();
    }
}

#[test]
fn a_checkpoint_in_which_somebody_else_was_failed_by_the_disk_does_not_happen() {
    let (_, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    head.write(1, 1, 1).unwrap();
    checkpoint(&pool);
    head.write(1, 2, 1).unwrap();
    let core = Arc::clone(&pool.core);
    let edit: crate::pool::Edit<'_> = Box::new(move |_, _| {
        core.fail("a flush of a log failed");
        Ok(())
    });
    let made = pool.checkpoint(CutPlan { edit: Some(edit), ..CutPlan::default() });
    assert!(matches!(made, Err(PoolError::ReadOnly { .. })), "{made:?}");
    drop((pool, head));
    let (_pool, head) = open(&device).unwrap();
    assert_eq!(head.contents().unwrap(), Model::from([(1, (1, 1))]), "nothing later is there");
}

#[test]
fn everything_deleted_leaves_the_free_space_of_a_new_pool() {
    let (_, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    // One region of each class is started, which decides what the others may become.
    head.write(0, 1, 1).unwrap();
    checkpoint(&pool);
    let (new, state) = (pool.space(), pool.state());
    assert_eq!(state, PoolState::Ok);
    for round in 0..5 {
        for n in 0..300 {
            head.write(n, round, 1 + (n % 30) as u32).unwrap();
        }
        checkpoint(&pool);
    }
    for n in 0..300 {
        head.remove(n).unwrap();
    }
    for _ in 0..3 {
        checkpoint(&pool);
    }
    assert_allocated_is_reachable(&pool, &head);
    let now = pool.space();
    let nodes = now.used.abs_diff(new.used);
    assert!(nodes <= 8, "{new:?} became {now:?}");
    assert!(now.free.abs_diff(new.free) <= 8, "{new:?} became {now:?}");
    assert_eq!(now.pending_free, 0);
}

#[test]
fn the_ring_goes_round_many_times_and_the_pool_opens_at_any_point() {
    let (_, device) = device(256);
    let mut model = Model::new();
    for round in 0..30u64 {
        let (pool, head) = open(&device).unwrap();
        for step in 0..60u64 {
            for n in 0..8 {
                let n = (step * 7 + n * 13) % 200;
                head.write(n, (round + step) as u8, 3).unwrap();
                model.insert(n, ((round + step) as u8, 3));
            }
            checkpoint(&pool);
        }
        let used = pool.serial.lock().ring.used_blocks();
        assert!(used <= u64::from(pool.geometry().ring_blocks) / 3, "{used} blocks of ring");
        if round % 7 == 0 {
            assert_allocated_is_reachable(&pool, &head);
        }
    }
    let (pool, head) = open(&device).unwrap();
    assert_eq!(head.contents().unwrap(), model);
    assert_allocated_is_reachable(&pool, &head);
    assert!(region_items(&pool) > 0, "nothing was ever folded");
}

#[test]
fn a_terabyte_opens_at_once_and_its_checkpoints_cost_what_those_of_a_small_pool_do() {
    let mut costs = Vec::new();
    for gib in [10u64, 1024] {
        let counted = Counted::new(SimDevice::new(gib << 30));
        let device: Arc<dyn Device> = counted.clone();
        create(&device).unwrap();
        let before = clock::monotonic();
        let (pool, head) = open(&device).unwrap();
        assert!((clock::monotonic() - before).as_millis() < 1000);
        for n in 0..200 {
            head.write(n, 1, 32).unwrap();
        }
        checkpoint(&pool);
        let start = counted.counts();
        head.write(1, 2, 1).unwrap();
        checkpoint(&pool);
        let cost = counted.counts().since(&start);
        costs.push((cost.writes, cost.write_bytes, cost.flushes, cost.reads));
    }
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0].1 <= 256 << 10, "{costs:?}");
}

#[test]
fn a_checkpoint_costs_what_changed_and_not_what_exists() {
    let counted = Counted::new(SimDevice::new(4 << 30));
    let device: Arc<dyn Device> = counted.clone();
    create(&device).unwrap();
    let (pool, head) = open(&device).unwrap();
    let mut costs = Vec::new();
    for size in [100u64, 4000] {
        for n in 0..size {
            head.write(n, 1, 30).unwrap();
        }
        checkpoint(&pool);
        let start = counted.counts();
        head.write(1, 2, 1).unwrap();
        checkpoint(&pool);
        costs.push(counted.counts().since(&start).write_bytes);
    }
    // A level more in the tree, at most.
    assert!(costs[1] <= costs[0] + (64 << 10), "{costs:?}");
}

#[test]
fn a_failed_edit_is_undone_and_the_checkpoint_goes_on() {
    let (_, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    head.write(1, 1, 5).unwrap();
    let plan = CutPlan {
        edit: Some(Box::new(|txn, _| {
            txn.put(KEY, b"never")?;
            Err(PoolError::Refused)
        })),
        ..CutPlan::default()
    };
    assert!(matches!(pool.checkpoint(plan), Err(PoolError::Refused)));
    assert_eq!(pool.state(), PoolState::Ok);
    assert_eq!(pool.read_catalog().get(KEY).unwrap(), None);
    assert_allocated_is_reachable(&pool, &head);
    let plan = CutPlan {
        edit: Some(Box::new(|txn, _| txn.put(KEY, b"stays").map(|_| ()))),
        ..CutPlan::default()
    };
    pool.checkpoint(plan).unwrap();
    drop((pool, head));
    let (pool, _) = open(&device).unwrap();
    assert_eq!(pool.read_catalog().get(KEY).unwrap().unwrap(), b"stays");
}

#[test]
fn a_wrong_free_stops_the_pool_before_its_superblock() {
    let (_, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    head.write(1, 1, 5).unwrap();
    let durable = checkpoint(&pool);
    let region = pool.regions().into_iter().find(|r| {
        pool.region_map(*r).unwrap().runs().iter().any(|run| run.segment == SegmentId(16))
    });
    let run = pool.region_map(region.unwrap()).unwrap().runs()[0];
    let run = pool.core().space.run_of(region.unwrap(), &run);
    let plan = CutPlan {
        edit: Some(Box::new(move |txn, _| {
            txn.free(run, SegmentId(16))?;
            txn.free(run, SegmentId(16))
        })),
        ..CutPlan::default()
    };
    assert!(matches!(pool.checkpoint(plan), Err(PoolError::Corrupt { .. })));
    assert!(matches!(pool.state(), PoolState::ReadOnly(_)));
    assert!(matches!(head.write(2, 2, 1), Err(PoolError::ReadOnly { .. })));
    assert_eq!(pool.generation(), durable);
}

#[test]
fn one_bad_superblock_copy_is_repaired_and_all_bad_are_refused() {
    let (sim, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    head.write(1, 9, 5).unwrap();
    checkpoint(&pool);
    let newest = pool.serial.lock().clear.index;
    drop((pool, head));
    for copy in 0..2 {
        sim.corrupt(copy_offset(newest, copy) + 300, 1);
        let (pool, head) = open(&device).unwrap();
        assert_eq!(head.contents().unwrap(), Model::from([(1, (9, 5))]));
        pool.close().unwrap();
        let sealed = probe(&device).unwrap();
        assert!(sealed.damaged_copies().is_empty());
    }
    for index in 0..2 {
        for copy in 0..2 {
            sim.corrupt(copy_offset(index, copy) + 300, 1);
        }
    }
    assert!(matches!(probe(&device), Err(PoolError::SuperblockLost)));
    assert!(matches!(create(&device), Err(PoolError::Exists)));
}

/// Of each slot one copy may be unreadable; where both are, an older state is not taken for the newest.
#[test]
fn a_superblock_copy_that_the_device_does_not_hand_out_is_done_without() {
    let (_, disk) = device(256);
    let faulty = Faulty::new(disk, |op| op == Operation::Read);
    let device: Arc<dyn Device> = faulty.clone();
    let (pool, head) = open(&device).unwrap();
    head.write(1, 9, 5).unwrap();
    checkpoint(&pool);
    drop((pool, head));
    for nth in 0..4 {
        faulty.fail_after(nth, Fault::Error);
        let (pool, head) = open(&device).unwrap();
        assert!(faulty.has_fired());
        assert_eq!(head.contents().unwrap(), Model::from([(1, (9, 5))]));
        pool.close().unwrap();
    }
    faulty.fail_after(1, Fault::Dead);
    assert!(matches!(probe(&device), Err(PoolError::Io(_))));
}

/// As after a write of a superblock that was torn, or with damage: the state of the checkpoint before
/// is opened only where it is known to be the newest.
#[test]
fn an_unreadable_superblock_copy_beside_a_damaged_one_is_not_taken_for_none() {
    let (sim, disk) = device(256);
    let faulty = Faulty::new(disk, |op| op == Operation::Read);
    let device: Arc<dyn Device> = faulty.clone();
    let (pool, head) = open(&device).unwrap();
    head.write(1, 9, 5).unwrap();
    checkpoint(&pool);
    let newest = pool.serial.lock().clear.index;
    drop((pool, head));
    sim.corrupt(copy_offset(newest, 1) + 100, 1);
    // Slot by slot, in each copy by copy.
    faulty.fail_after(u64::from(newest) * 2, Fault::Error);
    assert!(matches!(probe(&device), Err(PoolError::Io(_))));
    assert!(faulty.has_fired());
    let (_pool, head) = open(&device).unwrap();
    assert_eq!(head.contents().unwrap(), Model::from([(1, (9, 5))]));
}

/// A superblock was torn, its one whole copy is not handed out, and the pool goes on from the state
/// before: then the power goes in the middle of that. The state that was left must not come back beside
/// the new one, as if they were one: what it points at is written over.
#[test]
fn a_superblock_that_was_done_without_does_not_come_back() {
    let (sim, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    head.write(1, 9, 5).unwrap();
    checkpoint(&pool);
    let slot = 1 - pool.serial.lock().clear.index;
    let mut second_copy = crate::sys::AlignedBuf::new(COPY_BYTES);
    device.read(copy_offset(slot, 1), &mut second_copy).unwrap();
    head.write(2, 8, 5).unwrap();
    checkpoint(&pool);
    assert_eq!(pool.serial.lock().clear.index, slot);
    drop((pool, head));
    device.write(copy_offset(slot, 1), &second_copy).unwrap();
    let mut cuts = 0;
    for nth in 0.. {
        let left = sim.copy();
        let flushes = Faulty::new(left.clone(), |op| op == Operation::Flush);
        let reads = Faulty::new(flushes.clone(), |op| op == Operation::Read);
        flushes.fail_after(nth, Fault::Dead);
        reads.fail_after(u64::from(slot) * 2, Fault::Error);
        let disk: Arc<dyn Device> = reads;
        if open(&disk).is_ok() {
            break;
        }
        for seed in 0..200 {
            let disk: Arc<dyn Device> = left.fork_crashed(seed);
            let slots = crate::pool::slots::Slots::read(&*disk).unwrap();
            let newest = slots.newest();
            let mut same = slots.copies().iter().filter(|c| c.clear.sequence == newest.sequence);
            let one = same.all(|copy| copy.clear.generation == newest.generation);
            assert!(one, "flush {nth}, seed {seed}: two states of one sequence");
            let (_pool, head) = open(&disk).unwrap();
            let contents = head.contents().unwrap();
            let [before, after] = [vec![(1, (9, 5))], vec![(1, (9, 5)), (2, (8, 5))]];
            assert!([Model::from_iter(before), Model::from_iter(after)].contains(&contents));
            cuts += 1;
        }
    }
    assert!(cuts > 400, "{cuts}");
}

#[test]
fn a_lost_newest_slot_is_refused_when_the_ring_shows_what_came_after() {
    let (sim, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    head.write(1, 9, 5).unwrap();
    let first = checkpoint(&pool);
    head.write(1, 8, 5).unwrap();
    checkpoint(&pool);
    // The newest slot is lost while a checkpoint after it was under way.
    let lost = pool.serial.lock().clear.index;
    head.write(1, 7, 5).unwrap();
    {
        let serial = pool.serial.lock();
        let entries = pool.core().gate.read().book.entries();
        let next = Generation(serial.clear.generation.get() + 1);
        let carried = std::collections::BTreeMap::new();
        serial.ring.append(&*device, next, &entries, &carried, None).unwrap();
    }
    drop((pool, head));
    for copy in 0..2 {
        sim.corrupt(copy_offset(lost, copy) + 300, 1);
    }
    let found = open(&device).map(|_| ());
    assert!(matches!(found, Err(PoolError::RolledBack { found, .. }) if found == first));
}

#[test]
fn a_pool_older_than_remembered_is_refused_and_accepted_as_another_incarnation() {
    let (_, device) = device(256);
    let (pool, _) = open(&device).unwrap();
    let generation = pool.generation();
    pool.close().unwrap();
    let unlock = |accept_rollback, remembered| {
        let remembered = Some(remembered);
        let options = OpenOptions { remembered, accept_rollback, ..OpenOptions::default() };
        probe(&device).unwrap().unlock(engine_key(), options)
    };
    let later = Generation(generation.get() + 100);
    assert!(matches!(unlock(false, later), Err(PoolError::RolledBack { .. })));
    assert_eq!(unlock(true, later).unwrap().incarnation(), 2);
    assert_eq!(unlock(false, generation).unwrap().incarnation(), 2);
}

#[test]
fn a_branch_that_was_left_is_refused_though_a_forged_superblock_looks_newer() {
    let (_, device) = device(256);
    let (pool, _) = open(&device).unwrap();
    checkpoint(&pool);
    let generation = pool.generation();
    pool.close().unwrap();
    // Anybody can write a clear part; nobody without the key can seal it.
    let slots = crate::pool::slots::Slots::read(&*device).unwrap();
    let real = slots.choose(&slot_key(&engine_key(), None)).unwrap();
    let forged = Clear {
        index: (real.clear.index + 1) % SLOTS,
        incarnation: 99,
        sequence: real.clear.sequence + 1,
        generation: Generation(1_000_000),
        ..real.clear.clone()
    };
    let key = slot_key(&EngineKey::random(), None);
    crate::pool::slots::write_copy(&*device, &forged, 0, &real.payload, &key).unwrap();
    let unlock = |accept_rollback| {
        let options = OpenOptions {
            remembered: Some(Generation(1)),
            remembered_incarnation: 7,
            accept_rollback,
            ..OpenOptions::default()
        };
        let sealed = probe(&device).unwrap();
        assert_eq!((sealed.incarnation(), sealed.generation()), (99, Generation(1_000_000)));
        sealed.unlock(engine_key(), options)
    };
    assert!(matches!(unlock(false), Err(PoolError::RolledBack { .. })));
    let accepted = unlock(true).unwrap();
    assert_eq!(accepted.incarnation(), 8, "above every branch that was seen");
    assert!(accepted.generation() >= generation);
}

#[test]
fn the_later_of_two_superblocks_of_one_generation_counts() {
    let (_, device) = device(256);
    let (pool, _) = open(&device).unwrap();
    for _ in 0..2 {
        pool.checkpoint(CutPlan { narrowing: true, ..CutPlan::default() }).unwrap();
        let sequence = pool.serial.lock().clear.sequence;
        let slots = crate::pool::slots::Slots::read(&*device).unwrap();
        assert_eq!(slots.newest().sequence, sequence, "both are of one generation");
        checkpoint(&pool);
    }
}

#[test]
fn a_superblock_that_was_never_flushed_is_made_sure_of_before_it_is_believed() {
    // The process dies in the flush of a superblock; the next one finds it all the same, and frees
    // by it; then the power goes.
    let sim = SimDevice::new(256 << 20);
    let faulty = Faulty::new(sim.clone(), |op| op == Operation::Flush);
    let plain: Arc<dyn Device> = faulty.clone();
    create(&plain).unwrap();
    let (pool, head) = open(&plain).unwrap();
    head.write(1, 1, 30).unwrap();
    checkpoint(&pool);
    head.remove(1).unwrap();
    head.write(2, 2, 30).unwrap();
    faulty.fail_after(1, Fault::Dead);
    assert!(pool.checkpoint(CutPlan::default()).is_err());
    drop((pool, head));
    faulty.heal();
    let counted = Counted::new(sim);
    let again: Arc<dyn Device> = counted.clone();
    let _sealed = probe(&again).unwrap();
    let seen = counted.counts();
    assert!(seen.flushes == 1 && seen.writes == 0, "{seen:?}");
}

#[test]
fn what_cannot_be_a_pool_is_told_apart() {
    let (sim, device) = device(256);
    let wrong = crate::crypto::EngineKey::from_bytes(&[2; 32]);
    let unlocked = probe(&device).unwrap().unlock(wrong, OpenOptions::default());
    assert!(matches!(unlocked, Err(PoolError::WrongKey)));
    let empty: Arc<dyn Device> = SimDevice::new(256 << 20);
    assert!(matches!(probe(&empty), Err(PoolError::NotAPool)));
    let small: Arc<dyn Device> = SimDevice::new(64 << 20);
    assert!(matches!(create(&small), Err(PoolError::TooSmall { .. })));
    sim.truncate(255 << 20);
    assert!(matches!(probe(&device), Err(PoolError::Truncated { .. })));
}

#[test]
fn a_grown_pool_stays_grown() {
    let (_, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    let before = pool.space().capacity;
    pool.grow(512 << 20).unwrap();
    head.write(1, 1, 5).unwrap();
    checkpoint(&pool);
    assert!(pool.space().capacity > before);
    assert!(matches!(pool.grow(256 << 20), Err(PoolError::Invalid(_))));
    drop((pool, head));
    let (pool, head) = open(&device).unwrap();
    assert_eq!(device.size_bytes(), 512 << 20);
    assert_eq!(pool.geometry().total_blocks * BLOCK_SIZE_U64, 512 << 20);
    assert_eq!(head.contents().unwrap(), Model::from([(1, (1, 5))]));
    assert_allocated_is_reachable(&pool, &head);
}

#[test]
fn a_narrowing_checkpoint_leaves_no_older_payload_in_any_slot() {
    let (_, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    head.write(1, 1, 5).unwrap();
    let done = pool.checkpoint(CutPlan { narrowing: true, ..CutPlan::default() }).unwrap();
    assert!(done.shredded.is_some());
    let slots = crate::pool::slots::Slots::read(&*device).unwrap();
    assert!(slots.copies().iter().all(|c| c.clear.generation == done.generation));
    assert_eq!(slots.copies().len(), 4);
    checkpoint(&pool);
    drop((pool, head));
    open(&device).unwrap();
}

#[test]
fn a_full_pool_says_so_and_comes_back_once_something_is_deleted() {
    let (_, device) = device(256);
    let (pool, head) = open(&device).unwrap();
    let mut written = 0;
    let error = loop {
        match head.write(written, 1, 30) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        if written % 200 == 0 {
            checkpoint(&pool);
        }
    };
    assert!(matches!(error, PoolError::Full), "{error}");
    checkpoint(&pool);
    assert!(written > 1000, "{written}");
    for n in 0..written / 2 {
        head.remove(n).unwrap();
    }
    checkpoint(&pool);
    for n in 0..written / 4 {
        head.write(n, 2, 30).unwrap();
    }
    checkpoint(&pool);
    assert_allocated_is_reachable(&pool, &head);
}

#[test]
fn wraps_are_replaced_while_slots_are_settled() {
    let (_, device) = device(256);
    let (pool, _head) = open(&device).unwrap();
    let wraps = pool.wraps();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        // Several, so that one is there between any two steps.
        for checkpoints in [true, false, false, false] {
            let (pool, done) = (&pool, &done);
            threads.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    if checkpoints {
                        pool.checkpoint(CutPlan::default()).unwrap();
                    }
                    pool.settle_slots().unwrap();
                }
            });
        }
        for round in 0..100 {
            let name = format!("round {round}");
            let named = |wrap: &EngineWrap| EngineWrap { name: name.clone(), ..wrap.clone() };
            pool.set_wraps(wraps.iter().map(named).collect()).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(pool.state(), PoolState::Ok);
}
