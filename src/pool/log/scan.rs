//! Reading a log back after a crash: which records count, decided without any customer key.
//!
//! Rules 2, 3 and 6 of the engine: switches are followed; records above the highest flushed mark
//! count only while the blocks they claim hold what the record says; a bad record below a later
//! record's mark is corruption, not the end. What the device does not hand out shows nothing: behind
//! the end that is nobody's loss; before it, or at it, nobody can say what counts.

use std::rc::Rc;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::item::half_run;
use super::record::{Frame, MAGIC, NO_PREVIOUS, Outer, RecordPlace, Switch};
use crate::base::crc::crc32c;
use crate::base::ids::{ClusterId, PoolId};
use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64, BlockAddr, Generation};
use crate::block::Run;
use crate::crypto;
use crate::device::Device;
use crate::pool::PoolError;
use crate::sys::aligned::AlignedBuf;

/// Blocks read at once when looking for records beyond a gap.
const SEARCH_BLOCKS: u64 = 256;

/// Which log to read.
#[derive(Clone, Copy)]
pub struct ScanRequest<'a> {
    /// The device.
    pub device: &'a dyn Device,
    /// The pool.
    pub pool: PoolId,
    /// Its incarnation when the log was written.
    pub incarnation: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// The log's area.
    pub area: Run,
    /// The half in which the first interval's log begins.
    pub half: u8,
    /// The first interval.
    pub generation: Generation,
    /// The outer key of the first interval.
    pub lo: &'a [u8; 32],
    /// The number of records that recovery decided on, or `None` to decide it now.
    pub decided: Option<u64>,
}

/// One record that counts.
pub struct ScannedRecord {
    /// Where it stands in its log.
    pub place: RecordPlace,
    /// Its outer part.
    pub outer: Outer,
    /// Its inner part, still sealed.
    pub inner: Vec<u8>,
    /// Commitment of the outer part.
    pub commitment: [u8; 32],
    /// The outer key of its interval, from which the inner one is derived.
    pub lo: Rc<Zeroizing<[u8; 32]>>,
}

/// What a log holds.
#[derive(Default)]
pub struct Scan {
    /// The records that count, in order; switch records among them.
    pub records: Vec<ScannedRecord>,
}

impl Scan {
    /// Blocks that replaying all of it may need for tree nodes.
    #[must_use]
    pub fn need_blocks(&self) -> u64 {
        self.records.iter().fold(0, |sum, r| sum.saturating_add(r.outer.need_blocks))
    }
    /// Whether nothing is to be replayed: no record but switches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.iter().all(|r| r.outer.switch.is_some())
    }
}

/// The log of one interval, as far as it could be read.
struct IntervalLog {
    records: Vec<ScannedRecord>,
    switch: Option<Switch>,
    /// Highest flushed mark in it.
    mark: u64,
}

/// Reads a log from its first record to its end.
///
/// # Errors
/// [`PoolError::Corrupt`] where records that had been flushed are missing or where fewer than the
/// decided number are there; the device's, also where what says which records count cannot be read.
pub fn scan(request: &ScanRequest<'_>) -> Result<Scan, PoolError> {
    let intervals = read_intervals(request, Missing::IsDamage)?;
    if let Some(decided) = request.decided {
        return take_decided(request, intervals, decided);
    }
    take_flushed(request.device, intervals, Missing::IsDamage)
}

/// As [`scan`] for a log that is damaged: its records up to the first that is missing, or, of those
/// that recovery had counted, up to the last.
///
/// # Errors
/// [`PoolError::Corrupt`] where not even the first interval can be told from the second.
pub fn scan_prefix(request: &ScanRequest<'_>) -> Result<Scan, PoolError> {
    let intervals = read_intervals(request, Missing::IsTheEnd)?;
    let Some(decided) = request.decided else {
        return take_flushed(request.device, intervals, Missing::IsTheEnd);
    };
    let records = intervals.into_iter().flat_map(|i| i.records);
    let decided = usize::try_from(decided).unwrap_or(usize::MAX);
    Ok(Scan { records: records.take(decided).collect() })
}

