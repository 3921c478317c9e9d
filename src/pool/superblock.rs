//! One copy of one superblock slot (docs/format.md, "Superblock").
//!
//! ```text
//! clear     magic 89 "SRM" 0d 0a 1a 0a | version u32 | suite u32 | compat u64 | ro-compat u64
//!           | incompat u64 | pool id (16) | incarnation u64 | index u8 | copy u8 | zero u16
//!           | node bytes u32 | generation u64 | write sequence u64 | epoch id (16)
//!           | total blocks u64 | ring blocks u32 | wraps u32, then each wrap
//! sealed    length u32 | seal(SK, "slot", AD = all clear bytes, payload)
//!           zeros up to 16 KiB - 4 | CRC-32C u32 of everything before
//! payload   catalog root: present u32, pointer (80; zeros: an empty tree)
//!           | ring: head u64, tail u64, last seal id (32), seal id before the tail (32), RG (32)
//!           | LO (32) | shred pending up to u64 | catalog blocks u64
//!           | created i64 (ns since 1970) | extension fields
//! ```

use zeroize::Zeroizing;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::units::BLOCK_SIZE;
use crate::base::{Generation, PoolId, Timestamp, crc, limits};
use crate::block::Pointer;
use crate::block::geometry::Geometry;
use crate::crypto::{self, EngineWrap, LogOuterKey, OpenError, RingKey, SUITE, SlotKey};

/// First bytes of every superblock copy. As in PNG, they show a transfer that changed line ends or
/// cut the high bit.
pub const MAGIC: [u8; 8] = *b"\x89SRM\r\n\x1a\n";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Features that a reader may not know and still read and write.
pub const COMPAT: u64 = 0;
/// Features that a reader must know to write.
pub const RO_COMPAT: u64 = 0;
/// Features that a reader must know to read.
pub const INCOMPAT: u64 = 0;
/// Bytes of one copy.
pub const COPY_BYTES: usize = 4 * BLOCK_SIZE;
/// Slots, and copies of each.
pub const SLOTS: u8 = 2;
/// Copies of each slot.
pub const COPIES: u8 = 2;

const CRC_AT: usize = COPY_BYTES - 4;
const NODE_BYTES_ALLOWED: [u32; 4] = [4096, 8192, 16_384, 32_768];
const PAYLOAD_BYTES_MAX: usize = 8192;

/// Where a copy stands on the device, in bytes.
#[must_use]
pub const fn copy_offset(index: u8, copy: u8) -> u64 {
    // Slot 0, slot 1, then their second copies: neighbours on the medium are not of one slot.
    (copy as u64 * SLOTS as u64 + index as u64) << 20
}

/// The clear part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clear {
    /// Features of each kind.
    pub compat: u64,
    /// See [`RO_COMPAT`].
    pub ro_compat: u64,
    /// See [`INCOMPAT`].
    pub incompat: u64,
    /// The pool.
    pub pool_id: PoolId,
    /// Changes when a rollback is accepted.
    pub incarnation: u64,
    /// Slot: 0 or 1.
    pub index: u8,
    /// Copy of the slot: 0 or 1.
    pub copy: u8,
    /// Bytes in every tree node.
    pub node_bytes: u32,
    /// The checkpoint.
    pub generation: Generation,
    /// Counts superblock writes; the highest valid one is the pool's state.
    pub sequence: u64,
    /// Names the epoch key without which the slot does not open; zeros: none.
    pub epoch_id: [u8; 16],
    /// Where things lie.
    pub geometry: Geometry,
    /// Wraps of the engine key; any one opens the pool.
    pub wraps: Vec<EngineWrap>,
}

/// Where the space ring's records stand.
pub struct RingState {
    /// Position behind the last record, in blocks since the pool was made.
    pub head: u64,
    /// Position of the oldest record that is needed.
    pub tail: u64,
    /// Names the last record.
    pub last: [u8; 32],
    /// Names the record before the tail's.
    pub before_tail: [u8; 32],
    /// Opens the records.
    pub key: RingKey,
}

