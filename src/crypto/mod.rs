//! The construction: block encryption, tags, sealing, derivation, and the types that hold keys.
//!
//! `docs/format.md` specifies every byte. Every block is encrypted under a random key used once,
//! which stands only in the pointer to it ([`encrypt_block`]); every record that opens something is
//! sealed under a derived key ([`seal`], [`derive`]). Primitives: XTS-AES-256, AES-256-GCM-SIV,
//! HKDF-SHA-256, BLAKE3, Argon2id, getrandom(2); no others.
//!
//! It promises that a wrong key and corrupt bytes are told apart, that nothing breaks beyond "equal
//! plaintexts show" should a key repeat (tags are a PRF, seals resist misuse: never raw Poly1305,
//! POLYVAL or GMAC), and that no key is printed or cloned unseen. It must not know where anything
//! stands on a device or who asks.

mod block;
mod derive;
mod engine_wrap;
mod header_keys;
#[cfg(any(test, fuzzing))]
pub mod liar;
mod mac;
mod names;
mod passphrase;
mod seal;
mod secret;
mod wrap;
mod xts;

#[cfg(test)]
mod speed_tests;
#[cfg(test)]
mod vectors;

pub use block::{
    BlockKey, BlockKind, Tag, TagMismatch, decrypt_block, encrypt_block, new_block_key,
};
pub use derive::{
    anchor_key, cluster_key, derive, kek, keyring_kek, log_inner_key, sha256, slot_key,
};
pub use engine_wrap::{EngineWrap, EngineWrapKind};
pub use header_keys::HeaderKeys;
pub use mac::{constant_time_eq, hmac_sha256};
pub use names::name_hash;
pub use passphrase::{KdfError, KdfParams, passphrase_secret};
pub use seal::{OpenError, SEAL_OVERHEAD, Seal, open, seal, seal_id};
pub use secret::{
    ClusterKey, ClusterSecret, EngineKey, HeaderSalt, KeyringFileKey, KeyringSecret, LocalKey,
    LogInnerKey, LogOuterKey, LogSeed, NameHashKey, RingKey, RootSecret, SlotKey,
};
pub use wrap::{FINGERPRINT_BYTES, WRAPPED_BYTES_MAX, Wrap, WrapContext};

/// Number of this construction, in every superblock slot's authenticated clear part: XTS-AES-256,
/// AES-256-GCM-SIV, HKDF-SHA-256, BLAKE3, Argon2id, put together as this room does.
pub const SUITE: u32 = 1;

/// `"strongroom/1/" + label + NUL`: no label is a prefix of another one's.
pub(in crate::crypto) fn label_bytes(label: &str) -> Vec<u8> {
    debug_assert!(!label.as_bytes().contains(&0));
    let mut out = Vec::with_capacity(label.len() + 14);
    out.extend_from_slice(b"strongroom/1/");
    out.extend_from_slice(label.as_bytes());
    out.push(0);
    out
}
