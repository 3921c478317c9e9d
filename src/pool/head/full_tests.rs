//! No room: what was promised to all heads together is kept, in the pool and beneath it; deleting,
//! checkpoints and closing work whatever is left.

use std::sync::Arc;

use super::tests::{contents, create, key, open_cluster, open_pool, remove, write};
use super::{Head, Reservation};
use crate::base::ClusterId;
use crate::block::Urgency;
use crate::device::sim::SimDevice;
use crate::pool::{CutPlan, OpenOptions, Pool, PoolError, PoolState};

const MIB: u64 = 1 << 20;
const HEADS: u8 = 4;
/// A quarter of a node: no leaf holds more than four.
const ITEM_BYTES: usize = 4000;

/// Dirty nodes slow nobody down, and ask for no checkpoint.
fn options() -> OpenOptions {
    OpenOptions { cache_bytes: 1 << 30, ..OpenOptions::default() }
}

fn open(sim: &Arc<SimDevice>) -> (Arc<Pool>, Vec<Arc<Head>>) {
    let pool = open_pool(sim, options());
    let heads = (0..HEADS).map(|n| open_cluster(&pool, ClusterId([n + 1; 16]))).collect();
    (pool, heads)
}

fn put(head: &Head, n: u64) -> Result<(), PoolError> {
    let _promise = head.reserve(0, 1, Urgency::Ordinary)?;
    let accepted = head.transact(|txn| {
        txn.put(key(n), vec![n as u8; ITEM_BYTES]);
        Ok::<_, PoolError>(())
    });
    accepted.expect("what was promised is accepted");
    Ok(())
}