impl Clone for RingState {
    fn clone(&self) -> Self {
        let (last, before_tail) = (self.last, self.before_tail);
        Self { head: self.head, tail: self.tail, last, before_tail, key: self.key.dup() }
    }
}

/// The sealed part.
pub struct Payload {
    /// The catalog's root; `None` for an empty catalog.
    pub catalog_root: Option<Pointer>,
    /// The space ring.
    pub ring: RingState,
    /// Outer log key of the interval that follows.
    pub lo: LogOuterKey,
    /// What was let go up to this checkpoint still has to be shredded; 0: nothing.
    pub shred_pending: Generation,
    /// Blocks of catalog nodes.
    pub catalog_blocks: u64,
    /// When the pool was made.
    pub created_at: Timestamp,
}

/// Why bytes are no superblock copy of this version.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// No superblock was ever here.
    Nothing,
    /// There was one; its bytes are damaged or torn.
    Damaged,
    /// A later version wrote it.
    TooNew(String),
}

impl Clear {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.bytes(&MAGIC).u32(VERSION).u32(SUITE);
        w.u64(self.compat).u64(self.ro_compat).u64(self.incompat);
        w.bytes(self.pool_id.as_bytes()).u64(self.incarnation);
        w.u8(self.index).u8(self.copy).u16(0).u32(self.node_bytes);
        w.u64(self.generation.get()).u64(self.sequence).bytes(&self.epoch_id);
        w.u64(self.geometry.total_blocks).u32(self.geometry.ring_blocks);
        w.u32(self.wraps.len() as u32);
        for wrap in &self.wraps {
            wrap.encode(&mut w);
        }
        w.into_bytes()
    }

    /// After magic and version.
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.u32()? != SUITE {
            return Err(DecodeError::Field("suite"));
        }
        let (compat, ro_compat, incompat) = (r.u64()?, r.u64()?, r.u64()?);
        let (pool_id, incarnation) = (PoolId(r.array()?), r.u64()?);
        let (index, copy) = (r.u8()?, r.u8()?);
        if r.u16()? != 0 || index >= SLOTS || copy >= COPIES {
            return Err(DecodeError::Field("slot"));
        }
        let node_bytes = r.u32()?;
        let (generation, sequence, epoch_id) = (r.generation()?, r.u64()?, r.array()?);
        let total_blocks = r.u64()?;
        let geometry = Geometry { ring_blocks: r.u32()?, total_blocks };
        if !NODE_BYTES_ALLOWED.contains(&node_bytes) || !geometry.is_valid() {
            return Err(DecodeError::Field("geometry"));
        }
        let count = r.u32()? as usize;
        if count > limits::ENGINE_WRAPS_MAX {
            return Err(DecodeError::Field("wraps"));
        }
        let wraps = (0..count).map(|_| EngineWrap::decode(r)).collect::<Result<_, _>>()?;
        Ok(Self {
            compat,
            ro_compat,
            incompat,
            pool_id,
            incarnation,
            index,
            copy,
            node_bytes,
            generation,
            sequence,
            epoch_id,
            geometry,
            wraps,
        })
    }
}

