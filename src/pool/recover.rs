//! What a crash left in the logs, taken in without any customer key, and the recovery checkpoint
//! (engine.md, "Recovery" 3 to 6).

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::base::units::BLOCK_SIZE_U64;
use crate::base::{BlockAddr, ClusterId, SegmentId};
use crate::block::{Class, Run, SpaceEntry};
use crate::device::{DeviceError, Operation};
use crate::pool::log::{LogItem, Outstanding, Scan, ScanRequest, scan, scan_prefix};
use crate::pool::{CutPlan, Pool, PoolError, items};

/// What becomes of a cluster's log item.
enum Decision {
    /// The log was empty: its area is free.
    Drop(LogItem),
    /// There is something to replay.
    Keep(LogItem),
}

/// Takes in the logs, written under `incarnation`, and makes the checkpoint after which the pool
/// serves. The pool's own incarnation is a later one where a rollback was accepted.
pub(in crate::pool) fn recover(pool: &Arc<Pool>, incarnation: u64) -> Result<(), PoolError> {
    let catalog = pool.read_catalog();
    let logs = items::logs(catalog.tree(), &pool.core.nodes)?;
    drop(catalog);
    let mut decisions = Vec::new();
    for (cluster, item) in logs {
        match &item.outstanding {
            // Decided by an earlier opening: its claims are in the map already.
            Some(outstanding) => reserve(pool, outstanding.need_blocks),
            None => decisions.push((cluster, decide(pool, cluster, item, incarnation)?)),
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

/// A replay's need; it was accepted before the crash, so it is promised whatever is left, and what
/// is asked for later has to wait. Whoever replays or drops the log gives it back, all of it.
fn reserve(pool: &Pool, blocks: u64) {
    if !pool.core.space.promise_anyway(Class::Node, blocks) {
        log::warn!("the space that a log's replay may need is not free");
    }
}

fn decide(
    pool: &Pool,
    cluster: ClusterId,
    item: LogItem,
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
    let (found, damaged) = what_counts(pool, &item, &request)?;
    if found.is_empty() && !damaged {
        return Ok(Decision::Drop(item));
    }
    let outstanding = Outstanding {
        lo: lo.clone(),
        incarnation,
        generation,
        half: item.half,
        records: found.records.len() as u64,
        damaged,
        need_blocks: found.need_blocks(),
    };
    reserve(pool, outstanding.need_blocks);
    Ok(Decision::Keep(LogItem { outstanding: Some(outstanding), ..item }))
}

/// The records that count, taken in. True: the log is damaged, and these are what comes before.
fn what_counts(
    pool: &Pool,
    item: &LogItem,
    request: &ScanRequest<'_>,
) -> Result<(Scan, bool), PoolError> {
    let taken_in = |found: Scan| match take_in(pool, item, &found) {
        Ok(()) => Ok(found),
        Err(refused) => Err(refused.error),
    };
    // A claim on blocks that are somebody else's is corruption of this log, and of it alone.
    let (what, addr) = match read_log(request).and_then(taken_in) {
        Err(PoolError::Corrupt { what, addr }) => (what, addr),
        found => return Ok((found?, false)),
    };
    log::error!("cluster {} cannot be opened: {what} (block {addr}) is corrupt", request.cluster);
    // One failed read does not end it for good.
    let (mut found, again) = (scan_prefix(request)?, scan_prefix(request)?);
    if again.records.len() > found.records.len() {
        found = again;
    }
    let sound = take_in(pool, item, &found).or_else(|refused| {
        found.records.truncate(refused.record);
        take_in(pool, item, &found)
    });
    sound.map_err(|refused| refused.error)?;
    log::warn!("{} records of its log come before that", found.records.len());
    Ok((found, true))
}

/// What a log holds. One of which a part cannot be read that says what counts is corrupt, as if that
/// part had rotted; it is given up for good, so it is asked for a second time before.
fn read_log(request: &ScanRequest<'_>) -> Result<Scan, PoolError> {
    let mut found = scan(request);
    if let Err(PoolError::Io(error)) = &found
        && error.is_failed_read()
    {
        log::warn!("the log of cluster {} is read once more: {error}", request.cluster);
        found = scan(request);
    }
    found.map_err(|error| match error {
        PoolError::Io(DeviceError::Io { op: Operation::Read, offset, source }) => {
            log::error!("the log of cluster {} cannot be read: {source}", request.cluster);
            let addr = BlockAddr(offset / BLOCK_SIZE_U64);
            PoolError::Corrupt { what: "intent log, or data that it claims,", addr }
        }
        other => other,
    })
}

/// A claim that cannot be taken.
struct Refused {
    /// Number of the record that makes it.
    record: usize,
    error: PoolError,
}

/// Books what the records claim to the head's current segment, and puts carried data in place; all
/// of it, or nothing where one claim contradicts the map or another one.
fn take_in(pool: &Pool, item: &LogItem, found: &Scan) -> Result<(), Refused> {
    let core = &pool.core;
    let claims = || {
        let numbered = found.records.iter().enumerate();
        numbered.flat_map(|(n, record)| record.outer.claims.iter().map(move |claim| (n, claim)))
    };
    let mut taken: Vec<Run> = Vec::new();
    for (record, claim) in claims() {
        if let Err(error) = core.space.take(Class::Data, claim.run) {
            taken.into_iter().for_each(|run| core.space.release(run));
            return Err(Refused { record, error: error.into() });
        }
        taken.push(claim.run);
    }
    let interval = core.gate.read();
    for (record, claim) in claims() {
        let (run, crcs) = (claim.run, claim.crcs.clone());
        // Not this log's fault any more, and half of it would stay: the pool is not opened.
        let error = PoolError::Invalid("a run that was free cannot be booked");
        let entry = SpaceEntry::Alloc { run, segment: item.segment, crcs };
        interval.book.push(entry).map_err(|_| Refused { record, error })?;
    }
    for image in found.records.iter().flat_map(|record| &record.outer.images) {
        core.data.put_image(image.run, &image.ciphertext);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::BLOCK_SIZE;
    use crate::base::{BlockAddr, Generation};
    use crate::block::Urgency;
    use crate::crypto::LogOuterKey;
    use crate::device::Device;
    use crate::device::sim::SimDevice;
    use crate::pool::log::ScannedRecord;
    use crate::pool::log::record::{Claim, Image, NO_PREVIOUS, Outer, RecordPlace};
    use crate::pool::test_head;

    fn opened() -> Arc<Pool> {
        let device: Arc<dyn Device> = SimDevice::new(256 << 20);
        test_head::create(&device).unwrap();
        let (pool, head) = test_head::open(&device).unwrap();
        head.write(1, 1, 4).unwrap();
        pool.checkpoint(CutPlan::default()).unwrap();
        pool
    }

    fn record(pool: &Pool, runs: &[Run]) -> ScannedRecord {
        let place = RecordPlace {
            pool: pool.core.pool_id,
            incarnation: 1,
            generation: Generation(3),
            cluster: ClusterId([1; 16]),
            sequence: 0,
            previous: NO_PREVIOUS,
        };
        let claims = |run: &Run| Claim { run: *run, crcs: vec![1; run.blocks as usize] };
        let image = |run: &Run| Image { run: *run, ciphertext: vec![0; run.bytes()] };
        let outer = Outer {
            claims: runs.iter().map(claims).collect(),
            images: runs.iter().map(image).collect(),
            ..Outer::default()
        };
        let lo = std::rc::Rc::new(Zeroizing::new(*LogOuterKey::random().bytes()));
        ScannedRecord { place, outer, inner: Vec::new(), commitment: [0; 32], lo }
    }

    #[test]
    fn a_rotten_claim_leaves_nothing_of_its_log_taken() {
        let pool = opened();
        let free = pool.core.space.allocate(Class::Data, 64, 64).unwrap();
        pool.core.space.release(free);
        let part = |from: u64, blocks| Run { addr: free.addr.plus(from), blocks };
        let taken = Run { addr: BlockAddr(free.addr.get() - 1), blocks: 1 };
        let item = LogItem {
            area: part(0, 2),
            half: 0,
            segment: test_head::SEGMENT,
            sealed_seed: Vec::new(),
            outstanding: None,
        };
        let before = (pool.space(), pool.core.gate.read().book.bytes());
        for rotten in [taken, part(9, 4)] {
            let records = vec![
                record(&pool, &[part(0, 4), part(8, 4)]),
                record(&pool, &[part(20, 2), rotten]),
            ];
            let refused = take_in(&pool, &item, &Scan { records }).err().unwrap();
            assert!(matches!(refused.error, PoolError::Corrupt { .. }), "{:?}", refused.error);
            assert_eq!(refused.record, 1);
            assert_eq!((pool.space(), pool.core.gate.read().book.bytes()), before);
            assert_eq!(pool.core.data.image_bytes(), 0);
        }
        let records = vec![record(&pool, &[part(0, 4), part(8, 4)])];
        assert!(take_in(&pool, &item, &Scan { records }).is_ok());
        assert_eq!(pool.space().used, before.0.used + 8);
        assert_eq!(pool.core.data.image_bytes(), 8 * BLOCK_SIZE);
    }

    #[test]
    fn a_need_beyond_what_is_free_is_promised_and_given_back_whole() {
        let pool = opened();
        let ask = || pool.core.space.reserve(Class::Node, 1000, Urgency::Delete);
        ask().unwrap();
        reserve(&pool, 1 << 30);
        assert!(ask().is_err(), "what a replay needs is given to nobody else");
        pool.core.space.unreserve(Class::Node, 1 << 30);
        pool.core.space.unreserve(Class::Node, 1000);
        assert!(!pool.core.space.may_gain(), "something is still promised");
        ask().unwrap();
    }
}
