//! Log records: a clear frame, an outer part under the engine's log key, an inner part under the
//! cluster's.
//!
//! ```text
//! frame   magic "SRLOGREC" | outer length u32 | inner length u32 | sequence u64 | zero u64
//!         | C of the previous outer part (32)                                          64 bytes
//! outer   seal(LO, "log-outer", AD = R, claims)
//! inner   seal(LI, "log-inner", AD = R | C of the outer, edits)      (empty in a switch record)
//!         zeros up to a multiple of 4 KiB
//! R       pool id (16) | incarnation u64 | generation u64 | cluster id (16) | sequence u64
//!         | C of the previous outer (32)
//! ```
//! `C` is the commitment that a seal carries behind its salt (crypto.md): bytes 32..64 of it.

use zeroize::Zeroizing;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::ids::{ClusterId, PoolId};
use crate::base::limits;
use crate::base::units::{BLOCK_SIZE, Generation};
use crate::block::Run;
use crate::pool::Kill;
use crate::tree::Key;

/// First bytes of every record.
pub const MAGIC: [u8; 8] = *b"SRLOGREC";
/// Bytes of the clear frame.
pub const FRAME_BYTES: usize = 64;
/// The commitment of the part before the first record of an interval.
pub const NO_PREVIOUS: [u8; 32] = [0; 32];
/// Largest sealed part that a reader accepts: a full record and a generous rest.
const PART_BYTES_MAX: u32 = 4 << 20;

/// The clear frame before a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of the sealed outer part.
    pub outer_len: u32,
    /// Bytes of the sealed inner part.
    pub inner_len: u32,
    /// Number of the record within its interval, from 0.
    pub sequence: u64,
    /// Commitment of the outer part before it.
    pub previous: [u8; 32],
}

impl Frame {
    /// Bytes that the whole record takes on the device.
    #[must_use]
    pub fn padded_bytes(&self) -> u64 {
        let bytes = FRAME_BYTES as u64 + u64::from(self.outer_len) + u64::from(self.inner_len);
        bytes.next_multiple_of(BLOCK_SIZE as u64)
    }

    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(&MAGIC).u32(self.outer_len).u32(self.inner_len).u64(self.sequence).u64(0);
        w.bytes(&self.previous);
        w.into_bytes()
    }

    /// The frame that `bytes` begin with.
    ///
    /// # Errors
    /// [`DecodeError`] where no frame of a record stands there.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        if r.array::<8>()? != MAGIC {
            return Err(DecodeError::Field("log magic"));
        }
        let (outer_len, inner_len, sequence) = (r.u32()?, r.u32()?, r.u64()?);
        if r.u64()? != 0 {
            return Err(DecodeError::Reserved);
        }
        if outer_len > PART_BYTES_MAX || inner_len > PART_BYTES_MAX {
            return Err(DecodeError::Field("log part length"));
        }
        Ok(Self { outer_len, inner_len, sequence, previous: r.array()? })
    }
}

/// What binds a record to its place in one log of one pool.
#[derive(Clone, Copy)]
pub struct RecordPlace {
    /// The pool.
    pub pool: PoolId,
    /// Its incarnation.
    pub incarnation: u64,
    /// The interval.
    pub generation: Generation,
    /// The cluster.
    pub cluster: ClusterId,
    /// Number within the interval.
    pub sequence: u64,
    /// Commitment of the outer part before it.
    pub previous: [u8; 32],
}

impl RecordPlace {
    /// `R`: the associated data of the outer part.
    #[must_use]
    pub fn outer_ad(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(self.pool.as_bytes()).u64(self.incarnation).u64(self.generation.get());
        w.bytes(self.cluster.as_bytes()).u64(self.sequence).bytes(&self.previous);
        w.into_bytes()
    }

    /// `R | C`: the associated data of the inner part.
    #[must_use]
    pub fn inner_ad(&self, commitment: &[u8; 32]) -> Vec<u8> {
        let mut ad = self.outer_ad();
        ad.extend_from_slice(commitment);
        ad
    }
}

/// Blocks that a record claims, with the checksum of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The blocks.
    pub run: Run,
    /// CRC-32C of each block's ciphertext.
    pub crcs: Vec<u32>,
}

/// Ciphertext that rides in the record; recovery puts it in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it belongs.
    pub run: Run,
    /// The blocks' ciphertext.
    pub ciphertext: Vec<u8>,
}

/// Where the log goes on after a cut, under which key.
#[derive(Clone, PartialEq, Eq)]
pub struct Switch {
    /// The interval after the cut.
    pub generation: Generation,
    /// The half in which its log begins.
    pub half: u8,
    /// Its outer key.
    pub lo: Zeroizing<[u8; 32]>,
}

/// The outer part: readable with the engine's log key alone.
#[derive(Clone, Default)]
pub struct Outer {
    /// Records of this interval with a lower sequence had been flushed when this one was written.
    pub flushed_mark: u64,
    /// The durable checkpoint at that time.
    pub durable: Generation,
    /// Blocks that replaying this record may need for tree nodes.
    pub need_blocks: u64,
    /// SHA-256 of the sealed inner part.
    pub inner_hash: [u8; 32],
    /// Blocks it claims.
    pub claims: Vec<Claim>,
    /// Blocks it lets go.
    pub kills: Vec<Kill>,
    /// Ciphertext that is not in its place yet.
    pub images: Vec<Image>,
    /// Present in a switch record only.
    pub switch: Option<Switch>,
}

fn encode_run(w: &mut Writer, run: Run) {
    w.u64(run.addr.get()).u32(run.blocks);
}