fn count(head: &Head) -> u64 {
    let mut found = 0;
    let (from, to) = (crate::tree::Key::MIN, crate::tree::Key::MAX);
    head.view()
        .range(from, to, &mut |_, _| {
            found += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    found
}

#[test]
fn the_dirty_nodes_of_several_heads_find_room_together() {
    let sim = create(256 * MIB);
    let (pool, heads) = open(&sim);
    let mut written = vec![0; heads.len()];
    let mut full = vec![false; heads.len()];
    while full.contains(&false) {
        for (i, head) in heads.iter().enumerate() {
            match put(head, written[i] * 7919 % 100_003) {
                Ok(()) => written[i] += 1,
                Err(PoolError::Full) => full[i] = true,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(written.iter().sum::<u64>() > 15_000, "{written:?}");
    pool.checkpoint(CutPlan::default()).unwrap();
    assert_eq!(pool.state(), PoolState::Ok);
    // Whatever was accepted is there; and everybody can delete.
    let sim = sim.crash(3);
    drop((pool, heads));
    let (pool, heads) = open(&sim);
    for (head, written) in heads.iter().zip(&written) {
        assert_eq!(count(head), *written);
        for n in 0..*written {
            let _promise = head.reserve(0, 1, Urgency::Delete).unwrap();
            head.transact(|txn| {
                txn.remove(key(n * 7919 % 100_003));
                Ok::<_, PoolError>(())
            })
            .unwrap();
        }
        pool.close_head(head).unwrap();
    }
    assert_eq!(pool.state(), PoolState::Ok);
    pool.close().unwrap();
}

/// Data accepted and not yet stored, as in the buffers above a head.
struct Accepted {
    head: usize,
    n: u64,
    blocks: usize,
    promise: Reservation,
}

/// Accepts from all heads in turn until each refuses, storing what was accepted late.
fn fill(heads: &[Arc<Head>], from: u64) -> u64 {
    let mut waiting: Vec<Accepted> = Vec::new();
    let mut full = vec![false; heads.len()];
    let mut n = from;
    let store = |accepted: Accepted| {
        let Accepted { head, n, blocks, promise } = accepted;
        let stored = write(&heads[head], n, blocks, n as u8, n.is_multiple_of(2));
        stored.unwrap_or_else(|error| panic!("{n}, {blocks} blocks, were accepted: {error}"));
        drop(promise);
    };
    while full.contains(&false) {
        for (i, head) in heads.iter().enumerate().filter(|(i, _)| !full[*i]).collect::<Vec<_>>() {
            let blocks = 1 + (n * 31 % 32) as usize;
            match head.reserve(blocks as u64, 3, Urgency::Ordinary) {
                Ok(promise) => waiting.push(Accepted { head: i, n, blocks, promise }),
                Err(PoolError::Full) => full[i] = true,
                Err(error) => panic!("{error}"),
            }
            n += 1;
        }
        if waiting.len() > 100 {
            waiting.drain(..50).for_each(store);
        }
    }
    waiting.into_iter().for_each(store);
    n
}

#[test]
fn data_promised_to_several_heads_finds_room_in_a_fragmented_pool() {
    let sim = create(300 * MIB);
    let (pool, heads) = open(&sim);
    let mut n = 0;
    for round in 0..3 {
        let before = n;
        n = fill(&heads, n);
        assert!(n - before > 500, "round {round}: only {}", n - before);
        pool.checkpoint(CutPlan::default()).unwrap();
        // Holes everywhere.
        for head in &heads {
            for at in contents(head).into_keys().filter(|at| at % 3 != round) {
                let _promise = head.reserve(0, 1, Urgency::Delete).unwrap();
                remove(head, at).unwrap();
            }
        }
        pool.checkpoint(CutPlan::default()).unwrap();
        assert_eq!(pool.state(), PoolState::Ok);
    }
    // What is said to be free can be written, all but the nodes that go with it.
    let free = pool.space().free;
    let start = pool.space().used;
    fill(&heads, n);
    let taken = pool.space().used - start;
    assert!(taken * 10 >= free * 9, "{free} blocks were free, {taken} could be written");
}

#[test]
fn a_cluster_is_opened_in_the_room_that_only_a_checkpoint_gives_back() {
    let sim = create(256 * MIB);
    let (pool, heads) = open(&sim);
    fill(&heads, 0);
    pool.checkpoint(CutPlan::default()).unwrap();
    for head in &heads {
        for n in contents(head).into_keys() {
            let _promise = head.reserve(0, 1, Urgency::Delete).unwrap();
            remove(head, n).unwrap();
        }
    }
    write(&open_cluster(&pool, ClusterId([9; 16])), 1, 1, 1, true).unwrap();
}

#[test]
fn a_full_disk_beneath_a_sparse_pool_refuses_before_anything_is_accepted() {
    let sim = create(1024 * MIB);
    // Header, ring, and three regions.
    sim.limit_backing(Some((8 + 3 * 64 + 30) * MIB));
    let (pool, heads) = open(&sim);
    let n = fill(&heads, 0);
    assert!(n > 500, "only {n}");
    heads.iter().for_each(|head| head.commit().unwrap());
    pool.checkpoint(CutPlan::default()).unwrap();
    let report = pool.space();
    assert!(report.backing_is_full);
    assert!(report.free * 4096 < 30 * MIB, "{report:?}");
    let before: Vec<_> = heads.iter().map(|head| contents(head)).collect();

    // What was acknowledged is there after a crash; others may have taken even more of the disk.
    let sim = sim.crash(7);
    drop((pool, heads));
    let used = sim.used_bytes();
    sim.limit_backing(Some(used));
    let (pool, heads) = open(&sim);
    for (head, before) in heads.iter().zip(&before) {
        assert_eq!(&contents(head), before);
        for n in before.keys().filter(|n| *n % 2 == 0) {
            let _promise = head.reserve(0, 1, Urgency::Delete).unwrap();
            remove(head, *n).unwrap();
        }
    }
    pool.checkpoint(CutPlan::default()).unwrap();
    assert!(fill(&heads, n) > n, "what was deleted gives room");

    // Room beneath comes back, and with it the pool's.
    let small = pool.space().free;
    sim.limit_backing(Some(900 * MIB));
    pool.checkpoint(CutPlan::default()).unwrap();
    let report = pool.space();
    assert!(!report.backing_is_full && report.free > small + 50_000, "{report:?}");
    write(&heads[0], 900_000, 2000, 1, true).unwrap();
    heads.iter().for_each(|head| pool.close_head(head).unwrap());
    pool.close().unwrap();
}

#[test]
fn a_disk_that_fills_up_beneath_a_pool_lets_it_delete_and_end() {
    let sim = create(1024 * MIB);
    sim.limit_backing(Some(900 * MIB));
    let (pool, heads) = open(&sim);
    for n in 0..400 {
        write(&heads[n as usize % 4], n, 30, 5, true).unwrap();
    }
    // From one moment to the next nothing is left.
    sim.limit_backing(Some(0));
    fill(&heads, 1000);
    for round in 0..3 {
        for head in &heads {
            for n in contents(head).into_keys().filter(|n| n % 3 == round) {
                let _promise = head.reserve(0, 1, Urgency::Delete).unwrap();
                remove(head, n).unwrap();
            }
        }
        pool.checkpoint(CutPlan::default()).unwrap();
    }
    heads.iter().for_each(|head| pool.close_head(head).unwrap());
    pool.close().unwrap();
}