/// What a record means that is not there, though a later one says that it was flushed, or of which
/// something cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsDamage,
    IsTheEnd,
}

fn read_intervals(
    request: &ScanRequest<'_>,
    missing: Missing,
) -> Result<Vec<IntervalLog>, PoolError> {
    let lo = Rc::new(Zeroizing::new(*request.lo));
    // What stands behind the records that an opening has counted is nobody's.
    let limit = request.decided.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let first = read_interval(request, request.generation, request.half, &lo, (missing, limit))?;
    let left = limit - first.records.len();
    let mut intervals = vec![first];
    if left == 0 {
        return Ok(intervals);
    }
    // A third interval begins only when the first one's checkpoint is durable (rule 1), so one
    // switch at most can be followed from a durable superblock.
    let switch = intervals.first().and_then(|i| i.switch.clone());
    if let Some(switch) = switch {
        if switch.generation <= request.generation || switch.half == request.half {
            return Err(corrupt("log switch, which leads nowhere,", request.area));
        }
        let lo = Rc::new(switch.lo.clone());
        let how = (missing, left);
        intervals.push(read_interval(request, switch.generation, switch.half, &lo, how)?);
    }
    Ok(intervals)
}

/// The records that had been flushed, and those behind them whose data are all there.
fn take_flushed(
    device: &dyn Device,
    intervals: Vec<IntervalLog>,
    missing: Missing,
) -> Result<Scan, PoolError> {
    let later_flushed = intervals.get(1).is_some_and(|i| i.mark > 0);
    let mut scan = Scan::default();
    'all: for (index, interval) in intervals.into_iter().enumerate() {
        let all_flushed = index == 0 && later_flushed;
        for record in interval.records {
            let sure = all_flushed || record.place.sequence < interval.mark;
            if !sure {
                match claims_match(device, &record.outer) {
                    Ok(true) => {}
                    Ok(false) => break 'all,
                    Err(_) if missing == Missing::IsTheEnd => break 'all,
                    Err(error) => return Err(error),
                }
            }
            scan.records.push(record);
        }
    }
    Ok(scan)
}

fn take_decided(
    request: &ScanRequest<'_>,
    intervals: Vec<IntervalLog>,
    decided: u64,
) -> Result<Scan, PoolError> {
    let mut records: Vec<_> = intervals.into_iter().flat_map(|i| i.records).collect();
    let wanted = usize::try_from(decided).unwrap_or(usize::MAX);
    if records.len() < wanted {
        return Err(corrupt("log records that recovery had counted are unreadable", request.area));
    }
    records.truncate(wanted);
    Ok(Scan { records })
}

fn corrupt(what: &'static str, area: Run) -> PoolError {
    PoolError::Corrupt { what, addr: area.addr }
}

fn read_interval(
    request: &ScanRequest<'_>,
    generation: Generation,
    half: u8,
    lo: &Rc<Zeroizing<[u8; 32]>>,
    how: (Missing, usize),
) -> Result<IntervalLog, PoolError> {
    let (log, gap) = read_chain(request, generation, half, lo, how)?;
    let looks = request.decided.is_none() && how.0 == Missing::IsDamage;
    let Some(gap) = gap.filter(|_| looks) else { return Ok(log) };
    if flushed_beyond(request, half, &gap, lo)? {
        return Err(PoolError::Corrupt {
            what: "record of the intent log that had been flushed",
            addr: half_run(request.area, half).addr.plus(gap.block),
        });
    }
    Ok(log)
}

/// Where a record is missing.
struct Gap {
    block: u64,
    place: RecordPlace,
}

