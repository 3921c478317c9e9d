//! Keyed hashes of file names: what a tree's separators may hold in place of names.

use zeroize::Zeroize;

use crate::crypto::secret::NameHashKey;

/// The first 8 bytes, little-endian, of BLAKE3 keyed with `key` over the parent's inode number
/// (8 bytes, little-endian) and the name.
#[must_use]
pub fn name_hash(key: &NameHashKey, parent: u64, name: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new_keyed(key.bytes());
    hasher.update(&parent.to_le_bytes());
    hasher.update(name);
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    hasher.zeroize();
    u64::from_le_bytes(first)
}
