//! The power goes at every device write in turn, keeping any of the unflushed sectors: the pool is
//! then as its last durable checkpoint, or as the one that was being made.

use std::sync::Arc;

use proptest::prelude::*;

use crate::device::faulty::{Fault, Faulty};
use crate::device::sim::SimDevice;
use crate::device::{Device, Operation};
use crate::pool::test_head::{Model, TestHead, assert_allocated_is_reachable, create, open};
use crate::pool::{CutPlan, Pool, PoolError};

/// Changes and checkpoints; `Ok` when all were made. The models: durable, and being made durable.
fn run(
    pool: &Pool,
    head: &TestHead,
    seed: u64,
    durable: &mut Model,
    current: &mut Model,
) -> Result<(), PoolError> {
    let mut state = seed;
    let mut next = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..4 {
        for _ in 0..12 {
            let n = next(20);
            if next(4) == 0 {
                current.remove(&n);
                head.remove(n)?;
            } else {
                let (fill, blocks) = (next(250) as u8, 1 + next(6) as u32);
                head.write(n, fill, blocks)?;
                current.insert(n, (fill, blocks));
            }
        }
        pool.checkpoint(CutPlan { narrowing: next(3) == 0, ..CutPlan::default() })?;
        durable.clone_from(current);
    }
    Ok(())
}

fn base() -> Arc<SimDevice> {
    let sim = SimDevice::new(256 << 20);
    let device: Arc<dyn Device> = sim.clone();
    create(&device).unwrap();
    sim
}

const fn changes(op: Operation) -> bool {
    matches!(op, Operation::Write | Operation::Flush)
}

/// Whether the fault fired: `false` once `nth` is beyond the end of the run.
fn crash_at(base: &SimDevice, nth: u64, fault: Fault, seed: u64) -> bool {
    let sim = base.copy();
    let faulty = Faulty::new(sim.clone(), changes);
    let device: Arc<dyn Device> = faulty.clone();
    faulty.fail_after(nth, fault);
    let (mut durable, mut current) = (Model::new(), Model::new());
    if let Ok((pool, head)) = open(&device) {
        let _ = run(&pool, &head, seed, &mut durable, &mut current);
        if faulty.has_fired() {
            let refused = head.write(1, 1, 1);
            assert!(matches!(refused, Err(PoolError::ReadOnly { .. } | PoolError::Io(_))));
        }
    }
    let fired = faulty.has_fired();
    let mut after = sim.crash(seed.wrapping_mul(nth + 1));
    for again in 0..2 {
        let device: Arc<dyn Device> = after.clone();
        let (pool, head) =
            open(&device).unwrap_or_else(|e| panic!("write {nth}, seed {seed}: {e}"));
        let found = head.contents().unwrap_or_else(|e| panic!("write {nth}, seed {seed}: {e}"));
        assert!(found == durable || found == current, "write {nth}, seed {seed}: {found:?}");
        assert_allocated_is_reachable(&pool, &head);
        // It goes on, and stands a crash right after the opening.
        head.write(77, 7, 3).unwrap();
        drop((pool, head));
        after = after.crash(seed ^ again);
        durable.clone_from(&found);
        current.clone_from(&found);
    }
    fired
}

#[test]
fn a_crash_at_every_write_leaves_the_last_checkpoint_or_the_one_being_made() {
    let base = base();
    for seed in 0..3 {
        let mut nth = 0;
        while crash_at(&base, nth, Fault::Dead, seed) {
            nth += 1;
        }
        assert!(nth > 60, "only {nth} writes and flushes");
    }
}

#[test]
fn an_error_at_every_write_makes_the_pool_read_only_and_loses_nothing() {
    let base = base();
    let mut nth = 0;
    while crash_at(&base, nth, Fault::Error, 11) {
        nth += 1;
    }
    assert!(nth > 60);
}

#[test]
fn a_superblock_torn_in_both_copies_leaves_the_one_before() {
    let base = base();
    for seed in 0..60 {
        let sim = base.copy();
        let faulty = Faulty::new(sim.clone(), |op| op == Operation::Flush);
        let device: Arc<dyn Device> = faulty.clone();
        let (pool, head) = open(&device).unwrap();
        for n in 0..2 {
            head.write(n, 1, 3).unwrap();
            pool.checkpoint(CutPlan::default()).unwrap();
        }
        let durable = head.contents().unwrap();
        head.write(7, 7, 3).unwrap();
        let current = head.contents().unwrap();
        // The flush before the superblock passes, its own does not.
        faulty.fail_after(1, Fault::Dead);
        assert!(pool.checkpoint(CutPlan::default()).is_err());
        let device: Arc<dyn Device> = sim.crash(seed);
        let (_pool, head) = open(&device).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let found = head.contents().unwrap();
        assert!(found == durable || found == current, "seed {seed}: {found:?}");
    }
}

/// Cases unless PROPTEST_CASES says otherwise (scripts/crash.sh).
fn cases() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        None => ProptestConfig::with_cases(24),
        Some(_) => ProptestConfig::default(),
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn any_history_survives_a_crash_anywhere(seed in any::<u64>(), nth in 0u64..160) {
        crash_at(&base(), nth, Fault::Dead, seed);
    }
}