/// The records of an interval up to its switch, to the first that is not there, or as many as are
/// asked for.
fn read_chain(
    request: &ScanRequest<'_>,
    generation: Generation,
    half: u8,
    lo: &Rc<Zeroizing<[u8; 32]>>,
    (missing, limit): (Missing, usize),
) -> Result<(IntervalLog, Option<Gap>), PoolError> {
    let run = half_run(request.area, half);
    let mut log = IntervalLog { records: Vec::new(), switch: None, mark: 0 };
    let mut block = 0u64;
    let mut place = RecordPlace {
        pool: request.pool,
        incarnation: request.incarnation,
        generation,
        cluster: request.cluster,
        sequence: 0,
        previous: NO_PREVIOUS,
    };
    while log.records.len() < limit {
        let record = match read_record(request.device, run, block, &place, lo) {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(_) if missing == Missing::IsTheEnd => break,
            Err(error) => return Err(error),
        };
        block += record.1;
        place.sequence += 1;
        place.previous = record.0.commitment;
        log.mark = log.mark.max(record.0.outer.flushed_mark);
        let switch = record.0.outer.switch.clone();
        log.records.push(record.0);
        if switch.is_some() {
            log.switch = switch;
            return Ok((log, None));
        }
    }
    Ok((log, Some(Gap { block, place })))
}

/// The record at `block` of `run`, and the blocks it takes; `None` where no valid one of that
/// place stands there.
fn read_record(
    device: &dyn Device,
    run: Run,
    block: u64,
    place: &RecordPlace,
    lo: &Rc<Zeroizing<[u8; 32]>>,
) -> Result<Option<(ScannedRecord, u64)>, PoolError> {
    if block >= u64::from(run.blocks) {
        return Ok(None);
    }
    let offset = run.addr.plus(block).offset_bytes();
    let mut head = AlignedBuf::new(BLOCK_SIZE);
    device.read(offset, &mut head)?;
    let Ok(frame) = Frame::decode(&head) else { return Ok(None) };
    let blocks = frame.padded_bytes() / BLOCK_SIZE_U64;
    if frame.sequence != place.sequence
        || frame.previous != place.previous
        || blocks > u64::from(run.blocks) - block
    {
        return Ok(None);
    }
    let bytes = read_whole(device, offset, &frame, head)?;
    let Some((outer, inner, commitment)) = open_outer(&bytes, &frame, place, lo) else {
        return Ok(None);
    };
    if Sha256::digest(inner)[..] != outer.inner_hash {
        return Ok(None);
    }
    let record = ScannedRecord {
        place: *place,
        outer,
        inner: inner.to_vec(),
        commitment,
        lo: Rc::clone(lo),
    };
    Ok(Some((record, blocks)))
}

fn read_whole(
    device: &dyn Device,
    offset: u64,
    frame: &Frame,
    head: AlignedBuf,
) -> Result<AlignedBuf, PoolError> {
    let len = usize::try_from(frame.padded_bytes()).unwrap_or(usize::MAX);
    if len <= BLOCK_SIZE {
        return Ok(head);
    }
    let mut whole = AlignedBuf::new(len);
    device.read(offset, &mut whole)?;
    Ok(whole)
}

fn open_outer<'a>(
    bytes: &'a [u8],
    frame: &Frame,
    place: &RecordPlace,
    lo: &[u8; 32],
) -> Option<(Outer, &'a [u8], [u8; 32])> {
    let body = bytes.get(super::record::FRAME_BYTES..)?;
    let (sealed, rest) = body.split_at_checked(frame.outer_len as usize)?;
    let inner = rest.get(..frame.inner_len as usize)?;
    let plain = crypto::open(lo, "log-outer", &place.outer_ad(), sealed).ok()?;
    let outer = Outer::decode(&plain).ok()?;
    Some((outer, inner, crypto::seal_id(sealed)?))
}

