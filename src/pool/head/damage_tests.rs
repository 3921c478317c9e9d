//! Logs of which the device does not hand out a part: what had to be in it, and who is hit.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Head;
use super::tests::{
    CLUSTER, contents, create, engine_key, open_cluster, open_pool, records, root_key, run_of,
    stored_head, write,
};
use crate::base::ClusterId;
use crate::base::units::BLOCK_SIZE_U64;
use crate::device::faulty::{Fault, Faulty};
use crate::device::sim::SimDevice;
use crate::device::{Device, Operation};
use crate::pool::log::item::half_run;
use crate::pool::{self, CutPlan, Edit, OpenOptions, Pool, PoolError};

const OTHER: ClusterId = ClusterId([9; 16]);

/// What each cluster holds.
type Contents = BTreeMap<u64, (u32, u8)>;

/// Two clusters, each with four commits since the last checkpoint. The power goes; the head of the
/// first was this one.
fn crashed() -> (Arc<SimDevice>, Arc<Head>, Contents) {
    let sim = create(256 << 20);
    let pool = open_pool(&sim, OpenOptions::default());
    let heads = [CLUSTER, OTHER].map(|cluster| open_cluster(&pool, cluster));
    for head in &heads {
        for n in 0..4 {
            write(head, n, 20, n as u8, true).unwrap();
            head.commit().unwrap();
        }
    }
    let [head, _] = heads;
    let expected = contents(&head);
    (sim.crash(1), head, expected)
}

fn open_head(pool: &Arc<Pool>, cluster: ClusterId) -> Result<Arc<Head>, PoolError> {
    let stored = pool.read_catalog().get(root_key(cluster)).unwrap();
    pool.open_head(stored_head(cluster, stored))
}

/// Where the block behind the last record of the log begins, in bytes.
fn end_of_log(sim: &SimDevice, head: &Head) -> u64 {
    records(sim, head).last().unwrap() + BLOCK_SIZE_U64
}

#[test]
fn a_part_of_a_log_behind_its_end_that_cannot_be_read_is_nobodys_loss() {
    let (sim, head, expected) = crashed();
    let end = end_of_log(&sim, &head);
    let halves = [0, 1].map(|half| half_run(head.log_area, half).end().offset_bytes());
    let half_end = halves.into_iter().find(|half_end| end < *half_end).unwrap();
    for bad in [end + BLOCK_SIZE_U64, end + 9 * BLOCK_SIZE_U64, half_end - BLOCK_SIZE_U64] {
        let sim = sim.copy();
        sim.make_unreadable(bad);
        let pool = open_pool(&sim, OpenOptions::default());
        for cluster in [CLUSTER, OTHER] {
            assert_eq!(contents(&open_head(&pool, cluster).unwrap()), expected);
        }
    }
}

/// A record may stand there that was acknowledged: nobody takes the log to end before it.
#[test]
fn a_log_of_which_a_part_cannot_be_read_keeps_its_own_cluster_closed_and_no_other() {
    let (sim, head, expected) = crashed();
    let mut bad = records(&sim, &head);
    assert_eq!(bad.len(), 4);
    bad.push(end_of_log(&sim, &head));
    // What the last record claims, which no later one says to have been flushed.
    bad.push(run_of(&head, 3).addr.plus(7).offset_bytes());
    // Commits that come before the damage.
    let sound = [0, 1, 2, 3, 4, 3];
    for (bad, sound) in bad.into_iter().zip(sound) {
        let sim = sim.copy();
        sim.make_unreadable(bad);
        for _ in 0..2 {
            let pool = open_pool(&sim, OpenOptions::default());
            let refused = open_head(&pool, CLUSTER).err();
            assert!(matches!(refused, Some(PoolError::LogLost)), "{bad}: {refused:?}");
            assert_eq!(pool.damaged_logs().unwrap(), [CLUSTER]);
            assert_eq!(contents(&open_cluster(&pool, OTHER)), expected);
            drop(pool);
            // Blocks that the records behind it claim may be somebody else's by then.
            sim.make_readable();
        }
        let pool = open_pool(&sim, OpenOptions::default());
        let edit: Edit<'_> = Box::new(|txn, _| {
            assert!(txn.accept_log_loss(CLUSTER)? && !txn.accept_log_loss(OTHER)?);
            Ok(())
        });
        pool.checkpoint(CutPlan { edit: Some(edit), ..CutPlan::default() }).unwrap();
        let before: Contents = expected.clone().into_iter().filter(|(n, _)| *n < sound).collect();
        assert_eq!(contents(&open_cluster(&pool, CLUSTER)), before);
        assert!(pool.damaged_logs().unwrap().is_empty());
    }
}

#[test]
fn what_stands_behind_the_records_that_an_opening_counted_is_not_asked_for() {
    let (sim, head, expected) = crashed();
    let pool = open_pool(&sim, OpenOptions::default());
    sim.make_unreadable(end_of_log(&sim, &head));
    assert_eq!(contents(&open_head(&pool, CLUSTER).unwrap()), expected);
}

/// A log that is given up stays so: one failed read is not enough for that.
#[test]
fn a_read_that_fails_once_in_an_opening_loses_nothing_of_a_log() {
    let (sim, _, expected) = crashed();
    for nth in 0.. {
        let faulty = Faulty::new(sim.copy(), |op| op == Operation::Read);
        let device: Arc<dyn Device> = faulty.clone();
        faulty.fail_after(nth, Fault::Error);
        let unlock = || pool::probe(&device)?.unlock(engine_key(), OpenOptions::default());
        let pool = unlock().or_else(|_| unlock()).unwrap();
        faulty.heal();
        pool.set_keeper(super::tests::keeper());
        for cluster in [CLUSTER, OTHER] {
            assert_eq!(contents(&open_head(&pool, cluster).unwrap()), expected, "read {nth}");
        }
        if !faulty.has_fired() {
            assert!(nth > 20, "{nth} reads");
            break;
        }
    }
}
