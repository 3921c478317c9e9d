//! Blocks: encrypted under a random key used once, authenticated by a keyed hash of the ciphertext.

use std::cell::RefCell;
use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

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
    let (mut data, mut tweak, mut mac) = ([0; 32], [0; 32], BlockKey([0; 32]));
    reader.fill(&mut data);
    reader.fill(&mut tweak);
    reader.fill(&mut mac.0);
    reader.zeroize();
    hasher.zeroize();
    let xts = Xts::new(&data, &tweak);
    data.zeroize();
    tweak.zeroize();
    (xts, mac)
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