/// Whether a valid record further on says that the missing one had been flushed: by its mark, or as
/// a switch to a log with a mark, which is written after a flush of both. A block that cannot be read
/// holds no such record: one would have to be lost there, and the missing one elsewhere.
fn flushed_beyond(
    request: &ScanRequest<'_>,
    half: u8,
    gap: &Gap,
    lo: &Rc<Zeroizing<[u8; 32]>>,
) -> Result<bool, PoolError> {
    let (device, run) = (request.device, half_run(request.area, half));
    let mut at = gap.block + 1;
    while at < u64::from(run.blocks) {
        let count = SEARCH_BLOCKS.min(u64::from(run.blocks) - at);
        let chunk = read_around(device, run.addr.plus(at), count)?;
        for (i, head) in chunk.chunks_exact(BLOCK_SIZE).enumerate() {
            let begins = head.get(..8) == Some(&MAGIC[..]);
            if !begins {
                continue;
            }
            let Some(outer) = later_record(device, run, at + i as u64, head, &gap.place, lo)?
            else {
                continue;
            };
            if outer.flushed_mark > gap.place.sequence
                || switched_and_flushed(request, half, &gap.place, outer.switch.as_ref())?
            {
                return Ok(true);
            }
        }
        at += count;
    }
    Ok(false)
}

/// `count` blocks from `first` on; zeros in place of those that cannot be read.
fn read_around(device: &dyn Device, first: BlockAddr, count: u64) -> Result<AlignedBuf, PoolError> {
    let mut chunk = AlignedBuf::new(count as usize * BLOCK_SIZE);
    match device.read(first.offset_bytes(), &mut chunk) {
        Err(error) if error.is_failed_read() => {}
        read => {
            read?;
            return Ok(chunk);
        }
    }
    for (i, block) in (0..count).zip(chunk.chunks_exact_mut(BLOCK_SIZE)) {
        let addr = first.plus(i);
        match device.read(addr.offset_bytes(), block) {
            Err(error) if error.is_failed_read() => {
                log::warn!("block {addr}, behind the end of a log, is done without: {error}");
                block.fill(0);
            }
            read => read?,
        }
    }
    Ok(chunk)
}

/// Whether the log that a switch leads to has records that say what had been flushed.
fn switched_and_flushed(
    request: &ScanRequest<'_>,
    half: u8,
    missing: &RecordPlace,
    switch: Option<&Switch>,
) -> Result<bool, PoolError> {
    let leads_on = |s: &&Switch| s.generation > missing.generation && s.half != half;
    let Some(switch) = switch.filter(leads_on) else { return Ok(false) };
    let lo = Rc::new(switch.lo.clone());
    let how = (Missing::IsDamage, usize::MAX);
    let (log, _) = read_chain(request, switch.generation, switch.half, &lo, how)?;
    Ok(log.mark > 0)
}

/// The valid record that the block `head` at `at` begins, if it comes after the missing one.
fn later_record(
    device: &dyn Device,
    run: Run,
    at: u64,
    head: &[u8],
    missing: &RecordPlace,
    lo: &[u8; 32],
) -> Result<Option<Outer>, PoolError> {
    let Ok(frame) = Frame::decode(head) else { return Ok(None) };
    let fits = frame.padded_bytes() / BLOCK_SIZE_U64 <= u64::from(run.blocks) - at;
    if frame.sequence <= missing.sequence || !fits {
        return Ok(None);
    }
    let place = RecordPlace { sequence: frame.sequence, previous: frame.previous, ..*missing };
    let offset = run.addr.plus(at).offset_bytes();
    let bytes = match read_whole(device, offset, &frame, AlignedBuf::from_slice(head)) {
        Err(PoolError::Io(error)) if error.is_failed_read() => return Ok(None),
        read => read?,
    };
    Ok(open_outer(&bytes, &frame, &place, lo).map(|(outer, _, _)| outer))
}

/// Whether every block that the record claims, and does not carry, holds what it says.
fn claims_match(device: &dyn Device, outer: &Outer) -> Result<bool, PoolError> {
    for claim in &outer.claims {
        if outer.images.iter().any(|image| image.run == claim.run) {
            continue;
        }
        let mut blocks = AlignedBuf::new(claim.run.blocks as usize * BLOCK_SIZE);
        device.read(claim.run.addr.offset_bytes(), &mut blocks)?;
        let same = blocks.chunks_exact(BLOCK_SIZE).zip(&claim.crcs).all(|(b, c)| crc32c(b) == *c);
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}
