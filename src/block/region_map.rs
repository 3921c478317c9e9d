//! A region's map: which segment each block belongs to, and the CRC of its ciphertext
//! (docs/format.md, "Region map").
//!
//! ```text
//! magic "SRMP" | form u8 (0 runs, 1 dense) | zero u8 | zero u16 | region u32 | count u32
//! | through u64 | zeros up to 64
//! form 0: count runs of { start u16, blocks u16, segment u32 }, ascending, adjacent ones merged
//! form 1: a segment (u32, 0: free) for each block behind the slots; count is 16,320
//! then:   the CRC-32C (u32, 0: not checked) of each allocated block, ascending; zeros up to 4 KiB
//! ```

use crate::base::crc;
use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::limits::REGION_BLOCKS;
use crate::base::units::BLOCK_SIZE;
use crate::base::{Generation, SegmentId};
use crate::block::SpaceEntry;
use crate::block::geometry::{SLOT_BLOCKS, SLOTS_BLOCKS};

const MAGIC: [u8; 4] = *b"SRMP";
const HEADER_BYTES: usize = 64;
const FORM_RUNS: u8 = 0;
const FORM_DENSE: u8 = 1;
const BLOCKS: usize = REGION_BLOCKS as usize;
const FIRST: usize = SLOTS_BLOCKS as usize;
const BODY: usize = BLOCKS - FIRST;
const FREE: u32 = 0;

const _: () = assert!(HEADER_BYTES + 2 * 4 * BODY <= SLOT_BLOCKS as usize * BLOCK_SIZE);

/// An entry that contradicts the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The block within the region.
    pub block: u32,
}

/// A region's map in full.
#[derive(Clone, PartialEq, Eq)]
pub struct RegionMap {
    segments: Vec<u32>,
    crcs: Vec<u32>,
}

/// A stretch of blocks of one segment, within a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRun {
    /// First block within the region.
    pub start: u32,
    /// How many.
    pub blocks: u32,
    /// Whose they are.
    pub segment: SegmentId,
}

impl RegionMap {
    /// Of a region with nothing in it.
    #[must_use]
    pub fn empty() -> Self {
        Self { segments: vec![FREE; BLOCKS], crcs: vec![0; BLOCKS] }
    }

    /// The segment of each block of the region; 0 where it is free.
    #[must_use]
    pub fn segments(&self) -> &[u32] {
        &self.segments
    }

    /// The CRC of each block of the region; 0 where it is free or not checked.
    #[must_use]
    pub fn crcs(&self) -> &[u32] {
        &self.crcs
    }

    /// Blocks that belong to somebody.
    #[must_use]
    pub fn allocated(&self) -> u32 {
        self.segments.iter().filter(|s| **s != FREE).count() as u32
    }

    /// The stretches of allocated blocks, ascending.
    #[must_use]
    pub fn runs(&self) -> Vec<MapRun> {
        let mut runs: Vec<MapRun> = Vec::new();
        for (block, segment) in self.segments.iter().enumerate().filter(|(_, s)| **s != FREE) {
            let (start, segment) = (block as u32, SegmentId(*segment));
            match runs.last_mut() {
                Some(r) if r.segment == segment && r.start + r.blocks == start => r.blocks += 1,
                _ => runs.push(MapRun { start, blocks: 1, segment }),
            }
        }
        runs
    }

    /// Applies an entry whose run begins at `start` within the region.
    ///
    /// # Errors
    /// [`Mismatch`] where a block to allocate is not free, or one to free is not of that segment;
    /// the map is then in between and must be thrown away.
    pub fn apply(&mut self, start: u32, entry: &SpaceEntry) -> Result<(), Mismatch> {
        let (expected, new) = match entry {
            SpaceEntry::Alloc { segment, .. } => (FREE, segment.get()),
            SpaceEntry::Free { segment, .. } => (segment.get(), FREE),
        };
        for i in 0..entry.run().blocks {
            let mismatch = Mismatch { block: start + i };
            let at = (start + i) as usize;
            let slot = self.segments.get_mut(at).ok_or(mismatch)?;
            if *slot != expected || entry.segment().get() == FREE || at < FIRST {
                return Err(mismatch);
            }
            *slot = new;
            let crc = match entry {
                SpaceEntry::Alloc { crcs, .. } => crcs.get(i as usize).copied().unwrap_or(0),
                SpaceEntry::Free { .. } => 0,
            };
            *self.crcs.get_mut(at).ok_or(mismatch)? = crc;
        }
        Ok(())
    }

