//! What is committed while the pool grows.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::Head;
use super::tests::{
    CLUSTER, Extent, contents, create, keeper, key, open, open_cluster, open_pool, root_key,
    stored_head, write,
};
use crate::device::DeviceError;
use crate::device::sim::SimDevice;
use crate::pool::{CatalogTxn, CutPlan, CutReport, Keeper, OpenOptions, Pool, PoolError};
use crate::sys::sync::{Mutex, Rank};
use crate::sys::threads;

/// Writes until nothing more is accepted.
fn fill(pool: &Pool, head: &Head) {
    let mut n = 0;
    for blocks in [64, 8, 1] {
        while write(head, 10_000 + n, blocks, 7, true).is_ok() {
            n += 1;
            if n % 200 == 0 {
                pool.checkpoint(CutPlan::default()).unwrap();
            }
        }
    }
    pool.checkpoint(CutPlan::default()).unwrap();
}

/// Its last region would be longer than what stands beneath it, and what had been promised in it would
/// find no room.
#[test]
fn a_pool_with_no_room_beneath_does_not_grow_and_goes_on_as_it_was() {
    // Four regions, and a fifth that ends after a quarter.
    const SIZE: u64 = (8 + 4 * 64 + 16) << 20;
    let sim = create(SIZE);
    sim.limit_backing(Some(SIZE));
    let (pool, head) = open(&sim);
    fill(&pool, &head);
    let (space, expected) = (pool.space(), contents(&head));
    let refused = pool.grow(512 << 20);
    assert!(matches!(refused, Err(PoolError::Io(DeviceError::NoSpace))), "{refused:?}");
    assert_eq!(pool.space().capacity, space.capacity);
    pool.checkpoint(CutPlan::default()).unwrap();
    let crashed = sim.fork_crashed(1);
    let again = open_pool(&crashed, OpenOptions::default());
    assert_eq!(contents(&open_cluster(&again, CLUSTER)), expected);

    sim.limit_backing(None);
    pool.grow(512 << 20).unwrap();
    write(&head, 900_000, 64, 8, true).unwrap();
    head.commit().unwrap();
}

/// Blocks beyond the old end of a pool that grows are nobody's until its superblocks say where the new
/// one is: after a crash a log that claims them would be refused.
#[test]
fn what_is_committed_while_the_pool_grows_is_there_after_a_power_cut() {
    /// In the middle of a checkpoint somebody writes, if there is room, and commits; then it looks what
    /// a crash would leave.
    struct Committer {
        head: Arc<Head>,
        sim: Arc<SimDevice>,
        crashed: Mutex<Vec<(bool, Arc<SimDevice>)>>,
    }
    impl Keeper for Committer {
        fn settle(&self, txn: &mut CatalogTxn<'_>, cut: &CutReport) -> Result<(), PoolError> {
            keeper().settle(txn, cut)?;
            let (told, answer) = mpsc::channel();
            let head = Arc::clone(&self.head);
            threads::spawn("writer", move || {
                let written = write(&head, 900_000, 8, 50, true).and_then(|_| head.commit());
                told.send(written.is_ok())
            });
            // Who finds no room waits for the end of the checkpoint.
            let taken = answer.recv_timeout(Duration::from_millis(300)).unwrap_or(false);
            let crashed: Vec<_> = (0..4).map(|s| (taken, self.sim.fork_crashed(s))).collect();
            self.crashed.lock().extend(crashed);
            Ok(())
        }
    }
    let sim = create(256 << 20);
    let (pool, head) = open(&sim);
    let old_end = pool.geometry().total_blocks;
    fill(&pool, &head);
    let crashed = Mutex::new(Rank::StandIn, Vec::new());
    let committer = Arc::new(Committer { head: Arc::clone(&head), sim: Arc::clone(&sim), crashed });
    pool.set_keeper(Arc::clone(&committer) as _);
    pool.grow(512 << 20).unwrap();
    pool.set_keeper(keeper());
    write(&head, 900_001, 8, 51, true).unwrap();
    head.commit().unwrap();
    let extent = Extent::decode(&head.view().get(key(900_001)).unwrap().unwrap());
    assert!(extent.run.addr.get() >= old_end, "it was full");
    let mut crashed = std::mem::take(&mut *committer.crashed.lock());
    assert_eq!(crashed.len(), 4);
    crashed.push((false, sim.fork_crashed(5)));
    for (number, (taken, sim)) in crashed.into_iter().enumerate() {
        let pool = open_pool(&sim, OpenOptions::default());
        let stored = pool.read_catalog().get(root_key(CLUSTER)).unwrap();
        let opened = pool.open_head(stored_head(CLUSTER, stored));
        let head = opened.unwrap_or_else(|error| panic!("{number}: it does not open: {error}"));
        let found = contents(&head);
        assert!(!taken || found.contains_key(&900_000), "{number}: acknowledged, and lost");
        assert!(number < 4 || found.contains_key(&900_001), "acknowledged after it had grown");
    }
}
