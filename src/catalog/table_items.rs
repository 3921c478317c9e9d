//! The table's items: one for each segment and line, one for the counters. Branches, the order of
//! segments in their line, and holders are derived when the table is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::{ClusterId, LineId, SegmentId};
use crate::catalog::error::CatalogError;
use crate::catalog::keys::{self, Key};
use crate::catalog::segments::{Counters, Line, Segment, Table};
use crate::catalog::storage::{Items, Storage};

const CLOSED: u8 = 1;
const HELD: u8 = 2;
const DEAD: u8 = 4;
const RELEASED: u8 = 8;
const UNCOUNTED: u8 = 16;
const SEGMENT_FLAGS: u8 = CLOSED | HELD | DEAD | RELEASED | UNCOUNTED;
const HEAD: u8 = 1;

/// A segment's item: flags u8, line u32, opened u64, closed u64 (0 where open), allocated u64.
fn encode_segment(segment: &Segment) -> Vec<u8> {
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let mut w = Writer::new();
    w.u8(flag(segment.closed.is_some(), CLOSED)
        | flag(segment.held, HELD)
        | flag(segment.dead, DEAD)
        | flag(segment.released, RELEASED)
        | flag(segment.uncounted, UNCOUNTED));
    w.u32(segment.line.0).u64(segment.opened.0);
    w.u64(segment.closed.map_or(0, |g| g.0)).u64(segment.allocated_blocks);
    w.into_bytes()
}

/// Decodes a segment's item; its branches are not part of it.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_segment(value: &[u8]) -> Result<Segment, DecodeError> {
    let mut r = Reader::new(value);
    let flags = r.u8()?;
    let segment = Segment {
        line: LineId(r.u32()?),
        opened: r.generation()?,
        closed: Some(r.generation()?).filter(|_| flags & CLOSED != 0),
        allocated_blocks: r.u64()?,
        held: flags & HELD != 0,
        dead: flags & DEAD != 0,
        released: flags & RELEASED != 0,
        uncounted: flags & UNCOUNTED != 0,
        branches: Vec::new(),
    };
    r.finish()?;
    if flags & !SEGMENT_FLAGS != 0 {
        return Err(DecodeError::Field("segment flags"));
    }
    if encode_segment(&segment) != value {
        return Err(DecodeError::Reserved);
    }
    Ok(segment)
}

/// A line's item: flags u8, cluster 16 bytes, origin u32 (0: none).
fn encode_line(line: &Line) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(if line.head { HEAD } else { 0 }).bytes(line.cluster.as_bytes());
    w.u32(line.origin.map_or(0, |s| s.0));
    w.into_bytes()
}

/// Decodes a line's item; its segments and holders are not part of it.
///
/// # Errors
/// [`DecodeError`]
pub fn decode_line(value: &[u8]) -> Result<Line, DecodeError> {
    let mut r = Reader::new(value);
    let flags = r.u8()?;
    if flags & !HEAD != 0 {
        return Err(DecodeError::Field("line flags"));
    }
    let line = Line {
        cluster: ClusterId(r.array()?),
        origin: Some(r.segment()?).filter(|id| id.0 != 0),
        head: flags & HEAD != 0,
        segments: Vec::new(),
        holders: BTreeSet::new(),
    };
    r.finish()?;
    Ok(line)
}

/// The room's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Next segment and line.
    pub counters: Counters,
    /// Next version of a cluster key; never used twice in a pool.
    pub next_ck_id: u32,
}

impl Meta {
    /// The item: version u16 (1), next segment u32, next line u32, next cluster key version u32.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u16(1).u32(self.counters.segment.0).u32(self.counters.line.0).u32(self.next_ck_id);
        w.into_bytes()
    }
    /// Decodes the item.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(value);
        if r.u16()? != 1 {
            return Err(DecodeError::Field("catalog version"));
        }
        let counters = Counters { segment: r.segment()?, line: LineId(r.u32()?) };
        let meta = Self { counters, next_ck_id: r.u32()? };
        r.finish()?;
        Ok(meta)
    }
}

/// Writes what changed in the table since the last commit. The caller commits.
///
/// # Errors
/// The storage's.
pub(in crate::catalog) fn save(
    table: &Table,
    storage: &mut impl Storage,
) -> Result<(), CatalogError> {
    let changes = table.changes();
    for id in changes.segments {
        match table.segment(id) {
            Ok(segment) => storage.put(keys::segment(id), &encode_segment(segment))?,
            Err(_) => storage.remove(keys::segment(id))?,
        }
    }
    for id in changes.lines {
        match table.line(id) {
            Ok(line) => storage.put(keys::line(id), &encode_line(line))?,
            Err(_) => storage.remove(keys::line(id))?,
        }
    }
    Ok(())
}

/// Reads the table.
///
/// # Errors
/// [`CatalogError::Item`], [`CatalogError::Table`]; the storage's errors.
pub(in crate::catalog) fn load(
    items: &impl Items,
    counters: Counters,
) -> Result<Table, CatalogError> {
    let segments = read_all(items, "segment", keys::segments(), decode_segment)?;
    let lines = read_all(items, "line", keys::lines(), decode_line)?;
    let segments = segments.into_iter().map(|(n, s)| (SegmentId(n), s)).collect();
    let lines = lines.into_iter().map(|(n, l)| (LineId(n), l)).collect();
    Ok(Table::load(counters, segments, lines)?)
}

fn read_all<T>(
    items: &impl Items,
    what: &'static str,
    (from, to): (Key, Key),
    decode: fn(&[u8]) -> Result<T, DecodeError>,
) -> Result<BTreeMap<u32, T>, CatalogError> {
    let mut found = BTreeMap::new();
    let mut bad = None;
    items.range(from, to, &mut |key, value| {
        let id = u32::try_from(key.offset).map_err(|_| DecodeError::Field("item number"));
        match id.and_then(|id| Ok((id, decode(value)?))) {
            Ok((id, item)) => {
                found.insert(id, item);
                ControlFlow::Continue(())
            }
            Err(error) => {
                bad = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    match bad {
        Some(error) => Err(CatalogError::item(what)(error)),
        None => Ok(found),
    }
}
