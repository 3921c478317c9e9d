//! Blocks: encrypted under a random key used once, authenticated by a keyed hash of the ciphertext.

use std::cell::RefCell;
use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::base::erase::erase;
use crate::crypto::xts::Xts;
use crate::sys::{SecretBytes, random};

/// The key of one version of one block: 32 random bytes, used once, kept only in its pointer.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct BlockKey(pub [u8; 32]);

impl fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockKey(..)")
    }
}

impl PartialEq for BlockKey {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for BlockKey {}

/// What authenticates a block's ciphertext under its key.
#[derive(Clone, Copy, Default)]
pub struct Tag(pub [u8; 16]);

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:032x})", u128::from_be_bytes(self.0))
    }
}

impl PartialEq for Tag {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Tag {}

/// What a block holds. A block of one kind never opens as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// File contents, 4 KiB.
    Data,
    /// A tree node.
    Node,
    /// A region's map of runs.
    Map,
    /// A page of checksums.
    Crc,
}

impl BlockKind {
    /// `L(kind)` of the construction.
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Data => b"strongroom/1/data\0",
            Self::Node => b"strongroom/1/node\0",
            Self::Map => b"strongroom/1/map\0",
            Self::Crc => b"strongroom/1/crc\0",
        }
    }
}

/// The ciphertext is not what was written under this key, kind and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block's tag does not match")]
pub struct TagMismatch;

/// Bytes of a thread's batch of fresh keys. A call to the kernel per key would cost as much as
/// encrypting the block.
const BATCH_BYTES: usize = 1024;

struct Batch {
    bytes: SecretBytes<BATCH_BYTES>,
    used: usize,
}

thread_local! {
    static BATCH: RefCell<Batch> =
        RefCell::new(Batch { bytes: SecretBytes::zeroed(), used: BATCH_BYTES });
}

impl Batch {
    fn take(&mut self) -> BlockKey {
        if self.used + 32 > BATCH_BYTES {
            random::fill(&mut *self.bytes);
            self.used = 0;
        }
        let mut key = BlockKey([0; 32]);
        let next = &mut self.bytes[self.used..self.used + 32];
        key.0.copy_from_slice(next);
        // Erased as handed out: the only copy is the one in the pointer.
        next.zeroize();
        self.used += 32;
        key
    }
}

/// A fresh random key.
#[must_use]
pub fn new_block_key() -> BlockKey {
    BATCH.with_borrow_mut(Batch::take)
}

/// X1, X2 and M of the construction, from the block's key and kind.
fn expand(key: &BlockKey, kind: BlockKind) -> (Xts, BlockKey) {
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    hasher.update(kind.label());
    let mut reader = hasher.finalize_xof();
    // In one piece: each call would compute its block of output anew.
    let mut keys = [[0; 32]; 3];
    reader.fill(keys.as_flattened_mut());
    reader.zeroize();
    hasher.zeroize();
    let [data, tweak, mac] = &keys;
    let expanded = (Xts::new(data, tweak), BlockKey(*mac));
    erase(keys.as_flattened_mut());
    expanded
}

fn tag_of(mac: &BlockKey, ciphertext: &[u8]) -> Tag {
    let mut tag = Tag([0; 16]);
    let mut hash = blake3::keyed_hash(&mac.0, ciphertext);
    tag.0.copy_from_slice(&hash.as_bytes()[..16]);
    hash.zeroize();
    tag
}

/// Encrypts `buf` in place and returns the tag of its ciphertext.
///
/// # Panics
/// Where `buf` is empty or no multiple of 16 bytes: blocks are 4 KiB and multiples of it.
#[must_use]
pub fn encrypt_block(key: &BlockKey, kind: BlockKind, buf: &mut [u8]) -> Tag {
    assert!(!buf.is_empty(), "a block is not empty");
    #[cfg(any(test, fuzzing))]
    crate::crypto::liar::block(kind, buf);
    let (xts, mac) = expand(key, kind);
    xts.encrypt(0, buf);
    tag_of(&mac, buf)
}

/// Checks the tag of the ciphertext in `buf`, in constant time, then decrypts it in place.
///
/// # Errors
/// [`TagMismatch`]; `buf` still holds the ciphertext then.
///
/// # Panics
/// Where `buf` is no multiple of 16 bytes and the tag matches, which no writer can bring about.
pub fn decrypt_block(
    key: &BlockKey,
    kind: BlockKind,
    buf: &mut [u8],
    tag: &Tag,
) -> Result<(), TagMismatch> {
    let (xts, mac) = expand(key, kind);
    if tag_of(&mac, buf) != *tag {
        return Err(TagMismatch);
    }
    xts.decrypt(0, buf);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const KINDS: [BlockKind; 4] =
        [BlockKind::Data, BlockKind::Node, BlockKind::Map, BlockKind::Crc];

    #[test]
    fn a_block_opens_under_its_own_key_kind_and_tag_only() {
        let (key, plain) = (new_block_key(), [9; 4096]);
        for kind in KINDS {
            let mut ciphertext = plain;
            let tag = encrypt_block(&key, kind, &mut ciphertext);
            for other in KINDS {
                let mut buf = ciphertext;
                assert_eq!(decrypt_block(&key, other, &mut buf, &tag).is_ok(), other == kind);
                assert_eq!(buf, if other == kind { plain } else { ciphertext });
            }
            let mut buf = ciphertext;
            assert_eq!(decrypt_block(&new_block_key(), kind, &mut buf, &tag), Err(TagMismatch));
            assert_eq!(buf, ciphertext, "a refused block is left as it was");
        }
    }

    #[test]
    fn every_flipped_bit_of_block_tag_and_key_is_refused() {
        let key = BlockKey([3; 32]);
        let mut ciphertext = [5; 32];
        let tag = encrypt_block(&key, BlockKind::Node, &mut ciphertext);
        for bit in 0..256 {
            let mut bad = ciphertext;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decrypt_block(&key, BlockKind::Node, &mut bad, &tag).is_err(), "bit {bit}");
            let mut other = key.clone();
            other.0[bit / 8] ^= 1 << (bit % 8);
            let mut buf = ciphertext;
            assert!(decrypt_block(&other, BlockKind::Node, &mut buf, &tag).is_err(), "key {bit}");
            let mut bad_tag = tag;
            bad_tag.0[bit / 8 % 16] ^= 1 << (bit % 8);
            assert!(decrypt_block(&key, BlockKind::Node, &mut buf, &bad_tag).is_err(), "tag {bit}");
        }
        for len in [0, 16, 31] {
            let mut short = ciphertext[..len].to_vec();
            assert!(decrypt_block(&key, BlockKind::Node, &mut short, &tag).is_err());
        }
    }

    #[test]
    fn keys_are_fresh_and_the_batch_forgets_them() {
        let mut seen = HashSet::new();
        for _ in 0..100 {
            assert!(seen.insert(new_block_key().0));
        }
        BATCH.with_borrow(|batch| {
            assert!(batch.used > 0);
            assert!(batch.bytes[..batch.used].iter().all(|b| *b == 0), "handed out and erased");
            assert!(batch.bytes[batch.used..].iter().any(|b| *b != 0), "not yet handed out");
        });
        let theirs = std::thread::spawn(|| new_block_key().0).join().unwrap();
        assert!(seen.insert(theirs), "threads have batches of their own");
    }

    #[test]
    fn nothing_prints_a_key() {
        assert_eq!(format!("{:?}", BlockKey([0xab; 32])), "BlockKey(..)");
        assert_eq!(format!("{:?}", Tag([1; 16])), "Tag(01010101010101010101010101010101)");
    }
}