impl Payload {
    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new();
        w.u32(u32::from(self.catalog_root.is_some()));
        match &self.catalog_root {
            Some(root) => root.encode(&mut w),
            None => {
                w.bytes(&[0; Pointer::BYTES]);
            }
        }
        w.u64(self.ring.head).u64(self.ring.tail).bytes(&self.ring.last);
        w.bytes(&self.ring.before_tail).bytes(self.ring.key.bytes());
        w.bytes(self.lo.bytes()).u64(self.shred_pending.get()).u64(self.catalog_blocks);
        w.i64(self.created_at.ns);
        w.into_secret()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let present = r.u32()?;
        let root = r.bytes(Pointer::BYTES)?;
        let catalog_root = match present {
            0 if root.iter().all(|b| *b == 0) => None,
            1 => Some(Pointer::decode(&mut Reader::new(root))?),
            _ => return Err(DecodeError::Field("catalog root")),
        };
        let (head, tail) = (r.u64()?, r.u64()?);
        if tail > head {
            return Err(DecodeError::Field("ring"));
        }
        let (last, before_tail) = (r.array()?, r.array()?);
        let key = RingKey::from_bytes(&Zeroizing::new(r.array()?));
        let ring = RingState { head, tail, last, before_tail, key };
        let lo = LogOuterKey::from_bytes(&Zeroizing::new(r.array()?));
        let (shred_pending, catalog_blocks) = (r.generation()?, r.u64()?);
        let created_at = Timestamp { ns: r.i64()? };
        r.extensions(|_, _| Ok(false))?;
        Ok(Self { catalog_root, ring, lo, shred_pending, catalog_blocks, created_at })
    }
}

/// The bytes of one copy.
#[must_use]
pub fn encode(clear: &Clear, payload: &Payload, key: &SlotKey) -> Vec<u8> {
    let ad = clear.encode();
    let sealed = crypto::seal(key.bytes(), "slot", &ad, &payload.encode());
    let mut w = Writer::new();
    w.bytes(&ad).sized(&sealed);
    debug_assert!(w.len() <= CRC_AT, "a superblock copy of {} bytes", w.len());
    w.pad_to(CRC_AT);
    let mut bytes = w.into_bytes();
    let sum = crc::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// One copy as read: the clear part, and what the slot key opens.
#[derive(Clone)]
pub struct Copy {
    /// The clear part.
    pub clear: Clear,
    ad: Vec<u8>,
    sealed: Vec<u8>,
}

impl Copy {
    /// Reads a copy's clear part.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut r = Reader::new(bytes);
        if r.array() != Ok(MAGIC) {
            return Err(Unreadable::Nothing);
        }
        let sum = bytes.get(CRC_AT..).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
        if bytes.len() != COPY_BYTES || sum != bytes.get(..CRC_AT).map(crc::crc32c) {
            return Err(Unreadable::Damaged);
        }
        let version = r.u32().map_err(|_| Unreadable::Damaged)?;
        if version != VERSION {
            return Err(Unreadable::TooNew(format!("format version {version}")));
        }
        let unknown = unknown_features(bytes).ok_or(Unreadable::Damaged)?;
        if unknown != 0 {
            return Err(Unreadable::TooNew(format!("features {unknown:#x}")));
        }
        let clear = Clear::decode(&mut r).map_err(|_| Unreadable::Damaged)?;
        let ad_len = bytes.len() - r.remaining();
        let sealed = r.sized(PAYLOAD_BYTES_MAX).map_err(|_| Unreadable::Damaged)?.to_vec();
        let slack = r.bytes(r.remaining().saturating_sub(4)).map_err(|_| Unreadable::Damaged)?;
        if slack.iter().any(|b| *b != 0) {
            return Err(Unreadable::Damaged);
        }
        let ad = bytes.get(..ad_len).ok_or(Unreadable::Damaged)?.to_vec();
        Ok(Self { clear, ad, sealed })
    }

    /// The payload.
    ///
    /// # Errors
    /// [`OpenError`]: another key, or damage.
    pub fn open(&self, key: &SlotKey) -> Result<Payload, OpenError> {
        let plain = crypto::open(key.bytes(), "slot", &self.ad, &self.sealed)?;
        Payload::decode(&plain).map_err(|_| OpenError::Corrupt)
    }
}

