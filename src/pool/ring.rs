//! The space ring: space entries of the latest checkpoints, until they are folded into their
//! regions' maps (engine.md, rule 10; docs/format.md, "Space ring").
//!
//! ```text
//! record   magic "SRRG" | sealed length u32 | zero u64 | sealed | zeros up to 4 KiB
//! sealed   seal(RG, "ring", AD = pool id | ring position u64 | seal id of the record before (32))
//! plain    generation u64 | groups: kind u8
//!            1 entries:  count u32, then each entry
//!            2 carried:  region u32, through u64, count u32, then each entry preceded by its
//!                        generation u64
//! entry    flags u8 (1: free; 2: node class; 4: with CRCs) | zero u8 | blocks u16 | segment u32
//!          | address u64 | with CRCs: one u32 for each block
//! ```
//! Each record names the one before it, and the superblock names the last: a record that an
//! abandoned checkpoint left behind fits nowhere.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::units::{BLOCK_SIZE, BLOCK_SIZE_U64};
use crate::base::{BlockAddr, Generation, PoolId};
use crate::block::geometry::{Geometry, RING_START};
use crate::block::{Booked, Class, Run, Space, SpaceEntry};
use crate::crypto;
use crate::device::Device;
use crate::pool::PoolError;
use crate::pool::inspect::RingRecord;
use crate::pool::superblock::RingState;
use crate::sys::AlignedBuf;

const MAGIC: [u8; 4] = *b"SRRG";
const FRAME_BYTES: usize = 16;
/// Plaintext of one record.
const RECORD_BYTES_MAX: usize = 256 * 1024;
const FREE: u8 = 1;
const NODE: u8 = 2;
const WITH_CRCS: u8 = 4;
const GROUP_ENTRIES: u8 = 1;
const GROUP_CARRIED: u8 = 2;

/// Bytes at the ring's front that are searched for a sign of a ring: a few records' worth.
const SIGNS_BYTES: u64 = 1 << 20;

