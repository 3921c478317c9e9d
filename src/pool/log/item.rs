//! What the catalog keeps of a cluster's log: where it lies, where it begins, what is left to do.

use zeroize::Zeroizing;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::units::{Generation, SegmentId};
use crate::block::Run;

/// Bytes of a sealed log seed: 32 and what sealing adds.
const SEED_BYTES_MAX: usize = 256;

/// A log that a crash left behind and that awaits the cluster's key.
#[derive(Clone)]
pub struct Outstanding {
    /// The outer key of the first interval in it: a frozen copy, dropped after the replay.
    pub lo: Zeroizing<[u8; 32]>,
    /// Incarnation of the pool that wrote it.
    pub incarnation: u64,
    /// The interval whose log comes first.
    pub generation: Generation,
    /// The half in which that log begins, 0 or 1.
    pub half: u8,
    /// Records in it, over all intervals, as recovery decided once.
    pub records: u64,
    /// More had been acknowledged than these, and is damaged: they are replayed once somebody
    /// accepts that.
    pub damaged: bool,
    /// Blocks that its replay may need for tree nodes.
    pub need_blocks: u64,
}

/// The LOG item of a cluster that is mounted, or was when the pool was last served.
#[derive(Clone)]
pub struct LogItem {
    /// The area: two halves of equal size.
    pub area: Run,
    /// The half in which the log of the interval after this checkpoint begins, 0 or 1.
    pub half: u8,
    /// The segment to which recovery books what the log claims.
    pub segment: SegmentId,
    /// `seal(CK, "log", ..., CL)`: the seed of the inner keys of this mount.
    pub sealed_seed: Vec<u8>,
    /// What a crash left to replay. While there is something, the area takes no new record.
    pub outstanding: Option<Outstanding>,
}

impl LogItem {
    /// Whether an opening found it damaged, and nobody has accepted that.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.outstanding.as_ref().is_some_and(|o| o.damaged)
    }

    /// The item's bytes.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new();
        w.u64(self.area.addr.get()).u32(self.area.blocks).u8(self.half);
        let state = match &self.outstanding {
            None => 0,
            Some(outstanding) => 1 + u8::from(outstanding.damaged),
        };
        w.u8(state).u16(0);
        w.u32(self.segment.get());
        w.sized(&self.sealed_seed);
        if let Some(o) = &self.outstanding {
            w.bytes(&o.lo[..]).u64(o.incarnation).u64(o.generation.get()).u8(o.half);
            w.u64(o.records).u64(o.need_blocks);
        }
        w.into_secret()
    }

    /// The item that `bytes` hold.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but what [`LogItem::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let area = Run { addr: r.addr()?, blocks: r.u32()? };
        let half = half(r.u8()?)?;
        let (has_outstanding, damaged) = match r.u8()? {
            0 => (false, false),
            1 => (true, false),
            2 => (true, true),
            _ => return Err(DecodeError::Field("outstanding")),
        };
        if r.u16()? != 0 {
            return Err(DecodeError::Reserved);
        }
        let segment = r.segment()?;
        let sealed_seed = r.sized(SEED_BYTES_MAX)?.to_vec();
        let outstanding = if has_outstanding {
            Some(Outstanding {
                lo: Zeroizing::new(r.array()?),
                incarnation: r.u64()?,
                generation: r.generation()?,
                half: self::half(r.u8()?)?,
                records: r.u64()?,
                damaged,
                need_blocks: r.u64()?,
            })
        } else {
            None
        };
        r.finish()?;
        if area.blocks < 2 || !area.blocks.is_multiple_of(2) {
            return Err(DecodeError::Field("log area"));
        }
        Ok(Self { area, half, segment, sealed_seed, outstanding })
    }

    /// Bytes in one half.
    #[must_use]
    pub fn half_bytes(&self) -> u64 {
        half_run(self.area, 0).blocks as u64 * crate::base::units::BLOCK_SIZE_U64
    }
}

/// The blocks of one half of a log area.
#[must_use]
pub fn half_run(area: Run, half: u8) -> Run {
    let blocks = area.blocks / 2;
    Run { addr: area.addr.plus(u64::from(half) * u64::from(blocks)), blocks }
}

fn half(byte: u8) -> Result<u8, DecodeError> {
    if byte <= 1 { Ok(byte) } else { Err(DecodeError::Field("log half")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::BlockAddr;

    #[test]
    fn items_round_trip_and_refuse_slack() {
        let mut item = LogItem {
            area: Run { addr: BlockAddr(77), blocks: 512 },
            half: 1,
            segment: SegmentId(5),
            sealed_seed: vec![9; 112],
            outstanding: None,
        };
        let outstanding = |damaged| Outstanding {
            lo: Zeroizing::new([3; 32]),
            incarnation: 4,
            generation: Generation(5),
            half: 0,
            records: 6,
            damaged,
            need_blocks: 7,
        };
        for outstanding in [None, Some(outstanding(false)), Some(outstanding(true))] {
            item.outstanding = outstanding;
            let mut bytes = item.encode();
            assert_eq!(LogItem::decode(&bytes).unwrap().encode(), bytes);
            bytes.push(0);
            assert!(LogItem::decode(&bytes).is_err());
        }
    }
}
