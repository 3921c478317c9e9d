//! The key and the tag of one block, as a pointer holds them.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Key of one version of one block: 32 random bytes, used once. Erased when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct BlockKey(pub [u8; 32]);

impl fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockKey(..)")
    }
}

/// Tag over a block's ciphertext. Compared in constant time.
#[derive(Clone, Copy, Debug, Eq)]
pub struct Tag(pub [u8; 16]);

impl PartialEq for Tag {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
