//! Pointers: where a node is, and what opens it (docs/format.md, "Pointer").

use zeroize::Zeroizing;

use crate::base::cursor::{DecodeError, Reader, Writer};
use crate::base::limits::NODE_BLOCKS_MAX;
use crate::base::{BlockAddr, Generation};
use crate::block::Run;
use crate::crypto::{BlockKey, Tag};

/// The way to a block: address, size, birth, and the key and tag that open it. Held only inside a
/// node, a sealed root, or a superblock's sealed payload.
#[derive(Clone, Debug)]
pub struct Pointer {
    /// First block.
    pub addr: BlockAddr,
    /// Where a second copy of the same ciphertext is.
    pub second: Option<BlockAddr>,
    /// Size in blocks.
    pub blocks: u32,
    /// Interval in which it was written.
    pub birth: Generation,
    /// Opens this version of this block and nothing else.
    pub key: BlockKey,
    /// Over the ciphertext.
    pub tag: Tag,
}

impl Pointer {
    /// Bytes of an encoded pointer: address 8, second 8 (0: none), blocks 4, zero 4, birth 8,
    /// key 32, tag 16.
    pub const BYTES: usize = 80;

    /// Appends the encoded pointer.
    pub fn encode(&self, out: &mut Writer) {
        out.bytes(&*self.to_bytes());
    }

    /// The encoded pointer, erased when dropped: it holds the key.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; Self::BYTES]> {
        let mut bytes = Zeroizing::new([0; Self::BYTES]);
        bytes[..8].copy_from_slice(&self.addr.get().to_le_bytes());
        bytes[8..16].copy_from_slice(&self.second.map_or(0, BlockAddr::get).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.birth.get().to_le_bytes());
        bytes[32..64].copy_from_slice(&self.key.0);
        bytes[64..].copy_from_slice(&self.tag.0);
        bytes
    }

    /// Reads an encoded pointer.
    ///
    /// # Errors
    /// [`DecodeError::Short`]; [`DecodeError::Field`] for a null address, no blocks, or more than a
    /// node can have;
    /// [`DecodeError::Reserved`].
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let addr = r.addr()?;
        let second = r.addr()?;
        let blocks = r.u32()?;
        if r.u32()? != 0 {
            return Err(DecodeError::Reserved);
        }
        let birth = r.generation()?;
        let key = BlockKey(r.array()?);
        let tag = Tag(r.array()?);
        if addr.get() == 0 {
            return Err(DecodeError::Field("pointer address"));
        }
        if blocks == 0 || blocks > NODE_BLOCKS_MAX {
            return Err(DecodeError::Field("pointer blocks"));
        }
        let second = (second.get() != 0).then_some(second);
        Ok(Self { addr, second, blocks, birth, key, tag })
    }

    /// The first copy's blocks.
    #[must_use]
    pub const fn run(&self) -> Run {
        Run { addr: self.addr, blocks: self.blocks }
    }

    /// The blocks of every copy.
    pub fn runs(&self) -> impl Iterator<Item = Run> + use<> {
        let blocks = self.blocks;
        [Some(self.addr), self.second].into_iter().flatten().map(move |addr| Run { addr, blocks })
    }
}

/// What opens one 4 KiB block of data: an extent holds one for each of its blocks.
#[derive(Clone, Debug)]
pub struct BlockRef {
    /// Opens this version of this block and nothing else.
    pub key: BlockKey,
    /// Over the ciphertext.
    pub tag: Tag,
}

impl BlockRef {
    /// Bytes of an encoded reference: key 32, tag 16.
    pub const BYTES: usize = 48;

    /// Appends the encoded reference.
    pub fn encode(&self, out: &mut Writer) {
        out.bytes(&self.key.0).bytes(&self.tag.0);
    }

    /// Reads an encoded reference.
    ///
    /// # Errors
    /// [`DecodeError::Short`]
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { key: BlockKey(r.array()?), tag: Tag(r.array()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: Option<BlockAddr>) -> Pointer {
        Pointer {
            addr: BlockAddr(77),
            second,
            blocks: 4,
            birth: Generation(9),
            key: BlockKey([3; 32]),
            tag: Tag([5; 16]),
        }
    }

    #[test]
    fn a_pointer_comes_back_as_it_was_written() {
        for second in [None, Some(BlockAddr(900))] {
            let mut w = Writer::new();
            sample(second).encode(&mut w);
            let bytes = w.into_bytes();
            assert_eq!(bytes.len(), Pointer::BYTES);
            let back = Pointer::decode(&mut Reader::new(&bytes)).unwrap();
            assert_eq!((back.addr, back.second, back.blocks), (BlockAddr(77), second, 4));
            assert_eq!((back.birth, back.key.0, back.tag), (Generation(9), [3; 32], Tag([5; 16])));
            assert_eq!(back.runs().count(), 1 + usize::from(second.is_some()));
        }
    }

    #[test]
    fn a_pointer_that_no_writer_makes_is_refused() {
        let mut w = Writer::new();
        sample(None).encode(&mut w);
        let good = w.into_bytes();
        for (at, value) in [(0, 0), (7, 0xff), (15, 0xff), (16, 0), (18, 1), (20, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Pointer::decode(&mut Reader::new(&bad)).is_err(), "byte {at}");
        }
        assert!(Pointer::decode(&mut Reader::new(&good[..79])).is_err());
    }

    #[test]
    fn no_key_is_printed() {
        assert!(!format!("{:?}", sample(None)).contains('3'), "a key byte shows");
    }
}