/// Whether space ring records stand where a pool keeps them: the device holds a pool, or did.
pub(in crate::pool) fn has_records(device: &dyn Device) -> Result<bool, PoolError> {
    let start = RING_START * BLOCK_SIZE_U64;
    let end = device.size_bytes().min(start + SIGNS_BYTES) / BLOCK_SIZE_U64 * BLOCK_SIZE_U64;
    let mut block = AlignedBuf::new(BLOCK_SIZE);
    for offset in (start..end).step_by(BLOCK_SIZE) {
        device.read(offset, &mut block)?;
        let mut r = Reader::new(&block);
        let sealed = (r.array() == Ok(MAGIC)).then(|| r.u32().ok().filter(|_| r.u64() == Ok(0)));
        if sealed.flatten().is_some_and(|len| (1..=RECORD_BYTES_MAX as u32 * 2).contains(&len)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a record stands.
#[derive(Clone, Copy, Debug)]
struct Record {
    generation: Generation,
    position: u64,
    /// Seal id of the record before it.
    before: [u8; 32],
}

/// The space ring.
pub(in crate::pool) struct Ring {
    pool_id: PoolId,
    blocks: u64,
    /// As the durable superblock states it.
    pub state: RingState,
    records: VecDeque<Record>,
}

/// What a checkpoint appended, to be put into its superblock; it counts once that is durable.
pub(in crate::pool) struct Appended {
    pub state: RingState,
    records: Vec<Record>,
}

/// Entries of frozen regions, carried into the next record.
pub(in crate::pool) type Carried = BTreeMap<u32, Vec<Arc<Booked>>>;

fn encode_entry(w: &mut Writer, booked: &Booked) {
    let (mut flags, crcs): (u8, &[u32]) = match &booked.entry {
        SpaceEntry::Alloc { crcs, .. } if crcs.is_empty() => (0, &[]),
        SpaceEntry::Alloc { crcs, .. } => (WITH_CRCS, crcs),
        SpaceEntry::Free { .. } => (FREE, &[]),
    };
    if booked.class == Class::Node {
        flags |= NODE;
    }
    let run = booked.entry.run();
    debug_assert!(crcs.is_empty() || crcs.len() == run.blocks as usize);
    w.u8(flags).u8(0).u16(run.blocks as u16).u32(booked.entry.segment().get());
    w.u64(run.addr.get());
    for crc in crcs {
        w.u32(*crc);
    }
}

fn decode_entry(r: &mut Reader<'_>, generation: Generation) -> Result<Booked, DecodeError> {
    let flags = r.u8()?;
    if r.u8()? != 0 || flags & !(FREE | NODE | WITH_CRCS) != 0 || flags & 5 == 5 {
        return Err(DecodeError::Field("ring entry flags"));
    }
    let blocks = u32::from(r.u16()?);
    let segment = r.segment()?;
    let run = Run { addr: r.addr()?, blocks };
    if blocks == 0 || segment.get() == 0 {
        return Err(DecodeError::Field("ring entry"));
    }
    let class = if flags & NODE != 0 { Class::Node } else { Class::Data };
    let entry = if flags & FREE != 0 {
        SpaceEntry::Free { run, segment }
    } else {
        let count = if flags & WITH_CRCS != 0 { blocks } else { 0 };
        let crcs = (0..count).map(|_| r.u32()).collect::<Result<_, _>>()?;
        SpaceEntry::Alloc { run, segment, crcs }
    };
    Ok(Booked { generation, class, entry })
}

/// Cuts a checkpoint's entries into records of bounded size.
fn plain_records(
    generation: Generation,
    entries: &[Arc<Booked>],
    carried: &Carried,
    through: Generation,
) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let begin = || {
        let mut w = Writer::new();
        w.u64(generation.get());
        w
    };
    let mut rest = entries;
    while !rest.is_empty() {
        let mut body = Writer::new();
        let mut count = 0;
        while let Some(entry) = rest.get(count).filter(|_| body.len() < RECORD_BYTES_MAX) {
            encode_entry(&mut body, entry);
            count += 1;
        }
        let mut w = begin();
        w.u8(GROUP_ENTRIES).u32(count as u32).bytes(&body.into_bytes());
        records.push(w.into_bytes());
        rest = rest.get(count..).unwrap_or_default();
    }
    for (region, entries) in carried {
        let mut w = begin();
        w.u8(GROUP_CARRIED).u32(*region).u64(through.get()).u32(entries.len() as u32);
        for booked in entries {
            w.u64(booked.generation.get());
            encode_entry(&mut w, booked);
        }
        records.push(w.into_bytes());
    }
    records
}

/// Checkpoint, carried region and number of entries of a record's plaintext.
fn outline(plain: &[u8]) -> Result<(Generation, Option<u32>, u32), DecodeError> {
    let mut r = Reader::new(plain);
    let generation = r.generation()?;
    match r.u8()? {
        GROUP_ENTRIES => Ok((generation, None, r.u32()?)),
        GROUP_CARRIED => {
            let (region, _through) = (r.u32()?, r.generation()?);
            Ok((generation, Some(region), r.u32()?))
        }
        _ => Err(DecodeError::Field("ring group")),
    }
}

impl Ring {
    /// The ring of a new pool.
    pub fn new(pool_id: PoolId, geometry: &Geometry, state: RingState) -> Self {
        let blocks = u64::from(geometry.ring_blocks);
        Self { pool_id, blocks, state, records: VecDeque::new() }
    }

    /// Blocks between tail and head.
    pub fn used_blocks(&self) -> u64 {
        self.state.head - self.state.tail
    }

    /// Entries in bytes at which the open interval should end: a third of what is left.
    pub fn limit_bytes(&self) -> usize {
        ((self.blocks - self.used_blocks()) * BLOCK_SIZE_U64 / 3) as usize
    }

    /// Up to which checkpoint the records must go so that at most a quarter of the ring is in use.
    pub fn overdue(&self) -> Option<Generation> {
        let keep_from = self.state.head.saturating_sub(self.blocks / 4);
        let overdue = self.records.iter().take_while(|r| r.position < keep_from);
        overdue.last().map(|r| r.generation)
    }

    fn ad(&self, position: u64, before: &[u8; 32]) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(self.pool_id.as_bytes()).u64(position).bytes(before);
        w.into_bytes()
    }

    fn offset(&self, position: u64) -> u64 {
        (RING_START + position % self.blocks) * BLOCK_SIZE_U64
    }

    /// Calls `io` for the one or two pieces of the device that `len` bytes at `position` are.
    fn pieces(
        &self,
        position: u64,
        len: usize,
        mut io: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), PoolError>,
    ) -> Result<(), PoolError> {
        let until_end = ((self.blocks - position % self.blocks) * BLOCK_SIZE_U64) as usize;
        let first = len.min(until_end);
        io(self.offset(position), 0..first)?;
        if first < len { io(RING_START * BLOCK_SIZE_U64, first..len) } else { Ok(()) }
    }

    /// Appends a checkpoint's entries behind the durable head; the caller flushes. `oldest` is the
    /// oldest checkpoint whose record is needed once this one is durable.
    pub fn append(
        &self,
        device: &dyn Device,
        generation: Generation,
        entries: &[Arc<Booked>],
        carried: &Carried,
        oldest: Option<Generation>,
    ) -> Result<Appended, PoolError> {
        let through = Generation(generation.get().saturating_sub(1));
        let mut state = self.state.clone();
        let mut records = Vec::new();
        for plain in plain_records(generation, entries, carried, through) {
            let (position, before) = (state.head, state.last);
            let sealed =
                crypto::seal(state.key.bytes(), "ring", &self.ad(position, &before), &plain);
            let mut w = Writer::new();
            w.bytes(&MAGIC).u32(sealed.len() as u32).u64(0).bytes(&sealed);
            let len = w.len().next_multiple_of(BLOCK_SIZE);
            w.pad_to(len);
            state.head += (len / BLOCK_SIZE) as u64;
            state.last = crypto::seal_id(&sealed).unwrap_or_default();
            // Everything from the *durable* tail on must stay until this checkpoint is durable.
            if state.head - self.state.tail > self.blocks {
                return Err(PoolError::Full);
            }
            let buf = AlignedBuf::from_slice(&w.into_bytes());
            self.pieces(position, len, |offset, range| {
                Ok(device.write(offset, buf.get(range).unwrap_or_default())?)
            })?;
            records.push(Record { generation, position, before });
        }
        // A record of this checkpoint is needed as long as it has any entry.
        let oldest = oldest.unwrap_or(generation).min(generation);
        let needed = self.records.iter().chain(&records).find(|r| r.generation >= oldest);
        (state.tail, state.before_tail) = match needed {
            Some(record) => (record.position, record.before),
            None => (state.head, state.last),
        };
        Ok(Appended { state, records })
    }

    /// The superblock that states `appended` is durable.
    pub fn commit(&mut self, appended: Appended) {
        self.state = appended.state;
        self.records.extend(appended.records);
        let tail = self.state.tail;
        self.records.retain(|r| r.position >= tail);
    }

    /// Reads the ring from tail to head into `space`, oldest first.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`] where a record is not what the superblock says.
    pub fn replay(&mut self, device: &dyn Device, space: &Space) -> Result<(), PoolError> {
        let (mut position, mut before) = (self.state.tail, self.state.before_tail);
        if self.used_blocks() > self.blocks {
            return Err(self.corrupt(position));
        }
        while position < self.state.head {
            let found = self.read(device, position, &before)?;
            let (plain, blocks, id) = found.ok_or_else(|| self.corrupt(position))?;
            let generation = self
                .apply(&plain, space)
                .map_err(|error| error.unwrap_or_else(|| self.corrupt(position)))?;
            self.records.push_back(Record { generation, position, before });
            position += blocks;
            before = id;
        }
        if (position, before) == (self.state.head, self.state.last) {
            Ok(())
        } else {
            Err(self.corrupt(position))
        }
    }

    /// The records from tail to head as the device has them, applied nowhere.
    ///
    /// # Errors
    /// [`PoolError::Corrupt`] where one is not what the superblock says; the device's.
    pub fn records_on(&self, device: &dyn Device) -> Result<Vec<RingRecord>, PoolError> {
        let (mut position, mut before) = (self.state.tail, self.state.before_tail);
        let mut records = Vec::new();
        while position < self.state.head {
            let found = self.read(device, position, &before)?;
            let (plain, blocks, id) = found.ok_or_else(|| self.corrupt(position))?;
            let outline = outline(&plain).map_err(|_| self.corrupt(position))?;
            let (generation, carried_region, entries) = outline;
            records.push(RingRecord { position, blocks, generation, carried_region, entries });
            position += blocks;
            before = id;
        }
        if (position, before) == (self.state.head, self.state.last) {
            Ok(records)
        } else {
            Err(self.corrupt(position))
        }
    }

    /// Whether records of two checkpoints or more follow the head: then a superblock between them
    /// was durable, and is lost.
    pub fn shows_later_state(&self, device: &dyn Device) -> Result<Option<Generation>, PoolError> {
        let (mut position, mut before) = (self.state.head, self.state.last);
        let mut seen: Option<Generation> = None;
        while position - self.state.tail < self.blocks {
            let Some((plain, blocks, id)) = self.read(device, position, &before)? else {
                return Ok(None);
            };
            let Ok(generation) = Reader::new(&plain).generation() else {
                return Ok(None);
            };
            match seen {
                Some(first) if first != generation => return Ok(Some(first)),
                _ => seen = Some(generation),
            }
            position += blocks;
            before = id;
        }
        Ok(None)
    }

    fn corrupt(&self, position: u64) -> PoolError {
        let addr = BlockAddr(RING_START + position % self.blocks);
        PoolError::Corrupt { what: "space ring", addr }
    }

    /// The record at `position` that follows `before`: plaintext, blocks, seal id.
    #[expect(clippy::type_complexity)]
    fn read(
        &self,
        device: &dyn Device,
        position: u64,
        before: &[u8; 32],
    ) -> Result<Option<(zeroize::Zeroizing<Vec<u8>>, u64, [u8; 32])>, PoolError> {
        let mut head = AlignedBuf::new(BLOCK_SIZE);
        device.read(self.offset(position), &mut head)?;
        let mut r = Reader::new(&head);
        if r.array() != Ok(MAGIC) {
            return Ok(None);
        }
        let (Ok(sealed_len), Ok(0)) = (r.u32(), r.u64()) else {
            return Ok(None);
        };
        let len = (FRAME_BYTES + sealed_len as usize).next_multiple_of(BLOCK_SIZE);
        if len as u64 > self.blocks * BLOCK_SIZE_U64 {
            return Ok(None);
        }
        let mut buf = AlignedBuf::new(len);
        self.pieces(position, len, |offset, range| match buf.get_mut(range) {
            Some(piece) => Ok(device.read(offset, piece)?),
            None => Ok(()),
        })?;
        let sealed = buf.get(FRAME_BYTES..FRAME_BYTES + sealed_len as usize).unwrap_or_default();
        let ad = self.ad(position, before);
        let opened = crypto::open(self.state.key.bytes(), "ring", &ad, sealed).ok();
        let id = crypto::seal_id(sealed);
        Ok(opened.zip(id).map(|(plain, id)| (plain, (len / BLOCK_SIZE) as u64, id)))
    }

    /// `Err(None)`: the record cannot be decoded.
    fn apply(&self, plain: &[u8], space: &Space) -> Result<Generation, Option<PoolError>> {
        let undecodable = |_: DecodeError| None;
        let fails = |error| Some(PoolError::from(error));
        let mut r = Reader::new(plain);
        let generation = r.generation().map_err(undecodable)?;
        match r.u8().map_err(undecodable)? {
            GROUP_ENTRIES => {
                for _ in 0..r.u32().map_err(undecodable)? {
                    let booked = decode_entry(&mut r, generation).map_err(undecodable)?;
                    space.replay(generation, Arc::new(booked)).map_err(fails)?;
                }
            }
            GROUP_CARRIED => {
                let region = r.u32().map_err(undecodable)?;
                space.replay_carried(region, r.generation().map_err(undecodable)?);
                for _ in 0..r.u32().map_err(undecodable)? {
                    let born = r.generation().map_err(undecodable)?;
                    let booked = decode_entry(&mut r, born).map_err(undecodable)?;
                    space.replay(generation, Arc::new(booked)).map_err(fails)?;
                }
            }
            _ => return Err(None),
        }
        r.finish().map_err(undecodable)?;
        Ok(generation)
    }
}