fn decode_run(r: &mut Reader<'_>) -> Result<Run, DecodeError> {
    let run = Run { addr: r.addr()?, blocks: r.u32()? };
    let in_range = run.blocks >= 1 && u64::from(run.blocks) <= limits::REGION_BLOCKS;
    if in_range { Ok(run) } else { Err(DecodeError::Field("run length")) }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).expect("a record holds fewer than 2^32 items")
}

impl Outer {
    /// The part's bytes, before sealing.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new();
        w.u64(self.flushed_mark).u64(self.durable.get()).u64(self.need_blocks);
        w.bytes(&self.inner_hash);
        w.u32(count(self.claims.len()));
        for claim in &self.claims {
            encode_run(&mut w, claim.run);
            for crc in &claim.crcs {
                w.u32(*crc);
            }
        }
        w.u32(count(self.kills.len()));
        for kill in &self.kills {
            encode_run(&mut w, kill.run);
            w.u64(kill.birth.get());
        }
        w.u32(count(self.images.len()));
        for image in &self.images {
            encode_run(&mut w, image.run);
            w.bytes(&image.ciphertext);
        }
        match &self.switch {
            None => w.u8(0),
            Some(s) => w.u8(1).u64(s.generation.get()).u8(s.half).bytes(&s.lo[..]),
        };
        w.into_secret()
    }

    /// The part that `bytes` hold.
    ///
    /// # Errors
    /// [`DecodeError`] for anything but what [`Outer::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let mut outer = Self {
            flushed_mark: r.u64()?,
            durable: r.generation()?,
            need_blocks: r.u64()?,
            inner_hash: r.array()?,
            ..Self::default()
        };
        for _ in 0..r.u32()? {
            let run = decode_run(&mut r)?;
            let crcs = (0..run.blocks).map(|_| r.u32()).collect::<Result<_, _>>()?;
            outer.claims.push(Claim { run, crcs });
        }
        for _ in 0..r.u32()? {
            outer.kills.push(Kill { run: decode_run(&mut r)?, birth: r.generation()? });
        }
        for _ in 0..r.u32()? {
            let run = decode_run(&mut r)?;
            let ciphertext = r.bytes(run.blocks as usize * BLOCK_SIZE)?.to_vec();
            outer.images.push(Image { run, ciphertext });
        }
        outer.switch = match r.u8()? {
            0 => None,
            1 => Some(Switch {
                generation: r.generation()?,
                half: match r.u8()? {
                    half @ (0 | 1) => half,
                    _ => return Err(DecodeError::Field("log half")),
                },
                lo: zeroize::Zeroizing::new(r.array()?),
            }),
            _ => return Err(DecodeError::Field("switch")),
        };
        r.finish()?;
        Ok(outer)
    }
}

/// One change of a tree item: a result, complete in itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Which item.
    pub key: Key,
    /// Its new value, or that it is gone.
    pub value: Option<Vec<u8>>,
}

/// Appends one edit in the form that [`decode_edits`] reads.
pub fn encode_edit(w: &mut Writer, edit: &Edit) {
    w.u64(edit.key.object).u8(edit.key.kind).u64(edit.key.offset);
    match &edit.value {
        None => w.u8(0),
        Some(value) => w.u8(1).sized(value),
    };
}

/// The edits of an inner part, in order.
///
/// # Errors
/// [`DecodeError`] for anything but what [`encode_edit`] writes.
pub fn decode_edits(bytes: &[u8]) -> Result<Vec<Edit>, DecodeError> {
    let mut r = Reader::new(bytes);
    let mut edits = Vec::new();
    while r.remaining() > 0 {
        let key = Key { object: r.u64()?, kind: r.u8()?, offset: r.u64()? };
        let value = match r.u8()? {
            0 => None,
            1 => Some(r.sized(limits::LOG_RECORD_BYTES_MAX)?.to_vec()),
            _ => return Err(DecodeError::Field("edit")),
        };
        edits.push(Edit { key, value });
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::BlockAddr;

    fn outer() -> Outer {
        let run = Run { addr: BlockAddr(70_000), blocks: 2 };
        Outer {
            flushed_mark: 1,
            durable: Generation(2),
            need_blocks: 3,
            inner_hash: [4; 32],
            claims: vec![Claim { run, crcs: vec![5, 6] }],
            kills: vec![Kill { run, birth: Generation(7) }],
            images: vec![Image { run, ciphertext: vec![8; 2 * BLOCK_SIZE] }],
            switch: Some(Switch {
                generation: Generation(9),
                half: 1,
                lo: zeroize::Zeroizing::new([10; 32]),
            }),
        }
    }

    #[test]
    fn every_part_round_trips() {
        let bytes = outer().encode();
        assert_eq!(Outer::decode(&bytes).unwrap().encode(), bytes);
        let frame = Frame { outer_len: 1, inner_len: 2, sequence: 3, previous: [4; 32] };
        assert_eq!(frame.encode().len(), FRAME_BYTES);
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        let edits = vec![
            Edit { key: Key { object: 1, kind: 2, offset: 3 }, value: Some(vec![4, 5]) },
            Edit { key: Key { object: 6, kind: 7, offset: 8 }, value: None },
        ];
        let mut w = Writer::new();
        edits.iter().for_each(|e| encode_edit(&mut w, e));
        assert_eq!(decode_edits(&w.into_bytes()).unwrap(), edits);
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_makes_the_decoder_panic() {
        let bytes = outer().encode();
        for end in 0..bytes.len().min(400) {
            assert!(Outer::decode(&bytes[..end]).is_err());
        }
        for at in (0..bytes.len()).step_by(7) {
            let mut bad = bytes.clone();
            bad[at] ^= 0xff;
            let _ = Outer::decode(&bad);
        }
    }
}