/// Incompatible features that this version does not know.
fn unknown_features(bytes: &[u8]) -> Option<u64> {
    let mut r = Reader::new(bytes);
    r.bytes(MAGIC.len() + 4 + 4 + 8 + 8).ok()?;
    r.u64().ok().map(|incompat| incompat & !INCOMPAT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::BlockAddr;
    use crate::crypto::{BlockKey, Tag};
    use proptest::prelude::*;

    fn sample() -> (Clear, Payload, SlotKey) {
        let wrap = EngineWrap {
            kind: crate::crypto::EngineWrapKind::File,
            name: "n".repeat(EngineWrap::NAME_BYTES_MAX),
            kdf: Some(crate::crypto::KdfParams::new()),
            sealed: vec![7; EngineWrap::SEALED_BYTES],
        };
        let clear = Clear {
            compat: COMPAT,
            ro_compat: RO_COMPAT,
            incompat: INCOMPAT,
            pool_id: PoolId([1; 16]),
            incarnation: 2,
            index: 1,
            copy: 0,
            node_bytes: 16_384,
            generation: Generation(9),
            sequence: 11,
            epoch_id: [0; 16],
            geometry: Geometry::for_size(1 << 30),
            wraps: vec![wrap; limits::ENGINE_WRAPS_MAX],
        };
        let root = Pointer {
            addr: BlockAddr(5000),
            second: Some(BlockAddr(6000)),
            blocks: 4,
            birth: Generation(9),
            key: BlockKey([3; 32]),
            tag: Tag([4; 16]),
        };
        let key = RingKey::random();
        let ring = RingState { head: 8, tail: 3, last: [5; 32], before_tail: [6; 32], key };
        let payload = Payload {
            catalog_root: Some(root),
            ring,
            lo: LogOuterKey::random(),
            shred_pending: Generation(0),
            catalog_blocks: 4,
            created_at: Timestamp { ns: 5 },
        };
        (clear, payload, SlotKey::random())
    }

    #[test]
    fn a_full_superblock_fits_and_comes_back() {
        let (clear, payload, key) = sample();
        let bytes = encode(&clear, &payload, &key);
        assert_eq!(bytes.len(), COPY_BYTES);
        let copy = Copy::decode(&bytes).unwrap();
        assert_eq!(copy.clear, clear);
        let back = copy.open(&key).unwrap();
        assert_eq!(*back.encode(), *payload.encode());
        assert!(matches!(copy.open(&SlotKey::random()), Err(OpenError::WrongKey)));
    }

    #[test]
    fn another_copy_number_does_not_open() {
        let (clear, payload, key) = sample();
        let mut copy = Copy::decode(&encode(&clear, &payload, &key)).unwrap();
        let other = Clear { copy: 1, ..clear };
        copy.ad = other.encode();
        assert!(copy.open(&key).is_err());
    }

    #[test]
    fn later_formats_are_told_from_damage() {
        let (clear, payload, key) = sample();
        let resum = |bytes: &mut Vec<u8>| {
            let sum = crc::crc32c(&bytes[..CRC_AT]);
            bytes[CRC_AT..].copy_from_slice(&sum.to_le_bytes());
        };
        let mut version = encode(&clear, &payload, &key);
        version[8] = 2;
        assert_eq!(Copy::decode(&version).err(), Some(Unreadable::Damaged));
        resum(&mut version);
        assert!(matches!(Copy::decode(&version), Err(Unreadable::TooNew(_))));
        let feature = encode(&Clear { incompat: 1 << 40, ..clear }, &payload, &key);
        assert!(matches!(Copy::decode(&feature), Err(Unreadable::TooNew(_))));
        assert_eq!(Copy::decode(&[0; COPY_BYTES]).err(), Some(Unreadable::Nothing));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 12usize..600) {
            let (clear, payload, key) = sample();
            let mut all = encode(&clear, &payload, &key);
            for (i, byte) in bytes.iter().enumerate() {
                all[at + i] = *byte;
            }
            let sum = crc::crc32c(&all[..CRC_AT]);
            all[CRC_AT..].copy_from_slice(&sum.to_le_bytes());
            if let Ok(copy) = Copy::decode(&all) {
                let _ = copy.open(&key);
            }
            let _ = Payload::decode(&bytes);
            let _ = Copy::decode(&bytes);
        }
    }
}
