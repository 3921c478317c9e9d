//! What a crash left in the logs, taken in without any customer key, and the recovery checkpoint
//! (engine.md, "Recovery" 3 to 6).

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::{ClusterId, SegmentId};
use crate::block::{Class, SpaceEntry, Urgency};
use crate::pool::log::{LogItem, Outstanding, Scan, ScanRequest, scan};
use crate::pool::open::OpenOptions;
use crate::pool::{CutPlan, Pool, PoolError, items};

/// Records that no log has: a log whose flushed records are missing is opened by nobody.
const UNREADABLE: u64 = u64::MAX;

/// What becomes of a cluster's log item.
enum Decision {
    /// The log was empty: its area is free.
    Drop(LogItem),
    /// There is something to replay.
    Keep(LogItem),
}

/// Takes in the logs, written under `incarnation`, and makes the checkpoint after which the pool
/// serves. The pool's own incarnation is a later one where a rollback was accepted.
pub(in crate::pool) fn recover(
    pool: &Arc<Pool>,
    options: &OpenOptions,
    incarnation: u64,
) -> Result<(), PoolError> {
    let catalog = pool.read_catalog();
    let logs = items::logs(catalog.tree(), &pool.core.nodes)?;
    drop(catalog);
    let mut decisions = Vec::new();
    for (cluster, item) in logs {
        match &item.outstanding {
            Some(o) if o.records == UNREADABLE && options.accept_log_loss => {
                log::warn!("cluster {cluster}: its unreadable log is given up as accepted");
                decisions.push((cluster, Decision::Drop(item)));
            }
            // Decided by an earlier opening: its claims are in the map already.
            Some(outstanding) => reserve(pool, outstanding.need_blocks),
            None => decisions.push((cluster, decide(pool, cluster, item, options, incarnation)?)),
        }
    }
    let edit = move |txn: &mut crate::pool::CatalogTxn<'_>, _: &crate::pool::CutReport| {
        for (cluster, decision) in &decisions {
            let key = items::log_key(*cluster);
            match decision {
                Decision::Drop(item) => {
                    txn.free(item.area, SegmentId::POOL)?;
                    txn.remove(key)?;
                }
                Decision::Keep(item) => {
                    txn.put(key, &items::encode_log(*cluster, item))?;
                }
            }
        }
        Ok(())
    };
    let narrowing = pool.serial.lock().payload.shred_pending.get() != 0;
    let plan = CutPlan { edit: Some(Box::new(edit)), narrowing, ..CutPlan::default() };
    pool.checkpoint(plan).map(|_| ())
}

/// A replay's need; it was accepted before the crash, so it is promised whatever is left.
fn reserve(pool: &Pool, blocks: u64) {
    if pool.core.space.reserve(Class::Node, blocks, Urgency::Checkpoint).is_err() {
        log::warn!("the space that a log's replay may need is not free");
    }
}

fn decide(
    pool: &Pool,
    cluster: ClusterId,
    item: LogItem,
    options: &OpenOptions,
    incarnation: u64,
) -> Result<Decision, PoolError> {
    let (lo, generation) = {
        let serial = pool.serial.lock();
        let lo = Zeroizing::new(*serial.payload.lo.bytes());
        (lo, serial.clear.generation.next())
    };
    let request = ScanRequest {
        device: &*pool.core.device,
        pool: pool.core.pool_id,
        incarnation,
        cluster,
        area: item.area,
        half: item.half,
        generation,
        lo: &lo,
        decided: None,
    };
    let outstanding = |records, need_blocks| Outstanding {
        lo: lo.clone(),
        incarnation,
        generation,
        half: item.half,
        records,
        need_blocks,
    };
    let found = scan(&request).and_then(|found| {
        // A claim on blocks that are somebody else's is corruption of this log, and of it alone.
        take_in(pool, &item, &found)?;
        Ok(found)
    });
    match found {
        Ok(found) if found.is_empty() => Ok(Decision::Drop(item)),
        Ok(found) => {
            let outstanding = outstanding(found.records.len() as u64, found.need_blocks());
            reserve(pool, outstanding.need_blocks);
            Ok(Decision::Keep(LogItem { outstanding: Some(outstanding), ..item }))
        }
        Err(PoolError::Corrupt { what, addr }) if options.accept_log_loss => {
            log::warn!("cluster {cluster}: {what} (block {addr}) is given up as accepted");
            Ok(Decision::Drop(item))
        }
        Err(PoolError::Corrupt { what, addr }) => {
            log::error!("cluster {cluster} cannot be opened: {what} (block {addr}) is corrupt");
            let outstanding = outstanding(UNREADABLE, 0);
            Ok(Decision::Keep(LogItem { outstanding: Some(outstanding), ..item }))
        }
        Err(error) => Err(error),
    }
}

/// Books what the records claim to the head's current segment, and puts carried data in place.
fn take_in(pool: &Pool, item: &LogItem, found: &Scan) -> Result<(), PoolError> {
    let core = &pool.core;
    let interval = core.gate.read();
    for record in &found.records {
        for claim in &record.outer.claims {
            core.space.take(Class::Data, claim.run)?;
            let (run, crcs) = (claim.run, claim.crcs.clone());
            interval.book.push(SpaceEntry::Alloc { run, segment: item.segment, crcs })?;
        }
        for image in &record.outer.images {
            core.data.put_image(image.run, &image.ciphertext);
        }
    }
    Ok(())
}