    /// The map's bytes, a multiple of 4 KiB and at most one slot; canonical.
    #[must_use]
    pub fn encode(&self, region: u32, through: Generation) -> Vec<u8> {
        let runs = self.runs();
        let dense = runs.len() * 8 >= BODY * 4;
        let mut w = Writer::new();
        w.bytes(&MAGIC).u8(if dense { FORM_DENSE } else { FORM_RUNS }).u8(0).u16(0).u32(region);
        w.u32(if dense { BODY } else { runs.len() } as u32).u64(through.get());
        w.pad_to(HEADER_BYTES);
        if dense {
            for segment in &self.segments[FIRST..] {
                w.u32(*segment);
            }
        } else {
            for run in &runs {
                w.u16(run.start as u16).u16(run.blocks as u16).u32(run.segment.get());
            }
        }
        for (crc, segment) in self.crcs.iter().zip(&self.segments) {
            if *segment != FREE {
                w.u32(*crc);
            }
        }
        let len = w.len().next_multiple_of(BLOCK_SIZE);
        w.pad_to(len);
        w.into_bytes()
    }

    /// The map that `bytes` hold, which must be that of `region` as of `through`.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but what [`RegionMap::encode`] writes.
    pub fn decode(bytes: &[u8], region: u32, through: Generation) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.array::<4>()? != MAGIC {
            return Err(DecodeError::Field("map magic"));
        }
        let form = r.u8()?;
        if r.array::<3>()? != [0; 3] {
            return Err(DecodeError::Reserved);
        }
        if r.u32()? != region {
            return Err(DecodeError::Field("map region"));
        }
        let count = r.u32()? as usize;
        if r.generation()? != through {
            return Err(DecodeError::Field("map generation"));
        }
        if r.bytes(HEADER_BYTES - 24)?.iter().any(|b| *b != 0) {
            return Err(DecodeError::Reserved);
        }
        let mut map = Self::empty();
        match form {
            FORM_RUNS if count * 8 < BODY * 4 => map.read_runs(&mut r, count)?,
            FORM_DENSE if count == BODY => {
                for slot in &mut map.segments[FIRST..] {
                    *slot = r.u32()?;
                }
                if map.runs().len() * 8 < BODY * 4 {
                    return Err(DecodeError::Field("map form"));
                }
            }
            _ => return Err(DecodeError::Field("map form")),
        }
        for (crc, segment) in map.crcs.iter_mut().zip(&map.segments) {
            if *segment != FREE {
                *crc = r.u32()?;
            }
        }
        if r.remaining() >= BLOCK_SIZE {
            return Err(DecodeError::Trailing);
        }
        r.finish_zero()?;
        Ok(map)
    }

    fn read_runs(&mut self, r: &mut Reader<'_>, count: usize) -> Result<(), DecodeError> {
        let (mut end, mut last) = (FIRST, FREE);
        for _ in 0..count {
            let (start, blocks) = (usize::from(r.u16()?), usize::from(r.u16()?));
            let segment = r.u32()?;
            let merged = start > end || segment != last;
            if start < end || blocks == 0 || segment == FREE || !merged {
                return Err(DecodeError::Field("map run"));
            }
            let run = self.segments.get_mut(start..start + blocks);
            run.ok_or(DecodeError::Field("map run"))?.fill(segment);
            (end, last) = (start + blocks, segment);
        }
        Ok(())
    }

    /// The blocks whose CRC differs from that of their ciphertext; `bytes` are those of `blocks`
    /// blocks that begin at `start` within the region.
    #[must_use]
    pub fn rotten(&self, start: u32, bytes: &[u8]) -> Vec<u32> {
        let blocks = bytes.chunks_exact(BLOCK_SIZE).zip(start..);
        let differs = |(bytes, block): &(&[u8], u32)| {
            let stated = self.crcs.get(*block as usize).copied().unwrap_or(0);
            stated != 0 && stated != crc::crc32c(bytes)
        };
        blocks.filter(differs).map(|(_, block)| block).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockAddr;
    use crate::block::Run;
    use proptest::prelude::*;

    const THROUGH: Generation = Generation(7);

    fn alloc(start: u32, blocks: u32, segment: u32) -> (u32, SpaceEntry) {
        let run = Run { addr: BlockAddr(u64::from(start)), blocks };
        let crcs = (0..blocks).map(|i| start * 3 + i).collect();
        (start, SpaceEntry::Alloc { run, segment: SegmentId(segment), crcs })
    }

    fn free(start: u32, blocks: u32, segment: u32) -> (u32, SpaceEntry) {
        let run = Run { addr: BlockAddr(u64::from(start)), blocks };
        (start, SpaceEntry::Free { run, segment: SegmentId(segment) })
    }

    #[test]
    fn entries_that_contradict_the_map_are_refused() {
        let mut map = RegionMap::empty();
        let (at, entry) = alloc(100, 4, 9);
        map.apply(at, &entry).unwrap();
        for (at, entry) in [
            alloc(103, 1, 9),
            free(100, 4, 8),
            free(103, 2, 9),
            alloc(63, 1, 9),
            alloc(16_383, 2, 9),
            alloc(200, 1, 0),
        ] {
            assert!(map.clone().apply(at, &entry).is_err(), "{entry:?}");
        }
        let (at, entry) = free(101, 2, 9);
        map.apply(at, &entry).unwrap();
        assert_eq!(map.allocated(), 2);
        assert_eq!(map.runs().len(), 2);
    }

    #[test]
    fn a_full_map_of_changing_segments_fits_a_slot_in_dense_form() {
        let mut map = RegionMap::empty();
        for block in 64..16_384 {
            let (at, entry) = alloc(block, 1, 2 + block % 2);
            map.apply(at, &entry).unwrap();
        }
        let bytes = map.encode(3, THROUGH);
        assert_eq!(bytes.len(), SLOT_BLOCKS as usize * BLOCK_SIZE);
        assert!(RegionMap::decode(&bytes, 3, THROUGH).unwrap() == map);
    }

    proptest! {
        #[test]
        fn comes_back_and_is_canonical(runs in proptest::collection::vec((64u32..16_000, 1u32..40, 1u32..5), 0..200)) {
            let mut map = RegionMap::empty();
            for (start, blocks, segment) in runs {
                let mut next = map.clone();
                let (at, entry) = alloc(start, blocks, segment);
                if next.apply(at, &entry).is_ok() {
                    map = next;
                }
            }
            let bytes = map.encode(5, THROUGH);
            prop_assert!(RegionMap::decode(&bytes, 5, THROUGH).unwrap() == map);
            prop_assert!(RegionMap::decode(&bytes, 6, THROUGH).is_err());
            prop_assert!(RegionMap::decode(&bytes, 5, Generation(8)).is_err());
            let mut slack = bytes.clone();
            *slack.last_mut().unwrap() ^= 1;
            if map.runs().len() * 8 + map.allocated() as usize * 4 + HEADER_BYTES < bytes.len() {
                prop_assert!(RegionMap::decode(&slack, 5, THROUGH).is_err());
            }
            for cut in [0, 11, 63, bytes.len() - BLOCK_SIZE] {
                prop_assert!(RegionMap::decode(&bytes[..cut], 5, THROUGH).is_err() || cut > 63);
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), form in 0u8..3, count in any::<u32>()) {
            let mut head = Writer::new();
            head.bytes(&MAGIC).u8(form).u8(0).u16(0).u32(5).u32(count).u64(7).pad_to(HEADER_BYTES);
            let mut all = head.into_bytes();
            all.extend_from_slice(&bytes);
            let _ = RegionMap::decode(&all, 5, THROUGH);
            let _ = RegionMap::decode(&bytes, 5, THROUGH);
        }
    }
}
